//! Sleeping until a descriptor is readable.

use core::time::Duration;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::Link;

/// Descriptors that [`wait_for_any`] watches without allocating: a server with a few interfaces.
pub const WAITED_FEW: usize = 8;

/// Waits until one of `fds` is readable or `timeout` has passed; `None` waits for ever.
///
/// # Errors
/// When the system refuses to wait; an interruption by a signal is not an error.
pub fn wait(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    wait_for_any(&mut fds.iter().copied(), timeout).map(drop)
}

/// As [`wait`], without a list, and tells which is the first that is readable: `None` if the time
/// has passed or a signal came.
///
/// # Errors
/// When the system refuses to wait.
pub fn wait_for_any(
    fds: &mut dyn Iterator<Item = BorrowedFd<'_>>,
    timeout: Option<Duration>,
) -> io::Result<Option<usize>> {
    // A wait longer than any clock can count is a wait for ever.
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    let mut polled = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    let Some(first) = polled.next() else {
        return poll_first(&mut [], timeout.as_ref());
    };
    let mut few: [PollFd<'_>; WAITED_FEW] = core::array::from_fn(|_| first.clone());
    let mut count = 1;
    for (place, next) in few.iter_mut().skip(1).zip(&mut polled) {
        *place = next;
        count += 1;
    }
    match polled.next() {
        Some(another) => {
            let mut all: Vec<PollFd<'_>> = few.into_iter().chain([another]).collect();
            all.extend(polled);
            poll_first(&mut all, timeout.as_ref())
        }
        None => poll_first(few.get_mut(..count).unwrap_or_default(), timeout.as_ref()),
    }
}

fn poll_first(fds: &mut [PollFd<'_>], timeout: Option<&Timespec>) -> io::Result<Option<usize>> {
    match poll(fds, timeout) {
        Ok(0) | Err(Errno::INTR) => Ok(None),
        // Errors count as something to read: whoever reads learns of them.
        Ok(_) => Ok(fds.iter().position(|fd| !fd.revents().is_empty())),
        Err(errno) => Err(errno.into()),
    }
}

/// Waits until frames may be there, or something happened to the link, or `timeout` has passed.
/// A link that gives no descriptor is to be asked again after a moment.
///
/// # Errors
/// When the system refuses to wait.
pub fn wait_for_frames(link: &dyn Link, timeout: Duration) -> io::Result<()> {
    const MOMENT: Duration = Duration::from_millis(1);
    if let Some(fd) = link.poll_fd() {
        return wait(&[fd], Some(timeout));
    }
    std::thread::sleep(timeout.min(MOMENT));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_first_that_is_readable_is_told_of_few_and_many() {
        for count in [1, WAITED_FEW - 1, WAITED_FEW, WAITED_FEW + 1, 3 * WAITED_FEW] {
            let pairs: Vec<_> = (0..count).map(|_| UnixStream::pair().unwrap()).collect();
            let first = || {
                let mut fds = pairs.iter().map(|(reader, _)| reader.as_fd());
                wait_for_any(&mut fds, Some(Duration::ZERO)).unwrap()
            };
            assert_eq!(first(), None);
            (&pairs[count - 1].1).write_all(&[1]).unwrap();
            assert_eq!(first(), Some(count - 1), "of {count}");
            (&pairs[0].1).write_all(&[1]).unwrap();
            assert_eq!(first(), Some(0), "of {count}");
        }
        assert_eq!(wait_for_any(&mut core::iter::empty(), Some(Duration::ZERO)).unwrap(), None);
    }
}
