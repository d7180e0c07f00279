//! QEMU's image tools, and chains of files read and written by the blocking driver, to hold them
//! against each other.

use std::path::{Path, PathBuf};
use std::process::Command;

use aoe_host::storage::{Access, FileOptions, FileStorage, FileTable};
use cow_core::blocking::Blocking;
use cow_core::engine::{Durability, Engine, Lent};
use cow_core::format::{Layer, Map, Place, Top};
use cow_core::pages::{Frame, Page, PagePool, StorageKey};
use cow_core::units::{Extent, Lba};

use crate::require::Need;
use crate::rng::Rng;

/// What tests against QEMU's tools need.
pub const TOOLS: &[Need] = &[Need::Program("qemu-img"), Need::Program("qemu-io")];

/// Runs a program that must succeed; gives what it printed.
pub fn run(program: &str, args: &[&str]) -> String {
    let (well, text) = try_run(program, args);
    assert!(well, "{program} {args:?}: {text}");
    text
}

/// Runs a program; whether it succeeded, and what it printed on both outputs.
pub fn try_run(program: &str, args: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(args).output().expect("the program starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("a path of ours is text")
}

/// Runs `qemu-io` commands on an image. Some may fail: a compressed write over a cluster that is
/// there, for one.
pub fn io(image: &Path, format: &str, commands: &[String]) {
    for part in commands.chunks(100) {
        let mut args = vec!["-f", format];
        for command in part {
            args.extend(["-c", command]);
        }
        args.push(text(image));
        let (_well, said) = try_run("qemu-io", &args);
        assert!(said.contains("/sec"), "{args:?}: {said}");
    }
}

/// What QEMU reads from an image (`options` before the name), as bytes.
pub fn content(image: &Path, format: &str, options: &[&str]) -> Vec<u8> {
    let raw = image.with_extension("as-raw");
    let mut args = vec!["convert", "-f", format, "-O", "raw"];
    args.extend(options);
    args.extend([text(image), text(&raw)]);
    run("qemu-img", &args);
    let bytes = std::fs::read(&raw).expect("the raw copy");
    std::fs::remove_file(&raw).expect("the raw copy goes");
    bytes
}

/// A range of a disk as `qemu-img map` tells it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MapEntry {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// Layers above the one that has it.
    pub depth: u64,
    /// Reads as zeros.
    pub zero: bool,
    /// Is stored.
    pub data: bool,
    /// Where, if not compressed.
    pub offset: Option<u64>,
}

/// `qemu-img map --output=json`.
pub fn map(image: &Path, format: &str) -> Vec<MapEntry> {
    let json = run("qemu-img", &["map", "-f", format, "--output=json", text(image)]);
    let entries: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let number = |v: &serde_json::Value, key: &str| v.get(key).and_then(serde_json::Value::as_u64);
    let flag = |v: &serde_json::Value, key: &str| v[key].as_bool().expect("a flag");
    entries
        .as_array()
        .expect("a list")
        .iter()
        .map(|v| MapEntry {
            start: number(v, "start").expect("a start"),
            length: number(v, "length").expect("a length"),
            depth: number(v, "depth").expect("a depth"),
            zero: flag(v, "zero"),
            data: flag(v, "data"),
            offset: number(v, "offset"),
        })
        .collect()
}

/// Files of a chain; the index is the key. The first may be written.
pub fn files(paths: &[PathBuf], writable: bool) -> FileTable {
    let mut table = FileTable::new();
    for (at, path) in paths.iter().enumerate() {
        let access = if writable && at == 0 { Access::ReadWrite } else { Access::ReadOnly };
        let options = FileOptions { access, ..FileOptions::default() };
        let _key = table.add(FileStorage::open(path, &options).expect("a file"));
    }
    table
}

/// The driver over a chain of files.
pub type Driver<'a, 'p> = Blocking<'a, 'p, FileTable, 4>;

/// Runs `work` on a chain; gives the overlay back to be closed.
pub fn with<R>(
    top: Option<Top>,
    layers: &[Layer<'_>],
    files: &mut FileTable,
    pages: usize,
    work: impl FnOnce(&mut Driver<'_, '_>) -> R,
) -> (R, Option<Top>) {
    let sectors = top.as_ref().map_or_else(|| layers[0].sectors(), Map::sectors);
    let mut engine = Engine::<4>::new(top, sectors, Durability::Safe).expect("an engine");
    let (mut memory, mut frames) = (vec![Page::ZERO; pages], vec![Frame::EMPTY; pages]);
    let mut pool = PagePool::new(&mut memory, &mut frames).expect("a pool");
    let result = work(&mut Blocking {
        engine: &mut engine,
        lent: Lent { pages: &mut pool, layers, index: &mut [] },
        storages: files,
    });
    (result, engine.into_overlay())
}

/// The whole disk, read in requests of varying lengths.
pub fn read_all(driver: &mut Driver<'_, '_>, rng: &mut Rng) -> Vec<u8> {
    let sectors = driver.engine.sectors();
    let (mut bytes, mut at) = (Vec::new(), 0);
    while at < sectors {
        let count = (1 + rng.below(300)).min(sectors - at);
        let mut part = vec![0xee; usize::try_from(count * 512).expect("small")];
        driver.read(Lba::new(at).expect("an lba"), &mut part).expect("a read");
        bytes.extend(part);
        at += count;
    }
    bytes
}

/// The map of the whole disk in the terms of `qemu-img map`, neighbours joined as it joins them.
pub fn map_of(driver: &mut Driver<'_, '_>, has_overlay: bool) -> Vec<MapEntry> {
    let layers = driver.lent.layers.len() as u64 + u64::from(has_overlay);
    let mut rest = Extent::new(0, driver.engine.sectors()).expect("a disk");
    let mut entries: Vec<MapEntry> = Vec::new();
    while !rest.is_empty() {
        let (depth, run) = driver.map(rest).expect("a map");
        let depth = u64::from(depth) - u64::from(!has_overlay);
        let (zero, data, offset) = match run.place {
            Place::Data { offset } | Place::Tail { offset, .. } => (false, true, Some(offset)),
            Place::Packed(_) => (false, true, None),
            _ => (true, false, None),
        };
        let next = MapEntry {
            start: rest.start().bytes(),
            length: run.sectors * 512,
            depth: depth.min(layers - 1),
            zero,
            data,
            offset,
        };
        rest = rest.skip(run.sectors);
        match entries.last_mut() {
            Some(last) if last.takes(&next) => last.length += next.length,
            _ => entries.push(next),
        }
    }
    entries
}

impl MapEntry {
    /// `next` goes on where this one ends, in the disk and in the file.
    pub fn takes(&self, next: &Self) -> bool {
        if self.start + self.length != next.start {
            return false;
        }
        let same = (self.depth, self.zero, self.data) == (next.depth, next.zero, next.data);
        let follows = match (self.offset, next.offset) {
            (Some(a), Some(b)) => a + self.length == b,
            (None, None) => true,
            _ => false,
        };
        same && follows
    }
}

/// The key of a layer's file.
pub fn key(index: usize) -> StorageKey {
    StorageKey(u32::try_from(index).expect("few layers"))
}
