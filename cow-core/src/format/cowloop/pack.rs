//! Packed cowfiles: the same head and bitmap, and behind them only the units that are there.

use super::error::PackError;
use super::head::{Head, UNIT};
use super::image::{Opened, put_head};
use crate::format::bitmap::Runs;
use crate::pages::{PAGE_LEN, Page};
use crate::storage::{ReadStorage, Storage};

/// Makes a packed copy of an opened cowfile in an empty storage. A copy that was cut short has no
/// head.
///
/// # Errors
/// [`PackError`]; [`PackError::Form`] if it is packed already.
pub fn pack<S: ReadStorage, T: Storage>(
    source: &S,
    opened: &Opened,
    target: &mut T,
    scratch: &mut [Page; 2],
) -> Result<(), PackError<S::Error, T::Error>> {
    if opened.is_packed() {
        return Err(PackError::Form);
    }
    let len = opened.head.data_offset.saturating_add(opened.used.saturating_mul(UNIT));
    copy(source, opened, target, &opened.head.with_packed(true).clean(opened.used), len, scratch)
}

/// Makes a cowfile that can be written to of an opened packed one, in an empty storage: the one
/// that was packed. A copy that was cut short has no head.
///
/// # Errors
/// [`PackError`]; [`PackError::Form`] if it is not packed.
pub fn unpack<S: ReadStorage, T: Storage>(
    source: &S,
    opened: &Opened,
    target: &mut T,
    scratch: &mut [Page; 2],
) -> Result<(), PackError<S::Error, T::Error>> {
    if !opened.is_packed() {
        return Err(PackError::Form);
    }
    let head = opened.head.with_packed(false).clean(opened.used);
    // Without data a cowfile ends with its bitmap; otherwise behind the last unit.
    let len = UNIT.saturating_add(head.map_len);
    copy(source, opened, target, &head, len, scratch)
}

fn copy<S: ReadStorage, T: Storage>(
    source: &S,
    opened: &Opened,
    target: &mut T,
    head: &Head,
    len: u64,
    [map, data]: &mut [Page; 2],
) -> Result<(), PackError<S::Error, T::Error>> {
    target.extend(len).map_err(PackError::Target)?;
    let bitmap_end = UNIT.saturating_add(opened.geometry.bitmap_len());
    copy_range(source, target, UNIT, UNIT, bitmap_end.saturating_sub(UNIT), data)?;
    let (geometry, mut packed_at) = (opened.geometry, opened.head.data_offset);
    let mut runs = Runs::new(geometry);
    while let Some((extent, place)) = runs.next(source, map).map_err(PackError::Source)? {
        let bytes = extent.bytes();
        let (from, to) = if opened.is_packed() { (packed_at, place) } else { (place, packed_at) };
        // What the source lacks at its end is zeros.
        let have = opened.len.saturating_sub(from).min(bytes);
        target.extend(to.saturating_add(bytes)).map_err(PackError::Target)?;
        copy_range(source, target, from, to, have, data)?;
        packed_at = packed_at.saturating_add(bytes);
    }
    target.sync().map_err(PackError::Target)?;
    put_head(target, head).map_err(PackError::Target)?;
    target.sync().map_err(PackError::Target)
}

fn copy_range<S: ReadStorage, T: Storage>(
    source: &S,
    target: &mut T,
    from: u64,
    to: u64,
    len: u64,
    data: &mut Page,
) -> Result<(), PackError<S::Error, T::Error>> {
    let mut done = 0_u64;
    while done < len {
        let here = usize::try_from(len.saturating_sub(done)).unwrap_or(PAGE_LEN).min(PAGE_LEN);
        let Some(piece) = data.as_bytes_mut().get_mut(..here) else { return Ok(()) };
        source.read_at(from.saturating_add(done), piece).map_err(PackError::Source)?;
        target.write_at(to.saturating_add(done), piece).map_err(PackError::Target)?;
        done = done.saturating_add(here as u64);
    }
    Ok(())
}
