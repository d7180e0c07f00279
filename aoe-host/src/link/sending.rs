//! What became of frames that were to be sent: told apart, counted, reported.

use std::io;

use super::{LinkCounters, SendReport};

/// Why a frame did not leave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SendFailure {
    /// A queue is full.
    NoRoom,
    /// The interface is down or gone.
    LinkDown,
    /// The frame exceeds the MTU.
    TooLong,
    /// A mapped part of the frame cannot be read.
    Unreadable,
    /// Anything else; the next frame may fare better.
    Other,
}

impl SendFailure {
    pub(super) fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EMSGSIZE) => Self::TooLong,
            Some(libc::EFAULT) => Self::Unreadable,
            Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => Self::LinkDown,
            Some(libc::ENOBUFS | libc::EAGAIN | libc::ENOMEM) => Self::NoRoom,
            _ => Self::Other,
        }
    }
}

/// Enters the frames of one call into a report and the totals of its link.
#[derive(Debug)]
pub(super) struct Tally<'c> {
    pub(super) counters: &'c mut LinkCounters,
    pub(super) report: SendReport,
}

impl<'c> Tally<'c> {
    pub(super) fn new(counters: &'c mut LinkCounters) -> Self {
        Self { counters, report: SendReport::default() }
    }

    pub(super) fn sent(&mut self, frame_len: usize) {
        self.report.sent += 1;
        self.counters.frames_sent += 1;
        self.counters.bytes_sent += frame_len as u64;
    }

    pub(super) fn lost(&mut self, failure: SendFailure) {
        let counters = &mut *self.counters;
        let (reported, counted) = match failure {
            SendFailure::TooLong => (&mut self.report.too_long, &mut counters.send_too_long),
            SendFailure::NoRoom => (&mut self.report.dropped, &mut counters.send_no_room),
            SendFailure::LinkDown => (&mut self.report.dropped, &mut counters.send_link_down),
            SendFailure::Unreadable => (&mut self.report.unreadable, &mut counters.send_other),
            SendFailure::Other => (&mut self.report.dropped, &mut counters.send_other),
        };
        *reported += 1;
        *counted += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn send_errors_are_told_apart() {
        for (errno, failure) in [
            (libc::EMSGSIZE, SendFailure::TooLong),
            (libc::EFAULT, SendFailure::Unreadable),
            (libc::ENETDOWN, SendFailure::LinkDown),
            (libc::ENXIO, SendFailure::LinkDown),
            (libc::ENOBUFS, SendFailure::NoRoom),
            (libc::EAGAIN, SendFailure::NoRoom),
            (libc::EPERM, SendFailure::Other),
        ] {
            assert_eq!(SendFailure::of(&io::Error::from_raw_os_error(errno)), failure);
        }
    }
}
