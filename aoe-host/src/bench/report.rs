//! The result of a load: for programs as it is, for people as text.

use core::time::Duration;

use serde::Serialize;

use super::histogram::Histogram;
use super::model::Finding;
use super::places::Order;
use super::plan::Plan;
use super::process::Usage;
use super::tally::{Moves, STEP_NS, Tally};

/// Bytes of a sector.
const SECTOR_LEN: u64 = 512;
/// Ranges of latencies in each doubling.
const RANGES_PER_DOUBLING: usize = 4;

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Workload {
    /// The targets, as `eSHELF.SLOT`.
    pub targets: Vec<String>,
    /// How many clients.
    pub clients: usize,
    /// `sequential` or `random`.
    pub order: &'static str,
    /// Whether each position was visited once.
    pub once: bool,
    /// Requests of a hundred that write.
    pub write_percent: u8,
    /// Sectors per request.
    pub sectors: u8,
    /// Sectors between neighbouring positions.
    pub stride_sectors: u64,
    /// Requests outstanding for each client at each target, as asked for.
    pub depth: u16,
    /// The same, as far as every target queues it.
    pub depth_used: u16,
}

/// How long answers took, in microseconds from the first transmission.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// Least.
    pub min: f64,
    /// Mean.
    pub mean: f64,
    /// Half of all took no longer.
    pub p50: f64,
    /// 90 % took no longer.
    pub p90: f64,
    /// 99 % took no longer.
    pub p99: f64,
    /// 99.9 % took no longer.
    pub p999: f64,
    /// Most.
    pub max: f64,
}

/// Requests of one kind, or all.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Moved {
    /// Answered without an error.
    pub requests: u64,
    /// The same per second.
    pub iops: f64,
    /// Million bytes of data per second.
    pub mb_per_s: f64,
    /// `None` without requests.
    pub latency_us: Option<Latency>,
}

/// A process that was watched.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Processor time while it was counted.
    pub cpu_seconds: f64,
    /// Memory resident in the end.
    pub resident_kib: u64,
    /// The same, shared pages divided among those that share them; 0 if the system does not tell.
    pub proportional_kib: u64,
}

/// What verification found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Verified {
    /// Sectors that were read and compared; one counts each time.
    pub checked_sectors: u64,
    /// Sectors that were wrong.
    pub wrong_sectors: u64,
    /// Sectors of which nothing can be said: a write failed, or was sent twice.
    pub unverifiable_sectors: u64,
    /// The first of the wrong ones.
    pub findings: Vec<String>,
}

/// The result.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// The interface.
    pub interface: String,
    /// What was asked for.
    pub workload: Workload,
    /// How long it was counted.
    pub seconds: f64,
    /// All requests.
    pub all: Moved,
    /// Those that read.
    pub reads: Moved,
    /// Those that wrote.
    pub writes: Moved,
    /// Requests sent again.
    pub retransmitted: u64,
    /// Requests given up.
    pub lost: u64,
    /// Requests answered with an error, or too short.
    pub failed: u64,
    /// Answers to requests that were already answered, or given up.
    pub late_answers: u64,
    /// Frames that answered nothing of ours.
    pub stray_frames: u64,
    /// Answers for which this program had no room.
    pub receive_drops: u64,
    /// Requests that the interface did not take.
    pub send_failures: u64,
    /// The processes that were watched.
    pub processes: Vec<Process>,
    /// Processor time of all of them for one answered request, in microseconds.
    pub server_cpu_us_per_request: Option<f64>,
    /// This program's own.
    pub generator_cpu_us_per_request: Option<f64>,
    /// What verification found, if it was asked for.
    pub verified: Option<Verified>,
    /// Answered requests in each tenth of a second.
    pub requests_per_100_ms: Vec<u64>,
    /// Latencies in ranges: the greatest of each in microseconds, and how many requests.
    pub latency_ranges_us: Vec<(f64, u64)>,
}

/// What the surroundings used.
pub(super) struct Cost {
    pub(super) elapsed: Duration,
    /// Before and after: this process, then those of the plan.
    pub(super) before: Vec<Usage>,
    pub(super) after: Vec<Usage>,
    pub(super) drops: u64,
}

/// Puts together what was counted. What only the loop knows is left at its default.
pub(super) fn report(plan: &Plan, tally: &Tally, cost: &Cost) -> Report {
    let seconds = cost.elapsed.as_secs_f64();
    let mut latency_ns = tally.reads.latency_ns.clone();
    latency_ns.add(&tally.writes.latency_ns);
    let all = Moves { latency_ns, sectors: tally.reads.sectors + tally.writes.sectors };
    let used = |at: usize| {
        let pair = cost.before.get(at).zip(cost.after.get(at));
        pair.map_or(Duration::ZERO, |(before, after)| after.cpu.saturating_sub(before.cpu))
    };
    let requests = tally.requests();
    let per_request =
        |time: Duration| (requests > 0).then(|| round(time.as_secs_f64() * 1e6 / float(requests)));
    let processes: Vec<Process> = (1..)
        .zip(&plan.pids)
        .map(|(at, pid)| {
            let after = cost.after.get(at).copied().unwrap_or_default();
            Process {
                pid: *pid,
                cpu_seconds: used(at).as_secs_f64(),
                resident_kib: after.resident_kib,
                proportional_kib: after.proportional_kib,
            }
        })
        .collect();
    let servers: Duration = (1..).zip(&plan.pids).map(|(at, _)| used(at)).sum();
    let ranges = all.latency_ns.ranges(RANGES_PER_DOUBLING);
    Report {
        workload: workload(plan),
        seconds,
        all: moved(&all, seconds),
        reads: moved(&tally.reads, seconds),
        writes: moved(&tally.writes, seconds),
        retransmitted: tally.retransmitted,
        lost: tally.lost,
        failed: tally.failed,
        late_answers: tally.late,
        stray_frames: tally.stray,
        receive_drops: cost.drops,
        send_failures: tally.send_failures,
        server_cpu_us_per_request: per_request(servers).filter(|_| !processes.is_empty()),
        generator_cpu_us_per_request: per_request(used(0)),
        processes,
        requests_per_100_ms: tally.course.clone(),
        latency_ranges_us: ranges.iter().map(|(end, count)| (micros(*end), *count)).collect(),
        ..Report::default()
    }
}

impl Report {
    /// Enters what verification found: sectors checked, wrong and unverifiable, and the first
    /// wrong ones.
    pub(super) fn set_verified(&mut self, found: Option<(u64, u64, u64, &[Finding])>) {
        self.verified = found.map(|(checked, wrong, unverifiable, findings)| Verified {
            checked_sectors: checked,
            wrong_sectors: wrong,
            unverifiable_sectors: unverifiable,
            findings: findings.iter().map(ToString::to_string).collect(),
        });
    }

    /// Whether every request was answered without an error, and every sector was right.
    pub fn is_clean(&self) -> bool {
        let right = self.verified.as_ref().is_none_or(|verified| verified.wrong_sectors == 0);
        right && self.lost == 0 && self.failed == 0 && self.all.requests > 0
    }

    /// Seconds in each step of [`Report::requests_per_100_ms`].
    pub(super) fn step_seconds() -> f64 {
        float(STEP_NS) / 1e9
    }
}

fn workload(plan: &Plan) -> Workload {
    Workload {
        targets: plan.targets.iter().map(ToString::to_string).collect(),
        clients: plan.clients.len().max(1),
        order: match plan.order {
            Order::Sequential => "sequential",
            Order::Random => "random",
        },
        once: plan.once,
        write_percent: plan.write_percent,
        depth: plan.depth,
        ..Workload::default()
    }
}

fn moved(moves: &Moves, seconds: f64) -> Moved {
    let requests = moves.latency_ns.total();
    let per_second = |n: u64| if seconds > 0.0 { round(float(n) / seconds) } else { 0.0 };
    Moved {
        requests,
        iops: per_second(requests),
        mb_per_s: round(per_second(moves.sectors.saturating_mul(SECTOR_LEN)) / 1e6),
        latency_us: latency(&moves.latency_ns),
    }
}

fn latency(latency_ns: &Histogram) -> Option<Latency> {
    let at = |per_10_000: u64| latency_ns.quantile(per_10_000).map(micros);
    Some(Latency {
        min: micros(latency_ns.min()?),
        mean: micros(latency_ns.mean()?),
        p50: at(5_000)?,
        p90: at(9_000)?,
        p99: at(9_900)?,
        p999: at(9_990)?,
        max: micros(latency_ns.max()?),
    })
}

fn micros(nanos: u64) -> f64 {
    round(float(nanos) / 1e3)
}

/// To three decimals: more would pretend.
fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[expect(clippy::cast_precision_loss, reason = "more than 2^53 of anything is not counted here")]
pub(super) fn float(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::Address;

    fn usage(cpu_ms: u64) -> Usage {
        Usage { cpu: Duration::from_millis(cpu_ms), resident_kib: 7, proportional_kib: 3 }
    }

    #[test]
    fn sums_rates_and_processor_time() {
        let mut plan = Plan::new(vec![Address::new(0, 1).unwrap()]);
        plan.pids = vec![17, 18];
        let mut tally = Tally::starting_at(0);
        for n in 0..3000 {
            tally.done(n % 3 == 0, 8, 1_000_000, n * 1_000_000);
        }
        let cost = Cost {
            elapsed: Duration::from_secs(3),
            before: vec![usage(5), usage(10), usage(20)],
            after: vec![usage(8), usage(13), usage(26)],
            drops: 0,
        };
        let report = report(&plan, &tally, &cost);
        assert_eq!((report.all.requests, report.all.iops), (3000, 1000.0));
        assert_eq!((report.reads.requests, report.writes.requests), (2000, 1000));
        assert!((report.all.mb_per_s - 4.096).abs() < 1e-9);
        assert_eq!(report.server_cpu_us_per_request, Some(3.0));
        assert_eq!(report.generator_cpu_us_per_request, Some(1.0));
        let [one, other] = &report.processes[..] else { panic!("{report:?}") };
        assert_eq!((one.pid, one.resident_kib, other.pid), (17, 7, 18));
        assert_eq!(report.requests_per_100_ms.iter().sum::<u64>(), 3000);
        assert_eq!(report.requests_per_100_ms.len(), 30);
        let p50 = report.all.latency_us.as_ref().unwrap().p50;
        assert!((p50 - 1000.0).abs() < 1e-9);
        assert!(report.is_clean());
    }

    #[test]
    fn nothing_is_not_clean() {
        let plan = Plan::new(vec![Address::new(0, 1).unwrap()]);
        let cost =
            Cost { elapsed: Duration::ZERO, before: Vec::new(), after: Vec::new(), drops: 0 };
        let report = report(&plan, &Tally::default(), &cost);
        assert_eq!((report.all.latency_us.is_none(), report.all.iops), (true, 0.0));
        assert_eq!(report.server_cpu_us_per_request, None);
        assert!(!report.is_clean());
    }
}
