//! A wire in trouble: forwards frames between two interfaces, and loses, doubles or swaps some.
//!
//! A doubled frame follows at once, and a swapped one is held only until the next: a write that
//! arrives again after a later write to the same sectors would undo that one, and AoE gives no
//! target a means to tell.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::net::Segment;
use crate::raw_socket::RawSocket;
use crate::rng::Rng;

/// How often things go wrong: frames of 1000.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Trouble {
    /// Lost.
    pub lost: u64,
    /// Doubled.
    pub doubled: u64,
    /// Swapped with the next one.
    pub swapped: u64,
    /// Seed of the choice.
    pub seed: u64,
}

/// Frames that met with trouble so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Damage {
    /// Frames in all.
    pub forwarded: u64,
    /// Lost.
    pub lost: u64,
    /// Doubled.
    pub doubled: u64,
    /// Swapped with the next one.
    pub swapped: u64,
}

/// A running forwarder over the gap of a segment.
#[derive(Debug)]
pub struct Forwarder {
    stop: Arc<AtomicBool>,
    damage: Arc<Mutex<Damage>>,
    threads: Vec<JoinHandle<()>>,
}

impl Forwarder {
    /// Closes the gap of [`Segment::with_gap`].
    pub fn start(segment: &Segment, trouble: Trouble) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let damage = Arc::new(Mutex::new(Damage::default()));
        let [server, client] = Segment::GAP.map(|interface| {
            Arc::new(RawSocket::open(segment.switch().name(), interface).expect("a socket opens"))
        });
        let threads = [(&server, &client, 0), (&client, &server, 1)]
            .map(|(from, to, direction)| {
                let (from, to) = (Arc::clone(from), Arc::clone(to));
                let (stop, damage) = (Arc::clone(&stop), Arc::clone(&damage));
                let trouble = Trouble { seed: trouble.seed * 2 + direction, ..trouble };
                std::thread::spawn(move || forward(&from, &to, trouble, &stop, &damage))
            })
            .into();
        Self { stop, damage, threads }
    }

    /// What went wrong so far.
    pub fn damage(&self) -> Damage {
        *self.damage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("a forwarder panicked");
            }
        }
    }
}

fn forward(
    from: &RawSocket,
    to: &RawSocket,
    trouble: Trouble,
    stop: &AtomicBool,
    damage: &Mutex<Damage>,
) {
    let mut rng = Rng::new(trouble.seed);
    let mut buffer = vec![0; 65_536];
    let mut held: Option<Vec<u8>> = None;
    while !stop.load(Ordering::Relaxed) {
        // The interface vanishes with its namespace at the end of a test.
        let Ok(received) = from.receive(&mut buffer, Duration::from_millis(20)) else { return };
        let Some(frame) = received.and_then(|length| buffer.get(..length)) else {
            // Nothing came to swap with.
            if let Some(late) = held.take() {
                send(to, &late);
            }
            continue;
        };
        let mut damage = damage.lock().unwrap_or_else(PoisonError::into_inner);
        damage.forwarded += 1;
        let dice = rng.below(1000);
        if dice < trouble.lost {
            damage.lost += 1;
        } else if dice < trouble.lost + trouble.doubled {
            damage.doubled += 1;
            send(to, frame);
            send(to, frame);
        } else if dice < trouble.lost + trouble.doubled + trouble.swapped && held.is_none() {
            damage.swapped += 1;
            held = Some(frame.to_vec());
            continue;
        } else {
            send(to, frame);
        }
        if let Some(late) = held.take() {
            send(to, &late);
        }
    }
}

/// Sends a frame; a full queue is a loss like any other.
fn send(to: &RawSocket, frame: &[u8]) {
    if let Err(error) = to.send(frame)
        && error.kind() != io::ErrorKind::WouldBlock
    {
        eprintln!("a frame of {} bytes is lost: {error}", frame.len());
    }
}
