//! Targets under test: the reference target, ours, and servers broken on purpose.

use std::path::Path;

use crate::net::Segment;
use crate::require;
use crate::server::ServerPlan;
use crate::workspace;

/// The reference target with one plain file as a disk.
///
/// `address` reads `SHELF.SLOT`; `options` go before it, as in `-r` or `-m MAC`.
pub fn vblade(
    segment: &Segment,
    dir: &Path,
    address: &str,
    image: &Path,
    options: &[&str],
) -> ServerPlan {
    let program = require::program("vblade").expect("vblade is installed");
    let (shelf, slot) = address.split_once('.').expect("an address reads SHELF.SLOT");
    let image = image.display().to_string();
    let arguments = [options, &[shelf, slot, Segment::SERVER, &image]].concat();
    let log = dir.join(format!("vblade-{}.log", segment.next_number()));
    ServerPlan::new(segment.server(), &program, arguments, log, "sectors")
}

/// A server that forgets: each start serves a fresh copy of `image`.
pub fn forgetful_vblade(segment: &Segment, dir: &Path, address: &str, image: &Path) -> ServerPlan {
    let copy = dir.join("forgotten.img");
    let mut plan = vblade(segment, dir, address, &copy, &[]);
    let line =
        format!("cp '{}' '{}' && exec {}", image.display(), copy.display(), plan.command.join(" "));
    plan.command = ["sh", "-c", &line].map(Into::into).into();
    plan
}

/// Every way in which our server reaches the network; it takes the first unless told otherwise.
pub const LINKS: [&str; 3] = ["ring", "mmsg", "pnet"];

/// Our program with the given arguments; the interface is added. Where `COWBLADE_TEST_WORKERS` is a
/// number, every server has so many workers that does not say otherwise.
pub fn cowblade(segment: &Segment, dir: &Path, arguments: &[&str]) -> ServerPlan {
    let workers = std::env::var("COWBLADE_TEST_WORKERS").ok();
    let workers = workers.as_deref().filter(|_| !arguments.contains(&"--workers"));
    let workers: Vec<&str> = workers.into_iter().flat_map(|n| ["--workers", n]).collect();
    let arguments = [&["serve", "-i", Segment::SERVER], arguments, &workers].concat();
    let log = dir.join(format!("cowblade-{}.log", segment.next_number()));
    ServerPlan::new(segment.server(), workspace::cowblade(), arguments, log, "serving")
}
