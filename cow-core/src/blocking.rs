//! The simple driver: performs every operation at once over the blocking storage traits.
//!
//! For tools, tests and small firmware. One request at a time; the engine's pipelining is idle.

use embedded_io::ErrorKind;

use crate::engine::{
    Buffer, Engine, Failure, IoFailure, Kind, Lent, MAX_REQUEST_SECTORS, Note, Operation, Output,
    Request, RequestId, SubmitError,
};
use crate::format::{Packed, Run};
use crate::pages::StorageKey;
use crate::storage::{ReadStorage, Storage};
use crate::units::{Extent, Lba, SECTOR_BYTES, SECTOR_LEN};

/// The storages of a chain by key. A key that is not among them fails as a broken medium.
pub trait Storages {
    /// As [`ReadStorage::read_at`].
    ///
    /// # Errors
    /// What the engine needs to know of the storage's error.
    fn read(&self, key: StorageKey, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure>;

    /// Fills `buf` with the bytes of an unpacked unit from `packed.from` on. The default has no
    /// codec at all.
    ///
    /// # Errors
    /// As [`read`](Self::read), [`IoFailure::NoCodec`] and [`IoFailure::Damaged`].
    fn unpack(&self, key: StorageKey, packed: &Packed, buf: &mut [u8]) -> Result<(), IoFailure> {
        let _ = (key, packed, buf);
        Err(IoFailure::NoCodec)
    }

    /// As [`Storage::write_at`].
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn write(&mut self, key: StorageKey, offset: u64, data: &[u8]) -> Result<(), IoFailure>;

    /// As [`Storage::zero_at`].
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn zero(&mut self, key: StorageKey, offset: u64, len: u64) -> Result<(), IoFailure>;

    /// As [`Storage::punch`].
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn punch(&mut self, key: StorageKey, offset: u64, len: u64) -> Result<(), IoFailure>;

    /// As [`Storage::sync`].
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn sync(&mut self, key: StorageKey) -> Result<(), IoFailure>;
}

/// What the engine acts on of a storage's error.
fn io<E: embedded_io::Error>(error: &E) -> IoFailure {
    match error.kind() {
        ErrorKind::OutOfMemory | ErrorKind::WriteZero => IoFailure::Full,
        _ => IoFailure::Medium,
    }
}

/// Storages numbered by their keys.
impl<S: Storage> Storages for [S] {
    fn read(&self, key: StorageKey, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure> {
        let storage = self.get(key.0 as usize).ok_or(IoFailure::Medium)?;
        storage.read_at(offset, buf).map_err(|e| io(&e))
    }

    fn write(&mut self, key: StorageKey, offset: u64, data: &[u8]) -> Result<(), IoFailure> {
        let storage = self.get_mut(key.0 as usize).ok_or(IoFailure::Medium)?;
        storage.write_at(offset, data).map_err(|e| io(&e))
    }

    fn zero(&mut self, key: StorageKey, offset: u64, len: u64) -> Result<(), IoFailure> {
        let storage = self.get_mut(key.0 as usize).ok_or(IoFailure::Medium)?;
        storage.zero_at(offset, len).map_err(|e| io(&e))
    }

    fn punch(&mut self, key: StorageKey, offset: u64, len: u64) -> Result<(), IoFailure> {
        let storage = self.get_mut(key.0 as usize).ok_or(IoFailure::Medium)?;
        storage.punch(offset, len).map_err(|e| io(&e))
    }

    fn sync(&mut self, key: StorageKey) -> Result<(), IoFailure> {
        let storage = self.get_mut(key.0 as usize).ok_or(IoFailure::Medium)?;
        storage.sync().map_err(|e| io(&e))
    }
}

/// An overlay with key 0 over a base with key 1.
#[derive(Debug)]
pub struct OverBase<O, B> {
    /// Key 0.
    pub overlay: O,
    /// Key 1; never written.
    pub base: B,
}

impl<O: Storage, B: ReadStorage> Storages for OverBase<O, B> {
    fn read(&self, key: StorageKey, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure> {
        match key.0 {
            0 => self.overlay.read_at(offset, buf).map_err(|e| io(&e)),
            1 => self.base.read_at(offset, buf).map_err(|e| io(&e)),
            _ => Err(IoFailure::Medium),
        }
    }

    fn write(&mut self, key: StorageKey, offset: u64, data: &[u8]) -> Result<(), IoFailure> {
        match key.0 {
            0 => self.overlay.write_at(offset, data).map_err(|e| io(&e)),
            _ => Err(IoFailure::Medium),
        }
    }

    fn zero(&mut self, key: StorageKey, offset: u64, len: u64) -> Result<(), IoFailure> {
        match key.0 {
            0 => self.overlay.zero_at(offset, len).map_err(|e| io(&e)),
            _ => Err(IoFailure::Medium),
        }
    }

    fn punch(&mut self, key: StorageKey, offset: u64, len: u64) -> Result<(), IoFailure> {
        match key.0 {
            0 => self.overlay.punch(offset, len).map_err(|e| io(&e)),
            _ => Err(IoFailure::Medium),
        }
    }

    fn sync(&mut self, key: StorageKey) -> Result<(), IoFailure> {
        match key.0 {
            0 => self.overlay.sync().map_err(|e| io(&e)),
            _ => Err(IoFailure::Medium),
        }
    }
}

/// Why a blocking call failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum CallError {
    /// The buffer's length is not a multiple of 512, or the range ends past the disk of so many
    /// sectors. Nothing was done.
    OutOfRange {
        /// Size of the disk in sectors.
        sectors: u64,
    },
    /// The request was taken and failed.
    Failed(Failure),
    /// The engine stopped without an answer, which is a defect. When another engine holds the
    /// pages of the pool, the call fails with [`Failure::Full`].
    Stalled,
}

impl core::fmt::Display for CallError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::OutOfRange { sectors } => write!(f, "outside the disk of {sectors} sectors"),
            Self::Failed(failure) => failure.fmt(f),
            Self::Stalled => f.write_str("the engine gave no answer"),
        }
    }
}

impl core::error::Error for CallError {}

/// How a request ended, and what it reported.
struct Answer(Option<Result<(), Failure>>, Option<(u16, Run)>);

/// A request's own memory.
enum Memory<'b> {
    None,
    Into(&'b mut [u8]),
    From(&'b [u8]),
}

/// An engine with everything it needs, driven by one caller.
#[derive(Debug)]
pub struct Blocking<'a, 'p, S: ?Sized, const SLOTS: usize> {
    /// The chain.
    pub engine: &'a mut Engine<SLOTS>,
    /// Its memory and layers.
    pub lent: Lent<'a, 'p>,
    /// Its storages.
    pub storages: &'a mut S,
}

impl<S: Storages + ?Sized, const SLOTS: usize> Blocking<'_, '_, S, SLOTS> {
    /// Fills `buf` from sector `lba` on.
    ///
    /// # Errors
    /// [`CallError`]; `buf` then holds anything.
    pub fn read(&mut self, lba: Lba, buf: &mut [u8]) -> Result<(), CallError> {
        let mut at = lba.get();
        for piece in buf.chunks_mut(PIECE_LEN) {
            let extent = self.extent(at, piece.len())?;
            at = extent.end().get();
            self.call(Request::Read(extent), Memory::Into(piece)).map(drop)?;
        }
        Ok(())
    }

    /// Writes `data` from sector `lba` on, acknowledged as the engine's durability says.
    ///
    /// # Errors
    /// [`CallError`]; every sector then holds old or new bytes.
    pub fn write(&mut self, lba: Lba, data: &[u8]) -> Result<(), CallError> {
        let mut at = lba.get();
        for piece in data.chunks(PIECE_LEN) {
            let extent = self.extent(at, piece.len())?;
            at = extent.end().get();
            self.call(Request::Write { extent, durable: false }, Memory::From(piece)).map(drop)?;
        }
        Ok(())
    }

    /// Makes sectors read as zeros.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn zero(&mut self, extent: Extent) -> Result<(), CallError> {
        self.call(Request::Zero(extent), Memory::None).map(drop)
    }

    /// Forgets sectors.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn discard(&mut self, extent: Extent) -> Result<(), CallError> {
        self.call(Request::Discard(extent), Memory::None).map(drop)
    }

    /// Makes everything acknowledged durable, published metadata included, in every durability mode.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn flush(&mut self) -> Result<(), CallError> {
        self.call(Request::Flush, Memory::None)?;
        self.engine.commit();
        // The flush answered for what was asked; this for what the commit met.
        let _no_request = self.drive(&mut Memory::None);
        match (self.engine.is_dirty(), self.engine.is_read_only()) {
            (false, _) => Ok(()),
            (true, true) => Err(CallError::Failed(Failure::Medium)),
            (true, false) => Err(CallError::Failed(Failure::Full)),
        }
    }

    /// Takes up a mapping that was noted but not published.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn restore(&mut self, note: Note) -> Result<(), CallError> {
        self.call(Request::Restore(note), Memory::None).map(drop)
    }

    /// Where the first sectors of `extent` live: layer (0 is the overlay) and run.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn map(&mut self, extent: Extent) -> Result<(u16, Run), CallError> {
        self.call(Request::Map(extent), Memory::None)?.ok_or(CallError::Stalled)
    }

    fn extent(&self, at: u64, len: usize) -> Result<Extent, CallError> {
        let refused = CallError::OutOfRange { sectors: self.engine.sectors() };
        if !len.is_multiple_of(SECTOR_LEN) {
            return Err(refused);
        }
        Extent::new(at, len as u64 / SECTOR_BYTES).ok_or(refused)
    }

    fn call(
        &mut self,
        request: Request,
        mut memory: Memory<'_>,
    ) -> Result<Option<(u16, Run)>, CallError> {
        self.engine.submit(RequestId(0), request).map_err(|e| match e {
            SubmitError::OutOfRange { sectors } => CallError::OutOfRange { sectors },
            SubmitError::Busy => CallError::Stalled,
        })?;
        let mut answer = self.drive(&mut memory);
        if answer.0.is_none() {
            // Other engines of the pool may have given pages back since it last asked.
            self.engine.wake();
            answer = self.drive(&mut memory);
        }
        if answer.0.is_none() {
            // Nobody else runs meanwhile, and the request must not outlive its buffer.
            self.engine.give_up();
            answer = self.drive(&mut memory);
        }
        answer.0.ok_or(CallError::Stalled)?.map_err(CallError::Failed)?;
        Ok(answer.1)
    }

    /// Runs the engine until it has nothing more to do.
    fn drive(&mut self, memory: &mut Memory<'_>) -> Answer {
        let (mut done, mut mapped) = (None, None);
        while let Some(output) = self.engine.poll(&mut self.lent) {
            match output {
                Output::Operation(operation) => {
                    let result = self.perform(&operation, memory);
                    self.engine.complete(&mut self.lent, operation.ticket, result);
                }
                Output::Fill { offset, len, .. } => {
                    if let Memory::Into(buf) = memory
                        && let Some(part) = part_mut(buf, offset, u64::from(len))
                    {
                        part.fill(0);
                    }
                }
                Output::Note { ticket, .. } => {
                    self.engine.complete(&mut self.lent, ticket, Ok(()));
                }
                Output::Mapped { depth, run, .. } => mapped = Some((depth, run)),
                Output::Done { result, .. } => done = Some(result),
                // Weaves nobody asked for.
                Output::NotesSealed | Output::NotesDurable | Output::Weave(_) => {}
            }
        }
        Answer(done, mapped)
    }

    fn perform(&mut self, o: &Operation, memory: &mut Memory<'_>) -> Result<(), IoFailure> {
        let storages = &mut *self.storages;
        match (o.kind, o.buffer) {
            (Kind::Read, Buffer::Page { page, offset }) => {
                let part = part_mut(self.lent.pages.bytes_mut(page), offset, o.len);
                storages.read(o.storage, o.offset, part.ok_or(IoFailure::Medium)?)
            }
            (Kind::Unpack(packed), Buffer::Page { page, offset }) => {
                let part = part_mut(self.lent.pages.bytes_mut(page), offset, o.len);
                storages.unpack(o.storage, &packed, part.ok_or(IoFailure::Medium)?)
            }
            (Kind::Unpack(packed), Buffer::Request { offset, .. }) => {
                let Memory::Into(buf) = memory else { return Err(IoFailure::Medium) };
                let part = part_mut(buf, offset, o.len).ok_or(IoFailure::Medium)?;
                storages.unpack(o.storage, &packed, part)
            }
            (Kind::Write, Buffer::Page { page, offset }) => {
                let part = part(self.lent.pages.bytes(page), offset, o.len);
                storages.write(o.storage, o.offset, part.ok_or(IoFailure::Medium)?)
            }
            (Kind::Read, Buffer::Request { offset, .. }) => {
                let Memory::Into(buf) = memory else { return Err(IoFailure::Medium) };
                let part = part_mut(buf, offset, o.len).ok_or(IoFailure::Medium)?;
                storages.read(o.storage, o.offset, part)
            }
            (Kind::Write, Buffer::Request { offset, .. }) => {
                let Memory::From(data) = memory else { return Err(IoFailure::Medium) };
                let part = part(data, offset, o.len).ok_or(IoFailure::Medium)?;
                storages.write(o.storage, o.offset, part)
            }
            (Kind::Zero, _) => storages.zero(o.storage, o.offset, o.len),
            (Kind::Punch, _) => storages.punch(o.storage, o.offset, o.len),
            (Kind::Sync, _) => storages.sync(o.storage),
            (Kind::Read | Kind::Unpack(_) | Kind::Write, Buffer::None) => Err(IoFailure::Medium),
        }
    }
}

/// Bytes of the longest single request.
const PIECE_LEN: usize = SECTOR_LEN << 16;
const _: () = assert!(PIECE_LEN as u64 == MAX_REQUEST_SECTORS * SECTOR_BYTES);

/// The range of a buffer that an operation names, if it is inside.
pub fn part(bytes: &[u8], offset: u32, len: u64) -> Option<&[u8]> {
    bytes.get(offset as usize..)?.get(..usize::try_from(len).ok()?)
}

/// As [`part`], to be filled.
pub fn part_mut(bytes: &mut [u8], offset: u32, len: u64) -> Option<&mut [u8]> {
    bytes.get_mut(offset as usize..)?.get_mut(..usize::try_from(len).ok()?)
}
