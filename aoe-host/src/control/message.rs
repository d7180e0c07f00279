//! What can be asked over the control socket, and the answers, as JSON lines. Pure.

use serde::{Deserialize, Serialize};

use super::Status;
use crate::error::{ErrorKind, HostError, Result};
use crate::values::{Mac, serde_text};

/// Longest request line. Requests are short; a longer line is not one.
pub const MESSAGE_LEN_MAX: usize = 64 * 1024;

/// One question or order.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ControlRequest {
    /// How is everything?
    Status,
    /// Who are the clients, and who else is there?
    ClientsList,
    /// Make `mac` an address of client `name`, which may be new.
    ClientsAdopt {
        /// The station.
        #[serde(with = "serde_text::mac")]
        mac: Mac,
        /// The client; named after the station if absent.
        #[serde(default)]
        name: Option<String>,
    },
    /// Rename a client.
    ClientsName {
        /// Its name so far.
        client: String,
        /// Its name from now on.
        name: String,
    },
    /// Forget a client; its overlay stays on disk.
    ClientsRemove {
        /// Its name.
        client: String,
    },
    /// Advertise every target again. [AoE 4.3]
    Advertise,
    /// Drain, sync and end.
    Shutdown,
}

/// The answer to one [`ControlRequest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlReply {
    /// To [`ControlRequest::Status`].
    Status(Box<Status>),
    /// To [`ControlRequest::ClientsList`].
    Clients(ClientList),
    /// Done; the text says what.
    Done(String),
    /// Not done.
    Refused {
        /// For programs: `usage`, `not-found`, `in-use`, ...
        kind: String,
        /// For people.
        message: String,
    },
}

/// Clients, and stations that are none.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct ClientList {
    /// In the order in which they came.
    pub clients: Vec<ClientEntry>,
    /// The one seen last first.
    pub unknown: Vec<UnknownEntry>,
}

/// One client.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ClientEntry {
    /// Its name.
    pub name: String,
    /// Every address it sends from.
    #[serde(with = "serde_text::macs")]
    pub macs: Vec<Mac>,
    /// What its files in the overlay directory begin with.
    pub file_stem: String,
    /// Seconds since its last frame; `None`: not since the server started.
    pub last_seen_s: Option<u64>,
}

/// One station that is no client.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct UnknownEntry {
    /// Its address.
    #[serde(with = "serde_text::mac")]
    pub mac: Mac,
    /// Frames seen from it.
    pub frames: u64,
    /// Seconds since its first frame.
    pub first_seen_s: u64,
    /// Seconds since its last frame.
    pub last_seen_s: u64,
}

impl ControlRequest {
    /// The request as one line, with its end.
    pub fn to_line(&self) -> Vec<u8> {
        to_line(self)
    }

    /// Reads one line.
    ///
    /// # Errors
    /// `Protocol` if it is not a request.
    pub fn from_line(line: &[u8]) -> Result<Self> {
        from_line(line, "understand the control request")
    }
}

impl ControlReply {
    /// The reply that reports `error`.
    pub fn refused(error: &HostError) -> Self {
        Self::Refused { kind: kind_word(error.kind()).to_owned(), message: error.report() }
    }

    /// The reply as one line, with its end.
    pub fn to_line(&self) -> Vec<u8> {
        to_line(self)
    }

    /// Reads one line.
    ///
    /// # Errors
    /// `Protocol` if it is not a reply.
    pub fn from_line(line: &[u8]) -> Result<Self> {
        from_line(line, "understand the server's reply")
    }

    /// Turns a refusal into the error it reports.
    ///
    /// # Errors
    /// The refusal.
    pub fn accepted(self) -> Result<Self> {
        match self {
            Self::Refused { kind, message } => {
                Err(HostError::new(kind_of_word(&kind), "do that").detail(message))
            }
            reply => Ok(reply),
        }
    }
}

const KIND_WORDS: [(ErrorKind, &str); 8] = [
    (ErrorKind::Usage, "usage"),
    (ErrorKind::NotFound, "not-found"),
    (ErrorKind::AlreadyExists, "already-exists"),
    (ErrorKind::InUse, "in-use"),
    (ErrorKind::Full, "full"),
    (ErrorKind::Unsupported, "unsupported"),
    (ErrorKind::Protocol, "protocol"),
    (ErrorKind::Io, "failed"),
];

fn kind_word(kind: ErrorKind) -> &'static str {
    KIND_WORDS.iter().find(|(known, _)| *known == kind).map_or("failed", |(_, word)| word)
}

fn kind_of_word(word: &str) -> ErrorKind {
    KIND_WORDS.iter().find(|(_, known)| *known == word).map_or(ErrorKind::Io, |(kind, _)| *kind)
}

fn to_line<T: Serialize>(message: &T) -> Vec<u8> {
    // Cannot fail: strings, numbers and lists only, written to memory.
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}

fn from_line<'a, T: Deserialize<'a>>(line: &'a [u8], op: &str) -> Result<T> {
    serde_json::from_slice(line)
        .map_err(|error| HostError::new(ErrorKind::Protocol, op).detail(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_short_json_lines() {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        for (request, line) in [
            (ControlRequest::Status, r#"{"command":"status"}"#),
            (ControlRequest::ClientsList, r#"{"command":"clients-list"}"#),
            (
                ControlRequest::ClientsAdopt { mac, name: Some("lab1".into()) },
                r#"{"command":"clients-adopt","mac":"02:00:00:00:00:01","name":"lab1"}"#,
            ),
            (
                ControlRequest::ClientsName { client: "a".into(), name: "b".into() },
                r#"{"command":"clients-name","client":"a","name":"b"}"#,
            ),
            (
                ControlRequest::ClientsRemove { client: "a".into() },
                r#"{"command":"clients-remove","client":"a"}"#,
            ),
            (ControlRequest::Advertise, r#"{"command":"advertise"}"#),
            (ControlRequest::Shutdown, r#"{"command":"shutdown"}"#),
        ] {
            assert_eq!(request.to_line(), [line.as_bytes(), b"\n"].concat());
            assert_eq!(ControlRequest::from_line(line.as_bytes()).unwrap(), request);
        }
        let short = br#"{"command":"clients-adopt","mac":"020000000001"}"#;
        let adopt = ControlRequest::ClientsAdopt { mac, name: None };
        assert_eq!(ControlRequest::from_line(short).unwrap(), adopt);
    }

    #[test]
    fn nonsense_is_a_protocol_error() {
        for line in [
            "",
            "status",
            "{}",
            r#"{"command":"reboot"}"#,
            r#"{"command":"clients-adopt","mac":"x"}"#,
        ] {
            let error = ControlRequest::from_line(line.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{line}");
        }
    }

    #[test]
    fn a_refusal_arrives_with_its_kind_and_words() {
        let error = HostError::new(ErrorKind::NotFound, "remove client x").detail("no such client");
        let line = ControlReply::refused(&error).to_line();
        let arrived = ControlReply::from_line(&line).unwrap().accepted().unwrap_err();
        assert_eq!(arrived.kind(), ErrorKind::NotFound);
        assert!(arrived.to_string().contains("cannot remove client x: no such client"));
    }

    #[test]
    fn every_reply_survives_the_wire() {
        for reply in [
            ControlReply::Done("advertised".into()),
            ControlReply::Clients(ClientList::default()),
            ControlReply::Status(Box::default()),
        ] {
            assert_eq!(ControlReply::from_line(&reply.to_line()).unwrap(), reply);
        }
    }
}
