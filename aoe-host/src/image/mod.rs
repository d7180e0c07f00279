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
mod detect;
mod explain;
mod identity;
mod notes;
mod overlay;
mod sparse;
mod staged;
#[cfg(test)]
pub(crate) mod tests;

pub use backing::{Backing, open_backing};
pub use binding::{Binding, ParentRecord, binding_path};
pub use detect::{Format, ImageName, detect};
pub use identity::{full_hash, same_content};
pub use notes::{NoteId, NoteLog, default_notes_directory};
pub use overlay::{Core, OpenedOverlay, OverlayOptions, create_overlay, open_overlay};

pub(crate) use backing::{Below, load_store};
pub(crate) use explain::{
    dm_open_failed, mismatch_words, native_open_failed, native_update_failed,
};
pub(crate) use identity::{identity_of, random_layer_id, scratch_page};
pub(crate) use overlay::{
    NewFormat, NewOverlay, count_data, make_overlay, overlay_options, with_content,
};
pub(crate) use sparse::Sparse;
