//! The library behind the `cowblade` binary: links, configuration, clients, control, commands.

pub mod cli;
pub mod config;
pub mod control;
pub mod error;
pub mod link;
pub mod registry;
pub mod server;
pub mod signals;
pub mod values;
