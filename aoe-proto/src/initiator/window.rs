//! How many requests may be in flight, and how long to wait for their answers.

/// Congestion window: grows with answers, falls to one request with a loss. `[AoE 8.1]`
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    current: u16,
    /// Below it every answer widens the window; above it only a window full of them does.
    threshold: u16,
    limit: u16,
    answers: u16,
}

impl Window {
    /// One request at a time, until the target has told how much it can queue.
    pub(super) const fn new() -> Self {
        Self { current: 1, threshold: u16::MAX, limit: 1, answers: 0 }
    }

    pub(super) const fn size(self) -> u16 {
        if self.current < self.limit { self.current } else { self.limit }
    }

    /// Adopts the buffer count of the target, never above `own_max`. The first one opens the
    /// window to its half.
    pub(super) fn set_buffer_count(&mut self, buffer_count: u16, own_max: u16, first: bool) {
        self.limit = buffer_count.min(own_max).max(1);
        if first {
            self.current = (buffer_count / 2).min(self.limit).max(1);
            self.threshold = self.current;
        }
    }

    pub(super) fn on_answer(&mut self) {
        if self.current >= self.limit {
            return;
        }
        self.answers = self.answers.saturating_add(1);
        if self.current < self.threshold || self.answers >= self.current {
            self.current = self.current.saturating_add(1);
            self.answers = 0;
        }
    }

    pub(super) fn on_loss(&mut self) {
        self.threshold = (self.size() / 2).max(1);
        self.current = 1;
        self.answers = 0;
    }
}

/// Round-trip time in eighths of a millisecond, after Jacobson.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundTrip {
    mean: u64,
    deviation: u64,
    known: bool,
}

impl RoundTrip {
    const SCALE: u64 = 8;

    pub(super) const fn new() -> Self {
        Self { mean: 0, deviation: 0, known: false }
    }

    /// Takes the time of a request that was sent once: with retransmissions nobody knows which of
    /// them was answered.
    pub(super) fn on_answer(&mut self, elapsed_ms: u64) {
        let sample = elapsed_ms.saturating_mul(Self::SCALE);
        if self.known {
            let off = sample.abs_diff(self.mean);
            self.mean = (self.mean.saturating_mul(7).saturating_add(sample)) / 8;
            self.deviation = (self.deviation.saturating_mul(3).saturating_add(off)) / 4;
        } else {
            *self = Self { mean: sample, deviation: sample / 2, known: true };
        }
    }

    /// Twice the mean and eight deviations, as the Linux driver has it; `unknown_ms` before the
    /// first answer. `[AoE 8.1]`
    pub(super) fn timeout_ms(&self, unknown_ms: u64) -> u64 {
        if !self.known {
            return unknown_ms;
        }
        let scaled = self.mean.saturating_mul(2).saturating_add(self.deviation.saturating_mul(8));
        scaled / Self::SCALE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_opens_at_half_the_buffers_and_ends_at_all_of_them() {
        let mut window = Window::new();
        assert_eq!(window.size(), 1);
        window.set_buffer_count(16, 64, true);
        assert_eq!(window.size(), 8);
        for _ in 0..8 {
            window.on_answer();
        }
        assert_eq!(window.size(), 9);
        for _ in 0..1000 {
            window.on_answer();
        }
        assert_eq!(window.size(), 16);
        window.on_loss();
        assert_eq!(window.size(), 1);
        for _ in 0..7 {
            window.on_answer();
        }
        assert_eq!(window.size(), 8, "doubles per round trip up to half the old window");
        window.on_answer();
        assert_eq!(window.size(), 8);
        window.set_buffer_count(4, 64, false);
        assert_eq!(window.size(), 4);
    }

    #[test]
    fn odd_buffer_counts() {
        for (buffers, own, size) in [(0, 64, 1), (1, 64, 1), (2, 64, 1), (3, 0, 1), (1024, 64, 64)]
        {
            let mut window = Window::new();
            window.set_buffer_count(buffers, own, true);
            assert_eq!(window.size(), size, "{buffers}");
        }
    }

    #[test]
    fn the_timeout_follows_the_round_trip() {
        let mut trip = RoundTrip::new();
        assert_eq!(trip.timeout_ms(1000), 1000);
        trip.on_answer(10);
        assert_eq!(trip.timeout_ms(1000), 60);
        for _ in 0..100 {
            trip.on_answer(10);
        }
        assert_eq!(trip.timeout_ms(1000), 20);
        trip.on_answer(u64::MAX);
        assert!(trip.timeout_ms(1000) > 1000);
    }
}
