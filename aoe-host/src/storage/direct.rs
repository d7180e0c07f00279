//! I/O that bypasses the page cache: bounce buffers on 4 KiB, and whole units only.

use std::fs::File;
use std::sync::RwLock;

use rustix::io::Errno;

use super::file::retry;

/// Alignment of the bounce buffers in memory, which every device accepts.
const MEMORY_ALIGN: usize = 4096;

/// How a file is accessed that was opened with `O_DIRECT`.
#[derive(Debug)]
pub(super) struct Direct {
    /// Offsets and lengths are multiples of this power of two.
    unit: u64,
    /// A write of part of a unit reads and writes the whole unit. It excludes every other write,
    /// since the engine only keeps requests apart that share a sector.
    parts: RwLock<()>,
}

/// Memory on a multiple of [`MEMORY_ALIGN`].
struct Bounce {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Bounce {
    fn new(len: usize) -> Self {
        let memory = vec![0; len.saturating_add(MEMORY_ALIGN)];
        // `align_offset` may refuse (usize::MAX); a misaligned buffer is then refused by the system.
        let start = memory.as_ptr().align_offset(MEMORY_ALIGN);
        let start = if start < MEMORY_ALIGN { start } else { 0 };
        Self { memory, start, len }
    }

    fn bytes(&self) -> &[u8] {
        self.memory.get(self.start..).and_then(|m| m.get(..self.len)).unwrap_or_default()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..).and_then(|m| m.get_mut(..self.len)).unwrap_or_default()
    }
}

/// The units around a range.
struct Units {
    start: u64,
    /// Bytes of all units.
    len: usize,
    /// Where in them the range begins.
    within: usize,
}

impl Direct {
    /// Access in units of `unit` bytes, a power of two.
    pub(super) fn new(unit: u64) -> Self {
        Self { unit, parts: RwLock::new(()) }
    }

    fn units(&self, offset: u64, len: usize) -> Result<Units, Errno> {
        let mask = self.unit.wrapping_sub(1);
        let start = offset & !mask;
        let end = offset.checked_add(len as u64).and_then(|end| end.checked_add(mask));
        let end = end.ok_or(Errno::INVAL)? & !mask;
        let len = usize::try_from(end.saturating_sub(start)).map_err(|_too_long| Errno::INVAL)?;
        let within = usize::try_from(offset & mask).map_err(|_too_long| Errno::INVAL)?;
        Ok(Units { start, len, within })
    }

    /// Reads as much of the range as there is; returns the number of bytes.
    pub(super) fn read(&self, file: &File, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        let units = self.units(offset, buf.len())?;
        let mut bounce = Bounce::new(units.len);
        let got = read_units(file, units.start, bounce.bytes_mut())?;
        let here = bounce.bytes().get(units.within..got).unwrap_or_default();
        let len = here.len().min(buf.len());
        for (to, from) in buf.iter_mut().zip(here) {
            *to = *from;
        }
        Ok(len)
    }

    /// Writes the whole range.
    pub(super) fn write(&self, file: &File, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let units = self.units(offset, data.len())?;
        let mut bounce = Bounce::new(units.len);
        let whole = units.within == 0 && units.len == data.len();
        // Nothing can panic while the lock is held, so a poisoned one is as good.
        let (_shared, _alone);
        if whole {
            _shared = self.parts.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        } else {
            _alone = self.parts.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            read_units(file, units.start, bounce.bytes_mut())?;
        }
        let target = bounce.bytes_mut().get_mut(units.within..).unwrap_or_default();
        for (to, from) in target.iter_mut().zip(data) {
            *to = *from;
        }
        write_units(file, units.start, bounce.bytes())
    }
}

/// Fills `buf` up to the end of the file.
fn read_units(file: &File, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
    let mut done = 0_usize;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = offset.saturating_add(done as u64);
        let got = retry(|| rustix::io::pread(file, &mut *rest, at))?;
        done = done.saturating_add(got);
        // A read that ends off a unit has met the end of the file.
        if got == 0 || got % 512 != 0 {
            break;
        }
    }
    Ok(done)
}

fn write_units(file: &File, offset: u64, data: &[u8]) -> Result<(), Errno> {
    let (mut rest, mut at) = (data, offset);
    while !rest.is_empty() {
        let put = retry(|| rustix::io::pwrite(file, rest, at))?;
        if put == 0 {
            return Err(Errno::NOSPC);
        }
        rest = rest.get(put..).unwrap_or_default();
        at = at.saturating_add(put as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounce_buffers_are_aligned() {
        for len in [512, 4096, 70_000] {
            let bounce = Bounce::new(len);
            assert_eq!(bounce.bytes().len(), len);
            assert_eq!(bounce.bytes().as_ptr().align_offset(MEMORY_ALIGN), 0);
        }
    }

    #[test]
    fn parts_of_units_keep_their_neighbours() {
        // Through the page cache: the arithmetic is the same, and any file system will do.
        let file = tempfile::tempfile().unwrap();
        let direct = Direct::new(4096);
        direct.write(&file, 0, &[1; 8192]).unwrap();
        direct.write(&file, 4000, &[2; 200]).unwrap();
        direct.write(&file, 8192, &[3; 512]).unwrap();
        let mut all = vec![9; 12_288];
        assert_eq!(direct.read(&file, 0, &mut all).unwrap(), 12_288);
        assert!(all[..4000].iter().all(|b| *b == 1));
        assert!(all[4000..4200].iter().all(|b| *b == 2));
        assert!(all[4200..8192].iter().all(|b| *b == 1));
        assert!(all[8192..8704].iter().all(|b| *b == 3));
        assert!(all[8704..].iter().all(|b| *b == 0));
        file.set_len(8704).unwrap();
        let mut tail = [9; 1024];
        assert_eq!(direct.read(&file, 8192, &mut tail).unwrap(), 512);
        assert_eq!(direct.read(&file, 9000, &mut tail).unwrap(), 0);
    }
}
