//! The `AF_PACKET` socket under every link of the operating system.
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

use super::filter::{self, Wanted};
use super::ring::RingLayout;
use super::{InterfaceState, Room};
use crate::error::{ErrorKind, HostError, Result};
use crate::values::Mac;

/// Send buffer asked for: room for the answers to a window of jumbo frames of hundreds of
/// initiators. The system may grant less.
const SEND_BUFFER_LEN: usize = 8 << 20;

/// The version of packet rings whose frames are of one size (`enum tpacket_versions`).
const TPACKET_V2: u8 = 1;

/// `PACKET_FANOUT` and what goes with it (`linux/if_packet.h`).
const PACKET_FANOUT: c_int = 18;
const PACKET_FANOUT_DATA: c_int = 22;
const PACKET_FANOUT_CBPF: c_int = 6;
const PACKET_FANOUT_FLAG_UNIQUEID: c_int = 0x2000;

/// `PACKET_VNET_HDR` (`linux/if_packet.h`).
const PACKET_VNET_HDR: c_int = 15;

/// What a ring is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum RingUse {
    Receive,
    Send,
}

/// A raw socket that lets only AoE frames for this station pass.
#[derive(Debug)]
pub(super) struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// A filtered socket for the interface `name`, not bound yet, and how the interface is.
    ///
    /// # Errors
    /// `PermissionDenied` without the right to raw sockets, `NotFound` without such an interface,
    /// `Unsupported` if it is not Ethernet.
    pub(super) fn of_interface(name: &str, room: Room) -> Result<(Self, InterfaceState)> {
        let socket = Self::open().map_err(|error| {
            HostError::io(error, "open a raw socket")
                .interface(name)
                .advice("run as root, or give the program CAP_NET_RAW")
        })?;
        let using = |error| HostError::io(error, "use the interface").interface(name);
        let state = socket.interface(name).map_err(using)?.ok_or_else(|| {
            HostError::new(ErrorKind::NotFound, "use the interface")
                .interface(name)
                .advice("`ip link` lists the interfaces of this machine")
        })?;
        socket.grow_receive_buffer(room.socket_len(state.mtu)).map_err(using)?;
        Ok((socket, state))
    }

    /// A socket of `room` for frames with `mtu` octets of payload that lets nothing pass yet.
    pub(super) fn deaf(mtu: usize, room: Room) -> io::Result<Self> {
        let socket = Self::open_filtered(&filter::program(&Wanted::Nothing))?;
        socket.grow_receive_buffer(room.socket_len(mtu))?;
        Ok(socket)
    }

    /// A socket that is to send only: bound without a protocol it hears nothing.
    pub(super) fn mute() -> io::Result<Self> {
        Self::open_filtered(&filter::program(&Wanted::Nothing))
    }

    /// A filtered socket that is not bound yet and therefore receives nothing.
    pub(super) fn open() -> io::Result<Self> {
        Self::open_filtered(&filter::program(&Wanted::All))
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
        socket.grow_send_buffer()?;
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
        let [_packets, drops] = self.packet_option::<2>(libc::PACKET_STATISTICS)?;
        Ok(drops)
    }

    /// An option of packet sockets that consists of `N` integers.
    fn packet_option<const N: usize>(&self, name: c_int) -> io::Result<[u32; N]> {
        let mut value = [0_u32; N];
        let mut len = socklen_of::<[u32; N]>()?;
        // SAFETY: the pointer and `len` describe `value`, plain integers, of which the call writes
        // no more than `len` octets; both outlive the call.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                name,
                value.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        check(result)?;
        Ok(value)
    }

    /// One look at the interface called `name`; `None` if there is none.
    pub(super) fn interface(&self, name: &str) -> io::Result<Option<InterfaceState>> {
        match self.look_at(name) {
            Ok(state) => Ok(Some(state)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The MTU of the interface called `name`, by one call.
    pub(super) fn mtu(&self, name: &str) -> io::Result<usize> {
        self.ask_mtu(&mut interface_request(name)?)
    }

    fn ask_mtu(&self, request: &mut libc::ifreq) -> io::Result<usize> {
        self.interface_ioctl(libc::SIOCGIFMTU, request)?;
        // SAFETY: SIOCGIFMTU succeeded, so the kernel wrote this member.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        usize::try_from(mtu).map_err(io::Error::other)
    }

    fn look_at(&self, name: &str) -> io::Result<InterfaceState> {
        let mut request = interface_request(name)?;
        self.interface_ioctl(libc::SIOCGIFINDEX, &mut request)?;
        // SAFETY: SIOCGIFINDEX succeeded, so the kernel wrote this member (netdevice(7)).
        let index = unsafe { request.ifr_ifru.ifru_ifindex };
        self.interface_ioctl(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: SIOCGIFFLAGS succeeded, so the kernel wrote this member.
        let flags = c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        let mtu = self.ask_mtu(&mut request)?;
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
            mtu,
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

    /// Lets only these frames pass from now on. What has passed already stays.
    pub(super) fn set_wanted(&self, wanted: &Wanted) -> io::Result<()> {
        self.attach_filter(&filter::program(wanted))
    }

    /// Lets only the frames pass that `program` accepts.
    pub(super) fn attach_filter(&self, program: &[libc::sock_filter]) -> io::Result<()> {
        self.set_program(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program)
    }

    /// Has `program` say which member of the socket's group gets a frame.
    pub(super) fn set_group_program(&self, program: &[libc::sock_filter]) -> io::Result<()> {
        self.set_program(libc::SOL_PACKET, PACKET_FANOUT_DATA, program)
    }

    fn set_program(
        &self,
        level: c_int,
        name: c_int,
        program: &[libc::sock_filter],
    ) -> io::Result<()> {
        let handle = libc::sock_fprog {
            len: u16::try_from(program.len()).map_err(io::Error::other)?,
            filter: program.as_ptr().cast_mut(),
        };
        // SAFETY: both options take a `sock_fprog`; the program it points to is alive during the
        // call, and its `len` is the program's; the kernel copies it and writes nothing.
        unsafe { self.set_option(level, name, &handle) }
    }

    /// Makes a group of sockets that share the frames of the interface to which this one is bound,
    /// or joins the one of number `id`. Returns its number. The socket cannot be bound anew then.
    pub(super) fn join_group(&self, id: Option<u16>) -> io::Result<u16> {
        let flags = if id.is_none() { PACKET_FANOUT_FLAG_UNIQUEID } else { 0 };
        let value = (PACKET_FANOUT_CBPF | flags) << 16 | c_int::from(id.unwrap_or(0));
        // SAFETY: the option takes an integer.
        unsafe { self.set_option(libc::SOL_PACKET, PACKET_FANOUT, &value) }?;
        if let Some(id) = id {
            return Ok(id);
        }
        let [value] = self.packet_option::<1>(PACKET_FANOUT)?;
        u16::try_from(value & 0xFFFF).map_err(io::Error::other)
    }

    /// Hears whatever passes the interface of number `index`, for as long as the socket lives.
    pub(super) fn hear_everything(&self, index: u32) -> io::Result<()> {
        let membership = libc::packet_mreq {
            mr_ifindex: i32::try_from(index).map_err(io::Error::other)?,
            mr_type: constant_u16(libc::PACKET_MR_PROMISC),
            mr_alen: 0,
            mr_address: [0; 8],
        };
        // SAFETY: the option takes a `packet_mreq`, which holds no pointers.
        unsafe { self.set_option(libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership) }
    }

    /// Has the VLAN tag told beside each frame that the kernel took it out of.
    pub(super) fn tell_tags(&self) -> io::Result<()> {
        let on: c_int = 1;
        // SAFETY: the option takes an integer.
        unsafe { self.set_option(libc::SOL_PACKET, libc::PACKET_AUXDATA, &on) }
    }

    /// Has the time told beside each frame at which the kernel saw it.
    pub(super) fn tell_times(&self) -> io::Result<()> {
        let on: c_int = 1;
        // SAFETY: the option takes an integer.
        unsafe { self.set_option(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &on) }
    }

    /// Has a description stand before each frame from now on (`struct virtio_net_hdr`). Comes before a
    /// ring.
    pub(super) fn describe_frames(&self) -> io::Result<()> {
        let on: c_int = 1;
        // SAFETY: the option takes an integer.
        unsafe { self.set_option(libc::SOL_PACKET, PACKET_VNET_HDR, &on) }
    }

    /// Gives the socket a ring, or takes it away (`None`). It must not be mapped, and the
    /// kernel forgets the frames in it.
    pub(super) fn set_ring(&self, purpose: RingUse, layout: Option<RingLayout>) -> io::Result<()> {
        let mut request = libc::tpacket_req {
            tp_block_size: 0,
            tp_block_nr: 0,
            tp_frame_size: 0,
            tp_frame_nr: 0,
        };
        if let Some(layout) = layout {
            let number = |count: usize| libc::c_uint::try_from(count).map_err(io::Error::other);
            let version = c_int::from(TPACKET_V2);
            // SAFETY: the option takes an integer.
            unsafe { self.set_option(libc::SOL_PACKET, libc::PACKET_VERSION, &version) }?;
            request.tp_block_size = number(layout.block_len)?;
            request.tp_block_nr = number(layout.blocks)?;
            request.tp_frame_size = number(layout.frame_len)?;
            request.tp_frame_nr = number(layout.blocks * layout.per_block)?;
        }
        let name = match purpose {
            RingUse::Receive => libc::PACKET_RX_RING,
            RingUse::Send => libc::PACKET_TX_RING,
        };
        // SAFETY: with version 2 both options take a `tpacket_req`.
        unsafe { self.set_option(libc::SOL_PACKET, name, &request) }
    }

    /// # Safety
    /// The option must be one that takes a `T`, and whatever `T` points to must be alive.
    unsafe fn set_option<T>(&self, level: c_int, name: c_int, value: &T) -> io::Result<()> {
        let len = socklen_of::<T>()?;
        let value = ptr::from_ref(value).cast();
        // SAFETY: the pointer and `len` describe `value`, which is borrowed for the call and only
        // read; the rest is the caller's promise.
        check(unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, name, value, len) })
    }

    /// Room for `len` octets of waiting frames, as the system counts them: beyond its limit with
    /// `CAP_NET_ADMIN`, up to the limit without. [AoE 9.12]
    pub(super) fn grow_receive_buffer(&self, len: usize) -> io::Result<()> {
        if sockopt::set_socket_recv_buffer_size_force(&self.fd, len).is_err() {
            sockopt::set_socket_recv_buffer_size(&self.fd, len)?;
        }
        Ok(())
    }

    fn grow_send_buffer(&self) -> io::Result<()> {
        if sockopt::set_socket_send_buffer_size_force(&self.fd, SEND_BUFFER_LEN).is_err() {
            sockopt::set_socket_send_buffer_size(&self.fd, SEND_BUFFER_LEN)?;
        }
        Ok(())
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
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
    reason = "they are small positive constants"
)]
pub(super) const fn constant_u16(value: c_int) -> u16 {
    value as u16
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
