//! What is counted while a load runs.

use super::histogram::Histogram;

/// Length of one step of the course over time.
pub(super) const STEP_NS: u64 = 100_000_000;
/// Steps that are kept: more than a day would be a mistake.
const STEPS_MAX: u64 = 1_000_000;

/// Requests of one kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Moves {
    pub(super) latency_ns: Histogram,
    pub(super) sectors: u64,
}

/// Everything that is counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) reads: Moves,
    pub(super) writes: Moves,
    /// Answered requests in each step.
    pub(super) course: Vec<u64>,
    pub(super) start_ns: u64,
    pub(super) retransmitted: u64,
    pub(super) lost: u64,
    pub(super) failed: u64,
    pub(super) late: u64,
    pub(super) stray: u64,
    pub(super) send_failures: u64,
}

impl Tally {
    /// Counts from now on.
    pub(super) fn starting_at(start_ns: u64) -> Self {
        Self { start_ns, ..Self::default() }
    }

    /// One answered request.
    pub(super) fn done(&mut self, write: bool, sectors: u8, latency_ns: u64, now_ns: u64) {
        let moves = if write { &mut self.writes } else { &mut self.reads };
        moves.latency_ns.record(latency_ns);
        moves.sectors += u64::from(sectors);
        let step = (now_ns.saturating_sub(self.start_ns) / STEP_NS).min(STEPS_MAX);
        let step = usize::try_from(step).unwrap_or(0);
        if self.course.len() <= step {
            self.course.resize(step + 1, 0);
        }
        if let Some(count) = self.course.get_mut(step) {
            *count += 1;
        }
    }

    /// Requests answered.
    pub(super) fn requests(&self) -> u64 {
        self.reads.latency_ns.total() + self.writes.latency_ns.total()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_course_has_a_step_for_every_tenth_of_a_second() {
        let mut tally = Tally::starting_at(1_000);
        for now_ns in [1_000, 2_000, STEP_NS * 3 + 1_000] {
            tally.done(false, 8, 10, now_ns);
        }
        tally.done(true, 1, 10, STEP_NS + 1_000);
        assert_eq!(tally.course, [2, 1, 0, 1]);
        assert_eq!((tally.requests(), tally.reads.sectors, tally.writes.sectors), (4, 24, 1));
    }
}
