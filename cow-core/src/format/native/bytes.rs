//! Little-endian fields one after the other, and CRC32C: the alphabet of headers and pages.

use crc::{CRC_32_ISCSI, Crc, Table};

use crate::pages::PAGE_LEN;

/// CRC32C (Castagnoli), sixteen bytes per round: a page is checked on every load.
const CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);
static TABLES: &[[u32; 256]; 16] = CRC32C.table();

/// Where headers and pages keep their checksum.
const CRC_AT: usize = 8;
const CRC_LEN: usize = 4;

/// The tables are the `crc` crate's; the loop is ours because that crate's indexes its input in a
/// way that leaves a panic path.
fn crc32c_update(mut crc: u32, bytes: &[u8]) -> u32 {
    let [t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, ta, tb, tc, td, te, tf] = TABLES;
    // Always in bounds, so the fallback costs nothing.
    let at = |table: &[u32; 256], byte: u8| table.get(usize::from(byte)).copied().unwrap_or(0);
    let (rounds, rest) = bytes.as_chunks::<16>();
    for &[b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, ba, bb, bc, bd, be, bf] in rounds {
        let [c0, c1, c2, c3] = crc.to_le_bytes();
        crc = at(tf, b0 ^ c0) ^ at(te, b1 ^ c1) ^ at(td, b2 ^ c2) ^ at(tc, b3 ^ c3);
        crc ^= at(tb, b4) ^ at(ta, b5) ^ at(t9, b6) ^ at(t8, b7);
        crc ^= at(t7, b8) ^ at(t6, b9) ^ at(t5, ba) ^ at(t4, bb);
        crc ^= at(t3, bc) ^ at(t2, bd) ^ at(t1, be) ^ at(t0, bf);
    }
    for &byte in rest {
        let [low, ..] = crc.to_le_bytes();
        crc = at(t0, byte ^ low) ^ (crc >> 8);
    }
    crc
}

/// CRC32C of a header or page slot, its own checksum field left out.
pub(super) fn slot_crc(slot: &[u8; PAGE_LEN]) -> u32 {
    let (before, rest) = slot.split_at_checked(CRC_AT).unwrap_or((slot, &[]));
    let (_field, after) = rest.split_at_checked(CRC_LEN).unwrap_or((rest, &[]));
    !crc32c_update(crc32c_update(u32::MAX, before), after)
}

/// Puts the checksum into a slot whose other bytes are final.
pub(super) fn stamp_crc(slot: &mut [u8; PAGE_LEN]) {
    let crc = slot_crc(slot);
    for (to, from) in slot.iter_mut().skip(CRC_AT).zip(crc.to_le_bytes()) {
        *to = from;
    }
}

/// True if every byte is zero.
pub(super) fn is_zero(slot: &[u8; PAGE_LEN]) -> bool {
    slot.as_chunks::<8>().0.iter().all(|word| *word == [0; 8])
}

/// Takes fields off the front of a slot.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    pub(super) fn slice(&mut self, len: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(field)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }
}

/// Puts fields at the front of a slot; what does not fit is dropped (sizes are constants).
pub(super) struct Writer<'a>(pub(super) &'a mut [u8]);

impl Writer<'_> {
    /// `field`, then zeros up to `len` bytes.
    pub(super) fn padded(&mut self, field: &[u8], len: usize) {
        let whole = core::mem::take(&mut self.0);
        let Some((target, rest)) = whole.split_at_mut_checked(len) else { return };
        target.fill(0);
        for (to, from) in target.iter_mut().zip(field) {
            *to = *from;
        }
        self.0 = rest;
    }

    pub(super) fn bytes(&mut self, field: &[u8]) {
        self.padded(field, field.len());
    }

    /// Zeros up to the end.
    pub(super) fn finish(self) {
        self.0.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_crc32c() {
        // The check value of the catalogue, and the all-zero and all-one vectors of [RFC 3720 B.4].
        assert_eq!(!crc32c_update(u32::MAX, b"123456789"), 0xe306_9283);
        assert_eq!(!crc32c_update(u32::MAX, &[0; 32]), 0x8a91_36aa);
        assert_eq!(!crc32c_update(u32::MAX, &[0xff; 32]), 0x62a8_ab43);
        assert_eq!(CRC32C.checksum(&[0x5a; 4093]), !crc32c_update(u32::MAX, &[0x5a; 4093]));
    }

    #[test]
    fn fields_that_do_not_fit_change_nothing() {
        let mut buffer = [0xa5; 4];
        let mut writer = Writer(&mut buffer);
        writer.padded(&[1, 2], 3);
        writer.bytes(&[9, 9]);
        assert_eq!(buffer, [1, 2, 0, 0xa5]);
        let mut reader = Reader(&buffer);
        assert_eq!(reader.u16(), Some(0x0201));
        assert_eq!(reader.u32(), None);
        assert_eq!(reader.u16(), Some(0xa500));
    }
}
