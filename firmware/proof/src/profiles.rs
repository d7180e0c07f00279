//! Drives every client profile with answers that the optimiser cannot know.

use core::hint::black_box;

use crate::stack::Depth;
use aoe_proto::conformance::Window;
use aoe_proto::profiles::{Actor, ActorConfig, Client, Event, Memory, Slot};
use aoe_proto::{Address, Mac};

/// Stack of one call of an actor.
pub static ACTOR: Depth = Depth::new();

/// Bytes of a frame at MTU 1500.
const FRAME: usize = Memory::frame_len(1500);
/// Calls of `poll`: enough for any script, all answers odd.
const TURNS: usize = 2000;

/// Runs all clients against an echo. True if each came to its end.
pub fn run() -> bool {
    Client::ALL.iter().all(|client| drive(black_box(*client)))
}

fn drive(client: Client) -> bool {
    let Some(address) = Address::new(black_box(7), black_box(3)) else { return false };
    let own = Mac(black_box([2, 0, 0, 0, 0, 1]));
    let mut config = ActorConfig::new(address, own, 1500);
    config.window = Some(Window { lba: black_box(0), sectors: black_box(2) });
    config.patience_ms = black_box(50);
    let mut buffers = [[0_u8; FRAME]; 4];
    let mut window = [0_u8; 1024];
    let mut slots = [Slot::default(); 8];
    let [frame, sent, received, dropped] = &mut buffers;
    let memory = Memory { frame, sent, received, dropped, window: &mut window, slots: &mut slots };
    let Ok(mut actor) = Actor::new(client, config, memory) else { return false };
    let mut answer = [0_u8; FRAME];
    let mut now = 0;
    for turn in 0..TURNS {
        let answered = match ACTOR.of(|| actor.poll(now)) {
            Event::Send(frame) => echo(frame, &mut answer, turn),
            Event::Wait(until) => {
                now = until;
                0
            }
            Event::Done(report) => {
                black_box((report.level, report.causes().len()));
                return black_box(actor.evidence()).sent.len() <= FRAME;
            }
            _ => 0,
        };
        let frame = black_box(answer.get(..answered).unwrap_or_default());
        ACTOR.of(|| actor.received(frame, now));
    }
    false
}

/// Makes an answer of a request: from the machine it went to, with a success in its registers, and
/// one byte that depends on the turn.
fn echo(frame: &[u8], answer: &mut [u8; FRAME], turn: usize) -> usize {
    for (to, from) in answer.iter_mut().zip(frame) {
        *to = *from;
    }
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, _, _, flags, ..] = answer;
    (*d0, *d1, *d2, *d3, *d4, *d5) = (*s0, *s1, *s2, *s3, *s4, *s5);
    (*s0, *s1, *s2, *s3, *s4, *s5) = (2, 0, 0, 0, 0, 9);
    *flags |= 0x08;
    if let Some(byte) = answer.get_mut(black_box(turn % 64)) {
        *byte = black_box(*byte ^ 0x40);
    }
    black_box(FRAME)
}
