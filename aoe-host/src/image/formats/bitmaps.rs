//! What the formats with a bitmap and identity-mapped data have in common in the host.

use cow_core::format::Top;
use cow_core::format::bitmap::{Finding, Geometry, Report, Writable, data_sectors};
use cow_core::units::SECTOR_BYTES;

use super::TopImage;
use crate::error::Result;
use crate::image::binding::Binding;
use crate::image::identity::scratch_page;
use crate::image::name::ImageFile;
use crate::image::parent::Below;
use crate::image::report::CheckReport;
use crate::image::sparse::Sparse;
use crate::storage::FileStorage;

/// Counts the sectors that an image holds; `bitmap` is the file with the bits.
pub(super) fn count(bitmap: &FileStorage, geometry: &Geometry) -> Result<u64> {
    Ok(data_sectors(&Sparse::new(bitmap), geometry, &mut scratch_page())?)
}

/// An overlay for the engine; its file beside it, which names its content for notes, is made if it is
/// not there.
pub(super) fn overlay(
    file: &ImageFile,
    below: &Below,
    top: Writable,
    (used, was_clean): (u64, bool),
) -> Result<TopImage> {
    let binding = Binding::of_overlay(&file.main, below)?;
    Ok(TopImage {
        used,
        sectors: top.geometry().sectors(),
        top: Top::Bitmap(top),
        index: Vec::new(),
        label: String::new(),
        note_id: binding.note_id(&file.main),
        was_clean,
        discards_to_zeros: false,
    })
}

/// Passes findings on.
pub(super) fn finding(report: &mut CheckReport, finding: Finding) {
    report.found(finding.is_damage(), finding.to_string());
}

/// What a check counted.
pub(super) fn counted(report: &mut CheckReport, counts: &Report) {
    report.data_bytes = counts.data_sectors.saturating_mul(SECTOR_BYTES);
}

#[cfg(test)]
#[path = "bitmaps_tests.rs"]
mod tests;
