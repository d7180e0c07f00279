//! The seam between the engine and the on-disk formats.
//!
//! A format answers four questions and does no I/O itself: where sectors live ([`Map::locate`]),
//! how a metadata page is read and judged ([`Map::load`]), where a write goes and what must be
//! copied with it ([`Overlay::place`]), and how a new state enters a metadata page
//! ([`Overlay::apply`], [`Overlay::seal`]). The engine turns the answers into operations and keeps
//! their order. Opening, creating and checking an image happens outside the engine, over the
//! blocking storage traits, in the module of each format.

#[macro_use]
mod operation_error;

pub mod bitmap;
pub mod cowloop;
pub mod dm_cow;
pub mod dm_snapshot;
#[cfg(test)]
mod memory;
pub mod native;
pub mod qcow1;
pub mod qcow2;
pub mod raw;
pub mod uml;

use crate::pages::{PAGE_LEN, PagePool, StorageKey};
use crate::units::Extent;

/// Where the sectors of a run live in one layer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// Not in this layer: ask the one below.
    Absent,
    /// Zeros, whatever lies below.
    Zero,
    /// In this layer's storage from this byte on.
    Data {
        /// Byte offset in the layer's storage.
        offset: u64,
    },
    /// One sector of which the storage holds only the first `len` bytes; the rest is zeros.
    Tail {
        /// Byte offset in the layer's storage.
        offset: u64,
        /// Bytes held, 1 to 511.
        len: u16,
    },
    /// Within a compressed unit of this layer's storage.
    Packed(Packed),
}

/// How a compressed unit was made.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Codec {
    /// Raw deflate, without header and checksum (RFC 1951). The writers known use a window of
    /// 4 KiB [COW 5.1, 6.2]; readers must not need that.
    Deflate,
    /// A Zstandard frame (RFC 8878) [COW 6.1].
    Zstd,
}

/// A part of a compressed allocation unit.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Packed {
    /// Byte offset of the compressed bytes in the layer's storage; need not be aligned.
    pub offset: u64,
    /// Compressed bytes at most: the stream may end before, and the storage may end before that.
    pub len: u32,
    /// How they were made.
    pub codec: Codec,
    /// Bytes that the whole unit unpacks to: a power of two from 512 to 2 MiB.
    pub unit_len: u32,
    /// Byte of the unpacked unit at which the part begins, below `unit_len`.
    pub from: u32,
}

/// A maximal range of sectors in one place, from the start of the range that was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Run {
    /// Sectors in the run, at least 1, at most as many as were asked for.
    pub sectors: u64,
    /// Where they live.
    pub place: Place,
}

/// Most sectors of which [`Map::in_place`] tells at once.
pub const IN_PLACE_MAX: u64 = 64;

/// Answer of [`Map::in_place`], with a bit for each sector from the first one on. A sector with neither
/// bit is something else, or unknown.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct InPlace {
    /// Those that the layer's storage holds, in the order of the disk.
    pub data: u64,
    /// Those that are not in this layer.
    pub absent: u64,
    /// Byte of the storage where the first sector lies, or would if it was there: sector *n* of
    /// `data` lies 512 *n* bytes behind.
    pub offset: u64,
}

/// The lowest `count` bits, all if there are no more than that.
pub(crate) const fn low_bits(count: u64) -> u64 {
    if count < IN_PLACE_MAX { (1 << count) - 1 } else { u64::MAX }
}

/// Answer of [`Map::locate`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Located {
    /// The first sectors of the range.
    Run(Run),
    /// The metadata page with this index is needed.
    Load(u64),
    /// Metadata contradicts itself at this byte of the storage.
    Corrupt {
        /// Byte offset in the layer's storage.
        offset: u64,
    },
}

/// Next step in reading a metadata page.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Load {
    /// Read `len` bytes (1 to [`PAGE_LEN`]) at `offset` into the start of the page, then ask again
    /// with `step` one higher.
    Read {
        /// Byte offset in the layer's storage.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// The page now holds the current version; lookups may use it.
    Ready,
    /// The page cannot be trusted.
    Corrupt {
        /// Byte offset in the layer's storage.
        offset: u64,
    },
}

/// Reading half of a format. Every method is pure: no I/O, bounded work.
pub trait Map {
    /// Size of the virtual disk in sectors, 1 to [`MAX_SECTORS`](crate::units::MAX_SECTORS).
    fn sectors(&self) -> u64;

    /// The storage that the data are in, and the metadata of all formats but those that say
    /// otherwise in [`metadata`](Self::metadata).
    fn storage(&self) -> StorageKey;

    /// The storage that the metadata pages are in; offsets of corruption are in it too. A format
    /// that keeps them apart from the data must not answer [`Applied::WritePage`],
    /// [`Applied::ZeroFirst`] or a [`preamble`](Overlay::preamble): the sync before the pages
    /// covers [`storage`](Self::storage) only.
    fn metadata(&self) -> StorageKey {
        self.storage()
    }

    /// Where the first sectors of `extent` live. `extent` is not empty and inside
    /// [`sectors`](Self::sectors). `index` is the index memory of this very layer (empty for formats
    /// that page their metadata).
    fn locate(&self, extent: Extent, pages: &PagePool<'_>, index: &[IndexEntry]) -> Located;

    /// Where many sectors of `extent` live that alternate, if the layer has its data in the order of the
    /// disk and can tell at once; `None` otherwise, which is always allowed. `extent` has 1 to
    /// [`IN_PLACE_MAX`] sectors inside [`sectors`](Self::sectors). It never contradicts
    /// [`locate`](Self::locate), but may know less.
    fn in_place(&self, extent: Extent, pages: &PagePool<'_>) -> Option<InPlace> {
        let _: (Extent, &PagePool<'_>) = (extent, pages);
        None
    }

    /// How to read metadata page `page`: called with `step` 0, then again after each
    /// [`Load::Read`] with the bytes that arrived. `note` is kept between the steps and, after
    /// [`Load::Ready`], for as long as the page is in the pool.
    fn load(&self, page: u64, step: u8, note: &mut u64, bytes: &mut [u8; PAGE_LEN]) -> Load;
}

/// State that sectors take on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// The sectors are in the overlay's storage, where [`Overlay::place`] put them.
    Data,
    /// The sectors read as zeros.
    Zero,
}

/// Answer of [`Overlay::place`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Placed {
    /// Write the first `sectors` of the range at byte `offset`.
    Write {
        /// At least 1.
        sectors: u64,
        /// Byte offset in the overlay's storage.
        offset: u64,
        /// How many of these sectors had no space of their own before: counted against the limit
        /// of the overlay. Formats with allocation units count all that the unit adds.
        fresh: u64,
        /// The mapping changes and must be published before the write is acknowledged.
        publish: bool,
        /// These sectors around the written ones (already cut at the end of the disk) must be
        /// filled from the layers below, at `fill_offset` for the first of `fill`.
        fill: Option<Fill>,
    },
    /// Another request that is under way allocates here; ask again when it has ended.
    Busy,
    /// No more placements can be remembered: what this request has placed so far is to be applied
    /// first; ask again then, or, if that is nothing, when another request has ended.
    Enough,
    /// As [`Applied::AfterCommit`].
    AfterCommit,
    /// The metadata page with this index is needed.
    Load(u64),
    /// The storage has no room.
    Full,
    /// The format has no way to hold these sectors.
    Unsupported,
    /// The lent index memory has no room; this many entries would do.
    IndexFull {
        /// Entries.
        needed: u64,
    },
    /// Metadata contradicts itself at this byte of the overlay.
    Corrupt {
        /// Byte offset in the overlay's storage.
        offset: u64,
    },
}

/// An allocation unit that is filled from below around a partial write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fill {
    /// All sectors of the unit that exist in the disk, the written ones included.
    pub unit: Extent,
    /// Byte offset of the unit in the overlay's storage.
    pub offset: u64,
}

/// Answer of [`Overlay::clear`]: how the first sectors of a range can be made zero or given back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cleared {
    /// By [`Overlay::apply`] with [`State::Zero`]; afterwards the `sectors` from byte `offset` on
    /// are unreferenced by anything but these sectors of the disk, and may be punched.
    Mark {
        /// At least 1.
        sectors: u64,
        /// Byte offset in the overlay's storage; `None` if there is nothing to punch.
        offset: Option<u64>,
    },
    /// By zeroing the storage in place; the mapping stays.
    ZeroData {
        /// At least 1.
        sectors: u64,
        /// Byte offset in the overlay's storage.
        offset: u64,
    },
    /// Only by writing zeros like any other data.
    WriteZeros {
        /// At least 1.
        sectors: u64,
    },
    /// Nothing to do (a discard of sectors that this layer does not hold).
    Skip {
        /// At least 1.
        sectors: u64,
    },
    /// Another request that is under way allocates here; ask again when it has ended.
    Busy,
    /// The metadata page with this index is needed.
    Load(u64),
    /// Metadata contradicts itself at this byte of the overlay.
    Corrupt {
        /// Byte offset in the overlay's storage.
        offset: u64,
    },
}

/// Answer of [`Overlay::apply`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Applied {
    /// The first `sectors` of the range have their state in open pages; `freed` of them gave up
    /// space of their own.
    Done {
        /// At least 1.
        sectors: u64,
        /// At most `sectors`.
        freed: u64,
    },
    /// The metadata page with this index is needed.
    Load(u64),
    /// The page with this index must be made open first, then ask again.
    Open(u64),
    /// Write the present bytes of open page `page`, in which no state is yet, at `offset` first,
    /// tell [`Overlay::prepared`], then ask again. It is durable before any page of this commit is
    /// published. If the write fails, the page is not open any more.
    WritePage {
        /// Index of the page.
        page: u64,
        /// Byte offset in the overlay's storage.
        offset: u64,
    },
    /// Make `len` bytes at `offset` zero first, tell [`Overlay::zeroed`], then ask again. It is
    /// durable before any page of this commit is published.
    ZeroFirst {
        /// Byte offset in the overlay's storage.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Copy `len` bytes from `from` to `to` in the overlay's storage first, tell
    /// [`Overlay::zeroed`] with `to`, then ask again. It is durable before any page of this commit
    /// is published. Nothing changes the bytes at `from` meanwhile.
    CopyFirst {
        /// Byte offset in the overlay's storage.
        from: u64,
        /// Byte offset in the overlay's storage.
        to: u64,
        /// Bytes.
        len: u64,
    },
    /// The page with this index must reach the storage before it can take more; ask again after
    /// the next commit.
    AfterCommit,
    /// The storage has no room for metadata.
    Full,
    /// Metadata contradicts itself at this byte of the overlay.
    Corrupt {
        /// Byte offset in the overlay's storage.
        offset: u64,
    },
}

/// Where a sealed page goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sealed {
    /// Byte offset in the overlay's storage.
    pub offset: u64,
    /// Bytes from the start of the page, 1 to [`PAGE_LEN`].
    pub len: u32,
    /// Pages of stage n are durable before one of stage n + 1 is written. Below
    /// [`Overlay::stages`].
    pub stage: u8,
}

/// Answer of [`Overlay::adopt`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Adopted {
    /// [`Overlay::apply`] follows.
    Taken,
    /// No more can be remembered: ask again when another request has ended.
    Busy,
    /// The note contradicts the image, or does not fit into the index memory.
    Refused,
}

impl Adopted {
    /// [`Taken`](Self::Taken) or [`Refused`](Self::Refused).
    pub const fn taken_if(fits: bool) -> Self {
        if fits { Self::Taken } else { Self::Refused }
    }
}

/// Writing half of a format. Every method is pure but for the format's own counters.
pub trait Overlay: Map {
    /// Ordered steps in which a commit publishes pages, at least 1. (Data are always before the first.)
    fn stages(&self) -> u8;

    /// Pages of stage 0 name no data: they may be written beside them, before the first sync of a
    /// commit.
    fn is_stage_0_early(&self) -> bool {
        false
    }

    /// Writes wait for each other as if their ranges began and ended on multiples of so many
    /// sectors, a power of two: for formats that fill a small unit around a partial write and have
    /// no note of the writes under way.
    fn grain(&self) -> u64 {
        1
    }

    /// Where the first sectors of a write of `extent` go. Allocation, where the format has it,
    /// happens here and is given up by [`abandon`](Self::abandon).
    fn place(&mut self, extent: Extent, pages: &PagePool<'_>, index: &mut [IndexEntry]) -> Placed;

    /// How the first sectors of `extent` become zero (`keep_reading_below` false), or may be
    /// given back (true: a discard, after which a format without a zero state may keep the old content).
    fn clear(
        &mut self,
        extent: Extent,
        keep_reading_below: bool,
        pages: &PagePool<'_>,
        index: &[IndexEntry],
    ) -> Cleared;

    /// Puts the state of the first sectors of `extent`, whose data are written but perhaps not
    /// durable, into open pages.
    fn apply(
        &mut self,
        extent: Extent,
        state: State,
        pages: &mut PagePool<'_>,
        index: &mut [IndexEntry],
    ) -> Applied;

    /// The write of [`Applied::WritePage`] has ended well. `note` as in [`Map::load`].
    fn prepared(&mut self, page: u64, note: &mut u64);

    /// The zeroing of [`Applied::ZeroFirst`] at `offset`, or the copy of [`Applied::CopyFirst`] to
    /// there, has ended well.
    fn zeroed(&mut self, offset: u64);

    /// Finishes the bytes of a page that is about to be published. Called when the commit begins;
    /// the version does not change any more, but [`reopened`](Self::reopened) copies of it may.
    fn seal(&mut self, page: u64, note: &mut u64, bytes: &mut [u8; PAGE_LEN]) -> Sealed;

    /// The page of this `note` is a copy of a version that is being published, or such a version
    /// itself after it was: what is sealed next comes after it.
    fn reopened(&mut self, _page: u64, _note: &mut u64) {}

    /// The page of this `note` takes the place of a version whose publication failed: what is
    /// sealed next is published instead of it.
    fn failed(&mut self, _page: u64, _note: &mut u64) {}

    /// A commit is durable: every state applied before it was sealed is published.
    fn committed(&mut self, index: &mut [IndexEntry]);

    /// A write failed before [`apply`](Self::apply): what [`place`](Self::place) allocated for
    /// `extent` is not used.
    fn abandon(&mut self, extent: Extent, index: &mut [IndexEntry]);

    /// A request that changes `extent` has failed: whatever [`apply`](Self::apply) prepared for it
    /// may not be asked for again.
    fn forsake(&mut self, _extent: Extent) {}

    /// Takes up again an allocation that an earlier process made for `extent` at `offset` but did
    /// not publish (a [note](crate::engine::Note) of it survived); [`apply`](Self::apply) follows.
    fn adopt(&mut self, extent: Extent, offset: u64, index: &mut [IndexEntry]) -> Adopted;

    /// A page with bytes that must be written before the first commit since the image was opened
    /// (a mark that it is in use), and where. `None` if there is nothing to write.
    fn preamble(&mut self, bytes: &mut [u8; PAGE_LEN]) -> Option<Sealed>;
}

/// One entry of the index memory that is lent to formats whose metadata cannot be paged.
///
/// What the words mean is the format's business; an empty entry is all zeros.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct IndexEntry {
    pub(crate) key: u64,
    pub(crate) value: u64,
}

impl IndexEntry {
    /// An unused entry.
    pub const EMPTY: Self = Self { key: 0, value: 0 };
}

/// A frozen layer of a chain.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Layer<'m> {
    /// A plain image.
    Raw(raw::Raw),
    /// A frozen native overlay.
    Native(native::Frozen<'m>),
    /// A dm-snapshot store and its filled index.
    DmSnapshot(dm_snapshot::Frozen<'m>),
    /// A UML COW file, a dm-cow layer or a cowfile.
    Bitmap(bitmap::Frozen<'m>),
    /// A qcow image of version 1.
    Qcow1(qcow1::Frozen),
    /// A qcow2 image, or an internal snapshot of one.
    Qcow2(qcow2::Frozen),
}

macro_rules! each_layer {
    ($layer:expr, $format:ident, $index:ident => $call:expr) => {
        match $layer {
            Layer::Raw($format) => {
                let $index: &[IndexEntry] = &[];
                $call
            }
            Layer::Native($format) => {
                let $index: &[IndexEntry] = &[];
                $call
            }
            Layer::Qcow2($format) => {
                let $index: &[IndexEntry] = &[];
                $call
            }
            Layer::DmSnapshot($format) => {
                let $index: &[IndexEntry] = $format.index();
                $call
            }
            Layer::Bitmap($format) => {
                let $index: &[IndexEntry] = $format.index();
                $call
            }
            Layer::Qcow1($format) => {
                let $index: &[IndexEntry] = &[];
                $call
            }
        }
    };
}

impl Layer<'_> {
    /// Size of the virtual disk in sectors.
    pub fn sectors(&self) -> u64 {
        each_layer!(self, f, _index => f.sectors())
    }

    /// The storage of the layer.
    pub fn storage(&self) -> StorageKey {
        each_layer!(self, f, _index => f.storage())
    }

    /// The storage of the layer's metadata pages.
    pub fn metadata(&self) -> StorageKey {
        each_layer!(self, f, _index => f.metadata())
    }

    /// As [`Map::locate`].
    pub fn locate(&self, extent: Extent, pages: &PagePool<'_>) -> Located {
        each_layer!(self, f, index => f.locate(extent, pages, index))
    }

    pub(crate) fn in_place(&self, extent: Extent, pages: &PagePool<'_>) -> Option<InPlace> {
        each_layer!(self, f, _index => f.in_place(extent, pages))
    }

    pub(crate) fn load(
        &self,
        page: u64,
        step: u8,
        note: &mut u64,
        bytes: &mut [u8; PAGE_LEN],
    ) -> Load {
        each_layer!(self, f, _index => f.load(page, step, note, bytes))
    }
}

/// The writable top of a chain.
#[derive(Debug)]
#[non_exhaustive]
#[allow(
    clippy::large_enum_variant,
    reason = "nothing is allocated, so nothing can be boxed; a chain has one overlay"
)]
pub enum Top {
    /// A native overlay.
    Native(native::Writable),
    /// A dm-snapshot store.
    DmSnapshot(dm_snapshot::Writable),
    /// A UML COW file, a dm-cow layer or a cowfile.
    Bitmap(bitmap::Writable),
    /// A qcow image of version 1.
    Qcow1(qcow1::Writable),
    /// A qcow2 image.
    Qcow2(qcow2::Writable),
}

macro_rules! each_top {
    ($top:expr, $format:ident => $call:expr) => {
        match $top {
            Top::Native($format) => $call,
            Top::DmSnapshot($format) => $call,
            Top::Bitmap($format) => $call,
            Top::Qcow1($format) => $call,
            Top::Qcow2($format) => $call,
        }
    };
}

impl Map for Top {
    fn sectors(&self) -> u64 {
        each_top!(self, f => f.sectors())
    }
    fn storage(&self) -> StorageKey {
        each_top!(self, f => f.storage())
    }
    fn metadata(&self) -> StorageKey {
        each_top!(self, f => f.metadata())
    }
    fn locate(&self, extent: Extent, pages: &PagePool<'_>, index: &[IndexEntry]) -> Located {
        each_top!(self, f => f.locate(extent, pages, index))
    }
    fn in_place(&self, extent: Extent, pages: &PagePool<'_>) -> Option<InPlace> {
        each_top!(self, f => f.in_place(extent, pages))
    }
    fn load(&self, page: u64, step: u8, note: &mut u64, bytes: &mut [u8; PAGE_LEN]) -> Load {
        each_top!(self, f => f.load(page, step, note, bytes))
    }
}

impl Overlay for Top {
    fn stages(&self) -> u8 {
        each_top!(self, f => f.stages())
    }
    fn is_stage_0_early(&self) -> bool {
        each_top!(self, f => f.is_stage_0_early())
    }
    fn grain(&self) -> u64 {
        each_top!(self, f => f.grain())
    }
    fn place(&mut self, extent: Extent, pages: &PagePool<'_>, index: &mut [IndexEntry]) -> Placed {
        each_top!(self, f => f.place(extent, pages, index))
    }
    fn clear(
        &mut self,
        extent: Extent,
        keep_reading_below: bool,
        pages: &PagePool<'_>,
        index: &[IndexEntry],
    ) -> Cleared {
        each_top!(self, f => f.clear(extent, keep_reading_below, pages, index))
    }
    fn apply(
        &mut self,
        extent: Extent,
        state: State,
        pages: &mut PagePool<'_>,
        index: &mut [IndexEntry],
    ) -> Applied {
        each_top!(self, f => f.apply(extent, state, pages, index))
    }
    fn prepared(&mut self, page: u64, note: &mut u64) {
        each_top!(self, f => f.prepared(page, note));
    }
    fn zeroed(&mut self, offset: u64) {
        each_top!(self, f => f.zeroed(offset));
    }
    fn seal(&mut self, page: u64, note: &mut u64, bytes: &mut [u8; PAGE_LEN]) -> Sealed {
        each_top!(self, f => f.seal(page, note, bytes))
    }
    fn reopened(&mut self, page: u64, note: &mut u64) {
        each_top!(self, f => f.reopened(page, note));
    }
    fn failed(&mut self, page: u64, note: &mut u64) {
        each_top!(self, f => f.failed(page, note));
    }
    fn committed(&mut self, index: &mut [IndexEntry]) {
        each_top!(self, f => f.committed(index));
    }
    fn abandon(&mut self, extent: Extent, index: &mut [IndexEntry]) {
        each_top!(self, f => f.abandon(extent, index));
    }
    fn forsake(&mut self, extent: Extent) {
        each_top!(self, f => f.forsake(extent));
    }
    fn adopt(&mut self, extent: Extent, offset: u64, index: &mut [IndexEntry]) -> Adopted {
        each_top!(self, f => f.adopt(extent, offset, index))
    }
    fn preamble(&mut self, bytes: &mut [u8; PAGE_LEN]) -> Option<Sealed> {
        each_top!(self, f => f.preamble(bytes))
    }
}
