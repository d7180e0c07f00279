//! `cowblade demo`: tells the story of [`crate::demo`] to somebody who sees it for the first time.

use clap::Args;

use super::output::{Table, print_json, print_line};
use crate::demo::{ClientReport, Event, Plan, Report, run as run_demo};
use crate::error::{ErrorKind, Exit, HostError, Result};
use crate::values::human_bytes;

/// `cowblade demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Number of clients
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub clients: u8,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Where a newcomer goes from here.
const NEXT: &str = "\
Next, on a real network, as root:
  cowblade serve golden.img -i eth0 --new-clients auto
and on a Linux client on the same segment:
  modprobe aoe && ls /dev/etherd
How machines boot from it: docs/BOOTING.md. Every command: cowblade help.";

pub(super) fn run(args: &DemoArgs) -> Result<Exit> {
    let plan = Plan { clients: args.clients, ..Plan::default() };
    if !args.json {
        print_line(&format!(
            "One golden image of {}, {} diskless machines, an Ethernet in memory, the real server.\n",
            human_bytes(plan.golden_bytes),
            plan.clients
        ))?;
    }
    let mut printed = Ok(());
    let ended = run_demo(&plan, &mut |event| {
        if let (Event::Shown(what), false, true) = (event, args.json, printed.is_ok()) {
            printed = print_line(&format!("  ok  {what}"));
        }
    });
    printed?;
    // One code for all: that something was promised and not kept, whatever it was.
    let report = ended.map_err(|cause| {
        HostError::new(ErrorKind::Io, "finish the demonstration")
            .detail("something did not hold that should have")
            .source(cause)
    })?;
    if args.json {
        print_json(&report)?;
    } else {
        print_line(&format!("\n{}\n\n{}\n\n{NEXT}", table(&report).render(), summary(&report)))?;
    }
    Ok(Exit::Success)
}

fn table(report: &Report) -> Table {
    let headings =
        ["client", "address", ">requests", ">read", ">written", ">overlay on disk", ">space saved"];
    let mut table = Table::new(&headings);
    for client in &report.clients {
        table.add([
            client.name.clone(),
            client.mac.to_string(),
            client.requests.to_string(),
            human_bytes(client.bytes_read),
            human_bytes(client.bytes_written),
            human_bytes(client.overlay_bytes),
            percent_saved(report.golden_bytes, client.overlay_bytes),
        ]);
    }
    let total = |of: fn(&ClientReport) -> u64| report.clients.iter().map(of).sum::<u64>();
    let overlays = total(|c| c.overlay_bytes);
    table.add([
        "all".to_owned(),
        String::new(),
        total(|c| c.requests).to_string(),
        human_bytes(total(|c| c.bytes_read)),
        human_bytes(total(|c| c.bytes_written)),
        human_bytes(overlays),
        percent_saved(copies_of(report), overlays),
    ]);
    table
}

fn summary(report: &Report) -> String {
    let overlays: u64 = report.clients.iter().map(|client| client.overlay_bytes).sum();
    format!(
        "{} full copies would take {}; the overlays take {}. Done in {}.{:01} s, nothing is left \
         behind.",
        report.clients.len(),
        human_bytes(copies_of(report)),
        human_bytes(overlays),
        report.elapsed_ms / 1000,
        report.elapsed_ms % 1000 / 100,
    )
}

/// Bytes that a full copy for each client would take.
fn copies_of(report: &Report) -> u64 {
    report.golden_bytes * report.clients.len() as u64
}

/// How much less than `full` bytes `used` is, rounded down.
fn percent_saved(full: u64, used: u64) -> String {
    let saved = full.saturating_sub(used);
    format!("{} %", saved.saturating_mul(100).checked_div(full).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::Mac;

    #[test]
    fn savings_are_never_overstated() {
        assert_eq!(percent_saved(1000, 9), "99 %");
        assert_eq!(percent_saved(1000, 1000), "0 %");
        assert_eq!(percent_saved(1000, 2000), "0 %");
        assert_eq!(percent_saved(0, 0), "0 %");
    }

    #[test]
    fn the_table_adds_up() {
        let client = |name: &str, mac, overlay_bytes| ClientReport {
            name: name.to_owned(),
            mac: Mac([2, 0, 0, 0, 0, mac]),
            requests: 10,
            bytes_read: 2048,
            bytes_written: 1024,
            overlay_bytes,
        };
        let report = Report {
            golden_bytes: 4 << 20,
            golden_sha256: String::new(),
            clients: vec![client("lab1", 1, 1 << 20), client("lab2", 2, 3 << 20)],
            shown: Vec::new(),
            elapsed_ms: 1290,
        };
        let text = table(&report).render();
        let words: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            words.last().unwrap().join(" "),
            "all 20 4.00 KiB 2.00 KiB 4.00 MiB 50 %",
            "{text}"
        );
        assert!(text.lines().nth(1).unwrap().ends_with("75 %"), "{text}");
        assert!(summary(&report).contains("take 8.00 MiB") && summary(&report).contains("1.2 s"));
    }
}
