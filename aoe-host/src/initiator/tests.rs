//! Sessions against a real target of `aoe_proto`, over the in-memory switch, with and without loss.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use aoe_proto::initiator::{Answer, Failure, Request, Timing};
use aoe_proto::wire::ConfigCommand;
use aoe_proto::{
    Address, AtaError, Disk, Identity, Incoming, LinkLimits, Mac, SectorRange, Target,
    TargetConfig, serve,
};

use super::*;
use crate::error::ErrorKind;
use crate::link::memory::{Port, PortConfig, Switch};
use crate::link::{Link, wait};

/// Longest wait for an answer: catches hangs only.
const PATIENCE: Duration = Duration::from_mins(1);

fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

fn address() -> Address {
    Address::new(7, 3).unwrap()
}

struct MemoryDisk(Vec<u8>);

impl Disk for MemoryDisk {
    fn read(&mut self, range: SectorRange, data: &mut [u8]) -> Result<(), AtaError> {
        let at = usize::try_from(range.byte_offset()).unwrap();
        data.copy_from_slice(&self.0[at..][..range.len_bytes()]);
        Ok(())
    }

    fn write(&mut self, range: SectorRange, data: &[u8]) -> Result<(), AtaError> {
        let at = usize::try_from(range.byte_offset()).unwrap();
        self.0[at..][..range.len_bytes()].copy_from_slice(data);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), AtaError> {
        Ok(())
    }

    fn discard(&mut self, _range: SectorRange) -> Result<(), AtaError> {
        Ok(())
    }
}

/// A target in a thread of its own, which loses every `loss`th frame in each direction.
struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<u8>>>,
}

impl Server {
    fn start(mut port: Port, disk: Vec<u8>, loss: Option<u32>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let limits = LinkLimits::for_mtu(port.mtu()).unwrap();
            let config = TargetConfig::new(address(), disk.len() as u64 / 512);
            let config = TargetConfig { identity: Identity::default(), ..config };
            let mut target = Target::new(config).unwrap();
            let mut disk = MemoryDisk(disk);
            let mut frames = 0_u32;
            let mut drops_next = |loss: Option<u32>| {
                frames += 1;
                loss.is_some_and(|loss| frames.is_multiple_of(loss))
            };
            while !ended.load(Ordering::SeqCst) {
                wait(&[port.poll_fd().unwrap()], Some(Duration::from_millis(5))).unwrap();
                let own_mac = port.mac();
                let mut answers: Vec<Vec<u8>> = Vec::new();
                port.receive(usize::MAX, &mut |frame| {
                    let Ok(incoming) = Incoming::parse(frame, own_mac) else { return };
                    if drops_next(loss) {
                        return;
                    }
                    let action = target.handle(&incoming, limits);
                    let mut answer = vec![0; limits.frame_len_max()];
                    if let Some(len) = serve(&target, action, &mut disk, &mut answer).unwrap() {
                        answer.truncate(len);
                        answers.push(answer);
                    }
                });
                answers.retain(|_| !drops_next(loss));
                port.send(&mut answers.iter().map(Vec::as_slice));
            }
            disk.0
        });
        Self { stop, thread: Some(thread) }
    }

    /// The contents of the disk in the end.
    fn stop(mut self) -> Vec<u8> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap()
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

fn start(mtu: usize, disk: Vec<u8>, loss: Option<u32>) -> (Server, Port) {
    let switch = Switch::new();
    let port = |n| {
        let config = PortConfig { mtu, wake: true, ..PortConfig::new(mac(n)) };
        switch.add_port("mem", config).unwrap()
    };
    (Server::start(port(1), disk, loss), port(2))
}

fn read_all(session: &mut Session<'_>, span: SectorSpan) -> Vec<u8> {
    let mut bytes = Vec::new();
    session
        .read(span, |data| {
            bytes.extend_from_slice(data);
            Ok(())
        })
        .unwrap();
    bytes
}

#[test]
fn finds_the_target_and_learns_its_limits() {
    let (server, mut port) = start(9000, vec![0; 512 * 100], None);
    // It listens to the end of its time; how soon the other thread answers nobody knows.
    let begun = Instant::now();
    let found = loop {
        let found = discover(&mut port, Duration::from_millis(50)).unwrap();
        if !found.is_empty() || begun.elapsed() > PATIENCE {
            break found;
        }
    };
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].address, found[0].mac), (address(), mac(1)));
    let mut session = Session::new(&mut port, address(), PATIENCE).unwrap();
    let identity = session.connect().unwrap();
    assert_eq!(identity.sectors, 100);
    assert!(identity.lba48);
    assert_eq!(session.target_mac(), Some(mac(1)));
    assert_eq!(session.sectors_max(), 16);
    server.stop();
}

#[test]
fn reads_and_writes_any_range_in_order() {
    let (server, mut port) = start(1500, pattern(512 * 1000), None);
    let mut session = Session::new(&mut port, address(), PATIENCE).unwrap();
    session.connect().unwrap();
    let bytes = read_all(&mut session, SectorSpan { lba: 3, sectors: 900 });
    assert_eq!(bytes, pattern(512 * 1000)[512 * 3..][..512 * 900]);
    assert!(read_all(&mut session, SectorSpan { lba: 3, sectors: 0 }).is_empty());

    let mut source = [0xA5_u8, 0x5A].into_iter().cycle();
    let mut acknowledged = 0;
    session
        .write(
            SectorSpan { lba: 5, sectors: 301 },
            |data| {
                data.iter_mut().zip(&mut source).for_each(|(to, from)| *to = from);
                Ok(())
            },
            |bytes| acknowledged += bytes,
        )
        .unwrap();
    assert_eq!(acknowledged, 301 * 512);
    let disk = server.stop();
    let written = 512 * 5..512 * 306;
    assert!(disk[written.clone()].chunks(2).all(|pair| pair == [0xA5, 0x5A]));
    assert_eq!(disk[..written.start], pattern(disk.len())[..written.start]);
    assert_eq!(disk[written.end..], pattern(disk.len())[written.end..]);
}

#[test]
fn loss_costs_time_but_no_data() {
    let (server, mut port) = start(9000, pattern(512 * 400), Some(17));
    let timing = Timing { retransmit_min_ms: 5, retransmit_first_ms: 20, ..Timing::default() };
    let mut session = Session::with_timing(&mut port, address(), timing).unwrap();
    session.connect().unwrap();
    let span = SectorSpan { lba: 0, sectors: 400 };
    assert_eq!(read_all(&mut session, span), pattern(512 * 400));
    let mut n = 0_u8;
    let fill = |data: &mut [u8]| {
        n = n.wrapping_add(1);
        data.fill(n);
        Ok(())
    };
    session.write(span, fill, |_| ()).unwrap();
    let disk = server.stop();
    let pieces: Vec<u8> = disk.chunks(512 * 16).map(|piece| piece[0]).collect();
    assert_eq!(pieces, (1..=25).collect::<Vec<u8>>());
}

#[test]
fn silence_is_a_timeout_that_names_the_target() {
    let (server, mut port) = start(1500, vec![0; 512], None);
    let absent = Address::new(9, 9).unwrap();
    let mut session = Session::new(&mut port, absent, Duration::from_millis(60)).unwrap();
    let error = session.connect().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("e9.9"), "{error}");
    server.stop();
}

#[test]
fn errors_of_the_disk_are_reported() {
    let (server, mut port) = start(1500, vec![0; 512 * 4], None);
    let mut session = Session::new(&mut port, address(), PATIENCE).unwrap();
    session.connect().unwrap();
    let error = session.read(SectorSpan { lba: 3, sectors: 4 }, |_| Ok(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    server.stop();
}

#[test]
fn config_strings_are_set_once() {
    let (server, mut port) = start(1500, vec![0; 512], None);
    let mut session = Session::new(&mut port, address(), PATIENCE).unwrap();
    session.connect().unwrap();
    let set = |string: &str| Request::Config {
        command: ConfigCommand::Set,
        string: string.as_bytes().to_vec(),
    };
    session.order("set", set("mine")).unwrap();
    let error = session.order("set", set("yours")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    let string = session
        .ask("read", Request::ConfigRead, |completion| match completion.result? {
            Answer::Config(found) => Ok(found.string.to_vec()),
            _ => Err(Failure::Malformed),
        })
        .unwrap();
    assert_eq!(string, b"mine");
    server.stop();
}
