//! Writing what an overlay holds into the disk below it.

use cow_core::units::{Extent, SECTOR_BYTES};

use crate::error::Result;
use crate::image::Progress;
use crate::tools::disk::WriteDisk;
use crate::tools::parts::{Content, Part, data_and_zeros};
use crate::tools::source::{Source, Where};

/// Sectors read at a time: 1 MiB.
const CHUNK_SECTORS: u64 = 2048;

/// Sectors written between two times that progress is made durable: 256 MiB.
pub(super) const CHECKPOINT_SECTORS: u64 = 256 << 11;

/// What an overlay holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Held {
    /// Sectors with data.
    pub(super) data: u64,
    /// Sectors that it makes zeros.
    pub(super) zeros: u64,
    /// The sector behind the last one that it holds.
    pub(super) end: u64,
}

/// Looks at all metadata of an overlay, and changes nothing: damage is found before it matters.
pub(super) fn measure(top: &mut Source<'_>) -> Result<Held> {
    let mut held = Held::default();
    let mut rest = Extent::new(0, top.sectors()).unwrap_or(Extent::EMPTY);
    while !rest.is_empty() {
        let (place, sectors) = top.locate(rest)?;
        let part = rest.take(sectors);
        match place {
            Where::Nowhere => {}
            Where::Data => held.data = held.data.saturating_add(part.sectors()),
            Where::Zeros => held.zeros = held.zeros.saturating_add(part.sectors()),
        }
        if place != Where::Nowhere {
            held.end = part.end().get();
        }
        rest = rest.skip(part.sectors());
    }
    Ok(held)
}

/// Remembers a part of a merge, so that it need not be done again.
pub(super) struct Checkpoint<'a> {
    /// Sectors written between two.
    pub(super) every: u64,
    /// Is told the sector up to which the disk is complete and durable.
    pub(super) save: &'a mut dyn FnMut(u64) -> Result<()>,
}

/// Writes what `top`, an overlay by itself, holds from sector `from` on into `disk`, which is what lies
/// below it. Doing it twice, or twice in part, is the same as doing it once. Zeros are written only over
/// what is not zero [COW 1.6].
///
/// # Errors
/// The media's, and what `checkpoint` meets; the disk then holds a part.
pub(super) fn fold(
    top: &mut Source<'_>,
    disk: &mut dyn WriteDisk,
    from: u64,
    checkpoint: &mut Checkpoint<'_>,
    progress: &mut Progress<'_>,
) -> Result<()> {
    let whole = Extent::new(0, top.sectors()).unwrap_or(Extent::EMPTY);
    let total = whole.sectors().saturating_mul(SECTOR_BYTES);
    let mut rest = whole.from(from);
    let mut bytes = Vec::new();
    let mut parts = Vec::new();
    let mut since = 0_u64;
    while !rest.is_empty() {
        let (place, sectors) = top.locate(rest)?;
        let mut part = rest.take(sectors);
        match place {
            Where::Nowhere => {}
            Where::Zeros => disk.make_zero(part)?,
            Where::Data => {
                part = part.take(CHUNK_SECTORS);
                bytes.resize(usize::try_from(part.bytes()).unwrap_or(0), 0);
                top.read(part.start(), &mut bytes)?;
                data_and_zeros(part.start().get(), &bytes, &mut parts);
                put(disk, part, &bytes, &parts)?;
                since = since.saturating_add(part.sectors());
            }
        }
        rest = rest.skip(part.sectors());
        let done = rest.start().get();
        if since >= checkpoint.every {
            disk.make_durable()?;
            (checkpoint.save)(done)?;
            since = 0;
        }
        progress(done.saturating_mul(SECTOR_BYTES), total);
    }
    Ok(())
}

fn put(disk: &mut dyn WriteDisk, extent: Extent, bytes: &[u8], parts: &[Part]) -> Result<()> {
    for part in parts {
        let at = extent.skip(part.from as u64).take(part.sectors as u64);
        match part.content {
            Content::Data => disk.write(at.start(), part.of(bytes))?,
            Content::Zeros => disk.make_zero(at)?,
            Content::Same => {}
        }
    }
    Ok(())
}
