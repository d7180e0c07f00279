//! `cowblade conform --clients`: how real clients would fare with a target.

use aoe_proto::profiles::Client;

use super::ConformArgs;
use super::run::{Ready, check_output, is_put_back, prepare, show, tell};
use crate::cli::output::{Table, count_bar};
use crate::conform::{
    ClientsReport, Commands, Sides, client_text, clients_junit, play_clients, reasons_text,
};
use crate::error::{Exit, Result};
use crate::signals::Signals;

pub(super) fn run(args: &ConformArgs) -> Result<Exit> {
    check_output(&args.output)?;
    let mut signals = Signals::install()?;
    let mut interrupted = || signals.take().drain;
    let Some(ready) = prepare(args, &mut interrupted)? else { return Ok(Exit::Failure) };
    let Ready { mut wire, mut journal, config, mtu, .. } = ready;
    let mut nobody = Commands::new(Vec::new(), config.address, mtu, args.timing.action_time);
    let patience_ms = u64::try_from(args.timing.client_time.as_millis()).unwrap_or(u64::MAX);
    let bar = count_bar(Client::ALL.len(), true);
    let report = play_clients(
        &config,
        patience_ms,
        &mut Sides {
            wire: &mut wire,
            stage: &mut nobody,
            ledger: &mut journal,
            watcher: &mut |progress| show(&bar, config.address, progress),
            interrupted: &mut interrupted,
        },
    );
    bar.finish_and_clear();
    let report = report?;
    let (strict, verbose) = (args.output.strict, args.output.verbose);
    let text = || render(&report, strict, verbose);
    tell(&report, &args.output, || clients_junit(&report, strict), text)?;
    is_put_back(config.address, &journal)?;
    Ok(match &report {
        report if report.interrupted => Exit::Failure,
        report if report.all_usable(strict) => Exit::Success,
        _ => Exit::Problems,
    })
}

/// A table: client and verdict; then, of every client that fails, or with `verbose` of every one,
/// the reasons and the frames behind them.
fn render(report: &ClientsReport, strict: bool, verbose: bool) -> String {
    let headings = ["client", "verdict", ">requests", ">again", ">sectors", ">window", "restored"];
    let mut table = Table::new(&headings);
    for client in &report.clients {
        let restored = client.restored.map_or("", |well| if well { "yes" } else { "NO" });
        table.add([
            client.name.to_owned(),
            client.verdict.to_owned(),
            client.requests.to_string(),
            client.retransmissions.to_string(),
            client.sectors_max.to_string(),
            client.window.to_string(),
            restored.to_owned(),
        ]);
    }
    let writes = match report.window {
        Some((lba, sectors)) => format!("writes inside {lba}+{sectors}"),
        None => "no writes: --write-window permits them".to_owned(),
    };
    let head = format!("{}, MTU {}; {writes}\n\n{}", report.address, report.mtu, table.render());
    let reasons = report.clients.iter().filter_map(|client| {
        let told = if verbose || !client.is_usable(strict) {
            client_text(client)
        } else {
            reasons_text(client)
        };
        (!told.is_empty()).then(|| format!("{}\n{}", client.name, told.trim_end()))
    });
    let warnings = report.warnings.iter().map(|warning| format!("warning: {warning}"));
    let ended = report.interrupted.then(|| "interrupted".to_owned());
    let parts = core::iter::once(head).chain(reasons).chain(warnings).chain(ended);
    parts.collect::<Vec<_>>().join("\n\n")
}
