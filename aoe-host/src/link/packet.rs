//! The fast links of Linux: a packet socket of our own, read through a ring or by `recvmmsg`.
//!
//! The socket is bound to AoE, so that no other frame is even looked at, and never to what we sent
//! ourselves. With a ring, taking a frame costs no system call and no copy, and answers leave through a
//! ring too; without, or where they cannot, by `sendmmsg` out of the buffers in which they were built.
//!
//! Rings are made anew when the MTU grows; should the system have no memory for the larger one, the link
//! goes on without.

use core::time::Duration;
use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use aoe_proto::wire::ETHERNET_LEN;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::fanout::{Joined, Member, Place};
use super::filter::Wanted;
use super::gather::Gatherer;
use super::messages::{self, Arrived, Inbox, MESSAGES_MAX};
use super::packet_socket::{PacketSocket, RingUse};
use super::ring::Ring;
use super::send_ring::SendRing;
use super::sending::{SendFailure, Tally};
use super::watch::Watch;
use super::{InterfaceState, Link, LinkCounters, LinkEvent, OutFrame, Room, SendReport};
use crate::error::{HostError, Result};
use crate::values::{Address, Mac};

/// How long the answers of one call may wait for room in the send queue before they are given up.
const SEND_TIMEOUT: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// Distance between two looks at the drop counter while frames are being lost.
const DROPS_INTERVAL: Duration = Duration::from_millis(10);

/// How frames are taken from the socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Intake {
    Ring,
    Messages,
}

/// A link over a packet socket. See the module's documentation.
#[derive(Debug)]
pub struct PacketLink {
    name: String,
    // Before the socket: a ring can only be taken away when it is not mapped.
    inbound: Inbound,
    socket: PacketSocket,
    watch: Watch,
    room: Room,
    wanted: Wanted,
    /// One of several links of this interface.
    member: Option<Member>,
    gatherer: Gatherer,
    /// A way out with less work than by the packet socket.
    send_ring: Option<SendRing>,
    /// Why there is none, where there could be one.
    no_send_ring: Option<io::Error>,
    /// Why this link and no other, for `status`.
    choice: String,
    /// The last look for frames found none.
    was_empty: bool,
    /// The kernel says that frames are being lost.
    losing: bool,
    next_drops: Duration,
    counters: LinkCounters,
}

#[derive(Debug)]
enum Inbound {
    Ring(Ring),
    Messages(Inbox),
}

impl Inbound {
    fn open(socket: &PacketSocket, intake: Intake, mtu: usize, room: Room) -> io::Result<Self> {
        if intake == Intake::Ring {
            return Ok(Self::Ring(Ring::new(socket, mtu, room.frames)?));
        }
        let mut inbox = Inbox::new(frame_len(mtu));
        // Whether the system knows the call at all: the socket is deaf still.
        match inbox.receive(socket, 1, &mut |_| ()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Err(error),
            _ => Ok(Self::Messages(inbox)),
        }
    }

    fn intake(&self) -> Intake {
        match self {
            Self::Ring(_) => Intake::Ring,
            Self::Messages(_) => Intake::Messages,
        }
    }
}

impl PacketLink {
    /// Opens a packet socket on the Ethernet interface `name`, which may be down.
    pub(super) fn open(
        name: &str,
        intake: Intake,
        room: Room,
        choice: String,
        member: Option<Member>,
    ) -> Result<Self> {
        let (socket, state) = PacketSocket::of_interface(name, room)?;
        let inbound = Inbound::open(&socket, intake, state.mtu, room)
            .map_err(|e| HostError::io(e, "receive many frames").interface(name))?;
        let mut link = Self {
            name: name.to_owned(),
            inbound,
            socket,
            watch: Watch::new(state),
            room,
            wanted: Wanted::All,
            member,
            gatherer: Gatherer::new(),
            send_ring: None,
            no_send_ring: None,
            choice,
            was_empty: true,
            losing: false,
            next_drops: Duration::ZERO,
            counters: LinkCounters::default(),
        };
        link.hear()
            .and_then(|()| link.bind(state))
            .map_err(|error| HostError::io(error, "bind a raw socket").interface(name))?;
        link.open_send_ring(state);
        Ok(link)
    }

    /// Has frames leave through a ring of this interface, if they come through one and the system has
    /// another.
    fn open_send_ring(&mut self, state: InterfaceState) {
        // The old one first: its memory may be what the new one needs.
        self.send_ring = None;
        self.no_send_ring = None;
        if matches!(self.inbound, Inbound::Ring(_)) {
            match SendRing::open(&self.name, state) {
                Ok(ring) => self.send_ring = Some(ring),
                Err(error) => self.no_send_ring = Some(error),
            }
        }
    }

    fn bind(&self, state: InterfaceState) -> io::Result<()> {
        self.socket.bind(state.index)?;
        // An interface that is down leaves an error on the socket; the state says it already.
        drop(self.socket.take_error());
        Ok(())
    }

    /// Looks at the interface and queues what changed.
    fn look(&mut self) {
        let Ok(found) = self.socket.interface(&self.name) else {
            // Seen as an interface that is not usable; the next look tries again.
            return;
        };
        let replacement = self.watch.replacement(found);
        if let Some(new) = replacement
            && self.attach(new).is_err()
        {
            self.counters.receive_errors += 1;
            return;
        }
        if let Some(new) = found {
            self.make_room(new);
            // The kernel forgets the interface of a socket when it goes, though one of the same number comes.
            if replacement.is_some() || new.mtu != self.watch.state().mtu {
                self.open_send_ring(new);
            }
        }
        self.watch.update(found);
        if let Some(state) = found {
            self.follow_group(state);
        }
        self.join();
        self.count_drops();
    }

    /// Binds to the interface as it is now. A socket in a group cannot be bound anew.
    fn attach(&mut self, new: InterfaceState) -> io::Result<()> {
        if self.is_in_group() { self.reopen(new) } else { self.bind(new) }
    }

    fn is_in_group(&self) -> bool {
        self.member.as_ref().is_some_and(|member| member.place == Place::In)
    }

    /// Replaces the socket by one that hears nothing until it is in the group again.
    fn reopen(&mut self, state: InterfaceState) -> io::Result<()> {
        let socket = PacketSocket::deaf(state.mtu, self.room)?;
        let intake = self.inbound.intake();
        let inbound = Inbound::open(&socket, intake, state.mtu, self.room)?;
        // The old ring first: it is a part of the old socket.
        self.inbound = inbound;
        self.socket = socket;
        if let Some(member) = &mut self.member {
            member.group.leave(member.number);
            member.place = Place::Deaf;
        }
        self.bind(state)
    }

    /// Leaves the group after those that come before this link in it, so that they can come back
    /// before it.
    fn follow_group(&mut self, state: InterfaceState) {
        let member = self.member.as_ref().filter(|member| member.place == Place::In);
        if member.is_some_and(|member| !member.group.has_all_before(member.number))
            && self.reopen(state).is_err()
        {
            self.counters.receive_errors += 1;
        }
    }

    /// Takes a share of the frames, if that was asked for and it is this link's turn.
    fn join(&mut self) {
        let Some(member) = self.member.as_mut().filter(|m| m.wants && m.place != Place::In) else {
            return;
        };
        let is_up = self.watch.state().up;
        let shared = match member.group.join(member.number, &self.socket, is_up) {
            Joined::In => {
                member.place = Place::In;
                "dealt by the kernel"
            }
            Joined::NotYet => {
                if is_up {
                    // Others are on their way.
                    self.watch.suspect();
                }
                return;
            }
            Joined::Never => {
                member.wants = false;
                if member.number == 0 {
                    // It was its turn, so nobody else is in.
                    member.place = Place::Alone;
                }
                "handed over by worker 0"
            }
        };
        let count = member.group.count();
        if !self.choice.contains(shared) {
            self.choice = format!("{}; for {count} workers, {shared}", self.choice);
        }
        // If the kernel does not take the filter, this link stays as deaf as it was, or is not
        // spared what it does not need.
        drop(self.hear());
    }

    /// Has the kernel let pass what this link is to hear.
    fn hear(&self) -> io::Result<()> {
        match &self.member {
            Some(member) if member.place == Place::Deaf => self.socket.set_wanted(&Wanted::Nothing),
            _ => self.socket.set_wanted(&self.wanted),
        }
    }

    /// Sees to it that frames with `mtu` octets of payload are taken whole. Frames that wait may
    /// be lost, as when an MTU is changed they are anyway.
    fn make_room(&mut self, state: InterfaceState) {
        let mtu = state.mtu;
        let needed = match &self.inbound {
            Inbound::Ring(ring) => mtu > ring.mtu_max(),
            Inbound::Messages(inbox) => frame_len(mtu) > inbox.frame_len(),
        };
        if !needed {
            return;
        }
        if self.is_in_group() {
            if self.reopen(state).is_err() {
                self.counters.receive_errors += 1;
            }
            return;
        }
        let had_ring = matches!(self.inbound, Inbound::Ring(_));
        // The old ring must be gone from our memory before the socket can have another.
        self.inbound = Inbound::Messages(Inbox::new(frame_len(mtu)));
        if had_ring {
            let ring = self
                .socket
                .set_ring(RingUse::Receive, None)
                .and_then(|()| Ring::new(&self.socket, mtu, self.room.frames));
            match ring {
                Ok(ring) => self.inbound = Inbound::Ring(ring),
                Err(error) => self.choice = format!("mmsg: no ring for an MTU of {mtu} ({error})"),
            }
        }
        // Within the old size if the system refuses: frames are lost sooner then.
        drop(self.socket.grow_receive_buffer(self.room.socket_len(mtu)));
    }

    fn count_drops(&mut self) {
        self.losing = false;
        if let Ok(drops) = self.socket.take_drops() {
            self.counters.receive_drops += u64::from(drops);
        }
    }

    fn note_link_down(&mut self) {
        self.watch.interrupt();
        // What is left on the socket would make every wait return at once.
        drop(self.socket.take_error());
    }

    /// Nothing waits although somebody thought so: perhaps the link went down.
    fn look_for_error(&mut self) {
        if self.socket.take_error().is_some() {
            self.counters.receive_errors += 1;
            self.watch.interrupt();
        }
    }
}

impl Link for PacketLink {
    fn name(&self) -> &str {
        &self.name
    }

    fn implementation(&self) -> Cow<'_, str> {
        match &self.no_send_ring {
            Some(error) => format!("{}; sends by sendmmsg: {error}", self.choice).into(),
            None => self.choice.as_str().into(),
        }
    }

    fn mac(&self) -> Mac {
        self.watch.state().mac
    }

    fn mtu(&self) -> usize {
        self.watch.state().mtu
    }

    fn is_up(&self) -> bool {
        self.watch.state().up
    }

    fn serve_only(&mut self, addresses: &[Address]) {
        self.wanted = Wanted::by_server(addresses);
        // If the kernel does not take the filter, more frames come than are needed.
        drop(self.hear());
    }

    fn share(&mut self) {
        if let Some(member) = &mut self.member {
            member.wants = true;
        }
        self.join();
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn has_frames(&self) -> Option<bool> {
        match &self.inbound {
            Inbound::Ring(ring) => Some(ring.is_ready()),
            Inbound::Messages(_) => None,
        }
    }

    fn receive(&mut self, limit: usize, sink: &mut dyn FnMut(&[u8])) -> usize {
        let taken = match &mut self.inbound {
            Inbound::Ring(ring) => {
                Ok(from_ring(ring, limit, &mut self.losing, &mut self.counters, sink))
            }
            Inbound::Messages(inbox) => {
                from_inbox(inbox, &self.socket, limit, &mut self.counters, sink)
            }
        };
        match taken {
            // Reading a ring says nothing of errors; asking each time would cost a system call
            // for every burst of requests, so only who looks twice in vain asks.
            Ok(0) if matches!(self.inbound, Inbound::Ring(_)) && self.was_empty => {
                self.look_for_error();
            }
            Ok(_) => {}
            Err(_) => {
                self.counters.receive_errors += 1;
                self.note_link_down();
            }
        }
        let taken = taken.unwrap_or(0);
        self.was_empty = taken == 0;
        taken
    }

    fn send(&mut self, frames: &mut dyn Iterator<Item = &[u8]>) -> SendReport {
        self.send_parts(&mut frames.map(OutFrame::whole))
    }

    fn takes_mapped(&self) -> bool {
        true
    }

    fn send_parts(&mut self, frames: &mut dyn Iterator<Item = OutFrame<'_>>) -> SendReport {
        let state = self.watch.state();
        let mut outgoing = Outgoing {
            socket: &self.socket,
            gatherer: &mut self.gatherer,
            ring: self.send_ring.as_mut().filter(|_| state.up),
            frame_len_max: frame_len(state.mtu),
            tally: Tally::new(&mut self.counters),
            may_wait: true,
            stuck: None,
            too_long: false,
        };
        loop {
            let mut batch = [OutFrame::whole(&[]); MESSAGES_MAX];
            let mut count = 0;
            for (place, frame) in batch.iter_mut().zip(&mut *frames) {
                *place = frame;
                count += 1;
            }
            outgoing.send(batch.get(..count).unwrap_or(&batch));
            if count < MESSAGES_MAX {
                break;
            }
        }
        let (report, too_long, stuck) = (outgoing.tally.report, outgoing.too_long, outgoing.stuck);
        if too_long {
            self.watch.suspect();
        }
        if stuck == Some(SendFailure::LinkDown) {
            self.note_link_down();
        }
        report
    }

    fn poll_event(&mut self, now: Duration) -> Option<LinkEvent> {
        if self.watch.is_due(now) {
            self.look();
        } else if self.losing && now >= self.next_drops {
            self.next_drops = now.saturating_add(DROPS_INTERVAL);
            self.count_drops();
        }
        self.watch.next_event()
    }

    fn counters(&self) -> LinkCounters {
        self.counters
    }
}

/// Octets of the longest frame with `mtu` octets of payload.
fn frame_len(mtu: usize) -> usize {
    mtu.saturating_add(ETHERNET_LEN)
}

fn count_received(counters: &mut LinkCounters, frame: &[u8]) {
    counters.frames_received += 1;
    counters.bytes_received += frame.len() as u64;
}

/// Hands out frames where they lie in the ring, and gives their places back.
fn from_ring(
    ring: &mut Ring,
    limit: usize,
    losing: &mut bool,
    counters: &mut LinkCounters,
    sink: &mut dyn FnMut(&[u8]),
) -> usize {
    let mut delivered = 0;
    for _ in 0..limit {
        let Some(lent) = ring.next() else { break };
        *losing |= lent.is_losing();
        if let Some(frame) = lent.frame() {
            count_received(counters, frame);
            delivered += 1;
            sink(frame);
        } else {
            counters.receive_truncated += 1;
        }
    }
    delivered
}

fn from_inbox(
    inbox: &mut Inbox,
    socket: &PacketSocket,
    limit: usize,
    counters: &mut LinkCounters,
    sink: &mut dyn FnMut(&[u8]),
) -> io::Result<usize> {
    let mut delivered = 0;
    let mut left = limit;
    while left > 0 {
        let asked = left.min(MESSAGES_MAX);
        let taken = inbox.receive(socket, asked, &mut |arrived| match arrived {
            Arrived::Whole(frame) => {
                count_received(counters, frame);
                delivered += 1;
                sink(frame);
            }
            Arrived::Cut => counters.receive_truncated += 1,
        });
        match taken {
            Ok(taken) if taken == asked => left -= taken,
            Ok(_) => break,
            Err(error) if is_nothing_waiting(&error) => break,
            // What was taken before counts; the failure shows again at the next call.
            Err(_) if delivered > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(delivered)
}

fn is_nothing_waiting(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// One call of [`Link::send`] on its way.
struct Outgoing<'l> {
    socket: &'l PacketSocket,
    gatherer: &'l mut Gatherer,
    /// To be tried first.
    ring: Option<&'l mut SendRing>,
    /// Octets of the longest frame that the interface takes.
    frame_len_max: usize,
    tally: Tally<'l>,
    /// Nobody has waited for room yet: waiting again and again would stall every initiator.
    may_wait: bool,
    /// What the rest of the frames fails of, too.
    stuck: Option<SendFailure>,
    too_long: bool,
}

impl Outgoing<'_> {
    fn send(&mut self, frames: &[OutFrame<'_>]) {
        let mut rest = frames;
        if let Some(ring) = self.ring.as_mut().filter(|_| self.stuck.is_none()) {
            let taken = ring.send(frames, self.frame_len_max);
            let (sent, left) = frames.split_at_checked(taken).unwrap_or((frames, &[]));
            for frame in sent {
                self.tally.sent(frame.len());
            }
            rest = left;
        }
        while let Some((_first, behind)) = rest.split_first() {
            if let Some(failure) = self.stuck {
                self.tally.lost(failure);
                rest = behind;
                continue;
            }
            match messages::send(self.socket, rest, self.gatherer) {
                Ok(count) => {
                    if self.ring.is_some() {
                        self.tally.counters.sent_beside_ring += count as u64;
                    }
                    // A call that sends nothing fails; if it does not, the loop must end all the
                    // same.
                    let (sent, left) = rest.split_at_checked(count.max(1)).unwrap_or((rest, &[]));
                    for frame in sent {
                        self.tally.sent(frame.len());
                    }
                    rest = left;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if self.is_to_wait(&error) => wait_for_room(self.socket),
                Err(error) => {
                    self.lose(&error);
                    rest = behind;
                }
            }
        }
    }

    /// Whether room is worth waiting for: once.
    fn is_to_wait(&mut self, error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::WouldBlock && core::mem::take(&mut self.may_wait)
    }

    fn lose(&mut self, error: &io::Error) {
        let failure = SendFailure::of(error);
        self.tally.lost(failure);
        self.too_long |= failure == SendFailure::TooLong;
        // A queue of the interface that is full may take the next frame, which may be shorter;
        // our own, after waiting for it, will not.
        let own_queue = error.kind() == io::ErrorKind::WouldBlock;
        if failure == SendFailure::LinkDown || own_queue {
            self.stuck = Some(failure);
        }
    }
}

/// Waits a moment until the socket's send queue takes a frame again.
fn wait_for_room(socket: &PacketSocket) {
    let mut waited = [PollFd::new(socket, PollFlags::OUT)];
    // In vain or not: the next attempt to send tells.
    let _ready = poll(&mut waited, Some(&SEND_TIMEOUT));
}
