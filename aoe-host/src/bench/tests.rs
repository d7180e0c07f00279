//! Loads against a real target of `aoe_proto` over the in-memory switch: sound, lossy, and broken in
//! ways that verification has to find.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use aoe_proto::{
    Address, AtaError, Disk, Incoming, LinkLimits, Mac, SectorRange, Target, TargetConfig, serve,
};

use super::*;
use crate::error::{ErrorKind, Result};
use crate::link::memory::{Port, PortConfig, Switch};
use crate::link::{Link, wait};

const SECTORS: u64 = 1024;
/// Longest wait for anything: catches hangs only.
const PATIENCE: Duration = Duration::from_mins(1);

fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

fn address() -> Address {
    Address::new(7, 3).unwrap()
}

/// In which way a disk is broken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fault {
    None,
    /// Some writes are acknowledged and forgotten.
    LosesWrites,
    /// Some writes land eight sectors further on.
    MisplacesWrites,
    /// Some writes are done but for their last byte.
    TearsWrites,
    /// Some reads return other data.
    LiesWhenRead,
    /// Some requests fail.
    Fails,
}

/// What a disk was asked for: reads and writes by first sector.
#[derive(Debug, Default)]
struct Seen {
    reads: BTreeMap<u64, u32>,
    writes: BTreeMap<u64, u32>,
}

struct BrokenDisk {
    data: Vec<u8>,
    fault: Fault,
    requests: u32,
    seen: Arc<Mutex<Seen>>,
}

impl BrokenDisk {
    fn strikes(&mut self) -> bool {
        self.requests += 1;
        self.fault != Fault::None && self.requests.is_multiple_of(20)
    }
}

impl Disk for BrokenDisk {
    fn read(&mut self, range: SectorRange, data: &mut [u8]) -> core::result::Result<(), AtaError> {
        *self.seen.lock().unwrap().reads.entry(range.lba()).or_default() += 1;
        let at = usize::try_from(range.byte_offset()).unwrap();
        data.copy_from_slice(&self.data[at..][..range.len_bytes()]);
        match (self.strikes(), self.fault) {
            (true, Fault::LiesWhenRead) => data[100] ^= 1,
            (true, Fault::Fails) => return Err(AtaError::Uncorrectable),
            _ => {}
        }
        Ok(())
    }

    fn write(&mut self, range: SectorRange, data: &[u8]) -> core::result::Result<(), AtaError> {
        *self.seen.lock().unwrap().writes.entry(range.lba()).or_default() += 1;
        let mut at = usize::try_from(range.byte_offset()).unwrap();
        let mut data = data.to_vec();
        match (self.strikes(), self.fault) {
            (true, Fault::LosesWrites) => return Ok(()),
            (true, Fault::MisplacesWrites) => {
                at = (at + 4096) % (self.data.len() - 4096);
            }
            (true, Fault::TearsWrites) => *data.last_mut().unwrap() ^= 1,
            (true, Fault::Fails) => return Err(AtaError::WriteFault),
            _ => {}
        }
        self.data[at..][..data.len()].copy_from_slice(&data);
        Ok(())
    }

    fn flush(&mut self) -> core::result::Result<(), AtaError> {
        Ok(())
    }

    fn discard(&mut self, _range: SectorRange) -> core::result::Result<(), AtaError> {
        Ok(())
    }
}

/// A target in a thread of its own, which loses every `loss`th frame in each direction.
struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    seen: Arc<Mutex<Seen>>,
}

impl Server {
    fn start(mut port: Port, fault: Fault, loss: Option<u32>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let seen = Arc::default();
        let data = (0..=250).cycle().take(usize::try_from(SECTORS).unwrap() * 512).collect();
        let mut disk = BrokenDisk { data, fault, requests: 0, seen: Arc::clone(&seen) };
        let thread = std::thread::spawn(move || {
            let limits = LinkLimits::for_mtu(port.mtu()).unwrap();
            let mut target = Target::new(TargetConfig::new(address(), SECTORS)).unwrap();
            let mut frames = 0_u32;
            let mut drops_next = || {
                frames += 1;
                loss.is_some_and(|loss| frames.is_multiple_of(loss))
            };
            while !ended.load(Ordering::SeqCst) {
                wait(&[port.poll_fd().unwrap()], Some(Duration::from_millis(5))).unwrap();
                let own_mac = port.mac();
                let mut answers: Vec<Vec<u8>> = Vec::new();
                port.receive(usize::MAX, &mut |frame| {
                    let Ok(incoming) = Incoming::parse(frame, own_mac) else { return };
                    if drops_next() {
                        return;
                    }
                    let action = target.handle(&incoming, limits);
                    let mut answer = vec![0; limits.frame_len_max()];
                    if let Some(len) = serve(&target, action, &mut disk, &mut answer).unwrap() {
                        answer.truncate(len);
                        answers.push(answer);
                    }
                });
                answers.retain(|_| !drops_next());
                port.send(&mut answers.iter().map(Vec::as_slice));
            }
        });
        Self { stop, thread: Some(thread), seen }
    }

    fn seen(mut self) -> Seen {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
        core::mem::take(&mut self.seen.lock().unwrap())
    }
}

fn plan(edit: impl FnOnce(&mut Plan)) -> Plan {
    let mut plan = Plan::new(vec![address()]);
    plan.writable.push(address());
    plan.time = None;
    plan.count = Some(1000);
    plan.warm_up = Duration::ZERO;
    plan.depth = 8;
    // Nothing is asked for twice because the other thread was not run for a while.
    (plan.retransmit, plan.give_up) = (PATIENCE, PATIENCE);
    edit(&mut plan);
    plan
}

/// Runs a plan against a server, and tells what the server saw.
fn run_against(fault: Fault, loss: Option<u32>, plan: &Plan) -> (Result<Report>, Seen) {
    let switch = Switch::new();
    let port = |n| {
        let config = PortConfig { mtu: 9000, wake: true, ..PortConfig::new(mac(n)) };
        switch.add_port("mem", config).unwrap()
    };
    let server = Server::start(port(1), fault, loss);
    let mut client = port(2);
    let report = run(&mut LinkWire::new(&mut client), plan);
    (report, server.seen())
}

fn sum(requests: &BTreeMap<u64, u32>) -> u32 {
    requests.values().sum()
}

#[test]
fn so_many_requests_as_were_asked_for() {
    let (report, seen) = run_against(Fault::None, None, &plan(|plan| plan.write_percent = 30));
    let report = report.unwrap();
    assert_eq!((report.all.requests, sum(&seen.reads) + sum(&seen.writes)), (1000, 1000));
    assert_eq!(report.writes.requests, u64::from(sum(&seen.writes)));
    assert!((200..400).contains(&report.writes.requests), "about 30 %: {report:?}");
    assert_eq!(report.requests_per_100_ms.iter().sum::<u64>(), 1000);
    assert_eq!(report.latency_ranges_us.iter().map(|range| range.1).sum::<u64>(), 1000);
    assert!(report.is_clean() && report.verified.is_none());
}

#[test]
fn each_position_once() {
    for order in [Order::Random, Order::Sequential] {
        let plan = plan(|plan| {
            (plan.order, plan.once, plan.count) = (order, true, None);
            (plan.sectors, plan.stride_sectors) = (Some(1), Some(2));
            (plan.first_sector, plan.region_sectors) = (100, Some(200));
            plan.write_percent = 100;
        });
        let (report, seen) = run_against(Fault::None, None, &plan);
        assert_eq!(report.unwrap().writes.requests, 100);
        let expected: BTreeMap<_, _> = (0..100).map(|n| (100 + 2 * n, 1)).collect();
        assert_eq!(seen.writes, expected);
    }
}

#[test]
fn a_time_ends_it_too() {
    let plan = plan(|plan| {
        (plan.count, plan.time) = (None, Some(Duration::from_millis(30)));
        // Long enough for one request at least.
        plan.warm_up = Duration::from_millis(100);
    });
    let (report, seen) = run_against(Fault::None, None, &plan);
    let report = report.unwrap();
    assert!(report.seconds >= 0.03 && report.is_clean(), "{report:?}");
    assert!(report.all.requests < u64::from(sum(&seen.reads)), "the warm-up does not count");
}

#[test]
fn nothing_is_written_without_leave() {
    let plan = plan(|plan| (plan.write_percent, plan.writable) = (1, Vec::new()));
    let (report, seen) = run_against(Fault::None, None, &plan);
    assert_eq!(report.unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(sum(&seen.reads) + sum(&seen.writes), 0);
}

#[test]
fn sound_disks_verify_even_on_a_bad_wire() {
    for loss in [None, Some(50)] {
        let plan = plan(|plan| {
            (plan.write_percent, plan.verify) = (50, Verify::OwnDisks);
            if loss.is_some() {
                plan.retransmit = Duration::from_millis(20);
            }
        });
        let (report, seen) = run_against(Fault::None, loss, &plan);
        let report = report.unwrap();
        let verified = report.verified.as_ref().unwrap();
        assert_eq!((verified.wrong_sectors, report.lost), (0, 0), "{verified:?}");
        assert_eq!(report.retransmitted > 0, loss.is_some(), "{report:?}");
        let read_back = u64::from(sum(&seen.reads)) * 8 - report.reads.requests * 8;
        assert!(read_back > 0 && verified.checked_sectors > report.reads.requests * 8);
        assert!(report.is_clean());
    }
}

/// What verification says about a broken disk.
fn findings(fault: Fault, write_percent: u8) -> (u64, String) {
    let plan = plan(|plan| (plan.write_percent, plan.verify) = (write_percent, Verify::OwnDisks));
    let report = run_against(fault, None, &plan).0.unwrap();
    assert!(!report.is_clean(), "{fault:?}");
    let verified = report.verified.unwrap();
    (verified.wrong_sectors, verified.findings.join("\n"))
}

#[test]
fn lost_writes_are_found_even_if_nobody_reads_meanwhile() {
    for percent in [50, 100] {
        let (wrong, text) = findings(Fault::LosesWrites, percent);
        assert!(wrong >= 8 && text.contains("a write was lost"), "{text}");
        assert!(text.contains("e7.3, sector "), "{text}");
    }
}

#[test]
fn misplaced_torn_and_altered_data_are_found() {
    let (wrong, text) = findings(Fault::MisplacesWrites, 50);
    assert!(wrong >= 8 && text.contains("holds what was written to sector"), "{text}");
    let (wrong, text) = findings(Fault::TearsWrites, 50);
    assert!(wrong > 0 && text.contains("holds a part of what was written"), "{text}");
    let (wrong, text) = findings(Fault::LiesWhenRead, 50);
    assert!(wrong > 0 && text.contains("holds a part"), "{text}");
    let (wrong, text) = findings(Fault::LiesWhenRead, 0);
    assert!(wrong > 0 && text.contains("changed, though nobody wrote to it"), "{text}");
}

#[test]
fn errors_are_counted() {
    let plan = plan(|plan| (plan.write_percent, plan.verify) = (50, Verify::OwnDisks));
    let report = run_against(Fault::Fails, None, &plan).0.unwrap();
    let verified = report.verified.as_ref().unwrap();
    assert!((50..80).contains(&report.failed), "every twentieth: {report:?}");
    assert_eq!((verified.wrong_sectors, report.lost), (0, 0));
    assert!(verified.unverifiable_sectors > 0 && !report.is_clean());
}

#[test]
fn silence_is_a_loss() {
    let plan = plan(|plan| {
        plan.count = Some(20);
        plan.retransmit = Duration::from_millis(5);
        plan.give_up = Duration::from_millis(5);
    });
    let report = run_against(Fault::None, Some(3), &plan).0.unwrap();
    assert_eq!(report.all.requests + report.lost, 20, "{report:?}");
    assert!(report.lost > 0 && !report.is_clean());
}

#[test]
fn what_does_not_fit_is_refused() {
    for edit in [
        |plan: &mut Plan| plan.region_sectors = Some(SECTORS + 1),
        |plan: &mut Plan| plan.first_sector = SECTORS,
        |plan: &mut Plan| plan.first_sector = u64::MAX,
        |plan: &mut Plan| plan.sectors = Some(18),
        |plan: &mut Plan| plan.pids = vec![u32::MAX],
    ] {
        let (report, seen) = run_against(Fault::None, None, &plan(edit));
        let error = report.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Usage | ErrorKind::NotFound), "{error}");
        assert_eq!(sum(&seen.reads), 0);
    }
}

#[test]
fn a_target_gets_no_more_than_it_queues() {
    let deep = plan(|plan| plan.depth = 200);
    let report = run_against(Fault::None, None, &deep).0.unwrap();
    assert_eq!((report.workload.depth, report.workload.depth_used), (200, 16));
    assert!(report.render().contains("depth 16 (asked for 200"));
    let beyond = plan(|plan| (plan.depth, plan.beyond_buffer_count) = (200, true));
    assert_eq!(run_against(Fault::None, None, &beyond).0.unwrap().workload.depth_used, 200);
}
