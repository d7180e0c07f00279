//! Frames in flight: what was sent, what was answered, when to send again. No I/O.

/// Most frames of one round.
pub const FLOOD_MAX: u16 = 256;

/// What is sent again after a wait without the answers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Again {
    /// Everything, with the same tags: late answers count.
    #[default]
    Same,
    /// Everything, with new tags: where the order matters, or that all of it came at once. Late
    /// answers to an earlier round do not count, but tell that the wait was too short.
    Round,
    /// What was not answered, with the same tags, and never more of it at once than `room`.
    Open { room: u16 },
}

/// How much longer than at first a round may wait when late answers to earlier ones arrive.
const STRETCH_MAX: u64 = 16;

/// Frames with consecutive tags.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flight {
    /// Tag of the first frame.
    pub(super) tag: u32,
    pub(super) frames: u16,
    again: Again,
    /// Tag of the first frame of the first round.
    first_tag: u32,
    /// The frame that is next, if it is its turn.
    next: u16,
    /// Frames that were sent at least once.
    sent: u16,
    /// Frames sent since the last wait ran out, without an answer yet.
    in_air: u16,
    answered: [u64; 4],
    open: u16,
    until: u64,
    /// When the first frame was sent, of the last round.
    began: Option<u64>,
    tries_max: u8,
    tries: u8,
    /// An answer to an earlier round came during this one.
    late: bool,
    stretch: u64,
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
    /// Frames that are sent up to `tries` times, with the same tags.
    pub(super) fn same(tag: u32, frames: u16, tries: u8) -> Self {
        Self::new(tag, frames, tries, Again::Same)
    }

    /// Frames that are sent in up to `tries` rounds, each with tags of its own.
    pub(super) fn rounds(tag: u32, frames: u16, tries: u8) -> Self {
        Self::new(tag, frames, tries, Again::Round)
    }

    /// Frames of which `room` wait at most, and each is sent again until it has an answer; `tries`
    /// waits without any answer end it.
    pub(super) fn paced(tag: u32, frames: u16, tries: u8, room: u16) -> Self {
        Self::new(tag, frames, tries, Again::Open { room: room.max(1) })
    }

    fn new(tag: u32, frames: u16, tries: u8, again: Again) -> Self {
        let (frames, tries) = (frames.min(FLOOD_MAX), tries.max(1));
        let stretch = 1;
        let (first_tag, open, tries_max) = (tag, frames, tries);
        Self { tag, frames, again, first_tag, open, tries_max, tries, stretch, ..Self::default() }
    }

    /// What is due if an answer takes `answer_ms` at most.
    pub(super) fn due(&mut self, now: u64, answer_ms: u64) -> Due {
        if let Some(index) = self.turn() {
            return self.send(index, now, answer_ms);
        }
        if now < self.until {
            return Due::Wait(self.until);
        }
        if core::mem::take(&mut self.late) && self.stretch < STRETCH_MAX {
            self.stretch = self.stretch.saturating_mul(2);
        } else {
            self.tries = self.tries.saturating_sub(1);
        }
        if self.tries == 0 {
            return Due::Silent;
        }
        self.start_again();
        // Something is open, or the flight would be over; and nothing is in the air.
        self.turn().map_or(Due::Silent, |index| self.send(index, now, answer_ms))
    }

    fn send(&mut self, index: u16, now: u64, answer_ms: u64) -> Due {
        self.began.get_or_insert(now);
        self.next = index.saturating_add(1);
        self.sent = self.sent.max(self.next);
        self.in_air = self.in_air.saturating_add(1);
        self.until = now.saturating_add(answer_ms.saturating_mul(self.stretch));
        Due::Send(index)
    }

    /// The frame that may be sent now.
    fn turn(&self) -> Option<u16> {
        match self.again {
            Again::Open { room } if self.in_air >= room => None,
            Again::Open { .. } => (self.next..self.frames).find(|index| !self.is_answered(*index)),
            Again::Same | Again::Round => Some(self.next).filter(|next| *next < self.frames),
        }
    }

    fn start_again(&mut self) {
        self.next = 0;
        self.in_air = 0;
        if self.again == Again::Round {
            self.tag = self.tag.wrapping_add(u32::from(self.frames));
            self.answered = [0; 4];
            self.open = self.frames;
            self.sent = 0;
            self.began = None;
        }
    }

    /// The frame that a fresh tag belongs to, if it was sent.
    pub(super) fn index(&self, tag: u32) -> Option<u16> {
        u16::try_from(tag.wrapping_sub(self.tag)).ok().filter(|index| *index < self.sent.max(1))
    }

    /// Takes note of a tag, if it is that of an earlier round.
    pub(super) fn note_late(&mut self, tag: u32) {
        let rounds_len = self.tag.wrapping_sub(self.first_tag);
        self.late |= tag.wrapping_sub(self.first_tag) < rounds_len;
    }

    /// Time since the first frame was sent, of the last round.
    pub(super) fn age_ms(&self, now: u64) -> u64 {
        self.began.map_or(0, |began| now.saturating_sub(began))
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
            self.in_air = self.in_air.saturating_sub(1);
            if matches!(self.again, Again::Open { .. }) {
                self.tries = self.tries_max;
            }
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
        let mut flight = Flight::rounds(1000, 2, 2);
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
        assert_eq!((flight.index(1001), flight.index(1002)), (None, Some(0)));
        assert!(!flight.is_answered(1), "an answer to the first round counts no more");
        assert_eq!(sent(flight.due(100, 100)), Some(1));
        assert!(matches!(flight.due(200, 100), Due::Silent));
    }

    #[test]
    fn late_answers_to_a_round_make_the_next_one_longer() {
        let mut flight = Flight::rounds(1000, 1, 2);
        let mut now = 0;
        for wait in [100, 100, 200, 400, 800, 1600] {
            assert_eq!(sent(flight.due(now, 100)), Some(0), "{now} ms");
            assert!(matches!(flight.due(now, 100), Due::Wait(until) if until == now + wait));
            flight.note_late(1000);
            now += wait;
        }
        assert!(matches!(flight.due(now, 100), Due::Silent), "some time it is enough");
    }

    #[test]
    fn a_single_frame_keeps_its_tag() {
        let mut flight = Flight::same(1000, 1, 2);
        assert_eq!(sent(flight.due(0, 100)), Some(0));
        assert_eq!(sent(flight.due(100, 100)), Some(0));
        assert_eq!((flight.index(1000), flight.age_ms(130)), (Some(0), 130));
        assert!(flight.answer(0));
    }

    #[test]
    fn the_longest_round() {
        let mut flight = Flight::rounds(u32::MAX - 10, 1000, 1);
        for index in 0..FLOOD_MAX {
            assert_eq!(sent(flight.due(0, 100)), Some(index));
            assert_eq!(flight.answer(index), index + 1 == FLOOD_MAX);
        }
    }

    #[test]
    fn a_paced_flood_keeps_to_the_room_and_sends_only_what_is_missing_again() {
        let mut flight = Flight::paced(1000, 5, 2, 2);
        assert_eq!(sent(flight.due(0, 100)), Some(0));
        assert_eq!(sent(flight.due(0, 100)), Some(1));
        assert!(matches!(flight.due(0, 100), Due::Wait(100)), "two are under way");
        assert!(!flight.answer(1));
        assert_eq!(sent(flight.due(10, 100)), Some(2));
        assert!(matches!(flight.due(10, 100), Due::Wait(110)));
        // Neither came back.
        assert_eq!(sent(flight.due(110, 100)), Some(0));
        assert_eq!(sent(flight.due(110, 100)), Some(2));
        assert!(matches!(flight.due(110, 100), Due::Wait(210)));
        assert!(!flight.answer(0) && !flight.answer(2));
        assert_eq!((sent(flight.due(120, 100)), sent(flight.due(120, 100))), (Some(3), Some(4)));
        assert!(matches!(flight.due(220, 100), Due::Send(3)), "answers renew the tries");
        assert!(!flight.answer(3) && flight.answer(4));
    }
}
