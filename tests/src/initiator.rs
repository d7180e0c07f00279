//! A small blocking initiator on a raw socket, independent of the crates under test.

use core::time::Duration;
use std::time::Instant;

use crate::frames::{
    ATA, BROADCAST, ERROR, HEADER, Header, Mac, RESPONSE, Registers, command, config, field,
};
use crate::net::Namespace;
use crate::pattern::SECTOR;
use crate::raw_socket::{AOE, RawSocket};

/// Wait for an answer before the request is repeated with the same tag.
const PATIENCE: Duration = Duration::from_millis(500);
/// A minute in all: catches hangs only.
const TRIES: usize = 120;
/// Where it would be no wonder if nobody answered: ten seconds in all.
const TRIES_FEW: usize = 20;
const VERSION: u8 = 0x10;

/// An initiator that knows one disk.
#[derive(Debug)]
pub struct Initiator {
    socket: RawSocket,
    mac: Mac,
    target: Mac,
    shelf: u16,
    slot: u8,
    next_tag: u32,
    buffer: Vec<u8>,
}

/// The response to a request, Ethernet header included.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Response(Vec<u8>);

impl Response {
    /// Code of the AoE-level error, if the target reports one.
    pub fn aoe_error(&self) -> Option<u8> {
        let [flags, code] = field(&self.0, 14)?;
        (flags & ERROR != 0).then_some(code)
    }

    /// ATA status and error registers.
    pub fn status(&self) -> (u8, u8) {
        let [_, error, _, status] = field(&self.0, HEADER).unwrap_or_default();
        (status, error)
    }

    /// Bytes behind the ATA header, padding included.
    pub fn data(&self) -> &[u8] {
        self.0.get(ATA..).unwrap_or_default()
    }

    /// Bytes behind the common header, padding included.
    pub fn argument(&self) -> &[u8] {
        self.0.get(HEADER..).unwrap_or_default()
    }

    /// The whole frame.
    pub fn frame(&self) -> &[u8] {
        &self.0
    }

    /// The config string of a config response.
    pub fn config_string(&self) -> &[u8] {
        let length = field(&self.0, 30).map_or(0, u16::from_be_bytes);
        self.0.get(32..32 + usize::from(length)).unwrap_or_default()
    }
}

impl Initiator {
    /// Looks for disk e`shelf`.`slot` from an interface, as `mac`.
    pub fn find(
        namespace: &Namespace,
        interface: &str,
        mac: Mac,
        (shelf, slot): (u16, u8),
    ) -> Option<Self> {
        let mut found = Self::at(namespace, interface, mac, (shelf, slot), BROADCAST);
        let response = found.request(command::CONFIG, &config(0, 0, &[]))?;
        found.target = field(response.frame(), 6)?;
        Some(found)
    }

    /// Speaks to a target whose MAC address is known.
    pub fn at(
        namespace: &Namespace,
        interface: &str,
        mac: Mac,
        (shelf, slot): (u16, u8),
        target: Mac,
    ) -> Self {
        let socket = RawSocket::open(namespace.name(), interface).expect("a raw socket opens");
        let buffer = vec![0; 65_536];
        Self { socket, mac, target, shelf, slot, next_tag: 0x8000_0001, buffer }
    }

    /// MAC address of the target.
    pub fn target(&self) -> Mac {
        self.target
    }

    /// The socket, for frames of other kinds.
    pub fn socket(&self) -> &RawSocket {
        &self.socket
    }

    /// The header of the next request; every call returns another tag.
    pub fn header(&mut self, command: u8) -> Header {
        let tag = self.next_tag;
        self.next_tag = self.next_tag.wrapping_add(1);
        Header {
            to: self.target,
            from: self.mac,
            version_flags: VERSION,
            shelf: self.shelf,
            slot: self.slot,
            command,
            tag,
        }
    }

    /// Sends a request until it is answered; `None` if nobody answers.
    pub fn request(&mut self, command: u8, argument: &[u8]) -> Option<Response> {
        self.request_again(command, argument, TRIES)
    }

    /// The same of a target that may well be gone: gives up sooner.
    pub fn request_or_silence(&mut self, command: u8, argument: &[u8]) -> Option<Response> {
        self.request_again(command, argument, TRIES_FEW)
    }

    fn request_again(&mut self, command: u8, argument: &[u8], tries: usize) -> Option<Response> {
        let header = self.header(command);
        let frame = header.with(argument);
        for _ in 0..tries {
            self.socket.send(&frame).expect("a request can be sent");
            let deadline = Instant::now() + PATIENCE;
            while let Some(left) = deadline.checked_duration_since(Instant::now()) {
                if let Some(response) = self.receive(left, header.tag) {
                    return Some(response);
                }
            }
        }
        None
    }

    /// Sends a request once; returns the answer if one comes within `patience`.
    pub fn request_once(
        &mut self,
        command: u8,
        argument: &[u8],
        patience: Duration,
    ) -> Option<Response> {
        let header = self.header(command);
        self.socket.send(&header.with(argument)).expect("a request can be sent");
        let deadline = Instant::now() + patience;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            if let Some(response) = self.receive(left, header.tag) {
                return Some(response);
            }
        }
        None
    }

    /// Sends an ATA command.
    pub fn ata(&mut self, registers: Registers, data: &[u8]) -> Response {
        self.request(command::ATA, &registers.with(data)).expect("the target answers")
    }

    /// Reads sectors, `step` at a time.
    pub fn read(&mut self, lba: u64, sectors: u64, step: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut at = lba;
        while at < lba + sectors {
            let count = u8::try_from((lba + sectors - at).min(step.into())).unwrap_or(step);
            let response = self.ata(Registers::read(at, count), &[]);
            assert_eq!(response.status().0 & 0xa9, 0, "reading lba {at}: {response:02x?}");
            let data = response.data().get(..usize::from(count) * SECTOR);
            bytes.extend_from_slice(data.expect("the response has its data"));
            at += u64::from(count);
        }
        bytes
    }

    /// Writes sectors, `step` at a time.
    pub fn write(&mut self, lba: u64, bytes: &[u8], step: u8) {
        for (data, at) in bytes.chunks(usize::from(step) * SECTOR).zip((lba..).step_by(step.into()))
        {
            let count = u8::try_from(data.len() / SECTOR).expect("a step is short");
            let response = self.ata(Registers::write(at, count), data);
            assert_eq!(response.status().0 & 0xa9, 0, "writing lba {at}: {response:02x?}");
        }
    }

    /// The answer to IDENTIFY DEVICE.
    pub fn identity(&mut self) -> Vec<u8> {
        let registers = Registers { count: 1, operation: 0xec, ..Registers::default() };
        let response = self.ata(registers, &[]);
        response.data().get(..SECTOR).expect("IDENTIFY has 512 bytes").to_vec()
    }

    /// Size of the disk in sectors, as IDENTIFY DEVICE tells it.
    pub fn sectors(&mut self) -> u64 {
        field(&self.identity(), 200).map(u64::from_le_bytes).expect("words 100 to 103")
    }

    /// Sectors per request that the target offers now.
    pub fn sectors_per_request(&mut self) -> u8 {
        let response = self.request(command::CONFIG, &config(0, 0, &[])).expect("an answer");
        field(response.frame(), 28).map_or(0, |[count]| count)
    }

    /// The config string.
    pub fn config_string(&mut self) -> Vec<u8> {
        let response = self.request(command::CONFIG, &config(0, 0, &[])).expect("an answer");
        response.config_string().to_vec()
    }

    fn receive(&mut self, patience: Duration, tag: u32) -> Option<Response> {
        let length = self.socket.receive(&mut self.buffer, patience).expect("the socket works")?;
        let frame = self.buffer.get(..length)?;
        let wanted = field(frame, 0) == Some(self.mac)
            && field(frame, 12) == Some(AOE.to_be_bytes())
            && field::<1>(frame, 14).is_some_and(|[flags]| flags & RESPONSE != 0)
            && field(frame, 20) == Some(tag.to_be_bytes());
        wanted.then(|| Response(frame.to_vec()))
    }
}
