//! From words to decisions: every rule about the arguments of `serve`. Pure.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{
    BUFFER_COUNT_DEFAULT, BUFFER_COUNT_MIN, Durability, Export, ExportWord, Layer, LayerWord,
    NewClients, ServeConfig, ServeWords, Top, Window, check_name, disk_len,
};
use crate::error::{HostError, Result};
use crate::values::{ByteSize, Mac, address_after};

/// Longest path of a UNIX socket, without the terminating zero (`sun_path` in unix(7)).
const SOCKET_PATH_LEN_MAX: usize = 107;

/// The address of the golden image unless told otherwise.
const DEFAULT_SHELF_SLOT: &str = "0.0";

impl ServeWords {
    /// Applies the defaults and every rule.
    ///
    /// # Errors
    /// `Usage`, naming the words that are wrong or contradict each other.
    pub fn resolve(self) -> Result<ServeConfig> {
        self.check_interfaces()?;
        self.check_clients()?;
        let buffer_count = self.buffer_count.unwrap_or(BUFFER_COUNT_DEFAULT);
        if buffer_count < BUFFER_COUNT_MIN {
            return Err(HostError::usage(
                format!("use --buffer-count {buffer_count}"),
                "Linux clients would never see the disk",
            )
            .advice(format!("use {BUFFER_COUNT_MIN} or more")));
        }
        let mut exports = self.collect_exports()?;
        self.bind_exports(&mut exports)?;
        let preallocate = self.preallocate.unwrap_or(false);
        if preallocate && exports.iter().any(|export| export.limit.is_some()) {
            return Err(HostError::usage(
                "use --preallocate",
                "overlays would take room for their whole disk and may take no more than a limit",
            )
            .advice("leave --overlay-limit and `limit=` out"));
        }
        check_chains(&exports)?;
        let overlays = self.overlay_directory(&exports)?;
        let control = self.control_path(overlays.as_deref())?;
        let config = ServeConfig {
            interfaces: self.interface,
            link: self.link.unwrap_or_default(),
            workers: self.workers.unwrap_or_default(),
            exports,
            overlays,
            clients: self.client,
            new_clients: self.new_clients.unwrap_or_default(),
            allow: self.allow,
            buffer_count,
            low_space: self.low_space.map(ByteSize::bytes),
            direct: self.direct.unwrap_or(false),
            preallocate,
            commit_log: self.commit_log.unwrap_or(true),
            control,
            freeze: self.freeze.into_iter().collect(),
            follow: self.follow,
            warnings: Vec::new(),
        };
        let warnings = warnings_of(&config);
        Ok(ServeConfig { warnings, ..config })
    }

    fn check_interfaces(&self) -> Result<()> {
        if self.interface.is_empty() {
            return Err(HostError::usage("serve", "no network interface is named")
                .advice("add -i IFACE; `ip link` lists the interfaces of this machine"));
        }
        match first_duplicate(&self.interface) {
            Some(name) => Err(HostError::usage("serve", "the interface is named twice")
                .interface(name.as_str())
                .advice("name it once")),
            None => Ok(()),
        }
    }

    fn check_clients(&self) -> Result<()> {
        let names: Vec<_> = self.client.iter().map(|client| &client.name).collect();
        for name in &names {
            check_name(name)
                .map_err(|error| HostError::usage("use --client", error.to_string()))?;
        }
        if let Some(name) = first_duplicate(&names) {
            return Err(HostError::usage(
                format!("use --client {name}"),
                "the client is named twice",
            )
            .advice("give all its addresses at once: NAME=MAC+MAC"));
        }
        let mut owner_of: BTreeMap<Mac, &str> = BTreeMap::new();
        for client in &self.client {
            if client.mac.is_empty() {
                return Err(HostError::usage(
                    format!("use client {}", client.name),
                    "it has no MAC address",
                ));
            }
            for mac in &client.mac {
                if let Some(other) = owner_of.insert(*mac, &client.name) {
                    return Err(HostError::usage(
                        format!("use --client {}", client.name),
                        format!("{mac} belongs to client {other} as well"),
                    )
                    .advice("a MAC address can belong to one client only"));
                }
            }
        }
        Ok(())
    }

    /// All exports, sorted by address, before bindings.
    fn collect_exports(&self) -> Result<Vec<Export>> {
        let mut exports = Vec::new();
        if let Some(golden) = &self.golden {
            self.add_golden_exports(golden, &mut exports)?;
        } else {
            self.refuse_words_about_golden()?;
        }
        for word in &self.export {
            exports.push(self.explicit_export(word)?);
        }
        exports.sort_by_key(|export| export.address);
        let overlap = exports.windows(2).find_map(|pair| match pair {
            [one, two] if one.address == two.address => Some(one.address),
            _ => None,
        });
        if let Some(address) = overlap {
            return Err(HostError::usage("serve", "two disks have this address")
                .export(address)
                .advice("move one of them with --address or --export"));
        }
        let wants_clients = !self.client.is_empty() || self.new_clients.is_some();
        if wants_clients && !exports.iter().any(|export| export.top == Top::PerClient) {
            return Err(HostError::usage(
                "use --client or --new-clients",
                "no disk chooses its overlay by client",
            )
            .advice("leave out --clients N, or bind the disks with --bind"));
        }
        Ok(exports)
    }

    fn add_golden_exports(&self, golden: &Path, exports: &mut Vec<Export>) -> Result<()> {
        let window = Window {
            offset_bytes: self.offset.map_or(0, ByteSize::bytes),
            len_bytes: self.length.map(ByteSize::bytes),
        };
        if !window.offset_bytes.is_multiple_of(512) {
            return Err(HostError::usage(
                format!("use --offset {}", window.offset_bytes),
                "it is not a multiple of 512",
            )
            .advice("`fdisk -l` prints a partition's start in sectors of 512 bytes"));
        }
        if window.len_bytes == Some(0) {
            return Err(HostError::usage("use --length 0", "nothing would be served"));
        }
        let first = match self.address {
            Some(address) => address,
            None => crate::values::parse_address(DEFAULT_SHELF_SLOT)
                .map_err(|error| HostError::usage("use the default address", error.to_string()))?,
        };
        let count = self.clients.unwrap_or(1);
        if count == 0 {
            return Err(HostError::usage("use --clients 0", "nothing would be served"));
        }
        for n in 0..count {
            let address = address_after(first, n).ok_or_else(|| {
                HostError::usage(
                    format!("use --clients {count}"),
                    format!("only {n} addresses follow {first}"),
                )
                .advice("choose a lower --address")
            })?;
            exports.push(Export {
                address,
                top: if self.clients.is_some() { Top::Own } else { Top::PerClient },
                backing: vec![Layer::File { path: golden.to_owned(), window }],
                name: None,
                macs: Vec::new(),
                durability: self.durability.unwrap_or_default(),
                limit: limit_of("--overlay-limit", self.overlay_limit)?,
            });
        }
        Ok(())
    }

    fn refuse_words_about_golden(&self) -> Result<()> {
        let stray = [
            ("--address", self.address.is_some()),
            ("--clients", self.clients.is_some()),
            ("--offset", self.offset.is_some()),
            ("--length", self.length.is_some()),
        ];
        if let Some((word, _)) = stray.iter().find(|(_, typed)| *typed) {
            return Err(HostError::usage(
                format!("use {word}"),
                "it is about the golden image, and none is named",
            )
            .advice("add the path of the golden image"));
        }
        if self.export.is_empty() {
            return Err(HostError::usage("serve", "no image is named")
                .advice("add the path of the golden image, or --export"));
        }
        Ok(())
    }

    fn explicit_export(&self, word: &ExportWord) -> Result<Export> {
        let wrong = |detail: &str| HostError::usage("use --export", detail).export(word.address);
        if word.ro && word.per_client {
            return Err(wrong("`ro` and `per-client` contradict each other"));
        }
        if let Some(name) = &word.name {
            check_name(name).map_err(|error| wrong(&error.to_string()))?;
        }
        if let Some(mac) = first_duplicate(&word.mac) {
            return Err(wrong(&format!("{mac} is listed twice")));
        }
        let mut layers = word.chain.iter();
        let mut below = Vec::new();
        // The upper of two or more layers is the overlay to write to, unless writes go elsewhere.
        let top = match layers.as_slice() {
            _ if word.ro => Top::ReadOnly,
            _ if word.per_client => Top::PerClient,
            [LayerWord::File(path), _, ..] => {
                layers.next();
                Top::File(path.clone())
            }
            [LayerWord::Stack(path)] => {
                layers.next();
                below = vec![Layer::Recorded];
                Top::File(path.clone())
            }
            [LayerWord::Part(path, _), _, ..] => {
                let detail = format!(
                    "`{}` would be written from an offset on, which is not possible; use `ro`, or \
                     `per-client` for overlays above it",
                    path.display()
                );
                return Err(wrong(&detail));
            }
            _ => Top::Own,
        };
        let mut backing = backing_of(layers.as_slice()).map_err(|detail| wrong(&detail))?;
        backing.append(&mut below);
        Ok(Export {
            address: word.address,
            top,
            backing,
            name: word.name.clone(),
            macs: word.mac.clone(),
            durability: word.durability.or(self.durability).unwrap_or_default(),
            limit: limit_of("limit=", word.limit.or(self.overlay_limit))?,
        })
    }

    fn bind_exports(&self, exports: &mut [Export]) -> Result<()> {
        for (at, bind) in self.bind.iter().enumerate() {
            let wrong = |detail: &str| HostError::usage("use --bind", detail).export(bind.address);
            if self.bind.iter().take(at).any(|other| other.address == bind.address) {
                return Err(wrong("the address is bound twice")
                    .advice("give all MAC addresses at once: SHELF.SLOT=MAC+MAC"));
            }
            let export = exports
                .iter_mut()
                .find(|export| export.address == bind.address)
                .ok_or_else(|| wrong("no disk has this address"))?;
            if !export.macs.is_empty() {
                return Err(wrong("the export names its MAC addresses already"));
            }
            export.macs.clone_from(&bind.mac);
        }
        Ok(())
    }

    fn overlay_directory(&self, exports: &[Export]) -> Result<Option<PathBuf>> {
        if let Some(directory) = &self.overlays {
            return Ok(Some(directory.clone()));
        }
        if let Some(golden) = &self.golden {
            return Ok(Some(default_overlays(golden)));
        }
        match exports.iter().find(|export| export.needs_overlays()) {
            Some(export) => Err(HostError::usage("serve", "it needs a place for its overlay")
                .export(export.address)
                .advice("add --overlays DIR, or `ro`")),
            None => Ok(None),
        }
    }

    fn control_path(&self, overlays: Option<&Path>) -> Result<Option<PathBuf>> {
        let path = self.control.clone().or_else(|| overlays.map(default_control));
        if let Some(path) = &path
            && path.as_os_str().len() > SOCKET_PATH_LEN_MAX
        {
            return Err(HostError::usage("use the control socket", "its path is too long")
                .path(path)
                .advice(format!(
                    "choose one of up to {SOCKET_PATH_LEN_MAX} bytes with --control"
                )));
        }
        Ok(path)
    }
}

fn limit_of(word: &str, limit: Option<ByteSize>) -> Result<Option<u64>> {
    match limit {
        Some(ByteSize(0)) => {
            Err(HostError::usage(format!("use {word} 0"), "no client could write anything")
                .advice("use `ro` for a read-only disk"))
        }
        Some(size) if size.bytes() < LIMIT_MIN => {
            Err(HostError::usage(format!("use {word} {size}"), "no file system fits into that")
                .advice(format!("allow at least {}", ByteSize(LIMIT_MIN))))
        }
        limit => Ok(limit.map(ByteSize::bytes)),
    }
}

/// Smallest limit of an overlay that makes sense, in bytes: one chunk of the old recipe.
const LIMIT_MIN: u64 = 32 << 10;

/// `GOLDEN.overlays`.
pub(crate) fn default_overlays(golden: &Path) -> PathBuf {
    let mut name = OsString::from(golden);
    name.push(".overlays");
    PathBuf::from(name)
}

/// `OVERLAYS/control.sock`.
pub(crate) fn default_control(overlays: &Path) -> PathBuf {
    overlays.join("control.sock")
}

/// The read-only layers; `blank:` may only be the base.
pub(crate) fn backing_of(words: &[LayerWord]) -> core::result::Result<Vec<Layer>, String> {
    let mut backing = Vec::new();
    for (at, word) in words.iter().enumerate() {
        backing.push(match word {
            LayerWord::File(path) => Layer::File { path: path.clone(), window: Window::default() },
            LayerWord::Part(path, window) => Layer::File { path: path.clone(), window: *window },
            LayerWord::Stack(path) if words.len() == 1 => {
                let top = Layer::File { path: path.clone(), window: Window::default() };
                return Ok(vec![top, Layer::Recorded]);
            }
            LayerWord::Stack(_) => {
                return Err("`cow:` stands for a whole chain and stands alone".to_owned());
            }
            LayerWord::Blank(_) if at + 1 < words.len() => {
                return Err("`blank:` can only be the last layer, the base".to_owned());
            }
            LayerWord::Blank(size) => Layer::Blank {
                len_bytes: disk_len(*size).map_err(|detail| format!("blank: {detail}"))?,
            },
        });
    }
    Ok(backing)
}

/// No chain names a file twice.
fn check_chains(exports: &[Export]) -> Result<()> {
    for export in exports {
        let files = export.backing.iter().filter_map(|layer| match layer {
            Layer::File { path, .. } => Some(path),
            Layer::Recorded | Layer::Blank { .. } => None,
        });
        let files: Vec<_> = files.collect();
        if let Some(path) = first_duplicate(&files) {
            return Err(HostError::usage("serve", "the chain names a file twice")
                .path(path)
                .export(export.address));
        }
    }
    Ok(())
}

fn warnings_of(config: &ServeConfig) -> Vec<String> {
    let mut warnings = Vec::new();
    for export in config.exports.iter().filter(|export| export.address.is_refused_by_linux()) {
        warnings.push(format!(
            "{}: the Linux aoe driver ignores shelf 4095; choose another shelf",
            export.address
        ));
    }
    if config.allow.is_empty() {
        warnings.push(
            "no --allow list: every machine on the network segment may talk to this server"
                .to_owned(),
        );
    }
    let own: Vec<_> = config.exports.iter().filter(|export| export.top == Top::Own).collect();
    let unbound = own.iter().filter(|export| export.macs.is_empty()).count();
    if unbound > 1 {
        warnings.push(format!(
            "{unbound} disks are not bound to MAC addresses: every machine sees all of them, with \
             equal file system UUIDs; use --bind, or one address and --client"
        ));
    }
    let per_client = config.exports.iter().any(|export| export.top == Top::PerClient);
    if per_client && config.clients.is_empty() && config.new_clients == NewClients::Refuse {
        warnings.push(
            "no client is named on the command line: only clients adopted earlier are served"
                .to_owned(),
        );
    }
    for client in &config.clients {
        let shut_out: Vec<_> =
            client.mac.iter().filter(|mac| !config.allow.contains(mac)).collect();
        if !config.allow.is_empty() && !shut_out.is_empty() {
            warnings.push(format!(
                "client {}: {} is not in the --allow list and will not be answered",
                client.name,
                shut_out.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            ));
        }
    }
    let ephemeral =
        config.exports.iter().filter(|export| export.durability == Durability::Ephemeral).count();
    if ephemeral > 0 {
        warnings.push(format!(
            "{ephemeral} of {} disks are ephemeral: what is written to them is gone when the \
             server stops",
            config.exports.len()
        ));
    }
    warnings
}

fn first_duplicate<T: PartialEq>(items: &[T]) -> Option<&T> {
    items
        .iter()
        .enumerate()
        .find(|(at, item)| items.iter().take(*at).any(|other| other == *item))
        .map(|(_, item)| item)
}
