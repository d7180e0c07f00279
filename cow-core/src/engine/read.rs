//! Reads: runs sought down the chain, each put out as one operation.

use super::table::{Park, Phase, Task, Walk};
use super::weave::Strand;
use super::{Buffer, Engine, Failure, IoFailure, Kind, Lent, Operation, Output, Request};
use crate::format::{Located, Map, Place, Run};
use crate::pages::StorageKey;
use crate::units::{Extent, SECTOR_BYTES};

/// Where the first sectors of a range live in the whole chain.
pub(super) enum Resolved {
    Run { depth: u16, storage: StorageKey, run: Run },
    Load { storage: StorageKey, page: u64 },
    Corrupt { storage: StorageKey, offset: u64 },
}

impl<const SLOTS: usize> Engine<SLOTS> {
    /// Walks down the chain from where `walk` stands. `extent` is not empty.
    pub(super) fn resolve(&self, extent: Extent, walk: &mut Walk, lent: &Lent<'_, '_>) -> Resolved {
        let (mut storage, mut metadata) = (self.overlay_key(), self.metadata_key());
        loop {
            let rest = extent.take(walk.sectors);
            let located = if walk.depth == 0 {
                match &self.overlay {
                    Some(overlay) => overlay.locate(rest, lent.pages, lent.index),
                    None => Located::Run(Run { sectors: rest.sectors(), place: Place::Absent }),
                }
            } else {
                let Some(layer) = lent.layers.get(usize::from(walk.depth) - 1) else {
                    let run = Run { sectors: rest.sectors(), place: Place::Absent };
                    return Resolved::Run { depth: walk.depth, storage, run };
                };
                (storage, metadata) = (layer.storage(), layer.metadata());
                // A layer shorter than the disk reads as zeros past its end.
                let inside = rest.until(layer.sectors());
                if inside.is_empty() {
                    let run = Run { sectors: rest.sectors(), place: Place::Zero };
                    return Resolved::Run { depth: walk.depth, storage, run };
                }
                layer.locate(inside, lent.pages)
            };
            match located {
                Located::Run(Run { place: Place::Absent, sectors }) => {
                    walk.sectors = sectors;
                    walk.depth = walk.depth.saturating_add(1);
                }
                Located::Run(run) => return Resolved::Run { depth: walk.depth, storage, run },
                Located::Load(page) => return Resolved::Load { storage: metadata, page },
                Located::Corrupt { offset } => {
                    return Resolved::Corrupt { storage: metadata, offset };
                }
            }
        }
    }

    pub(super) fn read(&mut self, at: u16, lent: &mut Lent<'_, '_>) -> Option<Output> {
        let slot = self.table.get(at)?;
        let (id, mut walk) = (slot.id, slot.walk);
        let rest = slot.extent.skip(slot.done);
        if slot.failure.is_some() || rest.is_empty() {
            self.settle(at);
            return None;
        }
        let resolved = self.resolve(rest, &mut walk, lent);
        let is_map = matches!(slot.request, Request::Map(_));
        let slot = self.table.get_mut(at)?;
        slot.walk = walk;
        let (depth, storage, run) = match resolved {
            Resolved::Run { depth, storage, run } => (depth, storage, run),
            Resolved::Load { storage, page } => return self.need_page(at, storage, page, lent),
            Resolved::Corrupt { storage, offset } => {
                return self.fail(at, Failure::Corrupt { storage, offset });
            }
        };
        if is_map {
            self.table.advance(at, Phase::Done);
            return Some(Output::Mapped { id, depth, run });
        }
        let buffer_offset = u32::try_from(slot.done.wrapping_mul(SECTOR_BYTES)).unwrap_or(u32::MAX);
        let bytes = run.sectors.wrapping_mul(SECTOR_BYTES);
        let (kind, offset, len) = match run.place {
            Place::Data { offset } => (Kind::Read, offset, bytes),
            Place::Packed(packed) => (Kind::Unpack(packed), packed.offset, bytes),
            Place::Tail { offset, len } if slot.tail => (Kind::Read, offset, u64::from(len)),
            // Only what the read does not cover is zeroed: drivers do both in any order.
            Place::Tail { len, .. } => {
                slot.tail = true;
                let offset = buffer_offset.saturating_add(u32::from(len));
                let len = u32::try_from(SECTOR_BYTES).unwrap_or(0).saturating_sub(u32::from(len));
                self.table.push(at);
                return Some(Output::Fill { id, offset, len });
            }
            Place::Zero | Place::Absent => {
                slot.done = slot.done.saturating_add(run.sectors);
                slot.walk = Walk::TOP;
                let len = u32::try_from(bytes).unwrap_or(0);
                self.table.push(at);
                return Some(Output::Fill { id, offset: buffer_offset, len });
            }
        };
        let (mut sectors, mut len, mut second) = (run.sectors, len, None);
        if self.weaving && matches!(run.place, Place::Data { .. }) && sectors < rest.sectors() {
            let extended = self.extend(rest, Strand { storage, offset }, sectors, lent);
            (sectors, second) = (extended.sectors, extended.second);
            len = sectors.wrapping_mul(SECTOR_BYTES);
        }
        let slot = self.table.get_mut(at)?;
        slot.done = slot.done.saturating_add(sectors);
        slot.walk = Walk::TOP;
        slot.tail = false;
        slot.outstanding = slot.outstanding.saturating_add(1);
        self.table.push(at);
        if let Some((other, bits)) = second {
            let strands = [Strand { storage, offset }, other];
            return Some(Output::Weave(Self::weave(at, id, buffer_offset, sectors, strands, bits)));
        }
        Some(Output::Operation(Operation {
            storage,
            kind,
            offset,
            len,
            buffer: Buffer::Request { id, offset: buffer_offset },
            ticket: Task::Data(at).ticket(),
        }))
    }

    /// Everything was put out: waits for what is under way, or drains at once.
    pub(super) fn settle(&mut self, at: u16) {
        let pending = self.table.get(at).map_or(0, |s| s.outstanding);
        if pending == 0 {
            self.table.advance(at, Phase::Drain);
        } else {
            self.table.park_in(at, Phase::Drain);
        }
    }

    pub(super) fn data_done(&mut self, at: u16, result: Result<(), IoFailure>) {
        let Some(slot) = self.table.get_mut(at) else { return };
        slot.outstanding = slot.outstanding.saturating_sub(1);
        if let Err(io) = result {
            slot.failure.get_or_insert(io.into());
        }
        if slot.outstanding == 0 && slot.park == Park::Operations {
            self.table.push(at);
        }
    }
}
