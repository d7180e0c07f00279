//! What a link of the operating system remembers of its interface between two looks. Pure.

use core::time::Duration;
use std::collections::VecDeque;

use super::state::append_changes;
use super::{InterfaceState, LinkEvent};

/// Distance between two looks at the interface when nothing pointed at a change.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// The last look and what has happened since.
#[derive(Debug)]
pub(super) struct Watch {
    /// Kept through an absence so that the link's accessors stay meaningful.
    state: InterfaceState,
    present: bool,
    next_look: Option<Duration>,
    /// A send or receive failed in a way that calls for a look now.
    suspicious: bool,
    /// The socket reported the link down since the last look.
    interrupted: bool,
    events: VecDeque<LinkEvent>,
}

impl Watch {
    pub(super) fn new(state: InterfaceState) -> Self {
        Self {
            state,
            present: true,
            next_look: None,
            suspicious: false,
            interrupted: false,
            events: VecDeque::new(),
        }
    }

    pub(super) fn state(&self) -> InterfaceState {
        self.state
    }

    /// Whether the interface is to be looked at now; if so, the look counts as done.
    pub(super) fn is_due(&mut self, now: Duration) -> bool {
        let due = self.events.is_empty()
            && (self.suspicious || self.next_look.is_none_or(|next_look| now >= next_look));
        if due {
            self.next_look = Some(now.saturating_add(LOOK_INTERVAL));
            self.suspicious = false;
        }
        due
    }

    /// Something failed that a change of the interface would explain.
    pub(super) fn suspect(&mut self) {
        self.suspicious = true;
    }

    /// The socket said that the link is down.
    pub(super) fn interrupt(&mut self) {
        self.suspicious = true;
        self.interrupted = true;
    }

    /// What a look has found, if the socket has to be attached to it anew.
    pub(super) fn replacement(&self, found: Option<InterfaceState>) -> Option<InterfaceState> {
        let old = self.present.then_some(self.state);
        found.filter(|new| old.is_none_or(|old| old.index != new.index || old.mac != new.mac))
    }

    /// Takes over what a look has found, and queues what changed.
    pub(super) fn update(&mut self, found: Option<InterfaceState>) {
        let old = self.present.then_some(self.state);
        append_changes(old.as_ref(), found.as_ref(), self.interrupted, &mut self.events);
        self.interrupted = false;
        self.present = found.is_some();
        self.state = found.unwrap_or(InterfaceState { up: false, ..self.state });
    }

    pub(super) fn next_event(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::Mac;

    const UP: InterfaceState =
        InterfaceState { index: 7, mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500, up: true };

    #[test]
    fn looks_are_rare_unless_something_is_wrong() {
        let ms = Duration::from_millis;
        let mut watch = Watch::new(UP);
        assert!(watch.is_due(ms(0)), "the first");
        assert!(!watch.is_due(ms(249)));
        watch.suspect();
        assert!(watch.is_due(ms(249)));
        assert!(!watch.is_due(ms(250)), "the interval begins anew");
        assert!(watch.is_due(ms(499)));
    }

    #[test]
    fn an_absence_keeps_the_last_state_but_down() {
        let mut watch = Watch::new(UP);
        watch.update(None);
        assert_eq!(watch.state(), InterfaceState { up: false, ..UP });
        assert_eq!(watch.next_event(), Some(LinkEvent::Down));
        assert_eq!(watch.next_event(), Some(LinkEvent::Gone));
        assert_eq!(watch.replacement(Some(UP)), Some(UP), "even with the same number");
        watch.update(Some(UP));
        assert_eq!(watch.next_event(), Some(LinkEvent::Recreated));
        assert_eq!(watch.replacement(Some(UP)), None);
    }

    #[test]
    fn no_look_while_events_wait() {
        let mut watch = Watch::new(UP);
        watch.interrupt();
        assert!(watch.is_due(Duration::ZERO));
        watch.update(Some(UP));
        watch.suspect();
        assert!(!watch.is_due(Duration::from_secs(9)));
        assert_eq!(watch.next_event(), Some(LinkEvent::Down));
        assert_eq!(watch.next_event(), Some(LinkEvent::Up));
        assert!(watch.is_due(Duration::from_secs(9)));
    }
}
