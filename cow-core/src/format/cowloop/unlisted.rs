//! Data without a bit. The driver writes bits when it closes a file, and after a crash believes
//! whatever is not zero; so what lies in a cowfile and was not written has to be zero.

use super::head::UNIT;
use crate::format::bitmap::{Geometry, bits, read_page};
use crate::pages::{PAGE_LEN, Page};
use crate::storage::{ReadStorage, Storage};

/// Bits of the bitmap in page `page` that stand for units of which the file has at least a byte.
fn bits_here(geometry: &Geometry, page: u64, len: u64) -> usize {
    let held = len.saturating_sub(geometry.data_offset()).div_ceil(UNIT).min(geometry.units());
    let left = held.saturating_sub(first_unit(page));
    usize::try_from(left).unwrap_or(bits::PAGE_BITS).min(bits::PAGE_BITS)
}

const fn first_unit(page: u64) -> u64 {
    page.saturating_mul(bits::PAGE_BITS as u64)
}

fn unit_offset(geometry: &Geometry, page: u64, bit: usize) -> u64 {
    let unit = first_unit(page).saturating_add(bit as u64);
    geometry.data_offset().saturating_add(unit.saturating_mul(UNIT))
}

/// The first bit from `from` on that is not set although its unit is not zero.
fn next<S: ReadStorage>(
    storage: &S,
    (geometry, len): (&Geometry, u64),
    page: u64,
    mut from: usize,
    map: &[u8; PAGE_LEN],
    data: &mut Page,
) -> Result<Option<usize>, S::Error> {
    let end = bits_here(geometry, page, len);
    while from < end {
        let (set, run) = bits::run(map, from, end.saturating_sub(from));
        if set {
            from = from.saturating_add(run.max(1));
            continue;
        }
        let units = run.clamp(1, PAGE_LEN / 1024);
        let at = unit_offset(geometry, page, from);
        let bytes = len.saturating_sub(at).min((units as u64).saturating_mul(UNIT));
        let here = usize::try_from(bytes).unwrap_or(PAGE_LEN);
        let Some(piece) = data.as_bytes_mut().get_mut(..here) else { return Ok(None) };
        storage.read_at(at, piece)?;
        let found = piece.chunks(1024).position(|unit| unit.iter().any(|byte| *byte != 0));
        if let Some(found) = found {
            return Ok(Some(from.saturating_add(found)));
        }
        from = from.saturating_add(units);
    }
    Ok(None)
}

/// How many units have data but no bit in a file of `len` bytes.
pub(super) fn count<S: ReadStorage>(
    storage: &S,
    geometry: &Geometry,
    len: u64,
    [map, data]: &mut [Page; 2],
) -> Result<u64, S::Error> {
    let mut found = 0_u64;
    for page in 0..geometry.pages() {
        read_page(storage, geometry, page, map)?;
        let mut from = 0;
        while let Some(bit) = next(storage, (geometry, len), page, from, map.as_bytes(), data)? {
            found = found.saturating_add(1);
            from = bit.saturating_add(1);
        }
    }
    Ok(found)
}

/// Gives them their bits, and the last one of a file that ends within it its missing bytes; how many.
pub(super) fn list<S: Storage>(
    storage: &mut S,
    geometry: &Geometry,
    len: u64,
    [map, data]: &mut [Page; 2],
) -> Result<u64, S::Error> {
    let mut listed = 0_u64;
    for page in 0..geometry.pages() {
        read_page(storage, geometry, page, map)?;
        let (mut from, before) = (0, listed);
        while let Some(bit) = next(storage, (geometry, len), page, from, map.as_bytes(), data)? {
            storage.extend(unit_offset(geometry, page, bit).saturating_add(UNIT))?;
            bits::set(map.as_bytes_mut(), bit, 1);
            listed = listed.saturating_add(1);
            from = bit.saturating_add(1);
        }
        if let Some((offset, bytes)) = geometry.page_range(page).filter(|_| listed > before) {
            let bytes = usize::try_from(bytes).unwrap_or(PAGE_LEN);
            storage.write_at(offset, map.as_bytes().get(..bytes).unwrap_or_default())?;
        }
    }
    Ok(listed)
}

/// Makes them zero.
pub(super) fn wipe<S: Storage>(
    storage: &mut S,
    geometry: &Geometry,
    len: u64,
    [map, data]: &mut [Page; 2],
) -> Result<(), S::Error> {
    for page in 0..geometry.pages() {
        read_page(storage, geometry, page, map)?;
        let mut from = 0;
        while let Some(bit) = next(storage, (geometry, len), page, from, map.as_bytes(), data)? {
            let at = unit_offset(geometry, page, bit);
            storage.zero_at(at, len.saturating_sub(at).min(UNIT))?;
            from = bit.saturating_add(1);
        }
    }
    storage.sync()
}
