//! Images by the letter: what is read, what is refused, what is found and repaired.

mod check;
mod header;

use std::vec;
use std::vec::Vec;

use super::{CreateOptions, Opened, create, open};
use crate::blocking::Blocking;
use crate::engine::{Durability, Engine, Lent};
use crate::format::memory::Memory;
use crate::format::{Layer, Top};
use crate::pages::{Frame, Page, PagePool, StorageKey};
use crate::units::Extent;

const KEY: StorageKey = StorageKey(0);

fn page() -> Page {
    Page::ZERO.clone()
}

fn extent(start: u64, sectors: u64) -> Extent {
    Extent::new(start, sectors).unwrap()
}

/// An empty image of 1000 sectors with clusters of 512 bytes.
fn image(version: u32) -> Memory {
    image_with(version, 16)
}

/// The same with counts of so many bits.
fn image_with(version: u32, refcount_bits: u8) -> Memory {
    let mut memory = Memory::new(Vec::new());
    let options =
        CreateOptions { version, cluster_bits: 9, refcount_bits, ..CreateOptions::new(1000 * 512) };
    create(&mut memory, &options, &mut page()).unwrap();
    memory.log.clear();
    memory
}

fn opened(memory: &Memory) -> Opened {
    open(memory).unwrap()
}

/// Runs calls on a chain of one image: `top`, or the image as a layer.
fn with<R>(
    memory: Memory,
    top: Option<Top>,
    layers: &[Layer<'_>],
    work: impl FnOnce(&mut Blocking<'_, '_, [Memory], 2>) -> R,
) -> (R, Memory, Option<Top>) {
    let sectors = layers.first().map_or(1000, Layer::sectors);
    let mut engine = Engine::<2>::new(top, sectors, Durability::Safe).unwrap();
    let (mut pages, mut frames) = (vec![Page::ZERO; 2], vec![Frame::EMPTY; 2]);
    let mut pool = PagePool::new(&mut pages, &mut frames).unwrap();
    let mut storages = [memory];
    let result = work(&mut Blocking {
        engine: &mut engine,
        lent: Lent { pages: &mut pool, layers, index: &mut [] },
        storages: &mut storages[..],
    });
    let [memory] = storages;
    (result, memory, engine.into_overlay())
}

/// Puts a big-endian number in place.
fn put(memory: &mut Memory, at: usize, value: u64, len: usize) {
    memory.bytes[at..at + len].copy_from_slice(&value.to_be_bytes()[8 - len..]);
}

fn get(memory: &Memory, at: usize) -> u64 {
    u64::from_be_bytes(memory.bytes[at..at + 8].try_into().unwrap())
}
