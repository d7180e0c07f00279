//! A long session of broken frames against one target: state builds up, nothing breaks.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use aoe_proto::print::PrintFrame;
use aoe_proto::wire::Header;
use aoe_proto::{
    Action, Address, AtaError, Disk, Incoming, LinkLimits, Mac, SectorRange, Target, TargetConfig,
    TrimSupport, serve,
};

const OWN: Mac = Mac([0x02, 0, 0, 0, 0, 0x01]);
const SECTORS: u64 = 300;
const FRAMES: u32 = 100_000;

/// Xorshift: the same frames in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }

    fn one_in(&mut self, chance: usize) -> bool {
        self.below(chance) == 0
    }
}

/// Panics when a range leaves the disk, and counts what happened.
#[derive(Default)]
struct StrictDisk {
    bytes: Vec<u8>,
    reads: u32,
    writes: u32,
    flushes: u32,
    discards: u32,
}

impl StrictDisk {
    fn part(&mut self, range: SectorRange) -> &mut [u8] {
        assert!(range.end() <= SECTORS, "{range:?}");
        let start = usize::try_from(range.byte_offset()).unwrap();
        &mut self.bytes[start..start + range.len_bytes()]
    }
}

impl Disk for StrictDisk {
    fn read(&mut self, range: SectorRange, data: &mut [u8]) -> Result<(), AtaError> {
        self.reads += 1;
        data.copy_from_slice(self.part(range));
        Ok(())
    }

    fn write(&mut self, range: SectorRange, data: &[u8]) -> Result<(), AtaError> {
        self.writes += 1;
        self.part(range).copy_from_slice(data);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), AtaError> {
        self.flushes += 1;
        Ok(())
    }

    fn discard(&mut self, range: SectorRange) -> Result<(), AtaError> {
        self.discards += 1;
        self.part(range).fill(0);
        Ok(())
    }
}

/// A frame that may well be valid, before it is broken.
fn plausible(random: &mut Random) -> Vec<u8> {
    let src = u8::try_from(random.below(4)).unwrap() + 0x0a;
    let mut frame =
        vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, src, 0x88, 0xa2, 0x10, 0, 0, 7, 3, 0, 1, 2, 3, 4];
    match random.below(10) {
        0 => {
            frame[19] = 1;
            let len = random.below(40);
            let [n0, n1] = u16::try_from(len).unwrap().to_be_bytes();
            frame.extend([0, 0, 0, 0, 0, u8::try_from(random.below(6)).unwrap(), n0, n1]);
            frame.resize(frame.len() + len, b'c');
        }
        1 => {
            frame[19] = 2;
            let count = u8::try_from(random.below(6)).unwrap();
            frame.extend([0, u8::try_from(random.below(3)).unwrap(), 0, count]);
            for _ in 0..count {
                let mac = u8::try_from(random.below(4)).unwrap() + 0x0a;
                frame.extend([0, u8::try_from(random.below(4)).unwrap(), 2, 0, 0, 0, 0, mac]);
            }
        }
        2 => {
            frame[19] = 3;
            let count = u8::try_from(random.below(4)).unwrap();
            frame.extend([u8::try_from(random.below(4)).unwrap(), count]);
            for _ in 0..count {
                frame.extend([2, 0, 0, 0, 0, u8::try_from(random.below(4)).unwrap() + 0x0a]);
            }
        }
        kind => {
            let opcodes = [0xec, 0x20, 0x24, 0x30, 0x34, 0x25, 0x35, 0x3d, 0x40, 0x42, 0x06, 0xe7];
            let opcode = opcodes[random.below(opcodes.len())];
            let writes = matches!(opcode, 0x30 | 0x34 | 0x35 | 0x3d | 0x06);
            let wide = matches!(opcode, 0x24 | 0x34 | 0x25 | 0x35 | 0x3d | 0x42);
            let flags = u8::from(writes) | if wide { 0x40 } else { 0 };
            let count = u8::try_from(random.below(4)).unwrap();
            frame.extend([flags, u8::from(opcode == 0x06), count, opcode, random.byte()]);
            frame.extend([u8::try_from(random.below(2)).unwrap(), 0, 0, 0, 0, 0, 0]);
            let data = if writes { usize::from(count) * 512 } else { kind };
            frame.resize(frame.len() + data, 0);
            if opcode == 0x06 && data > 0 {
                frame[36..44].copy_from_slice(&[random.byte(), 0, 0, 0, 0, 0, 2, 0]);
            }
        }
    }
    frame
}

/// Breaks some of the frames, each in some of these ways.
fn mutate(frame: &mut Vec<u8>, random: &mut Random) {
    while random.one_in(2) {
        match random.below(6) {
            0 => frame.truncate(random.below(frame.len() + 1)),
            1 => frame.resize(frame.len() + random.below(2000), 0x77),
            2 | 3 if !frame.is_empty() => {
                let at = random.below(frame.len().min(48));
                frame[at] = random.byte();
            }
            4 if frame.len() > 18 => frame[16 + random.below(3)] = 0xff,
            _ if !frame.is_empty() => {
                let at = random.below(frame.len().min(48));
                frame[at] ^= 1 << random.below(8);
            }
            _ => {}
        }
    }
}

#[test]
fn a_hundred_thousand_broken_frames() {
    let config = TargetConfig {
        trim: TrimSupport::Zeroing,
        ..TargetConfig::new(Address::new(7, 3).unwrap(), SECTORS)
    };
    let mut target = Target::new(config).unwrap();
    let bytes = vec![0; usize::try_from(SECTORS).unwrap() * 512];
    let mut disk = StrictDisk { bytes, ..StrictDisk::default() };
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let links = [1500, 9000, LinkLimits::MTU_MIN].map(|mtu| LinkLimits::for_mtu(mtu).unwrap());
    let mut buf = vec![0; 9014];
    let (mut answered, mut changed) = (0, 0);
    for number in 0..FRAMES {
        let mut frame = plausible(&mut random);
        mutate(&mut frame, &mut random);
        let link = links[random.below(3)];
        assert!(!PrintFrame(&frame).to_string().is_empty());
        let Ok(request) = Incoming::parse(&frame, OWN) else {
            continue;
        };
        let action = target.handle(&request, link);
        if let Action::Reply(reply) = &action {
            changed += u32::from(reply.change().is_some());
        }
        buf.fill(0xa5);
        let sent = serve(&target, action, &mut disk, &mut buf[..link.frame_len_max()]).unwrap();
        if let Some(len) = sent {
            answered += 1;
            assert!((60..=link.frame_len_max()).contains(&len), "frame {number}: {len} bytes");
            let (header, _) = Header::parse(&buf[..len]).unwrap();
            assert!(header.response && header.version == 1);
            assert_eq!((header.dst, header.src), (request.src(), OWN));
            assert_eq!((header.command, header.tag), (request.command(), request.tag()));
            assert_eq!(header.address.exact(), Some(target.address()));
            assert!(!PrintFrame(&buf[..len]).to_string().is_empty());
        }
        if random.one_in(64) {
            // Masks and reservations would lock everybody out in time.
            target.state_mut().clear_mask();
            target.state_mut().clear_reservation();
        }
    }
    println!(
        "{FRAMES} frames: {answered} answered, {changed} changes, {} reads, {} writes, {} flushes, {} discards",
        disk.reads, disk.writes, disk.flushes, disk.discards
    );
    // The session must have come everywhere, or it proves nothing.
    assert!(answered > FRAMES / 10 && changed > 100);
    assert!(disk.reads > 1000 && disk.writes > 1000 && disk.flushes > 100 && disk.discards > 100);
}
