//! What is known about an interface, and the events that follow from a change. Pure.

use std::collections::VecDeque;

use super::LinkEvent;
use crate::values::Mac;

/// One look at an interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct InterfaceState {
    /// The system's number for it: another number under the same name is another interface.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Largest payload in octets.
    pub mtu: usize,
    /// Switched on, and with a carrier.
    pub up: bool,
}

/// Appends to `events` what happened between two looks; `None` is "no such interface".
///
/// `interrupted` says that the socket reported a failure of the link in between, so that an
/// outage shorter than the distance of two looks is still an outage.
pub(super) fn append_changes(
    old: Option<&InterfaceState>,
    new: Option<&InterfaceState>,
    interrupted: bool,
    events: &mut VecDeque<LinkEvent>,
) {
    let was_up = old.is_some_and(|state| state.up);
    let Some(new) = new else {
        if old.is_some() {
            events.extend(was_up.then_some(LinkEvent::Down));
            events.push_back(LinkEvent::Gone);
        }
        return;
    };
    let same_interface = old.filter(|old| old.index == new.index);
    let outage = was_up && (!new.up || interrupted || same_interface.is_none());
    events.extend(outage.then_some(LinkEvent::Down));
    match (old, same_interface) {
        (Some(_), None) => events.extend([LinkEvent::Gone, LinkEvent::Recreated]),
        (None, _) => events.push_back(LinkEvent::Recreated),
        (Some(_), Some(old)) => {
            if old.mac != new.mac {
                events.push_back(LinkEvent::MacChanged { mac: new.mac });
            }
            if old.mtu != new.mtu {
                events.push_back(LinkEvent::MtuChanged { mtu: new.mtu });
            }
        }
    }
    events.extend((new.up && (outage || !was_up)).then_some(LinkEvent::Up));
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: InterfaceState =
        InterfaceState { index: 7, mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500, up: true };
    const DOWN: InterfaceState = InterfaceState { up: false, ..UP };

    fn changes(
        old: Option<InterfaceState>,
        new: Option<InterfaceState>,
        interrupted: bool,
    ) -> Vec<LinkEvent> {
        let mut events = VecDeque::new();
        append_changes(old.as_ref(), new.as_ref(), interrupted, &mut events);
        events.into()
    }

    #[test]
    fn nothing_changed_nothing_said() {
        assert_eq!(changes(Some(UP), Some(UP), false), []);
        assert_eq!(changes(Some(DOWN), Some(DOWN), true), []);
        assert_eq!(changes(None, None, true), []);
    }

    #[test]
    fn up_and_down() {
        assert_eq!(changes(Some(DOWN), Some(UP), false), [LinkEvent::Up]);
        assert_eq!(changes(Some(UP), Some(DOWN), false), [LinkEvent::Down]);
        assert_eq!(changes(Some(UP), Some(UP), true), [LinkEvent::Down, LinkEvent::Up]);
    }

    #[test]
    fn mtu_and_mac() {
        let other = InterfaceState { mtu: 9000, mac: Mac([2, 0, 0, 0, 0, 2]), ..UP };
        assert_eq!(
            changes(Some(UP), Some(other), false),
            [LinkEvent::MacChanged { mac: other.mac }, LinkEvent::MtuChanged { mtu: 9000 }]
        );
    }

    #[test]
    fn removed_and_made_again() {
        assert_eq!(changes(Some(UP), None, false), [LinkEvent::Down, LinkEvent::Gone]);
        assert_eq!(changes(None, Some(DOWN), false), [LinkEvent::Recreated]);
        assert_eq!(changes(None, Some(UP), false), [LinkEvent::Recreated, LinkEvent::Up]);
        let successor = InterfaceState { index: 8, ..UP };
        assert_eq!(
            changes(Some(UP), Some(successor), false),
            [LinkEvent::Down, LinkEvent::Gone, LinkEvent::Recreated, LinkEvent::Up]
        );
    }
}
