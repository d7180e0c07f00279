//! Requests in, operations out, completions back. (Being written.)

use crate::units::Extent;

/// A mapping that was made but not yet published; see `format::Overlay::adopt`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Note {
    /// The sectors.
    pub extent: Extent,
    /// Byte offset of their data in the overlay's storage; `None` for zeros.
    pub offset: Option<u64>,
}
