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

/// Whether it pays to stay awake.
#[derive(Debug, Default)]
pub(super) struct Idle {
    /// Turns that go to sleep at once after the next time in vain.
    penalty: u32,
    /// Of these, how many are left.
    skip: u32,
    /// Frames came since the last sleep.
    is_recent: bool,
}

impl Idle {
    /// Frames came.
    pub(super) fn saw_traffic(&mut self) {
        self.is_recent = true;
    }

    /// Whether to stay awake now. Asked once before each sleep.
    pub(super) fn is_worth_waking(&mut self) -> bool {
        if !core::mem::take(&mut self.is_recent) {
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
        self.penalty =
            if came { self.penalty / 4 } else { (self.penalty * 2 + 1).min(SKIPPED_MAX) };
        self.skip = if came { 0 } else { self.penalty };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `turns` bursts of requests, how often somebody stayed awake.
    fn awake(idle: &mut Idle, turns: u32, comes: impl Fn(u32) -> bool) -> u32 {
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
        assert_eq!(awake(&mut Idle::default(), 1000, |_| true), 1000);
        // One in a hundred is late.
        assert!(awake(&mut Idle::default(), 1000, |turn| turn % 100 != 0) >= 980);
    }

    #[test]
    fn in_vain_it_hardly_ever_tries() {
        let count = awake(&mut Idle::default(), 10_000, |_| false);
        assert!(count <= 48, "{count}");
    }

    #[test]
    fn it_finds_out_when_times_change() {
        let mut idle = Idle::default();
        awake(&mut idle, 10_000, |_| false);
        let count = awake(&mut idle, 1000, |_| true);
        assert!(count >= 1000 - SKIPPED_MAX, "{count}");
    }

    #[test]
    fn without_traffic_nobody_stays_awake() {
        let mut idle = Idle::default();
        assert!(!idle.is_worth_waking());
        idle.saw_traffic();
        assert!(idle.is_worth_waking());
        assert!(!idle.is_worth_waking());
    }
}
