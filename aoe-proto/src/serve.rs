//! Performs an action on a disk and emits the answer: the whole server of a small firmware.

use crate::disk::Disk;
use crate::error::BufferTooSmall;
use crate::sectors::{SECTOR_BYTES, SectorRange};
use crate::target::{Action, AtaError, AtaReply, Target};

/// Performs `action`, which `target` decided on, and writes the answer to the front of `buf`. Tells
/// the length of the frame to send, or `None` if there is none.
///
/// Persist what [`Reply::change`](crate::Reply::change) names before this call, if anything.
///
/// # Errors
/// [`BufferTooSmall`]: nothing was done then. A buffer of
/// [`LinkLimits::frame_len_max`](crate::LinkLimits::frame_len_max) bytes always suffices.
pub fn serve<D: Disk>(
    target: &Target,
    action: Action<'_>,
    disk: &mut D,
    buf: &mut [u8],
) -> Result<Option<usize>, BufferTooSmall> {
    let (outcome, reply, count) = match action {
        Action::Ignore(_) => return Ok(None),
        Action::Reply(reply) => return target.emit(&reply, buf).map(Some),
        Action::Read { range, reply } => {
            let data = reserve(buf, &reply)?;
            (disk.read(range, data), reply, range.count())
        }
        Action::Write { range, data, durable, reply } => {
            reserve(buf, &reply)?;
            let mut outcome = disk.write(range, data);
            if durable {
                outcome = outcome.and_then(|()| disk.flush());
            }
            (outcome, reply, range.count())
        }
        Action::Verify { range, reply } => {
            let needed = AtaReply::DATA_OFFSET + SECTOR_BYTES;
            if buf.len() < needed {
                return Err(BufferTooSmall { needed });
            }
            (verify(disk, range, buf), reply, range.count())
        }
        Action::Flush { reply } => {
            reserve(buf, &reply)?;
            (disk.flush(), reply, 0)
        }
        Action::Discard { mut ranges, reply } => {
            reserve(buf, &reply)?;
            (ranges.try_for_each(|range| disk.discard(range)), reply, 0)
        }
    };
    match outcome {
        Ok(()) => reply.emit_ok(buf),
        Err(error) => reply.emit_error(buf, error, u8::try_from(count).unwrap_or(u8::MAX)),
    }
    .map(Some)
}

/// The data part of the buffer, once the whole answer is known to fit.
fn reserve<'b>(buf: &'b mut [u8], reply: &AtaReply) -> Result<&'b mut [u8], BufferTooSmall> {
    let needed = reply.len_ok();
    let short = BufferTooSmall { needed };
    if buf.len() < needed {
        return Err(short);
    }
    buf.get_mut(reply.data_range()).ok_or(short)
}

/// Reads the range in pieces, into the part of the buffer that the answer does not need yet.
fn verify<D: Disk>(disk: &mut D, range: SectorRange, buf: &mut [u8]) -> Result<(), AtaError> {
    let sectors = u16::try_from(buf.len() / SECTOR_BYTES).unwrap_or(u16::MAX);
    let mut rest = Some(range);
    while let Some(range) = rest {
        let (piece, tail) = range.split(sectors);
        let scratch = buf.get_mut(..piece.len_bytes()).ok_or(AtaError::Uncorrectable)?;
        disk.read(piece, scratch)?;
        rest = tail;
    }
    Ok(())
}
