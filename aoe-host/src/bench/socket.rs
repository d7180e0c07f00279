//! A raw socket in batches, for a generator of load: it must cost less than the servers it measures.
//!
//! One system call sends up to 16 frames or takes up to 32, header and data of a request leave from
//! where they are, and of an answer only the header is copied unless its data are to be checked.
//! Unlike a server's link it takes answers for every station, since its clients are many.

#![allow(
    unsafe_code,
    reason = "no safe wrapper exists for packet sockets, their filters, and batches of messages"
)]

use core::ffi::{c_int, c_void};
use core::mem;
use core::ptr;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use aoe_proto::wire::{ETHERNET_LEN, ETHERTYPE, FRAME_LEN_MIN};
use rustix::net::sockopt;

use super::wire::{Outgoing, Received, TICK, Wire};
use crate::config::LinkKind;
use crate::error::{HostError, Result};
use crate::link::{self, Room};
use crate::values::Mac;

/// Frames taken by one call.
const RECEIVE_BATCH: usize = 32;
/// Frames sent by one call.
const SEND_BATCH: usize = 16;
/// Receive and send buffers asked for: answers to thousands of requests may arrive at once.
const SOCKET_BUFFER_LEN: usize = 256 << 20;
/// Socket option that reads and clears the drop counter (`linux/if_packet.h`).
const PACKET_STATISTICS: c_int = 6;
/// `skb->pkt_type` of a frame for this host (`linux/if_packet.h`).
const PACKET_HOST: u32 = 0;
/// The same, of a frame that leaves.
const PACKET_OUTGOING: u32 = 4;

/// A raw socket as a [`Wire`].
pub struct SocketWire {
    fd: OwnedFd,
    name: String,
    mac: Mac,
    mtu: usize,
    drops: u64,
    whole: bool,
    slot_len: usize,
    buffer: Vec<u8>,
}

impl SocketWire {
    /// Opens a raw socket on the Ethernet interface `name`. With `every_station` it takes answers
    /// to any address, not only the interface's own.
    ///
    /// # Errors
    /// `PermissionDenied` without the right to raw sockets, `NotFound` without such an interface.
    pub fn open(name: &str, every_station: bool) -> Result<Self> {
        // A link knows how to look at an interface, and what to say when it cannot.
        let (mac, mtu) = {
            let link = link::open(LinkKind::Pnet, name, Room::default())?;
            (link.mac(), link.mtu())
        };
        let slot_len = mtu + ETHERNET_LEN + 1;
        let fd = open_socket(name, every_station)
            .map_err(|error| HostError::io(error, "open a raw socket").interface(name))?;
        Ok(Self {
            fd,
            name: name.to_owned(),
            mac,
            mtu,
            drops: 0,
            whole: true,
            slot_len,
            buffer: vec![0; slot_len * RECEIVE_BATCH],
        })
    }

    /// Sends a batch; how many frames left.
    fn send_batch(&self, batch: &[Outgoing<'_>]) -> usize {
        let mut parts = [[EMPTY_PART; 2]; SEND_BATCH];
        let mut messages = [NO_MESSAGE; SEND_BATCH];
        let mut count = 0;
        for ((frame, parts), message) in batch.iter().zip(&mut parts).zip(&mut messages) {
            *parts = [part_of(frame.head), part_of(frame.data)];
            message.msg_hdr.msg_iov = parts.as_mut_ptr();
            message.msg_hdr.msg_iovlen = 2;
            count += 1;
        }
        let mut sent = 0;
        let mut at = 0;
        while at < count {
            let Some(rest) = messages.get_mut(at..count) else { break };
            let len = u32::try_from(rest.len()).unwrap_or(0);
            // SAFETY: `rest` are `len` messages; each names two parts in `parts`, which name slices
            // of `batch`; all of them outlive the call, and sending only reads them.
            let result = unsafe { libc::sendmmsg(self.fd.as_raw_fd(), rest.as_mut_ptr(), len, 0) };
            match usize::try_from(result) {
                Ok(some) if some > 0 => {
                    sent += some;
                    at += some;
                }
                _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                // The first of the rest did not leave: it is lost, and the others have their turn.
                _ => at += 1,
            }
        }
        sent
    }
}

const EMPTY_PART: libc::iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };

const NO_MESSAGE: libc::mmsghdr = libc::mmsghdr {
    // SAFETY: `msghdr` consists of integers and pointers; all zero is a valid value of it.
    msg_hdr: unsafe { mem::zeroed() },
    msg_len: 0,
};

/// The kernel only reads through the pointer when it sends.
fn part_of(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast::<c_void>(), iov_len: bytes.len() }
}

impl Wire for SocketWire {
    fn name(&self) -> &str {
        &self.name
    }

    fn mac(&self) -> Mac {
        self.mac
    }

    fn mtu(&self) -> usize {
        self.mtu
    }

    fn send(&mut self, frames: &mut dyn Iterator<Item = Outgoing<'_>>) -> usize {
        let mut batch = [Outgoing { head: &[], data: &[] }; SEND_BATCH];
        let mut sent = 0;
        loop {
            let mut count = 0;
            for (place, frame) in batch.iter_mut().zip(&mut *frames) {
                *place = frame;
                count += 1;
            }
            sent += self.send_batch(batch.get(..count).unwrap_or_default());
            if count < SEND_BATCH {
                return sent;
            }
        }
    }

    fn receive(&mut self, wait: bool, sink: &mut dyn FnMut(Received<'_>)) -> usize {
        let len = if self.whole { self.slot_len } else { FRAME_LEN_MIN };
        let mut parts = [EMPTY_PART; RECEIVE_BATCH];
        let mut messages = [NO_MESSAGE; RECEIVE_BATCH];
        let places = self.buffer.chunks_exact_mut(self.slot_len);
        for ((place, part), message) in places.zip(&mut parts).zip(&mut messages) {
            part.iov_base = place.as_mut_ptr().cast();
            part.iov_len = len;
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
        }
        // With MSG_TRUNC the kernel tells the whole length of a frame, however much was wanted.
        let flags = libc::MSG_TRUNC | if wait { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT };
        // SAFETY: `messages` are as many as is said; each names one of `parts`, which names `len`
        // bytes of a place of its own in `buffer` that nothing else refers to during the call.
        let count = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                messages.as_mut_ptr(),
                constant_u32(RECEIVE_BATCH),
                flags,
                ptr::null_mut(),
            )
        };
        // Nothing came in time, or the interface went down: both are seen as silence.
        let count = usize::try_from(count).unwrap_or(0);
        for (message, place) in
            messages.iter().zip(self.buffer.chunks_exact(self.slot_len)).take(count)
        {
            let whole_len = usize::try_from(message.msg_len).unwrap_or(0);
            let bytes = place.get(..whole_len.min(len)).unwrap_or_default();
            sink(Received { bytes, len: whole_len });
        }
        count
    }

    fn want_whole_frames(&mut self, whole: bool) {
        self.whole = whole;
    }

    fn drops(&mut self) -> u64 {
        // struct tpacket_stats { unsigned int tp_packets, tp_drops; }
        let mut stats = [0_u32; 2];
        let mut len = constant_u32(size_of_val(&stats));
        // SAFETY: the pointer and `len` describe `stats`, plain integers of the size the option
        // writes; both outlive the call.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_STATISTICS,
                stats.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if result == 0 {
            let [_packets, drops] = stats;
            self.drops += u64::from(drops);
        }
        self.drops
    }
}

/// A bound, filtered, blocking socket with a time limit.
fn open_socket(name: &str, every_station: bool) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: `socket` takes three integers and touches no memory of ours.
    let raw = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
    // SAFETY: `raw` was returned by `socket` just above, is open, and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    attach_filter(&fd, &answers_filter(every_station))?;
    grow_buffers(&fd)?;
    sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(TICK))?;
    let index = index_of(name)?;
    if every_station {
        become_promiscuous(&fd, index)?;
    }
    bind(&fd, index)?;
    Ok(fd)
}

fn grow_buffers(fd: &OwnedFd) -> io::Result<()> {
    if sockopt::set_socket_recv_buffer_size_force(fd, SOCKET_BUFFER_LEN).is_err() {
        sockopt::set_socket_recv_buffer_size(fd, SOCKET_BUFFER_LEN)?;
    }
    if sockopt::set_socket_send_buffer_size_force(fd, SOCKET_BUFFER_LEN).is_err() {
        sockopt::set_socket_send_buffer_size(fd, SOCKET_BUFFER_LEN)?;
    }
    Ok(())
}

fn index_of(name: &str) -> io::Result<c_int> {
    let name = CString::new(name)?;
    // SAFETY: `name` is a string that ends with a zero and outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    c_int::try_from(index).map_err(io::Error::other)
}

fn bind(fd: &OwnedFd, index: c_int) -> io::Result<()> {
    // SAFETY: `sockaddr_ll` consists of integers only; all zero is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_protocol = ETHERTYPE.to_be();
    address.sll_ifindex = index;
    let len = constant_u32(size_of_val(&address));
    // SAFETY: the pointer and `len` describe `address`, which outlives the call; `bind` reads only.
    check(unsafe { libc::bind(fd.as_raw_fd(), ptr::from_ref(&address).cast(), len) })?;
    Ok(())
}

/// A real interface passes frames for other stations only when asked; it forgets this with the
/// socket.
fn become_promiscuous(fd: &OwnedFd, index: c_int) -> io::Result<()> {
    // SAFETY: `packet_mreq` consists of integers only; all zero is a valid value.
    let mut request: libc::packet_mreq = unsafe { mem::zeroed() };
    request.mr_ifindex = index;
    request.mr_type =
        libc::c_ushort::try_from(libc::PACKET_MR_PROMISC).map_err(io::Error::other)?;
    set_option(fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
}

fn attach_filter(fd: &OwnedFd, program: &[libc::sock_filter]) -> io::Result<()> {
    let handle = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_ptr().cast_mut(),
    };
    // The kernel copies the program, which outlives the call, and writes nothing.
    set_option(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &handle)
}

fn set_option<T>(fd: &OwnedFd, level: c_int, option: c_int, value: &T) -> io::Result<()> {
    let (pointer, len) = (ptr::from_ref(value).cast(), constant_u32(size_of::<T>()));
    // SAFETY: the pointer and `len` describe `value`, which outlives the call; the options set here
    // only read it, and what it points to.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, pointer, len) })?;
    Ok(())
}

/// Admits responses without a foreign VLAN tag: all that arrive, or those for this host. [AoE 9.5]
fn answers_filter(every_station: bool) -> [libc::sock_filter; 13] {
    const ACCEPT: u32 = u32::MAX;
    const RESPONSE: u32 = 0x08;
    // Either "not one that leaves" or "one for this host".
    let (kind, if_equal, otherwise) =
        if every_station { (PACKET_OUTGOING, 6, 0) } else { (PACKET_HOST, 0, 6) };
    let jump = libc::BPF_JMP | libc::BPF_K;
    [
        /* 0 */ load(libc::BPF_H, 12),
        /* 1 */ instruction(jump | libc::BPF_JEQ, 0, 10, u32::from(ETHERTYPE)),
        /* 2 */ load(libc::BPF_B, 14),
        /* 3 */ instruction(jump | libc::BPF_JSET, 0, 8, RESPONSE),
        /* 4 */ load(libc::BPF_W, ancillary(libc::SKF_AD_PKTTYPE)),
        /* 5 */ instruction(jump | libc::BPF_JEQ, if_equal, otherwise, kind),
        /* 6 */ load(libc::BPF_W, ancillary(libc::SKF_AD_VLAN_TAG_PRESENT)),
        /* 7 */ instruction(jump | libc::BPF_JEQ, 3, 0, 0),
        /* 8 */ load(libc::BPF_W, ancillary(libc::SKF_AD_VLAN_TAG)),
        /* 9 */ instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, 0x0fff),
        /* 10 */ instruction(jump | libc::BPF_JEQ, 0, 1, 0),
        /* 11 */ instruction(libc::BPF_RET | libc::BPF_K, 0, 0, ACCEPT),
        /* 12 */ instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

const fn load(width: u32, at: u32) -> libc::sock_filter {
    instruction(libc::BPF_LD | width | libc::BPF_ABS, 0, 0, at)
}

/// Offset of data that the kernel keeps beside the frame.
const fn ancillary(what: c_int) -> u32 {
    (libc::SKF_AD_OFF + what).cast_unsigned()
}

#[expect(clippy::cast_possible_truncation, reason = "classic BPF codes have 8 bits")]
const fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

#[expect(clippy::cast_possible_truncation, reason = "sizes of small structures and batches")]
const fn constant_u32(n: usize) -> u32 {
    n as u32
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Frame {
        ethertype: u32,
        flags: u32,
        kind: u32,
        tag: Option<u32>,
    }

    const ANSWER: Frame = Frame { ethertype: 0x88a2, flags: 0x18, kind: PACKET_HOST, tag: None };
    const OTHER_HOST: u32 = 3;

    /// What the filter answers, interpreted here.
    fn admits(every_station: bool, frame: &Frame) -> bool {
        let program = answers_filter(every_station);
        let (mut at, mut accumulator) = (0_usize, 0_u32);
        loop {
            let op = program[at];
            at += 1;
            let code = u32::from(op.code);
            match code & 0x07 {
                libc::BPF_LD => {
                    accumulator = match op.k {
                        12 => frame.ethertype,
                        14 => frame.flags,
                        k if k == ancillary(libc::SKF_AD_PKTTYPE) => frame.kind,
                        k if k == ancillary(libc::SKF_AD_VLAN_TAG_PRESENT) => {
                            u32::from(frame.tag.is_some())
                        }
                        k if k == ancillary(libc::SKF_AD_VLAN_TAG) => frame.tag.unwrap(),
                        k => panic!("load from {k:#x}"),
                    };
                }
                libc::BPF_ALU => accumulator &= op.k,
                libc::BPF_JMP => {
                    let hit = match code & 0xf0 {
                        libc::BPF_JEQ => accumulator == op.k,
                        libc::BPF_JSET => accumulator & op.k != 0,
                        jump => panic!("jump {jump:#x}"),
                    };
                    at += usize::from(if hit { op.jt } else { op.jf });
                }
                libc::BPF_RET => return op.k != 0,
                class => panic!("instruction class {class}"),
            }
        }
    }

    #[test]
    fn the_filter_admits_answers() {
        for every_station in [false, true] {
            let admits = |frame: &Frame| admits(every_station, frame);
            assert!(admits(&ANSWER));
            assert!(!admits(&Frame { ethertype: 0x0800, ..ANSWER }));
            assert!(!admits(&Frame { flags: 0x10, ..ANSWER }), "a request");
            assert!(!admits(&Frame { kind: PACKET_OUTGOING, ..ANSWER }));
            assert_eq!(admits(&Frame { kind: OTHER_HOST, ..ANSWER }), every_station);
            assert!(admits(&Frame { tag: Some(0xe000), ..ANSWER }), "priority 7, id 0");
            assert!(!admits(&Frame { tag: Some(5), ..ANSWER }));
        }
    }
}
