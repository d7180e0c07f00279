//! Threads for what would block the loop, and the way their outcomes come back.

use core::panic::AssertUnwindSafe;
use core::sync::atomic::{AtomicBool, Ordering};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::catch_unwind;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

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
    /// `by_kernel`: the kernel may have rung, which leaves no mark.
    pub(super) fn silence(&self, by_kernel: bool) {
        if by_kernel || self.rung.load(Ordering::Acquire) {
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

/// Threads that take tasks from one queue: as many as there were tasks at one time, up to a limit.
#[derive(Debug)]
pub(super) struct Pool {
    queue: Arc<Queue>,
    bell: Arc<Bell>,
    name: &'static str,
    threads: Mutex<Vec<JoinHandle<()>>>,
    threads_max: usize,
}

impl Pool {
    /// Starts the first thread; the others come when they are needed.
    pub(super) fn new(name: &'static str, threads_max: usize, bell: &Arc<Bell>) -> Result<Self> {
        let pool = Self {
            queue: Arc::default(),
            bell: Arc::clone(bell),
            name,
            threads: Mutex::default(),
            threads_max,
        };
        pool.start_thread().map_err(|e| HostError::io(e, "start a thread"))?;
        Ok(pool)
    }

    /// The queue has no bound of its own: what may be under way is bounded by whoever asks.
    pub(super) fn run(&self, task: Task) {
        let mut waiting = self.queue.lock();
        waiting.tasks.push_back(task);
        // Every task that waits has one of those that sleep on its way to it.
        let is_awaited = waiting.tasks.len() <= waiting.idle;
        let may_grow = waiting.threads < self.threads_max;
        drop(waiting);
        if is_awaited {
            self.queue.changed.notify_one();
        } else if may_grow {
            // One the system has not got now is asked for again; the first one does all alone.
            let _fewer = self.start_thread();
        }
    }

    fn start_thread(&self) -> io::Result<()> {
        let (queue, bell) = (Arc::clone(&self.queue), Arc::clone(&self.bell));
        let work = move || work(&queue, &bell);
        let thread = Builder::new().name(self.name.to_owned()).spawn(work)?;
        self.queue.lock().threads += 1;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }
}

/// Tasks, and who waits for some. Who finds none sleeps at once: a channel that looks again and
/// yields before it sleeps takes that time from the loop, which may need this very processor to
/// answer with what the task just achieved, and wakes a second thread for what the first one finds
/// by looking.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    tasks: VecDeque<Task>,
    /// Threads that sleep, or have been woken and did not look yet.
    idle: usize,
    /// Threads in all.
    threads: usize,
    is_closed: bool,
}

impl core::fmt::Debug for Queue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl Queue {
    /// Nothing panics while it is held.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next task; `None` when there are none left and will be no more.
    fn next(&self) -> Option<Task> {
        let mut waiting = self.lock();
        loop {
            if let Some(task) = waiting.tasks.pop_front() {
                return Some(task);
            }
            if waiting.is_closed {
                return None;
            }
            waiting.idle += 1;
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            waiting.idle = waiting.idle.saturating_sub(1);
        }
    }
}

fn work(queue: &Queue, bell: &Bell) {
    while let Some(task) = queue.next() {
        // A defect in a task must not take the thread from everybody else; the panic's message
        // has been printed by then.
        let _printed = catch_unwind(AssertUnwindSafe(task));
        bell.ring();
    }
}

impl Drop for Pool {
    /// Lets the threads finish what was queued, so that a write that was taken is a write.
    fn drop(&mut self) {
        self.queue.lock().is_closed = true;
        self.queue.changed.notify_all();
        let threads = self.threads.get_mut().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn whatever_was_queued_is_done() {
        let bell = Arc::new(Bell::new().unwrap());
        for threads in [0, 1, 3] {
            let pool = Pool::new("test", threads, &bell).unwrap();
            let done = Arc::new(AtomicUsize::new(0));
            for n in 0..1000 {
                let done = Arc::clone(&done);
                pool.run(Box::new(move || {
                    let before = done.fetch_add(1, Ordering::Relaxed);
                    assert!(n % 100 != 99, "a task that panics after {before}");
                }));
                if n % 64 == 0 {
                    std::thread::yield_now();
                }
            }
            drop(pool);
            assert_eq!(done.load(Ordering::Relaxed), 1000, "by {threads} threads");
            assert!(bell.is_rung());
        }
    }

    #[test]
    fn threads_come_with_tasks_up_to_the_limit() {
        let bell = Arc::new(Bell::new().unwrap());
        let pool = Pool::new("test", 3, &bell).unwrap();
        let threads = || pool.queue.lock().threads;
        assert_eq!(threads(), 1);
        for _ in 0..100 {
            let (told, tell) = std::sync::mpsc::channel();
            pool.run(Box::new(move || told.send(()).unwrap()));
            tell.recv().unwrap();
            while pool.queue.lock().idle == 0 {
                std::thread::yield_now();
            }
        }
        assert!(threads() <= 2, "one after the other need no more: the first task may come early");
        let barrier = Arc::new(std::sync::Barrier::new(4));
        for _ in 0..3 {
            let barrier = Arc::clone(&barrier);
            pool.run(Box::new(move || {
                barrier.wait();
            }));
        }
        barrier.wait();
        for _ in 0..100 {
            pool.run(Box::new(|| {}));
        }
        assert_eq!(threads(), 3);
    }

    #[test]
    fn one_that_waits_keeps_no_other_from_being_done() {
        let bell = Arc::new(Bell::new().unwrap());
        let pool = Pool::new("test", 2, &bell).unwrap();
        let (release, wait) = std::sync::mpsc::channel::<()>();
        pool.run(Box::new(move || wait.recv().unwrap()));
        let (told, tell) = std::sync::mpsc::channel();
        pool.run(Box::new(move || told.send(()).unwrap()));
        tell.recv().unwrap();
        release.send(()).unwrap();
    }
}
