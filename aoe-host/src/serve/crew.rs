//! Several workers: their threads, the frames that they hand to each other, and orders.
//!
//! Worker 0, the leader, runs in the main thread. It alone waits for others, so that nobody waits in
//! a circle; and it must not hold the registry meanwhile, which they may need to go on.

use core::time::Duration;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::setup::Common;
use super::{Running, pool_pages};
use crate::error::{ErrorKind, HostError, Result};
use crate::link::Link;
use crate::share::Share;
use crate::storage::{ColdReads, HostedDriver, PoolMemory, Waker, WorkerCounts};

/// Frames that may wait for a worker to which they were handed: as many as a few initiators have
/// outstanding. More are lost, as where a socket is full.
const HANDED_MAX: usize = 1024;

/// How long the leader waits for what it ordered. A worker that takes longer hangs in its storage.
const ORDER_PATIENCE: Duration = Duration::from_secs(10);

/// Most threads for syncs and the like of all workers together, and the least limit of each.
const SLOW_THREADS: (usize, usize) = (64, 8);

/// Something to be done by a worker between two rounds.
type Order = Box<dyn for<'r, 'm> FnOnce(&'r mut Running<'m>) + Send>;

/// The links of one worker, in the order of the interfaces.
pub(super) type Links = Vec<Box<dyn Link + Send>>;

/// A frame on its way to the worker that it is for.
pub(super) struct Handed {
    /// Through which link it came.
    pub(super) link: usize,
    pub(super) frame: Box<[u8]>,
}

/// Where others leave something for a worker.
#[derive(Clone)]
pub(super) struct Door {
    frames: Sender<Handed>,
    orders: Sender<Order>,
    waker: Waker,
}

impl Door {
    /// Leaves a frame. False if there is no room.
    pub(super) fn hand_over(&self, link: usize, frame: &[u8]) -> bool {
        let left = self.frames.try_send(Handed { link, frame: frame.into() }).is_ok();
        if left {
            self.waker.wake();
        }
        left
    }

    fn order(&self, order: Order) {
        // A worker that has ended drops it, and whoever waits for its outcome notices.
        drop(self.orders.send(order));
        self.waker.wake();
    }
}

/// What a worker knows of the others.
pub(super) struct Crew {
    share: Share,
    doors: Arc<[Door]>,
    frames: Receiver<Handed>,
    orders: Receiver<Order>,
    /// Of the leader: the others.
    mates: Vec<Mate>,
}

/// Another worker, as the leader sees it.
struct Mate {
    /// Until it serves: the way to tell it to, and its links.
    waiting: Option<(Sender<Links>, Links)>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Crew {
    pub(super) fn share(&self) -> Share {
        self.share
    }

    /// Everybody's door, by number.
    pub(super) fn doors(&self) -> Arc<[Door]> {
        Arc::clone(&self.doors)
    }

    /// A frame that somebody handed over.
    pub(super) fn next_handed(&self) -> Option<Handed> {
        self.frames.try_recv().ok()
    }

    fn next_order(&self) -> Option<Order> {
        self.orders.try_recv().ok()
    }

    /// Has all other workers do something, which begins at once; the outcomes can be waited for.
    pub(super) fn order<T: Send + 'static>(
        &self,
        act: impl for<'r, 'm> Fn(&'r mut Running<'m>) -> T + Clone + Send + 'static,
    ) -> Outcomes<T> {
        let doors = self.share.others().filter_map(|number| self.doors.get(number));
        let outcomes = doors.map(|door| {
            let (act, (tell, told)) = (act.clone(), bounded(1));
            door.order(Box::new(move |worker| {
                // Not everybody wants to know.
                drop(tell.try_send(act(worker)));
            }));
            told
        });
        Outcomes(outcomes.collect())
    }

    /// Whether another worker has ended.
    pub(super) fn has_lost_one(&self) -> bool {
        self.mates.iter().any(|m| m.thread.as_ref().is_some_and(JoinHandle::is_finished))
    }

    /// Lets the others serve, and every link of theirs take its share.
    pub(super) fn begin(&mut self) {
        for mate in &mut self.mates {
            if let Some((go, mut links)) = mate.waiting.take() {
                for link in &mut links {
                    link.share();
                }
                // If it has ended already, the loop notices.
                drop(go.send(links));
            }
        }
    }

    /// Waits for the ends of all others.
    pub(super) fn join(&mut self) -> Result<()> {
        let threads = self.mates.iter_mut().filter_map(|mate| mate.thread.take());
        threads
            .map(|thread| thread.join().unwrap_or_else(|_panic| Err(died())))
            .fold(Ok(()), Result::and)
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for mate in &mut self.mates {
            // Who was never told to serve ends now; who serves is told by somebody who knows why.
            if mate.waiting.take().is_some()
                && let Some(thread) = mate.thread.take()
            {
                drop(thread.join());
            }
        }
    }
}

/// What comes of an order.
pub(super) struct Outcomes<T>(Vec<Receiver<T>>);

impl<T> Outcomes<T> {
    /// Waits for all of them, in the order of the workers.
    pub(super) fn wait(self) -> Vec<Option<T>> {
        let until = Instant::now() + ORDER_PATIENCE;
        self.0.iter().map(|told| told.recv_deadline(until).ok()).collect()
    }
}

fn died() -> HostError {
    HostError::new(ErrorKind::Io, "run all workers").detail("a thread ended before its time")
}

/// Starts the other workers: each opens its disks, in a thread of its own, and then waits. Gives what
/// the leader needs.
///
/// # Errors
/// The first thing that is wrong at any of them.
pub(super) fn muster(common: &Arc<Common>, links: Vec<Links>) -> Result<(HostedDriver, Crew)> {
    let count = links.len() + 1;
    let threads = WorkerCounts {
        slow: (SLOW_THREADS.0 / count).max(SLOW_THREADS.1),
        ..WorkerCounts::default()
    };
    let cold = ColdReads::of_files(common.config.direct);
    let mut drivers = Vec::new();
    let (mut doors, mut insides) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let driver = HostedDriver::with_cold_reads(threads, cold)?;
        let (frames, handed) = bounded(HANDED_MAX);
        let (orders, ordered) = unbounded();
        doors.push(Door { frames, orders, waker: driver.waker() });
        insides.push((handed, ordered));
        drivers.push(driver);
    }
    let doors: Arc<[Door]> = doors.into();
    let mut crews = insides.into_iter().enumerate().filter_map(|(number, (frames, orders))| {
        let share = Share::new(number, count)?;
        Some(Crew { share, doors: Arc::clone(&doors), frames, orders, mates: Vec::new() })
    });
    let too_many = || HostError::usage("serve", "there cannot be so many workers");
    let mut leader = crews.next().ok_or_else(too_many)?;
    let mut drivers = drivers.into_iter();
    let own_driver = drivers.next().ok_or_else(too_many)?;
    let (ready, started) = unbounded();
    for ((crew, driver), links) in crews.zip(drivers).zip(links) {
        let (go, told) = bounded(1);
        let (common, ready) = (Arc::clone(common), ready.clone());
        let thread = Builder::new()
            .name(format!("worker-{}", crew.share.number()))
            .spawn(move || work(&common, crew, driver, &ready, &told))
            .map_err(|error| HostError::io(error, "start a worker's thread"))?;
        leader.mates.push(Mate { waiting: Some((go, links)), thread: Some(thread) });
    }
    drop(ready);
    for _ in 1..count {
        started.recv().map_err(|_panic| died())??;
    }
    Ok((own_driver, leader))
}

/// One worker but the leader, from its start to its end.
fn work(
    common: &Common,
    crew: Crew,
    driver: HostedDriver,
    ready: &Sender<Result<()>>,
    go: &Receiver<Links>,
) -> Result<()> {
    let mut memory = PoolMemory::new(pool_pages(crew.share.count()));
    let made = memory.pool().and_then(|pool| Running::assemble(common, driver, pool, Some(crew)));
    let (started, made) = match made {
        Ok(running) => (Ok(()), Some(running)),
        Err(error) => (Err(error), None),
    };
    // The leader is gone if it has failed itself.
    drop(ready.send(started));
    let Some(mut running) = made else { return Ok(()) };
    let Ok(links) = go.recv() else { return Ok(()) };
    running.plug_in(links.into_iter().map(|link| -> Box<dyn Link> { link }));
    while !running.round(None) {}
    running.stop()
}

impl Running<'_> {
    /// Does what the leader ordered. True if it had.
    pub(super) fn obey_orders(&mut self) -> bool {
        let mut any = false;
        while let Some(order) = self.crew.as_ref().and_then(Crew::next_order) {
            order(self);
            any = true;
        }
        any
    }

    /// Does something in every worker, in this one too. What came of it, by worker; `None` from one
    /// that has ended or does not answer.
    pub(super) fn everywhere<T: Send + 'static>(
        &mut self,
        act: impl for<'r, 'm> Fn(&'r mut Running<'m>) -> T + Clone + Send + 'static,
    ) -> Vec<Option<T>> {
        let others = self.crew.as_ref().map(|crew| crew.order(act.clone()));
        let mut all = vec![Some(act(self))];
        all.extend(others.into_iter().flat_map(Outcomes::wait));
        all
    }

    /// As [`everywhere`](Self::everywhere), where everybody has to have done it.
    ///
    /// # Errors
    /// The first worker's error, or that one does not answer.
    pub(super) fn everywhere_well<T: Send + 'static>(
        &mut self,
        act: impl for<'r, 'm> Fn(&'r mut Running<'m>) -> Result<T> + Clone + Send + 'static,
    ) -> Result<Vec<T>> {
        let silent = || {
            HostError::new(ErrorKind::Timeout, "ask all workers")
                .detail("one does not answer; it waits for its storage")
                .advice("try again when the storage answers")
        };
        self.everywhere(act).into_iter().map(|one| one.ok_or_else(silent)?).collect()
    }

    /// Whether this worker has what there is once: signals, control socket, upkeep.
    pub(super) fn leads(&self) -> bool {
        self.share().number() == 0
    }

    pub(super) fn share(&self) -> Share {
        self.server.share()
    }
}
