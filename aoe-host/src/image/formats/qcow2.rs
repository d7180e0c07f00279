//! QEMU's qcow2: an image names its backing file and its format, and knows nothing else of it: by
//! what it is recognised is in our file beside the image.

mod facts;
mod parent;

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cow_core::format::qcow2::{
    self, CreateError, HeaderFault, OpenError, OpenWritableError, RebaseError, RefuseWriting,
    RepairError, RollbackError, Snapshot, SnapshotError, Surroundings,
};
use cow_core::format::{IndexEntry, Layer, Top};
use cow_core::identity::{LayerId, ParentIdentity};
use cow_core::pages::StorageKey;
use cow_core::storage::ReadStorage;
use cow_core::units::SECTOR_BYTES;

use super::{
    Creation, Facts, Format, ImageFormat, NewImage, OpenedLayer, OptionSpec, TopImage, backing_file,
};
use crate::error::{ErrorKind, HostError, Result};
use crate::image::binding::Binding;
use crate::image::identity::{digest_of, identity_of, scratch_page};
use crate::image::name::{ImageFile, ImageKeys};
use crate::image::parent::{Below, Recorded};
use crate::image::report::{CheckReport, Progress};
use crate::storage::{FileStorage, StorageError};
use facts::{Qcow2Facts, snapshot_facts};
use parent::{backing_of, backing_path, format_of};

/// Most memory that a check counts uses in: two bytes for each cluster of the file. Enough for 32 TiB
/// of the usual clusters.
const CHECK_MEMORY_MAX: u64 = 1 << 30;

#[derive(Debug)]
pub(super) struct Qcow2;

static CREATION: Creation = Creation {
    options: &[
        OptionSpec {
            key: "cluster",
            about: "bytes in a cluster, a power of two from 512 to 2M, 64K unless given",
        },
        OptionSpec { key: "version", about: "2 or 3, 3 unless given" },
        OptionSpec {
            key: "refcount-bits",
            about: "bits of a reference count, a power of two up to 64, 16 unless given; in \
                    version 2 always 16",
        },
    ],
    blank: true,
    other_size: true,
    part: false,
};

impl ImageFormat for Qcow2 {
    fn word(&self) -> &'static str {
        "qcow2"
    }

    fn about(&self) -> &'static str {
        "The usual format of QEMU, versions 2 and 3"
    }

    fn binds_parent(&self) -> bool {
        true
    }

    fn has_snapshots(&self) -> bool {
        true
    }

    fn detect(&self, first: &[u8; 512], _file: &FileStorage) -> Result<bool> {
        Ok(first.first_chunk().is_some_and(qcow2::is_qcow2))
    }

    fn describe(&self, file: &ImageFile, facts: &mut Facts) -> Result<()> {
        match qcow2::open(&file.main) {
            Ok(opened) => {
                facts.disk_bytes = Some(match found_snapshot(file, &opened, "describe")? {
                    Some(snapshot) => snapshot_bytes(&snapshot),
                    None => disk_bytes(&opened),
                });
                let backing = match backing_path(file, &opened) {
                    Ok(path) => path,
                    Err(error) => {
                        facts.problems.push(error.to_string());
                        None
                    }
                };
                let snapshots = snapshot_facts(file, &opened, facts)?;
                Qcow2Facts::new(&opened, backing, snapshots).tell(facts);
                if opened.header().is_corrupt() {
                    facts.problems.push("it is marked corrupt".to_owned());
                }
            }
            Err(OpenError::Storage(error)) => return Err(error.into()),
            Err(damage) => facts.problems.push(damage.to_string()),
        }
        Ok(())
    }

    fn parent(&self, file: &ImageFile) -> Result<Option<Recorded>> {
        let opened = open(file, "read the image")?;
        let Some(path) = backing_path(file, &opened)? else { return Ok(None) };
        let Some(format) = opened.header().backing_format() else {
            // Whoever writes to a raw disk could make it look like an image that names any file: a
            // name whose format would have to be guessed is not followed.
            let mut recorded = backing_file::recorded(file, path, None)?;
            recorded.path = None;
            return Ok(Some(recorded));
        };
        let format = format.as_bytes();
        let Some(format) = format_of(format) else {
            let op = "follow the image to its backing file";
            return Err(HostError::new(ErrorKind::Unsupported, op).path(file.path()).detail(
                format!("its backing file has the format `{}`", String::from_utf8_lossy(format)),
            ));
        };
        backing_file::recorded(file, path, Some(format)).map(Some)
    }

    fn set_parent(&self, file: &mut ImageFile, below: &Below) -> Result<()> {
        let op = "rebind";
        let mut opened = open(file, op)?;
        let path = file.path().to_owned();
        let (name, format) = backing_of(below, &path, op)?;
        let backing = qcow2::Backing { name: &name, format: format.as_bytes() };
        let backing = (!below.is_blank()).then_some(backing);
        qcow2::set_backing(&mut file.main, &mut opened, backing, &mut scratch_page()).map_err(
            |error| match error {
                RebaseError::Storage(error) => error.into(),
                other => HostError::usage(op, other.to_string()).path(&path),
            },
        )?;
        super::bind(file, below)
    }

    fn check_new_parent(&self, file: &ImageFile) -> Result<()> {
        let op = "change what is below the image";
        if open(file, op)?.header().snapshots() == 0 {
            return Ok(());
        }
        Err(HostError::new(ErrorKind::Unsupported, op)
            .path(file.path())
            .detail("it holds internal snapshots, which lie on the same image and would change")
            .advice("`cowblade convert` copies the disk; `qemu-img snapshot -d` deletes snapshots"))
    }

    fn identity(&self, file: &ImageFile) -> Result<ParentIdentity> {
        let opened = open(file, "recognise the image")?;
        match found_snapshot(file, &opened, "recognise the image")? {
            // It stays the same when the disk is written.
            Some(snapshot) => {
                let (offset, len) = snapshot.place();
                let mut entry = vec![0; usize::try_from(len).unwrap_or(0)];
                file.main.read_at(offset, &mut entry)?;
                let digest = digest_of(&entry);
                Ok(ParentIdentity::Layer(LayerId(digest)))
            }
            None => identity_of(&file.main),
        }
    }

    fn disk_bytes(&self, file: &ImageFile) -> Result<Option<u64>> {
        let op = "measure the disk";
        let opened = open(file, op)?;
        let snapshot = found_snapshot(file, &opened, op)?;
        Ok(Some(snapshot.map_or_else(|| disk_bytes(&opened), |s| snapshot_bytes(&s))))
    }

    fn open_layer<'i>(
        &self,
        file: &ImageFile,
        keys: ImageKeys,
        below: Option<&Below>,
        index: &'i mut Vec<IndexEntry>,
    ) -> Result<OpenedLayer<'i>> {
        let opened = open(file, "use the layer")?;
        let warning = backing_file::compare(file, backing_path(file, &opened)?, below)?;
        let layer = self.view(file, keys, None, index)?;
        Ok(OpenedLayer {
            identity: self.identity(file)?,
            size_bytes: layer.sectors().saturating_mul(SECTOR_BYTES),
            layer,
            warning,
        })
    }

    fn view<'i>(
        &self,
        file: &ImageFile,
        keys: ImageKeys,
        _below_sectors: Option<u64>,
        _index: &'i mut Vec<IndexEntry>,
    ) -> Result<Layer<'i>> {
        let op = "read the image";
        let opened = open(file, op)?;
        Ok(Layer::Qcow2(match found_snapshot(file, &opened, op)? {
            Some(snapshot) => frozen_snapshot(file, &opened, &snapshot, keys.main)?,
            None => opened.frozen(keys.main),
        }))
    }

    fn open_overlay(
        &self,
        file: &mut ImageFile,
        keys: ImageKeys,
        below: &Below,
    ) -> Result<TopImage> {
        let op = "use the overlay";
        let mut opened = open(file, op)?;
        let _told_when_it_is_made =
            backing_file::compare(file, backing_path(file, &opened)?, Some(below))?;
        let was_clean = !opened.header().is_dirty();
        if !was_clean {
            // What a writer with lazy counts left: rebuilt before the first write, as QEMU does.
            let mut report = CheckReport::new(file.path().to_owned(), Format(&Self));
            self.repair(file, &mut report, &mut |_, _| {})?;
            opened = open(file, op)?;
        }
        let path = file.path().to_owned();
        let surroundings = surroundings(&file.main)?;
        // The first change of a sound image: everything that could be refused has been looked at.
        let top = qcow2::open_writable(
            &mut file.main,
            keys.main,
            &opened,
            &surroundings,
            &mut scratch_page(),
        )
        .map_err(|error| not_writable(error, op, &path))?;
        let binding = Binding::of_overlay(&file.main, below)?;
        Ok(TopImage {
            top: Top::Qcow2(top),
            index: Vec::new(),
            // What the file takes, tables and lost space included: counting clusters would read
            // every table.
            used: file.main.disk_use()?.allocated_bytes / SECTOR_BYTES,
            sectors: opened.header().geometry().sectors(),
            label: String::new(),
            note_id: binding.note_id(&file.main),
            was_clean,
            discards_to_zeros: false,
        })
    }

    fn close(&self, file: &mut ImageFile, top: &mut Top) -> Result<()> {
        if let Top::Qcow2(top) = top {
            qcow2::close(&mut file.main, top, &mut scratch_page())?;
        }
        file.sync_data()
    }

    fn creation(&self) -> Option<&'static Creation> {
        Some(&CREATION)
    }

    fn create(&self, file: &mut ImageFile, new: &NewImage<'_>) -> Result<()> {
        let op = "create the image";
        let path = file.path().to_owned();
        let mut options = qcow2::CreateOptions::new(new.sectors.saturating_mul(SECTOR_BYTES));
        let (name, format) = backing_of(new.below, &path, op)?;
        if !new.below.is_blank() {
            options.backing = Some(qcow2::Backing { name: &name, format: format.as_bytes() });
        }
        if let Some(bytes) = new.options.bytes("cluster")? {
            let bits = bytes.checked_ilog2().filter(|_| bytes.is_power_of_two());
            options.cluster_bits = bits.and_then(|b| u8::try_from(b).ok()).ok_or_else(|| {
                HostError::usage(op, format!("cluster={bytes} is no power of two")).path(&path)
            })?;
        }
        if let Some(version) = new.options.parsed("version")? {
            options.version = version;
        }
        if let Some(bits) = new.options.parsed("refcount-bits")? {
            options.refcount_bits = bits;
        }
        qcow2::create(&mut file.main, &options, &mut scratch_page()).map_err(|error| match error {
            CreateError::Storage(error) => error.into(),
            other => HostError::usage(op, other.to_string()).path(path),
        })
    }

    fn check(
        &self,
        file: &ImageFile,
        report: &mut CheckReport,
        _progress: &mut Progress<'_>,
    ) -> Result<()> {
        let opened = match qcow2::open(&file.main) {
            Ok(opened) => opened,
            Err(OpenError::Storage(error)) => return Err(error.into()),
            Err(OpenError::Header {
                reason: reason @ (HeaderFault::Encrypted { .. } | HeaderFault::ExternalData),
            }) => {
                // It may well be sound.
                let error = OpenError::Header { reason };
                return Err(open_failed(error, "check the image", file.path()));
            }
            Err(damage) => {
                report.found(true, damage.to_string());
                return Ok(());
            }
        };
        let mut memory = check_memory(file, &opened)?;
        let mut page = scratch_page();
        let checked = qcow2::check(&file.main, &opened, &mut memory, &mut page, &mut |finding| {
            // What a writer with lazy counts left is no damage.
            let excused =
                matches!(finding, qcow2::Finding::CountTooLow { .. }) && opened.header().is_dirty();
            report.found(finding.is_damage() && !excused, finding.to_string());
        });
        let counts = checked.map_err(|error| check_failed(error, file.path()))?;
        let cluster = opened.header().geometry().cluster_bytes();
        report.data_bytes = counts.data_clusters.saturating_mul(cluster);
        report.zero_bytes = counts.zero_clusters.saturating_mul(cluster);
        Ok(())
    }

    fn repair(
        &self,
        file: &mut ImageFile,
        report: &mut CheckReport,
        _progress: &mut Progress<'_>,
    ) -> Result<()> {
        let opened = open(file, "repair")?;
        let mut memory = check_memory(file, &opened)?;
        let capacity = surroundings(&file.main)?.capacity;
        let mut page = scratch_page();
        let (path, mut ignore) = (file.path().to_owned(), |_| {});
        let done =
            qcow2::repair(&mut file.main, &opened, capacity, &mut memory, &mut page, &mut ignore);
        let done = match done {
            Ok(done) => done,
            Err(RepairError::Storage(error)) => return Err(error.into()),
            Err(other) => {
                return Err(HostError::new(ErrorKind::Corrupt, "repair")
                    .path(path)
                    .detail(other.to_string())
                    .advice("`cowblade convert` copies what can be read"));
            }
        };
        let mut say = |count: u64, what: &str| {
            if count > 0 {
                report.repaired.push(format!("{count} {what}"));
            }
        };
        say(done.blocks, "blocks of reference counts were missing and are there again");
        say(done.raised, "clusters are counted as often as they are used");
        say(done.lowered, "clusters that were lost are free again, or counted less");
        say(done.marks, "entries say rightly whether their cluster is used once");
        if done.cleared {
            report.repaired.push("the image is not marked dirty or corrupt any more".to_owned());
        }
        Ok(())
    }

    fn rollback(&self, file: &mut ImageFile) -> Result<Option<u64>> {
        let op = "roll back";
        let opened = open(file, op)?;
        let held = held_bytes(file, &opened);
        let path = file.path().to_owned();
        if opened.header().snapshots() > 0 {
            return Err(HostError::new(ErrorKind::Unsupported, op)
                .path(path)
                .detail("it holds internal snapshots, which would be lost")
                .advice("delete them with `qemu-img snapshot -d`"));
        }
        Binding::renew(&file.main)?;
        let capacity = surroundings(&file.main)?.capacity;
        qcow2::rollback(&mut file.main, &opened, capacity, &mut scratch_page()).map_err(
            |error| match error {
                RollbackError::Storage(error) => error.into(),
                other => HostError::new(ErrorKind::Corrupt, op)
                    .path(path)
                    .detail(other.to_string())
                    .advice("`cowblade check --repair` may help"),
            },
        )?;
        Ok(held)
    }
}

fn open(file: &ImageFile, op: &str) -> Result<qcow2::Opened> {
    qcow2::open(&file.main).map_err(|e| open_failed(e, op, file.path()))
}

fn disk_bytes(opened: &qcow2::Opened) -> u64 {
    opened.header().geometry().sectors().saturating_mul(SECTOR_BYTES)
}

const fn snapshot_bytes(snapshot: &Snapshot) -> u64 {
    snapshot.disk_bytes() / SECTOR_BYTES * SECTOR_BYTES
}

/// The internal snapshot that the image's name means, if it means one.
fn found_snapshot(file: &ImageFile, opened: &qcow2::Opened, op: &str) -> Result<Option<Snapshot>> {
    let Some(wanted) = &file.snapshot else { return Ok(None) };
    let refused = |kind, detail: String| HostError::new(kind, op).path(file.path()).detail(detail);
    match qcow2::find_snapshot(&file.main, opened, wanted.as_bytes()) {
        Ok(Some(snapshot)) => Ok(Some(snapshot)),
        Ok(None) => {
            let detail = format!("it has no internal snapshot `{}`", wanted.display());
            Err(refused(ErrorKind::NotFound, detail).advice("`cowblade info` lists them"))
        }
        Err(SnapshotError::Storage(error)) => Err(error.into()),
        Err(damage) => Err(refused(ErrorKind::Corrupt, damage.to_string())),
    }
}

fn frozen_snapshot(
    file: &ImageFile,
    opened: &qcow2::Opened,
    snapshot: &Snapshot,
    key: StorageKey,
) -> Result<qcow2::Frozen> {
    snapshot.frozen(opened, key).ok_or_else(|| {
        HostError::new(ErrorKind::Corrupt, "read the snapshot")
            .path(file.path())
            .detail("its first table is not inside the image, or too short")
            .advice("`cowblade check` tells what is wrong")
    })
}

/// A device cannot grow. Notes are kept for files only, which are at least as long as what was noted.
fn surroundings(file: &FileStorage) -> Result<Surroundings> {
    let capacity = if file.is_device() { Some(file.len_bytes()?) } else { None };
    Ok(Surroundings { capacity, ..Surroundings::default() })
}

/// Bytes of the disk that are in the image; `None` if that cannot be told.
fn held_bytes(file: &ImageFile, opened: &qcow2::Opened) -> Option<u64> {
    let mut memory = check_memory(file, opened).ok()?;
    let mut page = scratch_page();
    let report = qcow2::check(&file.main, opened, &mut memory, &mut page, &mut |_| {}).ok()?;
    Some(report.data_clusters.saturating_mul(opened.header().geometry().cluster_bytes()))
}

/// Memory to count the uses of clusters in.
fn check_memory(file: &ImageFile, opened: &qcow2::Opened) -> Result<Vec<u16>> {
    let needed = qcow2::check_needed(opened);
    match usize::try_from(needed) {
        Ok(len) if needed.saturating_mul(2) <= CHECK_MEMORY_MAX => Ok(vec![0; len]),
        _ => Err(HostError::new(ErrorKind::Unsupported, "check")
            .path(file.path())
            .detail(format!("the file has room for {needed} clusters: too many to count"))),
    }
}

fn check_failed(error: qcow2::CheckError<StorageError>, path: &Path) -> HostError {
    match error {
        qcow2::CheckError::Storage(error) => error.into(),
        other => HostError::new(ErrorKind::Io, "check").path(path).detail(other.to_string()),
    }
}

/// An image that can be read only.
fn not_writable(error: OpenWritableError<StorageError>, op: &str, path: &Path) -> HostError {
    let told = |kind| HostError::new(kind, op).path(path).detail(error.to_string());
    match error {
        OpenWritableError::Storage(error) => error.into(),
        OpenWritableError::Refused { reason: RefuseWriting::Subclusters } => {
            told(ErrorKind::Unsupported)
                .advice("read it as it is: make an overlay on it, or `cowblade convert` it")
        }
        _ => told(ErrorKind::Corrupt)
            .advice("`cowblade check --repair` may help; it can be read as it is"),
    }
}

/// An image that was not opened.
fn open_failed(error: OpenError<StorageError>, op: &str, path: &Path) -> HostError {
    let told = |kind| HostError::new(kind, op).path(path).detail(error.to_string());
    let OpenError::Header { reason } = error else {
        return match error {
            OpenError::Storage(error) => error.into(),
            _ => told(ErrorKind::Corrupt),
        };
    };
    match reason {
        HeaderFault::Encrypted { .. } => told(ErrorKind::Unsupported)
            .advice("convert it with `qemu-img` and its key to an image that is not encrypted"),
        HeaderFault::ExternalData => told(ErrorKind::Unsupported)
            .advice("convert it with `qemu-img` to an image of one file"),
        HeaderFault::NotQcow2 { .. }
        | HeaderFault::Version { .. }
        | HeaderFault::Incompatible { .. }
        | HeaderFault::DiskSize { .. }
        | HeaderFault::Compression { .. } => told(ErrorKind::Unsupported),
        HeaderFault::TooShort { .. } | HeaderFault::Table { .. } => told(ErrorKind::Corrupt)
            .advice("the end of the file may be missing: copy it again, sparse and complete"),
        _ => told(ErrorKind::Corrupt)
            .advice("`cowblade info` shows what is left; restore it from a backup"),
    }
}
