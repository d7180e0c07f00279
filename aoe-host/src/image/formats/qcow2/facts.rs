//! What an image says of itself, for people and programs.

use std::path::PathBuf;

use cow_core::format::Codec;
use cow_core::format::qcow2::{self, FormatName, SnapshotError};
use serde::Serialize;

use super::super::Facts;
use crate::error::Result;
use crate::image::name::ImageFile;
use crate::image::text;

/// Bytes of a snapshot's name that are shown.
const SHOWN_NAME: usize = 80;

/// The header of an image, for a program.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "marks of the header, each by itself")]
pub(super) struct Qcow2Facts {
    version: u32,
    cluster_bytes: u64,
    refcount_bits: u8,
    /// The backing file as the image names it, from here, and its format.
    backing: Option<PathBuf>,
    backing_format: Option<String>,
    compression: &'static str,
    subclusters: bool,
    lazy_refcounts: bool,
    dirty: bool,
    corrupt: bool,
    snapshots: Vec<SnapshotFacts>,
}

/// An internal snapshot.
#[derive(Debug, Serialize)]
pub(super) struct SnapshotFacts {
    id: String,
    name: String,
    disk_bytes: u64,
    /// Since 1970.
    taken_s: u32,
    vm_state_bytes: u64,
}

impl Qcow2Facts {
    pub(super) fn new(
        opened: &qcow2::Opened,
        backing: Option<PathBuf>,
        snapshots: Vec<SnapshotFacts>,
    ) -> Self {
        let header = opened.header();
        let format = header.backing_format().map(FormatName::as_bytes);
        Self {
            version: header.version(),
            cluster_bytes: header.geometry().cluster_bytes(),
            refcount_bits: header.geometry().refcount_bits(),
            backing,
            backing_format: format.map(|f| String::from_utf8_lossy(f).into_owned()),
            compression: if header.codec() == Codec::Zstd { "zstd" } else { "zlib" },
            subclusters: header.geometry().has_subclusters(),
            lazy_refcounts: header.has_lazy_refcounts(),
            dirty: header.is_dirty(),
            corrupt: header.is_corrupt(),
            snapshots,
        }
    }

    pub(super) fn tell(&self, facts: &mut Facts) {
        facts.set_json(self);
        let clusters = text::bytes(self.cluster_bytes);
        facts.line("version", self.version.to_string());
        facts.line("clusters", format!("{clusters}, counted in {} bits", self.refcount_bits));
        match (&self.backing, &self.backing_format) {
            (Some(_), Some(format)) => facts.line("backing format", format),
            (Some(path), None) => {
                let path = path.display();
                facts
                    .line("backing file", format!("{path}, format not recorded: name it yourself"));
            }
            (None, _) => {}
        }
        if self.compression == "zstd" {
            facts.line("compression", "zstd");
        }
        if self.subclusters {
            facts.line("subclusters", "32 in a cluster; only read here");
        }
        if self.dirty {
            facts.line("state", "not closed in order: counts are rebuilt before it is written");
        }
        for snapshot in &self.snapshots {
            let size = text::bytes(snapshot.disk_bytes);
            facts.line("snapshot", format!("{} `{}`, {size}", snapshot.id, snapshot.name));
        }
    }
}

pub(super) fn snapshot_facts(
    file: &ImageFile,
    opened: &qcow2::Opened,
    facts: &mut Facts,
) -> Result<Vec<SnapshotFacts>> {
    let mut list = Vec::new();
    for snapshot in qcow2::snapshots(&file.main, opened) {
        let snapshot = match snapshot {
            Ok(snapshot) => snapshot,
            Err(SnapshotError::Storage(error)) => return Err(error.into()),
            Err(damage) => {
                facts.problems.push(damage.to_string());
                break;
            }
        };
        let (mut id, mut name) = ([0; SHOWN_NAME], [0; SHOWN_NAME]);
        let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        list.push(SnapshotFacts {
            id: words(snapshot.id(&file.main, &mut id)?),
            name: words(snapshot.name(&file.main, &mut name)?),
            disk_bytes: snapshot.disk_bytes(),
            taken_s: snapshot.seconds(),
            vm_state_bytes: snapshot.vm_state_bytes(),
        });
    }
    Ok(list)
}
