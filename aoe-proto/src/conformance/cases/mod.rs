//! The cases, one file per topic.

mod addressing;
mod advertisement;
mod config;
mod edge;
mod errors;
mod flags;
mod header;
mod hostile;
mod identify;
mod mask;
mod mtu;
mod ordering;
mod padding;
mod read;
mod reserve;
mod retransmission;
mod version;
mod vlan;
mod window;
mod write;

use super::case::Case;

/// Every case, in the order of [`Topic::ALL`](super::Topic::ALL).
pub const ALL: &[&[Case]] = &[
    addressing::CASES,
    header::CASES,
    version::CASES,
    flags::CASES,
    padding::CASES,
    config::CASES,
    read::CASES,
    write::CASES,
    edge::CASES,
    identify::CASES,
    errors::CASES,
    mask::CASES,
    reserve::CASES,
    advertisement::CASES,
    ordering::CASES,
    window::CASES,
    mtu::CASES,
    vlan::CASES,
    retransmission::CASES,
    hostile::CASES,
];
