//! Targets with one defect each, and what every client makes of them.

use super::{
    Aoetools, Corrupts, Degraded, Fails, Hangs, IDENTIFY, Ipxe, Linux, Plan9, SECTORS, WinAoe,
    Works, World, altered, everything, honest, is_ata, page_word, reads,
};
use crate::profiles::{Client, Level, Why};
use crate::target::TargetConfig;
use crate::wire::Address;
use std::vec;
use std::vec::Vec;

/// A defect, and what each client makes of it: the level of the report, and the cause behind it.
pub(super) struct Defect {
    pub(super) name: &'static str,
    pub(super) mtu: u16,
    /// Until an answer arrives.
    pub(super) delay_ms: u64,
    pub(super) configure: fn(&mut TargetConfig),
    pub(super) alter: fn(&mut World, &[u8]) -> Vec<Vec<u8>>,
    pub(super) expected: &'static [(Client, Level, Option<Why>)],
}

const SOUND: Defect =
    Defect { name: "", mtu: 1500, delay_ms: 1, configure: |_| {}, alter: honest, expected: &[] };

pub(super) const ABOUT_ANSWERS: &[Defect] = &[
    Defect {
        name: "a buffer count of 1",
        alter: |world, frame| altered(world, frame, |f| f[19] == 1, |a| a[25] = 1),
        expected: &[
            (Linux, Hangs, Some(Why::EmptyWindow)),
            (Ipxe, Works, None),
            (WinAoe, Works, None),
            (Plan9, Works, None),
            (Aoetools, Works, None),
        ],
        ..SOUND
    },
    Defect {
        name: "a buffer count of 0",
        alter: |world, frame| altered(world, frame, |f| f[19] == 1, |a| a[25] = 0),
        expected: &[
            (Linux, Hangs, Some(Why::EmptyWindow)),
            (Plan9, Hangs, Some(Why::EmptyWindow)),
            (Ipxe, Works, None),
        ],
        ..SOUND
    },
    Defect {
        name: "an AoE error for every read",
        alter: |world, frame| {
            altered(world, frame, reads, |a| {
                (a[14], a[15]) = (0x1c, 2);
                a.truncate(60);
            })
        },
        expected: &[
            (Linux, Hangs, Some(Why::ErrorDropped)),
            (Ipxe, Fails, Some(Why::ErrorReported)),
            (WinAoe, Corrupts, Some(Why::ShortDataTaken)),
            (Plan9, Fails, Some(Why::ErrorReported)),
            (Aoetools, Works, None),
        ],
        ..SOUND
    },
    Defect {
        name: "reserved for somebody else",
        alter: |world, frame| {
            // Another machine was first.
            let mut reserve = frame[..24].to_vec();
            reserve[11] = 0x77;
            reserve[16..20].copy_from_slice(&[0, 7, 3, 3]);
            reserve.extend([1, 1, 2, 0, 0, 0, 0, 0x77]);
            honest(world, &reserve);
            honest(world, frame)
        },
        expected: &[
            (Linux, Hangs, Some(Why::ErrorDropped)),
            (Ipxe, Fails, Some(Why::ErrorReported)),
        ],
        ..SOUND
    },
    Defect {
        name: "a tag in the wrong byte order",
        alter: |world, frame| altered(world, frame, everything, |a| a[20..24].reverse()),
        expected: &[
            (Linux, Hangs, Some(Why::WrongTag)),
            (Ipxe, Fails, Some(Why::WrongTag)),
            (WinAoe, Hangs, Some(Why::WrongTag)),
            (Plan9, Fails, Some(Why::WrongTag)),
            (Aoetools, Fails, Some(Why::WrongTag)),
        ],
        ..SOUND
    },
    Defect {
        name: "answers of version 0",
        alter: |world, frame| altered(world, frame, everything, |a| a[14] &= 0x0f),
        expected: &[
            (Linux, Works, None),
            (Ipxe, Fails, Some(Why::WrongVersion)),
            (WinAoe, Works, None),
            (Plan9, Works, None),
        ],
        ..SOUND
    },
    Defect {
        name: "answers with the wildcard address",
        alter: |world, frame| {
            altered(world, frame, everything, |a| a[16..19].copy_from_slice(&[0xff; 3]))
        },
        expected: &[
            (Linux, Hangs, Some(Why::WrongAddress)),
            (Ipxe, Fails, Some(Why::WrongAddress)),
            (WinAoe, Hangs, Some(Why::WrongAddress)),
            (Plan9, Hangs, Some(Why::WrongAddress)),
        ],
        ..SOUND
    },
    Defect {
        name: "answers without the R flag",
        alter: |world, frame| altered(world, frame, everything, |a| a[14] &= 0xf7),
        expected: &[
            (Linux, Hangs, Some(Why::Silence)),
            (Ipxe, Fails, Some(Why::Silence)),
            (WinAoe, Hangs, Some(Why::NoBroadcastIdentify)),
            (Plan9, Hangs, Some(Why::Silence)),
        ],
        ..SOUND
    },
    Defect {
        name: "another command in answers to IDENTIFY",
        alter: |world, frame| altered(world, frame, |f| is_ata(f, IDENTIFY), |a| a[19] = 1),
        expected: &[
            (Linux, Hangs, Some(Why::WrongCommand)),
            (Ipxe, Fails, Some(Why::WrongCommand)),
        ],
        ..SOUND
    },
    Defect {
        name: "a wrong CCmd in config answers",
        alter: |world, frame| altered(world, frame, |f| f[19] == 1, |a| a[29] = 0x11),
        expected: &[
            (Linux, Works, None),
            (Plan9, Hangs, Some(Why::ConfigEcho)),
            (Ipxe, Works, None),
        ],
        ..SOUND
    },
    Defect {
        name: "answers from the broadcast address",
        alter: |world, frame| altered(world, frame, everything, |a| a[6..12].fill(0xff)),
        expected: &[
            (Linux, Degraded, Some(Why::BroadcastSource)),
            (Ipxe, Degraded, Some(Why::BroadcastSource)),
            (WinAoe, Degraded, Some(Why::BroadcastSource)),
            (Plan9, Degraded, Some(Why::BroadcastSource)),
        ],
        ..SOUND
    },
    Defect {
        name: "shelf 4095",
        configure: |config| config.address = Address::new(4095, 3).unwrap(),
        expected: &[(Linux, Hangs, Some(Why::LinuxShelf)), (Ipxe, Works, None)],
        ..SOUND
    },
    Defect {
        name: "config answers of 28 bytes",
        alter: |world, frame| altered(world, frame, |f| f[19] == 1, |a| a.truncate(28)),
        expected: &[(Ipxe, Fails, Some(Why::ShortConfig)), (Linux, Hangs, Some(Why::ShortConfig))],
        ..SOUND
    },
];

pub(super) const ABOUT_DATA: &[Defect] = &[
    Defect {
        name: "an ATA error for every read",
        alter: |world, frame| {
            altered(world, frame, reads, |a| {
                (a[25], a[27]) = (0x40, 0x41);
                a.truncate(60);
            })
        },
        expected: &[
            (Linux, Fails, Some(Why::AtaError)),
            (Ipxe, Fails, Some(Why::AtaError)),
            (WinAoe, Corrupts, Some(Why::ShortDataTaken)),
            (Plan9, Fails, Some(Why::AtaError)),
        ],
        ..SOUND
    },
    Defect {
        name: "reads of the last sector fail",
        alter: |world, frame| {
            let [l0, l1] = [frame[28], frame[29]];
            let end = u64::from(u16::from_le_bytes([l0, l1])) + u64::from(frame[26]) >= SECTORS;
            let mut answers = honest(world, frame);
            if reads(frame) && end {
                for answer in &mut answers {
                    (answer[25], answer[27]) = (0x10, 0x41);
                    answer.truncate(60);
                }
            }
            answers
        },
        expected: &[(Linux, Fails, Some(Why::AtaError)), (WinAoe, Corrupts, Some(Why::ErrorTaken))],
        ..SOUND
    },
    Defect {
        name: "BSY in the status of reads",
        alter: |world, frame| altered(world, frame, reads, |a| a[27] = 0xc0),
        expected: &[
            (Linux, Fails, Some(Why::StatusBits)),
            (Ipxe, Works, None),
            (WinAoe, Works, None),
            (Plan9, Fails, Some(Why::StatusBits)),
        ],
        ..SOUND
    },
    Defect {
        name: "reads without their last byte",
        alter: |world, frame| {
            altered(world, frame, reads, |a| {
                a.pop();
            })
        },
        expected: &[
            (Linux, Fails, Some(Why::ShortData)),
            (Ipxe, Fails, Some(Why::ShortData)),
            (WinAoe, Corrupts, Some(Why::ShortDataTaken)),
            (Plan9, Fails, Some(Why::DataLength)),
        ],
        ..SOUND
    },
    Defect {
        name: "four bytes behind the data",
        alter: |world, frame| altered(world, frame, reads, |a| a.extend([0; 4])),
        expected: &[
            (Linux, Works, None),
            (Ipxe, Works, None),
            (WinAoe, Works, None),
            (Plan9, Fails, Some(Why::DataLength)),
        ],
        ..SOUND
    },
    Defect {
        name: "every read is one of sector 0",
        alter: |world, frame| {
            let mut frame = frame.to_vec();
            if reads(&frame) {
                frame[28..34].fill(0);
            }
            honest(world, &frame)
        },
        expected: &[
            (Linux, Corrupts, Some(Why::DataDiffer)),
            (Ipxe, Corrupts, Some(Why::DataDiffer)),
            (WinAoe, Corrupts, Some(Why::DataDiffer)),
            (Plan9, Corrupts, Some(Why::DataDiffer)),
        ],
        ..SOUND
    },
    Defect {
        name: "writes are acknowledged and forgotten",
        alter: |world, frame| {
            let before = world.disk.clone();
            let answers = honest(world, frame);
            world.disk = before;
            answers
        },
        expected: &[
            (Linux, Corrupts, Some(Why::NotWritten)),
            (Ipxe, Corrupts, Some(Why::NotWritten)),
            (WinAoe, Corrupts, Some(Why::NotWritten)),
            (Plan9, Corrupts, Some(Why::NotWritten)),
        ],
        ..SOUND
    },
    Defect {
        name: "read-only",
        configure: |config| config.read_only = true,
        expected: &[
            (Linux, Fails, Some(Why::AtaError)),
            (Ipxe, Fails, Some(Why::AtaError)),
            (WinAoe, Corrupts, Some(Why::ErrorTaken)),
        ],
        ..SOUND
    },
];

fn identify(frame: &[u8]) -> bool {
    is_ata(frame, IDENTIFY)
}

pub(super) const ABOUT_PAGES: &[Defect] = &[
    Defect {
        name: "no 48-bit commands",
        alter: |world, frame| {
            let mut answers = honest(world, frame);
            if is_ata(frame, IDENTIFY) {
                for answer in &mut answers {
                    page_word(answer, 83, 0x4000);
                    page_word(answer, 86, 0);
                    (100..104).for_each(|word| page_word(answer, word, 0));
                }
            }
            answers
        },
        expected: &[
            (Linux, Works, None),
            (Ipxe, Works, None),
            (WinAoe, Fails, Some(Why::NoSize)),
            (Plan9, Works, None),
        ],
        ..SOUND
    },
    Defect {
        name: "rubbish in word 103",
        alter: |world, frame| altered(world, frame, identify, |a| page_word(a, 103, 0x4000)),
        expected: &[(Linux, Fails, Some(Why::NoSize)), (Ipxe, Fails, Some(Why::NoSize))],
        ..SOUND
    },
    Defect {
        name: "no LBA",
        alter: |world, frame| altered(world, frame, identify, |a| page_word(a, 49, 0)),
        expected: &[(Plan9, Fails, Some(Why::NoLba)), (Linux, Works, None)],
        ..SOUND
    },
    Defect {
        name: "half an IDENTIFY page",
        alter: |world, frame| altered(world, frame, identify, |a| a.truncate(292)),
        expected: &[
            (Linux, Fails, Some(Why::ShortIdentify)),
            (Ipxe, Fails, Some(Why::ShortIdentify)),
            (Plan9, Fails, Some(Why::ShortIdentify)),
        ],
        ..SOUND
    },
    Defect {
        name: "less than a cylinder",
        configure: |config| config.sectors = 16_000,
        expected: &[(WinAoe, Fails, Some(Why::TooSmall))],
        ..SOUND
    },
    Defect {
        name: "a broken cylinder at the end",
        configure: |config| config.sectors = SECTORS + 5,
        expected: &[(WinAoe, Works, Some(Why::LostTail)), (Linux, Works, None)],
        ..SOUND
    },
    Defect {
        name: "another serial number each time",
        alter: |world, frame| {
            let mut answers = honest(world, frame);
            if is_ata(frame, IDENTIFY) {
                for answer in &mut answers {
                    page_word(answer, 10, u16::try_from(world.requests).unwrap());
                }
            }
            answers
        },
        expected: &[
            (Linux, Degraded, Some(Why::IdentifyChanged)),
            (Plan9, Degraded, Some(Why::IdentifyChanged)),
            (WinAoe, Degraded, Some(Why::IdentifyChanged)),
            (Ipxe, Works, None),
        ],
        ..SOUND
    },
    Defect {
        name: "a disk that shrinks",
        alter: |world, frame| {
            let mut answers = honest(world, frame);
            if is_ata(frame, IDENTIFY) && world.requests > 20 {
                for answer in &mut answers {
                    page_word(answer, 100, 255 * 63);
                }
            }
            answers
        },
        expected: &[(Linux, Corrupts, Some(Why::Shrank)), (Plan9, Corrupts, Some(Why::Shrank))],
        ..SOUND
    },
];

pub(super) const ABOUT_BEHAVIOUR: &[Defect] = &[
    Defect {
        name: "silence",
        alter: |_, _| vec![],
        expected: &[
            (Linux, Hangs, Some(Why::Silence)),
            (Ipxe, Fails, Some(Why::Silence)),
            (WinAoe, Hangs, Some(Why::NoBroadcastIdentify)),
            (Plan9, Hangs, Some(Why::Silence)),
            (Aoetools, Fails, Some(Why::Silence)),
        ],
        ..SOUND
    },
    Defect {
        name: "reads are never answered",
        alter: |world, frame| {
            if reads(frame) { vec![] } else { honest(world, frame) }
        },
        expected: &[
            (Linux, Hangs, Some(Why::Silence)),
            (Ipxe, Fails, Some(Why::Silence)),
            (WinAoe, Hangs, Some(Why::ProbeSilence)),
            (Plan9, Fails, Some(Why::Silence)),
        ],
        ..SOUND
    },
    Defect {
        name: "answers after two seconds",
        delay_ms: 2000,
        expected: &[
            // Learns from late answers, and waits longer.
            (Linux, Works, None),
            (Ipxe, Works, None),
            (WinAoe, Hangs, Some(Why::ProbeSilence)),
            (Plan9, Fails, Some(Why::LateAnswers)),
        ],
        ..SOUND
    },
    Defect {
        name: "no answer to ATA commands for everybody",
        alter: |world, frame| {
            if frame[19] == 0 && frame[16] == 0xff { vec![] } else { honest(world, frame) }
        },
        expected: &[
            (WinAoe, Hangs, Some(Why::NoBroadcastIdentify)),
            (Linux, Works, None),
            (Ipxe, Works, None),
        ],
        ..SOUND
    },
    Defect {
        name: "reads that are too long get no answer",
        mtu: 9000,
        alter: |world, frame| {
            if reads(frame) && frame[26] > 16 { vec![] } else { honest(world, frame) }
        },
        expected: &[(WinAoe, Degraded, Some(Why::ProbeSilence)), (Linux, Works, None)],
        ..SOUND
    },
    Defect {
        name: "reads with data behind them get no answer",
        alter: |world, frame| {
            let trailing = frame.len() > 60;
            if reads(frame) && trailing { vec![] } else { honest(world, frame) }
        },
        expected: &[(Linux, Degraded, Some(Why::ProbePayload)), (WinAoe, Works, None)],
        ..SOUND
    },
    Defect {
        name: "IDENTIFY with bytes behind it gets no answer",
        alter: |world, frame| {
            let trailing = frame.len() > 60;
            if is_ata(frame, IDENTIFY) && trailing { vec![] } else { honest(world, frame) }
        },
        expected: &[(Aoetools, Degraded, Some(Why::Trailer)), (Linux, Works, None)],
        ..SOUND
    },
    Defect {
        name: "an AoE error for SMART",
        alter: |world, frame| {
            altered(world, frame, |f| is_ata(f, &[0xb0]), |a| (a[14], a[15]) = (0x1c, 2))
        },
        expected: &[(Aoetools, Degraded, Some(Why::SmartError)), (Linux, Works, None)],
        ..SOUND
    },
    Defect {
        name: "every other read is lost",
        alter: |world, frame| {
            let lost = reads(frame) && world.requests.is_multiple_of(2);
            if lost { vec![] } else { honest(world, frame) }
        },
        expected: &[
            (Linux, Degraded, Some(Why::Drops)),
            (WinAoe, Degraded, Some(Why::Drops)),
            (Plan9, Degraded, Some(Why::Drops)),
            (Ipxe, Works, None),
        ],
        ..SOUND
    },
    Defect {
        name: "a second server",
        alter: |world, frame| {
            let mut answers = honest(world, frame);
            if frame[19] == 1 {
                let mut rival = answers.clone();
                for answer in &mut rival {
                    answer[11] = 2;
                }
                answers.extend(rival);
            }
            answers
        },
        expected: &[
            (Linux, Corrupts, Some(Why::TwoServers)),
            (Plan9, Corrupts, Some(Why::TwoServers)),
            (Ipxe, Degraded, Some(Why::OtherServer)),
        ],
        ..SOUND
    },
];
