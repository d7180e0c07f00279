//! Latencies in buckets that grow with the value: constant memory, constant relative error.

/// Each doubling is divided into two to this many buckets: an error of at most 1.6 %.
const STEP_BITS: u32 = 6;
/// Buckets for every `u64`.
const BUCKETS: usize = ((64 - STEP_BITS as usize) << STEP_BITS) + (1 << STEP_BITS);

/// How often which value occurred.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum: u128,
    min: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, sum: 0, min: u64::MAX, max: 0 }
    }
}

impl Histogram {
    /// Counts `value`, in any unit.
    pub fn record(&mut self, value: u64) {
        if let Some(count) = self.counts.get_mut(bucket_of(value)) {
            *count += 1;
        }
        self.total += 1;
        self.sum += u128::from(value);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Adds everything that `other` counted.
    pub fn add(&mut self, other: &Self) {
        for (to, from) in self.counts.iter_mut().zip(&other.counts) {
            *to += from;
        }
        self.total += other.total;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The least value, exactly.
    pub fn min(&self) -> Option<u64> {
        (self.total > 0).then_some(self.min)
    }

    /// The greatest value, exactly.
    pub fn max(&self) -> Option<u64> {
        (self.total > 0).then_some(self.max)
    }

    /// The mean, rounded down.
    pub fn mean(&self) -> Option<u64> {
        u64::try_from(self.sum.checked_div(u128::from(self.total))?).ok()
    }

    /// The value that so many of 10,000 do not exceed, to within 1.6 %: 5,000 is the median.
    pub fn quantile(&self, per_10_000: u64) -> Option<u64> {
        let wanted = (u128::from(self.total) * u128::from(per_10_000)).div_ceil(10_000).max(1);
        let mut seen = 0_u128;
        let at = self.counts.iter().position(|count| {
            seen += u128::from(*count);
            seen >= wanted
        })?;
        Some(bucket_end(at).min(self.max))
    }

    /// Counts by ranges, `per_doubling` (at most 64) for each doubling: the greatest value of a
    /// range, and how many were counted in it. Starts at the first and ends at the last range
    /// that is not empty.
    pub fn ranges(&self, per_doubling: usize) -> Vec<(u64, u64)> {
        let group = (1_usize << STEP_BITS).checked_div(per_doubling).unwrap_or(1).max(1);
        let ranges: Vec<(u64, u64)> = self
            .counts
            .chunks(group)
            .enumerate()
            .map(|(at, counts)| {
                (bucket_end(at * group + counts.len().saturating_sub(1)), counts.iter().sum())
            })
            .collect();
        let filled = |range: &(u64, u64)| range.1 > 0;
        let (Some(first), Some(last)) =
            (ranges.iter().position(filled), ranges.iter().rposition(filled))
        else {
            return Vec::new();
        };
        ranges.get(first..=last).unwrap_or_default().to_vec()
    }
}

/// Values below 2 * 64 have buckets of their own; above, the leading 7 bits decide.
fn bucket_of(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(STEP_BITS + 1);
    let leading = usize::try_from(value >> shift).unwrap_or(0);
    ((shift as usize) << STEP_BITS) + leading
}

/// The greatest value of a bucket.
fn bucket_end(bucket: usize) -> u64 {
    let shift = (bucket >> STEP_BITS).saturating_sub(1);
    let leading = bucket - (shift << STEP_BITS);
    let past = (leading as u128 + 1) << shift;
    u64::try_from(past - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_narrow() {
        for bucket in 0..BUCKETS {
            assert_eq!(bucket_of(bucket_end(bucket)), bucket);
            if bucket + 1 < BUCKETS {
                assert_eq!(bucket_of(bucket_end(bucket) + 1), bucket + 1);
            }
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        for value in [1, 127, 128, 1000, 123_456, 1 << 40, u64::MAX - 1] {
            let end = bucket_end(bucket_of(value));
            assert!(end >= value && (end - value) <= value / 64, "{value}: {end}");
        }
    }

    #[test]
    fn quantiles_of_a_known_set() {
        let mut histogram = Histogram::default();
        assert_eq!(
            (histogram.quantile(5_000), histogram.mean(), histogram.max()),
            (None, None, None)
        );
        for value in 1..=1000 {
            histogram.record(value * 100);
        }
        let near = |per_10_000: u64, exact: u64| {
            let value = histogram.quantile(per_10_000).unwrap();
            assert!(value >= exact && value - exact <= exact / 64, "{per_10_000}: {value}");
        };
        near(5_000, 50_000);
        near(9_000, 90_000);
        near(9_990, 99_900);
        assert_eq!(histogram.quantile(10_000), Some(100_000));
        assert_eq!(histogram.quantile(0).unwrap(), 100);
        assert_eq!((histogram.min(), histogram.max()), (Some(100), Some(100_000)));
        assert_eq!((histogram.mean(), histogram.total()), (Some(50_050), 1000));
    }

    #[test]
    fn sums_and_ranges() {
        let (mut a, mut b) = (Histogram::default(), Histogram::default());
        a.record(1000);
        b.record(1023);
        b.record(5000);
        a.add(&b);
        assert_eq!((a.total(), a.min(), a.max()), (3, Some(1000), Some(5000)));
        assert_eq!(a.ranges(1), [(1023, 2), (2047, 0), (4095, 0), (8191, 1)]);
        assert_eq!(Histogram::default().ranges(4), []);
    }
}
