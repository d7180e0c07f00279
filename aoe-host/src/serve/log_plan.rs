//! The commit log of a worker: made when an overlay needs it for the first time, so that a server to
//! which nobody writes has none.

use std::path::{Path, PathBuf};

use cow_core::engine::Failure;
use cow_core::format::native;

use super::edge::{HostedEdge, News};
use crate::error::Result;
use crate::image::{CommitLog, begin_log};
use crate::server::{DiskSpec, Edge};

/// Whether a worker has a commit log or will have one.
#[derive(Debug)]
pub(super) enum LogPlan {
    /// What there is is all there will be.
    Settled,
    /// None was needed yet; this is where it is going to be.
    Unmade(PathBuf),
    /// Being made for these.
    Making(Vec<Waiter>),
}

/// Who waits for the log.
#[derive(Debug)]
pub(super) enum Waiter {
    /// A disk whose overlay is to be made.
    Create(u32, Box<DiskSpec>),
    /// A disk whose overlay is there.
    Join(u32),
}

/// What became of an overlay that was to have the log.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) disk: u32,
    /// Its header with the log in it; `None`: it goes on without.
    pub(super) header: Result<Option<native::Opened>>,
}

impl HostedEdge {
    /// Whether an overlay is where a log would be: the next server finds it only there.
    pub(super) fn is_beside(&self, path: &Path) -> bool {
        self.overlays.is_some() && path.parent() == self.overlays.as_deref()
    }

    /// Has the log made if there may be one and is none yet: true if `waiter` has to wait for it, and
    /// is taken up again then.
    pub(super) fn awaits_log(&mut self, waiter: Waiter) -> bool {
        match core::mem::replace(&mut self.log_plan, LogPlan::Settled) {
            LogPlan::Settled => return false,
            LogPlan::Unmade(directory) => {
                self.log_plan = LogPlan::Making(vec![waiter]);
                let news = self.news();
                self.driver.spawn(Box::new(move || {
                    // The receiver is gone only when the server is ending: nobody waits for it.
                    let _closed = news.send(News::Log(CommitLog::create(&directory)));
                }));
            }
            LogPlan::Making(mut waiters) => {
                waiters.push(waiter);
                self.log_plan = LogPlan::Making(waiters);
            }
        }
        true
    }

    /// Goes on with those who waited, with a log or without.
    pub(super) fn log_made(&mut self, made: Result<Option<CommitLog>>) {
        match made {
            Ok(log) => self.commit_log = log,
            Err(error) => self.log.warn(&format!(
                "writes are made durable in the overlays themselves, which is slower: {}",
                error.report()
            )),
        }
        if let LogPlan::Making(waiters) = core::mem::replace(&mut self.log_plan, LogPlan::Settled) {
            for waiter in waiters {
                match waiter {
                    Waiter::Create(disk, spec) => self.create_overlay(disk, &spec),
                    Waiter::Join(disk) => self.join_log(disk),
                }
            }
        }
    }

    /// Has the header of an overlay name the log, which has been made.
    pub(super) fn begin_log_of(&mut self, disk: u32) {
        let news = self.news();
        let overlay = self.attachments.get(&disk).and_then(|attachment| {
            let file = attachment.opened.file().main.clone();
            Some((file, attachment.opened.note_id()?.layer()))
        });
        let found = overlay.zip(self.commit_log.as_mut());
        let Some(((mut file, layer), log)) = found.filter(|((_, layer), log)| log.may_take(*layer))
        else {
            let _closed = news.send(News::Joined(Joined { disk, header: Ok(None) }));
            return;
        };
        let log = log.tell();
        self.driver.spawn(Box::new(move || {
            let header = begin_log(&mut file, layer, log).map(Some);
            let _closed = news.send(News::Joined(Joined { disk, header }));
        }));
    }

    /// An overlay's header names the log, or it goes on without. What the server has to know of it.
    pub(super) fn take_joined(
        &mut self,
        joined: Joined,
    ) -> core::result::Result<Option<native::Opened>, Failure> {
        let attachment = self.attachments.get_mut(&joined.disk);
        match (joined.header, attachment) {
            (Ok(Some(header)), Some(attachment)) => {
                attachment.opened.names_log(header.header().log);
                Ok(Some(header))
            }
            (Ok(_), _) => Ok(None),
            (Err(error), _) => {
                self.log.error(&error.report());
                Err(Failure::Medium)
            }
        }
    }
}
