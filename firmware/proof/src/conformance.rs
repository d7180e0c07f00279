//! Drives the conformance harness with answers that the optimiser cannot know.

use core::fmt::{self, Write as _};
use core::hint::black_box;

use crate::stack::Depth;
use aoe_proto::conformance::{
    Event, Memory, Needs, Originals, Outcome, Restore, RestoreEvent, RunConfig, Runner, Selection,
    Window, fields,
};
use aoe_proto::{Address, Mac};

/// Stack of one call of the runner.
pub static RUNNER: Depth = Depth::new();

/// Bytes of a frame at MTU 1500.
const FRAME: usize = Memory::frame_len(1500);
/// Calls of `poll`: enough for the prologue and some cases, all of them silent or odd.
const TURNS: usize = 4000;

/// Counts characters.
struct Counter(usize);

impl fmt::Write for Counter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = self.0.wrapping_add(text.len());
        Ok(())
    }
}

fn show(text: &mut Counter, arguments: fmt::Arguments<'_>) {
    if text.write_fmt(arguments).is_err() {
        text.0 = 0;
    }
}

/// Runs the cases against an echo. True if the runner came to verdicts.
pub fn run() -> bool {
    let Some(address) = Address::new(black_box(7), black_box(3)) else { return false };
    let mut config = RunConfig::new(address, Mac(black_box([2, 0, 0, 0, 0, 1])), 1500);
    config.second_mac = Some(Mac(black_box([2, 0, 0, 0, 0, 2])));
    config.window = Some(Window { lba: black_box(0), sectors: black_box(2) });
    let mut buffers = [[0_u8; FRAME]; 4];
    let mut window = [0_u8; 1024];
    let mut originals = Originals::new();
    let mut journal = [0_u8; 4096];
    let [frame, sent, received, kept] = &mut buffers;
    let memory =
        Memory { frame, sent, received, kept, window: &mut window, originals: &mut originals };
    let selection =
        Selection { ids: black_box(&["*"]), permitted: Needs::ALL, ..Selection::default() };
    let Ok(mut runner) = Runner::new(config, selection, memory) else { return false };
    let (verdicts, len) = drive(&mut runner, &mut journal);
    let mut frame = [0_u8; FRAME];
    let restored = undo(config, journal.get(..len).unwrap_or_default(), &mut frame);
    verdicts > 0 && restored
}

/// Answers every frame with itself, as an answer; tells how many verdicts came, and how long the
/// journal is.
fn drive(runner: &mut Runner<'_>, journal: &mut [u8]) -> (usize, usize) {
    let mut answer = [0_u8; FRAME];
    let (mut now, mut verdicts, mut len, mut text) = (0, 0_usize, 0_usize, Counter(0));
    for turn in 0..TURNS {
        let mut answered = 0;
        let mut acted = false;
        match RUNNER.of(|| runner.poll(now)) {
            Event::Send(outgoing) => {
                answered = echo(outgoing.frame, &mut answer, turn);
            }
            Event::Wait { until_ms } => now = until_ms,
            Event::Record(record) => {
                let rest = journal.get_mut(len..).unwrap_or_default();
                len = len.wrapping_add(record.encode(rest).unwrap_or(0));
            }
            Event::Act(_) => acted = true,
            Event::Started { case, .. } => show(&mut text, format_args!("{}", case.severity)),
            Event::Verdict(verdict) => {
                verdicts = verdicts.wrapping_add(1);
                match verdict.outcome {
                    Outcome::Failed(failure) => show(&mut text, format_args!("{failure}")),
                    Outcome::Skipped(why) => show(&mut text, format_args!("{why}")),
                    Outcome::Passed => {}
                }
                let received = verdict.evidence.map_or(&[][..], |evidence| evidence.received);
                black_box(fields(received).count());
            }
            Event::Done(_) => break,
        }
        if answered > 0 {
            let frame = answer.get(..answered).unwrap_or_default();
            RUNNER.of(|| runner.received(frame, black_box(None), now));
        }
        if acted {
            RUNNER.of(|| runner.acted(black_box(turn % 2 == 0), now));
        }
    }
    black_box(text.0);
    (verdicts, len)
}

/// The frame with its addresses exchanged and the R flag set, and what nobody can know behind it.
fn echo(frame: &[u8], answer: &mut [u8; FRAME], turn: usize) -> usize {
    for (to, from) in answer.iter_mut().zip(frame) {
        *to = *from;
    }
    let [d0, d1, d2, d3, d4, d5, rest @ ..] = answer;
    for (to, from) in [d0, d1, d2, d3, d4, d5].into_iter().zip([2, 0, 0, 0, 0, 9_u8]) {
        *to = from;
    }
    let [s0, s1, s2, s3, s4, s5, _, _, flags, _, _, _, _, _, _, _, _, _, body @ ..] = rest;
    for (to, from) in [s0, s1, s2, s3, s4, s5].into_iter().zip([2, 0, 0, 0, 0, 7_u8]) {
        *to = from;
    }
    *flags |= 8;
    for (at, byte) in body.iter_mut().enumerate() {
        *byte ^= black_box(if at % 64 == turn % 64 { 1 } else { 0 });
    }
    if turn % 7 == 0 { FRAME } else { frame.len() }
}

fn undo(config: RunConfig, journal: &[u8], frame: &mut [u8]) -> bool {
    let Ok(mut restore) = Restore::new(config, black_box(journal), frame) else { return true };
    let mut answer = [0_u8; FRAME];
    let mut now = 0;
    for turn in 0..TURNS {
        let mut answered = 0;
        match RUNNER.of(|| restore.poll(now)) {
            RestoreEvent::Send { frame, .. } => answered = echo(frame, &mut answer, turn),
            RestoreEvent::Wait { until_ms } => now = until_ms,
            RestoreEvent::Result(..) => {}
            RestoreEvent::Done(_) => return true,
        }
        if answered > 0 {
            let frame = answer.get(..answered).unwrap_or_default();
            RUNNER.of(|| restore.received(frame, black_box(None)));
        }
    }
    false
}
