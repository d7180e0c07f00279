//! `cowblade bench`: puts a load on targets and tells what they made of it.

use core::time::Duration;

use clap::{Args, ValueEnum};

use super::initiator::parse_seconds;
use super::output::{print_json, print_line};
use crate::bench::{Order, Plan, SESSIONS_MAX, Verify, socket::SocketWire};
use crate::error::{ErrorKind, Exit, HostError, Result};
use crate::values::{AddressList, ByteSize, Mac, ValueError, parse_address_list, parse_mac};

/// What follows the options in `bench --help`.
pub(super) const NOTES: &str = "\
Nothing is written unless --write says so and --write-allowed names the target; what is on the disk is
destroyed then.

Exit codes: 0 if every request was answered; 3 if some failed or were lost, or if --verify found a sector
that does not hold what it must.

Examples:
  Random reads of 4 KiB, and what they cost the server:
    cowblade bench 0.0 -i eth0 --depth 16 --pid 4711
  64 disks, 30 % writes, each sector checked when it is read again:
    cowblade bench 0.0-0.63 -i eth0 --write 30 --write-allowed 0.0-0.63 --length 16M --verify
  A hundred machines that share one address:
    cowblade bench 0.0 -i eth0 --clients 100";

/// First address of virtual clients: locally administered.
const CLIENT_MAC: &str = "02:c0:b1:00:00:00";

/// The order in which requests visit the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum OrderWord {
    /// Anywhere
    Random,
    /// One after the other
    Sequential,
}

/// Whose disk a target is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum VerifyWord {
    /// Each client's own
    Own,
    /// That of all clients
    Shared,
}

/// `cowblade bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The targets: SHELF.SLOT, ranges such as 0.0-0.63, or several with commas between
    #[arg(value_name = "TARGETS", required = true, value_parser = parse_address_list)]
    pub targets: Vec<AddressList>,

    /// The interface to ask on
    #[arg(short, long, value_name = "IFACE")]
    pub interface: String,

    /// What to ask for.
    #[command(flatten)]
    pub load: LoadArgs,

    /// How long, and how.
    #[command(flatten)]
    pub course: CourseArgs,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What to ask for.
#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
pub struct LoadArgs {
    /// Where requests go
    #[arg(long, value_name = "ORDER", value_enum, default_value = "random")]
    pub order: OrderWord,

    /// Visit each position once, and end
    #[arg(long)]
    pub once: bool,

    /// Requests of a hundred that write
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    pub write: u8,

    /// Targets that may be written to: their contents will be destroyed (repeat for several)
    #[arg(long, value_name = "TARGETS", value_parser = parse_address_list)]
    pub write_allowed: Vec<AddressList>,

    /// Sectors of 512 bytes per request [default: 8, or what fits]
    #[arg(long, value_name = "N")]
    pub sectors: Option<u8>,

    /// Sectors between two neighbouring positions [default: those of a request]
    #[arg(long, value_name = "N")]
    pub stride: Option<u64>,

    /// Use the disks from this byte on, a multiple of 512
    #[arg(long, value_name = "BYTES", default_value = "0")]
    pub offset: ByteSize,

    /// Use this many bytes, a multiple of 512 [default: to the end of the disk]
    #[arg(long, value_name = "BYTES")]
    pub length: Option<ByteSize>,

    /// Requests outstanding for each client at each target, as far as it queues them
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub depth: u16,

    /// Keep to --depth even where a target says that it queues less
    #[arg(long)]
    pub beyond_buffer_count: bool,

    /// So many clients with MAC addresses of their own, each using all targets
    #[arg(long, value_name = "N")]
    pub clients: Option<u32>,

    /// MAC address of the first client; the others follow it
    #[arg(long, value_name = "MAC", value_parser = parse_mac)]
    pub client_mac: Option<Mac>,

    /// Check every sector that is read, and in the end read everything that was written; `shared` if
    /// the clients of a target share one disk
    #[arg(long, value_name = "DISKS", value_enum, num_args = 0..=1, require_equals = true,
        default_missing_value = "own")]
    pub verify: Option<VerifyWord>,

    /// Where random numbers begin: the same number gives the same requests
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// How long, and how.
#[derive(Debug, Args)]
#[command(next_help_heading = "Course")]
pub struct CourseArgs {
    /// Measure for so long, in seconds [default: 5, unless --count or --once ends it]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub time: Option<Duration>,

    /// Send so many requests in all
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,

    /// Run so long before anything is counted [default: 1, with --count or --once 0]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub warm_up: Option<Duration>,

    /// Processes of the server, to measure their processor time and memory (repeat for several)
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub pid: Vec<u32>,

    /// Run on this processor only
    #[arg(long, value_name = "N")]
    pub cpu: Option<usize>,

    /// Look for answers without pause for so long before sleeping until some come, in microseconds
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0)]
    pub spin: u32,

    /// Send a request again after so many seconds, then after twice as many
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = parse_seconds)]
    pub retransmit: Duration,

    /// Give a request up after this many seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    pub timeout: Duration,
}

impl BenchArgs {
    /// What was asked for, checked as far as it can be without a network.
    ///
    /// # Errors
    /// `Usage` if it makes no sense, or would write where nobody allowed it.
    pub fn plan(&self) -> Result<Plan> {
        let (load, course) = (&self.load, &self.course);
        let joined = |lists: &[AddressList]| {
            lists.iter().flat_map(|list| list.0.iter().copied()).collect::<Vec<_>>()
        };
        let counted = course.count.is_some() || load.once;
        let (no_time, second) = (Duration::ZERO, Duration::from_secs(1));
        let plan = Plan {
            clients: clients(load.clients, load.client_mac)?,
            writable: joined(&load.write_allowed),
            order: match load.order {
                OrderWord::Random => Order::Random,
                OrderWord::Sequential => Order::Sequential,
            },
            once: load.once,
            write_percent: load.write,
            sectors: load.sectors,
            stride_sectors: load.stride,
            depth: load.depth,
            beyond_buffer_count: load.beyond_buffer_count,
            first_sector: sectors("--offset", load.offset)?,
            region_sectors: load.length.map(|len| sectors("--length", len)).transpose()?,
            warm_up: course.warm_up.unwrap_or(if counted { no_time } else { second }),
            time: course.time.or((!counted).then_some(5 * second)),
            count: course.count,
            verify: match load.verify {
                None => Verify::Nothing,
                Some(VerifyWord::Own) => Verify::OwnDisks,
                Some(VerifyWord::Shared) => Verify::SharedDisks,
            },
            seed: load.seed,
            spin: Duration::from_micros(course.spin.into()),
            retransmit: course.retransmit,
            give_up: course.timeout,
            pids: course.pid.clone(),
            ..Plan::new(joined(&self.targets))
        };
        plan.check()?;
        Ok(plan)
    }
}

pub(super) fn run(args: &BenchArgs) -> Result<Exit> {
    let plan = args.plan()?;
    if let Some(cpu) = args.course.cpu {
        stay_on(cpu)?;
    }
    let mut wire = SocketWire::open(&args.interface, !plan.clients.is_empty())?;
    let report = crate::bench::run(&mut wire, &plan)?;
    if args.json {
        print_json(&report)?;
    } else {
        print_line(&report.render())?;
    }
    Ok(if report.is_clean() { Exit::Success } else { Exit::Problems })
}

fn stay_on(cpu: usize) -> Result<()> {
    use rustix::thread::{CpuSet, sched_setaffinity};

    let op = || format!("run on processor {cpu}");
    if cpu >= CpuSet::MAX_CPU {
        return Err(HostError::usage(op(), "there are never so many"));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set)
        .map_err(|errno| HostError::new(ErrorKind::Usage, op()).source(std::io::Error::from(errno)))
}

/// The addresses of so many virtual clients; none if the interface's own is meant.
fn clients(count: Option<u32>, first: Option<Mac>) -> Result<Vec<Mac>> {
    if count.is_none() && first.is_none() {
        return Ok(Vec::new());
    }
    let count = count.unwrap_or(1);
    if count == 0 || usize::try_from(count).is_ok_and(|count| count > SESSIONS_MAX) {
        let why = format!("use 1 to {SESSIONS_MAX}");
        return Err(HostError::usage(format!("have {count} clients"), why));
    }
    let wrong = |error: ValueError| HostError::usage("name the clients", error.to_string());
    let Mac([m0, m1, m2, m3, m4, m5]) = match first {
        Some(mac) => mac,
        None => parse_mac(CLIENT_MAC).map_err(wrong)?,
    };
    let first = u64::from_be_bytes([0, 0, m0, m1, m2, m3, m4, m5]);
    (first..)
        .take_while(|number| number >> 48 == 0)
        .take(usize::try_from(count).unwrap_or(0))
        .map(|number| {
            let [_, _, m0, m1, m2, m3, m4, m5] = number.to_be_bytes();
            let mac = Mac([m0, m1, m2, m3, m4, m5]);
            let why = "is not the address of one machine";
            if mac.is_unicast() {
                Ok(mac)
            } else {
                Err(HostError::usage("name the clients", format!("{mac} {why}")))
            }
        })
        .collect()
}

fn sectors(word: &str, size: ByteSize) -> Result<u64> {
    const SECTOR_LEN: u64 = 512;
    if size.bytes().is_multiple_of(SECTOR_LEN) {
        return Ok(size.bytes() / SECTOR_LEN);
    }
    Err(HostError::usage(format!("use {word} {}", size.bytes()), "it is not a multiple of 512"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn plan(words: &str) -> Result<Plan> {
        let line = format!("cowblade bench -i eth0 {words}");
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        let Command::Bench(args) = cli.command else { panic!("{cli:?}") };
        args.plan()
    }

    #[test]
    fn words_become_a_plan() {
        let plan = plan(
            "0.0-0.2 1.1,1.3 --write 30 --write-allowed 0.0-0.2 --write-allowed 1.1,1.3 --offset \
             1M --length 2048s --depth 16 --clients 3 --client-mac 02:00:00:00:00:ff --pid 7,8",
        )
        .unwrap();
        assert_eq!((plan.targets.len(), plan.writable.len()), (5, 5));
        assert_eq!((plan.first_sector, plan.region_sectors), (2048, Some(2048)));
        let clients: Vec<_> = plan.clients.iter().map(ToString::to_string).collect();
        assert_eq!(clients, ["02:00:00:00:00:ff", "02:00:00:00:01:00", "02:00:00:00:01:01"]);
        assert_eq!((plan.depth, &plan.pids[..]), (16, &[7, 8][..]));
        assert_eq!(
            (plan.warm_up, plan.time),
            (Duration::from_secs(1), Some(Duration::from_secs(5)))
        );
    }

    #[test]
    fn a_count_ends_without_time_or_warm_up() {
        let plan = plan("0.0 --count 10").unwrap();
        assert_eq!((plan.count, plan.time, plan.warm_up), (Some(10), None, Duration::ZERO));
        assert!(plan.clients.is_empty(), "the interface's own address");
    }

    #[test]
    fn writing_needs_every_target_named() {
        assert!(plan("0.0-0.1 --write 100").is_err());
        assert!(plan("0.0-0.1 --write 100 --write-allowed 0.0").is_err());
        assert!(plan("0.0-0.1 --write 100 --write-allowed 0.0-0.5").is_ok());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for words in ["--offset 100", "--length 1", "--clients 0", "--clients 70000", "--depth 0"] {
            assert!(plan(&format!("0.0 {words}")).is_err(), "{words}");
        }
        assert!(plan("0.0 --clients 2 --client-mac fe:ff:ff:ff:ff:ff").is_err(), "a group address");
        assert!(stay_on(usize::MAX).is_err());
    }
}
