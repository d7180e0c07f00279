//! How long answers took, in a fixed set of buckets.

/// Buckets of each doubling.
const PER_OCTAVE: u32 = 4;
/// Buckets, from 1 us to more than two minutes; the last one also takes everything above.
const BUCKETS: usize = 112;
/// Nanoseconds in the first bucket's width.
const UNIT_NS: u64 = 1000;

/// Times between requests and their answers, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    count: u64,
    sum_ns: u64,
    min_ns: u64,
    max_ns: u64,
    buckets: [u32; BUCKETS],
}

impl Default for Latency {
    fn default() -> Self {
        Self { count: 0, sum_ns: 0, min_ns: 0, max_ns: 0, buckets: [0; BUCKETS] }
    }
}

impl Latency {
    /// Counts one answer.
    pub(super) fn record(&mut self, ns: u64) {
        self.min_ns = if self.count == 0 { ns } else { self.min_ns.min(ns) };
        self.max_ns = self.max_ns.max(ns);
        self.count = self.count.saturating_add(1);
        self.sum_ns = self.sum_ns.saturating_add(ns);
        if let Some(bucket) = self.buckets.get_mut(bucket_of(ns)) {
            *bucket = bucket.saturating_add(1);
        }
    }

    /// Answers counted.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The shortest.
    pub fn min_ns(&self) -> Option<u64> {
        (self.count > 0).then_some(self.min_ns)
    }

    /// The longest.
    pub fn max_ns(&self) -> Option<u64> {
        (self.count > 0).then_some(self.max_ns)
    }

    /// The mean.
    pub const fn mean_ns(&self) -> Option<u64> {
        self.sum_ns.checked_div(self.count)
    }

    /// A time that `per_mille` of 1000 answers did not exceed, at most a fifth too large.
    pub fn quantile_ns(&self, per_mille: u16) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        let wanted = self.count.saturating_mul(u64::from(per_mille)).div_ceil(1000).max(1);
        let mut seen = 0_u64;
        for (index, bucket) in (0..).zip(&self.buckets) {
            seen = seen.saturating_add(u64::from(*bucket));
            if seen >= wanted {
                // Not `clamp`, which panics when its limits are the wrong way round.
                return Some(end_of(index).max(self.min_ns).min(self.max_ns));
            }
        }
        Some(self.max_ns)
    }
}

/// The bucket for a time: the number of its highest bit, and the two bits below.
fn bucket_of(ns: u64) -> usize {
    let units = ns / UNIT_NS;
    // Below one octave's buckets every unit has its own.
    let Some(octave) = units.checked_ilog2().and_then(|bit| bit.checked_sub(2)) else {
        return usize::try_from(units).unwrap_or(0);
    };
    let within = (units >> octave) & u64::from(PER_OCTAVE - 1);
    let base = octave.saturating_add(1).saturating_mul(PER_OCTAVE);
    let index = u64::from(base).saturating_add(within);
    usize::try_from(index).unwrap_or(usize::MAX).min(BUCKETS - 1)
}

/// Where a bucket ends, in nanoseconds.
fn end_of(index: u32) -> u64 {
    let (octave, within) = (index / PER_OCTAVE, index % PER_OCTAVE);
    let units = match octave.checked_sub(1) {
        None => u64::from(within) + 1,
        Some(shift) => u64::from(PER_OCTAVE + within + 1).checked_shl(shift).unwrap_or(u64::MAX),
    };
    units.saturating_mul(UNIT_NS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other() {
        let mut last = 0;
        for ns in (0..20_000_000_u64).step_by(997) {
            let bucket = bucket_of(ns);
            assert!(bucket == last || bucket == last + 1, "{ns}: {last} {bucket}");
            last = bucket;
            let end = end_of(u32::try_from(bucket).unwrap());
            assert!(ns < end && end <= (ns + 1000) + (ns / 4) + 1000, "{ns} ends at {end}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert!(end_of(u32::try_from(BUCKETS).unwrap() - 1) > 120_000_000_000);
    }

    #[test]
    fn quantiles_are_close() {
        let mut latency = Latency::default();
        assert_eq!((latency.mean_ns(), latency.quantile_ns(500)), (None, None));
        for ms in 1..=100 {
            latency.record(ms * 1_000_000);
        }
        assert_eq!(latency.min_ns(), Some(1_000_000));
        assert_eq!(latency.max_ns(), Some(100_000_000));
        assert_eq!(latency.mean_ns(), Some(50_500_000));
        let median = latency.quantile_ns(500).unwrap();
        assert!((50_000_000..=60_000_000).contains(&median), "{median}");
        assert_eq!(latency.quantile_ns(1000), Some(100_000_000));
    }
}
