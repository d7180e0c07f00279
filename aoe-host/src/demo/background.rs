//! The real server in a thread of its own, on a port of the demonstration's switch.

use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, bounded};

use super::machine::MTU;
use crate::config::ServeConfig;
use crate::control::Status;
use crate::error::{ErrorKind, HostError, Result};
use crate::link::memory::{PortConfig, Switch};
use crate::serve::Running;
use crate::storage::PoolMemory;
use crate::values::Mac;

/// The server's address.
const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

/// Frames that may wait for the server: more than all clients have outstanding.
const QUEUE_LEN: usize = 4096;

/// Pages of metadata in memory: 1 MiB.
const POOL_PAGES: usize = 256;

/// A server that runs. Dropping it stops it as well, for whoever gives up half-way.
#[derive(Debug)]
pub(super) struct BackgroundServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Status>>>,
}

impl BackgroundServer {
    /// Plugs a server in; it answers when this returns.
    pub(super) fn start(config: &ServeConfig, switch: &Switch) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (started, ready) = bounded(1);
        let (config, switch, told) = (config.clone(), switch.clone(), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("demo-server".to_owned())
            .spawn(move || serve(&config, &switch, &told, &started))
            .map_err(|error| HostError::io(error, "start the server's thread"))?;
        let mut server = Self { stop, thread: Some(thread) };
        match ready.recv() {
            Ok(()) => Ok(server),
            // It ended before it could say that it had started, and tells why.
            Err(_) => Err(server.join().err().unwrap_or_else(died)),
        }
    }

    /// Stops it in good order. What it knew about everybody before it stopped.
    pub(super) fn stop(mut self) -> Result<Status> {
        self.join()
    }

    fn join(&mut self) -> Result<Status> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or_else(died)?;
        thread.join().unwrap_or_else(|_panicked| Err(died()))
    }
}

impl Drop for BackgroundServer {
    fn drop(&mut self) {
        if self.thread.is_some() {
            // Whoever drops it has an error of its own to report, which came first.
            drop(self.join());
        }
    }
}

fn died() -> HostError {
    HostError::new(ErrorKind::Io, "run the server").detail("its thread ended before its time")
}

/// The thread. Everything is made in here: the server stays where it was started.
fn serve(
    config: &ServeConfig,
    switch: &Switch,
    stop: &AtomicBool,
    started: &Sender<()>,
) -> Result<Status> {
    let name = config.interfaces.first().map_or("memory", String::as_str);
    let port_config =
        PortConfig { mtu: MTU, queue_len_max: QUEUE_LEN, wake: true, ..PortConfig::new(MAC) };
    let port = switch
        .add_port(name, port_config)
        .map_err(|error| HostError::io(error, "plug in the server"))?;
    let mut memory = PoolMemory::new(POOL_PAGES);
    let mut running = Running::start(config, vec![Box::new(port)], memory.pool()?, true)?;
    running.advertise(None);
    // If nobody waits for this, the demonstration has been given up: `stop` is set then.
    let _given_up = started.send(());
    while !running.round(None) {
        if stop.load(Ordering::Relaxed) {
            running.stop_soon();
        }
    }
    let status = running.status();
    running.stop()?;
    Ok(status)
}
