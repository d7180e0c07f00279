//! The frames: one file per structure, each with `parse` and its way back to bytes.
//!
//! **Panic contract.** Nothing here panics, whatever the input: headers are taken with
//! `split_first_chunk`, lengths from the wire are compared before use, and what is missing is an
//! error. **Byte order.** AoE fields are big-endian; the six LBA bytes are separate registers,
//! least significant first; IDENTIFY words are little-endian. The order is decided in these files
//! and in [`crate::ata`], nowhere else.
//!
//! VLAN tags are the link's business: frames come here with the tag removed. A link must drop
//! frames with a foreign VLAN id before it parses them, and put the tag back on answers to a VLAN
//! it serves. `[AoE 9 item 5]`

pub mod addr;
pub mod ata;
mod code;
pub mod config;
pub(crate) mod frame;
pub mod header;
pub mod mac_mask;
pub mod reserve;

pub use addr::{Address, AddressPattern, Mac};
pub use ata::{AtaArg, AtaFlags, TrimEntry};
pub use config::{CONFIG_STRING_MAX, ConfigArg, ConfigCommand};
pub use header::{
    AoeError, Command, ETHERNET_LEN, ETHERTYPE, FRAME_LEN_MIN, HEADER_LEN, Header, Tag, VERSION,
};
pub use mac_mask::{Directive, DirectiveCommand, MaskArg, MaskCommand, MaskError};
pub use reserve::{ReserveArg, ReserveCommand};
