//! What to do when there is nothing to do: stay awake for a moment, or sleep.
//!
//! Falling asleep and being woken costs more processor time than looking at memory for the moment
//! in which a busy initiator sends its next request, and takes longer. It is a waste when nothing
//! comes, or when whoever sends needs this very processor: so staying awake has to prove itself.

use core::num::NonZero;
use core::time::Duration;
use std::thread::available_parallelism;

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
    /// For one of `workers` loops. If no processor is left besides those that loops keep awake, nothing can
    /// be sent while they look for it; and if they have not even one each, they keep each other from
    /// working.
    pub(super) fn new(processors: Processors, workers: usize) -> Self {
        let has_company = processors.running > workers && processors.usable >= workers;
        Self { has_company, penalty: 0, skip: 0, is_recent: false }
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

/// How many processors there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Processors {
    /// In this machine: whoever sends may use those that this process may not.
    running: usize,
    /// For this process, as far as it is bound to some, or has so much of their time.
    usable: usize,
}

impl Processors {
    /// Those of this machine. What the system does not tell is one: sleeping is never wrong.
    pub(super) fn here() -> Self {
        let usable = available_parallelism().map_or(1, NonZero::get);
        let told = std::fs::read_to_string(RUNNING).ok().and_then(|numbers| count(&numbers));
        Self { running: told.unwrap_or(usable), usable }
    }
}

/// The numbers of the processors that run. [Linux, Documentation/admin-guide/cputopology.rst]
const RUNNING: &str = "/sys/devices/system/cpu/online";

/// How many numbers are in a list of numbers and ranges: `0-3,6`.
fn count(numbers: &str) -> Option<usize> {
    numbers.trim().split(',').try_fold(0_usize, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Idle {
        Idle::new(Processors { running: 2, usable: 2 }, 1)
    }

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
        assert_eq!(awake(&mut two(), 1000, |_| true), 1000);
        // One in a hundred is late.
        let count = awake(&mut two(), 1000, |turn| turn % 100 != 0);
        assert!(count >= 850, "{count}");
    }

    #[test]
    fn in_vain_it_hardly_ever_tries() {
        let count = awake(&mut two(), 10_000, |_| false);
        assert!(count <= 48, "{count}");
        // Two of three is not often enough.
        let mut rng = 1_u32;
        let count = awake(&mut two(), 10_000, |_| {
            rng = rng.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            !(rng >> 16).is_multiple_of(3)
        });
        assert!(count <= 1000, "{count}");
    }

    #[test]
    fn it_finds_out_when_times_change() {
        let mut idle = two();
        awake(&mut idle, 10_000, |_| false);
        awake(&mut idle, 2000, |_| true);
        assert_eq!(awake(&mut idle, 1000, |_| true), 1000);
    }

    #[test]
    fn on_one_processor_nobody_stays_awake() {
        for (running, usable, workers) in [(1, 1, 1), (4, 4, 4), (8, 1, 2)] {
            let mut idle = Idle::new(Processors { running, usable }, workers);
            assert_eq!(awake(&mut idle, 1000, |_| true), 0, "{running} {usable} {workers}");
        }
        let mut bound = Idle::new(Processors { running: 2, usable: 1 }, 1);
        assert_eq!(awake(&mut bound, 1000, |_| true), 1000);
    }

    #[test]
    fn processors_are_those_of_the_machine() {
        assert_eq!(count("0\n"), Some(1));
        assert_eq!(count("0-1\n"), Some(2));
        assert_eq!(count("0-3,6,8-11"), Some(9));
        for wrong in ["", "\n", "3-1", "a", "0-", "0,,1", "0-18446744073709551615,0"] {
            assert_eq!(count(wrong), None, "{wrong:?}");
        }
        let here = Processors::here();
        assert!(here.running >= here.usable && here.usable > 0, "{here:?}");
    }

    #[test]
    fn without_traffic_nobody_stays_awake() {
        let mut idle = two();
        assert!(!idle.is_worth_waking());
        idle.saw_traffic();
        assert!(idle.is_worth_waking());
        assert!(!idle.is_worth_waking());
    }
}
