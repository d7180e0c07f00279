//! ATA over Ethernet, version 1: codec, target and initiator, without std, allocation or I/O.
//!
//! A frame becomes an [`Incoming`] once per interface, every [`Target`] it may be meant for turns it
//! into an [`Action`], the caller performs the action on its storage, and a [`Reply`] or
//! [`AtaReply`] writes the answer around the data in the caller's transmit buffer:
//!
//! ```text
//! frame -> Incoming::parse -> Target::handle -> Action -> storage -> emit -> frame
//! ```
//!
//! - [`wire`]: the bytes of all four commands, both directions; [`ata`]: opcodes and IDENTIFY.
//! - [`Target`]: every decision about a request, and all protocol state. No I/O, no clock.
//! - [`serve`](serve()): performs an [`Action`] on a [`Disk`], for firmware and tests.
//! - [`initiator`]: the other side, with tags, window and retransmission. No I/O; time is an
//!   argument.
//! - [`conformance`]: the rules as test cases for any target, and their runner.
//! - [`watch`]: a listener that pairs the frames of all machines and flags broken rules.
//! - [`profiles`]: what each real initiator would make of a target.
//! - [`print`]: one line of text about any frame.
//!
//! ```
//! use aoe_proto::{Action, Address, Incoming, LinkLimits, Mac, Target, TargetConfig};
//!
//! let own_mac = Mac([0x02, 0, 0, 0, 0, 0x01]);
//! let address = Address::new(7, 3).ok_or("a wildcard")?;
//! let link = LinkLimits::for_mtu(1500).ok_or("the MTU is too small")?;
//! let mut target = Target::new(TargetConfig::new(address, 1 << 20))?;
//!
//! // READ SECTORS EXT of two sectors from LBA 5, as it comes from the network.
//! # let mut frame = [0; 60];
//! # frame[..20].copy_from_slice(b"\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x0a\x88\xa2\x10\0\0\x07\x03\0");
//! # frame[24..29].copy_from_slice(&[0x40, 0, 2, 0x24, 5]);
//! let request = Incoming::parse(&frame, own_mac)?;
//! let mut transmit = [0; 1514];
//! let Action::Read { range, reply } = target.handle(&request, link) else {
//!     return Err("not a read".into());
//! };
//! assert_eq!((range.lba(), range.count()), (5, 2));
//! transmit[reply.data_range()].fill(0x77); // the data, from wherever it is
//! let len = reply.emit_ok(&mut transmit)?;
//! assert_eq!(len, 36 + 2 * 512);
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
//!
//! Nothing here panics on any input, and nothing reaches storage before it was checked against the
//! size of the disk ([`SectorRange`] is the proof). Tags in comments such as `[AoE 4.1]` are
//! explained in `docs/PROTOCOL.md`.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::panic)]

#[cfg(test)]
extern crate std;

pub mod ata;
pub mod conformance;
pub mod disk;
pub mod error;
pub mod incoming;
pub mod initiator;
pub mod link;
pub mod print;
pub mod profiles;
pub mod sectors;
pub mod serve;
pub mod target;
pub mod watch;
pub mod wire;

pub use disk::Disk;
pub use error::{BufferTooSmall, Refusal, TextError};
pub use incoming::{ForeignAnswer, Incoming};
pub use link::LinkLimits;
pub use sectors::{DISK_SECTORS_MAX, SECTOR_BYTES, SectorRange};
pub use serve::serve;
pub use target::{
    Action, AtaError, AtaReply, Freeze, Identity, Reply, StateChange, Target, TargetConfig,
    TargetState, TrimRanges, TrimSupport, VersionPolicy,
};
pub use wire::{Address, AddressPattern, Mac};
