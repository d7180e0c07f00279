//! Arbitrary frames to everything that takes frames.

use aoe_proto::initiator::{Event, Found, Initiator, InitiatorConfig, Request};
use aoe_proto::print::PrintFrame;
use aoe_proto::{
    Address, AtaError, Disk, ForeignAnswer, Incoming, LinkLimits, Mac, SectorRange, Target,
    TargetConfig, TrimSupport, serve,
};

const OWN: Mac = Mac([0x02, 0, 0, 0, 0, 0x01]);
const CLIENT: Mac = Mac([0x02, 0, 0, 0, 0, 0x02]);
const SECTORS: u64 = 300;

/// Nothing may be asked of it behind its end.
struct StrictDisk;

impl Disk for StrictDisk {
    fn read(&mut self, range: SectorRange, data: &mut [u8]) -> Result<(), AtaError> {
        assert!(range.end() <= SECTORS && data.len() == range.len_bytes(), "{range:?}");
        data.fill(0x5a);
        Ok(())
    }

    fn write(&mut self, range: SectorRange, data: &[u8]) -> Result<(), AtaError> {
        assert!(range.end() <= SECTORS && data.len() == range.len_bytes(), "{range:?}");
        if range.lba().is_multiple_of(7) { Err(AtaError::WriteFault) } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), AtaError> {
        Ok(())
    }

    fn discard(&mut self, range: SectorRange) -> Result<(), AtaError> {
        assert!(range.end() <= SECTORS, "{range:?}");
        Ok(())
    }
}

fn link() -> Option<LinkLimits> {
    LinkLimits::for_mtu(9000)
}

fn target() -> Option<Target> {
    let mut config = TargetConfig::new(Address::new(1, 2)?, SECTORS);
    config.trim = TrimSupport::Zeroing;
    Target::new(config).ok()
}

/// One frame, to everybody.
pub fn frame(bytes: &[u8]) {
    let (Some(link), Some(mut target)) = (link(), target()) else { return };
    let _text = PrintFrame(bytes).to_string();
    let _answer = ForeignAnswer::parse(bytes, OWN);
    let _found = Found::parse(bytes, OWN);
    answer(&mut target, link, bytes);
}

/// A frame to the target; the answer is a frame that can be read.
fn answer(target: &mut Target, link: LinkLimits, bytes: &[u8]) -> Option<Vec<u8>> {
    let request = Incoming::parse(bytes, OWN).ok()?;
    let action = target.handle(&request, link);
    let mut buf = vec![0xa5; link.frame_len_max()];
    let len = serve(target, action, &mut StrictDisk, &mut buf).ok().flatten()?;
    assert!(len <= link.frame_len_max(), "{len} bytes");
    buf.truncate(len);
    assert!(!PrintFrame(&buf).to_string().is_empty());
    Some(buf)
}

/// Frames with two bytes of length before each: to a target whose state builds up, its answers to an
/// initiator, and the frames themselves to that initiator too.
pub fn session(bytes: &[u8]) {
    let (Some(link), Some(mut target)) = (link(), target()) else { return };
    let Some(address) = Address::new(1, 2) else { return };
    let config = InitiatorConfig::new(CLIENT, address, link, 7);
    let mut initiator: Initiator<[u8; 1024], 8> = Initiator::new(config);
    let mut transmit = vec![0xa5; link.frame_len_max()];
    let (mut rest, mut now_ms) = (bytes, 0);
    while let Some((len, tail)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes(*len) & 0x1fff).min(tail.len());
        let (frame, after) = tail.split_at(len);
        rest = after;
        now_ms += len as u64;
        let request = match len % 6 {
            0 => Request::ConfigRead,
            1 => Request::Identify,
            2 => Request::Read { lba: len as u64, count: 2 },
            3 => Request::Write { lba: 9, data: [7; 1024], durable: len > 100 },
            4 => Request::MaskRead,
            _ => Request::Flush,
        };
        let _taken = initiator.submit(request);
        let _answer = answer(&mut target, link, frame);
        let _event = initiator.handle_frame(now_ms, frame);
        while let Ok(Some(len)) = initiator.poll_transmit(now_ms, &mut transmit) {
            // Between the two the frames are their own: an answer that comes is understood.
            let Some(sent) = transmit.get(..len) else { return };
            if let Some(back) = answer(&mut target, link, sent) {
                let event = initiator.handle_frame(now_ms, &back);
                let _completed = matches!(event, Event::Completed(_));
            }
        }
        initiator.handle_timeout(now_ms);
        while initiator.poll_completion().is_some() {}
    }
}
