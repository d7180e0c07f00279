//! What the image commands do: `create`, `info`, `check`, `map`, `rollback`, `freeze`, `rebind`.
//!
//! Every function takes plain values and returns a report that prints itself for a person
//! (`Display`) and for a program (`Serialize`). None asks a question; whoever calls does.
//!
//! 1. A command that changes an image takes its lock first and looks at everything that could be
//!    refused before it writes.
//! 2. A parent's path that an image names is followed as far as a [`Gate`] lets it, read-only, and
//!    never into anything but a file or block device.

mod chain;
mod change;
mod check;
mod compare;
mod convert;
#[cfg(test)]
mod copy_tests;
mod create;
mod disk;
mod info;
mod map;
mod merge;
mod order;
mod parts;
mod pump;
mod rebase;
mod rebind;
mod snapshot;
mod source;
#[cfg(test)]
mod tests;

pub(crate) use chain::parents;
pub use chain::{Gate, ParentReport, ParentState};
pub use change::{Frozen, RolledBack, freeze, rollback};
pub use check::{Repairs, check, check_chain, repair, repair_without_log};
pub use compare::{CompareRequest, Compared, compare};
pub use convert::{ConvertRequest, Converted, convert};
pub use create::{CreateRequest, Created, create};
pub use info::{Info, info, info_of_chain};
pub use map::{MapKind, MapRequest, MapRun, MapSummary, map};
pub use merge::{MergeRequest, Merged, is_merge_cut, merge};
pub(crate) use order::{is_base_first, turned_words};
pub use rebase::{RebaseRequest, Rebased, rebase};
pub use rebind::{Proof, RebindRequest, Rebound, rebind};
pub use snapshot::{Snapshot, SnapshotRequest, snapshot};
pub use source::ChainName;

pub use crate::image::{CheckReport, Finding, KeepOverlay, Progress};
