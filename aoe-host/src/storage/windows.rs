//! Parts of files that are read again and again, mapped: the data of an answer then go from
//! the page cache to the wire with one copy and no search of the page cache.
//!
//! 1. Files are mapped in windows of [`WINDOW_LEN`], after [`HOT`] reads of a window, and at most
//!    512 windows. What of them is in memory counts as resident, and is the page cache itself, not a
//!    copy: what is written to a file is seen in its mapping, on the file systems where
//!    [`FileStorage::lendable_at`] allows it.
//! 2. This process never looks at mapped bytes unprepared: a page that cannot be read (the file was cut
//!    short, the medium fails) would end it by a signal. The kernel meets it while sending and
//!    says `EFAULT`; the frame is lost, [`Windows::doubt`] has every page looked for again, and
//!    the initiator's retransmission is served by a read, which has an error to tell.
//! 3. A page is lent after a read found it in memory. One that was dropped since is read again
//!    while sending, which holds up the loop: after such a major fault every page is doubted.
//! 4. What was lent is good until [`Windows::settle`], the only place that unmaps. Who changes a
//!    file meanwhile changes what was lent: the server's loop holds such changes back.

#![allow(unsafe_code, reason = "no safe wrapper exists for the faults of one thread")]

use core::mem::MaybeUninit;
use core::time::Duration;
use std::fs::File;

use rustix::mm::ProtFlags;

use super::{FileKey, FileStorage};
use crate::mapped::{MappedBytes, Region};

/// Length and alignment of a window: what one page of the usual page tables maps.
const WINDOW_LEN: usize = 2 << 20;

/// Grain in which pages are known to be in memory; where pages are larger, more reads look.
const PAGE_LEN: usize = 4096;

/// Words of a bit for each page.
const PAGE_WORDS: usize = WINDOW_LEN / PAGE_LEN / 64;

/// Windows of one set, and sets: 1 GiB. A system with 32 bits has no addresses to spare.
const WAYS: usize = 8;
const SETS: usize = if usize::BITS < 64 { 0 } else { 64 };

/// Windows of a set whose reads are counted before they are mapped.
const CANDIDATES: usize = 8;

/// Reads of a window before it is mapped. Mapping costs about as much as 60 reads through the
/// mapping save.
const HOT: u16 = 64;

/// Distance between two looks at the count of major faults.
const FAULTS_INTERVAL: Duration = Duration::from_millis(100);

/// Which window of which file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct WindowId {
    file: FileKey,
    number: u64,
}

/// A window that is mapped.
#[derive(Debug)]
struct Window {
    id: WindowId,
    memory: Region,
    /// A bit for each page that a read found in memory.
    known: [u64; PAGE_WORDS],
    /// Reads since the heat of its set was last halved.
    heat: u16,
}

/// A window that might become worth it.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: WindowId,
    heat: u16,
}

#[derive(Debug, Default)]
struct Set {
    windows: [Option<Window>; WAYS],
    candidates: [Option<Candidate>; CANDIDATES],
}

/// The mapped windows of all files of one loop. See the module's documentation.
#[derive(Debug)]
pub(super) struct Windows {
    sets: Box<[Set]>,
    /// To be mapped at the next opportunity.
    wanted: Option<(FileStorage, WindowId)>,
    next_look: Duration,
    faults: u64,
}

impl Windows {
    pub(super) fn new() -> Self {
        Self {
            sets: core::iter::repeat_with(Set::default).take(SETS).collect(),
            wanted: None,
            next_look: Duration::ZERO,
            faults: 0,
        }
    }

    /// `len` bytes of a file from `offset` on, if they are mapped and were in memory when last
    /// looked for. Good until [`settle`](Self::settle).
    pub(super) fn lend(
        &mut self,
        file: &FileStorage,
        offset: u64,
        len: usize,
    ) -> Option<MappedBytes> {
        let (id, at) = locate(file, offset, len)?;
        let set = self.set(id)?;
        let Some(window) = set.windows.iter_mut().flatten().find(|w| w.id == id) else {
            if set.warm(id) && self.wanted.is_none() {
                self.wanted = Some((file.clone(), id));
            }
            return None;
        };
        window.heat = window.heat.saturating_add(1);
        let known = pages(at, len).all(|page| window.knows(page));
        known.then(|| MappedBytes::of(&window.memory, at, len))?
    }

    /// A read has just found these bytes in memory.
    pub(super) fn found(&mut self, file: &FileStorage, offset: u64, len: usize) {
        let Some((id, at)) = locate(file, offset, len) else { return };
        let Some(set) = self.set(id) else { return };
        if let Some(window) = set.windows.iter_mut().flatten().find(|w| w.id == id) {
            for page in pages(at, len) {
                window.learn(page);
            }
        }
    }

    /// Where a window belongs: neighbours in one file never compete.
    fn set(&mut self, id: WindowId) -> Option<&mut Set> {
        let sets = u64::try_from(self.sets.len()).ok()?;
        let number = id.number.wrapping_add(id.file.inode).checked_rem(sets)?;
        self.sets.get_mut(usize::try_from(number).ok()?)
    }

    /// Forgets what was in memory: reads look again.
    pub(super) fn doubt(&mut self) {
        for window in self.sets.iter_mut().flat_map(|set| set.windows.iter_mut().flatten()) {
            window.known = [0; PAGE_WORDS];
        }
    }

    /// Maps what has become worth it, and unmaps what that displaces. Nothing lent may be in use.
    pub(super) fn settle(&mut self, now: Duration) {
        if let Some((file, id)) = self.wanted.take()
            && let Some(set) = self.set(id)
        {
            set.map(file.file(), id);
        }
        if now >= self.next_look {
            self.next_look = now.saturating_add(FAULTS_INTERVAL);
            let faults = major_faults();
            if faults > core::mem::replace(&mut self.faults, faults) {
                self.doubt();
            }
        }
    }

    /// Bytes of address space in use.
    #[cfg(test)]
    fn mapped_len(&self) -> usize {
        let windows = self.sets.iter().flat_map(|set| set.windows.iter().flatten());
        windows.count() * WINDOW_LEN
    }
}

impl Set {
    /// Counts a read of a window that is not mapped. True when it has become worth mapping.
    fn warm(&mut self, id: WindowId) -> bool {
        let mut coolest = 0;
        let mut least = u16::MAX;
        for (at, candidate) in self.candidates.iter_mut().enumerate() {
            match candidate {
                Some(known) if known.id == id => {
                    known.heat = known.heat.saturating_add(1);
                    return known.heat >= HOT;
                }
                Some(other) if other.heat < least => (coolest, least) = (at, other.heat),
                Some(_) => {}
                None => (coolest, least) = (at, 0),
            }
        }
        match self.candidates.get_mut(coolest) {
            // Those that came before are pushed out only by what comes more often.
            Some(Some(other)) if least > 0 => other.heat -= 1,
            Some(place) => *place = Some(Candidate { id, heat: 1 }),
            None => {}
        }
        false
    }

    /// Maps a window, in place of the one of the set that is read least if there is no room. If all
    /// are worth their place it is not mapped, and they have to prove it again.
    fn map(&mut self, file: &File, id: WindowId) {
        for candidate in &mut self.candidates {
            candidate.take_if(|c| c.id == id);
        }
        let heat = |window: &Option<Window>| window.as_ref().map_or(0, |w| w.heat);
        let Some(place) = self.windows.iter_mut().min_by_key(|w| heat(w)) else { return };
        if heat(place) < HOT {
            // The old one goes first: its addresses may serve again.
            *place = None;
            // Without room for it everything is read as before.
            let start = id.number.saturating_mul(WINDOW_LEN as u64);
            *place = Region::new(file, start, WINDOW_LEN, ProtFlags::READ)
                .ok()
                .map(|memory| Window { id, memory, known: [0; PAGE_WORDS], heat: HOT });
        } else {
            for window in self.windows.iter_mut().flatten() {
                window.heat /= 2;
            }
        }
    }
}

impl Window {
    fn knows(&self, page: usize) -> bool {
        let word = self.known.get(page / 64);
        word.is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    fn learn(&mut self, page: usize) {
        if let Some(word) = self.known.get_mut(page / 64) {
            *word |= 1 << (page % 64);
        }
    }
}

/// The window that holds a range of a file that may be mapped, and where in it the range begins.
fn locate(file: &FileStorage, offset: u64, len: usize) -> Option<(WindowId, usize)> {
    let (file, start) = file.lendable_at(offset, len as u64)?;
    let (number, at) = (start / WINDOW_LEN as u64, start % WINDOW_LEN as u64);
    let at = usize::try_from(at).ok()?;
    let inside = len > 0 && at.checked_add(len)? <= WINDOW_LEN;
    inside.then_some((WindowId { file, number }, at))
}

/// Pages of a window that hold a range of it.
fn pages(at: usize, len: usize) -> core::ops::Range<usize> {
    at / PAGE_LEN..at.saturating_add(len).div_ceil(PAGE_LEN)
}

/// Pages that this thread has waited for so far.
fn major_faults() -> u64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the structure is large enough. A call that fails leaves it as it is.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
    // SAFETY: integers only, all of them zero to begin with.
    let usage = unsafe { usage.assume_init() };
    u64::try_from(usage.ru_majflt).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::{self, Write};
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    use super::*;
    use crate::storage::{Access, FileOptions};

    const WINDOWS_MAX: usize = WAYS * SETS;
    const WINDOW: u64 = WINDOW_LEN as u64;
    const PAGE: u64 = PAGE_LEN as u64;

    /// Every page is filled with the low byte of its number.
    fn image(directory: &Path, name: &str, len: usize) -> FileStorage {
        let path = directory.join(name);
        let mut file = File::create(&path).unwrap();
        for page in 0..len / PAGE_LEN {
            file.write_all(&[u8::try_from(page % 256).unwrap(); PAGE_LEN]).unwrap();
        }
        FileStorage::open(&path, &FileOptions::default()).unwrap()
    }

    /// Reads a page as the driver does, until it is lent.
    fn heat_up(windows: &mut Windows, file: &FileStorage, offset: u64) -> Option<MappedBytes> {
        for _ in 0..2 * HOT {
            if let Some(lent) = windows.lend(file, offset, 512) {
                return Some(lent);
            }
            windows.found(file, offset, 512);
            windows.settle(Duration::ZERO);
        }
        None
    }

    /// Has the kernel read what was lent.
    fn copied(lent: MappedBytes) -> io::Result<Vec<u8>> {
        let (reader, writer) = io::pipe()?;
        // SAFETY: a system call reads the bytes; what it makes of a bad address is the question.
        let written = unsafe {
            use std::os::fd::AsRawFd;
            libc::write(writer.as_raw_fd(), lent.start().cast(), lent.len())
        };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())?;
        drop(writer);
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut { reader }, &mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn what_is_read_often_is_lent() {
        let directory = tempfile::tempdir().unwrap();
        let file = image(directory.path(), "g", 8 << 20);
        let mut windows = Windows::new();
        let offset = WINDOW + 5 * PAGE + 1024;
        for read in 0..HOT {
            assert_eq!(windows.lend(&file, offset, 512), None, "read {read}");
            windows.found(&file, offset, 512);
        }
        windows.settle(Duration::ZERO);
        assert_eq!(windows.mapped_len(), WINDOW_LEN);
        assert_eq!(windows.lend(&file, offset, 512), None, "not known to be in memory");
        windows.found(&file, offset, 512);
        let lent = windows.lend(&file, offset, 512).unwrap();
        assert_eq!(copied(lent).unwrap(), [5; 512], "page 517 is filled with 5");
        assert_eq!(windows.lend(&file, offset + PAGE, 512), None, "another page");
        assert_eq!(windows.lend(&file, offset, PAGE_LEN), None, "reaches into another page");
        windows.doubt();
        assert_eq!(windows.lend(&file, offset, 512), None, "doubted");
    }

    #[test]
    fn what_is_written_is_lent_as_it_is_now() {
        let directory = tempfile::tempdir().unwrap();
        drop(image(directory.path(), "g", 4 << 20));
        let written = FileOptions { access: Access::ReadWrite, ..FileOptions::default() };
        let file = FileStorage::open(directory.path().join("g"), &written).unwrap();
        let mut windows = Windows::new();
        if let Some(lent) = heat_up(&mut windows, &file, 3 * PAGE) {
            assert_eq!(copied(lent).unwrap(), [3; 512]);
            file.write(3 * PAGE, &[77; 256]).unwrap();
            assert_eq!(copied(lent).unwrap(), [[77; 256], [3; 256]].concat());
            file.zero(3 * PAGE, 4096).unwrap();
            assert_eq!(copied(lent).unwrap(), [0; 512]);
        } else {
            // A file system of which that is not known: never lent.
            assert_eq!(file.lendable_at(0, 1), None);
        }
    }

    #[test]
    fn what_leaves_its_window_is_not_lent() {
        let directory = tempfile::tempdir().unwrap();
        let frozen = image(directory.path(), "g", 8 << 20);
        let mut windows = Windows::new();
        assert!(heat_up(&mut windows, &frozen, WINDOW - 512).is_some());
        assert!(heat_up(&mut windows, &frozen, WINDOW).is_some());
        assert_eq!(windows.lend(&frozen, WINDOW - 512, 1024), None);
        assert_eq!(windows.lend(&frozen, u64::MAX - 100, 512), None);
        assert_eq!(windows.lend(&frozen, 0, 0), None);
    }

    #[test]
    fn a_file_that_was_cut_short_is_told_by_the_kernel() {
        let directory = tempfile::tempdir().unwrap();
        let file = image(directory.path(), "g", 4 << 20);
        let mut windows = Windows::new();
        let lent = heat_up(&mut windows, &file, 3 << 20).unwrap();
        OpenOptions::new()
            .write(true)
            .open(directory.path().join("g"))
            .unwrap()
            .set_len(1 << 20)
            .unwrap();
        lent.prefetch(); // does not end this process
        assert_eq!(copied(lent).unwrap_err().raw_os_error(), Some(libc::EFAULT));
        windows.doubt();
        assert_eq!(windows.lend(&file, 3 << 20, 512), None);
    }

    #[test]
    fn windows_are_few_and_go_to_what_is_read_most() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("g");
        let file = File::create(&path).unwrap();
        file.set_len(4 * WINDOWS_MAX as u64 * WINDOW).unwrap();
        let file = FileStorage::open(&path, &FileOptions::default()).unwrap();
        let mut windows = Windows::new();
        // Spread over everything, nothing is read often.
        for round in 0..2 {
            for window in 0..4 * WINDOWS_MAX as u64 {
                assert_eq!(windows.lend(&file, window * WINDOW + round * 512, 512), None);
                windows.settle(Duration::ZERO);
            }
        }
        assert_eq!(windows.mapped_len(), 0);
        for window in 0..WINDOWS_MAX as u64 {
            assert!(heat_up(&mut windows, &file, window * WINDOW).is_some());
        }
        assert_eq!(windows.mapped_len(), WINDOWS_MAX * WINDOW_LEN);
        // A window of its set that is not read any more makes room.
        let newcomer = WINDOWS_MAX as u64 * WINDOW;
        let came = (0..10).any(|_| heat_up(&mut windows, &file, newcomer).is_some());
        assert!(came, "displaces another one");
        assert_eq!(windows.mapped_len(), WINDOWS_MAX * WINDOW_LEN);
    }

    #[test]
    fn parts_of_a_file_are_lent_at_their_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("g");
        drop(image(directory.path(), "g", 4 << 20));
        File::options().write(true).open(&path).unwrap().write_all_at(b"here", 1 << 20).unwrap();
        let window = crate::config::Window { offset_bytes: 1 << 20, len_bytes: Some(1 << 20) };
        let file = FileStorage::open(&path, &FileOptions { window, ..FileOptions::default() });
        let file = file.unwrap();
        let mut windows = Windows::new();
        let lent = heat_up(&mut windows, &file, 0).unwrap();
        assert_eq!(copied(lent).unwrap()[..4], *b"here");
        assert_eq!(windows.lend(&file, (1 << 20) - 256, 512), None, "beyond the part");
    }
}
