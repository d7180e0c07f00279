//! Calls every entry point of the cores with inputs that the optimiser cannot know.

use core::hint::black_box;

use crate::stack::Depth;
use crate::{chains, conformance, profiles};
use aoe_proto::watch::{Captured, Memory, Watch, WatchConfig};
use aoe_proto::{Action, Address, AtaError, Incoming, LinkLimits, Mac, Target, TargetConfig};
/// Stack of one request through codec and target.
pub static CODEC: Depth = Depth::new();

/// Runs everything once. The status is 0 if the known frames and reads were answered.
pub fn run() -> u8 {
    let mut frame = [0_u8; 128];
    let identified = codec(black_box(&mut frame));
    let heard = listen(&mut frame);
    let served = chains::run();
    let judged = conformance::run();
    let replayed = profiles::run();
    u8::from(!(identified && heard && served && judged && replayed))
}

/// The IDENTIFY request that `frame` holds, then whatever else it may hold, past a listener.
fn listen(frame: &mut [u8; 128]) -> bool {
    let (mut exchanges, mut repeats) = ([Default::default(); 8], [Default::default(); 8]);
    let (mut targets, mut initiators) = ([Default::default(); 1], [Default::default(); 1]);
    let memory = Memory {
        exchanges: &mut exchanges,
        repeats: &mut repeats,
        targets: &mut targets,
        initiators: &mut initiators,
    };
    // The memory is the caller's choice and does not count.
    CODEC.of(|| hear(black_box(memory), black_box(frame)))
}

#[inline(never)]
fn hear(memory: Memory<'_>, frame: &mut [u8; 128]) -> bool {
    let config = WatchConfig { mtu: black_box(Some(1500)), ..WatchConfig::default() };
    let mut watch = Watch::new(config, memory);
    let asked = watch.observe(&Captured::whole(black_box(1), black_box(frame)));
    for byte in black_box(&mut *frame).iter_mut().skip(14) {
        *byte = black_box(*byte ^ 0x08);
    }
    let answered = watch.observe(&Captured {
        at_ns: black_box(2),
        frame: black_box(frame),
        wire_len: black_box(1000),
        vlan: black_box(0),
    });
    black_box((asked.findings.gravest(), answered.findings.left_out()));
    black_box(watch.poll(black_box(u64::MAX)));
    for target in watch.targets() {
        let quantile = target.traffic().latency.quantile_ns(black_box(999));
        black_box((quantile, target.answerers().count()));
    }
    watch.initiators().count() == 1
}

/// An IDENTIFY request through the codec and a target; then whatever `frame` holds.
fn codec(frame: &mut [u8; 128]) -> bool {
    let own = Mac([2, 0, 0, 0, 0, 1]);
    let Some(address) = Address::new(black_box(7), black_box(3)) else { return false };
    let Ok(mut target) = Target::new(TargetConfig::new(address, black_box(2048))) else {
        return false;
    };
    let Some(limits) = LinkLimits::for_mtu(black_box(1500)) else { return false };
    let mut answer = [0_u8; 2048];
    let unknown = CODEC.of(|| handle(&mut target, frame, own, limits, &mut answer));
    let identify = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 2, 0x88, 0xa2, 0x10, 0, 0, 7, 3, 0, 1,
        2, 3, 4, 0, 0, 1, 0xec,
    ];
    for (to, from) in frame.iter_mut().zip(identify) {
        *to = from;
    }
    let identified = CODEC.of(|| handle(&mut target, black_box(frame), own, limits, &mut answer));
    unknown == 0 && identified > 512
}

#[inline(never)]
fn handle(
    target: &mut Target,
    frame: &[u8],
    own: Mac,
    limits: LinkLimits,
    answer: &mut [u8],
) -> usize {
    let Ok(request) = Incoming::parse(frame, own) else { return 0 };
    let emitted = match target.handle(&request, limits) {
        Action::Ignore(_) => Ok(0),
        Action::Reply(reply) => target.emit(&reply, answer),
        Action::Read { reply, .. } | Action::Verify { reply, .. } => reply.emit_ok(answer),
        Action::Write { reply, .. } | Action::Flush { reply } => {
            reply.emit_error(answer, AtaError::WriteFault, black_box(1))
        }
        Action::Discard { ranges, reply } => {
            black_box(ranges.count());
            reply.emit_ok(answer)
        }
    };
    emitted.unwrap_or(0)
}
