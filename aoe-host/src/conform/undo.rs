//! Puts a target back as the journal of a run describes it.

use aoe_proto::conformance::{
    Altered, Memory, Record, Records, Restore, RestoreError, RestoreEvent, RestoreResult, RunConfig,
};

use super::journal::Ledger;
use super::wire::Wire;
use crate::error::{ErrorKind, HostError, Result};

/// What an undo came to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Undone {
    /// All of it.
    pub result: RestoreResult,
    /// Part by part, and whether it is as it was before the run.
    pub parts: Vec<(Altered, bool)>,
}

/// Undoes the records of a journal. Of `config` our addresses, MTU, tags and times count. Only the
/// machine that was altered is listened to: another one with its shelf and slot is another disk.
///
/// # Errors
/// `Corrupt` if they are no journal, and when the wire fails.
pub fn undo(config: &RunConfig, journal: &[u8], wire: &mut dyn Wire) -> Result<Undone> {
    let mut frame = vec![0; Memory::frame_len(config.mtu)];
    let mut restore = Restore::new(*config, journal, &mut frame).map_err(|error| {
        let kind = match error {
            RestoreError::NotAJournal => ErrorKind::Corrupt,
            _ => ErrorKind::Io,
        };
        HostError::new(kind, "undo the run").source(error)
    })?;
    let altered = Records::new(journal).find_map(|record| match record {
        Record::Run { target_mac, .. } => Some(target_mac),
        _ => None,
    });
    let mut parts = Vec::new();
    loop {
        match restore.poll(wire.now_ms()) {
            RestoreEvent::Send { frame, .. } => wire.send(frame),
            RestoreEvent::Wait { until_ms } => wire.wait(until_ms, &mut |arrived| {
                if arrived.frame.get(6..12) == altered.as_ref().map(|mac| mac.0.as_slice()) {
                    restore.received(arrived.frame, arrived.vlan);
                }
            })?,
            RestoreEvent::Result(what, well) => parts.push((what, well)),
            RestoreEvent::Done(result) => return Ok(Undone { result, parts }),
        }
    }
}

/// Distance of the tags of a run from those of its undoing: late answers to the run must not be
/// taken for answers to this.
const UNDO_TAGS: u32 = 1 << 22;

/// Undoes what a ledger says and closes it; tells what could not be put back, if anything.
///
/// # Errors
/// When the wire or the ledger fails.
pub(super) fn undo_ledger(
    config: &RunConfig,
    ledger: &mut dyn Ledger,
    wire: &mut dyn Wire,
) -> Result<Option<String>> {
    let Some(journal) = ledger.pending() else { return Ok(None) };
    let mut config = *config;
    config.tag_seed = config.tag_seed.wrapping_add(UNDO_TAGS);
    let Undone { result, parts } = undo(&config, journal, wire)?;
    if result == RestoreResult::Restored {
        ledger.finish()?;
        return Ok(None);
    }
    let failed: Vec<String> =
        parts.iter().filter(|(_, well)| !well).map(|(what, _)| what.to_string()).collect();
    Ok(Some(if failed.is_empty() {
        "the target does not answer; nothing could be put back".to_owned()
    } else {
        format!("could not be put back: {}", failed.join(", "))
    }))
}
