//! What to do when there is nothing to do: stay awake for a moment, or sleep. Pure.
//!
//! Falling asleep and being woken costs more processor time than looking at memory for the moment
//! in which a busy initiator sends its next request, and takes longer. It is a waste when nothing
//! comes, or when whoever sends needs this very processor: so staying awake has to prove itself.

use core::time::Duration;

/// How long to stay awake for the next frame.
pub(super) const AWAKE_MAX: Duration = Duration::from_micros(50);

/// Most turns in which nobody stays awake after it was in vain: then it is tried again.
const SKIPPED_MAX: u32 = 255;

/// Least turns in which nobody stays awake after it was in vain: being right four times of five is
/// not enough, because a moment in vain costs several times what a moment saves.
const SKIPPED_MIN: u32 = 4;

/// Whether it pays to stay awake.
#[derive(Debug)]
pub(super) struct Idle {
    /// Whether others can run meanwhile.
    has_company: bool,
    /// Turns that go to sleep at once before the next attempt to stay awake.
    penalty: u32,
    /// Of these, how many are left.
    skip: u32,
    /// Frames came since the last sleep.
    is_recent: bool,
}

impl Idle {
    /// For a loop that may use so many processors. On one there is nobody who could send
    /// something while it is kept from others.
    pub(super) fn new(processors: usize) -> Self {
        Self { has_company: processors > 1, penalty: 0, skip: 0, is_recent: false }
    }

    /// Frames came.
    pub(super) fn saw_traffic(&mut self) {
        self.is_recent = true;
    }

    /// Whether to stay awake now. Asked once before each sleep.
    pub(super) fn is_worth_waking(&mut self) -> bool {
        if !core::mem::take(&mut self.is_recent) || !self.has_company {
            return false;
        }
        if let Some(left) = self.skip.checked_sub(1) {
            self.skip = left;
            return false;
        }
        true
    }

    /// Staying awake ended with a frame, or in vain.
    pub(super) fn learn(&mut self, came: bool) {
        self.penalty = if came {
            self.penalty.saturating_sub((self.penalty / 4).max(1))
        } else {
            (self.penalty * 2).clamp(SKIPPED_MIN, SKIPPED_MAX)
        };
        self.skip = self.penalty;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `turns` bursts of requests, how often somebody stayed awake.
    fn awake(idle: &mut Idle, turns: u32, mut comes: impl FnMut(u32) -> bool) -> u32 {
        let mut count = 0;
        for turn in 0..turns {
            idle.saw_traffic();
            if idle.is_worth_waking() {
                count += 1;
                idle.learn(comes(turn));
            }
        }
        count
    }

    #[test]
    fn a_steady_stream_keeps_it_awake() {
        assert_eq!(awake(&mut Idle::new(2), 1000, |_| true), 1000);
        // One in a hundred is late.
        let count = awake(&mut Idle::new(2), 1000, |turn| turn % 100 != 0);
        assert!(count >= 850, "{count}");
    }

    #[test]
    fn in_vain_it_hardly_ever_tries() {
        let count = awake(&mut Idle::new(2), 10_000, |_| false);
        assert!(count <= 48, "{count}");
        // Two of three is not often enough.
        let mut rng = 1_u32;
        let count = awake(&mut Idle::new(2), 10_000, |_| {
            rng = rng.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (rng >> 16) % 3 != 0
        });
        assert!(count <= 1000, "{count}");
    }

    #[test]
    fn it_finds_out_when_times_change() {
        let mut idle = Idle::new(2);
        awake(&mut idle, 10_000, |_| false);
        awake(&mut idle, 2000, |_| true);
        assert_eq!(awake(&mut idle, 1000, |_| true), 1000);
    }

    #[test]
    fn on_one_processor_nobody_stays_awake() {
        assert_eq!(awake(&mut Idle::new(1), 1000, |_| true), 0);
    }

    #[test]
    fn without_traffic_nobody_stays_awake() {
        let mut idle = Idle::new(2);
        assert!(!idle.is_worth_waking());
        idle.saw_traffic();
        assert!(idle.is_worth_waking());
        assert!(!idle.is_worth_waking());
    }
}
