//! The metadata page pool: 4 KiB frames in the caller's memory, shared by every chain of a thread.
//!
//! A frame holds one *version* of one metadata page. Invariants:
//! 1. A `Clean` version equals what the storage holds; only clean, free frames are reused.
//! 2. An `Open` version holds committed states plus states whose data were written but not yet
//!    published; it belongs to one engine and changes freely.
//! 3. A `Sealed` version is being published and does not change; a newer `Open` version of the same
//!    page may exist beside it.
//! 4. Finding a page gives its newest version.

use core::cell::Cell;
use core::fmt;

use crate::format::Sealed;

/// Bytes in a metadata page: the unit of metadata reads and writes of every format.
pub const PAGE_LEN: usize = 4096;

/// The driver's name for one storage (a file, a device). Equal keys mean the same bytes, so that
/// chains that share a frozen layer share its pages in the pool.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct StorageKey(pub u32);

/// A frame of the pool, as drivers see it in operations.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PageId(pub(crate) u32);

/// The memory of one page. Aligned so that it can be handed to direct I/O and DMA.
#[derive(Clone)]
#[repr(C, align(4096))]
pub struct Page([u8; PAGE_LEN]);

impl Page {
    /// A page of zeros.
    pub const ZERO: Self = Self([0; PAGE_LEN]);

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; PAGE_LEN] {
        &self.0
    }

    /// The bytes, to be changed.
    pub const fn as_bytes_mut(&mut self) -> &mut [u8; PAGE_LEN] {
        &mut self.0
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Page")
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum FrameState {
    Free,
    /// Being read; `aux` is the format's note between the reads of one page.
    Loading,
    Clean,
    Open,
    /// `Open`, and its present bytes are being written ahead of a commit.
    Preparing,
    Sealed,
    /// A copy buffer; in no index.
    Scratch,
}

/// Book-keeping of one frame.
#[derive(Clone, Debug)]
pub struct Frame {
    storage: StorageKey,
    index: u64,
    state: FrameState,
    /// Used since the clock's hand last came by. A cell, because lookups borrow shared.
    referenced: Cell<bool>,
    /// Next frame in the same bucket.
    next: u32,
    /// First frame of the bucket that has this frame's number.
    bucket: u32,
    /// Next frame in an engine's list of open or sealed frames.
    link: u32,
    aux: u64,
    /// Where a sealed version goes.
    sealed: Sealed,
}

/// No frame: the end of a list.
pub(crate) const NIL: u32 = u32::MAX;

impl Frame {
    /// An unused frame.
    #[expect(clippy::declare_interior_mutable_const, reason = "a value to copy, never borrowed")]
    pub const EMPTY: Self = Self {
        storage: StorageKey(0),
        index: 0,
        state: FrameState::Free,
        referenced: Cell::new(false),
        next: NIL,
        bucket: NIL,
        link: NIL,
        aux: 0,
        sealed: Sealed { offset: 0, len: 0, stage: 0 },
    };
}

/// The pool. Works with [`PagePool::MIN_PAGES`] pages, faster with more.
#[derive(Debug)]
pub struct PagePool<'m> {
    pages: &'m mut [Page],
    frames: &'m mut [Frame],
    hand: usize,
    pinned: usize,
}

impl<'m> PagePool<'m> {
    /// Fewest pages with which every format makes progress: one to look up, one to publish.
    pub const MIN_PAGES: usize = 2;

    /// Most pages: frame numbers travel in 24 bits of an operation's ticket.
    pub const MAX_PAGES: usize = 1 << 24;

    /// A pool over the caller's memory, as large as the shorter slice. `None` below
    /// [`MIN_PAGES`](Self::MIN_PAGES).
    pub fn new(pages: &'m mut [Page], frames: &'m mut [Frame]) -> Option<Self> {
        let len = pages.len().min(frames.len()).min(Self::MAX_PAGES);
        let (pages, frames) = (pages.get_mut(..len)?, frames.get_mut(..len)?);
        if len < Self::MIN_PAGES {
            return None;
        }
        frames.fill(Frame::EMPTY);
        Some(Self { pages, frames, hand: 0, pinned: 0 })
    }

    /// Number of pages.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Never true: see [`PagePool::new`].
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Pages that wait for a commit, are in one, or are used as copy buffers.
    pub fn pinned(&self) -> usize {
        self.pinned
    }

    /// The bytes of a page that an operation names. Empty for a page that is not of this pool.
    pub fn bytes(&self, id: PageId) -> &[u8] {
        self.pages.get(id.0 as usize).map_or(&[], |p| &p.0)
    }

    /// As [`bytes`](Self::bytes), to be filled by a read operation.
    pub fn bytes_mut(&mut self, id: PageId) -> &mut [u8] {
        self.pages.get_mut(id.0 as usize).map_or(&mut [], |p| &mut p.0)
    }

    pub(crate) fn page(&self, id: PageId) -> Option<&[u8; PAGE_LEN]> {
        self.pages.get(id.0 as usize).map(|p| &p.0)
    }

    pub(crate) fn page_mut(&mut self, id: PageId) -> Option<&mut [u8; PAGE_LEN]> {
        self.pages.get_mut(id.0 as usize).map(|p| &mut p.0)
    }

    fn frame(&self, number: u32) -> Option<&Frame> {
        self.frames.get(number as usize)
    }

    fn frame_mut(&mut self, number: u32) -> Option<&mut Frame> {
        self.frames.get_mut(number as usize)
    }

    /// Bucket of a page: a multiplicative hash, reduced without a division.
    fn bucket_of(&self, storage: StorageKey, index: u64) -> u32 {
        let mixed =
            index.wrapping_add(u64::from(storage.0) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let scaled = ((mixed >> 32) * self.frames.len() as u64) >> 32;
        u32::try_from(scaled).unwrap_or(0)
    }

    /// The newest version of a page, if any version is in the pool (it may still be loading).
    pub(crate) fn find(&self, storage: StorageKey, index: u64) -> Option<PageId> {
        let mut at = self.frame(self.bucket_of(storage, index))?.bucket;
        // A chain cannot be longer than the pool; the bound keeps a broken link from looping.
        for _ in 0..self.frames.len() {
            let frame = self.frame(at)?;
            if frame.index == index && frame.storage == storage {
                return Some(PageId(at));
            }
            at = frame.next;
        }
        None
    }

    /// The newest version that can be read now.
    pub(crate) fn lookup(&self, storage: StorageKey, index: u64) -> Option<&[u8; PAGE_LEN]> {
        let id = self.find(storage, index)?;
        let frame = self.frame(id.0)?;
        frame.referenced.set(true);
        match frame.state {
            FrameState::Clean | FrameState::Open | FrameState::Preparing | FrameState::Sealed => {
                self.page(id)
            }
            FrameState::Free | FrameState::Loading | FrameState::Scratch => None,
        }
    }

    pub(crate) fn state(&self, id: PageId) -> FrameState {
        self.frame(id.0).map_or(FrameState::Free, |f| f.state)
    }

    /// Which page of which storage the frame holds.
    pub(crate) fn holds(&self, id: PageId) -> Option<(StorageKey, u64)> {
        self.frame(id.0).map(|f| (f.storage, f.index))
    }

    pub(crate) fn set_state(&mut self, id: PageId, state: FrameState) {
        let pins = |s| !matches!(s, FrameState::Free | FrameState::Loading | FrameState::Clean);
        let Some(frame) = self.frames.get_mut(id.0 as usize) else { return };
        match (pins(frame.state), pins(state)) {
            (false, true) => self.pinned = self.pinned.saturating_add(1),
            (true, false) => self.pinned = self.pinned.saturating_sub(1),
            _ => {}
        }
        frame.state = state;
    }

    pub(crate) fn aux(&self, id: PageId) -> u64 {
        self.frame(id.0).map_or(0, |f| f.aux)
    }

    pub(crate) fn set_aux(&mut self, id: PageId, aux: u64) {
        if let Some(frame) = self.frame_mut(id.0) {
            frame.aux = aux;
        }
    }

    /// Step of a load under way, and whether its bytes have arrived. Frames that load are in no list.
    pub(crate) fn set_load(&mut self, id: PageId, step: u8, arrived: bool) {
        self.set_link(id, u32::from(step) | (u32::from(arrived) << 8));
    }

    /// See [`set_load`](Self::set_load).
    pub(crate) fn load_step(&self, id: PageId) -> (u8, bool) {
        let [step, arrived, ..] = self.link(id).to_le_bytes();
        (step, arrived != 0)
    }

    pub(crate) fn link(&self, id: PageId) -> u32 {
        self.frame(id.0).map_or(NIL, |f| f.link)
    }

    pub(crate) fn set_link(&mut self, id: PageId, link: u32) {
        if let Some(frame) = self.frame_mut(id.0) {
            frame.link = link;
        }
    }

    pub(crate) fn sealed(&self, id: PageId) -> Sealed {
        self.frame(id.0).map_or(Frame::EMPTY.sealed, |f| f.sealed)
    }

    pub(crate) fn set_sealed(&mut self, id: PageId, sealed: Sealed) {
        if let Some(frame) = self.frame_mut(id.0) {
            frame.sealed = sealed;
        }
    }

    /// Room for one more pinned page: one frame at least always stays for lookups, so that
    /// whoever holds a pin can end.
    pub(crate) fn may_pin(&self) -> bool {
        self.pinned < self.frames.len().saturating_sub(1)
    }

    /// So many pages are pinned that whoever holds some should commit.
    pub(crate) fn is_crowded(&self) -> bool {
        self.pinned.saturating_mul(2) >= self.frames.len()
    }

    /// A frame for a page, in state `Loading` and as its newest version. `None` if nothing can be evicted.
    pub(crate) fn claim(&mut self, storage: StorageKey, index: u64) -> Option<PageId> {
        let id = self.evict()?;
        let bucket = self.bucket_of(storage, index);
        let head = self.frame(bucket)?.bucket;
        let frame = self.frame_mut(id.0)?;
        frame.storage = storage;
        frame.index = index;
        frame.state = FrameState::Loading;
        frame.referenced.set(true);
        frame.aux = 0;
        frame.link = NIL;
        frame.next = head;
        self.frame_mut(bucket)?.bucket = id.0;
        Some(id)
    }

    /// A frame as copy buffer.
    pub(crate) fn claim_scratch(&mut self) -> Option<PageId> {
        if !self.may_pin() {
            return None;
        }
        let id = self.evict()?;
        self.set_state(id, FrameState::Scratch);
        Some(id)
    }

    /// Copies the bytes and `aux` of one frame to another.
    pub(crate) fn copy(&mut self, from: PageId, to: PageId) {
        if let Ok([source, target]) = self.pages.get_disjoint_mut([from.0 as usize, to.0 as usize])
        {
            target.0 = source.0;
        }
        let aux = self.aux(from);
        self.set_aux(to, aux);
    }

    /// Forgets the frame's content, whatever its state.
    pub(crate) fn release(&mut self, id: PageId) {
        if !matches!(self.state(id), FrameState::Free | FrameState::Scratch) {
            self.unhook(id);
        }
        self.set_state(id, FrameState::Free);
    }

    /// Releases the frames between two reads of a load that nobody wants. True if there were any.
    pub(crate) fn release_arrived(
        &mut self,
        unwanted: impl Fn(PageId, StorageKey) -> bool,
    ) -> bool {
        let mut any = false;
        for number in 0..self.frames.len() {
            let Ok(number) = u32::try_from(number) else { break };
            let id = PageId(number);
            let arrived = self.state(id) == FrameState::Loading && self.load_step(id).1;
            if arrived && self.holds(id).is_some_and(|(storage, _)| unwanted(id, storage)) {
                self.release(id);
                any = true;
            }
        }
        any
    }

    /// Forgets every clean page of a storage: its bytes were changed behind the pool's back.
    pub fn forget(&mut self, storage: StorageKey) {
        for number in 0..self.frames.len() {
            let Ok(number) = u32::try_from(number) else { return };
            let clean = self
                .frame(number)
                .is_some_and(|f| f.state == FrameState::Clean && f.storage == storage);
            if clean {
                self.release(PageId(number));
            }
        }
    }

    /// The clock's next victim: free, or clean and not used since the hand last came by.
    fn evict(&mut self) -> Option<PageId> {
        for _ in 0..self.frames.len().saturating_mul(2) {
            let at = self.hand;
            self.hand =
                if at.saturating_add(1) < self.frames.len() { at.saturating_add(1) } else { 0 };
            let frame = self.frames.get_mut(at)?;
            let number = u32::try_from(at).ok()?;
            match frame.state {
                FrameState::Free => return Some(PageId(number)),
                FrameState::Clean if frame.referenced.get() => frame.referenced.set(false),
                FrameState::Clean => {
                    self.release(PageId(number));
                    return Some(PageId(number));
                }
                _ => {}
            }
        }
        None
    }

    fn unhook(&mut self, id: PageId) {
        let Some((storage, index)) = self.holds(id) else { return };
        let bucket = self.bucket_of(storage, index);
        let after = self.frame(id.0).map_or(NIL, |f| f.next);
        let mut at = self.frame(bucket).map_or(NIL, |f| f.bucket);
        if at == id.0 {
            if let Some(frame) = self.frame_mut(bucket) {
                frame.bucket = after;
            }
            return;
        }
        for _ in 0..self.frames.len() {
            let Some(frame) = self.frame_mut(at) else { return };
            if frame.next == id.0 {
                frame.next = after;
                return;
            }
            at = frame.next;
        }
    }
}
