//! `cowblade conform SHELF.SLOT`: one run, from the arguments to the exit code.

use std::fs;
use std::path::Path;

use aoe_proto::conformance::{Facts, Needs, RunConfig};
use indicatif::ProgressBar;
use serde::Serialize;

use super::setup::{choose, config, permitted, window};
use super::{ConformArgs, OutputArgs};
use crate::cli::output::{count_bar, print_bytes, print_line};
use crate::conform::{
    Commands, Ended, Head, Journal, Ledger, Plan, ProbeWire, Progress, RunReport, Sides, Tester,
    conduct, default_directory, journal_path, journals_of, junit, render, scout,
    second_server_text,
};
use crate::error::{ErrorKind, Exit, HostError, Result};
use crate::link::probe::Probe;
use crate::signals::Signals;
use crate::values::{Address, parse_address};

/// Distance of the tags of the first questions from those of the cases.
const SCOUT_TAGS: u32 = 1 << 12;

pub(super) fn run(args: &ConformArgs) -> Result<Exit> {
    check_output(&args.output)?;
    let choice = choose(&args.choice)?;
    let mut signals = Signals::install()?;
    let mut interrupted = || signals.take().drain;
    let Some(ready) = prepare(args, &mut interrupted)? else { return Ok(Exit::Failure) };
    let Ready { mut wire, mut journal, config, permitted, mtu } = ready;
    let tester = args.permit.interactive.then(Tester::at_the_terminal).transpose()?;
    let (commands, patience) = (args.permit.action.clone(), args.timing.action_time);
    let mut stage = Commands::new(commands, config.address, mtu, patience).with_tester(tester);
    let (plan, address) = (Plan { config, choice, permitted }, config.address);
    let bar = count_bar(plan.choice.cases().len(), !args.permit.interactive);
    let report = conduct(
        &plan,
        &mut Sides {
            wire: &mut wire,
            stage: &mut stage,
            ledger: &mut journal,
            watcher: &mut |progress| show(&bar, address, progress),
            interrupted: &mut interrupted,
        },
    );
    bar.finish_and_clear();
    let report = report?;
    let output = &args.output;
    let (strict, verbose) = (output.strict, output.verbose);
    tell(&report, output, || junit(&report, strict), || render(&report, verbose))?;
    conclude(&report, &journal, args.output.strict)
}

/// A target that was found, and everything that a run against it needs.
pub(super) struct Ready {
    pub(super) wire: ProbeWire,
    pub(super) journal: Journal,
    pub(super) config: RunConfig,
    pub(super) permitted: Needs,
    pub(super) mtu: usize,
}

/// Finds the target and sees to it that no earlier run is in the way; `None` if somebody
/// interrupted.
///
/// # Errors
/// When it makes no sense, nobody answers, or the journal of an earlier run is there.
pub(super) fn prepare(
    args: &ConformArgs,
    interrupted: &mut dyn FnMut() -> bool,
) -> Result<Option<Ready>> {
    let address = address(args)?;
    let probe = Probe::open(args.interface()?)?;
    let mut config = config(args, address, &probe)?;
    let permitted = permitted(&args.permit, &probe);
    let (interface, mtu) = (probe.name().to_owned(), probe.mtu());
    let mut wire = ProbeWire::new(probe);
    let directory = args.journal_dir.clone().unwrap_or_else(default_directory);
    let Some(facts) = scout(&config, &mut wire, interrupted)? else {
        if interrupted() {
            return Ok(None);
        }
        return Err(nobody(address, &interface, &directory));
    };
    refuse_second_run(&directory, &facts)?;
    config.tag_seed = config.tag_seed.wrapping_add(SCOUT_TAGS);
    config.window = window(args.permit.write_window, &facts)?;
    let macs = [config.own_mac].into_iter().chain(config.second_mac).collect();
    let head = Head { format: Head::FORMAT.to_owned(), interface, macs };
    let journal = Journal::new(&directory, head);
    Ok(Some(Ready { wire, journal, config, permitted, mtu }))
}

fn address(args: &ConformArgs) -> Result<Address> {
    let Some(text) = &args.target else {
        return Err(HostError::usage("examine a target", "nothing says which")
            .advice("name it as SHELF.SLOT; `cowblade discover -i IFACE` finds them"));
    };
    parse_address(text).map_err(|error| HostError::usage("examine the target", error.to_string()))
}

fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

pub(super) fn check_output(output: &OutputArgs) -> Result<()> {
    let both = [&output.json, &output.junit];
    if both.iter().all(|path| path.as_deref().is_some_and(is_stdout)) {
        return Err(HostError::usage("print both reports", "there is one standard output"));
    }
    // Better now than after a run of minutes.
    for path in both.into_iter().flatten().filter(|path| !is_stdout(path)) {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if path.is_dir() || directory.is_some_and(|parent| !parent.is_dir()) {
            return Err(HostError::usage("write the report", "there is no place for such a file")
                .path(path));
        }
    }
    Ok(())
}

/// Nobody answers: perhaps because an earlier run was killed while a mask was set.
fn nobody(address: Address, interface: &str, directory: &Path) -> HostError {
    let error = HostError::new(ErrorKind::Timeout, "examine the target")
        .export(address)
        .interface(interface);
    let left = journals_of(directory, Some(address)).unwrap_or_default();
    match left.first() {
        Some(path) => error.advice(undo_advice(path)),
        None => error.advice("`cowblade discover` shows who answers on an interface"),
    }
}

fn undo_advice(path: &Path) -> String {
    format!(
        "an earlier run left {}; `cowblade conform --restore {}` undoes it",
        path.display(),
        path.display()
    )
}

fn refuse_second_run(directory: &Path, facts: &Facts) -> Result<()> {
    let path = journal_path(directory, facts.address, facts.target_mac);
    if !path.exists() {
        return Ok(());
    }
    Err(HostError::new(ErrorKind::InUse, "examine the target")
        .export(facts.address)
        .detail("an earlier run did not put it back, or still goes on")
        .advice(undo_advice(&path)))
}

pub(super) fn show(bar: &ProgressBar, address: Address, progress: Progress<'_>) {
    match progress {
        Progress::Started(case, number, _) => {
            bar.set_position(number.saturating_sub(1) as u64);
            bar.set_message(case.id);
        }
        Progress::Acting(action) => bar.set_message(action.instruction()),
        Progress::Playing(client) => {
            bar.inc(1);
            bar.set_message(client.name());
        }
        Progress::SecondServer(mac) => bar.suspend(|| {
            eprintln!("cowblade: warning: {}", second_server_text(address, mac));
        }),
        Progress::NotDone(why) => bar.suspend(|| eprintln!("cowblade: warning: {why}")),
        Progress::Undoing => bar.set_message("interrupted: putting everything back"),
        Progress::Ended(_) => bar.inc(1),
    }
}

/// Writes what was asked for as JSON and as XML, and the text, unless the first went to standard
/// output.
pub(super) fn tell<T: Serialize>(
    report: &T,
    output: &OutputArgs,
    junit: impl FnOnce() -> String,
    text: impl FnOnce() -> String,
) -> Result<()> {
    let mut stdout_taken = false;
    if let Some(path) = &output.json {
        stdout_taken |= put_json(path, report)?;
    }
    if let Some(path) = &output.junit {
        stdout_taken |= put(path, &junit())?;
    }
    if stdout_taken {
        return Ok(());
    }
    print_line(&text())
}

/// Writes an object as JSON; tells whether it went to standard output.
pub(super) fn put_json<T: Serialize + ?Sized>(path: &Path, what: &T) -> Result<bool> {
    let mut text = serde_json::to_string_pretty(what)
        .map_err(|error| HostError::new(ErrorKind::Io, "write the report").source(error))?;
    text.push('\n');
    put(path, &text)
}

/// Tells whether the text went to standard output.
fn put(path: &Path, text: &str) -> Result<bool> {
    if is_stdout(path) {
        print_bytes(text.as_bytes())?;
        return Ok(true);
    }
    fs::write(path, text).map_err(|error| HostError::io(error, "write the report").path(path))?;
    Ok(false)
}

fn conclude(report: &RunReport, journal: &Journal, strict: bool) -> Result<Exit> {
    is_put_back(report.target.address, journal)?;
    Ok(match report.ended {
        Ended::Interrupted => Exit::Failure,
        Ended::NoAnswer => Exit::NotFound,
        Ended::Finished if report.has_failed(strict) => Exit::Problems,
        Ended::Finished if !report.actions_failed.is_empty() => Exit::Failure,
        Ended::Finished => Exit::Success,
    })
}

/// A journal that is still there tells of something that could not be put back.
///
/// # Errors
/// Says so, and what to do.
pub(super) fn is_put_back(address: Address, journal: &Journal) -> Result<()> {
    let (Some(_), Some(path)) = (journal.pending(), journal.path()) else { return Ok(()) };
    Err(HostError::new(ErrorKind::Protocol, "put the target back")
        .export(address)
        .detail("not everything could be put back")
        .advice(format!("`cowblade conform --restore {}` tries again", path.display())))
}
