//! qcow version 1, of QEMU and of Xen's blktap (`docs/FORMAT-QCOW1.md`). An image names its backing
//! file and knows nothing else of it: by what it is recognised is in our file beside the image.

use std::path::{Path, PathBuf};

use cow_core::format::qcow1::{self, CreateError, Fresh, HeaderFault, OpenError, RebaseError};
use cow_core::format::{IndexEntry, Layer, Top};
use cow_core::pages::Page;
use cow_core::units::SECTOR_BYTES;
use serde::Serialize;

use super::{
    Creation, Facts, ImageFormat, NewImage, OpenedLayer, OptionSpec, TopImage, backing_file,
};
use crate::error::{ErrorKind, HostError, Result};
use crate::image::binding::Binding;
use crate::image::identity::{identity_of, scratch_page};
use crate::image::name::{ImageFile, ImageKeys};
use crate::image::parent::{Below, Recorded};
use crate::image::report::{CheckReport, Progress};
use crate::image::text;
use crate::storage::{FileStorage, StorageError};

/// Most memory that a check marks the file's use in: with less than it needs it reads the tables
/// several times.
const CHECK_MEMORY_MAX: u64 = 64 << 20;

#[derive(Debug)]
pub(super) struct Qcow1;

static CREATION: Creation = Creation {
    options: &[
        OptionSpec {
            key: "cluster",
            about: "bytes in a cluster, a power of two from 512 to 64K, 4K unless given; over a \
                    backing file only 512 is safe",
        },
        OptionSpec {
            key: "table",
            about: "entries in a second-level table, a power of two from 64 to 8192, 512 unless \
                    given, or 4096 over a backing file",
        },
    ],
    blank: true,
    other_size: true,
    part: false,
};

impl ImageFormat for Qcow1 {
    fn word(&self) -> &'static str {
        "qcow1"
    }

    fn about(&self) -> &'static str {
        "The first format of QEMU (`qcow`), also of Xen's blktap"
    }

    fn binds_parent(&self) -> bool {
        true
    }

    fn detect(&self, first: &[u8; 512], _file: &FileStorage) -> Result<bool> {
        Ok(first.first_chunk().is_some_and(qcow1::is_qcow1))
    }

    fn describe(&self, file: &ImageFile, facts: &mut Facts) -> Result<()> {
        match qcow1::open(&file.main) {
            Ok(opened) => {
                let sectors = opened.geometry().sectors();
                facts.disk_bytes = Some(sectors.saturating_mul(SECTOR_BYTES));
                let backing = match backing_path(file, &opened) {
                    Ok(path) => path,
                    Err(error) => {
                        facts.problems.push(error.to_string());
                        None
                    }
                };
                QcowFacts::new(&opened, backing).tell(facts);
            }
            Err(OpenError::Storage(error)) => return Err(error.into()),
            Err(damage) => facts.problems.push(damage.to_string()),
        }
        Ok(())
    }

    fn parent(&self, file: &ImageFile) -> Result<Option<Recorded>> {
        let opened = open(file, "read the parent of")?;
        let Some(path) = backing_path(file, &opened)? else { return Ok(None) };
        backing_file::recorded(file, path, None).map(Some)
    }

    fn set_parent(&self, file: &mut ImageFile, below: &Below) -> Result<()> {
        let op = "rebind";
        if below.is_blank() {
            let path = file.path().to_owned();
            qcow1::drop_backing(&mut file.main, &mut scratch_page())
                .map_err(|e| update_failed(e, op, &path))?;
            return super::bind(file, below);
        }
        let name = backing_file::name_of(below, file.path(), op)?;
        let path = file.path().to_owned();
        let named = qcow1::set_backing(&mut file.main, &name, &mut scratch_page());
        named.map_err(|error| match error {
            RebaseError::Update(error) => update_failed(error, op, &path),
            other => HostError::usage(op, other.to_string()).path(&path),
        })?;
        super::bind(file, below)
    }

    fn disk_bytes(&self, file: &ImageFile) -> Result<Option<u64>> {
        let opened = open(file, "measure the disk")?;
        Ok(Some(opened.geometry().sectors().saturating_mul(SECTOR_BYTES)))
    }

    fn open_layer<'i>(
        &self,
        file: &ImageFile,
        keys: ImageKeys,
        below: Option<&Below>,
        _index: &'i mut Vec<IndexEntry>,
    ) -> Result<OpenedLayer<'i>> {
        let opened = open(file, "use the layer")?;
        let warning = backing_file::compare(file, backing_path(file, &opened)?, below)?;
        Ok(OpenedLayer {
            layer: Layer::Qcow1(opened.frozen(keys.main)),
            identity: identity_of(&file.main)?,
            size_bytes: opened.geometry().sectors().saturating_mul(SECTOR_BYTES),
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
        Ok(Layer::Qcow1(open(file, "read the image")?.frozen(keys.main)))
    }

    fn open_overlay(
        &self,
        file: &mut ImageFile,
        keys: ImageKeys,
        below: &Below,
    ) -> Result<TopImage> {
        let op = "use the overlay";
        let opened = open(file, op)?;
        let _told_when_it_is_made =
            backing_file::compare(file, backing_path(file, &opened)?, Some(below))?;
        let path = file.path().to_owned();
        // The first change of the image: everything that could be refused has been looked at.
        let top = qcow1::open_writable(&mut file.main, keys.main, &mut scratch_page())
            .map_err(|e| update_failed(e, op, &path))?;
        let binding = Binding::of_overlay(&file.main, below)?;
        Ok(TopImage {
            top: Top::Qcow1(top),
            index: Vec::new(),
            // What the file takes, tables and lost space included: counting clusters would read
            // every table.
            used: file.main.disk_use()?.allocated_bytes / SECTOR_BYTES,
            sectors: opened.geometry().sectors(),
            label: String::new(),
            note_id: binding.note_id(&file.main),
            was_clean: true,
            discards_to_zeros: false,
        })
    }

    fn creation(&self) -> Option<&'static Creation> {
        Some(&CREATION)
    }

    fn create(&self, file: &mut ImageFile, new: &NewImage<'_>) -> Result<()> {
        let op = "create the image";
        let path = file.path().to_owned();
        let name = if new.below.is_blank() {
            None
        } else {
            Some(backing_file::name_of(new.below, &path, op)?)
        };
        let mut options = qcow1::CreateOptions::new(new.sectors, name.as_deref());
        if let Some(bytes) = new.options.bytes("cluster")? {
            options.cluster_bits = power(bytes, "cluster", &path)?;
        }
        if let Some(entries) = new.options.parsed::<u64>("table")? {
            options.l2_bits = power(entries, "table", &path)?;
        }
        options.fresh = if new.is_fresh { Fresh::Zeroed } else { Fresh::Unknown };
        qcow1::create(&mut file.main, &options).map_err(|error| match error {
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
        let mut memory = check_memory(file);
        let checked = qcow1::check(&file.main, &mut memory, &mut scratch_pages(), &mut |finding| {
            report.found(finding.is_damage(), finding.to_string());
        });
        match checked {
            Ok(counts) => {
                let cluster = qcow1::open(&file.main).map_or(0, |o| o.geometry().cluster_bytes());
                let clusters = counts.clusters.saturating_add(counts.packed);
                report.data_bytes = clusters.saturating_mul(cluster);
            }
            Err(error) => check_failed(error, report)?,
        }
        Ok(())
    }

    fn repair(
        &self,
        file: &mut ImageFile,
        report: &mut CheckReport,
        _progress: &mut Progress<'_>,
    ) -> Result<()> {
        let mut memory = check_memory(file);
        let mut leaks = 0_u64;
        let repaired =
            qcow1::repair(&mut file.main, &mut memory, &mut scratch_pages(), &mut |finding| {
                leaks += u64::from(matches!(finding, qcow1::Finding::Leak { .. }));
            });
        match repaired {
            Ok(counts) => {
                if counts.repaired > 0 {
                    report.repaired.push(format!(
                        "{} entries that named nothing are empty, or have copies of clusters that \
                         others use too",
                        counts.repaired
                    ));
                }
                if leaks > 0 && counts.damages == 0 {
                    report.repaired.push(format!(
                        "lost space was given back to the file system: {} in {leaks} places",
                        text::bytes(counts.leaked)
                    ));
                }
            }
            Err(error) => check_failed(error, report)?,
        }
        Ok(())
    }

    fn rollback(&self, file: &mut ImageFile) -> Result<Option<u64>> {
        let op = "roll back";
        let held = held_bytes(file)?;
        Binding::renew(&file.main)?;
        let path = file.path().to_owned();
        qcow1::rollback(&mut file.main, &mut scratch_page())
            .map_err(|e| update_failed(e, op, &path))?;
        Ok(held)
    }
}

/// The header of an image, for a program.
#[derive(Debug, Serialize)]
struct QcowFacts {
    cluster_bytes: u64,
    /// Entries in a second-level table.
    table_entries: u64,
    /// The backing file as the image names it, from here.
    backing: Option<PathBuf>,
    /// It has the extension of Xen's blktap.
    is_xen: bool,
}

impl QcowFacts {
    fn new(opened: &qcow1::Opened, backing: Option<PathBuf>) -> Self {
        Self {
            cluster_bytes: opened.geometry().cluster_bytes(),
            table_entries: opened.geometry().l2_entries(),
            backing,
            is_xen: opened.header().xen.is_some(),
        }
    }

    fn tell(&self, facts: &mut Facts) {
        facts.set_json(self);
        let clusters = text::bytes(self.cluster_bytes);
        facts.line("clusters", format!("{clusters}, {} in a table", self.table_entries));
        if self.is_xen {
            facts.line("variant", "Xen blktap");
        }
    }
}

fn open(file: &ImageFile, op: &str) -> Result<qcow1::Opened> {
    qcow1::open(&file.main).map_err(|e| open_failed(e, op, file.path()))
}

/// Where the image says that its backing file is.
fn backing_path(file: &ImageFile, opened: &qcow1::Opened) -> Result<Option<PathBuf>> {
    let mut buffer = vec![0; qcow1::NAME_LEN];
    let name = opened.backing_name(&file.main, &mut buffer).map_err(|error| match error {
        qcow1::NameError::Storage(error) => error.into(),
        other => HostError::new(ErrorKind::Corrupt, "read the name of the backing file")
            .path(file.path())
            .detail(other.to_string()),
    })?;
    name.map(|name| backing_file::resolve(name, file.path())).transpose()
}

/// Bytes of the disk that are in the image; `None` if its tables are damaged.
fn held_bytes(file: &ImageFile) -> Result<Option<u64>> {
    let opened = open(file, "roll back")?;
    let mut scratch = scratch_pages::<2>();
    let mut runs = qcow1::Runs::new(&opened, &mut scratch);
    let mut held = 0_u64;
    loop {
        match runs.next(&file.main) {
            Ok(Some((extent, _))) => held = held.saturating_add(extent.bytes()),
            Ok(None) => return Ok(Some(held)),
            Err(qcow1::RunsError::Storage(error)) => return Err(error.into()),
            Err(_damage) => return Ok(None),
        }
    }
}

/// Memory to mark the use of the file in.
fn check_memory(file: &ImageFile) -> Vec<u8> {
    let needed = qcow1::open(&file.main)
        .map_or(qcow1::CHECK_MEMORY_MIN, |opened| qcow1::check_memory(opened.file_len()));
    vec![0; usize::try_from(needed.min(CHECK_MEMORY_MAX)).unwrap_or(1 << 20)]
}

fn scratch_pages<const N: usize>() -> [Page; N] {
    [const { Page::ZERO }; N]
}

/// The logarithm of an option that must be a power of two; the sizes are judged by the format.
fn power(value: u64, option: &str, path: &Path) -> Result<u8> {
    let logarithm = value.checked_ilog2().filter(|_| value.is_power_of_two());
    logarithm.and_then(|bits| u8::try_from(bits).ok()).ok_or_else(|| {
        HostError::usage("create the image", format!("{option}={value} is no power of two"))
            .path(path)
    })
}

/// A check that did not come to its end. What is wrong with the image is a finding.
fn check_failed(error: qcow1::CheckError<StorageError>, report: &mut CheckReport) -> Result<()> {
    use qcow1::{CheckError, UpdateError};
    match error {
        CheckError::Storage(error)
        | CheckError::Open(
            UpdateError::Open(OpenError::Storage(error)) | UpdateError::Storage(error),
        ) => Err(error.into()),
        damage => {
            report.found(true, damage.to_string());
            Ok(())
        }
    }
}

/// An image that was not opened.
fn open_failed(error: OpenError<StorageError>, op: &str, path: &Path) -> HostError {
    let told = |kind| HostError::new(kind, op).path(path).detail(error.to_string());
    match error {
        OpenError::Storage(error) => error.into(),
        OpenError::Header(HeaderFault::Encrypted { .. }) => told(ErrorKind::Unsupported)
            .advice("convert it with `qemu-img` and its key to an image that is not encrypted"),
        OpenError::Header(HeaderFault::NotQcow { .. } | HeaderFault::Version { .. }) => {
            told(ErrorKind::Unsupported)
        }
        OpenError::Header(HeaderFault::TooShort { .. }) => told(ErrorKind::Corrupt)
            .advice("the end of the file is missing: copy it again, sparse and complete"),
        _ => told(ErrorKind::Corrupt)
            .advice("`cowblade info` shows what is left; restore it from a backup"),
    }
}

/// An image that was not changed.
fn update_failed(error: qcow1::UpdateError<StorageError>, op: &str, path: &Path) -> HostError {
    use qcow1::UpdateError;
    match error {
        UpdateError::Open(error) => open_failed(error, op, path),
        UpdateError::Storage(error) => error.into(),
        other => HostError::new(ErrorKind::Corrupt, op)
            .path(path)
            .detail(other.to_string())
            .advice("`cowblade check --repair` may help; it can be read as it is"),
    }
}
