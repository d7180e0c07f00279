//! Listens to the AoE frames that pass an interface, in both directions, with time and VLAN tag.
//!
//! Unlike a [`Link`](super::Link) it hears what other machines say to each other, and never sends.

#![allow(
    unsafe_code,
    reason = "no safe wrapper exists for the data that the kernel delivers beside a frame"
)]

use core::ffi::c_int;
use core::mem;
use core::ptr;
use core::time::Duration;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::SystemTime;

use aoe_proto::wire::ETHERNET_LEN;

use super::InterfaceState;
use super::filter::tap_program;
use super::packet_socket::{PacketSocket, check, constant_u16, socklen_of};
use crate::capture::{Tagged, strip_tag};
use crate::error::{ErrorKind, HostError, Result};

/// Largest frame taken whole: the loopback interface's MTU, a header and two VLAN tags.
const FRAME_LEN_MAX: usize = 65_536 + ETHERNET_LEN + 8;
/// Room for what the kernel tells beside a frame: VLAN tag and time, some 80 bytes.
const CONTROL_LEN: usize = 256;

/// A frame that was heard.
#[derive(Clone, Copy, Debug)]
pub struct Heard<'f> {
    /// When the kernel saw it, since 1970.
    pub at: Duration,
    /// The frame without VLAN tag.
    pub frame: &'f [u8],
    /// Its whole length without VLAN tag; longer than `frame` if that was cut.
    pub wire_len: usize,
    /// The tag control information of its VLAN tag.
    pub tci: Option<u16>,
}

/// A socket that hears every AoE frame of an interface.
#[derive(Debug)]
pub struct Tap {
    name: String,
    socket: PacketSocket,
    loopback: bool,
    buffer: Vec<u8>,
}

impl Tap {
    /// Listens on the Ethernet interface `name`; with `promiscuous` also to frames that the
    /// interface would not take otherwise, for as long as the tap lives.
    ///
    /// # Errors
    /// `PermissionDenied` without the right to raw sockets, `NotFound` without such an interface,
    /// `Unsupported` if it is not Ethernet.
    pub fn open(name: &str, promiscuous: bool) -> Result<Self> {
        let socket = PacketSocket::open_filtered(&tap_program()).map_err(|error| {
            HostError::io(error, "open a raw socket")
                .interface(name)
                .advice("run as root, or give the program CAP_NET_RAW")
        })?;
        let failed = |error| HostError::io(error, "listen").interface(name);
        let state = socket.interface(name).map_err(failed)?.ok_or_else(|| {
            HostError::new(ErrorKind::NotFound, "listen")
                .interface(name)
                .advice("`ip link` lists the interfaces of this machine")
        })?;
        let tap = Self {
            name: name.to_owned(),
            socket,
            // The loopback interface shows every frame twice: as it leaves, and as it comes back.
            loopback: state.mac.0 == [0; 6],
            buffer: vec![0; FRAME_LEN_MAX],
        };
        tap.prepare(&state, promiscuous).map_err(failed)?;
        Ok(tap)
    }

    fn prepare(&self, state: &InterfaceState, promiscuous: bool) -> io::Result<()> {
        self.set_option(libc::SOL_PACKET, libc::PACKET_AUXDATA, &1_i32)?;
        self.set_option(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1_i32)?;
        if promiscuous {
            self.socket.become_promiscuous(state.index)?;
        }
        // Only who is bound to every `EtherType` sees what leaves.
        self.socket.bind_protocol(state.index, constant_u16(libc::ETH_P_ALL))?;
        drop(self.socket.take_error());
        Ok(())
    }

    fn set_option<T>(&self, level: c_int, name: c_int, value: &T) -> io::Result<()> {
        let len = socklen_of::<T>()?;
        let fd = self.socket.as_fd().as_raw_fd();
        // SAFETY: the pointer and `len` describe `value`, which outlives the call; the kernel only
        // reads.
        let result = unsafe { libc::setsockopt(fd, level, name, ptr::from_ref(value).cast(), len) };
        check(result)
    }

    /// Becomes readable when frames wait.
    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The MTU of the interface, now. `None` if it is gone.
    pub fn mtu(&self) -> Option<usize> {
        self.socket.interface(&self.name).ok().flatten().map(|state| state.mtu)
    }

    /// Frames that found no room in the queue since the last call.
    pub fn take_drops(&self) -> u32 {
        self.socket.take_drops().unwrap_or(0)
    }

    /// Hands the next frame to `sink`; `false` if none waits.
    ///
    /// # Errors
    /// When the interface went down or away.
    pub fn receive(&mut self, sink: &mut dyn FnMut(&Heard<'_>)) -> Result<bool> {
        loop {
            let received = receive_one(self.socket.as_fd(), &mut self.buffer);
            let received = match received {
                Ok(received) => received,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(false),
                    io::ErrorKind::Interrupted => continue,
                    _ => return Err(HostError::io(error, "listen").interface(&self.name)),
                },
            };
            if self.loopback && received.outgoing {
                continue;
            }
            let len = received.wire_len.min(self.buffer.len());
            let Some(bytes) = self.buffer.get_mut(..len) else { return Ok(false) };
            let Tagged { frame, tci } = strip_tag(bytes);
            let wire_len = received.wire_len.saturating_sub(len - frame.len());
            let tci = received.tci.or(tci);
            let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok();
            let at = received.at.or_else(now).unwrap_or_default();
            sink(&Heard { at, frame, wire_len, tci });
            return Ok(true);
        }
    }
}

/// What came beside a frame.
struct Received {
    wire_len: usize,
    outgoing: bool,
    tci: Option<u16>,
    at: Option<Duration>,
}

/// Memory for control messages, aligned for their headers.
#[repr(C, align(8))]
struct Control([u8; CONTROL_LEN]);

fn receive_one(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    // SAFETY: `sockaddr_ll` consists of integers only; all zero is a valid value.
    let mut from: libc::sockaddr_ll = unsafe { mem::zeroed() };
    let mut control = Control([0; CONTROL_LEN]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: `msghdr` consists of integers and pointers; all zero is a valid value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_name = ptr::from_mut(&mut from).cast();
    message.msg_namelen = socklen_of::<libc::sockaddr_ll>()?;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control_len(CONTROL_LEN);
    // MSG_TRUNC: the length of the whole frame, even if it does not fit.
    // SAFETY: every pointer in `message` describes memory that lives through the call, with its
    // length beside it.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_TRUNC) };
    let wire_len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    let (tci, at) = control_data(&message);
    let outgoing = from.sll_pkttype == libc::PACKET_OUTGOING;
    Ok(Received { wire_len, outgoing, tci, at })
}

/// The type of the lengths in control messages, about which C libraries disagree.
#[cfg(target_env = "musl")]
type ControlLen = libc::socklen_t;
#[cfg(not(target_env = "musl"))]
type ControlLen = libc::size_t;

/// A length of some hundred octets at most.
#[allow(clippy::cast_possible_truncation, reason = "it is small")]
const fn control_len(len: usize) -> ControlLen {
    len as ControlLen
}

/// The VLAN tag that the kernel took out of the frame, and the time.
fn control_data(message: &libc::msghdr) -> (Option<u16>, Option<Duration>) {
    let (mut tci, mut at) = (None, None);
    // SAFETY: `message` was filled by `recvmsg`; its control memory is alive and as long as it says.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !next.is_null() {
        // SAFETY: not null, so it points to a header inside the control memory.
        let header = unsafe { &*next };
        match (header.cmsg_level, header.cmsg_type) {
            (libc::SOL_PACKET, libc::PACKET_AUXDATA) => {
                let aux: Option<libc::tpacket_auxdata> = payload(header);
                let tagged =
                    |aux: &libc::tpacket_auxdata| aux.tp_status & libc::TP_STATUS_VLAN_VALID != 0;
                tci = aux.filter(tagged).map(|aux| aux.tp_vlan_tci);
            }
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                let time: Option<libc::timespec> = payload(header);
                at = time.and_then(|time| {
                    let seconds = u64::try_from(time.tv_sec).ok()?;
                    Some(Duration::new(seconds, u32::try_from(time.tv_nsec).ok()?))
                });
            }
            _ => {}
        }
        // SAFETY: as for the first header; `next` is one that it returned.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
    }
    (tci, at)
}

/// The payload of a control message, if it is long enough. `T` is a plain C structure.
fn payload<T: Copy>(header: &libc::cmsghdr) -> Option<T> {
    let size = u32::try_from(size_of::<T>()).ok()?;
    // SAFETY: arithmetic on a number only.
    let needed = unsafe { libc::CMSG_LEN(size) };
    if header.cmsg_len < control_len(usize::try_from(needed).ok()?) {
        return None;
    }
    // SAFETY: the header lies in control memory that `recvmsg` filled; its data follow it.
    let data = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: the message is long enough for a `T`, whose fields are integers of any value.
    Some(unsafe { data.cast::<T>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter answers for the types at bytes 12 and 16, interpreted here.
    fn verdict(outer: u16, inner: u16) -> bool {
        let program = tap_program();
        let (mut at, mut accumulator) = (0_usize, 0_u32);
        loop {
            let op = program[at];
            at += 1;
            match u32::from(op.code) & 0x07 {
                libc::BPF_LD => {
                    accumulator = if op.k == 12 { outer.into() } else { inner.into() };
                }
                libc::BPF_JMP => {
                    at += usize::from(if accumulator == op.k { op.jt } else { op.jf });
                }
                libc::BPF_RET => return op.k != 0,
                class => panic!("instruction class {class}"),
            }
        }
    }

    #[test]
    fn the_filter_admits_aoe_with_and_without_a_tag() {
        assert!(verdict(0x88A2, 0));
        assert!(verdict(0x8100, 0x88A2));
        assert!(verdict(0x88A8, 0x88A2));
        assert!(!verdict(0x0800, 0x88A2));
        assert!(!verdict(0x8100, 0x0800));
    }
}
