//! `cowblade conform --restore`: puts back what runs altered that were killed.

use std::path::{Path, PathBuf};

use aoe_proto::conformance::RestoreResult;

use super::ConformArgs;
use super::setup::config;
use crate::cli::output::print_line;
use crate::conform::{ProbeWire, Saved, Undone, default_directory, journals_of, undo};
use crate::error::{ErrorKind, Exit, HostError, Result};
use crate::link::probe::Probe;
use crate::values::parse_address;

pub(super) fn restore(args: &ConformArgs) -> Result<Exit> {
    let paths = journals(args)?;
    if paths.is_empty() {
        print_line("There is no journal of an earlier run: nothing is to be put back.")?;
    }
    let mut exit = Ok(Exit::Success);
    for path in &paths {
        // One target that does not answer must not keep the others from being put back.
        if let Err(error) = restore_one(args, path) {
            if exit.is_err() {
                print_line(&error.report())?;
            } else {
                exit = Err(error);
            }
        }
    }
    exit
}

/// The journal that was named, those of the target that was named, or all.
fn journals(args: &ConformArgs) -> Result<Vec<PathBuf>> {
    let directory = args.journal_dir.clone().unwrap_or_else(default_directory);
    match args.target.as_deref().map(|text| (text, parse_address(text))) {
        None => journals_of(&directory, None),
        Some((_, Ok(address))) => journals_of(&directory, Some(address)),
        Some((path, Err(_))) => Ok(vec![path.into()]),
    }
}

fn restore_one(args: &ConformArgs, path: &Path) -> Result<()> {
    let saved = Saved::open(path)?;
    let Some((address, mac)) = saved.target() else {
        print_line(&format!("{}: nothing was altered", path.display()))?;
        return saved.remove();
    };
    let interface = args.interface.as_deref().unwrap_or(&saved.head.interface);
    let probe = Probe::open(interface)?;
    let mut config = config(args, address, &probe)?;
    // A mask that the run made admits the addresses of the run, whoever undoes it.
    let mut macs = saved.head.macs.iter().copied();
    config.own_mac = macs.next().unwrap_or(config.own_mac);
    config.second_mac = macs.next();
    let mut wire = ProbeWire::new(probe);
    let Undone { result, parts } = undo(&config, &saved.records, &mut wire)?;
    for (what, well) in &parts {
        let words = if *well { "as before" } else { "could not be put back" };
        print_line(&format!("{address} at {mac}: {what}: {words}"))?;
    }
    let failed = |kind| {
        HostError::new(kind, "put the target back").path(path).interface(interface).export(address)
    };
    match result {
        RestoreResult::Restored => saved.remove(),
        RestoreResult::Incomplete => {
            Err(failed(ErrorKind::Protocol).detail("not everything could be put back"))
        }
        RestoreResult::NoAnswer => Err(failed(ErrorKind::Timeout)
            .detail(format!("{mac} does not answer"))
            .advice("if that machine is gone for good, delete the journal")),
    }
}
