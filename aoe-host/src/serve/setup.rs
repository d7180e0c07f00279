//! From a configuration to files, exports, clients and overlays.

use std::sync::Arc;

use aoe_proto::{Freeze, TargetConfig, TargetState, TrimSupport};

use super::edge::HostedEdge;
use super::log::Log;
use crate::config::{Durability as ConfigDurability, Export, NewClients, ServeConfig, Top};
use crate::error::{ErrorKind, HostError, Result};
use crate::image::{Backing, ImageName, OpenedOverlay, default_notes_directory};
use crate::registry::{REGISTRY_FILE, Registry, read_if_exists};
use crate::server::{DiskSpec, Durability, ExportSpec, Newcomers, Overlay, Server, identity_of};
use crate::storage::{Access, FileOptions, FileStorage, HostedDriver, LockMode, WorkerCounts};

/// Firmware version that targets report; free to choose. [AoE 4]
const FIRMWARE: u16 = 0x4101;

/// The world of the server: driver, registry, directories.
pub(super) fn edge(config: &ServeConfig, quiet: bool) -> Result<HostedEdge> {
    let mut log = Log::new(quiet, config.control.as_deref());
    for warning in &config.warnings {
        log.warn(warning);
    }
    if config.new_clients == (NewClients::Auto { max: None }) && config.allow.is_empty() {
        log.warn(
            "--new-clients auto without a number: any machine, and anybody who forges addresses, \
             can fill the disk with overlays; use auto=MAX or --allow",
        );
    }
    let mut registry = match &config.overlays {
        Some(directory) => match read_if_exists(&directory.join(REGISTRY_FILE))? {
            Some(text) => Registry::from_json(&text)?,
            None => Registry::new(),
        },
        None => Registry::new(),
    };
    for client in &config.clients {
        registry.declare(client)?;
    }
    let driver = HostedDriver::new(WorkerCounts::default())?;
    let per_client = config.exports.iter().filter(|e| matches!(e.top, Top::PerClient));
    let all = config.exports.iter().map(|e| e.address);
    let first = per_client.map(|e| e.address).min().or(all.min()).ok_or_else(|| {
        HostError::usage("serve", "there is nothing to serve: name an image, or use --export")
    })?;
    let mut edge = HostedEdge::new(driver, registry, log, first);
    edge.overlays.clone_from(&config.overlays);
    edge.new_clients = config.new_clients;
    edge.direct = config.direct;
    edge.notes_dir = default_notes_directory();
    edge.exports = config.exports.iter().map(|e| (e.address, e.clone())).collect();
    Ok(edge)
}

/// Makes what the server keeps things in, once everything else was found to be in order.
pub(super) fn directories(config: &ServeConfig, edge: &mut HostedEdge) -> Result<()> {
    if let Some(directory) = &config.overlays {
        std::fs::create_dir_all(directory)
            .map_err(|e| HostError::io(e, "make the directory of overlays").path(directory))?;
    }
    edge.write_registry()
}

/// Opens every chain and enters exports, clients and existing overlays into the server.
pub(super) fn exports(
    config: &ServeConfig,
    server: &mut Server<'_>,
    edge: &mut HostedEdge,
) -> Result<()> {
    // Many addresses over one golden image share its layers and its file.
    let mut opened: Vec<(&Export, Arc<Backing>)> = Vec::new();
    for export in &config.exports {
        let known = opened.iter().find(|(e, _)| e.backing == export.backing);
        let backing = if let Some((_, backing)) = known {
            Arc::clone(backing)
        } else {
            let files = edge.driver.files_mut();
            Arc::new(
                crate::image::open_backing(&export.backing, config.direct, files)
                    .map_err(|e| e.export(export.address))?,
            )
        };
        edge.backings.insert(export.address, Arc::clone(&backing));
        opened.push((export, Arc::clone(&backing)));
        add_export(config, export, &backing, server, edge).map_err(|e| e.export(export.address))?;
    }
    Ok(())
}

fn add_export(
    config: &ServeConfig,
    export: &Export,
    backing: &Backing,
    server: &mut Server<'_>,
    edge: &mut HostedEdge,
) -> Result<()> {
    let newcomers = match config.new_clients {
        NewClients::Refuse => Newcomers::Refuse,
        NewClients::Auto { max } => {
            Newcomers::Auto { max: max.and_then(|m| usize::try_from(m).ok()).unwrap_or(usize::MAX) }
        }
    };
    let per_client = matches!(export.top, Top::PerClient);
    let label = export.address.to_string();
    let mut template = disk_spec(config, export, backing, edge, (&label, &label));
    let overlay = if per_client { None } else { look(&mut template, export, edge)? };
    let number = server
        .add_export(ExportSpec {
            address: export.address,
            layers: Arc::clone(backing.layers()),
            sectors: template.target.sectors,
            macs: export.macs.clone(),
            disk: template.clone(),
            per_client: per_client.then_some(newcomers),
        })
        .map_err(refused)?;
    if let Some(number) = number {
        return enter(number, &template, overlay, server, edge);
    }
    let clients: Vec<_> = edge.registry.clients().map(|(_, c)| c.clone()).collect();
    for client in clients {
        add_client(config, export, &client, server, edge)?;
    }
    Ok(())
}

/// Gives a registered client its disk at an export.
pub(super) fn add_client(
    config: &ServeConfig,
    export: &Export,
    client: &crate::registry::Client,
    server: &mut Server<'_>,
    edge: &mut HostedEdge,
) -> Result<()> {
    let backing = edge.backings.get(&export.address).cloned().ok_or_else(|| {
        HostError::new(ErrorKind::NotFound, "find the layers").export(export.address)
    })?;
    // The stem never changes, so neither do serial number and overlay when a client is renamed.
    let names = (client.name.as_str(), client.file_stem.as_str());
    let mut spec = disk_spec(config, export, &backing, edge, names);
    let overlay = look(&mut spec, export, edge)?;
    let number = server.add_client(export.address, &client.macs, spec.clone()).map_err(refused)?;
    enter(number, &spec, overlay, server, edge)
}

fn refused(error: crate::server::AddError) -> HostError {
    HostError::new(ErrorKind::Usage, "serve").detail(error.to_string())
}

/// Opens a disk's overlay if there is one; the disk is as large as that then, and offers what its
/// format can.
fn look(
    spec: &mut DiskSpec,
    export: &Export,
    edge: &mut HostedEdge,
) -> Result<Option<OpenedOverlay>> {
    let name = match &spec.overlay {
        Overlay::File(path) => Some(ImageName::parse(path)),
        Overlay::None => None,
    };
    if let Some(name) = &name
        && let Some(directory) = name.path.parent().filter(|d| !d.as_os_str().is_empty())
        && matches!(export.top, Top::File(_))
        && !directory.is_dir()
    {
        return Err(HostError::new(ErrorKind::NotFound, "find the directory of the overlay")
            .path(directory)
            .advice("make it, or name another place"));
    }
    if spec.durability == Durability::Ephemeral
        && let Some(name) = &name
        && name.path.exists()
    {
        make_way(&name.path, matches!(export.top, Top::File(_)))?;
    }
    let opened = edge.open_existing(export.address, spec)?;
    if let Some(opened) = &opened {
        spec.target.sectors = opened.sectors();
        if !opened.discards_to_zeros() {
            spec.target.trim = TrimSupport::Plain;
        }
    }
    Ok(opened)
}

/// Puts a disk's protocol state back and gives it its overlay, if there are any.
fn enter(
    number: u32,
    spec: &DiskSpec,
    overlay: Option<OpenedOverlay>,
    server: &mut Server<'_>,
    edge: &mut HostedEdge,
) -> Result<()> {
    if let Some(path) = edge.state_path(spec.target.address, &spec.label)
        && let Some(bytes) = read_if_exists(&path)?
    {
        match TargetState::decode(&bytes) {
            Ok(state) => server.restore_state(number, state),
            Err(error) => {
                return Err(HostError::new(ErrorKind::Corrupt, "read the protocol state")
                    .path(path)
                    .detail(format!("{error}; delete the file to start without it")));
            }
        }
    }
    if let Some(opened) = overlay {
        let path = opened.file().path().to_owned();
        let attached = edge.attach(number, opened, spec.durability)?;
        if !server.open_overlay(number, attached, edge) {
            return Err(HostError::new(ErrorKind::Mismatch, "use the overlay").path(path));
        }
    }
    Ok(())
}

/// Removes what an ephemeral disk of a killed server left. A file that somebody named is theirs.
fn make_way(path: &std::path::Path, named: bool) -> Result<()> {
    if named {
        return Err(HostError::new(ErrorKind::AlreadyExists, "serve an ephemeral disk")
            .path(path)
            .detail("it exists, and would be deleted when the server stops")
            .advice("remove it if it is worthless, or name another file"));
    }
    // Under the lock, so that a server that still uses it is not robbed.
    let file = FileStorage::open(
        path,
        &FileOptions {
            access: Access::ReadWrite,
            lock: LockMode::Exclusive,
            ..FileOptions::default()
        },
    )?;
    std::fs::remove_file(file.path())
        .map_err(|e| HostError::io(e, "remove what an ephemeral disk left").path(path))
}

fn disk_spec(
    config: &ServeConfig,
    export: &Export,
    backing: &Backing,
    edge: &HostedEdge,
    (label, stem): (&str, &str),
) -> DiskSpec {
    let read_only = matches!(export.top, Top::ReadOnly);
    let mut target = TargetConfig::new(export.address, backing.sectors());
    target.read_only = read_only;
    target.buffer_count = config.buffer_count;
    target.firmware = FIRMWARE;
    target.identity = identity_of(export.address, stem);
    target.trim = if read_only { TrimSupport::None } else { TrimSupport::Zeroing };
    target.physical_sector_log2 = 3;
    target.freeze = Freeze {
        config: config.freeze.config,
        mask: config.freeze.mask,
        reserve: config.freeze.reserve,
    };
    let overlay = match edge.overlay_path(export.address, label) {
        Some(path) if !read_only => Overlay::File(path),
        _ => Overlay::None,
    };
    DiskSpec {
        label: label.to_owned(),
        target,
        overlay,
        durability: match export.durability {
            ConfigDurability::Safe => Durability::Safe,
            ConfigDurability::Writeback => Durability::Writeback,
            ConfigDurability::Ephemeral => Durability::Ephemeral,
        },
        limit: export.limit,
        newcomer: None,
    }
}
