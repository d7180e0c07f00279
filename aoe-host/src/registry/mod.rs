//! Who the clients are: names with sets of MAC addresses.
//!
//! [`Registry`] is pure: no files, no clock. Whoever owns it writes [`Registry::to_json`] to
//! [`REGISTRY_FILE`] after a change ([`write_atomically`]) and reads it back at the next start.
//!
//! Invariants:
//!
//! 1. A MAC address belongs to one client at most, and a client has at least one.
//! 2. Names are unique, and so are file stems: two clients never share an overlay.
//! 3. A client's file stem never changes, so that renaming a client does not lose its overlay.

use core::fmt;
use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::config::{ClientWord, Export, Top, check_name};
use crate::error::{ErrorKind, HostError, Result};
use crate::values::{Address, Mac, serde_text};

mod durable_file;
mod state;

pub use durable_file::{read_if_exists, write_atomically};
pub use state::{STATE_INTERVAL, StateSchedule};

/// The registry's file in the overlay directory.
pub const REGISTRY_FILE: &str = "clients.json";

/// The version of the registry's file that this program writes and the only one it reads.
const FILE_VERSION: u32 = 1;

/// A client: a name with every MAC address it sends from.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// What people call it. Can be changed.
    pub name: String,
    /// What its files are called. Never changes.
    pub file_stem: String,
    /// Every address it sends from.
    #[serde(with = "serde_text::macs")]
    pub macs: Vec<Mac>,
}

/// A client's place in the registry. Stays valid until the client is removed; never reused while
/// the process lives.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ClientId(u32);

/// All clients.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    /// `None`: removed. The index is the [`ClientId`].
    clients: Vec<Option<Client>>,
    by_mac: HashMap<Mac, ClientId>,
    left: Vec<Left>,
    changed: bool,
}

/// What a renamed client left when it was removed: a later client of its last name gets its files.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Left {
    name: String,
    file_stem: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RegistryFile {
    version: u32,
    clients: Vec<Client>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    left: Vec<Left>,
}

impl Registry {
    /// A registry without clients.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads what [`Registry::to_json`] wrote.
    ///
    /// # Errors
    /// `Corrupt` if the text is anything else, or breaks an invariant of the module;
    /// `Unsupported` for another version.
    pub fn from_json(text: &[u8]) -> Result<Self> {
        let corrupt = |detail: String| {
            HostError::new(ErrorKind::Corrupt, "read the client registry")
                .detail(detail)
                .advice(format!("repair {REGISTRY_FILE}, or restore it from a copy"))
        };
        let file: RegistryFile =
            serde_json::from_slice(text).map_err(|error| corrupt(error.to_string()))?;
        if file.version != FILE_VERSION {
            return Err(HostError::new(ErrorKind::Unsupported, "read the client registry")
                .detail(format!("it has version {}, not {FILE_VERSION}", file.version)));
        }
        let mut registry = Self::new();
        for client in file.clients {
            check_name(&client.name)
                .and(check_name(&client.file_stem))
                .map_err(|error| corrupt(error.to_string()))?;
            registry.insert(client).map_err(|error| corrupt(error.to_string()))?;
        }
        for left in file.left {
            check_name(&left.file_stem).map_err(|error| corrupt(error.to_string()))?;
            registry.left.push(left);
        }
        registry.changed = false;
        Ok(registry)
    }

    /// The registry as text, clients in the order in which they came.
    pub fn to_json(&self) -> Vec<u8> {
        let clients = self.clients().map(|(_, client)| client.clone()).collect();
        let file = RegistryFile { version: FILE_VERSION, clients, left: self.left.clone() };
        // Cannot fail: strings and numbers only, written to memory.
        let mut text = serde_json::to_vec_pretty(&file).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// Whether something that [`Registry::to_json`] shows changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        core::mem::take(&mut self.changed)
    }

    /// What changed could not be kept: the next [`Registry::take_changed`] tells of it again.
    pub fn mark_changed(&mut self) {
        self.changed = true;
    }

    /// The client that sends from `mac`.
    pub fn find(&self, mac: Mac) -> Option<ClientId> {
        self.by_mac.get(&mac).copied()
    }

    /// The client with this name.
    pub fn find_name(&self, name: &str) -> Option<ClientId> {
        self.clients().find(|(_, client)| client.name == name).map(|(id, _)| id)
    }

    /// The client `id`, unless it was removed.
    pub fn client(&self, id: ClientId) -> Option<&Client> {
        self.clients.get(usize::try_from(id.0).ok()?)?.as_ref()
    }

    /// All clients in the order in which they came.
    pub fn clients(&self) -> impl Iterator<Item = (ClientId, &Client)> {
        (0..).zip(&self.clients).filter_map(|(at, client)| Some((ClientId(at), client.as_ref()?)))
    }

    /// Number of clients.
    pub fn len(&self) -> usize {
        self.clients().count()
    }

    /// Whether there are no clients.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes sure that a client named on the command line or in the configuration file exists and
    /// has at least these addresses. Addresses adopted earlier stay with it.
    ///
    /// # Errors
    /// `InUse` if one of the addresses belongs to another client. Nothing changed then.
    pub fn declare(&mut self, word: &ClientWord) -> Result<ClientId> {
        // Named as it was before somebody renamed it: the command line of a service does not change.
        let renamed = |c: &Client| {
            c.file_stem == word.name && word.mac.iter().any(|mac| c.macs.contains(mac))
        };
        let known = self.find_name(&word.name);
        let known =
            known.or_else(|| self.clients().find(|(_, client)| renamed(client)).map(|(id, _)| id));
        let Some(id) = known else {
            return self.insert_new(&word.name, &word.mac);
        };
        self.check_free(&word.mac, Some(id), &word.name)?;
        for mac in &word.mac {
            self.add_mac(id, *mac);
        }
        Ok(id)
    }

    /// Gives `mac` to the client called `name`, which comes into being if there is none.
    ///
    /// # Errors
    /// `InUse` if another client has the address, `Usage` if the name is unfit.
    pub fn adopt(&mut self, mac: Mac, name: &str) -> Result<ClientId> {
        check_name(name)
            .map_err(|error| HostError::usage(format!("adopt {mac}"), error.to_string()))?;
        self.declare(&ClientWord { name: name.to_owned(), mac: vec![mac] })
    }

    /// Makes a client of its own for `mac`, named after it, as `--new-clients auto` does; `max`
    /// limits the number of clients.
    ///
    /// # Errors
    /// `Full` when there are `max` clients, `InUse` if the address belongs to a client.
    pub fn admit(&mut self, mac: Mac, max: Option<u32>) -> Result<ClientId> {
        let full = max.is_some_and(|max| u32::try_from(self.len()).is_ok_and(|len| len >= max));
        if full {
            return Err(HostError::new(ErrorKind::Full, format!("admit {mac} as a new client"))
                .advice("raise --new-clients auto=MAX, or remove a client"));
        }
        self.insert_new(&automatic_name(mac), &[mac])
    }

    /// Gives a client another name. Its files keep theirs.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`, or `Usage` if the new name is unfit.
    pub fn rename(&mut self, old: &str, new: &str) -> Result<ClientId> {
        let op = || format!("rename client {old} to {new}");
        check_name(new).map_err(|error| HostError::usage(op(), error.to_string()))?;
        let id = self.find_name(old).ok_or_else(|| no_client(op(), old))?;
        if self.find_name(new).is_some_and(|other| other != id) {
            return Err(HostError::new(ErrorKind::AlreadyExists, op())
                .detail(format!("there is a client called {new}")));
        }
        if let Some(client) = self.client_mut(id) {
            new.clone_into(&mut client.name);
            self.changed = true;
        }
        Ok(id)
    }

    /// Forgets a client and its addresses. Its files stay; the returned record names them.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn remove(&mut self, name: &str) -> Result<(ClientId, Client)> {
        let missing = || no_client(format!("remove client {name}"), name);
        let id = self.find_name(name).ok_or_else(missing)?;
        let slot = usize::try_from(id.0).ok().and_then(|at| self.clients.get_mut(at));
        let client = slot.and_then(Option::take).ok_or_else(missing)?;
        self.by_mac.retain(|_, owner| *owner != id);
        if client.name != client.file_stem {
            let (name, file_stem) = (client.name.clone(), client.file_stem.clone());
            self.left.retain(|left| left.name != name);
            self.left.push(Left { name, file_stem });
        }
        self.changed = true;
        Ok((id, client))
    }

    /// What the files of the client called `name` are called, or will be if it comes into being.
    pub fn file_stem(&self, name: &str) -> String {
        let known = self.clients().find(|(_, client)| client.name == name);
        let known = known.map(|(_, client)| &client.file_stem);
        let left = || self.left.iter().find(|left| left.name == name).map(|left| &left.file_stem);
        known.or_else(left).map_or_else(|| self.free_stem(name), String::clone)
    }

    fn insert_new(&mut self, name: &str, macs: &[Mac]) -> Result<ClientId> {
        let file_stem = self.file_stem(name);
        let id = self.insert(Client { name: name.to_owned(), file_stem, macs: macs.to_vec() })?;
        self.left.retain(|left| left.name != name);
        Ok(id)
    }

    fn insert(&mut self, client: Client) -> Result<ClientId> {
        let refuse = |detail: &str| {
            HostError::new(ErrorKind::AlreadyExists, format!("add client {}", client.name))
                .detail(detail)
        };
        if client.macs.is_empty() {
            return Err(refuse("it has no MAC address"));
        }
        if self.find_name(&client.name).is_some() {
            return Err(refuse("there is a client of this name"));
        }
        if self.clients().any(|(_, other)| other.file_stem == client.file_stem) {
            return Err(refuse("another client has its files"));
        }
        self.check_free(&client.macs, None, &client.name)?;
        let id = ClientId(u32::try_from(self.clients.len()).map_err(|_| refuse("too many"))?);
        for mac in &client.macs {
            self.by_mac.insert(*mac, id);
        }
        self.clients.push(Some(client));
        self.changed = true;
        Ok(id)
    }

    fn add_mac(&mut self, id: ClientId, mac: Mac) {
        if self.by_mac.insert(mac, id).is_none()
            && let Some(client) = self.client_mut(id)
        {
            client.macs.push(mac);
            self.changed = true;
        }
    }

    fn check_free(&self, macs: &[Mac], owner: Option<ClientId>, name: &str) -> Result<()> {
        for mac in macs {
            let other = self.find(*mac).filter(|id| Some(*id) != owner);
            if let Some(other) = other.and_then(|id| self.client(id)) {
                return Err(HostError::new(
                    ErrorKind::InUse,
                    format!("give {mac} to client {name}"),
                )
                .detail(format!("it belongs to client {}", other.name))
                .advice(format!("first run `cowblade clients remove {}`", other.name)));
            }
        }
        Ok(())
    }

    /// `name`, or `name-2` and so on if a renamed client keeps that stem, removed or not.
    fn free_stem(&self, name: &str) -> String {
        let taken = |stem: &str| {
            self.clients().any(|(_, client)| client.file_stem == stem)
                || self.left.iter().any(|left| left.file_stem == stem)
        };
        let numbered = (2_u32..).map(|n| format!("{name}-{n}"));
        core::iter::once(name.to_owned())
            .chain(numbered)
            .find(|stem| !taken(stem))
            .unwrap_or_else(|| name.to_owned())
    }

    fn client_mut(&mut self, id: ClientId) -> Option<&mut Client> {
        self.clients.get_mut(usize::try_from(id.0).ok()?)?.as_mut()
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

fn no_client(op: String, name: &str) -> HostError {
    HostError::new(ErrorKind::NotFound, op)
        .detail(format!("there is no client called {name}"))
        .advice("`cowblade clients list` shows them")
}

/// The name of a client that nobody named: `m` and its address.
pub fn automatic_name(mac: Mac) -> String {
    core::iter::once("m".to_owned())
        .chain(mac.0.iter().map(|octet| format!("{octet:02x}")))
        .collect()
}

/// The file name of an overlay in the overlay directory: `NAME.cow` for a client of the golden
/// image's address, `NAME.eS.T.cow` for its further disks, `eS.T.cow` (or the export's name) for
/// an export with one overlay. `None` if the export keeps nothing there.
///
/// `first_per_client` is the lowest address whose overlays are chosen by client.
pub fn overlay_file_name(
    export: &Export,
    client: Option<&Client>,
    first_per_client: Address,
) -> Option<String> {
    match (&export.top, client) {
        (Top::Own, _) => Some(format!("{}.cow", export.address)),
        (Top::PerClient, Some(client)) if export.address == first_per_client => {
            Some(format!("{}.cow", client.file_stem))
        }
        (Top::PerClient, Some(client)) => {
            Some(format!("{}@{}.cow", client.file_stem, export.address))
        }
        (Top::PerClient, None) | (Top::ReadOnly | Top::File(_), _) => None,
    }
}

/// The file name of the protocol state (config string, mask, reservation) of an address, or of an
/// address as one client sees it.
pub fn state_file_name(address: Address, client: Option<&Client>) -> String {
    match client {
        Some(client) => format!("{}@{address}.state", client.file_stem),
        None => format!("{address}.state"),
    }
}

#[cfg(test)]
mod tests;
