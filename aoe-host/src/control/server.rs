//! The server's side of the control socket: a thread that accepts, and a queue to the loop.
//!
//! One connection is served at a time, each with a deadline, so that a client that connects and
//! says nothing delays others for seconds and the server loop not at all.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::message::{ControlReply, ControlRequest, MESSAGE_LEN_MAX};
use crate::error::{ErrorKind, HostError, Result};

/// How long a connection may take to send its request, or to take its reply.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the server loop may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Requests that may wait for the loop. The thread serves one connection at a time.
const QUEUE_LEN: usize = 1;

/// A request that waits for its answer.
#[derive(Debug)]
pub struct ControlCall {
    /// What is asked.
    pub request: ControlRequest,
    answer: Sender<ControlReply>,
}

impl ControlCall {
    /// Answers. An asker that has gone away is no error.
    pub fn answer(self, reply: ControlReply) {
        drop(self.answer.try_send(reply));
    }
}

/// The listening control socket. Dropping it removes the socket.
#[derive(Debug)]
pub struct ControlServer {
    path: PathBuf,
    calls: Receiver<ControlCall>,
    wake: UnixStream,
    ending: Arc<AtomicBool>,
}

impl ControlServer {
    /// Listens at `path`, in a thread of its own. Only the owner may connect.
    ///
    /// # Errors
    /// `InUse` if a server answers there, `AlreadyExists` if there is something that is not a
    /// socket. A socket left behind by a killed server is replaced.
    pub fn listen(path: &Path) -> Result<Self> {
        remove_stale(path)?;
        let failed = |error| HostError::io(error, "listen on the control socket").path(path);
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let (wake, waker) = UnixStream::pair().map_err(failed)?;
        wake.set_nonblocking(true).map_err(failed)?;
        let (sender, calls) = bounded(QUEUE_LEN);
        let ending = Arc::new(AtomicBool::new(false));
        let seen_ending = Arc::clone(&ending);
        thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || accept_connections(&listener, &sender, &waker, &seen_ending))
            .map_err(failed)?;
        Ok(Self { path: path.to_owned(), calls, wake, ending })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Becomes readable when a request waits.
    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// The next request, if one waits.
    pub fn next_call(&mut self) -> Option<ControlCall> {
        let mut bin = [0_u8; 16];
        while self.wake.read(&mut bin).is_ok_and(|len| len == bin.len()) {}
        self.calls.try_recv().ok()
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::SeqCst);
        // Ends the thread's wait for a connection.
        drop(UnixStream::connect(&self.path));
        // Without the right to remove it, the next server finds it stale and replaces it.
        drop(fs::remove_file(&self.path));
    }
}

fn remove_stale(path: &Path) -> Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(HostError::new(ErrorKind::AlreadyExists, "make the control socket")
            .path(path)
            .detail("something else has this name")
            .advice("choose another path with --control"));
    }
    if UnixStream::connect(path).is_ok() {
        return Err(HostError::new(ErrorKind::InUse, "make the control socket")
            .path(path)
            .detail("another server answers there")
            .advice("stop it first, or choose another path with --control"));
    }
    fs::remove_file(path)
        .map_err(|error| HostError::io(error, "remove the stale control socket").path(path))
}

fn accept_connections(
    listener: &UnixListener,
    calls: &Sender<ControlCall>,
    waker: &UnixStream,
    ending: &AtomicBool,
) {
    for connection in listener.incoming() {
        if ending.load(Ordering::SeqCst) {
            return;
        }
        let Ok(connection) = connection else {
            // Out of descriptors, for instance: do not spin until it is better.
            thread::sleep(CONNECTION_TIMEOUT);
            continue;
        };
        let served = serve_connection(&connection, calls, waker);
        if matches!(served, Err(ServeEnd::LoopGone)) {
            return;
        }
    }
}

enum ServeEnd {
    LoopGone,
    Connection,
}

impl From<io::Error> for ServeEnd {
    fn from(_: io::Error) -> Self {
        Self::Connection
    }
}

/// Serves the lines of one connection until it ends, fails or is too slow.
fn serve_connection(
    mut connection: &UnixStream,
    calls: &Sender<ControlCall>,
    mut waker: &UnixStream,
) -> core::result::Result<(), ServeEnd> {
    connection.set_read_timeout(Some(CONNECTION_TIMEOUT))?;
    connection.set_write_timeout(Some(CONNECTION_TIMEOUT))?;
    let mut buffered = Vec::new();
    while let Some(line) = read_line(connection, &mut buffered)? {
        let reply = match ControlRequest::from_line(&line) {
            Ok(request) => {
                let (answer, answers) = bounded(1);
                let call = ControlCall { request, answer };
                calls.send(call).map_err(|_| ServeEnd::LoopGone)?;
                waker.write_all(&[1])?;
                answers.recv_timeout(ANSWER_TIMEOUT).unwrap_or_else(|_| {
                    let error = HostError::new(ErrorKind::Timeout, "answer");
                    ControlReply::refused(&error.detail("the server is busy or ending"))
                })
            }
            Err(error) => ControlReply::refused(&error),
        };
        connection.write_all(&reply.to_line())?;
    }
    Ok(())
}

/// The next line without its end; `None` at the end of the stream.
fn read_line(mut from: impl Read, buffered: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let mut chunk = [0_u8; 4096];
    loop {
        if let Some(end) = buffered.iter().position(|byte| *byte == b'\n') {
            let rest = buffered.split_off(end + 1);
            let mut line = core::mem::replace(buffered, rest);
            line.pop();
            return Ok(Some(line));
        }
        if buffered.len() > MESSAGE_LEN_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long"));
        }
        let len = from.read(&mut chunk)?;
        if len == 0 {
            return Ok(None);
        }
        buffered.extend(chunk.iter().take(len));
    }
}

#[cfg(test)]
mod tests {
    use super::super::ask;
    use super::*;
    use crate::link;

    fn answer_one(server: &mut ControlServer, reply: &ControlReply) -> ControlRequest {
        loop {
            link::wait(&[server.poll_fd()], Some(Duration::from_secs(10))).unwrap();
            if let Some(call) = server.next_call() {
                let request = call.request.clone();
                call.answer(reply.clone());
                return request;
            }
        }
    }

    #[test]
    fn a_question_reaches_the_loop_and_its_answer_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let mut server = ControlServer::listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for n in 0..3 {
            let path = path.clone();
            let asker = thread::spawn(move || ask(&path, &ControlRequest::Advertise));
            let reply = ControlReply::Done(format!("answer {n}"));
            assert_eq!(answer_one(&mut server, &reply), ControlRequest::Advertise);
            assert_eq!(asker.join().unwrap().unwrap(), reply);
        }
        drop(server);
        assert!(!path.exists());
        let error = ask(&path, &ControlRequest::Status).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn nonsense_never_reaches_the_loop() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let mut server = ControlServer::listen(&path).unwrap();
        let mut connection = UnixStream::connect(&path).unwrap();
        connection.write_all(b"format c:\n").unwrap();
        let line = read_line(&connection, &mut Vec::new()).unwrap().unwrap();
        let refused = ControlReply::from_line(&line).unwrap().accepted().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Protocol);
        connection.write_all(&vec![b'x'; 2 * MESSAGE_LEN_MAX]).unwrap_or(());
        assert!(read_line(&connection, &mut Vec::new()).map_or(true, |line| line.is_none()));
        assert!(server.next_call().is_none());
    }

    #[test]
    fn a_second_server_is_refused_and_a_stale_socket_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let first = ControlServer::listen(&path).unwrap();
        assert_eq!(ControlServer::listen(&path).unwrap_err().kind(), ErrorKind::InUse);
        drop(first);
        // What a killed server leaves: a socket nobody listens on.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(ControlServer::listen(&path).unwrap());
        fs::write(&path, b"precious").unwrap();
        assert_eq!(ControlServer::listen(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
