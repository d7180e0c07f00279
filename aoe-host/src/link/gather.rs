//! Data that lie by turns in two mapped files, brought together before a call sends them.
//!
//! Of each piece the kernel has to be told, which takes longer than one more copy of the piece, and for a frame
//! of more than 8 it asks for memory. What cannot be read here stays as it was: then the call finds
//! that out, and says it of that frame.

#![allow(unsafe_code, reason = "a copy out of files whose pages may be gone")]

use super::guarded::Guard;
use super::mapping::Mapping;
use crate::mapped::MappedBytes;

/// Octets for the frames of one call: 16 answers of 4 KiB. They stay in the processor's cache.
const ROOM: usize = 64 << 10;

/// Pieces that are worth a copy.
const PIECES_MIN: usize = 4;

/// Room for the data of one call's frames.
#[derive(Debug)]
pub(super) struct Gatherer {
    means: Option<(Mapping, Guard)>,
    used: usize,
}

impl Gatherer {
    /// Takes addresses only: the system gives memory for what is used of it. Does nothing where the
    /// system gives none, or no copy is known that survives a missing page.
    pub(super) fn new() -> Self {
        let means = Guard::new().and_then(|guard| Some((Mapping::anonymous(ROOM).ok()?, guard)));
        Self { means, used: 0 }
    }

    /// What was gathered before has been sent.
    pub(super) fn clear(&mut self) {
        self.used = 0;
    }

    /// The same bytes: in one place, good until [`clear`](Self::clear), or as they were.
    pub(super) fn gather(&mut self, bytes: MappedBytes) -> MappedBytes {
        if bytes.parts().nth(PIECES_MIN - 1).is_none() {
            return bytes;
        }
        self.gathered(bytes).unwrap_or(bytes)
    }

    fn gathered(&mut self, bytes: MappedBytes) -> Option<MappedBytes> {
        let (memory, guard) = self.means.as_ref()?;
        let place = memory.lend(self.used, bytes.len())?;
        let mut at = self.used;
        for part in bytes.parts() {
            let to = memory.part(at, part.len())?;
            // SAFETY: mapped memory: `to` is of our own, which nobody looks at before it is sent, and
            // that of `part` may have lost its pages only, which whoever lent it promises.
            if !unsafe { guard.copy(to.as_ptr(), part.start(), part.len()) } {
                return None;
            }
            at += part.len();
        }
        self.used = at;
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use rustix::mm::ProtFlags;

    use super::*;
    use crate::mapped::Region;

    const PAGE: usize = 4096;

    /// Two files, of a letter each.
    fn files() -> [(File, Region); 2] {
        [b'a', b'b'].map(|letter| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&vec![letter; 16 * PAGE]).unwrap();
            let region = Region::new(&file, 0, 16 * PAGE, ProtFlags::READ).unwrap();
            (file, region)
        })
    }

    fn woven(files: &[(File, Region); 2], len: usize, bits: u64) -> MappedBytes {
        let [first, other] = files.each_ref().map(|(_, r)| MappedBytes::of(r, 0, len).unwrap());
        MappedBytes::woven(len, (first, 0), (other, 0), bits)
    }

    fn read(bytes: MappedBytes) -> Vec<u8> {
        let part = |part: MappedBytes| {
            // SAFETY: the tests read what is there.
            unsafe { core::slice::from_raw_parts(part.start(), part.len()) }.to_vec()
        };
        bytes.parts().flat_map(part).collect()
    }

    #[test]
    fn what_is_scattered_is_brought_together_and_stays_until_all_is_sent() {
        let files = files();
        let mut gatherer = Gatherer::new();
        let few = woven(&files, 8 * 512, 0b0011_1000);
        assert_eq!(gatherer.gather(few), few, "three pieces are sent as they are");
        let mut given = Vec::new();
        for round in 0..20_u64 {
            let scattered = woven(&files, 8 * 512, 0xaa ^ round);
            let one = gatherer.gather(scattered);
            assert_eq!(one.len(), 8 * 512);
            if cfg!(target_arch = "x86_64") && round < 16 {
                assert_eq!(one.parts().count(), 1, "{round}");
            } else {
                assert_eq!(one, scattered, "{round}: there is no more room");
            }
            given.push((scattered, one));
        }
        for (scattered, one) in given {
            assert_eq!(read(scattered), read(one));
        }
        gatherer.clear();
        let again = woven(&files, 5 * 512, 0b01010);
        assert_eq!(
            read(gatherer.gather(again))[512..][..1024],
            [[b'b'; 512], [b'a'; 512]].concat()
        );
    }

    #[test]
    fn what_cannot_be_read_stays_as_it_is_and_takes_no_room() {
        let files = files();
        let mut gatherer = Gatherer::new();
        let missing = woven(&files, 8 * 512, 0b0101_0101);
        let there = woven(&files, 4 * 512, 0b1010);
        files[1].0.set_len(2048).unwrap();
        files[0].0.set_len(0).unwrap();
        assert_eq!(gatherer.gather(missing), missing);
        files[0].0.set_len(1).unwrap();
        let first = gatherer.gather(there);
        assert_eq!(read(first)[512..1024], [b'b'; 512]);
        gatherer.clear();
        if cfg!(target_arch = "x86_64") {
            assert_eq!(gatherer.gather(there), first, "at the beginning of the room");
        }
    }
}
