//! Harness of the system tests: real counterparts on a machine's own kernel, no mock.
//!
//! * [`net`] makes network namespaces and the Ethernet segment between them.
//! * [`mounted`] mounts file systems.
//! * [`lossy`] loses, doubles and swaps frames between them.
//! * [`guest`] boots user-mode-linux machines whose initiator is the kernel's own `aoe` driver.
//! * [`pc`] emulates a PC that boots over the segment.
//! * [`image_chain`] drives an overlay file over a base file.
//! * [`initiator`] is a small client of our own, [`hostile`] one that lies.
//! * [`hostile_images`] spoils images of every format.
//! * [`hostile_file`] is one such image in memory, with tables instead of fields.
//! * [`server`] runs a target in a namespace, kills it and starts it again.
//! * [`strace`] sees what a server asks the system for, and answers for it.
//! * [`dissector`] reads captured frames with tshark.
//! * [`qemu`] runs QEMU's image tools, and drives chains of files beside them.
//! * [`dm_store`] reads stores of device-mapper snapshots.
//! * [`qcow1_image`] makes and reads qcow images by the letter.
//! * [`conformance`] runs the conformance harness against targets, and compares what comes out.
//! * [`operator`] runs commands and reads what they print.
//! * [`site`] is a small installation of our server.
//! * [`wire`] listens on a segment and knows which requests nobody answered.
//! * [`pattern`] writes sectors that say who wrote them, [`judge`] reads them back.
//! * [`lab`] gives a test its directory, its turn and its attempts.
//! * [`scenario`] holds whole client stories that run against any [`target`]; [`script`] holds
//!   what the guests in them do.
//! * [`sim`] drives engines asynchronously over simulated media, [`chain_model`] has their chains,
//!   [`sector_model`] knows what they must read as, [`sim_watch`] looks at every operation;
//!   [`bitmap_disk`] knows some formats.
//! * [`require`] says what a test needs and counts what had to be skipped.
//!
//! A harness has nobody to return an error to: it stops the test by panicking, with the reason.
#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    reason = "a harness fails a test by panicking; its error types say all there is to say"
)]

pub mod bitmap_disk;
pub mod chain_model;
pub mod conformance;
pub mod crash;
pub mod dissector;
pub mod dm_store;
pub mod frames;
pub mod guest;
pub mod hostile;
pub mod hostile_file;
pub mod hostile_images;
pub mod image_chain;
pub mod initiator;
pub mod initramfs;
pub mod judge;
pub mod lab;
pub mod lossy;
pub mod memory_edge;
pub mod mounted;
pub mod net;
pub mod operator;
pub mod pattern;
pub mod pc;
pub mod qcow1_image;
pub mod qemu;
pub mod raw_socket;
pub mod require;
pub mod rng;
pub mod scenario;
pub mod script;
pub mod sector_model;
pub mod server;
pub mod server_sim;
pub mod sim;
pub mod sim_life;
pub mod sim_plan;
pub mod sim_watch;
pub mod site;
pub mod stack;
pub mod strace;
pub mod target;
pub mod wire;
pub mod workspace;

/// Our target in memory and broken ones, which belong to the tests of `aoe-proto`.
#[allow(dead_code, clippy::unwrap_used, reason = "shared with another crate's tests")]
#[path = "../../aoe-proto/tests/conformance/defects/mod.rs"]
mod defects;
#[allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "shared as well")]
#[path = "../../aoe-proto/tests/conformance/world.rs"]
mod world;
