//! Defects about the config string, the MAC mask list and the reservation.

use super::{Defect, aoe_error, bent, command, defect, dropping, on_request, opcode};
use crate::world::Server;

fn ccmd(frame: &[u8]) -> Option<u8> {
    frame.get(29).map(|byte| byte & 15).filter(|_| command(frame) == Some(1))
}

/// Length of the string as the frame claims it.
fn claimed(frame: &[u8]) -> usize {
    frame.get(30..32).map_or(0, |len| usize::from(u16::from_be_bytes([len[0], len[1]])))
}

fn mcmd(frame: &[u8]) -> Option<u8> {
    frame.get(25).copied().filter(|_| command(frame) == Some(2))
}

fn rcmd(frame: &[u8]) -> Option<u8> {
    frame.get(24).copied().filter(|_| command(frame) == Some(3))
}

/// As the honest target without its mask list, if `open` says so for a frame that it dropped.
fn unmasked(server: &mut Server, frame: &[u8], open: bool) -> Vec<Vec<u8>> {
    let answers = server.honest(frame);
    if !answers.is_empty() || !open || server.target.state().mask().is_empty() {
        return answers;
    }
    let state = server.target.state().clone();
    let mut list = state.clone();
    list.clear_mask();
    server.target.restore(list);
    let answers = server.honest(frame);
    if command(frame) != Some(2) {
        let mut after = server.target.state().clone();
        after.load(&encoded(&state)).unwrap();
        let _config = after.set_config_string(server.target.state().config_string());
        server.target.restore(after);
    }
    answers
}

fn encoded(state: &aoe_proto::TargetState) -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    let len = state.encode(&mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}

/// As the honest target without its reservation, if `open`.
fn unreserved(server: &mut Server, frame: &[u8], open: bool) -> Vec<Vec<u8>> {
    if !open {
        return server.honest(frame);
    }
    let state = server.target.state().clone();
    server.target.state_mut().clear_reservation();
    let answers = server.honest(frame);
    server.target.restore(state);
    answers
}

pub(super) const DEFECTS: &[Defect] = &[
    defect("looks at the length of reads", "config.read").serve(|server, frame| {
        dropping(server, frame, ccmd(frame) == Some(0) && claimed(frame) > 1024)
    }),
    defect("does not store what is set if empty", "config.set-if-empty.first")
        .serve(|server, frame| bent(server, frame, ccmd(frame) == Some(3), |frame| frame[29] = 0)),
    defect("refuses every set of a string that is there", "config.set-if-empty.same").serve(
        |server, frame| {
            let there = !server.target.state().config_string().is_empty();
            on_request(server, frame, ccmd(frame) == Some(3) && there, |answer| {
                aoe_error(answer, 4);
            })
        },
    ),
    defect("ignores an empty forced set", "config.force.clear").serve(|server, frame| {
        bent(server, frame, ccmd(frame) == Some(4) && claimed(frame) == 0, |frame| frame[29] = 0)
    }),
    defect("takes a length of 0 for no condition", "config.test.exact-not-empty").serve(
        |server, frame| {
            let bends = ccmd(frame) == Some(1) && claimed(frame) == 0;
            bent(server, frame, bends, |frame| frame[29] = 2)
        },
    ),
    defect("takes a test for a prefix test", "config.test.mismatch")
        .serve(|server, frame| bent(server, frame, ccmd(frame) == Some(1), |frame| frame[29] = 2)),
    defect("takes a prefix test for a test", "config.prefix.match")
        .serve(|server, frame| bent(server, frame, ccmd(frame) == Some(2), |frame| frame[29] = 1)),
    defect("answers every prefix test", "config.prefix.mismatch")
        .serve(|server, frame| bent(server, frame, ccmd(frame) == Some(2), |frame| frame[29] = 0)),
    defect("takes a forced set for a set", "config.force.overwrites")
        .serve(|server, frame| bent(server, frame, ccmd(frame) == Some(4), |frame| frame[29] = 3)),
    defect("stores what is not in the frame", "config.set.length-beyond-frame").serve(
        |server, frame| {
            let beyond = ccmd(frame) == Some(4) && claimed(frame) <= 1024;
            bent(server, frame, beyond, |frame| {
                let len = frame.len().max(32 + claimed(frame));
                frame.resize(len, 0xa5);
            })
        },
    ),
    defect("compares the length with the whole frame", "config.padding-not-stored").serve(
        |server, frame| {
            let fits = ccmd(frame) == Some(4) && claimed(frame) <= frame.len();
            bent(server, frame, fits, |frame| {
                let len = frame.len().max(32 + claimed(frame));
                frame.resize(len, 0xa5);
            })
        },
    ),
    defect("cuts strings that are too long", "config.too-long").serve(|server, frame| {
        bent(server, frame, ccmd(frame) == Some(4) && claimed(frame) > 1024, |frame| {
            frame[30..32].copy_from_slice(&1024_u16.to_be_bytes());
        })
    }),
    defect("looks at the buffer count of requests", "config.request-head-ignored").serve(
        |server, frame| {
            dropping(server, frame, ccmd(frame).is_some() && frame.get(24..26) != Some(&[0, 0]))
        },
    ),
    defect("drops an unknown CCmd", "config.unknown-ccmd")
        .serve(|server, frame| dropping(server, frame, ccmd(frame).is_some_and(|ccmd| ccmd > 4))),
    defect("lets everybody set the string", "config.masked")
        .serve(|server, frame| unmasked(server, frame, ccmd(frame).is_some_and(|ccmd| ccmd > 2))),
    defect("does not tell the list", "mask.read")
        .serve(|server, frame| dropping(server, frame, mcmd(frame) == Some(0))),
    defect("executes directives of old memory", "mask.count-beyond-frame").serve(
        |server, frame| {
            bent(server, frame, mcmd(frame) == Some(1), |frame| {
                let len = 28 + 8 * usize::from(frame[27]);
                let missing = frame.len()..len.max(frame.len());
                frame.extend(missing.map(|at| [0, 1, 2, 0, 0, 0, 9, 9][(at - 28) % 8]));
            })
        },
    ),
    defect("refuses to add a member again", "mask.add.again").serve(|server, frame| {
        let source: [u8; 6] = frame.get(30..36).and_then(|m| m.try_into().ok()).unwrap_or_default();
        let add = mcmd(frame) == Some(1) && frame.get(29) == Some(&1);
        let there = server.target.state().mask().iter().any(|mac| mac.0 == source);
        on_request(server, frame, add && there, |answer| answer[26] = 1)
    }),
    defect("takes any MCmd for an edit", "mask.unknown-mcmd").serve(|server, frame| {
        bent(server, frame, mcmd(frame).is_some_and(|mcmd| mcmd > 1), |frame| frame[25] = 1)
    }),
    defect("lets everybody read", "mask.silence.every-command")
        .serve(|server, frame| unmasked(server, frame, opcode(frame) == Some(0x24))),
    defect("answers broadcast queries of everybody", "mask.silence.broadcast")
        .serve(|server, frame| unmasked(server, frame, frame.first() == Some(&0xff))),
    defect("lets everybody edit the list", "mask.silence.edit")
        .serve(|server, frame| unmasked(server, frame, mcmd(frame) == Some(1))),
    defect("lets everybody write", "mask.silence.write").serve(|server, frame| {
        let write = opcode(frame) == Some(0x34);
        let answers = unmasked(server, frame, write);
        let stranger = frame.get(6..12) != Some(&crate::world::OWN.0);
        let masked = !server.target.state().mask().is_empty();
        if write && stranger && masked { Vec::new() } else { answers }
    }),
    defect("does not tell the holders", "reserve.read")
        .serve(|server, frame| dropping(server, frame, rcmd(frame) == Some(0))),
    defect("lets others read a reserved disk", "reserve.gates-ata")
        .serve(|server, frame| unreserved(server, frame, opcode(frame) == Some(0x24))),
    defect("lets others write a reserved disk", "reserve.gates-write")
        .serve(|server, frame| unreserved(server, frame, opcode(frame) == Some(0x34))),
    defect("lets everybody take a reservation over", "reserve.taken")
        .serve(|server, frame| bent(server, frame, rcmd(frame) == Some(1), |frame| frame[24] = 2)),
    defect("does not know force", "reserve.force")
        .serve(|server, frame| bent(server, frame, rcmd(frame) == Some(2), |frame| frame[24] = 1)),
    defect("refuses its holder", "reserve.set.again").serve(|server, frame| {
        let held = !server.target.state().reservation().is_empty();
        let set = rcmd(frame) == Some(1) && frame.get(25) != Some(&0);
        on_request(server, frame, set && held, |answer| aoe_error(answer, 6))
    }),
    defect("reserves for old memory", "reserve.count-beyond-frame").serve(|server, frame| {
        bent(server, frame, rcmd(frame) == Some(1), |frame| {
            let len = frame.len().max(26 + 6 * usize::from(frame[25]));
            frame.resize(len, 0x42);
        })
    }),
    defect("takes any RCmd for force", "reserve.unknown-rcmd").serve(|server, frame| {
        bent(server, frame, rcmd(frame).is_some_and(|rcmd| rcmd > 2), |frame| frame[24] = 2)
    }),
    defect("keeps one holder", "reserve.several").serve(|server, frame| {
        let several = rcmd(frame) == Some(1) && frame.get(25).is_some_and(|count| *count > 1);
        bent(server, frame, several, |frame| frame[25] = 1)
    }),
    defect("drops unknown commands", "errors.unknown-command")
        .serve(|server, frame| dropping(server, frame, command(frame).is_some_and(|c| c > 3))),
    defect("drops commands of vendors", "errors.vendor")
        .serve(|server, frame| dropping(server, frame, command(frame).is_some_and(|c| c > 0xf0))),
];
