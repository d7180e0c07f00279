//! The control socket: one JSON line asks, one JSON line answers.
//!
//! ```text
//!   message.rs  what can be asked and answered, and its text: pure
//!   status.rs   what `cowblade status` knows: plain data
//!   server.rs   accepts connections in a thread of its own, hands requests to the server loop
//!   client.rs   asks a running server
//! ```

mod client;
mod message;
mod server;
mod status;

pub use client::ask;
pub use message::{
    ClientEntry, ClientList, ControlReply, ControlRequest, MESSAGE_LEN_MAX, UnknownEntry,
};
pub use server::{ControlCall, ControlServer};
pub use status::{
    InterfaceStatus, OverlayStatus, SessionStatus, Status, TargetKind, TargetStatus, TrafficStatus,
    WorkerStatus,
};
