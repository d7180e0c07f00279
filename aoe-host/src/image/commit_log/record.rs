//! What a segment of a commit log holds, byte by byte (`docs/COMMIT-LOG.md`). Pure.

use cow_core::engine::Note;
use cow_core::format::native::LogId;
use cow_core::identity::LayerId;
use cow_core::units::{Extent, SECTOR_BYTES};
use crc::{CRC_32_ISCSI, Crc, Table};

const SEGMENT_MAGIC: [u8; 8] = *b"cowLOG01";
const RECORD_MAGIC: [u8; 8] = *b"cowWRITE";

/// Where records begin: the header has a page of its own.
pub(super) const RECORDS_AT: u64 = 4096;

/// Bytes of a segment's header, and of that of a record.
pub(super) const HEADER_LEN: usize = 64;

/// Most bytes of data of a record: no request of an initiator is as long.
pub(super) const DATA_MAX: usize = 1 << 20;

/// Of every byte that an acknowledged write has: sixteen tables are four times as fast as one.
const CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// Which log a segment belongs to, and how often one was begun before it in that log. A record is of
/// exactly one turn: what an earlier turn left in the file does not count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Turn {
    pub(super) log: LogId,
    pub(super) generation: u64,
}

impl Turn {
    /// The header: magic, checksum of what follows, log, generation, zeros.
    pub(super) fn emit(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let crc = CRC32C.checksum(&self.identity());
        let fields: [&[u8]; 4] = [&SEGMENT_MAGIC, &crc.to_le_bytes(), &[0; 4], &self.identity()];
        put(&mut bytes, &fields);
        bytes
    }

    pub(super) fn parse(bytes: &[u8; HEADER_LEN]) -> Option<Self> {
        let mut from = bytes.as_slice();
        let magic: [u8; 8] = take(&mut from)?;
        let crc = u32::from_le_bytes(take(&mut from)?);
        let _reserved: [u8; 4] = take(&mut from)?;
        let log = LogId(take(&mut from)?);
        let turn = Self { log, generation: u64::from_le_bytes(take(&mut from)?) };
        let whole = magic == SEGMENT_MAGIC && crc == CRC32C.checksum(&turn.identity());
        whole.then_some(turn)
    }

    fn identity(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        put(&mut bytes, &[&self.log.0, &self.generation.to_le_bytes()]);
        bytes
    }
}

/// One change of an overlay.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Record<'a> {
    pub(super) layer: LayerId,
    pub(super) extent: Extent,
    /// Records of the layer from earlier generations are in the overlay: they must not be repeated.
    pub(super) from: u64,
    /// As many bytes as the sectors have; none: they are zeros.
    pub(super) data: Option<&'a [u8]>,
}

impl<'a> Record<'a> {
    pub(super) fn new(layer: LayerId, note: &Note, data: &'a [u8]) -> Self {
        Self { layer, extent: note.extent, from: 0, data: note.offset.map(|_| data) }
    }

    pub(super) fn len(&self) -> usize {
        HEADER_LEN.saturating_add(self.data.unwrap_or_default().len())
    }

    /// What goes before its data when it is written at byte `at` of the segment: magic, checksum, length
    /// of the data, layer, first sector, sectors, place in the segment, `from`.
    pub(super) fn head(&self, turn: Turn, at: u64) -> [u8; HEADER_LEN] {
        let data = self.data.unwrap_or_default();
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let mut bytes = [0; HEADER_LEN];
        let (start, sectors) = (self.extent.start().get(), self.extent.sectors());
        let fields: [&[u8]; 8] = [
            &RECORD_MAGIC,
            &[0; 4],
            &len.to_le_bytes(),
            &self.layer.0,
            &start.to_le_bytes(),
            &sectors.to_le_bytes(),
            &at.to_le_bytes(),
            &self.from.to_le_bytes(),
        ];
        put(&mut bytes, &fields);
        let crc = checksum(turn, &bytes, data);
        for (to, from) in bytes.iter_mut().skip(8).zip(crc.to_le_bytes()) {
            *to = from;
        }
        bytes
    }

    /// The record at byte `at` of a segment, which `bytes` begin with; `None` if none is there.
    pub(super) fn parse(turn: Turn, at: u64, bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<HEADER_LEN>()?;
        let mut from = head.as_slice();
        let magic: [u8; 8] = take(&mut from)?;
        let crc = u32::from_le_bytes(take(&mut from)?);
        let len = usize::try_from(u32::from_le_bytes(take(&mut from)?)).ok()?;
        let layer = LayerId(take(&mut from)?);
        let start = u64::from_le_bytes(take(&mut from)?);
        let sectors = u64::from_le_bytes(take(&mut from)?);
        let place = u64::from_le_bytes(take(&mut from)?);
        let needed_from = u64::from_le_bytes(take(&mut from)?);
        let data = rest.get(..len)?;
        if magic != RECORD_MAGIC || place != at || crc != checksum(turn, head, data) {
            return None;
        }
        let extent = Extent::new(start, sectors).filter(|extent| !extent.is_empty())?;
        let data = (len > 0).then_some(data);
        let fits =
            data.is_none_or(|data| sectors.checked_mul(SECTOR_BYTES) == Some(data.len() as u64));
        fits.then_some(Self { layer, extent, from: needed_from, data })
    }
}

fn checksum(turn: Turn, head: &[u8; HEADER_LEN], data: &[u8]) -> u32 {
    let mut digest = CRC32C.digest();
    digest.update(&turn.identity());
    digest.update(head.split_at(12).1);
    digest.update(data);
    digest.finalize()
}

fn put(bytes: &mut [u8], fields: &[&[u8]]) {
    for (to, from) in bytes.iter_mut().zip(fields.iter().copied().flatten()) {
        *to = *from;
    }
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (field, rest) = from.split_first_chunk::<N>()?;
    *from = rest;
    Some(*field)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURN: Turn = Turn { log: LogId([3; 16]), generation: 5 };
    const LAYER: LayerId = LayerId([9; 16]);

    #[test]
    fn bytes_of_a_record() {
        let extent = Extent::new(0x1122, 1).unwrap();
        let record = Record { layer: LAYER, extent, from: 4, data: Some(&[7; 512]) };
        let head = record.head(TURN, 4096);
        assert_eq!(head[..8], *b"cowWRITE");
        assert_eq!(head[12..16], [0, 2, 0, 0]);
        assert_eq!(head[16..32], [9; 16]);
        assert_eq!(head[32..40], [0x22, 0x11, 0, 0, 0, 0, 0, 0]);
        assert_eq!(head[40..48], [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(head[48..64], [0, 16, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
        let summed = [&[3; 16][..], &[5, 0, 0, 0, 0, 0, 0, 0], &head[12..], &[7; 512]].concat();
        let crc = Crc::<u32>::new(&CRC_32_ISCSI).checksum(&summed);
        assert_eq!(head[8..12], crc.to_le_bytes());
    }

    #[test]
    fn what_was_written_is_read_there_and_then_only() {
        let extent = Extent::new(70, 2).unwrap();
        for data in [None, Some(&[5; 1024][..])] {
            let record = Record { layer: LAYER, extent, from: 1, data };
            let mut bytes = record.head(TURN, 8192).to_vec();
            bytes.extend_from_slice(data.unwrap_or_default());
            assert_eq!(bytes.len(), record.len());
            assert_eq!(Record::parse(TURN, 8192, &bytes), Some(record));
            assert_eq!(Record::parse(TURN, 8256, &bytes), None, "another place");
            let later = Turn { generation: 6, ..TURN };
            assert_eq!(Record::parse(later, 8192, &bytes), None, "another turn");
            let other = Turn { log: LogId([4; 16]), ..TURN };
            assert_eq!(Record::parse(other, 8192, &bytes), None, "another log");
            for cut in 0..bytes.len() {
                assert_eq!(Record::parse(TURN, 8192, &bytes[..cut]), None, "{cut} bytes");
            }
            for at in 0..bytes.len() {
                let mut torn = bytes.clone();
                torn[at] ^= 0x10;
                assert_eq!(Record::parse(TURN, 8192, &torn), None, "byte {at}");
            }
        }
    }

    #[test]
    fn headers_of_segments() {
        let bytes = TURN.emit();
        assert_eq!(Turn::parse(&bytes), Some(TURN));
        assert_eq!(bytes[..8], *b"cowLOG01");
        for at in (0..12).chain(16..40) {
            let mut torn = bytes;
            torn[at] ^= 1;
            assert_eq!(Turn::parse(&torn), None, "byte {at}");
        }
        assert_eq!(Turn::parse(&[0; HEADER_LEN]), None);
    }
}
