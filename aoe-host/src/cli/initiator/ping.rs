//! `cowblade ping`: how long a question to a target takes.

use core::time::Duration;
use std::thread;
use std::time::Instant;

use aoe_proto::initiator::{Request, Timing};
use serde::Serialize;

use super::PingArgs;
use crate::cli::output::{print_json, print_line};
use crate::config::LinkKind;
use crate::error::{ErrorKind, Exit, Result};
use crate::initiator::Session;
use crate::link::{self, Room};

/// What came of all questions, as JSON shows it.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Summary {
    sent: u32,
    answered: u32,
    min_ms: Option<f64>,
    mean_ms: Option<f64>,
    max_ms: Option<f64>,
    /// In the order in which they were asked; `null` is lost.
    times_ms: Vec<Option<f64>>,
}

pub(in crate::cli) fn ping(args: &PingArgs) -> Result<Exit> {
    let mut link = link::open(LinkKind::Auto, &args.target.interface, Room::default())?;
    let timeout_ms = u64::try_from(args.target.timeout.as_millis()).unwrap_or(u64::MAX);
    // A question is asked once: a lost one must be seen as lost.
    let timing = Timing {
        retransmit_min_ms: timeout_ms,
        retransmit_first_ms: timeout_ms,
        retransmit_max_ms: timeout_ms,
        give_up_ms: timeout_ms,
    };
    let mut session = Session::with_timing(link.as_mut(), args.address, timing)?;
    let mut times = Vec::new();
    for n in 0..args.count {
        if n > 0 {
            thread::sleep(args.interval);
        }
        let time = ask_once(&mut session, args.ata)?;
        if !args.target.json {
            print_line(&match (time, session.target_mac()) {
                (Some(time), Some(mac)) => {
                    format!("{} at {mac}: {:.3} ms", args.address, millis(time))
                }
                _ => format!("{}: no answer", args.address),
            })?;
        }
        times.push(time);
    }
    let summary = summary_of(&times);
    if args.target.json {
        print_json(&summary)?;
    } else {
        print_line(&render(&summary))?;
    }
    Ok(if summary.answered == 0 { Exit::NotFound } else { Exit::Success })
}

/// How long one question took; `None` if it was lost.
fn ask_once(session: &mut Session<'_>, ata: bool) -> Result<Option<Duration>> {
    let start = Instant::now();
    let asked = if ata {
        session.identify().map(drop)
    } else {
        session.order("ask the target", Request::ConfigRead)
    };
    match asked {
        Ok(()) => Ok(Some(start.elapsed())),
        Err(error) if error.kind() == ErrorKind::Timeout => Ok(None),
        Err(error) => Err(error),
    }
}

fn summary_of(times: &[Option<Duration>]) -> Summary {
    let answered: Vec<f64> = times.iter().flatten().map(|time| millis(*time)).collect();
    let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
    let mean = answered.iter().sum::<f64>() / f64::from(count(answered.len()).max(1));
    Summary {
        sent: count(times.len()),
        answered: count(answered.len()),
        min_ms: answered.iter().copied().reduce(f64::min),
        mean_ms: (!answered.is_empty()).then_some(mean),
        max_ms: answered.iter().copied().reduce(f64::max),
        times_ms: times.iter().map(|time| time.map(millis)).collect(),
    }
}

fn render(summary: &Summary) -> String {
    let counts = format!("{} sent, {} answered", summary.sent, summary.answered);
    match (summary.min_ms, summary.mean_ms, summary.max_ms) {
        (Some(min), Some(mean), Some(max)) => {
            format!("{counts}; least {min:.3} ms, mean {mean:.3} ms, most {max:.3} ms")
        }
        _ => counts,
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_questions_count_but_do_not_bend_the_mean() {
        let times = [Some(Duration::from_millis(2)), None, Some(Duration::from_millis(4))];
        let summary = summary_of(&times);
        assert_eq!((summary.sent, summary.answered), (3, 2));
        assert_eq!(
            render(&summary),
            "3 sent, 2 answered; least 2.000 ms, mean 3.000 ms, most 4.000 ms"
        );
        assert_eq!(render(&summary_of(&[None])), "1 sent, 0 answered");
    }
}
