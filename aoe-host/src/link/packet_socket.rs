//! The `AF_PACKET` socket under every link of the operating system. The link's only unsafe code.
//!
//! A socket is prepared in an order that lets nothing unwanted in: it is created deaf (protocol
//! 0), gets the filter, and is bound last.

#![allow(
    unsafe_code,
    reason = "no safe wrapper exists for packet sockets, socket filters and interface requests"
)]

use core::ffi::c_int;
use core::mem;
use core::ptr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use aoe_proto::wire::ETHERTYPE;
use rustix::net::sockopt;

use super::InterfaceState;
use crate::values::Mac;

/// Receive and send buffers asked for: room for a window of jumbo frames of hundreds of
/// initiators. The system may grant less. [AoE 9.12]
const SOCKET_BUFFER_LEN: usize = 8 << 20;

/// Socket option that reads and clears the drop counter (`linux/if_packet.h`).
const PACKET_STATISTICS: c_int = 6;
/// `skb->pkt_type` of a frame for this host, and of a broadcast (`linux/if_packet.h`).
const PACKET_HOST: u32 = 0;
const PACKET_BROADCAST: u32 = 1;
/// Offset of the `EtherType` in a frame.
const ETHERTYPE_AT: u32 = 12;
/// The VLAN id within the tag; the rest is priority. Id 0 is a priority tag, not a VLAN.
const VLAN_ID_MASK: u32 = 0x0FFF;

/// A raw socket that lets only AoE frames for this station pass.
#[derive(Debug)]
pub(super) struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// A filtered socket that is not bound yet and therefore receives nothing.
    pub(super) fn open() -> io::Result<Self> {
        Self::open_filtered(&aoe_filter())
    }

    /// As [`PacketSocket::open`], with another filter.
    pub(super) fn open_filtered(filter: &[libc::sock_filter]) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: `socket` takes three integers and touches no memory of ours.
        let raw = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `raw` was returned by `socket` just above, is open, and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let socket = Self { fd };
        socket.attach_filter(filter)?;
        socket.grow_buffers()?;
        Ok(socket)
    }

    /// Binds to the interface of number `index`, or moves the binding there, for AoE frames.
    /// Needs no privilege, so it works after privileges were dropped.
    pub(super) fn bind(&self, index: u32) -> io::Result<()> {
        self.bind_protocol(index, ETHERTYPE)
    }

    /// As [`PacketSocket::bind`], for the frames of another `EtherType`.
    pub(super) fn bind_protocol(&self, index: u32, protocol: u16) -> io::Result<()> {
        // SAFETY: `sockaddr_ll` consists of integers only; all zero is a valid value.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = constant_u16(libc::AF_PACKET);
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
        let len = socklen_of::<libc::sockaddr_ll>()?;
        // SAFETY: the pointer and `len` describe `address`, which outlives the call; `bind` reads
        // only.
        let result =
            unsafe { libc::bind(self.fd.as_raw_fd(), ptr::from_ref(&address).cast(), len) };
        check(result)
    }

    /// A second descriptor of this same socket, for a library that closes what it is given.
    pub(super) fn duplicate(&self) -> io::Result<RawFd> {
        Ok(self.fd.try_clone()?.into_raw_fd())
    }

    /// Takes the error the kernel left on the socket, if any, so that waiting works again.
    pub(super) fn take_error(&self) -> Option<io::Error> {
        match sockopt::socket_error(&self.fd) {
            Ok(Ok(())) => None,
            Ok(Err(errno)) | Err(errno) => Some(errno.into()),
        }
    }

    /// Frames that passed the filter but found no room, since the last call.
    pub(super) fn take_drops(&self) -> io::Result<u32> {
        // struct tpacket_stats { unsigned int tp_packets, tp_drops; }
        let mut stats = [0_u32; 2];
        let mut len = socklen_of::<[u32; 2]>()?;
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
        check(result)?;
        let [_packets, drops] = stats;
        Ok(drops)
    }

    /// One look at the interface called `name`; `None` if there is none.
    pub(super) fn interface(&self, name: &str) -> io::Result<Option<InterfaceState>> {
        match self.look_at(name) {
            Ok(state) => Ok(Some(state)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn look_at(&self, name: &str) -> io::Result<InterfaceState> {
        let mut request = interface_request(name)?;
        self.interface_ioctl(libc::SIOCGIFINDEX, &mut request)?;
        // SAFETY: SIOCGIFINDEX succeeded, so the kernel wrote this member (netdevice(7)).
        let index = unsafe { request.ifr_ifru.ifru_ifindex };
        self.interface_ioctl(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: SIOCGIFFLAGS succeeded, so the kernel wrote this member.
        let flags = c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        self.interface_ioctl(libc::SIOCGIFMTU, &mut request)?;
        // SAFETY: SIOCGIFMTU succeeded, so the kernel wrote this member.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        self.interface_ioctl(libc::SIOCGIFHWADDR, &mut request)?;
        // SAFETY: SIOCGIFHWADDR succeeded, so the kernel wrote this member.
        let hardware = unsafe { request.ifr_ifru.ifru_hwaddr };
        if !matches!(hardware.sa_family, libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "not an Ethernet interface"));
        }
        let mut mac = [0_u8; 6];
        for (octet, from) in mac.iter_mut().zip(hardware.sa_data) {
            [*octet] = from.to_be_bytes();
        }
        let usable = libc::IFF_UP | libc::IFF_RUNNING;
        Ok(InterfaceState {
            index: u32::try_from(index).map_err(io::Error::other)?,
            mac: Mac(mac),
            mtu: usize::try_from(mtu).map_err(io::Error::other)?,
            up: flags & usable == usable,
        })
    }

    fn interface_ioctl(&self, code: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
        #[allow(
            clippy::unnecessary_cast,
            clippy::cast_possible_truncation,
            clippy::cast_possible_wrap,
            reason = "C libraries disagree about the type; the codes fit in 16 bits"
        )]
        let code = code as libc::Ioctl;
        // SAFETY: the SIOCGIF* requests read the name from, and write the answer to, one `ifreq`,
        // which `request` points to for the duration of the call.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), code, ptr::from_mut(request)) };
        check(result)
    }

    fn attach_filter(&self, program: &[libc::sock_filter]) -> io::Result<()> {
        let handle = libc::sock_fprog {
            len: u16::try_from(program.len()).map_err(io::Error::other)?,
            filter: program.as_ptr().cast_mut(),
        };
        let len = socklen_of::<libc::sock_fprog>()?;
        // SAFETY: `handle` and the program it points to are alive during the call, and its `len`
        // is the program's; the kernel copies the program and writes nothing.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                ptr::from_ref(&handle).cast(),
                len,
            )
        };
        check(result)
    }

    /// Beyond the system's limit with `CAP_NET_ADMIN`, up to the limit without.
    fn grow_buffers(&self) -> io::Result<()> {
        if sockopt::set_socket_recv_buffer_size_force(&self.fd, SOCKET_BUFFER_LEN).is_err() {
            sockopt::set_socket_recv_buffer_size(&self.fd, SOCKET_BUFFER_LEN)?;
        }
        if sockopt::set_socket_send_buffer_size_force(&self.fd, SOCKET_BUFFER_LEN).is_err() {
            sockopt::set_socket_send_buffer_size(&self.fd, SOCKET_BUFFER_LEN)?;
        }
        Ok(())
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The kernel's side of link invariant 1, as a classic BPF program.
///
/// The kernel takes a VLAN tag out of the frame before any filter sees it, so that a tagged frame
/// looks like an ordinary one; only the tag kept beside the frame tells. [AoE 9.5]
fn aoe_filter() -> [libc::sock_filter; 12] {
    const ACCEPT: u32 = u32::MAX;
    const DROP: u32 = 0;
    [
        /* 0 */ load(libc::BPF_H, ETHERTYPE_AT),
        /* 1 */ jump_if_equal(u32::from(ETHERTYPE), 0, 9),
        /* 2 */ load(libc::BPF_W, ancillary(libc::SKF_AD_PKTTYPE)),
        /* 3 */ jump_if_equal(PACKET_HOST, 1, 0),
        /* 4 */ jump_if_equal(PACKET_BROADCAST, 0, 6),
        /* 5 */ load(libc::BPF_W, ancillary(libc::SKF_AD_VLAN_TAG_PRESENT)),
        /* 6 */ jump_if_equal(0, 3, 0),
        /* 7 */ load(libc::BPF_W, ancillary(libc::SKF_AD_VLAN_TAG)),
        /* 8 */ instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, VLAN_ID_MASK),
        /* 9 */ jump_if_equal(0, 0, 1),
        /* 10 */ instruction(libc::BPF_RET | libc::BPF_K, 0, 0, ACCEPT),
        /* 11 */ instruction(libc::BPF_RET | libc::BPF_K, 0, 0, DROP),
    ]
}

pub(super) const fn load(width: u32, at: u32) -> libc::sock_filter {
    instruction(libc::BPF_LD | width | libc::BPF_ABS, 0, 0, at)
}

/// Skips `if_equal` or `otherwise` instructions.
pub(super) const fn jump_if_equal(value: u32, if_equal: u8, otherwise: u8) -> libc::sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, if_equal, otherwise, value)
}

/// Offset of data that the kernel keeps beside the frame.
const fn ancillary(what: c_int) -> u32 {
    (libc::SKF_AD_OFF + what).cast_unsigned()
}

#[expect(clippy::cast_possible_truncation, reason = "classic BPF codes have 8 bits")]
pub(super) const fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// An interface request about `name`, which must fit with its terminating zero.
fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` is an array of characters and a union of integers and of pointers that are
    // never followed by us; all zero is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.contains('\0') {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_be_bytes([from]);
    }
    Ok(request)
}

pub(super) fn socklen_of<T>() -> io::Result<libc::socklen_t> {
    libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "address families are small positive constants"
)]
pub(super) const fn constant_u16(value: c_int) -> u16 {
    value as u16
}

pub(super) fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter answers for an `EtherType`, packet type and VLAN tag, interpreted here.
    fn verdict(ethertype: u16, packet_type: u32, tag: Option<u16>) -> bool {
        let program = aoe_filter();
        let (mut at, mut accumulator) = (0_usize, 0_u32);
        loop {
            let op = program[at];
            at += 1;
            match u32::from(op.code) & 0x07 {
                libc::BPF_LD => {
                    accumulator = match op.k {
                        ETHERTYPE_AT => u32::from(ethertype),
                        k if k == ancillary(libc::SKF_AD_PKTTYPE) => packet_type,
                        k if k == ancillary(libc::SKF_AD_VLAN_TAG_PRESENT) => {
                            u32::from(tag.is_some())
                        }
                        k if k == ancillary(libc::SKF_AD_VLAN_TAG) => {
                            u32::from(tag.unwrap_or(0xA5A5))
                        }
                        k => panic!("load from {k:#x}"),
                    };
                }
                libc::BPF_ALU => accumulator &= op.k,
                libc::BPF_JMP => {
                    at += usize::from(if accumulator == op.k { op.jt } else { op.jf });
                }
                libc::BPF_RET => return op.k != 0,
                class => panic!("instruction class {class}"),
            }
        }
    }

    #[test]
    fn filter_admits_untagged_aoe_for_this_host_only() {
        const OTHER_HOST: u32 = 3;
        const OUTGOING: u32 = 4;
        const MULTICAST: u32 = 2;
        assert!(verdict(0x88A2, PACKET_HOST, None));
        assert!(verdict(0x88A2, PACKET_BROADCAST, None));
        assert!(!verdict(0x0800, PACKET_HOST, None));
        assert!(!verdict(0x88A2, OTHER_HOST, None));
        assert!(!verdict(0x88A2, OUTGOING, None));
        assert!(!verdict(0x88A2, MULTICAST, None));
    }

    #[test]
    fn filter_admits_priority_tags_but_no_vlan() {
        assert!(verdict(0x88A2, PACKET_HOST, Some(0xE000)), "priority 7, id 0");
        assert!(!verdict(0x88A2, PACKET_HOST, Some(5)));
        assert!(!verdict(0x88A2, PACKET_BROADCAST, Some(0xEFFF)));
    }
}
