//! Targets that are broken on purpose, each in one way, and the case that has to notice.
//!
//! A [`Defect`] is our own target with one of three functions replaced: how it is configured, how
//! it serves a frame, and what it sends when it starts. Most defects let the honest target answer
//! and alter the answer ([`altered`]), or alter the request before the honest target sees it: write
//! down the mistake that a programmer would make, not the symptom that the case looks for.

mod disk;
mod ether;
mod lists;

use aoe_proto::TargetConfig;

use crate::world::{SERVER, Server};

/// A target that is wrong in one way.
pub(crate) struct Defect {
    /// What is wrong.
    pub(crate) name: &'static str,
    /// The case that has to fail.
    pub(crate) caught_by: &'static str,
    /// Changes the configuration.
    pub(crate) configure: fn(&mut TargetConfig),
    /// Serves a frame.
    pub(crate) serve: fn(&mut Server, &[u8]) -> Vec<Vec<u8>>,
    /// What it sends when it starts.
    pub(crate) start: fn(&mut Server) -> Vec<Vec<u8>>,
}

/// No defect.
pub(crate) const HONEST: Defect = Defect {
    name: "none",
    caught_by: "",
    configure: |_| {},
    serve: Server::honest,
    start: |server| server.advertisements(),
};

const fn defect(name: &'static str, caught_by: &'static str) -> Defect {
    Defect { name, caught_by, ..HONEST }
}

impl Defect {
    const fn serve(self, serve: fn(&mut Server, &[u8]) -> Vec<Vec<u8>>) -> Self {
        Self { serve, ..self }
    }

    const fn start(self, start: fn(&mut Server) -> Vec<Vec<u8>>) -> Self {
        Self { start, ..self }
    }
}

/// The honest answers, each altered.
fn altered(server: &mut Server, frame: &[u8], alter: impl Fn(&mut Vec<u8>)) -> Vec<Vec<u8>> {
    let mut answers = server.honest(frame);
    answers.iter_mut().for_each(alter);
    answers
}

/// The command of a request, and its first argument bytes, if it is long enough.
fn command(frame: &[u8]) -> Option<u8> {
    frame.get(19).copied()
}

fn opcode(frame: &[u8]) -> Option<u8> {
    frame.get(27).copied().filter(|_| command(frame) == Some(0))
}

fn is_ata(frame: &[u8]) -> bool {
    command(frame) == Some(0)
}

/// Nothing, if `drops`.
fn dropping(server: &mut Server, frame: &[u8], drops: bool) -> Vec<Vec<u8>> {
    if drops { Vec::new() } else { server.honest(frame) }
}

/// What the honest target does with another request, if `bends`.
fn bent(
    server: &mut Server,
    frame: &[u8],
    bends: bool,
    bend: impl Fn(&mut Vec<u8>),
) -> Vec<Vec<u8>> {
    let mut frame = frame.to_vec();
    if bends {
        bend(&mut frame);
    }
    server.honest(&frame)
}

/// The honest answers, altered if the request is one of those.
fn on_request(
    server: &mut Server,
    frame: &[u8],
    alters: bool,
    alter: impl Fn(&mut Vec<u8>),
) -> Vec<Vec<u8>> {
    altered(server, frame, |answer| {
        if alters {
            alter(answer);
        }
    })
}

/// Makes an answer an AoE error.
fn aoe_error(answer: &mut [u8], code: u8) {
    answer[14] |= 0x04;
    answer[15] = code;
}

/// Makes an ATA answer an AoE error 2, as vblade does.
fn bad_argument(answer: &mut [u8]) {
    aoe_error(answer, 2);
}

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static Defect> {
    [DEFECTS, ether::DEFECTS, lists::DEFECTS, disk::DEFECTS].into_iter().flatten()
}

const DEFECTS: &[Defect] = &[
    defect("answers for every shelf", "addressing.other.shelf").serve(|server, frame| {
        let mut frame = frame.to_vec();
        if frame.get(12..14) == Some(&[0x88, 0xa2]) && frame.len() > 17 {
            frame[16..18].copy_from_slice(&[0, 7]);
        }
        server.honest(&frame)
    }),
    defect("copies the wildcard into the answer", "addressing.wildcard.both").serve(
        |server, frame| {
            altered(server, frame, |answer| answer[16..19].copy_from_slice(&frame[16..19]))
        },
    ),
    defect("copies the request's flags into the answer", "flags.error").serve(|server, frame| {
        altered(server, frame, |answer| {
            answer[14] |= frame[14] & 0x0f;
            answer[15] = frame[15];
        })
    }),
    defect("serves answers, too", "flags.response").serve(|server, frame| {
        let mut frame = frame.to_vec();
        if let Some(flags) = frame.get_mut(14) {
            *flags &= !0x08;
        }
        server.honest(&frame)
    }),
    defect("serves every version", "version.two.not-executed").serve(|server, frame| {
        let mut honest = frame.to_vec();
        if let Some(version) = honest.get_mut(14) {
            *version = *version & 0x0f | 0x10;
        }
        altered(server, &honest, |answer| answer[14] = answer[14] & 0x0f | frame[14] & 0xf0)
    }),
    defect("has a buffer count of 1", "config.buffers").serve(|server, frame| {
        altered(server, frame, |answer| {
            if command(frame) == Some(1) {
                answer[24..26].copy_from_slice(&[0, 1]);
            }
        })
    }),
    defect("set overwrites", "config.set-if-empty.second").serve(|server, frame| {
        let mut frame = frame.to_vec();
        if command(&frame) == Some(1) && frame.get(29).is_some_and(|ccmd| ccmd & 15 == 3) {
            frame[29] = 4;
        }
        server.honest(&frame)
    }),
    defect("reads past the end as an AoE error", "edge.read.beyond").serve(|server, frame| {
        altered(server, frame, |answer| {
            if opcode(frame) == Some(0x24) && answer[25] == 0x10 {
                bad_argument(answer);
            }
        })
    }),
    defect("fills a cut write with old memory", "write.cut").serve(|server, frame| {
        let mut frame = frame.to_vec();
        if opcode(&frame) == Some(0x34) {
            let wanted = 36 + 512 * usize::from(frame[26]);
            let old = server.requests.last().cloned().unwrap_or_default();
            let missing = frame.len()..wanted.max(frame.len());
            frame.extend(missing.map(|at| old.get(at).copied().unwrap_or(0)));
        }
        server.honest(&frame)
    }),
    defect("ignores the mask", "mask.silence").serve(|server, frame| {
        let answers = server.honest(frame);
        if answers.is_empty() && frame.get(6..12) != Some(&SERVER.0) {
            let state = server.target.state().clone();
            server.target.state_mut().clear_mask();
            let answers = server.honest(frame);
            server.target.restore(state);
            return answers;
        }
        answers
    }),
    defect("overwrites the second of three members", "mask.add-delete").serve(|server, frame| {
        let answers = server.honest(frame);
        let [_, second, _] = *server.target.state().mask() else { return answers };
        if command(frame) == Some(2) {
            let delete = [&frame[..24], &[0, 1, 0, 1, 0, 2], &second.0].concat();
            server.honest(&delete);
        }
        answers
    }),
    defect("ends at a deletion", "mask.delete")
        .serve(|server, frame| {
            if command(frame) == Some(2) && frame.get(25) == Some(&1) && frame.get(29) == Some(&2) {
                server.dead = true;
                return Vec::new();
            }
            server.honest(frame)
        })
        .start(|server| {
            // Its list is in memory only.
            server.target.state_mut().clear_mask();
            server.advertisements()
        }),
    defect("lets nobody release", "reserve.set-release").serve(|server, frame| {
        let answers = server.honest(frame);
        if command(frame) == Some(3) && frame.get(24..26) == Some(&[1, 0]) {
            let mut refused = frame.to_vec();
            refused[24] = 0;
            return altered(server, &refused, |answer| {
                answer[14] |= 4;
                answer[15] = 6;
            });
        }
        answers
    }),
    defect("executes overlapping writes in any order", "ordering.write-write").serve(
        |server, frame| {
            let last = server.requests.last().cloned().unwrap_or_default();
            let answers = server.honest(frame);
            let write = |frame: &[u8]| opcode(frame) == Some(0x34);
            if write(frame) && write(&last) && last.get(28..34) == frame.get(28..34) {
                server.honest(&last);
            }
            answers
        },
    ),
    defect("advertises version 0", "advertisement.version").start(|server| {
        let mut frames = server.advertisements();
        for frame in &mut frames {
            frame[14] &= 0x0f;
        }
        frames
    }),
    defect("does not look at VLAN tags", "vlan.foreign").serve(|server, frame| {
        let mut frame = frame.to_vec();
        if frame.get(12..14) == Some(&[0x81, 0]) {
            frame.drain(12..16);
        }
        server.honest(&frame)
    }),
    defect("drops what it has answered already", "retransmission.same-tag").serve(
        |server, frame| {
            if server.requests.iter().any(|earlier| earlier == frame) {
                return Vec::new();
            }
            server.honest(frame)
        },
    ),
];
