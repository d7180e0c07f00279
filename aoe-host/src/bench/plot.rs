//! The result for people: numbers, and pictures made of letters.

use core::fmt::Write;

use super::report::{Latency, Moved, Report, float};

/// Width of the longest bar.
const BAR_LEN: u64 = 50;
/// Most lines of a picture.
const LINES_MAX: usize = 24;

impl Report {
    /// Everything, with pictures of the latencies and of the course over time.
    pub fn render(&self) -> String {
        let mut text = self.heading();
        text.push_str("\n\n");
        text.push_str(&self.table());
        text.push_str(&self.losses());
        text.push_str(&self.processor_time());
        text.push_str(&self.verification());
        text.push_str("\nlatency in µs up to, and requests\n");
        text.push_str(&self.latencies());
        text.push_str("\nrequests per second over time in s\n");
        text.push_str(&self.course());
        text.truncate(text.trim_end().len());
        text
    }

    fn heading(&self) -> String {
        let load = &self.workload;
        let what = match load.write_percent {
            0 => "reads".to_owned(),
            100 => "writes".to_owned(),
            percent => format!("reads, {percent} % writes"),
        };
        let targets = match &load.targets[..] {
            [one] => one.clone(),
            [first, .., last] => format!("{} targets {first} to {last}", load.targets.len()),
            [] => String::new(),
        };
        let clients = if load.clients == 1 { "client" } else { "clients" };
        let lowered = if load.depth_used < load.depth {
            format!(" (asked for {}; the target queues no more)", load.depth)
        } else {
            String::new()
        };
        format!(
            "{targets} on {}: {} {what} of {} sectors, {} {clients}, depth {}{lowered}, {:.2} s",
            self.interface, load.order, load.sectors, load.clients, load.depth_used, self.seconds
        )
    }

    fn table(&self) -> String {
        let mut text = format!(
            "{:<7}{:>10}{:>11}{:>9}{:>10}{:>10}{:>10}{:>10}{:>10}\n",
            "", "requests", "IOPS", "MB/s", "p50 [µs]", "p90", "p99", "p99.9", "max"
        );
        let both = self.reads.requests > 0 && self.writes.requests > 0;
        for (name, moved) in [("reads", &self.reads), ("writes", &self.writes), ("all", &self.all)]
        {
            if moved.requests > 0 && (both || name != "all") {
                text.push_str(&row(name, moved));
            }
        }
        text
    }

    fn losses(&self) -> String {
        let counts = [
            ("sent again", self.retransmitted),
            ("lost", self.lost),
            ("failed", self.failed),
            ("late answers", self.late_answers),
            ("stray frames", self.stray_frames),
            ("receive drops", self.receive_drops),
            ("send failures", self.send_failures),
        ];
        let words: Vec<_> = counts
            .iter()
            .filter(|(name, count)| *count > 0 || *name == "sent again" || *name == "lost")
            .map(|(name, count)| format!("{count} {name}"))
            .collect();
        format!("{}\n", words.join(", "))
    }

    fn processor_time(&self) -> String {
        let mut text = String::new();
        if let Some(time) = self.server_cpu_us_per_request {
            let resident: u64 = self.processes.iter().map(|process| process.resident_kib).sum();
            let shared: u64 = self.processes.iter().map(|process| process.proportional_kib).sum();
            let count = self.processes.len();
            let _infallible = writeln!(
                text,
                "server: {time:.3} µs of processor time per request; {count} processes, {} MiB \
                 resident, {} MiB with shared pages divided",
                resident / 1024,
                shared / 1024
            );
        }
        if let Some(time) = self.generator_cpu_us_per_request {
            let _infallible =
                writeln!(text, "this program: {time:.3} µs of processor time per request");
        }
        text
    }

    fn verification(&self) -> String {
        let Some(verified) = &self.verified else { return String::new() };
        let mut text = format!(
            "verified: {} sectors compared, {} wrong",
            verified.checked_sectors, verified.wrong_sectors
        );
        if verified.unverifiable_sectors > 0 {
            let _infallible = write!(
                text,
                ", {} cannot be judged (a write failed or was sent twice)",
                verified.unverifiable_sectors
            );
        }
        text.push('\n');
        for finding in &verified.findings {
            let _infallible = writeln!(text, "  {finding}");
        }
        text
    }

    fn latencies(&self) -> String {
        let mut ranges = self.latency_ranges_us.clone();
        while ranges.len() > LINES_MAX {
            let pair = |pair: &[(f64, u64)]| {
                let end = pair.last().map_or(0.0, |range| range.0);
                (end, pair.iter().map(|range| range.1).sum())
            };
            ranges = ranges.chunks(2).map(pair).collect();
        }
        let most = ranges.iter().map(|range| range.1).max().unwrap_or(0);
        let line =
            |(end, count): &(f64, u64)| format!("{end:>12.1} {count:>10} {}\n", bar(*count, most));
        ranges.iter().map(line).collect()
    }

    fn course(&self) -> String {
        // The last step may be a part of one only.
        let steps = self.requests_per_100_ms.len().max(1);
        let group = steps.div_ceil(LINES_MAX);
        let seconds = Self::step_seconds();
        let sums: Vec<(usize, u64)> = self
            .requests_per_100_ms
            .chunks(group)
            .map(|chunk| (chunk.len(), chunk.iter().sum()))
            .collect();
        let rate = |(len, sum): &(usize, u64)| *sum / (*len).max(1) as u64;
        let most = sums.iter().map(rate).max().unwrap_or(0);
        let mut text = String::new();
        for (at, sum) in sums.iter().enumerate() {
            let from = float((at * group) as u64) * seconds;
            let per_second = float(rate(sum)) / seconds;
            let _infallible =
                writeln!(text, "{from:>12.1} {per_second:>10.0} {}", bar(rate(sum), most));
        }
        text
    }
}

fn row(name: &str, moved: &Moved) -> String {
    let mut text =
        format!("{name:<7}{:>10}{:>11.0}{:>9.1}", moved.requests, moved.iops, moved.mb_per_s);
    if let Some(Latency { p50, p90, p99, p999, max, .. }) = &moved.latency_us {
        for time in [p50, p90, p99, p999, max] {
            let _infallible = write!(text, "{time:>10.1}");
        }
    }
    text.push('\n');
    text
}

/// A bar for `count`, of full length for `most`; what is not nothing is seen.
fn bar(count: u64, most: u64) -> String {
    let len = (count * BAR_LEN).checked_div(most).unwrap_or(0).max(u64::from(count > 0));
    "#".repeat(usize::try_from(len).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Verified, Workload};

    #[test]
    fn bars() {
        assert_eq!((bar(0, 10), bar(1, 1000)), (String::new(), "#".to_owned()));
        assert_eq!((bar(5, 10).len(), bar(10, 10).len(), bar(0, 0).len()), (25, 50, 0));
    }

    #[test]
    fn a_report_reads_like_this() {
        let latency =
            Latency { min: 1.0, mean: 2.0, p50: 2.5, p90: 3.0, p99: 4.0, p999: 5.0, max: 6.0 };
        let moved = Moved { requests: 30, iops: 100.0, mb_per_s: 0.4, latency_us: Some(latency) };
        let report = Report {
            interface: "eth0".to_owned(),
            workload: Workload {
                targets: vec!["e0.0".to_owned(), "e0.1".to_owned()],
                clients: 1,
                order: "random",
                sectors: 8,
                depth: 64,
                depth_used: 16,
                ..Workload::default()
            },
            seconds: 0.3,
            all: moved.clone(),
            reads: moved,
            lost: 1,
            late_answers: 2,
            server_cpu_us_per_request: Some(1.25),
            verified: Some(Verified {
                checked_sectors: 240,
                wrong_sectors: 1,
                unverifiable_sectors: 0,
                findings: vec!["e0.0, sector 3: holds zeros".to_owned()],
            }),
            requests_per_100_ms: vec![20, 10],
            latency_ranges_us: vec![(2.0, 10), (4.0, 20)],
            ..Report::default()
        };
        let text = report.render();
        let expected = "\
2 targets e0.0 to e0.1 on eth0: random reads of 8 sectors, 1 client, depth 16 (asked for 64; the \
target queues no more), 0.30 s

         requests       IOPS     MB/s  p50 [µs]       p90       p99     p99.9       max
reads          30        100      0.4       2.5       3.0       4.0       5.0       6.0
0 sent again, 1 lost, 2 late answers
server: 1.250 µs of processor time per request; 0 processes, 0 MiB resident, 0 MiB with shared \
pages divided
verified: 240 sectors compared, 1 wrong
  e0.0, sector 3: holds zeros

latency in µs up to, and requests
         2.0         10 #########################
         4.0         20 ##################################################

requests per second over time in s
         0.0        200 ##################################################
         0.1        100 #########################";
        assert_eq!(text, expected);
    }
}
