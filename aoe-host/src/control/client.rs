//! The asking side of the control socket.

use core::time::Duration;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::message::{ControlReply, ControlRequest};
use crate::error::{ErrorKind, HostError, Result};

/// How long a server may take to answer before it counts as hung.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// Asks the server that listens at `path`.
///
/// # Errors
/// `NotFound` if no server listens there, `Timeout` if it does not answer, and whatever the
/// server refused with.
pub fn ask(path: &Path, request: &ControlRequest) -> Result<ControlReply> {
    let line = exchange(path, &request.to_line()).map_err(|error| {
        let absent =
            matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound);
        let slow = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        let kind = match (absent, slow) {
            (true, _) => ErrorKind::NotFound,
            (_, true) => ErrorKind::Timeout,
            _ => ErrorKind::from(&error),
        };
        let asked = HostError::new(kind, "ask the server").path(path).source(error);
        if absent {
            asked.detail("no server listens there").advice("name its socket with --control")
        } else {
            asked
        }
    })?;
    ControlReply::from_line(&line)?.accepted()
}

fn exchange(path: &Path, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut connection = UnixStream::connect(path)?;
    connection.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    connection.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    connection.write_all(request)?;
    let mut line = Vec::new();
    BufReader::new(connection).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server hung up"));
    }
    Ok(line)
}
