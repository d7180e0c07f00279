//! Tests against images written down byte by byte. Nothing here calls the module's own encoder but
//! to look at what it made.

mod check;
mod header;
mod lookup;
mod writing;

use std::vec::Vec;
use std::{assert_eq, vec};

use embedded_io::{ErrorKind, ErrorType};

use super::*;
use crate::blocking::{Blocking, Storages};
use crate::engine::{Durability, Engine, IoFailure, Lent};
use crate::format::{Codec, Layer, Packed, Place, Run, Top, raw};
use crate::pages::{Frame, Page};
use crate::storage::{ReadStorage, Storage};
use crate::units::Lba;

/// A file: writes behind its end make it longer.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct File {
    bytes: Vec<u8>,
    /// What was written: offset and length. (0, 0) for a sync.
    log: Vec<(u64, usize)>,
}

impl File {
    fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, log: Vec::new() }
    }

    fn put(&mut self, offset: u64, data: &[u8]) {
        let at = usize::try_from(offset).unwrap();
        let end = at + data.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[at..end].copy_from_slice(data);
    }

    fn be64(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.bytes[at..at + 8].try_into().unwrap())
    }
}

impl ErrorType for File {
    type Error = ErrorKind;
}

impl ReadStorage for File {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ErrorKind> {
        let at = usize::try_from(offset).map_err(|_| ErrorKind::InvalidInput)?;
        let part = self.bytes.get(at..at.saturating_add(buf.len()));
        buf.copy_from_slice(part.ok_or(ErrorKind::InvalidInput)?);
        Ok(())
    }

    fn len_bytes(&self) -> Result<u64, ErrorKind> {
        Ok(self.bytes.len() as u64)
    }
}

impl Storage for File {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), ErrorKind> {
        self.log.push((offset, data.len()));
        self.put(offset, data);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), ErrorKind> {
        self.log.push((0, 0));
        Ok(())
    }

    fn extend(&mut self, len: u64) -> Result<(), ErrorKind> {
        let len = usize::try_from(len).map_err(|_| ErrorKind::OutOfMemory)?;
        if len > 1 << 24 {
            return Err(ErrorKind::OutOfMemory);
        }
        self.bytes.resize(self.bytes.len().max(len), 0);
        Ok(())
    }
}

/// The header of an image, and its name at byte 48.
fn head(name: &[u8], size: u64, bits: [u8; 2], l1: u64) -> Vec<u8> {
    let mut bytes = b"QFI\xfb\0\0\0\x01".to_vec();
    bytes.extend(if name.is_empty() { [0; 8] } else { 48_u64.to_be_bytes() });
    bytes.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(size.to_be_bytes());
    bytes.extend([bits[0], bits[1], 0, 0]);
    bytes.extend([0; 4]);
    bytes.extend(l1.to_be_bytes());
    bytes.extend(name);
    bytes
}

/// An image of 8 MiB as the specification prints it: clusters of 512 bytes, tables of 4,096
/// entries, L1 at 56, its first table at 0x400, clusters 0 and 1 at 0x8400 and 0x8600.
fn printed() -> Vec<u8> {
    let mut bytes = head(b"base.img", 8 << 20, [9, 12], 56);
    bytes.resize(0x8800, 0);
    bytes[56..64].copy_from_slice(&0x400_u64.to_be_bytes());
    bytes[0x400..0x408].copy_from_slice(&0x8400_u64.to_be_bytes());
    bytes[0x408..0x410].copy_from_slice(&0x8600_u64.to_be_bytes());
    bytes[0x8400..0x8600].fill(0xa0);
    bytes[0x8600..0x8800].fill(0xa1);
    bytes
}

/// An entry of a table of an image with clusters of 4 KiB: a compressed cluster.
const fn packed(offset: u64, len: u64) -> u64 {
    1 << 63 | len << 51 | offset
}

/// A driver over an image with key 0 and a base with key 1. Compressed clusters unpack to 0xcc and
/// the low byte of where they begin.
struct Files {
    image: File,
    base: File,
}

impl Storages for Files {
    fn read(&self, key: StorageKey, offset: u64, buf: &mut [u8]) -> Result<(), IoFailure> {
        let file = if key.0 == 0 { &self.image } else { &self.base };
        file.read_at(offset, buf).map_err(|_| IoFailure::Medium)
    }

    fn unpack(&self, key: StorageKey, packed: &Packed, buf: &mut [u8]) -> Result<(), IoFailure> {
        assert_eq!((key.0, packed.codec), (0, Codec::Deflate));
        assert!(u64::from(packed.from) + buf.len() as u64 <= packed.unit_len.into());
        buf.fill(0xcc);
        buf[0] = packed.offset.to_be_bytes()[7];
        Ok(())
    }

    fn write(&mut self, key: StorageKey, offset: u64, data: &[u8]) -> Result<(), IoFailure> {
        assert_eq!(key.0, 0, "the base is never written");
        self.image.write_at(offset, data).map_err(|_| IoFailure::Medium)
    }

    fn zero(&mut self, key: StorageKey, offset: u64, len: u64) -> Result<(), IoFailure> {
        assert_eq!(key.0, 0, "the base is never written");
        self.image.zero_at(offset, len).map_err(|_| IoFailure::Medium)
    }

    fn punch(&mut self, _: StorageKey, _: u64, _: u64) -> Result<(), IoFailure> {
        Ok(())
    }

    fn sync(&mut self, _: StorageKey) -> Result<(), IoFailure> {
        self.image.sync().map_err(|_| IoFailure::Medium)
    }
}

type Driver<'a, 'p> = Blocking<'a, 'p, Files, 4>;

/// Runs `work` on the image as overlay over a base of `base` bytes of 0xbb; gives the image back.
fn written(image: Vec<u8>, base: usize, work: impl FnOnce(&mut Driver<'_, '_>)) -> File {
    let mut image = File::new(image);
    let top = open_writable(&mut image, StorageKey(0), &mut Page::ZERO.clone()).unwrap();
    image.log.clear();
    drive(image, Some(top), base, work)
}

/// Runs `work` on the image as layer over a base of `base` bytes of 0xbb.
fn read(image: Vec<u8>, base: usize, work: impl FnOnce(&mut Driver<'_, '_>)) {
    drive(File::new(image), None, base, work);
}

fn drive(
    image: File,
    top: Option<Writable>,
    base: usize,
    work: impl FnOnce(&mut Driver<'_, '_>),
) -> File {
    let opened = open(&image).unwrap();
    let mut layers = Vec::new();
    if top.is_none() {
        layers.push(Layer::Qcow1(opened.frozen(StorageKey(0))));
    }
    layers.extend(raw::Raw::new(StorageKey(1), base as u64).map(Layer::Raw));
    let top = top.map(Top::Qcow1);
    let mut engine = Engine::<4>::new(top, opened.geometry().sectors(), Durability::Safe).unwrap();
    let (mut pages, mut frames) = (vec![Page::ZERO; 4], vec![Frame::EMPTY; 4]);
    let mut pool = PagePool::new(&mut pages, &mut frames).unwrap();
    let mut storages = Files { image, base: File::new(vec![0xbb; base]) };
    work(&mut Blocking {
        engine: &mut engine,
        lent: Lent { pages: &mut pool, layers: &layers, index: &mut [] },
        storages: &mut storages,
    });
    storages.image
}

/// A sector.
fn sector(driver: &mut Driver<'_, '_>, lba: u64) -> [u8; 512] {
    let mut bytes = [0xee; 512];
    driver.read(Lba::new(lba).unwrap(), &mut bytes).unwrap();
    bytes
}

/// Where sectors are: layer (1 is the image, where it is no overlay) and run.
fn map(driver: &mut Driver<'_, '_>, first: u64, sectors: u64) -> (u16, Run) {
    driver.map(Extent::new(first, sectors).unwrap()).unwrap()
}
