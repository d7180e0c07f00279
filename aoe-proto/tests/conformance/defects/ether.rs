//! Defects about addresses, headers, flags, padding, VLANs, cut frames and retransmission.

use aoe_proto::Mac;

use super::{Defect, altered, command, defect, dropping, is_ata, on_request, opcode};
use crate::world::{OWN, SERVER, Server};

const SHELF: [u8; 2] = [0, 7];
const SLOT: u8 = 3;

fn is_exact(frame: &[u8]) -> bool {
    frame.get(16..19) == Some(&[SHELF[0], SHELF[1], SLOT])
}

fn to_all(frame: &[u8]) -> bool {
    frame.get(..6) == Some(&Mac::BROADCAST.0)
}

fn is_write(frame: &[u8]) -> bool {
    matches!(opcode(frame), Some(0x30 | 0x34))
}

fn is_query(frame: &[u8]) -> bool {
    command(frame) == Some(1) && frame.get(29).is_some_and(|ccmd| matches!(ccmd & 15, 0))
}

/// The request as if it had come to us from an honest initiator.
fn tolerant(server: &mut Server, frame: &[u8], bend: impl Fn(&mut Vec<u8>)) -> Vec<Vec<u8>> {
    let mut frame = frame.to_vec();
    bend(&mut frame);
    server.honest(&frame)
}

/// Fills what a short frame lacks with what was in the buffer before.
fn with_old_memory(server: &mut Server, frame: &[u8], len: usize) -> Vec<Vec<u8>> {
    let old = server.requests.last().cloned().unwrap_or_default();
    let mut whole = frame.to_vec();
    let missing = frame.len()..len.max(frame.len());
    whole.extend(missing.map(|at| old.get(at).copied().unwrap_or(0)));
    server.honest(&whole)
}

fn twice(mut answers: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    answers.extend(answers.clone());
    answers
}

pub(super) const DEFECTS: &[Defect] = &[
    defect("answers from another slot", "addressing.exact")
        .serve(|server, frame| altered(server, frame, |answer| answer[18] ^= 0x40)),
    defect("does not know the wildcard slot", "addressing.wildcard.slot").serve(|server, frame| {
        dropping(server, frame, frame.get(16..19) == Some(&[SHELF[0], SHELF[1], 0xff]))
    }),
    defect("does not know the wildcard shelf", "addressing.wildcard.shelf").serve(
        |server, frame| dropping(server, frame, frame.get(16..19) == Some(&[0xff, 0xff, SLOT])),
    ),
    defect("answers for every slot", "addressing.other.slot").serve(|server, frame| {
        tolerant(server, frame, |frame| {
            if frame.len() > 18 && frame[12..14] == [0x88, 0xa2] {
                frame[18] = SLOT;
            }
        })
    }),
    defect("answers broadcasts to everybody", "addressing.source.broadcast").serve(
        |server, frame| {
            if frame.get(6..12) != Some(&Mac::BROADCAST.0) {
                return server.honest(frame);
            }
            let mut honest = frame.to_vec();
            honest[6..12].copy_from_slice(&OWN.0);
            altered(server, &honest, |answer| answer[..6].fill(0xff))
        },
    ),
    defect("answers wildcard queries only", "addressing.wildcard.identify").serve(
        |server, frame| dropping(server, frame, command(frame) == Some(0) && !is_exact(frame)),
    ),
    defect("lets one wildcard excuse the other half", "addressing.wildcard.half-wrong").serve(
        |server, frame| {
            tolerant(server, frame, |frame| {
                if frame.len() > 18 && frame[16..18] == [0xff, 0xff] {
                    frame[18] = SLOT;
                } else if frame.get(18) == Some(&0xff) {
                    frame[16..18].copy_from_slice(&SHELF);
                }
            })
        },
    ),
    defect("hears broadcasts to everybody's shelf only", "addressing.broadcast-mac.exact").serve(
        |server, frame| {
            // Not from the first moment on: the harness finds its target so.
            let late = server.requests.len() > 12;
            dropping(server, frame, late && to_all(frame) && is_exact(frame))
        },
    ),
    defect("hears no ATA command by broadcast", "addressing.broadcast-mac.identify").serve(
        |server, frame| dropping(server, frame, is_ata(frame) && to_all(frame) && is_exact(frame)),
    ),
    defect("answers wildcard reads of its string only", "addressing.wildcard.test").serve(
        |server, frame| {
            let tests = frame.get(29).is_some_and(|ccmd| matches!(ccmd & 15, 1 | 2));
            dropping(server, frame, command(frame) == Some(1) && tests && !is_exact(frame))
        },
    ),
    defect("ends when an answer no longer fits", "mtu.lowered.read").serve(|server, frame| {
        let sectors = frame.get(26).copied().map_or(0, usize::from);
        let len = 36 + 512 * sectors;
        let fits = |frame_len: usize| len <= frame_len;
        let reads = matches!(opcode(frame), Some(0x20 | 0x24));
        server.dead |= reads && fits(server.mtu + 14) && !fits(server.link.frame_len_max());
        dropping(server, frame, server.dead)
    }),
    defect("calls itself shelf 65535", "addressing.own-is-no-wildcard").serve(|server, frame| {
        altered(server, frame, |answer| answer[16..18].copy_from_slice(&[0xff, 0xff]))
    }),
    defect("writes what is meant for others", "addressing.other-host.write").serve(
        |server, frame| {
            let foreign = is_write(frame) && !to_all(frame) && frame.get(..6) != Some(&SERVER.0);
            let answers = tolerant(server, frame, |frame| {
                if foreign {
                    frame[..6].copy_from_slice(&SERVER.0);
                }
            });
            if foreign { Vec::new() } else { answers }
        },
    ),
    defect("swaps the addresses of a broadcast", "addressing.answer.source").serve(
        |server, frame| {
            altered(server, frame, |answer| {
                if to_all(frame) {
                    answer[6..12].fill(0xff);
                }
            })
        },
    ),
    defect("sets a reserved flag", "header.flags")
        .serve(|server, frame| altered(server, frame, |answer| answer[14] |= 0x01)),
    defect("answers queries as command 0", "header.command").serve(|server, frame| {
        altered(server, frame, |answer| {
            if is_query(frame) {
                answer[19] = 0;
            }
        })
    }),
    defect("takes tag 0 for none", "header.tag")
        .serve(|server, frame| dropping(server, frame, frame.get(20..24) == Some(&[0; 4]))),
    defect("forgets the tag of a failure", "header.tag.error").serve(|server, frame| {
        altered(server, frame, |answer| {
            let failed = answer[14] & 4 != 0 || answer[19] == 0 && answer[27] & 1 != 0;
            if failed {
                answer[20..24].fill(0);
            }
        })
    }),
    defect("leaves its address out of lists", "header.address").serve(|server, frame| {
        altered(server, frame, |answer| {
            if matches!(command(frame), Some(2 | 3)) {
                answer[16..19].fill(0);
            }
        })
    }),
    defect("mistypes the Ethernet type of its direct answers", "header.ethertype").serve(
        |server, frame| {
            on_request(server, frame, is_query(frame) && !to_all(frame), |answer| answer[13] = 0xa3)
        },
    ),
    defect("executes config sets in answers", "flags.response.config-set").serve(
        |server, frame| {
            let looped = command(frame) == Some(1) && frame[14] & 8 != 0;
            let answers = tolerant(server, frame, |frame| {
                if looped {
                    frame[14] &= !8;
                }
            });
            if looped { Vec::new() } else { answers }
        },
    ),
    defect("executes writes in answers", "flags.response.write").serve(|server, frame| {
        let looped = is_write(frame) && frame[14] & 8 != 0;
        let answers = tolerant(server, frame, |frame| {
            if looped {
                frame[14] &= !8;
            }
        });
        if looped { Vec::new() } else { answers }
    }),
    defect("copies the E flag of ATA requests", "flags.error.ata").serve(|server, frame| {
        altered(server, frame, |answer| {
            if is_ata(frame) {
                answer[14] |= frame[14] & 4;
            }
        })
    }),
    defect("drops queries without padding", "padding.request.query")
        .serve(|server, frame| dropping(server, frame, is_query(frame) && frame.len() < 60)),
    defect("drops IDENTIFY without padding", "padding.request.identify")
        .serve(|server, frame| dropping(server, frame, is_ata(frame) && frame.len() < 60)),
    defect("drops queries with a tail", "padding.request.trailing")
        .serve(|server, frame| dropping(server, frame, is_query(frame) && frame.len() > 100)),
    defect("drops IDENTIFY in large frames", "padding.request.sancheck").serve(|server, frame| {
        dropping(server, frame, opcode(frame) == Some(0xec) && frame.len() > 500)
    }),
    defect("pads refusals with the request", "padding.leak.ata-error").serve(|server, frame| {
        altered(server, frame, |answer| {
            if is_ata(frame) && answer[27] & 1 != 0 && opcode(frame) == Some(0) {
                leak(answer, frame, 36);
            }
        })
    }),
    defect("pads refused reads with the request", "padding.zeros.refused-read").serve(
        |server, frame| {
            altered(server, frame, |answer| {
                if opcode(frame) == Some(0x24) && answer[27] & 1 != 0 {
                    leak(answer, frame, 36);
                }
            })
        },
    ),
    defect("pads config answers with the request", "padding.zeros.config").serve(
        |server, frame| {
            altered(server, frame, |answer| {
                if is_query(frame) {
                    leak(answer, frame, 32);
                }
            })
        },
    ),
    defect("answers writes with their data", "padding.zeros.write").serve(|server, frame| {
        altered(server, frame, |answer| {
            if is_write(frame) {
                leak(answer, frame, 36);
            }
        })
    }),
    defect("serves VLANs above 4000", "vlan.foreign.last")
        .serve(|server, frame| untagged_if(server, frame, |id, _| id > 4000)),
    defect("writes for every VLAN", "vlan.foreign.write").serve(|server, frame| {
        let answers = untagged_if(server, frame, |_, inner| inner.get(27) == Some(&0x34));
        if frame.get(12..14) == Some(&[0x81, 0]) { Vec::new() } else { answers }
    }),
    defect("answers queries twice", "retransmission.one-answer").serve(|server, frame| {
        let answers = server.honest(frame);
        if is_query(frame) { twice(answers) } else { answers }
    }),
    defect("answers reads twice", "retransmission.one-answer.read").serve(|server, frame| {
        let answers = server.honest(frame);
        if opcode(frame) == Some(0x24) { twice(answers) } else { answers }
    }),
    defect("answers broadcasts twice", "retransmission.one-answer.broadcast").serve(
        |server, frame| {
            let answers = server.honest(frame);
            if to_all(frame) { twice(answers) } else { answers }
        },
    ),
    defect("merges writes without answering both", "retransmission.new-tag").serve(
        |server, frame| {
            let same = |earlier: &Vec<u8>| {
                is_write(frame) && earlier.get(24..) == frame.get(24..) && earlier[..] != *frame
            };
            let repeated = server.requests.last().is_some_and(same);
            dropping(server, frame, repeated)
        },
    ),
    defect("drops repeated writes", "retransmission.write.same-tag").serve(|server, frame| {
        let repeated = is_write(frame) && server.requests.iter().any(|earlier| earlier == frame);
        dropping(server, frame, repeated)
    }),
    defect("refuses repeated edits", "retransmission.mask").serve(|server, frame| {
        let repeated = command(frame) == Some(2)
            && frame.get(25) == Some(&1)
            && server.requests.iter().any(|earlier| earlier == frame);
        altered(server, frame, |answer| {
            if repeated {
                answer[26] = 1;
            }
        })
    }),
    defect("ends at a cut header", "hostile.cut-header").serve(|server, frame| {
        server.dead |= frame.len() < 24;
        dropping(server, frame, server.dead)
    }),
    defect("fills cut arguments with old memory", "hostile.cut-argument").serve(|server, frame| {
        let len = if matches!(command(frame), Some(1..=3)) { 60 } else { frame.len() };
        with_old_memory(server, frame, len)
    }),
    defect("fills cut registers with old memory", "hostile.cut-ata").serve(|server, frame| {
        let cut = is_ata(frame) && frame.len() < 36;
        with_old_memory(server, frame, if cut { 60 } else { frame.len() })
    }),
    defect("writes old memory where there are no data", "hostile.cut-write").serve(
        |server, frame| {
            let bare = is_write(frame) && frame.len() == 36;
            with_old_memory(server, frame, if bare { 36 + 512 } else { frame.len() })
        },
    ),
    defect("changes its buffer count with every answer", "config.stable").serve(|server, frame| {
        let odd = server.requests.len() % 2 == 1;
        on_request(server, frame, is_query(frame) && odd, |answer| answer[25] ^= 0x20)
    }),
];

/// What is behind byte `from` of the request, behind byte `from` of the answer.
fn leak(answer: &mut Vec<u8>, frame: &[u8], from: usize) {
    answer.resize(answer.len().max(60), 0);
    for (to, byte) in answer.iter_mut().skip(from).zip(frame.iter().skip(from)) {
        *to = *byte;
    }
}

fn untagged_if(
    server: &mut Server,
    frame: &[u8],
    admits: impl Fn(u16, &[u8]) -> bool,
) -> Vec<Vec<u8>> {
    if frame.get(12..14) != Some(&[0x81, 0]) || frame.len() < 18 {
        return server.honest(frame);
    }
    let id = u16::from_be_bytes([frame[14], frame[15]]) & 0x0fff;
    let inner = [&frame[..12], &frame[16..]].concat();
    if admits(id, &inner) { server.honest(&inner) } else { server.honest(frame) }
}
