//! What the image commands do: `create`, `info`, `check`, `map`, `rollback`, `freeze`, `rebind`.
//!
//! Every function takes plain values and returns a report that prints itself for a person
//! (`Display`) and for a program (`Serialize`). None asks a question; whoever calls does.
//!
//! 1. A command that changes an image takes its lock first and looks at everything that could be
//!    refused before it writes.
//! 2. A parent's path that an image names is followed only with [`Gate::Open`], read-only, and never
//!    into anything but a file or block device.

mod chain;
mod change;
mod check;
mod create;
mod info;
mod map;
mod progress;
mod rebind;
#[cfg(test)]
mod tests;
mod text;

pub use chain::{Gate, ParentReport, ParentState};
pub use change::{Frozen, RolledBack, freeze, rollback};
pub use check::{CheckReport, Finding, check};
pub use create::{CreateRequest, Created, DEFAULT_CHUNK_SECTORS, NewFormat, create};
pub use info::{DmSnapshotInfo, Info, NativeInfo, info};
pub use map::{MapKind, MapRequest, MapRun, MapSummary, map};
pub use progress::Progress;
pub use rebind::{Proof, RebindRequest, Rebound, rebind};
