//! From a configuration to files, exports, clients and overlays.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use aoe_proto::{Address, Freeze, TargetConfig, TargetState, TrimSupport};

use super::clients_file::SharedRegistry;
use super::edge::HostedEdge;
use super::log::Log;
use super::log_plan::LogPlan;
use crate::config::{Durability as ConfigDurability, Export, NewClients, ServeConfig, Top};
use crate::error::{ErrorKind, HostError, Result};
use crate::image::{
    Backing, ImageName, OpenedOverlay, Repeated, default_notes_directory, enter_left, entered_words,
};
use crate::link::taken_by;
use crate::registry::{REGISTRY_FILE, Registry, read_if_exists};
use crate::server::{DiskSpec, Durability, ExportSpec, Newcomers, Overlay, Server, identity_of};
use crate::storage::{
    Access, FileOptions, FileStorage, FileTable, HostedDriver, LockMode, may_set_room_aside,
};

/// Firmware version that targets report; free to choose. [AoE 4]
const FIRMWARE: u16 = 0x4101;

/// What is opened once, however many workers there are.
pub(super) struct Common {
    /// With complete chains.
    pub(super) config: ServeConfig,
    pub(super) log: Log,
    /// The origin of every loop's clock.
    pub(super) started: Instant,
    registry: Arc<SharedRegistry>,
    /// The files of the layers below overlays, under the keys by which the layers know them.
    files: FileTable,
    backings: HashMap<Address, Arc<Backing>>,
    first_per_client: Address,
}

impl Common {
    /// Reads the registry, and opens what lies below the overlays. `quiet` keeps the log to what is
    /// wrong.
    pub(super) fn open(config: &ServeConfig, quiet: bool) -> Result<Self> {
        let config = super::chains::settle(config)?;
        let log = Log::new(quiet, config.control.as_deref());
        for warning in &config.warnings {
            log.warn(warning);
        }
        for warning in config.interfaces.iter().filter_map(|name| taken_by(name)) {
            log.warn(&warning);
        }
        if config.new_clients == (NewClients::Auto { max: None }) && config.allow.is_empty() {
            log.warn(
                "--new-clients auto without a number: any machine, and anybody who forges \
                 addresses, can fill the disk with overlays; use auto=MAX or --allow",
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
        let per_client = config.exports.iter().filter(|e| matches!(e.top, Top::PerClient));
        let all = config.exports.iter().map(|e| e.address);
        let first = per_client.map(|e| e.address).min().or(all.min()).ok_or_else(|| {
            HostError::usage("serve", "there is nothing to serve: name an image, or use --export")
        })?;
        if let Some(directory) = config.overlays.as_ref().filter(|d| d.is_dir()) {
            repeat(directory, &log)?;
        }
        let mut files = FileTable::new();
        let backings = backings(&config, &mut files)?;
        Ok(Self {
            config,
            log,
            started: Instant::now(),
            registry: Arc::new(SharedRegistry::new(registry)),
            files,
            backings,
            first_per_client: first,
        })
    }

    /// The world of one worker.
    pub(super) fn edge(&self, mut driver: HostedDriver) -> HostedEdge {
        let config = &self.config;
        *driver.files_mut() = self.files.fork();
        let (registry, log) = (Arc::clone(&self.registry), self.log.clone());
        let mut edge = HostedEdge::new(driver, registry, log, self.first_per_client);
        edge.overlays.clone_from(&config.overlays);
        edge.new_clients = config.new_clients;
        edge.direct = config.direct;
        edge.preallocate = config.preallocate;
        edge.notes_dir = default_notes_directory();
        edge.exports = config.exports.iter().map(|e| (e.address, e.clone())).collect();
        edge.backings.clone_from(&self.backings);
        if let Some(directory) = config.overlays.as_ref().filter(|_| config.commit_log) {
            edge.log_plan = LogPlan::Unmade(directory.clone());
        }
        edge
    }
}

/// Enters what a killed server left in its commit logs. An overlay for which that fails is refused
/// when it is to be served; the others do not depend on it.
fn repeat(directory: &Path, log: &Log) -> Result<()> {
    let repeats = crate::image::repeat(directory)?;
    for Repeated { path, changes } in repeats.entered {
        log.info(&entered_words(&path, changes));
    }
    for error in repeats.failed {
        log.error(&error.report());
    }
    if !repeats.orphaned.is_empty() {
        let files = repeats.orphaned.iter().map(|path| format!("`{}`", path.display()));
        let files: Vec<String> = files.collect();
        log.warn(&format!(
            "kept {}: acknowledged writes of overlays that are not there any more; bring the \
             overlays back and start the server again, or remove these files if nobody wants them",
            files.join(", ")
        ));
    }
    Ok(())
}

/// Opens every chain. Many addresses over one golden image share its layers and its file.
fn backings(config: &ServeConfig, files: &mut FileTable) -> Result<HashMap<Address, Arc<Backing>>> {
    let mut opened: Vec<(&Export, Arc<Backing>)> = Vec::new();
    for export in &config.exports {
        let known = opened.iter().find(|(e, _)| e.backing == export.backing);
        let backing = if let Some((_, backing)) = known {
            Arc::clone(backing)
        } else {
            let backing = crate::image::open_backing(&export.backing, config.direct, files);
            Arc::new(backing.map_err(|e| e.export(export.address))?)
        };
        opened.push((export, backing));
    }
    Ok(opened.into_iter().map(|(export, backing)| (export.address, backing)).collect())
}

/// Makes what the server keeps things in, once everything else was found to be in order.
pub(super) fn directories(config: &ServeConfig, edge: &HostedEdge) -> Result<()> {
    if let Some(directory) = &config.overlays {
        make_directory(directory)?;
    }
    if config.preallocate {
        let mut tried = HashSet::new();
        for export in &config.exports {
            let directory = match &export.top {
                Top::ReadOnly => None,
                Top::File(name) => {
                    let path = ImageName::parse(name).path;
                    (!path.exists()).then(|| directory_of(&path).to_owned())
                }
                Top::PerClient | Top::Own => config.overlays.clone(),
            };
            if let Some(directory) = directory.filter(|directory| tried.insert(directory.clone())) {
                may_set_room_aside(&directory).map_err(|e| e.export(export.address))?;
            }
        }
    }
    edge.write_registry()
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn make_directory(directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)
        .map_err(|e| HostError::io(e, "make the directory of overlays").path(directory))
}

/// Enters exports, clients and existing overlays into the server, as far as it has them.
pub(super) fn exports(
    config: &ServeConfig,
    server: &mut Server<'_>,
    edge: &mut HostedEdge,
) -> Result<()> {
    for export in &config.exports {
        add_export(config, export, server, edge).map_err(|e| e.export(export.address))?;
    }
    Ok(())
}

fn add_export(
    config: &ServeConfig,
    export: &Export,
    server: &mut Server<'_>,
    edge: &mut HostedEdge,
) -> Result<()> {
    let backing = &backing_of(export, edge)?;
    let newcomers = match config.new_clients {
        NewClients::Refuse => Newcomers::Refuse,
        NewClients::Auto { max } => {
            Newcomers::Auto { max: max.and_then(|m| usize::try_from(m).ok()).unwrap_or(usize::MAX) }
        }
    };
    let per_client = matches!(export.top, Top::PerClient);
    let label = export.address.to_string();
    let mut template = disk_spec(config, export, backing, edge, (&label, &label));
    let is_here = !per_client && server.share().owns(export.address, None);
    let overlay = if is_here { look(&mut template, export, edge)? } else { None };
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
    if !per_client {
        return Ok(());
    }
    let clients: Vec<_> = edge.registry().clients().map(|(_, c)| c.clone()).collect();
    for client in clients {
        let owner = server.share().owner(export.address, client.macs.first().copied());
        if owner == server.share().number() {
            add_client(config, export, &client, server, edge)?;
        } else {
            server.set_owner(export.address, &client.macs, owner);
        }
    }
    Ok(())
}

fn backing_of(export: &Export, edge: &HostedEdge) -> Result<Arc<Backing>> {
    edge.backings.get(&export.address).cloned().ok_or_else(|| {
        HostError::new(ErrorKind::NotFound, "find the layers").export(export.address)
    })
}

/// Gives a registered client its disk at an export.
pub(super) fn add_client(
    config: &ServeConfig,
    export: &Export,
    client: &crate::registry::Client,
    server: &mut Server<'_>,
    edge: &mut HostedEdge,
) -> Result<()> {
    let backing = backing_of(export, edge)?;
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
    if let (Some(name), Top::File(_)) = (&name, &export.top) {
        // Those in the directory of overlays have what their logs held.
        if let Some(changes) = enter_left(name)? {
            edge.log.info(&entered_words(&name.path, changes));
        }
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
fn make_way(path: &Path, named: bool) -> Result<()> {
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
            ConfigDurability::Safe if config.commit_log => Durability::Logged,
            ConfigDurability::Safe => Durability::Safe,
            ConfigDurability::Writeback => Durability::Writeback,
            ConfigDurability::Ephemeral => Durability::Ephemeral,
        },
        limit: export.limit,
        newcomer: None,
    }
}
