//! Stations that send AoE frames but are no clients: a bounded list for the operator.

use core::time::Duration;
use std::collections::HashMap;

use crate::values::Mac;

/// Most stations remembered; the one unseen for longest makes room. Source addresses are free to
/// invent, so the list must not grow with them.
pub const UNKNOWN_MAX: usize = 256;

/// A station that is no client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UnknownStation {
    /// Its address.
    pub mac: Mac,
    /// Frames seen from it.
    pub frames: u64,
    /// When the first was seen.
    pub first_seen: Duration,
    /// When the last was seen.
    pub last_seen: Duration,
}

#[derive(Clone, Debug, Default)]
pub(super) struct UnknownStations {
    stations: HashMap<Mac, UnknownStation>,
}

impl UnknownStations {
    pub(super) fn see(&mut self, mac: Mac, now: Duration) {
        if let Some(station) = self.stations.get_mut(&mac) {
            station.frames += 1;
            station.last_seen = now;
            return;
        }
        if self.stations.len() >= UNKNOWN_MAX {
            let stalest = self.stations.values().min_by_key(|s| (s.last_seen, s.mac)).copied();
            if let Some(stalest) = stalest {
                self.stations.remove(&stalest.mac);
            }
        }
        let station = UnknownStation { mac, frames: 1, first_seen: now, last_seen: now };
        self.stations.insert(mac, station);
    }

    pub(super) fn forget(&mut self, mac: Mac) {
        self.stations.remove(&mac);
    }

    pub(super) fn latest_first(&self) -> Vec<UnknownStation> {
        let mut stations: Vec<_> = self.stations.values().copied().collect();
        stations.sort_by_key(|station| (core::cmp::Reverse(station.last_seen), station.mac));
        stations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_bounded_and_forgets_the_stalest() {
        let mut unknown = UnknownStations::default();
        for n in 0..=u16::try_from(UNKNOWN_MAX).unwrap() {
            let [high, low] = n.to_be_bytes();
            unknown.see(Mac([2, 0, 0, 0, high, low]), Duration::from_secs(u64::from(n)));
        }
        let listed = unknown.latest_first();
        assert_eq!(listed.len(), UNKNOWN_MAX);
        assert_eq!(listed[0].mac, Mac([2, 0, 0, 0, 1, 0]));
        assert!(listed.iter().all(|station| station.mac != Mac([2, 0, 0, 0, 0, 0])));
    }

    #[test]
    fn frames_are_counted() {
        let mut unknown = UnknownStations::default();
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        unknown.see(mac, Duration::from_secs(1));
        unknown.see(mac, Duration::from_secs(5));
        let [station] = unknown.latest_first()[..] else { panic!() };
        assert_eq!(station.frames, 2);
        assert_eq!((station.first_seen.as_secs(), station.last_seen.as_secs()), (1, 5));
        unknown.forget(mac);
        assert!(unknown.latest_first().is_empty());
    }
}
