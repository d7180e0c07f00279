//! A listener on the segment that knows which requests are still unanswered.
//!
//! It reads the frames itself, from the offsets of the AoE header, so that it shares nothing with
//! the codec under test.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime};

use crate::frames::{BROADCAST, RESPONSE, command, field};
use crate::net::Namespace;
use crate::raw_socket::{AOE, RawSocket};

const ANY_DISK: [u8; 3] = [0xff; 3];
const LONGEST_FRAME: usize = 65_536;

/// What went over the wire since the listener started.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Requests of initiators.
    pub requests: u64,
    /// Responses of targets, advertisements included.
    pub responses: u64,
    /// Config queries to everybody about every disk: the initiator looks for disks. Those about
    /// one disk, which the driver sends after a last close, do not count.
    pub discoveries: u64,
    /// Config responses sent to everybody: a target announces itself.
    pub advertisements: u64,
    /// ATA requests that nobody answered yet, as lines for a person.
    pub unanswered: Vec<String>,
    /// Frames the listener itself lost: with any, `unanswered` proves nothing.
    pub missed: u64,
    /// Time since the last frame.
    pub silent: Duration,
}

#[derive(Debug)]
struct State {
    seen: Seen,
    // The driver repeats a request under a new tag: the newest tag is the one it listens for.
    pending: HashMap<([u8; 6], u32), Vec<u8>>,
    last: Instant,
}

/// A running listener.
#[derive(Debug)]
pub struct Wire {
    stop: Arc<AtomicBool>,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Listens on an interface of a namespace.
    pub fn listen(namespace: &Namespace, interface: &str) -> Self {
        Self::start(namespace, interface, None)
    }

    /// Listens and records every frame in a capture file for other programs to read.
    pub fn record(namespace: &Namespace, interface: &str, capture: &Path) -> Self {
        Self::start(namespace, interface, Some(Capture::create(capture)))
    }

    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = state.seen.clone();
        seen.silent = state.last.elapsed();
        seen.unanswered =
            state.pending.iter().map(|((mac, tag), key)| describe(*mac, *tag, key)).collect();
        seen
    }

    fn start(namespace: &Namespace, interface: &str, capture: Option<Capture>) -> Self {
        let socket = RawSocket::open(namespace.name(), interface).expect("a raw socket opens");
        let stop = Arc::new(AtomicBool::new(false));
        let state = Arc::new(Mutex::new(State {
            seen: Seen::default(),
            pending: HashMap::new(),
            last: Instant::now(),
        }));
        let thread = std::thread::spawn({
            let (stop, state) = (Arc::clone(&stop), Arc::clone(&state));
            move || listen(&socket, &stop, &state, capture)
        });
        Self { stop, state, thread: Some(thread) }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the listener on the wire panicked");
        }
    }
}

fn listen(
    socket: &RawSocket,
    stop: &AtomicBool,
    state: &Mutex<State>,
    mut capture: Option<Capture>,
) {
    let mut buffer = vec![0; if capture.is_some() { LONGEST_FRAME } else { 64 }];
    loop {
        // Asked first: what had arrived by then is taken, however late this thread is run.
        let stops = stop.load(Ordering::Relaxed);
        let patience = if stops { Duration::ZERO } else { Duration::from_millis(50) };
        // The interface vanishes with its namespace at the end of a test.
        let Ok(received) = socket.receive(&mut buffer, patience) else { return };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(length) = received else {
            state.seen.missed += u64::from(socket.dropped().unwrap_or(0));
            if stops {
                return;
            }
            continue;
        };
        let frame = buffer.get(..length).unwrap_or_default();
        if field(frame, 12).map(u16::from_be_bytes) != Some(AOE) {
            continue;
        }
        state.take(frame);
        if let Some(capture) = &mut capture {
            capture.append(frame);
        }
    }
}

impl State {
    fn take(&mut self, frame: &[u8]) {
        self.last = Instant::now();
        let (Some(to), Some(from)) = (field::<6>(frame, 0), field::<6>(frame, 6)) else { return };
        let Some([flags, _, major0, major1, minor, command]) = field(frame, 14) else { return };
        let Some(tag) = field(frame, 20).map(u32::from_be_bytes) else { return };
        let is_response = flags & RESPONSE != 0;
        if is_response {
            self.seen.responses += 1;
            self.pending.remove(&(to, tag));
        } else {
            self.seen.requests += 1;
        }
        let to_all = to == BROADCAST;
        match (command, is_response) {
            (command::CONFIG, true) if to_all => self.seen.advertisements += 1,
            (command::CONFIG, false) if to_all && [major0, major1, minor] == ANY_DISK => {
                self.seen.discoveries += 1;
            }
            (command::ATA, false) => {
                let mut key = vec![major0, major1, minor];
                key.extend_from_slice(frame.get(24..34).unwrap_or_default());
                self.pending.retain(|(mac, _), old| *mac != from || *old != key);
                self.pending.insert((from, tag), key);
            }
            _ => {}
        }
    }
}

fn describe(mac: [u8; 6], tag: u32, key: &[u8]) -> String {
    format!("{mac:02x?} tag {tag:#010x} shelf, slot and registers {key:02x?}")
}

/// A capture file in the classic pcap format, Ethernet link type, microseconds.
#[derive(Debug)]
pub struct Capture(BufWriter<File>);

impl Capture {
    /// Starts an empty capture.
    pub fn create(path: &Path) -> Self {
        let mut file = BufWriter::new(File::create(path).expect("a capture file can be made"));
        let header = [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 1];
        for word in header {
            file.write_all(&word.to_le_bytes()).expect("the capture takes its header");
        }
        Self(file)
    }

    /// Appends a frame as captured now.
    pub fn append(&mut self, frame: &[u8]) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        let length = u32::try_from(frame.len()).expect("a frame is short");
        for word in [seconds, now.subsec_micros(), length, length] {
            self.0.write_all(&word.to_le_bytes()).expect("the capture takes a record");
        }
        self.0.write_all(frame).expect("the capture takes a frame");
        // Readers look at the file while the listener still runs.
        self.0.flush().expect("the capture reaches its file");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Instant;

    use super::{Seen, State};

    fn frame(to: u8, from: u8, flags: u8, command: u8, tag: u8, lba: u8) -> Vec<u8> {
        let mut frame = vec![to; 6];
        frame.extend([from; 6]);
        frame.extend([0x88, 0xa2, 0x10 | flags, 0, 0, 0, 0, command, 0, 0, 0, tag]);
        frame.extend([0x40, 0, 2, 0x24, lba, 0, 0, 0, 0, 0, 0, 0]);
        frame
    }

    fn state() -> State {
        State { seen: Seen::default(), pending: HashMap::new(), last: Instant::now() }
    }

    #[test]
    fn a_repeated_request_waits_for_its_newest_tag_only() {
        let mut state = state();
        state.take(&frame(1, 2, 0, 0, 10, 5));
        state.take(&frame(1, 2, 0, 0, 11, 5));
        assert_eq!(state.pending.len(), 1);
        state.take(&frame(2, 1, 8, 0, 10, 5));
        assert_eq!(state.pending.len(), 1, "a late answer to the old tag does not count");
        state.take(&frame(2, 1, 8, 0, 11, 5));
        assert!(state.pending.is_empty());
    }

    #[test]
    fn discovery_and_advertisement_are_told_apart() {
        let mut state = state();
        let mut query = frame(0xff, 2, 0, 1, 0, 0);
        state.take(&query);
        query[16..19].fill(0xff);
        state.take(&query);
        state.take(&frame(0xff, 1, 8, 1, 0, 0));
        state.take(&frame(2, 1, 8, 1, 0, 0));
        assert_eq!((state.seen.discoveries, state.seen.advertisements), (1, 1));
        assert_eq!(state.seen.responses, 2);
    }
}
