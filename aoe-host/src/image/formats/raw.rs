//! Plain images: the bytes of a disk. A base, and never anything else.

use std::path::Path;

use cow_core::format::raw;
use cow_core::format::{IndexEntry, Layer};
use cow_core::identity::LayerId;
use cow_core::storage::{ReadStorage, Storage};
use cow_core::units::SECTOR_BYTES;

use super::{Creation, Facts, ImageFormat, NewImage, OpenedLayer, TopImage};
use crate::error::{ErrorKind, HostError, Result};
use crate::image::binding::Binding;
use crate::image::identity::identity_of;
use crate::image::name::{ImageFile, ImageKeys};
use crate::image::notes::NoteId;
use crate::image::parent::{Below, Recorded};
use crate::image::report::{CheckReport, Progress};
use crate::storage::FileStorage;

#[derive(Debug)]
pub(super) struct Raw;

static CREATION: Creation = Creation { options: &[], blank: true, other_size: true, part: false };

impl ImageFormat for Raw {
    fn word(&self) -> &'static str {
        "raw"
    }

    fn about(&self) -> &'static str {
        "The bytes of a disk, one after the other"
    }

    fn detect(&self, _first: &[u8; 512], _file: &FileStorage) -> Result<bool> {
        Ok(true)
    }

    fn is_plain(&self) -> bool {
        true
    }

    fn describe(&self, file: &ImageFile, facts: &mut Facts) -> Result<()> {
        let len = file.main.len_bytes()?;
        facts.disk_bytes = Some(len.next_multiple_of(SECTOR_BYTES));
        if len == 0 {
            facts.problems.push("the file is empty".to_owned());
        }
        if Binding::load(&file.main)?.is_some() {
            let path = file.path().display();
            facts.line(
                "note",
                format!(
                    "a record beside it says that it lies on another image: if it is the data of a \
                     dm-cow layer, write dm-cow:{path}+BITMAP"
                ),
            );
        }
        Ok(())
    }

    fn parent(&self, _file: &ImageFile) -> Result<Option<Recorded>> {
        Ok(None)
    }

    fn set_parent(&self, file: &mut ImageFile, _below: &Below) -> Result<()> {
        Err(no_overlay("name a parent of", file.path()))
    }

    fn disk_bytes(&self, file: &ImageFile) -> Result<Option<u64>> {
        Ok(Some(file.main.len_bytes()?))
    }

    fn open_layer<'i>(
        &self,
        file: &ImageFile,
        keys: ImageKeys,
        below: Option<&Below>,
        _index: &'i mut Vec<IndexEntry>,
    ) -> Result<OpenedLayer<'i>> {
        if below.is_some() {
            return Err(HostError::usage("use the chain", "a raw image hides what is below it")
                .path(file.path())
                .advice("name raw images last"));
        }
        let raw = open(file, keys, "serve")?;
        Ok(OpenedLayer {
            identity: identity_of(&file.main)?,
            size_bytes: raw.len_bytes(),
            layer: Layer::Raw(raw),
            warning: None,
        })
    }

    fn view<'i>(
        &self,
        file: &ImageFile,
        keys: ImageKeys,
        _below_sectors: Option<u64>,
        _index: &'i mut Vec<IndexEntry>,
    ) -> Result<Layer<'i>> {
        open(file, keys, "read the image").map(Layer::Raw)
    }

    fn open_overlay(
        &self,
        file: &mut ImageFile,
        _keys: ImageKeys,
        _below: &Below,
    ) -> Result<TopImage> {
        let is_empty = file.main.len_bytes()? == 0;
        let detail = if is_empty { "it is empty" } else { "it is no overlay" };
        Err(HostError::new(ErrorKind::Unsupported, "use the overlay")
            .path(file.path())
            .detail(detail)
            .advice("overlays are made by `cowblade create`, or by the server on demand"))
    }

    fn note_id(&self, _file: &ImageFile) -> Result<Option<NoteId>> {
        Ok(None)
    }

    fn creation(&self) -> Option<&'static Creation> {
        Some(&CREATION)
    }

    fn create(&self, file: &mut ImageFile, new: &NewImage<'_>) -> Result<()> {
        let len = new.sectors.saturating_mul(SECTOR_BYTES);
        if !new.is_fresh {
            let have = file.main.len_bytes()?;
            if have < len {
                let detail = format!("it has {have} bytes, and the disk {len}");
                return Err(HostError::new(ErrorKind::Full, "create a raw image")
                    .path(file.path())
                    .detail(detail));
            }
            file.main.zero(0, len)?;
        }
        file.main.extend(len)?;
        Ok(file.main.sync_data()?)
    }

    fn check(
        &self,
        file: &ImageFile,
        report: &mut CheckReport,
        _progress: &mut Progress<'_>,
    ) -> Result<()> {
        report.data_bytes = file.main.len_bytes()?;
        if report.data_bytes == 0 {
            report.found(true, "the file is empty".to_owned());
        }
        Ok(())
    }

    fn rollback(&self, file: &mut ImageFile) -> Result<Option<u64>> {
        Err(no_overlay("roll back", file.path()))
    }

    fn freeze(&self, file: &mut ImageFile) -> Result<LayerId> {
        Err(no_overlay("freeze", file.path()))
    }
}

fn open(file: &ImageFile, keys: ImageKeys, op: &str) -> Result<raw::Raw> {
    let len = file.main.len_bytes()?;
    raw::Raw::new(keys.main, len).ok_or_else(|| {
        let detail = if len == 0 { "it is empty" } else { "it is larger than a disk can be" };
        HostError::usage(op, detail).path(file.path())
    })
}

fn no_overlay(op: &str, path: &Path) -> HostError {
    HostError::new(ErrorKind::Unsupported, op)
        .path(path)
        .detail("it is no overlay")
        .advice("`cowblade info` tells what it is")
}
