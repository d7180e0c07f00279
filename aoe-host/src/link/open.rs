//! Which implementation of a link: the one that was asked for, or the best that works here.

use std::sync::Arc;

use super::Link;
use super::fanout::{Group, Member};
use super::packet::{Intake, PacketLink};
use super::pnet::PnetLink;
use crate::config::LinkKind;
use crate::error::{ErrorKind, HostError, Result};
use crate::values::Address;

/// Octets that the system counts for a frame besides its own: its description, and memory that was
/// allocated for it and not used, up to the next power of two. A write of 4 KiB takes about
/// 8.7 kB. [AoE 9.12]
const FRAME_OVERHEAD: usize = 768;

/// Most receive buffer asked for, in octets: frames that wait longer are sent again before they
/// are answered.
const SOCKET_LEN_MAX: usize = 64 << 20;

/// Least room, in frames: a few initiators with long windows.
const FRAMES_MIN: usize = 256;

/// How many frames may arrive before anybody takes the first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Room {
    pub(super) frames: usize,
}

impl Room {
    /// Room for so many frames, if it is more than the least that every link has.
    pub fn for_frames(frames: usize) -> Self {
        Self { frames: frames.max(FRAMES_MIN) }
    }

    /// Octets of receive buffer for frames with `mtu` octets of payload, as the system counts
    /// them.
    pub(super) fn socket_len(self, mtu: usize) -> usize {
        let frame = mtu.saturating_add(FRAME_OVERHEAD);
        let true_len = frame.checked_next_power_of_two().unwrap_or(usize::MAX);
        self.frames.saturating_mul(true_len).min(SOCKET_LEN_MAX)
    }
}

impl Default for Room {
    fn default() -> Self {
        Self::for_frames(0)
    }
}

/// Opens a link of `kind` on the Ethernet interface `name`, which may be down.
/// [`Link::implementation`] tells which it is and why.
///
/// # Errors
/// `PermissionDenied` without the right to raw sockets, `NotFound` without such an interface,
/// `Unsupported` if it is not Ethernet; others if the system has no such link, unless the kind is
/// `Auto`.
pub fn open(kind: LinkKind, name: &str, room: Room) -> Result<Box<dyn Link + Send>> {
    open_first(kind, name, room, None).map(|(_, link)| link)
}

/// Opens `count` links on one interface, as [`open`] does one, for as many workers. All can send;
/// only the first receives before they [share](Link::share), and then the kernel brings each frame
/// to the one that [`owner`](crate::share::owner) names, or to the first if it cannot do so.
/// The disks at the addresses `everybody` are not one for each machine.
///
/// # Errors
/// As [`open`].
pub fn open_several(
    kind: LinkKind,
    name: &str,
    room: Room,
    count: usize,
    everybody: &[Address],
) -> Result<Vec<Box<dyn Link + Send>>> {
    if count <= 1 {
        return Ok(vec![open(kind, name, room)?]);
    }
    let group = Group::new(count, everybody);
    let (chosen, first) = open_first(kind, name, room, Some(&group))?;
    let intake = match chosen {
        LinkKind::Auto | LinkKind::Ring => Intake::Ring,
        LinkKind::Mmsg => Intake::Messages,
        LinkKind::Pnet => {
            group.give_up();
            Intake::Messages
        }
    };
    let mut links = vec![first];
    for number in 1..count {
        let member = Member::new(&group, number);
        let choice = format!("as that of worker 0, for worker {number}");
        let link = PacketLink::open(name, intake, room, choice, Some(member))?;
        links.push(Box::new(link));
    }
    Ok(links)
}

/// The first link of an interface, and its kind.
fn open_first(
    kind: LinkKind,
    name: &str,
    room: Room,
    group: Option<&Arc<Group>>,
) -> Result<(LinkKind, Box<dyn Link + Send>)> {
    let open = |kind: LinkKind, choice: String| -> Result<(LinkKind, Box<dyn Link + Send>)> {
        let member = group.map(|group| Member::new(group, 0));
        let packets = |intake, choice| PacketLink::open(name, intake, room, choice, member);
        let link: Box<dyn Link + Send> = match kind {
            LinkKind::Auto | LinkKind::Ring => Box::new(packets(Intake::Ring, choice)?),
            LinkKind::Mmsg => Box::new(packets(Intake::Messages, choice)?),
            LinkKind::Pnet => Box::new(PnetLink::with_room(name, room, choice)?),
        };
        Ok((kind, link))
    };
    if kind == LinkKind::Auto {
        best(open)
    } else {
        open(kind, format!("{}, as asked for", word(kind)))
    }
}

/// The first that works, and what was wrong with those before it.
fn best<T>(open: impl Fn(LinkKind, String) -> Result<T>) -> Result<T> {
    let mut because = "the fastest here".to_owned();
    for kind in [LinkKind::Ring, LinkKind::Mmsg] {
        match open(kind, format!("{}, {because}", word(kind))) {
            Ok(link) => return Ok(link),
            Err(error) if is_common(&error) => return Err(error),
            Err(error) => because = format!("because of {}: {error}", word(kind)),
        }
    }
    open(LinkKind::Pnet, format!("{}, {because}", word(LinkKind::Pnet)))
}

/// What is wrong has nothing to do with the kind of the link.
fn is_common(error: &HostError) -> bool {
    matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::NotFound)
}

fn word(kind: LinkKind) -> &'static str {
    match kind {
        LinkKind::Auto => "auto",
        LinkKind::Ring => "ring",
        LinkKind::Mmsg => "mmsg",
        LinkKind::Pnet => "pnet",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_what_the_system_counts_and_bounded() {
        let room = Room::for_frames(16 * 64);
        assert_eq!(room.socket_len(1500), 1024 * 4096);
        // A write of 4 KiB, as it was measured: no more than this.
        assert!(room.socket_len(4096 + 36) / 1024 >= 8_700 - 1024);
        assert_eq!(room.socket_len(9000), 1024 * 16_384);
        assert_eq!(Room::for_frames(usize::MAX).socket_len(9000), SOCKET_LEN_MAX);
        assert_eq!(Room::default(), Room::for_frames(1));
    }

    /// Opens nothing; the kinds in `broken` fail with the given kind of error.
    fn chosen(broken: &[(LinkKind, ErrorKind)]) -> Result<(LinkKind, String)> {
        best(|kind, choice| match broken.iter().find(|(k, _)| *k == kind) {
            Some((_, error)) => Err(HostError::new(*error, format!("open {}", word(kind)))),
            None => Ok((kind, choice)),
        })
    }

    #[test]
    fn the_best_that_works_is_taken_and_says_why() {
        let (kind, why) = chosen(&[]).unwrap();
        assert_eq!((kind, why.as_str()), (LinkKind::Ring, "ring, the fastest here"));
        let (kind, why) = chosen(&[(LinkKind::Ring, ErrorKind::Io)]).unwrap();
        assert_eq!(kind, LinkKind::Mmsg);
        assert_eq!(why, "mmsg, because of ring: cannot open ring: input/output error");
        let both = [(LinkKind::Ring, ErrorKind::Io), (LinkKind::Mmsg, ErrorKind::Unsupported)];
        let (kind, why) = chosen(&both).unwrap();
        assert_eq!(kind, LinkKind::Pnet);
        assert_eq!(why, "pnet, because of mmsg: cannot open mmsg: not supported");
    }

    #[test]
    fn what_no_kind_can_help_is_said_at_once() {
        for common in [ErrorKind::PermissionDenied, ErrorKind::NotFound] {
            let error = chosen(&[(LinkKind::Ring, common)]).unwrap_err();
            assert_eq!(error.kind(), common);
        }
    }
}
