//! Where requests go: positions of a region in order, at random, or at random but each once.

/// In which order the positions of a region are visited.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// One after the other, from the start again after the last.
    Sequential,
    /// Uniformly at random.
    Random,
}

/// Equidistant positions on a disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Region {
    first: u64,
    stride: u64,
    positions: u64,
}

impl Region {
    /// Positions `stride` sectors apart, from sector `first` on, such that a request of `request`
    /// sectors at each ends within `sectors` of the first. `None` if there is no such position.
    pub(super) fn new(first: u64, sectors: u64, request: u64, stride: u64) -> Option<Self> {
        let room = sectors.checked_sub(request).filter(|_| request > 0)?;
        let positions = room.checked_div(stride)?.checked_add(1)?;
        Some(Self { first, stride, positions })
    }

    fn lba(self, position: u64) -> u64 {
        self.first.saturating_add(position.saturating_mul(self.stride))
    }
}

/// A way through a region.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    region: Region,
    order: Order,
    once: bool,
    step: u64,
    random: Random,
    shuffle: Shuffle,
}

impl Walk {
    /// A walk that ends after every position was visited (`once`), or never does.
    pub(super) fn new(region: Region, order: Order, once: bool, seed: u64) -> Self {
        let shuffle = Shuffle::new(region.positions, seed);
        Self { region, order, once, step: 0, random: Random::new(seed), shuffle }
    }

    /// The first sector of the next request, the same until [`Walk::advance`]; `None` after the
    /// last position.
    pub(super) fn peek(&self) -> Option<u64> {
        if self.once && self.step >= self.region.positions {
            return None;
        }
        let position = match (self.order, self.once) {
            (Order::Sequential, _) => self.step % self.region.positions,
            (Order::Random, true) => self.shuffle.place(self.step),
            (Order::Random, false) => self.random.clone().below(self.region.positions),
        };
        Some(self.region.lba(position))
    }

    /// Goes on to the next position.
    pub(super) fn advance(&mut self) {
        self.step = self.step.wrapping_add(1);
        self.random.next();
    }
}

/// Pseudo-random numbers: splitmix64. Cheap, and good enough to place requests and fill sectors.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Uniform below `bound`, 0 for 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// Fills `bytes`.
    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            for (to, from) in chunk.iter_mut().zip(self.next().to_le_bytes()) {
                *to = from;
            }
        }
    }
}

/// The finalizer of splitmix64: every bit of the result depends on every bit of `x`.
pub(super) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A permutation of `0..len` in constant memory: a Feistel network over the next even power of two,
/// repeated until the result is below `len` (on average less than four times).
#[derive(Clone, Debug)]
struct Shuffle {
    len: u64,
    half_bits: u32,
    seed: u64,
}

impl Shuffle {
    const ROUNDS: u64 = 4;

    fn new(len: u64, seed: u64) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        Self { len, half_bits: bits.div_ceil(2), seed }
    }

    fn place(&self, at: u64) -> u64 {
        let mut place = self.once(at);
        while place >= self.len {
            place = self.once(place);
        }
        place
    }

    fn once(&self, at: u64) -> u64 {
        let mask = (1_u64 << self.half_bits) - 1;
        let (mut left, mut right) = ((at >> self.half_bits) & mask, at & mask);
        for round in 0..Self::ROUNDS {
            let scrambled = mix(self.seed ^ (round << 56) ^ right) & mask;
            (left, right) = (right, left ^ scrambled);
        }
        (left << self.half_bits) | right
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn next(walk: &mut Walk) -> Option<u64> {
        let lba = walk.peek();
        walk.advance();
        lba
    }

    #[test]
    fn positions_end_inside_the_region() {
        for (sectors, request, stride, positions) in [
            (100, 8, 8, Some(12)),
            (96, 8, 8, Some(12)),
            (95, 8, 8, Some(11)),
            (8, 8, 8, Some(1)),
            (7, 8, 8, None),
            (16, 1, 2, Some(8)),
            (15, 1, 2, Some(8)),
            (9, 8, 1, Some(2)),
            (9, 0, 1, None),
            (9, 1, 0, None),
        ] {
            let region = Region::new(5, sectors, request, stride);
            assert_eq!(
                region.map(|region| region.positions),
                positions,
                "{sectors} {request} {stride}"
            );
        }
    }

    #[test]
    fn one_after_the_other_and_around() {
        let region = Region::new(100, 24, 8, 8).unwrap();
        let mut walk = Walk::new(region, Order::Sequential, false, 1);
        let lbas: Vec<_> = (0..5).filter_map(|_| next(&mut walk)).collect();
        assert_eq!(lbas, [100, 108, 116, 100, 108]);
    }

    #[test]
    fn at_random_but_each_once() {
        for positions in [1, 2, 3, 4, 5, 63, 64, 65, 1000] {
            let region = Region::new(7, positions * 4, 2, 4).unwrap();
            let mut walk = Walk::new(region, Order::Random, true, 99);
            let mut lbas = Vec::new();
            while let Some(lba) = next(&mut walk) {
                lbas.push(lba);
            }
            let set: BTreeSet<_> = lbas.iter().copied().collect();
            let all: BTreeSet<_> = (0..positions).map(|n| 7 + 4 * n).collect();
            assert_eq!((lbas.len() as u64, set), (positions, all));
            assert!(positions < 63 || !lbas.is_sorted(), "in order is not at random");
        }
    }

    #[test]
    fn at_random_reaches_everything() {
        let region = Region::new(0, 64, 8, 8).unwrap();
        let mut walk = Walk::new(region, Order::Random, false, 3);
        let lbas: BTreeSet<_> = (0..200).filter_map(|_| next(&mut walk)).collect();
        assert_eq!(lbas, (0..8).map(|n| 8 * n).collect());
    }
}
