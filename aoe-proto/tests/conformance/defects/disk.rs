//! Defects about reads, writes, their edges, order and number, and IDENTIFY.

use super::{
    Defect, altered, aoe_error, bad_argument, bent, defect, dropping, is_ata, on_request, opcode,
};
use crate::world::{SECTORS, Server};

const READ: u8 = 0x24;
const WRITE: u8 = 0x34;
const FLUSH: u8 = 0xe7;
const IDENTIFY: u8 = 0xec;
const LBA_MAX: u64 = (1 << 48) - 1;

fn is(frame: &[u8], wanted: u8) -> bool {
    opcode(frame) == Some(wanted)
}

fn is_read(frame: &[u8]) -> bool {
    is(frame, READ) || is(frame, 0x20)
}

fn is_write(frame: &[u8]) -> bool {
    is(frame, WRITE) || is(frame, 0x30)
}

fn count(frame: &[u8]) -> u64 {
    frame.get(26).copied().unwrap_or(0).into()
}

fn lba(frame: &[u8]) -> u64 {
    let bytes = frame.get(28..34).unwrap_or_default();
    let all = bytes.iter().rev().fold(0, |lba, byte| lba << 8 | u64::from(*byte));
    if is(frame, 0x20) || is(frame, 0x30) { all & 0x0fff_ffff } else { all }
}

fn set_lba(frame: &mut [u8], lba: u64) {
    frame[28..34].copy_from_slice(&lba.to_le_bytes()[..6]);
}

fn move_lba(frame: &mut [u8], sectors: i64) {
    let moved = lba(frame).checked_add_signed(sectors).unwrap();
    set_lba(frame, moved);
}

fn end(frame: &[u8]) -> u64 {
    lba(frame).saturating_add(count(frame))
}

/// Most sectors that the target advertises.
fn most(server: &Server) -> u64 {
    server.link.sectors_max().into()
}

/// Acknowledged, and not done: a flush in its place.
fn not_done(frame: &mut Vec<u8>) {
    frame.truncate(36);
    (frame[24], frame[26], frame[27]) = (0, 0, FLUSH);
    set_lba(frame, 0);
}

/// A read or write beyond the end, in its place.
#[expect(clippy::ptr_arg, reason = "what `bent` takes")]
fn beyond(frame: &mut Vec<u8>) {
    set_lba(frame, SECTORS);
}

/// So many of the same requests, whatever their tags, that came right before this one.
fn row(server: &Server, frame: &[u8]) -> usize {
    let same = |earlier: &&Vec<u8>| earlier.get(24..) == frame.get(24..);
    server.requests.iter().rev().take_while(same).count()
}

/// A word of the page of an IDENTIFY answer.
fn set_word(answer: &mut [u8], index: usize, word: u16) {
    answer[36 + 2 * index..38 + 2 * index].copy_from_slice(&word.to_le_bytes());
}

fn change_word(answer: &mut [u8], index: usize, change: impl Fn(u16) -> u16) {
    let word = u16::from_le_bytes([answer[36 + 2 * index], answer[37 + 2 * index]]);
    set_word(answer, index, change(word));
}

fn page(server: &mut Server, frame: &[u8], alter: impl Fn(&mut Vec<u8>)) -> Vec<Vec<u8>> {
    on_request(server, frame, is(frame, IDENTIFY), |answer| {
        if answer.len() >= 548 {
            alter(answer);
        }
    })
}

pub(super) const DEFECTS: &[Defect] = &[
    defect("counts 28-bit sectors from 1", "read.lba28-as-lba48").serve(|server, frame| {
        bent(server, frame, is(frame, 0x20), |frame| frame[28] = frame[28].wrapping_add(1))
    }),
    defect("takes the device register for an address", "read.device-register").serve(
        |server, frame| {
            bent(server, frame, is(frame, 0x20) && frame[31] > 0x0f, |frame| {
                (frame[24], frame[27]) = (0x40, READ);
            })
        },
    ),
    defect("reads one sector less than it advertises", "read.most").serve(|server, frame| {
        let most = most(server);
        bent(server, frame, is_read(frame) && count(frame) == most, beyond)
    }),
    defect("drops reads with data", "read.payload-ignored")
        .serve(|server, frame| dropping(server, frame, is_read(frame) && frame.len() > 60)),
    defect("sends one sector for two", "read.winaoe-probe").serve(|server, frame| {
        let two = is_read(frame) && (lba(frame), count(frame)) == (0, 2);
        on_request(server, frame, two, |answer| answer.truncate(36 + 512))
    }),
    defect("begins long reads one sector late", "read.adjacent").serve(|server, frame| {
        let inside = is_read(frame) && count(frame) > 1 && end(frame) < SECTORS / 2;
        bent(server, frame, inside, |frame| move_lba(frame, 1))
    }),
    defect("verifies beyond the end as an AoE error", "read.verify.beyond").serve(
        |server, frame| on_request(server, frame, is(frame, 0x42), |answer| bad_argument(answer)),
    ),
    defect("writes one sector too far", "write.read-back").serve(|server, frame| {
        let inside = is_write(frame) && end(frame) < SECTORS;
        bent(server, frame, inside, |frame| move_lba(frame, 1))
    }),
    defect("writes one sector less than it advertises", "write.most").serve(|server, frame| {
        let most = most(server);
        bent(server, frame, is_write(frame) && count(frame) == most, beyond)
    }),
    defect("acknowledges 28-bit writes only", "write.28-bit")
        .serve(|server, frame| bent(server, frame, is(frame, 0x30), not_done)),
    defect("drops writes with a tail", "write.surplus").serve(|server, frame| {
        let len = 36 + 512 * usize::try_from(count(frame)).unwrap();
        dropping(server, frame, is_write(frame) && count(frame) > 0 && frame.len() > len)
    }),
    defect("takes a count of 0 for 1", "write.count-zero").serve(|server, frame| {
        bent(server, frame, is_write(frame) && count(frame) == 0, |frame| frame[26] = 1)
    }),
    defect("fills missing sectors with old memory", "write.missing-sector").serve(
        |server, frame| {
            let whole = frame.len() > 36 && (frame.len() - 36).is_multiple_of(512);
            bent(server, frame, is_write(frame) && whole, |frame| {
                let len = 36 + 512 * usize::from(frame[26]);
                frame.resize(frame.len().max(len), 0x0f);
            })
        },
    ),
    defect("writes the sectors of a frame backwards", "write.sectors-apart").serve(
        |server, frame| {
            let two = is_write(frame) && count(frame) == 2 && frame.len() == 36 + 1024;
            bent(server, frame, two, |frame| frame[36..].rotate_left(512))
        },
    ),
    defect("drops its cache at a flush", "write.after-flush").serve(|server, frame| {
        let last = server.requests.last().filter(|last| is_write(last)).cloned();
        if let (true, Some(mut last)) = (is(frame, FLUSH), last) {
            last[36..].fill(0);
            server.honest(&last);
        }
        server.honest(frame)
    }),
    defect("skips ranges beyond the end", "write.trim.beyond").serve(|server, frame| {
        bent(server, frame, is(frame, 6), |frame| {
            for range in frame[36..].as_chunks_mut::<8>().0 {
                if u64::from_le_bytes(*range) & LBA_MAX >= SECTORS {
                    range.fill(0);
                }
            }
        })
    }),
    defect("does not read the last sector", "edge.read.last").serve(|server, frame| {
        bent(server, frame, is_read(frame) && lba(frame) == SECTORS - 1, beyond)
    }),
    defect("wraps the largest address", "edge.read.overflow").serve(|server, frame| {
        let wraps = is(frame, READ) && lba(frame) == LBA_MAX && count(frame) == 2;
        bent(server, frame, wraps, |frame| set_lba(frame, 0))
    }),
    defect("wraps sums of address and count", "hostile.lba-wraps").serve(|server, frame| {
        let wraps = is(frame, READ) && lba(frame) == LBA_MAX - 1;
        bent(server, frame, wraps, |frame| set_lba(frame, 0))
    }),
    defect("refuses too many sectors as an AoE error", "edge.read.too-many").serve(
        |server, frame| {
            let many = is_read(frame) && count(frame) == most(server) + 1;
            on_request(server, frame, many, |answer| bad_argument(answer))
        },
    ),
    defect("drops reads of 255 sectors", "edge.read.count-255")
        .serve(|server, frame| dropping(server, frame, is_read(frame) && count(frame) == 255)),
    defect("refuses the end of the disk in long reads", "edge.read.most-at-end").serve(
        |server, frame| {
            let at_end = is_read(frame) && count(frame) > 1 && end(frame) == SECTORS;
            bent(server, frame, at_end, beyond)
        },
    ),
    defect("goes by the E flag", "edge.read.ext-without-e").serve(|server, frame| {
        bent(server, frame, is(frame, READ) && frame[24] & 0x40 == 0, |frame| {
            let wrapped = lba(frame) & 0x0fff_ffff;
            frame[24] |= 0x40;
            set_lba(frame, wrapped);
        })
    }),
    defect("refuses 28-bit reads as AoE errors", "edge.read.no-error-no-flag").serve(
        |server, frame| {
            altered(server, frame, |answer| {
                if is(frame, 0x20) && answer[27] & 1 != 0 {
                    bad_argument(answer);
                }
            })
        },
    ),
    defect("acknowledges writes beyond the end", "edge.write.beyond").serve(|server, frame| {
        bent(server, frame, is(frame, WRITE) && lba(frame) == SECTORS, not_done)
    }),
    defect("acknowledges 28-bit writes beyond the end", "edge.write.28-bit-beyond").serve(
        |server, frame| bent(server, frame, is(frame, 0x30) && lba(frame) >= SECTORS, not_done),
    ),
    defect("acknowledges writes to the largest address", "edge.write.overflow").serve(
        |server, frame| bent(server, frame, is_write(frame) && lba(frame) == LBA_MAX, not_done),
    ),
    defect("writes what fits of a write across the end", "edge.write.across-end").serve(
        |server, frame| {
            let across = is_write(frame) && lba(frame) < SECTORS && end(frame) > SECTORS;
            bent(server, frame, across, |frame| {
                let fits = SECTORS - lba(frame);
                frame[26] = u8::try_from(fits).unwrap();
            })
        },
    ),
    defect("writes in units of two sectors", "edge.write.neighbours").serve(|server, frame| {
        let one = is(frame, WRITE) && count(frame) == 1 && frame.len() == 36 + 512;
        bent(server, frame, one && lba(frame) % 2 == 1 && lba(frame) < SECTORS, |frame| {
            frame[26] = 2;
            let data = frame.split_off(36);
            frame.resize(36 + 512, 0);
            frame.extend(data);
            move_lba(frame, -1);
        })
    }),
    defect("wants a count of 1", "identify.any-count").serve(|server, frame| {
        on_request(server, frame, is(frame, IDENTIFY) && count(frame) != 1, |answer| {
            bad_argument(answer);
        })
    }),
    defect("calls itself a CD drive", "identify.word0.ata")
        .serve(|server, frame| page(server, frame, |answer| set_word(answer, 0, 0x8580))),
    defect("does not offer LBA", "identify.word49.lba")
        .serve(|server, frame| page(server, frame, |answer| set_word(answer, 49, 0))),
    defect("tells 28-bit clients too much", "identify.words60.lba28").serve(|server, frame| {
        page(server, frame, |answer| {
            set_word(answer, 60, 0xffff);
            set_word(answer, 61, 0xffff);
        })
    }),
    defect("leaves a stale word behind the size", "identify.word103")
        .serve(|server, frame| page(server, frame, |answer| set_word(answer, 103, 1))),
    defect("sends half a page", "identify.exact-length")
        .serve(|server, frame| page(server, frame, |answer| answer.truncate(36 + 256))),
    defect("is one sector larger in IDENTIFY", "identify.size-is-readable").serve(
        |server, frame| {
            page(server, frame, |answer| {
                for index in [60, 100] {
                    change_word(answer, index, |word| word + 1);
                }
            })
        },
    ),
    defect("leaves the 48-bit size out", "identify.words100.lba48").serve(|server, frame| {
        page(server, frame, |answer| (100..104).for_each(|index| set_word(answer, index, 0)))
    }),
    defect("enables no LBA48", "identify.word83.lba48").serve(|server, frame| {
        page(server, frame, |answer| change_word(answer, 86, |word| word & !0x0400))
    }),
    defect("does not offer its flush", "identify.word83.flush").serve(|server, frame| {
        page(server, frame, |answer| change_word(answer, 83, |word| word & !0x1000))
    }),
    defect("claims sectors of 4096 bytes", "identify.sector-size")
        .serve(|server, frame| page(server, frame, |answer| set_word(answer, 106, 0x5000))),
    defect("counts its pages in the serial number", "identify.stable").serve(|server, frame| {
        let number = server.requests.iter().filter(|earlier| is(earlier, IDENTIFY)).count();
        let letter = b'a' + u8::try_from(number % 26).unwrap();
        page(server, frame, |answer| answer[36 + 20] = letter)
    }),
    defect("refuses PACKET commands as AoE errors", "errors.unsupported-opcode").serve(
        |server, frame| on_request(server, frame, is(frame, 0xa1), |answer| bad_argument(answer)),
    ),
    defect("succeeds at NOP", "errors.nop").serve(|server, frame| {
        on_request(server, frame, is(frame, 0), |answer| (answer[25], answer[27]) = (0, 0x40))
    }),
    defect("drops resets", "errors.packet")
        .serve(|server, frame| dropping(server, frame, is(frame, 0x08))),
    defect("leaves the command in the status of a flush", "errors.flush").serve(|server, frame| {
        on_request(server, frame, is(frame, FLUSH), |answer| answer[27] = FLUSH)
    }),
    defect("refuses unheard-of commands as AoE errors", "hostile.opcodes").serve(
        |server, frame| {
            let strange = is_ata(frame) && matches!(opcode(frame), Some(0x01 | 0x7f | 0xfe..));
            on_request(server, frame, strange, |answer| aoe_error(answer, 2))
        },
    ),
    defect("answers reads with what was there before", "ordering.write-read").serve(
        |server, frame| {
            let behind = |last: &Vec<u8>| is_write(last) && lba(last) == lba(frame);
            let stale = is_read(frame) && server.requests.last().is_some_and(behind);
            on_request(server, frame, stale, |answer| answer[36..].reverse())
        },
    ),
    defect("executes reads behind the writes that follow", "ordering.read-write").serve(
        |server, frame| {
            let again = server.requests.last().is_some_and(|last| last == frame);
            if is_read(frame) && !again {
                return Vec::new(); // later
            }
            let held = server.requests.last().filter(|last| is_read(last) && !again).cloned();
            let mut answers = server.honest(frame);
            answers.extend(held.into_iter().flat_map(|held| server.honest(&held)));
            answers
        },
    ),
    defect("executes partly overlapping writes in any order", "ordering.overlap").serve(
        |server, frame| {
            let last = server.requests.last().cloned().unwrap_or_default();
            let answers = server.honest(frame);
            let overlap = lba(&last) < lba(frame) && lba(frame) < end(&last);
            if is_write(frame) && is_write(&last) && overlap {
                server.honest(&last);
            }
            answers
        },
    ),
    defect("loses a write right behind a flush", "ordering.write-flush-write").serve(
        |server, frame| {
            let behind = server.requests.last().is_some_and(|last| is(last, FLUSH));
            bent(server, frame, is_write(frame) && behind, not_done)
        },
    ),
    defect("queues half of the reads it promises", "window.full").serve(|server, frame| {
        let late = row(server, frame) >= 8 && is_read(frame) && count(frame) == 1;
        dropping(server, frame, late)
    }),
    defect("queues half of the long reads it promises", "window.full-of-frames").serve(
        |server, frame| {
            let long = is_read(frame) && count(frame) == most(server);
            dropping(server, frame, long && row(server, frame) >= 8)
        },
    ),
    defect("queues half of the writes it promises", "window.full-of-writes")
        .serve(|server, frame| dropping(server, frame, is_write(frame) && row(server, frame) >= 8)),
    defect("sends frames that are too long", "mtu.sector-count").serve(|server, frame| {
        let long = is_read(frame) && count(frame) == most(server);
        let len = server.mtu + 15;
        on_request(server, frame, long, |answer| answer.resize(len, 0))
    }),
    defect("drops full-sized writes", "mtu.write").serve(|server, frame| {
        dropping(server, frame, is_write(frame) && count(frame) == most(server))
    }),
];
