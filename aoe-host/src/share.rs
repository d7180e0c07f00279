//! Which of several workers a disk belongs to. Pure.
//!
//! [`owner`] is the only place where this is decided. The kernel computes the same
//! (`link/fanout.rs`), to bring frames to the right worker at once.

use crate::values::{Address, Mac};

/// Most workers of a server.
pub const WORKERS_MAX: usize = 64;

/// What each step of [`owner`] multiplies with: odd, and with bits everywhere.
pub(crate) const MIX: [u32; 3] = [0x9E37_79B1, 0x85EB_CA6B, 0xC2B2_AE35];

/// How far [`owner`] shifts at its end, so that high bits count too.
pub(crate) const FOLD: [u32; 2] = [15, 13];

/// One worker of so many.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Share {
    number: usize,
    count: usize,
}

impl Share {
    /// The only worker.
    pub const ALL: Self = Self { number: 0, count: 1 };

    /// Worker `number`, from 0 on, of `count`. `None` if there is no such worker.
    pub const fn new(number: usize, count: usize) -> Option<Self> {
        if number < count && count <= WORKERS_MAX { Some(Self { number, count }) } else { None }
    }

    /// Its number.
    pub const fn number(self) -> usize {
        self.number
    }

    /// How many workers there are.
    pub const fn count(self) -> usize {
        self.count
    }

    /// Whether there are no others.
    pub const fn is_all(self) -> bool {
        self.count == 1
    }

    /// The numbers of the others.
    pub fn others(self) -> impl Iterator<Item = usize> {
        (0..self.count).filter(move |number| *number != self.number)
    }

    /// Who has the disk of a client with this first address, or of everybody, at an address.
    pub fn owner(self, address: Address, mac: Option<Mac>) -> usize {
        owner(address, mac, self.count)
    }

    /// Whether that is this worker.
    pub fn owns(self, address: Address, mac: Option<Mac>) -> bool {
        self.is_all() || self.owner(address, mac) == self.number
    }
}

/// The worker, of `count`, that has the disk at `address` of the client whose first address is
/// `mac`, or of everybody.
pub fn owner(address: Address, mac: Option<Mac>, count: usize) -> usize {
    let place = u32::from(address.shelf()) << 16 | u32::from(address.slot()) << 8;
    let mut hash = place.wrapping_mul(MIX[0]);
    if let Some(Mac([a, b, c, d, e, f])) = mac {
        hash = (hash ^ u32::from_be_bytes([a, b, c, d])).wrapping_mul(MIX[1]);
        hash = (hash ^ u32::from_be_bytes([0, 0, e, f])).wrapping_mul(MIX[2]);
    }
    hash = (hash ^ hash >> FOLD[0]).wrapping_mul(MIX[1]);
    hash ^= hash >> FOLD[1];
    let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
    // Below `count`, which was a `usize`.
    usize::try_from(hash % count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(shelf: u16, slot: u8) -> Address {
        Address::new(shelf, slot).unwrap()
    }

    /// How many of each worker's number there are.
    fn spread(count: usize, owners: impl Iterator<Item = usize>) -> Vec<usize> {
        let mut found = vec![0; count];
        for owner in owners {
            found[owner] += 1;
        }
        found
    }

    #[test]
    fn addresses_in_a_row_are_spread() {
        for count in [1, 2, 3, 4, 8, 16] {
            let slots = (0..=254).map(|slot| owner(address(0, slot), None, count));
            let found = spread(count, slots);
            let even = 255 / count;
            assert!(found.iter().all(|n| n * 2 >= even && *n <= even * 2), "{found:?}");
        }
    }

    #[test]
    fn machines_in_a_row_that_share_an_address_are_spread() {
        for count in [2, 3, 4, 8] {
            for prefix in [[0x52, 0x54, 0, 0x12, 0x34], [2, 0, 0, 0, 1], [0, 0x1b, 0x21, 0xff, 7]] {
                let machine = |last: u8| {
                    let mut mac = [last; 6];
                    mac[..5].copy_from_slice(&prefix);
                    Mac(mac)
                };
                let owners = (0..=255).map(|n| owner(address(0, 0), Some(machine(n)), count));
                let found = spread(count, owners);
                let even = 256 / count;
                assert!(found.iter().all(|n| n * 10 >= even * 6), "{found:?}");
            }
        }
    }

    #[test]
    fn every_worker_is_somebody() {
        let shares: Vec<_> = (0..4).map(|n| Share::new(n, 4).unwrap()).collect();
        for slot in 0..100 {
            let owners = shares.iter().filter(|s| s.owns(address(3, slot), None)).count();
            assert_eq!(owners, 1);
        }
        assert_eq!(shares[2].others().collect::<Vec<_>>(), [0, 1, 3]);
        assert!(Share::ALL.owns(address(9, 9), Some(Mac([2; 6]))));
        assert_eq!(Share::new(1, 1), None);
        assert_eq!(Share::new(0, WORKERS_MAX + 1), None);
    }
}
