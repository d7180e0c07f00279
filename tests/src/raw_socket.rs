//! A raw socket in a network namespace: hears and sends AoE frames beside the programs under test.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use core::time::Duration;
use std::time::Instant;

/// `EtherType` of AoE.
pub const AOE: u16 = 0x88a2;
const RECEIVE_BUFFER: libc::c_int = 64 << 20;
/// Longest wait for room: catches hangs only.
const PATIENCE: Duration = Duration::from_mins(1);

/// A packet socket bound to one interface.
///
/// It is bound to every `EtherType`: only then does it see the frames that leave, too.
#[derive(Debug)]
pub struct RawSocket(OwnedFd);

impl RawSocket {
    /// Opens a socket on `interface` of the network namespace `namespace`.
    pub fn open(namespace: &str, interface: &str) -> io::Result<Self> {
        // Only this thread moves; a socket stays in the namespace it was made in.
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    enter(namespace)?;
                    bound_socket(interface)
                })
                .join()
                .expect("opening a socket does not panic")
        })
    }

    /// Waits at most `patience` for a frame; returns its length, or `None` if none came.
    ///
    /// A frame longer than `buffer` is cut.
    pub fn receive(&self, buffer: &mut [u8], patience: Duration) -> io::Result<Option<usize>> {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let patience_ms = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: `poll` is one valid pollfd for the duration of the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, patience_ms) };
        if check(ready)? == 0 {
            return Ok(None);
        }
        let (start, length) = (buffer.as_mut_ptr(), buffer.len());
        // SAFETY: `start` points to `length` writable bytes, borrowed for the call.
        let got = unsafe { libc::recv(self.0.as_raw_fd(), start.cast(), length, 0) };
        match usize::try_from(got) {
            Ok(length) => Ok(Some(length)),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }

    /// Sends one frame, Ethernet header included. Waits for a system that is too busy to take it.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // SAFETY: the pointer and length are those of a borrowed slice.
            let sent = unsafe {
                let start = frame.as_ptr().cast();
                libc::send(self.0.as_raw_fd(), start, frame.len(), libc::MSG_NOSIGNAL)
            };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::ENOBUFS) || Instant::now() > deadline {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Frames the kernel could not queue since the last call.
    pub fn dropped(&self) -> io::Result<u32> {
        let mut statistics = [0_u32; 2];
        let mut length = libc::socklen_t::try_from(size_of_val(&statistics))
            .map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: `statistics` has the layout of tpacket_stats and `length` is its size.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                statistics.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        check(result)?;
        Ok(statistics[1])
    }
}

fn enter(namespace: &str) -> io::Result<()> {
    let file = File::open(format!("/run/netns/{namespace}"))?;
    // SAFETY: the descriptor is open; the call changes the calling thread only.
    check(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) })?;
    Ok(())
}

fn bound_socket(interface: &str) -> io::Result<RawSocket> {
    let every = u16::try_from(libc::ETH_P_ALL).map_err(|_| io::ErrorKind::InvalidInput)?;
    let protocol = every.to_be();
    // SAFETY: socket takes plain numbers.
    let fd = check(unsafe {
        libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol.into())
    })?;
    // SAFETY: `fd` was just opened and nobody else owns it.
    let socket = RawSocket(unsafe { OwnedFd::from_raw_fd(fd) });
    let bytes = RECEIVE_BUFFER;
    let size =
        libc::socklen_t::try_from(size_of_val(&bytes)).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the option value is a c_int of the given size.
    check(unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const bytes).cast(),
            size,
        )
    })?;
    bind(&socket, interface, protocol)?;
    Ok(socket)
}

fn bind(socket: &RawSocket, interface: &str, protocol: u16) -> io::Result<()> {
    let name = std::ffi::CString::new(interface)?;
    // SAFETY: `name` is a NUL-terminated string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).map_err(|_| io::ErrorKind::InvalidInput)?,
        sll_protocol: protocol,
        sll_ifindex: i32::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let size = libc::socklen_t::try_from(size_of_val(&address))
        .map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `address` is a sockaddr_ll of the given size.
    check(unsafe { libc::bind(socket.0.as_raw_fd(), (&raw const address).cast(), size) })?;
    Ok(())
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
