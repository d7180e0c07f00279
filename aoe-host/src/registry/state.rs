//! When to write protocol state to disk: at once, but not more often than a disk can bear. Pure.

use core::time::Duration;
use std::collections::BTreeMap;

/// Shortest distance of two writes of one state file. Any station may change a config string as
/// fast as it can send.
pub const STATE_INTERVAL: Duration = Duration::from_secs(1);

/// Which state files are to be written, and when. `K` names a state.
#[derive(Clone, Debug)]
pub struct StateSchedule<K> {
    entries: BTreeMap<K, Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// `None`: never written.
    last_write: Option<Duration>,
    dirty: bool,
}

impl<K: Clone + Ord> Default for StateSchedule<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Clone + Ord> StateSchedule<K> {
    /// Nothing to write.
    pub fn new() -> Self {
        Self { entries: BTreeMap::new() }
    }

    /// Notes that the state `key` changed.
    pub fn mark(&mut self, key: K) {
        self.entries.entry(key).or_insert(Entry { last_write: None, dirty: false }).dirty = true;
    }

    /// A state to write now, which counts as written from here on.
    pub fn take_due(&mut self, now: Duration) -> Option<K> {
        let (key, entry) =
            self.entries.iter_mut().find(|(_, entry)| entry.due().is_some_and(|due| due <= now))?;
        *entry = Entry { last_write: Some(now), dirty: false };
        Some(key.clone())
    }

    /// When [`StateSchedule::take_due`] will have something next.
    pub fn next_due(&self) -> Option<Duration> {
        self.entries.values().filter_map(Entry::due).min()
    }

    /// Everything that is still to be written, due or not: for the end of the server.
    pub fn take_all(&mut self) -> Vec<K> {
        let dirty = self.entries.iter().filter(|(_, entry)| entry.dirty);
        let keys = dirty.map(|(key, _)| key.clone()).collect();
        self.entries.clear();
        keys
    }

    /// Forgets `key`, for instance because its client was removed.
    pub fn forget(&mut self, key: &K) {
        self.entries.remove(key);
    }
}

impl Entry {
    fn due(&self) -> Option<Duration> {
        let earliest =
            self.last_write.map_or(Duration::ZERO, |last| last.saturating_add(STATE_INTERVAL));
        self.dirty.then_some(earliest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_first_change_is_written_at_once_and_a_burst_once_a_second() {
        let mut schedule = StateSchedule::new();
        let mut writes = Vec::new();
        for now in (0..3000).step_by(10) {
            schedule.mark("a");
            while let Some(key) = schedule.take_due(ms(now)) {
                writes.push((now, key));
            }
        }
        assert_eq!(writes, [(0, "a"), (1000, "a"), (2000, "a")]);
        assert_eq!(schedule.next_due(), Some(ms(3000)), "the last change is not forgotten");
    }

    #[test]
    fn states_do_not_wait_for_each_other() {
        let mut schedule = StateSchedule::new();
        schedule.mark(1);
        assert_eq!(schedule.take_due(ms(5)), Some(1));
        schedule.mark(1);
        schedule.mark(2);
        assert_eq!(schedule.take_due(ms(6)), Some(2));
        assert_eq!(schedule.take_due(ms(6)), None);
        assert_eq!(schedule.next_due(), Some(ms(1005)));
        schedule.forget(&1);
        assert_eq!(schedule.next_due(), None);
    }

    #[test]
    fn the_end_writes_what_is_left() {
        let mut schedule = StateSchedule::new();
        schedule.mark(1);
        assert_eq!(schedule.take_due(ms(0)), Some(1));
        schedule.mark(1);
        schedule.mark(3);
        assert_eq!(schedule.take_all(), [1, 3]);
        assert!(schedule.take_all().is_empty());
    }
}
