//! Reads that the kernel does without a thread: a ring of requests shared with it (`io_uring`).
//!
//! 1. A request owns its memory and keeps its file open from [`ReadRing::push`] until the kernel has
//!    reported its end. Nobody else touches or frees either meanwhile.
//! 2. A ring that is dropped waits for what the kernel has. What it cannot wait for it leaks: such
//!    memory is the kernel's for good.
//! 3. The thread that first [enters](ReadRing::enter) is the only one that may; the kernel refuses
//!    others. Reads that have found their pages end inside of `enter`: nothing interrupts the thread,
//!    and no other one has to be woken. [`io_uring_setup(2)`, `IORING_SETUP_DEFER_TASKRUN`, Linux 6.1]
//! 4. When something is to be ended and nothing was before, the kernel writes to the bell's
//!    descriptor.

#![allow(unsafe_code, reason = "the kernel is given the addresses of memory")]

use core::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::types::Fd;
use io_uring::{IoUring, opcode};
use rustix::io::Errno;

use super::FileStorage;

/// A read of a file, and whatever its owner wants to know of it at its end.
pub(super) struct Read<T> {
    pub(super) file: FileStorage,
    /// Byte of the file, wherever a window into it begins.
    pub(super) offset: u64,
    /// As long as what is to be read.
    pub(super) memory: Vec<u8>,
    pub(super) about: T,
}

/// See the module's documentation.
pub(super) struct ReadRing<T> {
    ring: IoUring,
    /// What is pushed and not reported, by number.
    taken: Box<[Option<Read<T>>]>,
    /// Numbers of those that are not taken.
    free: Vec<u16>,
    is_enabled: bool,
}

impl<T> fmt::Debug for ReadRing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadRing").field("free", &self.free.len()).finish_non_exhaustive()
    }
}

impl<T> ReadRing<T> {
    /// A ring for so many reads at one time. It may still change its thread.
    ///
    /// # Errors
    /// The kernel has no such rings, or does not give one to this process.
    pub(super) fn new(reads_max: u16, bell: BorrowedFd<'_>) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .build(u32::from(reads_max).next_power_of_two())?;
        ring.submitter().register_eventfd(bell.as_raw_fd())?;
        let taken = core::iter::repeat_with(|| None).take(usize::from(reads_max)).collect();
        Ok(Self { ring, taken, free: (0..reads_max).rev().collect(), is_enabled: false })
    }

    /// Takes a read, which begins with the next [`enter`](Self::enter). Gives it back if there are
    /// too many, or the kernel could not be told what is wanted.
    pub(super) fn push(&mut self, read: Read<T>) -> Result<(), Read<T>> {
        let (Ok(len), Ok(_)) = (u32::try_from(read.memory.len()), i64::try_from(read.offset))
        else {
            return Err(read);
        };
        let Some(number) = self.free.pop() else { return Err(read) };
        let Some(place) = self.taken.get_mut(usize::from(number)) else { return Err(read) };
        let read = place.insert(read);
        let fd = Fd(read.file.file().as_raw_fd());
        let entry = opcode::Read::new(fd, read.memory.as_mut_ptr(), len).offset(read.offset);
        let entry = entry.build().user_data(u64::from(number));
        // SAFETY: the descriptor stays open and the memory, which is that long, stays where it is and
        // untouched until the kernel has reported this number: `taken` owns both, `next` gives them
        // back only then, `abandon` and `drop` leak memory that the kernel may still have.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        if pushed.is_err() {
            self.free.push(number);
            return place.take().map_or(Ok(()), Err);
        }
        Ok(())
    }

    /// Whether [`push`](Self::push) has room for one more.
    pub(super) fn has_place(&self) -> bool {
        !self.free.is_empty()
    }

    /// Whether there is something for [`enter`](Self::enter) or [`next`](Self::next) to do. Costs no
    /// system call.
    pub(super) fn has_news(&mut self) -> bool {
        !self.ring.completion().is_empty() || self.wants_to_enter()
    }

    fn wants_to_enter(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    /// Whether the kernel may ring.
    pub(super) fn is_used(&self) -> bool {
        self.is_enabled
    }

    /// Begins what was pushed, and ends what has found its pages. One system call, or none if there is
    /// nothing to do; never waits.
    ///
    /// # Errors
    /// This thread will never learn of its reads: see [`abandon`](Self::abandon).
    pub(super) fn enter(&mut self) -> io::Result<()> {
        if !self.wants_to_enter() {
            return Ok(());
        }
        if !self.is_enabled {
            self.ring.submitter().register_enable_rings()?;
            self.is_enabled = true;
        }
        pass(self.ring.submit())
    }

    /// A read that has ended, and whether all of it was read. Less is: the end of the file, a medium
    /// that fails, or whatever else a plain read will tell.
    pub(super) fn next(&mut self) -> Option<(Read<T>, bool)> {
        loop {
            let ended = self.ring.completion().next()?;
            let number = u16::try_from(ended.user_data()).ok();
            let place = number.and_then(|number| self.taken.get_mut(usize::from(number)));
            let (Some(number), Some(read)) = (number, place.and_then(Option::take)) else {
                continue; // no number of ours
            };
            self.free.push(number);
            let is_whole = usize::try_from(ended.result()) == Ok(read.memory.len());
            return Some((read, is_whole));
        }
    }

    /// What was taken, to be read in another way. The kernel may still write to the memory of these
    /// reads, so that stays behind for ever.
    pub(super) fn abandon(mut self) -> Vec<(FileStorage, T)> {
        let taken = self.taken.iter_mut().filter_map(Option::take);
        let left = taken.map(|read| {
            core::mem::forget(read.memory);
            (read.file, read.about)
        });
        left.collect()
    }

    /// Waits until something has ended.
    fn wait(&mut self) -> io::Result<()> {
        pass(self.ring.submit_and_wait(1))
    }
}

/// Entering is tried again after what passes by itself.
fn pass(entered: io::Result<usize>) -> io::Result<()> {
    const PASSING: [Errno; 3] = [Errno::INTR, Errno::AGAIN, Errno::BUSY];
    match entered {
        Err(error) if !PASSING.iter().any(|e| error.raw_os_error() == Some(e.raw_os_error())) => {
            Err(error)
        }
        _ => Ok(()),
    }
}

impl<T> Drop for ReadRing<T> {
    fn drop(&mut self) {
        // Before that the kernel has looked at nothing.
        while self.is_enabled && self.taken.iter().any(Option::is_some) {
            if self.wait().is_err() {
                core::mem::forget(core::mem::take(&mut self.taken));
            }
            while self.next().is_some() {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
    use rustix::fs::{Advice, fadvise};

    use super::*;
    use crate::storage::FileOptions;

    /// A file whose sectors hold their number, none of it in memory.
    fn cold_file(sectors: u16) -> (tempfile::NamedTempFile, FileStorage) {
        let file = tempfile::NamedTempFile::new().unwrap();
        for sector in 0..sectors {
            let bytes = sector.to_be_bytes().repeat(256);
            file.as_file().write_all_at(&bytes, u64::from(sector) * 512).unwrap();
        }
        file.as_file().sync_all().unwrap();
        let storage = FileStorage::open(file.path(), &FileOptions::default()).unwrap();
        cool(&storage);
        (file, storage)
    }

    fn cool(storage: &FileStorage) {
        fadvise(storage.file(), 0, None, Advice::DontNeed).unwrap();
    }

    fn read(file: &FileStorage, sector: u16) -> Read<u16> {
        let offset = u64::from(sector) * 512;
        Read { file: file.clone(), offset, memory: vec![0xa5; 512], about: sector }
    }

    /// A ring of four and its bell, unless this system has none.
    fn ring(test: &str) -> Option<(ReadRing<u16>, rustix::fd::OwnedFd)> {
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap();
        match ReadRing::new(4, rustix::fd::AsFd::as_fd(&bell)) {
            Ok(ring) => Some((ring, bell)),
            Err(error) => {
                println!("SKIP: {test}: no io_uring here: {error}");
                None
            }
        }
    }

    fn is_right(read: &Read<u16>) -> bool {
        read.memory.chunks(2).all(|pair| pair == read.about.to_be_bytes())
    }

    #[test]
    fn reads_end_with_what_the_file_holds_and_the_bell_tells() {
        let test = "reads_end_with_what_the_file_holds_and_the_bell_tells";
        let Some((mut ring, bell)) = ring(test) else { return };
        let (_kept, file) = cold_file(64);
        // Pages come one by one.
        fadvise(file.file(), 0, None, Advice::Random).unwrap();
        let (mut pushed, mut ended, mut slept) = (0, 0, 0);
        while ended < 64 {
            while pushed < 64 && ring.push(read(&file, pushed * 37 % 64)).is_ok() {
                pushed += 1;
            }
            assert!(pushed - ended <= 4);
            ring.enter().unwrap();
            if !ring.has_news() {
                let timeout = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
                let mut fds = [PollFd::new(&bell, PollFlags::IN)];
                assert_eq!(poll(&mut fds, Some(&timeout)), Ok(1), "the bell is silent");
                slept += 1;
            }
            let _rung = rustix::io::read(&bell, &mut [0; 8]);
            ring.enter().unwrap();
            while let Some((read, is_whole)) = ring.next() {
                assert!(is_whole && is_right(&read), "{}", read.about);
                ended += 1;
            }
        }
        if slept == 0 {
            println!("SKIP: {test}: the page cache kept the file, so the bell was not needed");
        }
    }

    #[test]
    fn what_is_not_there_is_not_whole() {
        let Some((mut ring, _bell)) = ring("what_is_not_there_is_not_whole") else { return };
        let (_kept, file) = cold_file(3);
        let crossing = Read { memory: vec![0xa5; 1024], ..read(&file, 2) };
        assert!(ring.push(crossing).is_ok() && ring.push(read(&file, 3)).is_ok());
        for _ in 0..2 {
            ring.wait().unwrap_or_else(|_| ring.enter().unwrap());
            while let Some((read, is_whole)) = ring.next() {
                assert!(!is_whole, "{}", read.about);
            }
        }
        // Longer than the kernel can be told, and before the beginning: given back.
        let behind = Read { offset: u64::MAX, ..read(&file, 0) };
        assert_eq!(ring.push(behind).map_err(|read| read.about).err(), Some(0));
    }

    #[test]
    fn a_dropped_ring_waits_and_an_abandoned_one_gives_back() {
        let test = "a_dropped_ring_waits_and_an_abandoned_one_gives_back";
        let Some((mut first, _bell)) = ring(test) else { return };
        let (_kept, file) = cold_file(64);
        for sector in 0..4 {
            assert!(first.push(read(&file, sector * 16)).is_ok());
        }
        assert!(first.push(read(&file, 1)).is_err(), "a fifth");
        first.enter().unwrap();
        // Another thread may not enter; it learns what is to be read in another way.
        let mut left = std::thread::spawn(move || {
            while first.next().is_some() {}
            first.wait().unwrap_err();
            first.abandon().into_iter().map(|(_, sector)| sector).collect::<Vec<_>>()
        })
        .join()
        .unwrap();
        // Those whose pages were in memory all the same have ended within `enter`.
        left.sort_unstable();
        left.dedup();
        assert!(left.iter().all(|sector| [0, 16, 32, 48].contains(sector)), "{left:?}");

        let (mut second, _bell) = ring(test).unwrap();
        cool(&file);
        for sector in 0..4 {
            assert!(second.push(read(&file, sector * 16)).is_ok());
        }
        second.enter().unwrap();
        drop(second);
        let (mut third, _bell) = ring(test).unwrap();
        assert!(third.push(read(&file, 0)).is_ok());
        drop(third); // nothing of it was ever handed over
    }
}
