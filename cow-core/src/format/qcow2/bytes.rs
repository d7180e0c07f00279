//! Big-endian fields at an offset: the alphabet of the header and the tables.
//!
//! A field that is not wholly inside reads as 0 and is not written. Callers have checked lengths
//! where that would matter.

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>);
    field.map_or(0, |field| u32::from_be_bytes(*field))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>);
    field.map_or(0, |field| u64::from_be_bytes(*field))
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk::<2>);
    field.map_or(0, |field| u16::from_be_bytes(*field))
}

pub(super) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(field) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<4>) {
        *field = value.to_be_bytes();
    }
}

pub(super) fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    if let Some(field) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<8>) {
        *field = value.to_be_bytes();
    }
}

/// Entry number `index` of a table of 8-byte entries.
pub(super) fn entry(table: &[u8], index: u64) -> u64 {
    usize::try_from(index).map_or(0, |index| u64_at(table, index.saturating_mul(8)))
}

/// Replaces entry number `index` of a table of 8-byte entries.
pub(super) fn put_entry(table: &mut [u8], index: u64, value: u64) {
    if let Ok(index) = usize::try_from(index) {
        put_u64(table, index.saturating_mul(8), value);
    }
}
