//! Filling an allocation unit around a partial write, with what the chain holds there so far.

use super::read::Resolved;
use super::table::{Filling, Park, Phase, Task, Walk};
use super::{Buffer, Engine, Failure, IoFailure, Kind, Lent, Operation, Output, Request};
use crate::format::{Fill, Place, Run};
use crate::pages::{PAGE_LEN, PagePool};
use crate::units::{Extent, SECTOR_BYTES};

/// Sectors copied at a time: one page.
const PIECE_SECTORS: u64 = PAGE_LEN as u64 / SECTOR_BYTES;

impl<const SLOTS: usize> Engine<SLOTS> {
    /// Brings the rest of an allocation unit from wherever the whole chain has it: a page at a time,
    /// or as zeros without a page. The overlay's old mapping counts until the request is applied.
    pub(super) fn fill(&mut self, at: u16, lent: &mut Lent<'_, '_>) -> Option<Output> {
        let slot = self.table.get(at)?;
        let Some(mut f) = slot.filling else {
            let place = matches!(slot.request, Request::Write { .. });
            self.table.advance(at, if place { Phase::Place } else { Phase::Clear });
            return None;
        };
        if f.outstanding > 0 && (f.writing || slot.failure.is_some()) {
            self.table.park(at, Park::Operations);
            return None;
        }
        if f.writing {
            f.cursor = f.piece.end().get();
            f.piece = Extent::EMPTY;
            f.writing = false;
        }
        if f.piece.is_empty() {
            f.next_gap();
        }
        if f.piece.is_empty() || slot.failure.is_some() {
            if let Some(page) = f.page {
                lent.pages.release(page);
            }
            let slot = self.table.get_mut(at)?;
            slot.filling = None;
            slot.walk = Walk::TOP;
            self.table.retry_starved();
            self.table.push(at);
            return None;
        }
        let rest = f.piece.skip(f.found);
        if rest.is_empty() {
            return self.fill_write(at, f);
        }
        let mut walk = slot.walk;
        let resolved = self.resolve(rest, &mut walk, lent);
        let slot = self.table.get_mut(at)?;
        slot.walk = walk;
        slot.filling = Some(f);
        match resolved {
            Resolved::Run { storage: _, run, .. } if is_zero(run.place) && f.found == 0 => {
                self.fill_zeros(at, f, run.sectors)
            }
            Resolved::Run { storage, run, .. } => {
                f.piece = f.piece.take(PIECE_SECTORS);
                let Some(page) = f.page.or_else(|| lent.pages.claim_scratch()) else {
                    slot.filling = Some(f);
                    self.table.park(at, Park::Starved);
                    return None;
                };
                f.page = Some(page);
                let sectors = run.sectors.min(f.piece.skip(f.found).sectors());
                let (read, found) = fill_read(&f, Run { sectors, ..run }, lent.pages);
                f.found = found;
                slot.walk = Walk::TOP;
                f.outstanding = f.outstanding.saturating_add(u32::from(read.is_some()));
                slot.filling = Some(f);
                self.table.push(at);
                let ticket = Task::Fill(at).ticket();
                read.map(|(kind, offset, len, buffer)| {
                    Output::Operation(Operation { storage, kind, offset, len, buffer, ticket })
                })
            }
            Resolved::Load { storage, page } => self.need_page(at, storage, page, lent),
            Resolved::Corrupt { storage, offset } => {
                slot.failure.get_or_insert(Failure::Corrupt { storage, offset });
                self.table.push(at);
                None
            }
        }
    }

    /// Puts out the write of a piece when all of it has arrived.
    fn fill_write(&mut self, at: u16, mut f: Filling) -> Option<Output> {
        let ready = f.outstanding == 0;
        if ready {
            f.writing = true;
            f.outstanding = 1;
        }
        let storage = self.overlay_key();
        self.table.get_mut(at)?.filling = Some(f);
        self.table.park(at, Park::Operations);
        let page = f.page.filter(|_| ready)?;
        Some(Output::Operation(Operation {
            storage,
            kind: Kind::Write,
            offset: f.offset(),
            len: f.piece.bytes(),
            buffer: Buffer::Page { page, offset: 0 },
            ticket: Task::Fill(at).ticket(),
        }))
    }

    /// The next `sectors` are zeros: made so, however many they are.
    fn fill_zeros(&mut self, at: u16, mut f: Filling, sectors: u64) -> Option<Output> {
        f.piece = f.piece.take(sectors);
        f.writing = true;
        f.outstanding = 1;
        let storage = self.overlay_key();
        let slot = self.table.get_mut(at)?;
        slot.walk = Walk::TOP;
        slot.filling = Some(f);
        self.table.park(at, Park::Operations);
        Some(Output::Operation(Operation {
            storage,
            kind: Kind::Zero,
            offset: f.offset(),
            len: f.piece.bytes(),
            buffer: Buffer::None,
            ticket: Task::Fill(at).ticket(),
        }))
    }

    pub(super) fn fill_done(&mut self, at: u16, result: Result<(), IoFailure>) {
        let Some(slot) = self.table.get_mut(at) else { return };
        let Some(f) = slot.filling.as_mut() else { return };
        f.outstanding = f.outstanding.saturating_sub(1);
        if let Err(io) = result {
            slot.failure.get_or_insert(io.into());
        }
        if f.outstanding == 0 {
            self.table.push(at);
        }
    }
}

impl Filling {
    pub(super) fn new(fill: Fill, payload: Extent) -> Self {
        Self {
            fill,
            payload,
            cursor: fill.unit.start().get(),
            piece: Extent::EMPTY,
            found: 0,
            page: None,
            writing: false,
            outstanding: 0,
        }
    }

    /// Makes everything up to the payload, or from its end on, the piece; empty at the end.
    fn next_gap(&mut self) {
        let (start, end) = (self.payload.start().get(), self.payload.end().get());
        if self.cursor >= start && self.cursor < end {
            self.cursor = end;
        }
        let rest = self.fill.unit.from(self.cursor);
        self.piece = if self.cursor < start { rest.until(start) } else { rest };
        self.found = 0;
    }

    /// Byte offset of the piece in the overlay's storage.
    fn offset(&self) -> u64 {
        let into = self.piece.start().get().saturating_sub(self.fill.unit.start().get());
        self.fill.offset.saturating_add(into.wrapping_mul(SECTOR_BYTES))
    }
}

const fn is_zero(place: Place) -> bool {
    matches!(place, Place::Absent | Place::Zero)
}

/// How the next sectors of a piece come into its page, if not as zeros, and how far it is found then.
fn fill_read(
    f: &Filling,
    run: Run,
    pages: &mut PagePool<'_>,
) -> (Option<(Kind, u64, u64, Buffer)>, u64) {
    let into = f.found.wrapping_mul(SECTOR_BYTES);
    let bytes = run.sectors.wrapping_mul(SECTOR_BYTES);
    let found = f.found.saturating_add(run.sectors);
    let Some(page) = f.page else { return (None, found) };
    let (kind, offset, len) = match run.place {
        Place::Data { offset } => (Kind::Read, offset, bytes),
        Place::Tail { offset, len } => (Kind::Read, offset, u64::from(len)),
        Place::Packed(packed) => (Kind::Unpack(packed), packed.offset, bytes),
        Place::Absent | Place::Zero => (Kind::Read, 0, 0),
    };
    if len < bytes {
        zero_part(pages.bytes_mut(page), into, bytes);
    }
    let buffer = Buffer::Page { page, offset: u32::try_from(into).unwrap_or(u32::MAX) };
    ((len > 0).then_some((kind, offset, len, buffer)), found)
}

fn zero_part(bytes: &mut [u8], from: u64, len: u64) {
    let (Ok(from), Ok(len)) = (usize::try_from(from), usize::try_from(len)) else { return };
    if let Some(part) = bytes.get_mut(from..from.saturating_add(len)) {
        part.fill(0);
    }
}
