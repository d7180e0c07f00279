//! What lies behind the end of a message.

use super::Captured;
use super::rule::{Judge, Rule};
use crate::wire::FRAME_LEN_MIN;

/// Bytes of the frame check sequence, which some captures include.
const FCS_LEN: usize = 4;

/// A request's bytes behind the first `used` of its data. Nobody may look at them. `[AoE 2.7]`
pub(super) fn trailer(data: &[u8], used: usize, judge: &mut Judge<'_>) {
    if let Some(tail) = data.get(used..) {
        judge.flag(tail.iter().any(|byte| *byte != 0), Rule::RequestTrailer);
    }
}

/// An answer's bytes behind its end, `needed` bytes into the frame. `[AoE 2.7]`
pub(super) fn answer(captured: &Captured<'_>, needed: usize, judge: &mut Judge<'_>) {
    let end = needed.max(FRAME_LEN_MIN);
    let len = captured.frame.len();
    let is_fcs = len == end.saturating_add(FCS_LEN);
    let tail = captured.frame.get(needed..if is_fcs { end } else { len });
    let leak = tail.is_some_and(|tail| tail.iter().any(|byte| *byte != 0));
    judge.flag(leak, Rule::PaddingLeak);
}

/// Bytes that an answer is too long by, with a frame check sequence allowed for.
pub(super) fn surplus(captured: &Captured<'_>, needed: usize) -> usize {
    let surplus = captured.wire_len.saturating_sub(needed.max(FRAME_LEN_MIN));
    if surplus == FCS_LEN { 0 } else { surplus }
}
