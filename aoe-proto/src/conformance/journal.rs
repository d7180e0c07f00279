//! What a run is about to alter, as bytes that outlive it.
//!
//! ```text
//! record: | kind 1 | payload length 4 | payload | FNV-1a of all that 4 |     (big-endian)
//! ```
//!
//! The driver appends each [`Record`] to a file and makes it durable before it goes on; a run that
//! was killed is undone by [`Restore`](super::Restore). A record cut by a crash describes changes
//! that were not made yet: [`Records`] ends in front of it.

use crate::error::BufferTooSmall;
use crate::wire::{Address, CONFIG_STRING_MAX, Mac};

/// One entry of the journal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Record<'r> {
    /// A run begins.
    Run {
        /// The target.
        address: Address,
        /// Where it was found.
        target_mac: Mac,
    },
    /// The config string before the run.
    ConfigString(&'r [u8]),
    /// The MAC mask list before the run.
    MaskList(&'r [[u8; 6]]),
    /// The holders of the reservation before the run.
    Holders(&'r [[u8; 6]]),
    /// Sectors before the run.
    Sectors {
        /// The first.
        lba: u64,
        /// The contents, a multiple of 512 bytes.
        data: &'r [u8],
    },
    /// Everything was put back and compared: nothing is left to do.
    Restored,
}

const RUN: u8 = 1;
const CONFIG_STRING: u8 = 2;
const MASK_LIST: u8 = 3;
const HOLDERS: u8 = 4;
const SECTORS: u8 = 5;
const RESTORED: u8 = 6;

/// Kind and length.
const HEAD_LEN: usize = 5;
const SUM_LEN: usize = 4;
/// Version of the encoding, in the first record.
const VERSION: u8 = 1;

impl<'r> Record<'r> {
    /// Length of the encoding in bytes.
    pub fn encoded_len(&self) -> usize {
        let payload = match self {
            Self::Run { .. } => 10,
            Self::ConfigString(string) => string.len(),
            Self::MaskList(list) | Self::Holders(list) => list.len().saturating_mul(6),
            Self::Sectors { data, .. } => data.len().saturating_add(8),
            Self::Restored => 0,
        };
        payload.saturating_add(HEAD_LEN).saturating_add(SUM_LEN)
    }

    /// The bytes of the encoding, to be appended to the journal.
    ///
    /// # Errors
    /// [`BufferTooSmall`] if `out` is shorter than [`Record::encoded_len`].
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let needed = self.encoded_len();
        let out = out.get_mut(..needed).ok_or(BufferTooSmall { needed })?;
        let payload = needed.saturating_sub(HEAD_LEN).saturating_sub(SUM_LEN);
        let len = u32::try_from(payload).map_err(|_| BufferTooSmall { needed })?;
        let (kind, fixed, data) = self.parts();
        let [l0, l1, l2, l3] = len.to_be_bytes();
        let head = [kind, l0, l1, l2, l3];
        let (to_sum, sum_at) = out
            .split_at_mut_checked(needed.saturating_sub(SUM_LEN))
            .ok_or(BufferTooSmall { needed })?;
        let bytes = head.iter().chain(fixed.iter().take(fixed_len(kind))).chain(data);
        for (to, from) in to_sum.iter_mut().zip(bytes) {
            *to = *from;
        }
        for (to, from) in sum_at.iter_mut().zip(sum(to_sum).to_be_bytes()) {
            *to = from;
        }
        Ok(needed)
    }

    /// Kind, the part of fixed length, and the rest.
    fn parts(&self) -> (u8, [u8; 10], impl Iterator<Item = &'r u8>) {
        let none: &[u8] = &[];
        let no_list: &[[u8; 6]] = &[];
        let (kind, fixed, bytes, list) = match *self {
            Self::Run { address, target_mac: Mac([m0, m1, m2, m3, m4, m5]) } => {
                let [high, low] = address.shelf().to_be_bytes();
                let fixed = [VERSION, high, low, address.slot(), m0, m1, m2, m3, m4, m5];
                (RUN, fixed, none, no_list)
            }
            Self::ConfigString(string) => (CONFIG_STRING, [0; 10], string, no_list),
            Self::MaskList(list) => (MASK_LIST, [0; 10], none, list),
            Self::Holders(list) => (HOLDERS, [0; 10], none, list),
            Self::Sectors { lba, data } => {
                let [l0, l1, l2, l3, l4, l5, l6, l7] = lba.to_be_bytes();
                (SECTORS, [l0, l1, l2, l3, l4, l5, l6, l7, 0, 0], data, no_list)
            }
            Self::Restored => (RESTORED, [0; 10], none, no_list),
        };
        (kind, fixed, bytes.iter().chain(list.iter().flatten()))
    }

    fn decode(kind: u8, payload: &'r [u8]) -> Option<Self> {
        let list = || {
            let (macs, surplus) = payload.as_chunks::<6>();
            (surplus.is_empty() && u8::try_from(macs.len()).is_ok()).then_some(macs)
        };
        match kind {
            RUN => {
                let (head, surplus) = payload.split_first_chunk::<10>()?;
                let [version, high, low, slot, mac @ ..] = *head;
                if version != VERSION || !surplus.is_empty() {
                    return None;
                }
                let address = Address::new(u16::from_be_bytes([high, low]), slot)?;
                Some(Self::Run { address, target_mac: Mac(mac) })
            }
            CONFIG_STRING if payload.len() <= CONFIG_STRING_MAX => {
                Some(Self::ConfigString(payload))
            }
            MASK_LIST => list().map(Self::MaskList),
            HOLDERS => list().map(Self::Holders),
            SECTORS => {
                let (lba, data) = payload.split_first_chunk::<8>()?;
                let lba = u64::from_be_bytes(*lba);
                data.as_chunks::<512>().1.is_empty().then_some(Self::Sectors { lba, data })
            }
            RESTORED if payload.is_empty() => Some(Self::Restored),
            _ => None,
        }
    }
}

/// Bytes of the fixed part that count.
const fn fixed_len(kind: u8) -> usize {
    match kind {
        RUN => 10,
        SECTORS => 8,
        _ => 0,
    }
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Reads the records of a journal, up to its end or to the first that is cut or damaged.
#[derive(Clone, Debug)]
pub struct Records<'j> {
    rest: &'j [u8],
}

impl<'j> Records<'j> {
    /// The records in `journal`.
    pub const fn new(journal: &'j [u8]) -> Self {
        Self { rest: journal }
    }

    /// Whether something is left over that is no record: the end of a run that was killed while it
    /// wrote, if the records before it are there.
    pub const fn is_cut(&self) -> bool {
        !self.rest.is_empty()
    }
}

impl<'j> Iterator for Records<'j> {
    type Item = Record<'j>;

    fn next(&mut self) -> Option<Record<'j>> {
        let ([kind, len @ ..], _) = self.rest.split_first_chunk::<HEAD_LEN>()?;
        let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
        let (summed, rest) = self.rest.split_at_checked(len.checked_add(HEAD_LEN)?)?;
        let (found, rest) = rest.split_first_chunk::<SUM_LEN>()?;
        if u32::from_be_bytes(*found) != sum(summed) {
            return None;
        }
        let record = Record::decode(*kind, summed.get(HEAD_LEN..)?)?;
        self.rest = rest;
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const RECORDS: [Record<'static>; 6] = [
        Record::Run {
            address: Address::new(0x0102, 3).unwrap(),
            target_mac: Mac([2, 0, 0, 0, 0, 1]),
        },
        Record::ConfigString(b"mine"),
        Record::MaskList(&[[2, 0, 0, 0, 0, 7], [2, 0, 0, 0, 0, 8]]),
        Record::Holders(&[]),
        Record::Sectors { lba: 0x0102_0304_0506, data: &[0x5a; 1024] },
        Record::Restored,
    ];

    fn journal() -> Vec<u8> {
        let mut bytes = Vec::new();
        for record in RECORDS {
            let mut out = [0xa5; 2000];
            let len = record.encode(&mut out).unwrap();
            assert_eq!(len, record.encoded_len());
            assert_eq!(record.encode(&mut out[..len - 1]), Err(BufferTooSmall { needed: len }));
            record.encode(&mut out).unwrap();
            bytes.extend_from_slice(&out[..len]);
        }
        bytes
    }

    #[test]
    fn both_directions() {
        let bytes = journal();
        let mut records = Records::new(&bytes);
        assert_eq!(records.by_ref().collect::<Vec<_>>(), RECORDS);
        assert!(!records.is_cut());
        assert_eq!(bytes[..15], *b"\x01\0\0\0\x0a\x01\x01\x02\x03\x02\0\0\0\0\x01");
    }

    #[test]
    fn a_cut_or_damaged_record_ends_it() {
        let bytes = journal();
        for len in 0..bytes.len() {
            let mut records = Records::new(&bytes[..len]);
            let whole = records.by_ref().count();
            assert!(whole < RECORDS.len());
            let ends: usize = RECORDS[..whole].iter().map(Record::encoded_len).sum();
            assert_eq!(records.is_cut(), ends != len);
        }
        for at in 0..19 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(Records::new(&damaged).count(), 0, "{at}");
        }
    }
}
