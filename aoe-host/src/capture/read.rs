//! Reads pcap and pcapng files, however damaged.

use core::time::Duration;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use pcap_parser::traits::{PcapNGPacketBlock, PcapReaderIterator};
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};

use super::{Tagged, strip_tag};
use crate::error::{ErrorKind, HostError, Result};

/// First size of the buffer; it grows for longer records.
const BUFFER_LEN: usize = 1 << 17;
/// Longest record taken for one: frames have at most 64 KiB, and a damaged length can say anything.
const RECORD_LEN_MAX: usize = 1 << 21;
/// Octets of a file that tell what it is: the header of a classic file, and more.
const BEGINNING_LEN: usize = 64;
/// Interfaces of one section of a pcapng file that are told apart.
const INTERFACES_MAX: usize = 4096;

/// One frame of a file.
#[derive(Debug)]
pub struct Packet<'f> {
    /// When it was captured, since 1970.
    pub at: Duration,
    /// The frame without VLAN tag; its end may have been cut off.
    pub frame: &'f [u8],
    /// Its whole length without VLAN tag.
    pub wire_len: usize,
    /// The tag control information of its VLAN tag.
    pub tci: Option<u16>,
}

/// A capture file being read.
pub struct CaptureFile {
    path: PathBuf,
    reader: Box<dyn PcapReaderIterator + Send>,
    /// Of the reader's buffer.
    capacity: usize,
    /// By interface number in the current section; a classic file has one.
    interfaces: Vec<Interface>,
    scratch: Vec<u8>,
    records: u64,
    foreign: u64,
}

/// How the frames of one interface are written.
#[derive(Clone, Copy, Debug)]
struct Interface {
    ethernet: bool,
    /// Octets of the frame check sequence that are part of its frames.
    fcs_len: usize,
    /// Units of its times per second.
    resolution: u64,
    /// Seconds to add to its times.
    offset: i64,
}

impl core::fmt::Debug for CaptureFile {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("CaptureFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What one block of a file turned out to be.
enum Found {
    /// In the scratch memory, without tag handling yet.
    Frame {
        at: Duration,
        wire_len: usize,
    },
    Nothing,
}

impl CaptureFile {
    /// Opens a file; `-` is standard input.
    ///
    /// # Errors
    /// Those of the file system; `Corrupt` for what is no capture file.
    pub fn open(path: &Path) -> Result<Self> {
        if path.as_os_str() == "-" {
            return Self::from_reader(path, io::stdin());
        }
        let file = File::open(path)
            .map_err(|error| HostError::io(error, "open the capture file").path(path))?;
        Self::from_reader(path, file)
    }

    /// Reads from anything; `path` is for messages only.
    ///
    /// # Errors
    /// `Corrupt` for what is no capture file.
    pub fn from_reader(path: &Path, source: impl Read + Send + 'static) -> Result<Self> {
        let reader =
            create_reader(BUFFER_LEN, Beginning { source, begun: false }).map_err(|error| {
                let wrong = match error {
                    PcapError::Eof => "the file is empty",
                    PcapError::ReadError => "the file cannot be read",
                    _ => "neither a pcap nor a pcapng file",
                };
                HostError::new(ErrorKind::Corrupt, "read the capture file").path(path).detail(wrong)
            })?;
        Ok(Self {
            path: path.to_owned(),
            reader,
            capacity: BUFFER_LEN,
            interfaces: Vec::new(),
            scratch: Vec::new(),
            records: 0,
            foreign: 0,
        })
    }

    /// Frames so far of interfaces that are not Ethernet; they were left out.
    pub fn foreign(&self) -> u64 {
        self.foreign
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// `Corrupt` where the file contradicts itself or ends in the middle of a record; there is
    /// nothing more to read then.
    pub fn next_packet(&mut self) -> Result<Option<Packet<'_>>> {
        let (at, wire_len) = loop {
            match self.advance()? {
                None => return Ok(None),
                Some(Found::Nothing) => {}
                Some(Found::Frame { at, wire_len }) => break (at, wire_len),
            }
        };
        let captured = self.scratch.len();
        let Tagged { frame, tci } = strip_tag(&mut self.scratch);
        let wire_len = wire_len.max(captured) - (captured - frame.len());
        Ok(Some(Packet { at, frame, wire_len, tci }))
    }

    /// Takes one block.
    fn advance(&mut self) -> Result<Option<Found>> {
        loop {
            let step = match self.reader.next() {
                Ok((len, block)) => {
                    let Self { interfaces, scratch, foreign, .. } = self;
                    Step::Took(len, take(&block, interfaces, scratch, foreign))
                }
                Err(PcapError::Eof) => return Ok(None),
                Err(PcapError::Incomplete(_)) => Step::Refill,
                Err(PcapError::BufferTooSmall) => Step::Grow,
                Err(PcapError::UnexpectedEof) => Step::Wrong("it ends in the middle of a record"),
                Err(_) => Step::Wrong("a record contradicts itself"),
            };
            let wrong = match step {
                Step::Took(len, found) => {
                    self.records += 1;
                    self.reader.consume(len);
                    match found {
                        Ok(found) => return Ok(Some(found)),
                        Err(wrong) => wrong,
                    }
                }
                Step::Refill if self.reader.refill().is_ok() => continue,
                Step::Grow if self.grow() => continue,
                Step::Refill => "it cannot be read",
                Step::Grow => "a record is longer than any frame",
                Step::Wrong(wrong) => wrong,
            };
            let detail = format!("damaged at record {}: {wrong}", self.records + 1);
            let error = HostError::new(ErrorKind::Corrupt, "read the capture file");
            return Err(error.path(&self.path).detail(detail));
        }
    }

    /// Makes room for a longer record. `false` if no record is so long.
    fn grow(&mut self) -> bool {
        self.capacity *= 2;
        self.capacity <= RECORD_LEN_MAX && self.reader.grow(self.capacity)
    }
}

/// What one call of the reader leads to.
enum Step {
    /// A block of this length.
    Took(usize, core::result::Result<Found, &'static str>),
    Refill,
    Grow,
    Wrong(&'static str),
}

/// Gives enough at the first read: the reader judges a file by its first piece, and a pipe may give
/// less. Later reads give what there is, so that a pipe can be followed.
struct Beginning<R> {
    source: R,
    begun: bool,
}

impl<R: Read> Read for Beginning<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = if self.begun { 1 } else { BEGINNING_LEN };
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.source.read(rest) {
                Ok(0) => break,
                Ok(len) => filled += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if filled >= wanted {
                break;
            }
        }
        self.begun = true;
        Ok(filled)
    }
}

/// Makes of a block what it is; an error says what is wrong with it.
fn take(
    block: &PcapBlockOwned<'_>,
    interfaces: &mut Vec<Interface>,
    scratch: &mut Vec<u8>,
    foreign: &mut u64,
) -> core::result::Result<Found, &'static str> {
    let (interface, ticks, data, wire_len) = match block {
        PcapBlockOwned::LegacyHeader(header) => {
            let nanoseconds = header.is_nanosecond_precision();
            // The upper bits of the link type may announce a frame check sequence.
            let network = header.network.0.cast_unsigned();
            let fcs = if network & 0x0400_0000 != 0 { network >> 28 } else { 0 };
            *interfaces = vec![Interface {
                ethernet: network & 0xFFFF == 1,
                fcs_len: 2 * usize::try_from(fcs).unwrap_or(0),
                resolution: if nanoseconds { 1_000_000_000 } else { 1_000_000 },
                offset: 0,
            }];
            return Ok(Found::Nothing);
        }
        PcapBlockOwned::Legacy(packet) => {
            let interface = *interfaces.first().ok_or("a record without a header")?;
            let seconds = u64::from(packet.ts_sec).saturating_mul(interface.resolution);
            let ticks = seconds.saturating_add(u64::from(packet.ts_usec));
            (interface, ticks, packet.data, packet.origlen)
        }
        PcapBlockOwned::NG(Block::SectionHeader(_)) => {
            interfaces.clear();
            return Ok(Found::Nothing);
        }
        PcapBlockOwned::NG(Block::InterfaceDescription(description)) => {
            if interfaces.len() >= INTERFACES_MAX {
                return Err("more interfaces than any machine has");
            }
            interfaces.push(Interface {
                ethernet: description.linktype == Linktype::ETHERNET,
                fcs_len: 0,
                resolution: resolution(description.if_tsresol).ok_or("an impossible clock")?,
                offset: description.if_tsoffset,
            });
            return Ok(Found::Nothing);
        }
        PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
            let index = usize::try_from(packet.if_id).unwrap_or(usize::MAX);
            let interface = *interfaces.get(index).ok_or("a frame of an unknown interface")?;
            let ticks = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
            (interface, ticks, packet.packet_data(), packet.origlen)
        }
        PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
            let interface = *interfaces.first().ok_or("a frame of an unknown interface")?;
            (interface, 0, packet.packet_data(), packet.origlen)
        }
        PcapBlockOwned::NG(_) => return Ok(Found::Nothing),
    };
    if !interface.ethernet {
        *foreign += 1;
        return Ok(Found::Nothing);
    }
    let whole = usize::try_from(wire_len).unwrap_or(usize::MAX);
    let wire_len = whole.saturating_sub(interface.fcs_len);
    scratch.clear();
    scratch.extend_from_slice(data.get(..wire_len).unwrap_or(data));
    Ok(Found::Frame { at: interface.time(ticks), wire_len })
}

impl Interface {
    /// A time in its units, since 1970.
    fn time(&self, ticks: u64) -> Duration {
        let seconds = ticks.checked_div(self.resolution).unwrap_or(0);
        let rest = ticks.checked_rem(self.resolution).unwrap_or(0);
        let nanos = u128::from(rest) * 1_000_000_000 / u128::from(self.resolution.max(1));
        let seconds = seconds.saturating_add_signed(self.offset);
        Duration::new(seconds, u32::try_from(nanos).unwrap_or(0))
    }
}

/// Units per second of the option `if_tsresol`: a power of 10, or of 2 with the top bit set.
fn resolution(code: u8) -> Option<u64> {
    let exponent = u32::from(code & 0x7F);
    if code & 0x80 == 0 { 10_u64.checked_pow(exponent) } else { 1_u64.checked_shl(exponent) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::CaptureWriter;

    const FRAME: [u8; 20] = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xa2, 0x10, 0, 0xff, 0xff,
        0xff, 1,
    ];

    /// A classic file, written by hand: one frame of 20 octets at 100.5 s.
    fn classic(big_endian: bool, nanoseconds: bool) -> Vec<u8> {
        let magic: u32 = if nanoseconds { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
        let fraction = if nanoseconds { 500_000_000 } else { 500_000 };
        let word = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        let half = |value: u16| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        let mut bytes = Vec::new();
        bytes.extend(word(magic));
        bytes.extend([half(2), half(4)].concat());
        for value in [0, 0, 65_535, 1, 100, fraction, 20, 60] {
            bytes.extend(word(value));
        }
        bytes.extend(FRAME);
        bytes
    }

    /// A pcapng file: section, an interface that is not Ethernet, one with times in 1/8 s, a frame
    /// of each, and a frame with an unknown kind of block in front.
    fn modern() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut block = |kind: u32, body: &[u8]| {
            let padding = body.len().next_multiple_of(4) - body.len();
            let len = u32::try_from(12 + body.len() + padding).unwrap();
            bytes.extend(kind.to_le_bytes());
            bytes.extend(len.to_le_bytes());
            bytes.extend(body);
            bytes.extend(vec![0; padding]);
            bytes.extend(len.to_le_bytes());
        };
        let words = |values: &[u32]| -> Vec<u8> {
            values.iter().flat_map(|value| value.to_le_bytes()).collect()
        };
        block(0x0a0d_0d0a, &[words(&[0x1a2b_3c4d, 1]), vec![0xff; 8]].concat());
        block(1, &words(&[113, 0]));
        block(1, &[words(&[1, 0]), vec![9, 0, 1, 0, 0x83, 0, 0, 0, 0, 0, 0, 0]].concat());
        block(0x0bad, &[1, 2, 3]);
        block(6, &[words(&[0, 0, 0, 20, 20]), FRAME.to_vec()].concat());
        block(6, &[words(&[1, 0, 804, 20, 60]), FRAME.to_vec()].concat());
        bytes
    }

    fn open(bytes: Vec<u8>) -> Result<CaptureFile> {
        CaptureFile::from_reader(Path::new("a.pcap"), io::Cursor::new(bytes))
    }

    /// Reads to the end; the error at the end, if any.
    fn read_all(bytes: Vec<u8>) -> (u32, Option<HostError>) {
        let mut file = match open(bytes) {
            Ok(file) => file,
            Err(error) => return (0, Some(error)),
        };
        let mut frames = 0;
        loop {
            match file.next_packet() {
                Ok(Some(_)) => frames += 1,
                Ok(None) => return (frames, None),
                Err(error) => return (frames, Some(error)),
            }
        }
    }

    #[test]
    fn files_of_every_kind() {
        for bytes in [
            classic(false, false),
            classic(true, false),
            classic(false, true),
            classic(true, true),
            modern(),
        ] {
            let mut file = open(bytes).unwrap();
            let packet = file.next_packet().unwrap().unwrap();
            assert_eq!(packet.at, Duration::from_millis(100_500));
            assert_eq!((packet.frame, packet.wire_len, packet.tci), (&FRAME[..], 60, None));
            assert!(file.next_packet().unwrap().is_none());
        }
        let mut file = open(modern()).unwrap();
        while file.next_packet().unwrap().is_some() {}
        assert_eq!(file.foreign(), 1);
    }

    #[test]
    fn what_we_write_reads_back_with_its_vlan_tag() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.pcap");
        let mut writer = CaptureWriter::create(&path).unwrap();
        let at = Duration::new(7, 123_456_789);
        writer.append(at, &FRAME, 20, Some(0xE005)).unwrap();
        writer.append(at, &FRAME, 60, None).unwrap();
        writer.flush().unwrap();
        let mut file = CaptureFile::open(&path).unwrap();
        for (wire_len, tci) in [(20, Some(0xE005)), (60, None)] {
            let packet = file.next_packet().unwrap().unwrap();
            assert_eq!((packet.at, packet.frame), (at, &FRAME[..]));
            assert_eq!((packet.wire_len, packet.tci), (wire_len, tci));
        }
        assert!(file.next_packet().unwrap().is_none());
    }

    #[test]
    fn damage_is_an_error_that_names_the_record() {
        let (frames, error) = read_all(classic(false, false)[..50].to_vec());
        assert_eq!(frames, 0);
        let text = error.unwrap().to_string();
        assert!(text.contains("`a.pcap`: damaged at record 2"), "{text}");
        let mut long = classic(false, false);
        long[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
        let text = read_all(long).1.unwrap().to_string();
        assert!(text.contains("longer than any frame"), "{text}");
        let text =
            read_all(b"no capture file, but long enough for the header of one ........".to_vec());
        assert!(text.1.unwrap().to_string().contains("neither"));
        assert!(read_all(Vec::new()).1.unwrap().to_string().contains("empty"));
    }

    /// Xorshift: the same damage in every run.
    #[test]
    fn no_damage_is_a_panic_or_an_endless_loop() {
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut below = |limit: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            usize::try_from(random % u64::try_from(limit).unwrap()).unwrap()
        };
        let mut ends = [0_u32; 2];
        for round in 0..3000 {
            let mut bytes = match round % 3 {
                0 => classic(false, false),
                1 => classic(true, true),
                _ => modern(),
            };
            let tail = bytes[24..].to_vec();
            bytes.extend(tail);
            for _ in 0..=below(4) {
                let at = below(bytes.len());
                bytes[at] = match below(4) {
                    0 => 0xff,
                    1 => 0x80,
                    2 => 0,
                    _ => bytes[at] ^ 1 << below(8),
                };
            }
            bytes.truncate(bytes.len() - below(2) * below(bytes.len()));
            let (frames, error) = read_all(bytes);
            assert!(frames < 10);
            ends[usize::from(error.is_some())] += 1;
        }
        assert!(ends.iter().all(|count| *count > 200), "{ends:?}");
    }
}
