//! The library behind the `cowblade` binary: links, configuration, clients, control, commands.

#![deny(unsafe_code)]

pub mod bench;
pub mod capture;
pub mod cli;
pub mod config;
pub mod conform;
pub mod control;
pub mod demo;
pub mod error;
pub mod image;
pub mod initiator;
pub mod link;
pub mod mapped;
pub mod registry;
pub mod serve;
pub mod server;
pub mod share;
pub mod signals;
pub mod storage;
pub mod tools;
pub mod values;
