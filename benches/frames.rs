//! Frames of a client, and answers without storage.

use core::hint::black_box;

use aoe_proto::wire::{AddressPattern, AtaArg, AtaFlags, Command, Header, Tag};
use aoe_proto::{Action, Incoming, LinkLimits, Mac, Target};

const OWN: Mac = Mac([0x02, 0, 0, 0, 0, 0x01]);
const CLIENT: Mac = Mac([0x02, 0, 0, 0, 0, 0x0a]);

/// A frame of 60 bytes or more to e7.3, with zeros behind its argument.
pub fn frame(command: Command, argument: &[u8], payload_len: usize) -> Vec<u8> {
    let header = Header {
        dst: OWN,
        src: CLIENT,
        version: 1,
        response: false,
        error: None,
        address: AddressPattern { shelf: 7, slot: 3 },
        command,
        tag: Tag([1, 2, 3, 4]),
    };
    let mut frame = Vec::from(header.to_bytes());
    frame.extend_from_slice(argument);
    frame.resize((frame.len() + payload_len).max(60), 0);
    frame
}

/// An ATA request for sector 4096 of e7.3, with zeros as data.
pub fn ata(opcode: u8, write: bool, count: u8) -> Vec<u8> {
    let flags = if write { AtaFlags::EXTENDED.union(AtaFlags::WRITE) } else { AtaFlags::EXTENDED };
    let lba = AtaArg::lba_registers(4096);
    let arg = AtaArg { flags, count, command_status: opcode, lba, error_feature: 0 };
    frame(Command::Ata, &arg.to_bytes(), if write { usize::from(count) * 512 } else { 0 })
}

/// Answers as a host does, but leaves the data alone. How long the answer is.
pub fn answer(target: &mut Target, link: LinkLimits, frame: &[u8], buf: &mut [u8]) -> usize {
    let Ok(request) = Incoming::parse(frame, OWN) else {
        return 0;
    };
    let sent = match target.handle(&request, link) {
        Action::Ignore(_) => Ok(0),
        Action::Reply(reply) => target.emit(&reply, buf),
        Action::Write { data, reply, .. } => {
            black_box(data);
            reply.emit_ok(buf)
        }
        Action::Read { reply, .. }
        | Action::Verify { reply, .. }
        | Action::Flush { reply }
        | Action::Discard { reply, .. } => reply.emit_ok(buf),
    };
    sent.unwrap_or(0)
}
