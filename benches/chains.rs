//! Chains of overlays over a base, filled in a pattern, all of it in memory.

use cow_core::blocking::Blocking;
use cow_core::engine::{Durability, Engine, Lent};
use cow_core::format::{Layer, Top, native, raw};
use cow_core::identity::LayerId;
use cow_core::pages::{Page, StorageKey};
use cow_core::units::Lba;

use crate::disks::{Memory, PoolMemory, overlay};

/// Which sectors of an overlay hold data.
#[derive(Clone, Copy, Debug)]
pub enum Pattern {
    /// None.
    Empty,
    /// The first half of every 64 KiB.
    Half,
    /// Every second sector: the worst case, a run for each.
    Alternating,
}

impl Pattern {
    fn holds(self, lba: u64) -> bool {
        match self {
            Self::Empty => false,
            Self::Half => lba % 128 < 64,
            Self::Alternating => lba.is_multiple_of(2),
        }
    }
}

/// A chain over a base; its storages are in the order of their keys, its layers from the top down.
#[derive(Debug)]
pub struct Chain {
    storages: Vec<Memory>,
    layers: Vec<Layer<'static>>,
    top: Option<native::Writable>,
    sectors: u64,
}

impl Chain {
    /// `depth` overlays of `sectors` sectors each over a base; all but the topmost are frozen, and
    /// all are filled in the same pattern.
    pub fn new(depth: u32, pattern: Pattern, sectors: u64) -> Self {
        let raw = raw::Raw::new(StorageKey(0), sectors * 512).expect("a base");
        let storages = vec![Memory::filled(sectors * 512)];
        let mut chain = Self { storages, layers: vec![Layer::Raw(raw)], top: None, sectors };
        let mut page = Page::ZERO.clone();
        for key in 1..=depth {
            if let Some(top) = chain.top.take() {
                let storage = chain.storages.last_mut().expect("one for the layer");
                native::close(storage, &top, &mut page).expect("close");
                let id = LayerId([0x80 | u8::try_from(key).expect("few"); 16]);
                let frozen = native::freeze(storage, id, &mut page).expect("freeze");
                let layer = frozen.frozen(StorageKey(key - 1)).expect("frozen");
                chain.layers.insert(0, Layer::Native(layer));
            }
            let (storage, top) = overlay(StorageKey(key), chain.sectors);
            chain.storages.push(storage);
            chain.top = Some(top);
            chain.fill(pattern);
        }
        chain
    }

    fn fill(&mut self, pattern: Pattern) {
        let held = (0..self.sectors).filter(|lba| pattern.holds(*lba));
        self.use_it(|driver| {
            for lba in held {
                driver.write(Lba::new(lba).expect("inside"), &[9; 512]).expect("write");
            }
            driver.flush().expect("flush");
        });
    }

    /// Lends a driver of the chain to `body`, with room for 64 pages of metadata. Every write is
    /// durable when it returns, as far as the memory is.
    pub fn use_it(&mut self, body: impl FnOnce(&mut Blocking<'_, '_, [Memory], 4>)) {
        self.use_with(Durability::Safe, body);
    }

    /// The same, with writes of another durability.
    pub fn use_with(
        &mut self,
        durability: Durability,
        body: impl FnOnce(&mut Blocking<'_, '_, [Memory], 4>),
    ) {
        let mut memory = PoolMemory::new(64);
        let mut pool = memory.pool();
        let top = self.top.take().map(Top::Native);
        let mut engine = Engine::<4>::new(top, self.sectors, durability).expect("a size");
        body(&mut Blocking {
            engine: &mut engine,
            lent: Lent { pages: &mut pool, layers: &self.layers, index: &mut [] },
            storages: &mut self.storages[..],
        });
        self.top = match engine.into_overlay() {
            Some(Top::Native(top)) => Some(top),
            _ => None,
        };
    }
}
