//! Images: what a file is, the chain it belongs to, and opening both without ever damaging one.
//!
//! ```text
//!   config::Layer ...  --open_backing-->  Backing: frozen layers, watches, identity
//!                                            |
//!   path of an overlay --open_overlay / create_overlay--> OpenedOverlay: top, index, lock
//! ```
//!
//! 1. Backing files are opened read-only and under a shared lock; overlays under an exclusive one.
//! 2. Nothing is opened because an image names it: a parent's path in an image is a hint for
//!    messages. What lies below an overlay is what the caller says, and it must be what the image
//!    recorded.
//! 3. An overlay appears under its name whole or not at all, and never replaces anything.

mod backing;
mod binding;
mod commit_log;
mod formats;
mod identity;
mod merging;
mod name;
mod notes;
mod overlay;
mod parent;
mod report;
mod sparse;
mod staged;
#[cfg(test)]
pub(crate) mod tests;
mod text;

pub use backing::{Backing, open_backing};
pub use binding::{Binding, ParentRecord, binding_path};
pub use commit_log::{
    CommitLog, Repeated, Repeats, enter_left, entered_words, go_on_without, repeat, repeat_into,
};
pub use formats::{Format, FormatOptions, detect};
pub use identity::{full_hash, same_content};
pub use merging::KeepOverlay;
pub use name::{ImageFile, ImageKeys, ImageName};
pub use notes::{NoteId, NoteLog, default_notes_directory};
pub use overlay::{Core, OpenedOverlay, OverlayOptions, begin_log, create_overlay, open_overlay};
pub use report::{CheckReport, Finding, Progress};

pub(crate) use formats::Creation;
pub(crate) use identity::{identity_of, mtime_of};
pub(crate) use merging::{
    Journal, NewJournal, merging_words, refuse_marked, refuse_merging, unmark,
};
pub(crate) use overlay::{
    NewOverlay, begin_image, make_overlay, overlay_options, refuse_itself, with_content,
};
pub(crate) use parent::{Below, Candidate, Known, Recorded, mismatch_words, part_of};
pub(crate) use report::Facts;
pub(crate) use text::{bytes as bytes_text, line};
