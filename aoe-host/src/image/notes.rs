//! Notes of what `writeback` acknowledged and did not publish yet: they outlive the process, not
//! the power. `docs/NOTES.md` describes the file.
//!
//! 1. A note is in the file before its write is acknowledged; one system call appends those of
//!    writes that ended together, and a record that was cut by the death of the process is not a
//!    record.
//! 2. Notes are taken up only by the overlay, the epoch, the session and the boot that made them.
//! 3. What was noted before a seal is dropped only after the commit that publishes it is durable.

use core::fmt;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cow_core::engine::Note;
use cow_core::format::native;
use cow_core::identity::LayerId;
use cow_core::units::Extent;
use crc::{CRC_32_ISCSI, Crc};
use rustix::fs::FallocateFlags;

use crate::error::{ErrorKind, HostError, Result};

const MAGIC: [u8; 8] = *b"cowNOTE1";
const HEADER_LEN: usize = 80;
const RECORD_LEN: usize = 32;
/// Where in the header the offset of the first record that counts is.
const START_AT: u64 = 72;
/// Offset of data in a note of zeros.
const ZEROS: u64 = u64::MAX;
const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// Where notes are kept unless told otherwise: in memory, private to the user. For root it is the
/// same however the server is started; a user's runtime directory goes with the last session.
pub fn default_notes_directory() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/run/cowblade");
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(runtime) if !runtime.is_empty() => PathBuf::from(runtime).join("cowblade"),
        _ => PathBuf::from(format!("/dev/shm/cowblade-{}", rustix::process::geteuid().as_raw())),
    }
}

/// Which overlay notes belong to, and in which state it was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NoteId {
    layer: LayerId,
    epoch: u64,
    session: u64,
}

impl NoteId {
    pub(super) fn new(layer: LayerId, epoch: u64, session: u64) -> Self {
        Self { layer, epoch, session }
    }

    /// The layer.
    pub(crate) fn layer(&self) -> LayerId {
        self.layer
    }

    /// Of a native overlay as its header is now.
    pub(crate) fn of(header: &native::Header) -> Self {
        Self::new(header.layer_id, header.epoch, header.session)
    }

    /// The overlay is still in the state in which `earlier` made notes, or in the session that the
    /// same process began after that.
    fn continues(&self, earlier: &Self) -> bool {
        self.layer == earlier.layer
            && self.epoch == earlier.epoch
            && (self.session == earlier.session || self.session == earlier.session.wrapping_add(1))
    }
}

/// The notes of one overlay. The overlay's lock keeps other processes away.
#[derive(Debug)]
pub struct NoteLog {
    id: NoteId,
    path: PathBuf,
    boot: [u8; 16],
    /// Made with the first note.
    file: Option<File>,
    /// Where the next record goes, and where the sealed ones end.
    end: u64,
    sealed: Option<u64>,
    /// Of the notes that were appended last: the memory is used again.
    records: Vec<u8>,
}

impl NoteLog {
    /// The notes of an overlay in `directory`, which is made if it does not exist. What an earlier
    /// process left stays until [`load`](Self::load) has looked at it.
    ///
    /// # Errors
    /// The system's; a directory that others may write to.
    pub fn open(directory: &Path, id: NoteId) -> Result<Self> {
        prepare_directory(directory)?;
        let path = directory.join(format!("{}.notes", id.layer));
        let boot = boot_id()?;
        Ok(Self {
            id,
            path,
            boot,
            file: None,
            end: HEADER_LEN as u64,
            sealed: None,
            records: Vec::new(),
        })
    }

    /// Whether an earlier process left notes, without touching them or making anything.
    ///
    /// # Errors
    /// The system's.
    pub fn is_pending(directory: &Path, id: NoteId) -> Result<bool> {
        let path = directory.join(format!("{}.notes", id.layer));
        let failed = |e| HostError::io(e, "read the notes").path(&path);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(failed(e)),
        };
        let Some(head) = usable_header(&file, id, boot_id()?).map_err(failed)? else {
            return Ok(false);
        };
        Ok(!read_records(&file, &head).map_err(failed)?.0.is_empty())
    }

    /// What an earlier process of this boot acknowledged and did not publish: every sector at most
    /// once, so that the order does not matter. The notes stay in the file until they are sealed
    /// and dropped.
    ///
    /// # Errors
    /// The system's. A file that is cut, or belongs to another time, is no error: it holds no notes.
    pub fn load(&mut self) -> Result<Vec<Note>> {
        let failed = |e| HostError::io(e, "read the notes").path(&self.path);
        let file = match OpenOptions::new().read(true).write(true).open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(failed(e)),
        };
        let Some(head) = usable_header(&file, self.id, self.boot).map_err(failed)? else {
            // Of another boot, or published long ago: the next note starts a new file.
            return Ok(Vec::new());
        };
        let (notes, end) = read_records(&file, &head).map_err(failed)?;
        // From now on they belong to this session, without ever being nobody's.
        let renewed = Header { id: self.id, ..head };
        file.write_all_at(&renewed.emit(), 0).map_err(failed)?;
        // The record that was cut, if any, is not in the way of the next ones.
        file.set_len(end).map_err(failed)?;
        self.end = end;
        self.file = Some(file);
        Ok(notes)
    }

    /// Keeps notes. When this returns, they outlive the process.
    ///
    /// # Errors
    /// The system's, such as no room; none of the notes is kept then.
    pub fn append(&mut self, notes: &[Note]) -> Result<()> {
        let mut end = self.end;
        let mut records = core::mem::take(&mut self.records);
        records.clear();
        for note in notes {
            records.extend_from_slice(&record_of(note, &self.id.layer, end));
            end = end.saturating_add(RECORD_LEN as u64);
        }
        let at = self.end;
        let written = self.file().and_then(|file| {
            file.write_all_at(&records, at).map_err(|e| {
                // The first few may be there. Behind those that take their place they would be later
                // than what came after them.
                let _cut = file.set_len(at);
                HostError::io(e, "keep notes")
            })
        });
        self.records = records;
        written.map_err(|e| e.path(&self.path))?;
        self.end = end;
        Ok(())
    }

    /// The commit that begins now publishes the notes so far.
    ///
    /// # Errors
    /// None so far; the next call may have to write.
    pub fn seal(&mut self) -> Result<()> {
        self.sealed = Some(self.end);
        Ok(())
    }

    /// The notes before the last seal are published: forget them.
    ///
    /// # Errors
    /// The system's; the notes stay then, and are taken up again after a crash, which only repeats
    /// what is published already.
    pub fn drop_sealed(&mut self) -> Result<()> {
        let (Some(sealed), Some(file)) = (self.sealed.take(), &self.file) else { return Ok(()) };
        let failed = |e| HostError::io(e, "forget notes in").path(&self.path);
        if sealed == self.end {
            let first = HEADER_LEN as u64;
            // In this order: a start behind the end means no notes.
            file.set_len(first).map_err(failed)?;
            file.write_all_at(&first.to_le_bytes(), START_AT).map_err(failed)?;
            self.end = first;
            return Ok(());
        }
        file.write_all_at(&sealed.to_le_bytes(), START_AT).map_err(failed)?;
        let whole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let first = 4096;
        // Memory is given back where the file system can; the start has moved on anyway.
        let _kept = rustix::fs::fallocate(file, whole, first, sealed.saturating_sub(first));
        Ok(())
    }

    /// Forgets everything: the overlay was closed in order, or is gone.
    ///
    /// # Errors
    /// The system's.
    pub fn remove(self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(HostError::io(e, "remove the notes").path(&self.path))
            }
            _ => Ok(()),
        }
    }

    fn file(&mut self) -> Result<&File> {
        if self.file.is_none() {
            let made = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&self.path);
            let failed = |e| HostError::io(e, "make the notes").path(&self.path);
            let file = made.map_err(failed)?;
            let header = Header { id: self.id, boot: self.boot, start: HEADER_LEN as u64 };
            file.write_all_at(&header.emit(), 0).map_err(failed)?;
            self.file = Some(file);
        }
        let path = &self.path;
        self.file.as_ref().ok_or_else(|| HostError::new(ErrorKind::Io, "make the notes").path(path))
    }
}

impl fmt::Display for NoteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (epoch {}, session {})", self.layer, self.epoch, self.session)
    }
}

/// The beginning of the file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Header {
    id: NoteId,
    boot: [u8; 16],
    /// Offset of the first record that counts. Not under the checksum: it is replaced alone, by one
    /// write that cannot be cut.
    start: u64,
}

impl Header {
    fn emit(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut to = Fields(&mut bytes);
        to.put(&MAGIC);
        to.put(&self.id.layer.0);
        to.put(&self.boot);
        to.put(&self.id.epoch.to_le_bytes());
        to.put(&self.id.session.to_le_bytes());
        to.put(&[0; 12]);
        let (fixed, _rest) = bytes.split_at(68);
        let crc = CRC32C.checksum(fixed);
        let mut to = Fields(&mut bytes);
        to.skip(68);
        to.put(&crc.to_le_bytes());
        to.put(&self.start.to_le_bytes());
        bytes
    }

    fn parse(bytes: &[u8; HEADER_LEN]) -> Option<Self> {
        let mut from = Taken(bytes);
        let magic: [u8; 8] = from.take()?;
        let layer = LayerId(from.take()?);
        let boot = from.take()?;
        let epoch = u64::from_le_bytes(from.take()?);
        let session = u64::from_le_bytes(from.take()?);
        let _reserved: [u8; 12] = from.take()?;
        let crc = u32::from_le_bytes(from.take()?);
        let start = u64::from_le_bytes(from.take()?);
        let (fixed, _rest) = bytes.split_at(68);
        let is_whole = magic == MAGIC && crc == CRC32C.checksum(fixed);
        let fits = start >= HEADER_LEN as u64;
        (is_whole && fits).then_some(Self { id: NoteId { layer, epoch, session }, boot, start })
    }
}

/// A record: first sector, number of sectors, offset of the data, half of its own offset in the
/// file, checksum over the layer's identity and the 28 bytes before.
fn record_of(note: &Note, layer: &LayerId, at: u64) -> [u8; RECORD_LEN] {
    let mut bytes = [0; RECORD_LEN];
    let mut to = Fields(&mut bytes);
    to.put(&note.extent.start().get().to_le_bytes());
    to.put(&note.extent.sectors().to_le_bytes());
    to.put(&note.offset.unwrap_or(ZEROS).to_le_bytes());
    to.put(&place_of(at));
    let crc = record_crc(&bytes, layer);
    let mut to = Fields(&mut bytes);
    to.skip(28);
    to.put(&crc.to_le_bytes());
    bytes
}

/// The number of the record, of which the low 32 bits tell an old one from a new one.
fn place_of(at: u64) -> [u8; 4] {
    let number = at / RECORD_LEN as u64;
    u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0).to_le_bytes()
}

fn record_crc(bytes: &[u8; RECORD_LEN], layer: &LayerId) -> u32 {
    let mut digest = CRC32C.digest();
    digest.update(&layer.0);
    digest.update(bytes.split_at(28).0);
    digest.finalize()
}

fn parse_record(bytes: &[u8; RECORD_LEN], layer: &LayerId, at: u64) -> Option<Note> {
    let mut from = Taken(bytes);
    let (start, sectors) = (u64::from_le_bytes(from.take()?), u64::from_le_bytes(from.take()?));
    let offset = u64::from_le_bytes(from.take()?);
    let place: [u8; 4] = from.take()?;
    let crc = u32::from_le_bytes(from.take()?);
    if crc != record_crc(bytes, layer) || place != place_of(at) {
        return None;
    }
    let extent = Extent::new(start, sectors).filter(|e| !e.is_empty())?;
    Some(Note { extent, offset: (offset != ZEROS).then_some(offset) })
}

/// The beginning of a file of notes that still count.
fn usable_header(file: &File, id: NoteId, boot: [u8; 16]) -> io::Result<Option<Header>> {
    let len = file.metadata()?.len();
    let mut bytes = [0; HEADER_LEN];
    if len < HEADER_LEN as u64 {
        return Ok(None);
    }
    file.read_exact_at(&mut bytes, 0)?;
    let is_ours = |h: &Header| h.boot == boot && h.start <= len && id.continues(&h.id);
    Ok(Header::parse(&bytes).filter(is_ours))
}

/// Every record from the start on, up to the first that is none, as one state per sector; and
/// where the records end.
fn read_records(file: &File, header: &Header) -> io::Result<(Vec<Note>, u64)> {
    let mut states = States::default();
    let mut at = header.start;
    let mut buf = vec![0; RECORD_LEN * 2048];
    'file: loop {
        let got = file.read_at(&mut buf, at)?;
        let (records, _cut) = buf.get(..got).unwrap_or_default().as_chunks::<RECORD_LEN>();
        if records.is_empty() {
            break;
        }
        for record in records {
            let Some(note) = parse_record(record, &header.id.layer, at) else { break 'file };
            states.put(&note);
            at = at.saturating_add(RECORD_LEN as u64);
        }
    }
    Ok((states.into_notes(), at))
}

/// The latest note of every sector: by first sector, the sectors behind it and where they are.
#[derive(Default)]
struct States(BTreeMap<u64, (u64, Option<u64>)>);

impl States {
    fn put(&mut self, note: &Note) {
        let (start, end) = (note.extent.start().get(), note.extent.end().get());
        self.cut(start);
        self.cut(end);
        let covered: Vec<u64> = self.0.range(start..end).map(|(at, _)| *at).collect();
        for at in covered {
            self.0.remove(&at);
        }
        self.0.insert(start, (note.extent.sectors(), note.offset));
    }

    /// Splits the range that goes across sector `at`.
    fn cut(&mut self, at: u64) {
        let Some((&start, &(sectors, offset))) = self.0.range(..at).next_back() else { return };
        let before = at.saturating_sub(start);
        if before < sectors {
            let moved = offset.map(|o| o.saturating_add(before.saturating_mul(512)));
            self.0.insert(start, (before, offset));
            self.0.insert(at, (sectors.saturating_sub(before), moved));
        }
    }

    fn into_notes(self) -> Vec<Note> {
        let note = |(start, (sectors, offset))| {
            Some(Note { extent: Extent::new(start, sectors)?, offset })
        };
        self.0.into_iter().filter_map(note).collect()
    }
}

/// The directory exists, is ours, and nobody else can put anything into it.
fn prepare_directory(directory: &Path) -> Result<()> {
    let failed = |e| HostError::io(e, "prepare the directory of notes").path(directory);
    let mut builder = DirBuilder::new();
    match builder.recursive(true).mode(0o700).create(directory) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(e)),
        _ => {}
    }
    let about = fs::symlink_metadata(directory).map_err(failed)?;
    let is_ours = about.uid() == rustix::process::geteuid().as_raw();
    if about.is_dir() && is_ours && about.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(HostError::new(ErrorKind::PermissionDenied, "keep notes in")
        .path(directory)
        .detail("it is no directory, belongs to another user, or others may write to it")
        .advice("name another directory that only this user may write to"))
}

/// Which run of the system this is: notes of an earlier one are worthless.
fn boot_id() -> Result<[u8; 16]> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(PATH).map_err(|e| HostError::io(e, "read").path(PATH))?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let number = u128::from_str_radix(&digits, 16);
    let number = number.map_err(|e| HostError::new(ErrorKind::Io, "read").path(PATH).source(e))?;
    Ok(number.to_be_bytes())
}

/// Puts fields one after the other; what does not fit is left out (sizes are constants).
struct Fields<'a>(&'a mut [u8]);

impl Fields<'_> {
    fn put(&mut self, field: &[u8]) {
        let whole = core::mem::take(&mut self.0);
        let Some((target, rest)) = whole.split_at_mut_checked(field.len()) else { return };
        target.copy_from_slice(field);
        self.0 = rest;
    }

    fn skip(&mut self, len: usize) {
        let whole = core::mem::take(&mut self.0);
        self.0 = whole.get_mut(len..).unwrap_or_default();
    }
}

/// Takes fields one after the other.
struct Taken<'a>(&'a [u8]);

impl Taken<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }
}

#[cfg(test)]
mod overlay_tests;
#[cfg(test)]
mod tests;
