//! Frames in flight: what was sent, what was answered, when to send again. No I/O.

/// Most frames of one round.
pub const FLOOD_MAX: u16 = 256;

/// One round of frames with consecutive tags.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flight {
    /// Tag of the first frame.
    pub(super) tag: u32,
    pub(super) frames: u16,
    sent: u16,
    answered: [u64; 4],
    open: u16,
    until: u64,
    tries: u8,
    /// Whether a retry is a new round, so that late answers to the last one do not count.
    fresh: bool,
}

/// What is due.
#[derive(Clone, Copy)]
pub(super) enum Due {
    /// The frame with this index is to be sent.
    Send(u16),
    /// Nothing before this time.
    Wait(u64),
    /// Every try went unanswered.
    Silent,
}

impl Flight {
    /// Frames that are sent up to `tries` times.
    pub(super) fn new(tag: u32, frames: u16, tries: u8, fresh: bool) -> Self {
        let frames = frames.min(FLOOD_MAX);
        let (sent, answered, until) = (0, [0; 4], 0);
        Self { tag, frames, sent, answered, open: frames, until, tries, fresh }
    }

    pub(super) fn due(&mut self, now: u64, answer_ms: u64) -> Due {
        if self.sent >= self.frames {
            if now < self.until {
                return Due::Wait(self.until);
            }
            self.tries = self.tries.saturating_sub(1);
            if self.tries == 0 {
                return Due::Silent;
            }
            self.sent = 0;
            if self.fresh {
                self.tag = self.tag.wrapping_add(u32::from(FLOOD_MAX));
                self.answered = [0; 4];
                self.open = self.frames;
            }
        }
        let index = self.sent;
        self.sent = self.sent.saturating_add(1);
        if self.sent >= self.frames {
            self.until = now.saturating_add(answer_ms);
        }
        Due::Send(index)
    }

    /// The frame that a fresh tag belongs to, if it was sent.
    pub(super) fn index(&self, tag: u32) -> Option<u16> {
        u16::try_from(tag.wrapping_sub(self.tag)).ok().filter(|index| *index < self.sent.max(1))
    }

    pub(super) fn is_answered(&self, index: u16) -> bool {
        let word = self.answered.get(usize::from(index / 64)).copied().unwrap_or(u64::MAX);
        word >> (index % 64) & 1 == 1
    }

    /// Notes an answer, and tells whether it was the last one missing.
    pub(super) fn answer(&mut self, index: u16) -> bool {
        let bit = 1 << (index % 64);
        let word = self.answered.get_mut(usize::from(index / 64));
        if let Some(word) = word.filter(|word| **word & bit == 0) {
            *word |= bit;
            self.open = self.open.saturating_sub(1);
        }
        self.open == 0
    }

    /// The first frame without an answer.
    pub(super) fn first_open(&self) -> u16 {
        (0..self.frames).find(|index| !self.is_answered(*index)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(due: Due) -> Option<u16> {
        if let Due::Send(index) = due { Some(index) } else { None }
    }

    #[test]
    fn a_round_is_sent_again_as_a_whole() {
        let mut flight = Flight::new(1000, 2, 2, true);
        assert_eq!(sent(flight.due(0, 100)), Some(0));
        assert_eq!(sent(flight.due(0, 100)), Some(1));
        assert!(matches!(flight.due(50, 100), Due::Wait(100)));
        assert_eq!(
            (flight.index(1001), flight.index(1002), flight.index(999)),
            (Some(1), None, None)
        );
        assert!(!flight.answer(1));
        assert_eq!(flight.first_open(), 0);
        assert_eq!(sent(flight.due(100, 100)), Some(0));
        assert_eq!((flight.index(1001), flight.index(1256)), (None, Some(0)));
        assert!(!flight.is_answered(1), "an answer to the first round counts no more");
        assert_eq!(sent(flight.due(100, 100)), Some(1));
        assert!(matches!(flight.due(200, 100), Due::Silent));
    }

    #[test]
    fn a_single_frame_keeps_its_tag() {
        let mut flight = Flight::new(1000, 1, 2, false);
        assert_eq!(sent(flight.due(0, 100)), Some(0));
        assert_eq!(sent(flight.due(100, 100)), Some(0));
        assert_eq!(flight.index(1000), Some(0));
        assert!(flight.answer(0));
    }

    #[test]
    fn the_longest_round() {
        let mut flight = Flight::new(u32::MAX - 10, 1000, 1, true);
        for index in 0..FLOOD_MAX {
            assert_eq!(sent(flight.due(0, 100)), Some(index));
            assert_eq!(flight.answer(index), index + 1 == FLOOD_MAX);
        }
    }
}
