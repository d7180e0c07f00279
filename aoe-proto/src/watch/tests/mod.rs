//! Literal frames for every rule, and whole conversations.

mod conversations;
mod rules;

use super::*;
use std::vec;
use std::vec::Vec;

pub(super) const INITIATOR: u8 = 0x0a;
pub(super) const TARGET: u8 = 0x01;
pub(super) const BROADCAST: u8 = 0xff;
pub(super) const MS: u64 = 1_000_000;

/// A MAC address by its last byte.
pub(super) fn mac(last: u8) -> Mac {
    if last == BROADCAST { Mac::BROADCAST } else { Mac([2, 0, 0, 0, 0, last]) }
}

/// A frame of `bytes` from byte 14 on, zeros up to 60.
pub(super) fn frame(dst: u8, src: u8, bytes: &[u8]) -> Vec<u8> {
    let mut frame = Vec::from(mac(dst).0);
    frame.extend(mac(src).0);
    frame.extend([0x88, 0xa2]);
    frame.extend(bytes);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// A request to e7.3 by broadcast.
pub(super) fn ask(command: u8, tag: u8, argument: &[u8]) -> Vec<u8> {
    let head = [0x10, 0, 0, 7, 3, command, 0, 0, 0, tag];
    frame(BROADCAST, INITIATOR, &[&head, argument].concat())
}

/// The answer to [`ask`].
pub(super) fn tell(command: u8, tag: u8, argument: &[u8]) -> Vec<u8> {
    let head = [0x18, 0, 0, 7, 3, command, 0, 0, 0, tag];
    frame(INITIATOR, TARGET, &[&head, argument].concat())
}

/// The answer to [`ask`] with an AoE error.
pub(super) fn refuse(command: u8, tag: u8, error: u8, argument: &[u8]) -> Vec<u8> {
    let head = [0x1c, error, 0, 7, 3, command, 0, 0, 0, tag];
    frame(INITIATOR, TARGET, &[&head, argument].concat())
}

/// `data` behind registers: flags, error or feature, count, command or status, low LBA byte.
pub(super) fn registers(values: [u8; 5], data: &[u8]) -> Vec<u8> {
    let [flags, feature, count, command, lba] = values;
    let mut argument = vec![flags, feature, count, command, lba, 0, 0, 0, 0, 0, 0, 0];
    argument.extend(data);
    argument
}

/// READ EXT of one sector.
pub(super) fn read(tag: u8, lba: u8) -> Vec<u8> {
    ask(0, tag, &registers([0x40, 0, 1, 0x24, lba], &[]))
}

/// Its data.
pub(super) fn data(tag: u8, lba: u8) -> Vec<u8> {
    tell(0, tag, &registers([0x40, 0, 0, 0x40, lba], &[7; 512]))
}

/// WRITE EXT of one sector.
pub(super) fn write(tag: u8, lba: u8, fill: u8) -> Vec<u8> {
    ask(0, tag, &registers([0x41, 0, 1, 0x34, lba], &[fill; 512]))
}

/// Its acknowledgement.
pub(super) fn written(tag: u8, lba: u8) -> Vec<u8> {
    tell(0, tag, &registers([0x41, 0, 0, 0x40, lba], &[]))
}

/// A config argument of an answer.
pub(super) fn config(ccmd: u8, string: &[u8]) -> Vec<u8> {
    let len = u8::try_from(string.len()).unwrap();
    [&[0, 16, 0x40, 0x19, 2, 0x10 | ccmd, 0, len], string].concat()
}

/// A config argument of a request.
pub(super) fn query(ccmd: u8, string: &[u8]) -> Vec<u8> {
    let len = u8::try_from(string.len()).unwrap();
    [&[0, 0, 0, 0, 0, ccmd, 0, len], string].concat()
}

/// An IDENTIFY page of 100 sectors with everything in order, and a serial number.
pub(super) fn page(serial: u8) -> Vec<u8> {
    let mut page = vec![0; 512];
    let mut set = |word: usize, value: u16| {
        page[2 * word..2 * word + 2].copy_from_slice(&value.to_le_bytes());
    };
    for word in 10..20 {
        set(word, u16::from_be_bytes([serial, b' ']));
    }
    for (word, value) in [(49, 0x0200), (83, 0x5400), (84, 0x4000), (86, 0x1400), (87, 0x4000)] {
        set(word, value);
    }
    set(60, 100);
    set(100, 100);
    page
}

/// IDENTIFY DEVICE.
pub(super) fn identify(tag: u8) -> Vec<u8> {
    ask(0, tag, &registers([0, 0, 1, 0xec, 0], &[]))
}

/// Its page.
pub(super) fn identified(tag: u8, page: &[u8]) -> Vec<u8> {
    tell(0, tag, &registers([0, 0, 0, 0x40, 0], page))
}

/// A listener with a small memory, that began long ago.
pub(super) struct Bench {
    exchanges: [ExchangeSlot; 64],
    repeats: [RepeatSlot; 64],
    targets: [TargetRecord; 4],
    initiators: [InitiatorRecord; 4],
}

impl Bench {
    pub(super) fn new() -> Self {
        Self {
            exchanges: [ExchangeSlot::default(); 64],
            repeats: [RepeatSlot::default(); 64],
            targets: [TargetRecord::default(); 4],
            initiators: [InitiatorRecord::default(); 4],
        }
    }

    pub(super) fn watch(&mut self) -> Watch<'_> {
        let config = WatchConfig { grace_ns: 0, mtu: Some(1500), ..WatchConfig::default() };
        Watch::new(
            config,
            Memory {
                exchanges: &mut self.exchanges,
                repeats: &mut self.repeats,
                targets: &mut self.targets,
                initiators: &mut self.initiators,
            },
        )
    }
}
