//! `cowblade watch`: listens to an interface, or reads a capture file, and points out what is wrong.

use core::time::Duration;
use std::fs;
use std::io::{self, BufWriter, StdoutLock};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use clap::Args;

mod event;
mod session;
mod summary;
#[cfg(test)]
mod tests;

use session::{Frame, Options, Session, TICK, WatchMemory};

use super::initiator::parse_seconds;
use crate::capture::{CaptureFile, CaptureWriter};
use crate::error::{Exit, HostError, Result};
use crate::link::tap::Tap;
use crate::link::wait;
use crate::signals::Signals;
use crate::values::{Address, parse_address};

/// What `--help` shows at its end.
pub(super) const EXAMPLES: &str = "\
Examples:
  cowblade watch -i eth0
  cowblade watch -i eth0 7.3 --quiet --write trouble.pcap
  cowblade watch -i eth0 --for 60 --json --promiscuous
  tcpdump -i eth0 -U -w - ether proto 0x88a2 | cowblade watch --read -";

/// Frames taken between two looks at signals and clocks.
const BATCH: usize = 256;

/// Frames taken at the end: more than wait at once, so that others cannot put the end off.
const LAST_BATCH: usize = 1 << 16;

/// `cowblade watch`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct WatchArgs {
    /// Tell only of this target, and of requests to all targets
    #[arg(value_name = "SHELF.SLOT", value_parser = parse_address)]
    pub address: Option<Address>,

    /// The interface to listen on
    #[arg(short, long, value_name = "IFACE", required_unless_present = "read")]
    pub interface: Option<String>,

    /// Read this pcap or pcapng file instead; `-` is standard input. Needs no privileges
    #[arg(long, value_name = "FILE", conflicts_with_all = ["interface", "promiscuous", "duration"])]
    pub read: Option<PathBuf>,

    /// Also take frames that are not meant for this machine
    #[arg(long)]
    pub promiscuous: bool,

    /// End after this many frames
    #[arg(short, long, value_name = "N")]
    pub count: Option<u64>,

    /// End after this many seconds
    #[arg(long = "for", value_name = "SECONDS", value_parser = parse_seconds)]
    pub duration: Option<Duration>,

    /// Tell only of frames that break a rule, come again, or come from nowhere
    #[arg(short, long)]
    pub quiet: bool,

    /// Write the frames told of to this pcap file, those that `--quiet` leaves out included
    #[arg(long, value_name = "FILE")]
    pub write: Option<PathBuf>,

    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,

    /// End with code 3 if a rule of severity must was broken
    #[arg(long)]
    pub strict: bool,
}

/// Runs the command.
///
/// # Errors
/// When the interface or the file cannot be read, or the capture file cannot be written. What was
/// heard until then is told, summary included.
pub(super) fn run(args: &WatchArgs) -> Result<Exit> {
    let mut memory = WatchMemory::default();
    let options = Options { address: args.address, json: args.json, quiet: args.quiet };
    keep_what_is_read(args)?;
    let writer = args.write.as_deref().map(CaptureWriter::create).transpose()?;
    let out = BufWriter::new(io::stdout().lock());
    let broken = match (&args.read, &args.interface) {
        (Some(path), _) => read(path, args, Session::new(&mut memory, None, options, out, writer))?,
        (None, Some(interface)) => {
            let tap = Tap::open(interface, args.promiscuous)?;
            let session = Session::new(&mut memory, tap.mtu(), options, out, writer);
            listen(tap, interface, args, session)?
        }
        (None, None) => return Err(HostError::usage("listen", "neither --interface nor --read")),
    };
    Ok(if args.strict && broken > 0 { Exit::Problems } else { Exit::Success })
}

/// A capture that is written to where it is read from is lost.
fn keep_what_is_read(args: &WatchArgs) -> Result<()> {
    let (Some(read), Some(write)) = (&args.read, &args.write) else { return Ok(()) };
    let file = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    if file(read).is_some() && file(read) == file(write) {
        return Err(HostError::usage("write the frames", "they are read from this very file")
            .path(write)
            .advice("name another file with --write"));
    }
    Ok(())
}

type StdoutSession<'m> = Session<'m, BufWriter<StdoutLock<'static>>>;

/// Takes a file from front to back; tells how many musts were broken.
fn read(path: &Path, args: &WatchArgs, mut session: StdoutSession<'_>) -> Result<u64> {
    let mut file = CaptureFile::open(path)?;
    let result = read_frames(&mut file, args, &mut session);
    let (broken, closed) = (session.broken(), session.is_closed());
    if !closed {
        session.end(0)?;
    }
    if file.foreign() > 0 {
        eprintln!(
            "cowblade: {} frames of interfaces that are not Ethernet were left out",
            file.foreign()
        );
    }
    result.map(|()| broken)
}

fn read_frames(
    file: &mut CaptureFile,
    args: &WatchArgs,
    session: &mut StdoutSession<'_>,
) -> Result<()> {
    while !session.is_closed()
        && !is_enough(args, session)
        && let Some(packet) = file.next_packet()?
    {
        let at = packet.at;
        session.take(&Frame {
            at,
            bytes: packet.frame,
            wire_len: packet.wire_len,
            tci: packet.tci,
        })?;
        session.tick(at)?;
    }
    Ok(())
}

fn is_enough(args: &WatchArgs, session: &StdoutSession<'_>) -> bool {
    args.count.is_some_and(|count| session.told() >= count)
}

/// Listens until it is enough, or somebody says so; tells how many musts were broken.
fn listen(
    mut tap: Tap,
    interface: &str,
    args: &WatchArgs,
    mut session: StdoutSession<'_>,
) -> Result<u64> {
    let mut signals = Signals::install()?;
    eprintln!("listening on {interface}; Ctrl-C ends and shows the summary");
    let end = args.duration.map(|duration| Instant::now() + duration);
    let mut missed = 0;
    let mut failure = None;
    while failure.is_none() && !signals.take().drain && !session.is_closed() {
        let left = end.map_or(TICK, |end| end.saturating_duration_since(Instant::now()));
        if left.is_zero() || is_enough(args, &session) {
            break;
        }
        wait(&[tap.poll_fd(), signals.poll_fd()], Some(left.min(TICK)))
            .map_err(|error| HostError::io(error, "wait for frames"))?;
        // What waits was heard before or after the gap; what is still to come, after it.
        let drops = tap.take_drops();
        if drops > 0 {
            missed += u64::from(drops);
            session.missed(now());
        }
        failure = hear(&mut tap, args, &mut session, BATCH).err();
        session.flush()?;
        // Frames that wait are older than now, and keep their times.
        if session.tick(now().saturating_sub(TICK))? {
            session.set_mtu(tap.mtu());
        }
    }
    // What came before the end was heard, however late this process is.
    if failure.is_none() && !session.is_closed() {
        failure = hear(&mut tap, args, &mut session, LAST_BATCH).err();
    }
    missed += u64::from(tap.take_drops());
    let (broken, closed) = (session.broken(), session.is_closed());
    if !closed {
        session.tick(now())?;
        session.end(missed)?;
    }
    failure.map_or(Ok(broken), Err)
}

/// Takes what waits, up to so many frames.
fn hear(
    tap: &mut Tap,
    args: &WatchArgs,
    session: &mut StdoutSession<'_>,
    frames_max: usize,
) -> Result<()> {
    for _ in 0..frames_max {
        if is_enough(args, session) {
            break;
        }
        let mut taken = Ok(());
        let waiting = tap.receive(&mut |heard| {
            taken = session.take(&Frame {
                at: heard.at,
                bytes: heard.frame,
                wire_len: heard.wire_len,
                tci: heard.tci,
            });
        })?;
        taken?;
        if !waiting {
            break;
        }
    }
    Ok(())
}

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
