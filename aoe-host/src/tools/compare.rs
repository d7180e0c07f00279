//! `cowblade compare`: whether two disks have the same content.

use core::fmt;

use cow_core::units::{Extent, SECTOR_BYTES, SECTOR_LEN};
use serde::Serialize;

use super::chain::Gate;
use super::source::{ChainName, Memory, Piece, Source};
use crate::error::Result;
use crate::image::{Progress, bytes_text};

/// Sectors compared at a time: 1 MiB.
const CHUNK_SECTORS: u64 = 2048;

/// What [`compare`] is to do.
#[derive(Clone, Debug, Default)]
pub struct CompareRequest {
    /// A disk.
    pub first: ChainName,
    /// Another one.
    pub second: ChainName,
    /// Whether the names that images record are followed.
    pub gate: Gate,
    /// Disks of different size differ. Otherwise a disk is as good as a longer one that ends with zeros.
    pub strict: bool,
}

/// What [`compare`] found.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Compared {
    /// They have the same content.
    pub is_equal: bool,
    /// The first sector that differs.
    pub first_difference: Option<u64>,
    /// Sizes of the two disks in bytes.
    pub sizes: (u64, u64),
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (a, b) = self.sizes;
        match self.first_difference {
            Some(sector) => {
                let byte = sector.saturating_mul(SECTOR_BYTES);
                write!(f, "different from sector {sector} on (byte {byte})")
            }
            None if !self.is_equal => write!(
                f,
                "different in size: {} and {}; what both have is the same",
                bytes_text(a),
                bytes_text(b)
            ),
            None if a == b => write!(f, "equal: {}", bytes_text(a)),
            None => {
                write!(f, "equal, but for {} of zeros at the end of one", bytes_text(a.abs_diff(b)))
            }
        }
    }
}

/// Compares two disks up to the first difference.
///
/// # Errors
/// A chain that cannot be read, or was changed meanwhile.
pub fn compare(request: &CompareRequest, progress: &mut Progress<'_>) -> Result<Compared> {
    let (mut memory_a, mut memory_b) = (Memory::new(), Memory::new());
    let mut a = Source::open(&mut memory_a, &request.first, &request.gate)?;
    let mut b = Source::open(&mut memory_b, &request.second, &request.gate)?;
    let sizes = (a.sectors(), b.sectors());
    let both = if request.strict { sizes.0.min(sizes.1) } else { sizes.0.max(sizes.1) };
    let first_difference = first_difference(&mut a, &mut b, both, progress)?;
    a.check_unchanged()?;
    b.check_unchanged()?;
    let same_size = !request.strict || sizes.0 == sizes.1;
    Ok(Compared {
        is_equal: first_difference.is_none() && same_size,
        first_difference,
        sizes: (sizes.0.saturating_mul(SECTOR_BYTES), sizes.1.saturating_mul(SECTOR_BYTES)),
    })
}

/// The first sector below `end` that differs. Behind their ends both are zeros.
pub(super) fn first_difference(
    a: &mut Source<'_>,
    b: &mut Source<'_>,
    end: u64,
    progress: &mut Progress<'_>,
) -> Result<Option<u64>> {
    let (mut bytes_a, mut bytes_b) = (Vec::new(), Vec::new());
    let mut rest = Extent::new(0, end).unwrap_or(Extent::EMPTY);
    let total = rest.bytes();
    while !rest.is_empty() {
        let (in_a, in_b) = (next(a, rest)?, next(b, rest)?);
        let mut sectors = in_a.extent().sectors().min(in_b.extent().sectors());
        if !matches!((in_a, in_b), (Piece::Zeros(_), Piece::Zeros(_))) {
            sectors = sectors.min(CHUNK_SECTORS);
            fill(a, in_a, sectors, &mut bytes_a)?;
            fill(b, in_b, sectors, &mut bytes_b)?;
            if bytes_a != bytes_b {
                let pairs = bytes_a.chunks(SECTOR_LEN).zip(bytes_b.chunks(SECTOR_LEN));
                let same = pairs.take_while(|(a, b)| a == b).count() as u64;
                return Ok(Some(rest.start().get().saturating_add(same)));
            }
        }
        rest = rest.skip(sectors);
        progress(total.saturating_sub(rest.bytes()), total);
    }
    Ok(None)
}

fn next(source: &mut Source<'_>, rest: Extent) -> Result<Piece> {
    let at = rest.start().get();
    if at >= source.sectors() {
        return Ok(Piece::Zeros(rest));
    }
    source.piece(at, CHUNK_SECTORS)
}

fn fill(source: &mut Source<'_>, piece: Piece, sectors: u64, bytes: &mut Vec<u8>) -> Result<()> {
    let extent = piece.extent().take(sectors);
    bytes.resize(usize::try_from(extent.bytes()).unwrap_or(0), 0);
    match piece {
        Piece::Data(_) => source.read(extent.start(), bytes),
        Piece::Zeros(_) => {
            bytes.fill(0);
            Ok(())
        }
    }
}
