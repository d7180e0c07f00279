//! One frame, and what the kernel tells beside it: its VLAN tag, its time, its direction.

#![allow(
    unsafe_code,
    reason = "no safe wrapper exists for the data that the kernel delivers beside a frame"
)]

use core::mem;
use core::ptr;
use core::time::Duration;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::packet_socket::socklen_of;

/// Room for what the kernel tells beside a frame: VLAN tag and time, some 80 bytes.
const CONTROL_LEN: usize = 256;

/// What came beside a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    /// Octets of the frame, which may be more than found room.
    pub(super) wire_len: usize,
    /// Whether it is one that this host sends.
    pub(super) outgoing: bool,
    /// The tag control information of the VLAN tag that the kernel took out of it.
    pub(super) tci: Option<u16>,
    /// When the kernel saw it, since 1970.
    pub(super) at: Option<Duration>,
}

/// Memory for control messages, aligned for their headers.
#[repr(C, align(8))]
struct Control([u8; CONTROL_LEN]);

/// Takes the next frame. Tag and time are told to sockets that asked for them.
///
/// # Errors
/// Those of the system, "would block" if no frame waits.
pub(super) fn receive_one(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
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
