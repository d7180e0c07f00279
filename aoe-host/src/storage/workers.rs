//! Threads for what would block the loop, and the way their outcomes come back.

use core::panic::AssertUnwindSafe;
use core::sync::atomic::{AtomicBool, Ordering};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::catch_unwind;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};
use rustix::event::EventfdFlags;

use super::file::retry;
use crate::error::{HostError, Result};

/// What a worker does. Ends with a completion of its own making, or without one.
pub(super) type Task = Box<dyn FnOnce() + Send>;

/// A descriptor that becomes readable once, however often it is rung before it is looked at.
#[derive(Debug)]
pub(super) struct Bell {
    fd: OwnedFd,
    rung: AtomicBool,
}

impl Bell {
    pub(super) fn new() -> Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let fd = rustix::event::eventfd(0, flags)
            .map_err(|errno| HostError::io(io::Error::from(errno), "make an event descriptor"))?;
        Ok(Self { fd, rung: AtomicBool::new(false) })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Call after the outcome was put where the loop finds it.
    #[expect(clippy::host_endian_bytes, reason = "the counter is an integer of the machine")]
    pub(super) fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // Fails only if the counter is full, and then it is readable anyway.
            let _readable = retry(|| rustix::io::write(&self.fd, &1_u64.to_ne_bytes()));
        }
    }

    /// Whether somebody rang since the last silence.
    pub(super) fn is_rung(&self) -> bool {
        self.rung.load(Ordering::Relaxed)
    }

    /// Call before looking for outcomes. The descriptor is emptied first: a ring in between finds
    /// the mark still set and writes nothing, but its outcome is found by the look that follows.
    pub(super) fn silence(&self) {
        if self.rung.load(Ordering::Acquire) {
            let _count = retry(|| rustix::io::read(&self.fd, &mut [0_u8; 8]));
            self.rung.store(false, Ordering::Release);
        }
    }
}

/// Rings a driver's bell, for whoever has something else for its loop.
#[derive(Clone, Debug)]
pub struct Waker(pub(super) Arc<Bell>);

impl Waker {
    /// Has the loop look, soon. Call after what it is to see is where it looks.
    pub fn wake(&self) {
        self.0.ring();
    }
}

/// A fixed number of threads that take tasks from one queue.
#[derive(Debug)]
pub(super) struct Pool {
    queue: Option<Sender<Task>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    pub(super) fn new(name: &str, threads: usize, bell: &Arc<Bell>) -> Result<Self> {
        let (queue, tasks) = unbounded();
        let mut pool = Self { queue: Some(queue), threads: Vec::with_capacity(threads) };
        for _ in 0..threads.max(1) {
            let (tasks, bell) = (tasks.clone(), Arc::clone(bell));
            let thread = Builder::new().name(name.to_owned()).spawn(move || work(&tasks, &bell));
            let thread = thread.map_err(|e| HostError::io(e, "start a thread"))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// The queue has no bound of its own: what may be under way is bounded by whoever asks.
    pub(super) fn run(&self, task: Task) {
        if let Some(queue) = &self.queue {
            // Threads end only when the queue is closed, so somebody is there.
            let _taken = queue.send(task);
        }
    }
}

fn work(tasks: &Receiver<Task>, bell: &Bell) {
    for task in tasks {
        // A defect in a task must not take the thread from everybody else; the panic's message
        // has been printed by then.
        let _printed = catch_unwind(AssertUnwindSafe(task));
        bell.ring();
    }
}

impl Drop for Pool {
    /// Lets the threads finish what was queued, so that a write that was taken is a write.
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}
