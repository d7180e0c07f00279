//! `cowblade clients`: the clients of a running server, and stations that are none.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::output::{Table, human_age, print_json, print_line};
use super::status::{ServerArgs, join_macs, unexpected_reply};
use crate::control::{ClientList, ControlReply, ControlRequest, ask};
use crate::error::{ErrorKind, Exit, HostError, Result};
use crate::registry::{REGISTRY_FILE, Registry, read_if_exists, write_atomically};
use crate::values::{Mac, parse_mac};

/// `cowblade clients`.
#[derive(Debug, Args)]
pub struct ClientsArgs {
    /// What to do
    #[command(subcommand)]
    pub action: ClientsAction,
}

/// What to do about clients.
#[derive(Debug, Subcommand)]
pub enum ClientsAction {
    /// List clients and unknown stations
    List {
        /// The golden image of the server
        #[arg(value_name = "GOLDEN", conflicts_with_all = ["control", "overlays"])]
        golden: Option<PathBuf>,
        /// Which server.
        #[command(flatten)]
        server: ServerArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a station a client, or one more address of a client
    Adopt {
        /// The station
        #[arg(value_name = "MAC", value_parser = parse_mac)]
        mac: Mac,
        /// The client; a new one is named after the station by default
        #[arg(value_name = "NAME")]
        name: Option<String>,
        /// Which server.
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Rename a client; its overlay keeps its file
    Name {
        /// Its name so far
        #[arg(value_name = "CLIENT")]
        client: String,
        /// Its name from now on
        #[arg(value_name = "NAME")]
        name: String,
        /// Which server.
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Forget a client; its overlay stays on disk
    Remove {
        /// Its name
        #[arg(value_name = "CLIENT")]
        client: String,
        /// Which server.
        #[command(flatten)]
        server: ServerArgs,
    },
}

pub(super) fn run(args: &ClientsArgs) -> Result<Exit> {
    match &args.action {
        ClientsAction::List { golden, server, json } => {
            let socket = server.socket(golden.as_ref())?;
            let ControlReply::Clients(list) = ask(&socket, &ControlRequest::ClientsList)? else {
                return Err(unexpected_reply());
            };
            if *json {
                print_json(&list)?;
            } else {
                print_line(&render(&list))?;
            }
            Ok(Exit::Success)
        }
        ClientsAction::Adopt { mac, name, server } => {
            order(server, &ControlRequest::ClientsAdopt { mac: *mac, name: name.clone() })
        }
        ClientsAction::Name { client, name, server } => {
            let request =
                ControlRequest::ClientsName { client: client.clone(), name: name.clone() };
            order(server, &request)
        }
        ClientsAction::Remove { client, server } => {
            let asked = order(server, &ControlRequest::ClientsRemove { client: client.clone() });
            match (&server.overlays, asked) {
                // Without a server the registry is ours: a name that keeps one from starting must
                // not need one to be removed.
                (Some(directory), Err(error)) if error.kind() == ErrorKind::NotFound => {
                    remove_offline(directory, client)
                }
                (_, outcome) => outcome,
            }
        }
    }
}

/// Forgets a client in the registry of a server that does not run.
fn remove_offline(directory: &Path, name: &str) -> Result<Exit> {
    let path = directory.join(REGISTRY_FILE);
    let text = read_if_exists(&path)?.ok_or_else(|| {
        HostError::new(ErrorKind::NotFound, "read the client registry").path(&path)
    })?;
    let mut registry = Registry::from_json(&text).map_err(|error| error.path(&path))?;
    let (_, client) = registry.remove(name)?;
    write_atomically(&path, &registry.to_json())?;
    print_line(&format!(
        "{name} is no client any more; what it wrote stays in {}.cow (no server runs here)",
        client.file_stem
    ))?;
    Ok(Exit::Success)
}

fn order(server: &ServerArgs, request: &ControlRequest) -> Result<Exit> {
    let ControlReply::Done(text) = ask(&server.socket(None)?, request)? else {
        return Err(unexpected_reply());
    };
    print_line(&text)?;
    Ok(Exit::Success)
}

fn render(list: &ClientList) -> String {
    let mut clients = Table::new(&["client", "files", ">seen", "addresses"]);
    for client in &list.clients {
        clients.add([
            client.name.clone(),
            client.file_stem.clone(),
            client.last_seen_s.map_or_else(|| "-".to_owned(), human_age),
            join_macs(&client.macs),
        ]);
    }
    let mut parts =
        vec![if clients.is_empty() { "no clients".to_owned() } else { clients.render() }];
    if !list.unknown.is_empty() {
        let mut unknown =
            Table::new(&["unknown station", ">frames", ">first", ">last", "to adopt"]);
        for station in &list.unknown {
            unknown.add([
                station.mac.to_string(),
                station.frames.to_string(),
                human_age(station.first_seen_s),
                human_age(station.last_seen_s),
                format!("cowblade clients adopt {} NAME", station.mac),
            ]);
        }
        parts.push(unknown.render());
    }
    parts.join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{ClientEntry, UnknownEntry};

    #[test]
    fn unknown_stations_come_with_the_line_that_adopts_them() {
        let mac = Mac([2, 0, 0, 0, 0, 9]);
        let unknown = UnknownEntry { mac, frames: 4, first_seen_s: 100, last_seen_s: 1 };
        let client = ClientEntry {
            name: "lab1".into(),
            macs: vec![Mac([2, 0, 0, 0, 0, 1])],
            file_stem: "lab1".into(),
            last_seen_s: None,
        };
        let text = render(&ClientList { clients: vec![client], unknown: vec![unknown] });
        assert!(text.contains("cowblade clients adopt 02:00:00:00:00:09 NAME"), "{text}");
        assert!(text.contains("02:00:00:00:00:01"), "{text}");
        assert_eq!(render(&ClientList::default()), "no clients");
    }
}
