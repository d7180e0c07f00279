//! Many sectors: as many requests outstanding as the target takes, data handed over in order.

use std::collections::BTreeMap;

use aoe_proto::initiator::{Answer, Failure, Request, pieces};

use super::session::{REQUESTS_MAX, Session};
use crate::error::Result;

/// Bytes in a sector. [AoE 1]
const SECTOR_LEN: usize = 512;

/// Pieces that may wait for an earlier one that was lost on the way.
const AHEAD_MAX: usize = 4 * REQUESTS_MAX;

/// A range of sectors of a disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SectorSpan {
    /// First sector.
    pub lba: u64,
    /// Number of sectors.
    pub sectors: u64,
}

impl Session<'_> {
    /// Reads `span` and hands its bytes to `sink`, in order, in pieces of whole sectors.
    ///
    /// # Errors
    /// The first failure, be it of a request or of `sink`.
    pub fn read(
        &mut self,
        span: SectorSpan,
        mut sink: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        const OP: &str = "read from the target";
        let mut to_ask = pieces(span.lba, span.sectors, self.sectors_max()).peekable();
        let end = span.lba.saturating_add(span.sectors);
        let mut next_lba = span.lba;
        let mut waiting: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        while next_lba < end {
            while let Some(&(lba, count)) = to_ask.peek()
                && self.initiator().outstanding() < REQUESTS_MAX
                && waiting.len() < AHEAD_MAX
            {
                let submitted = self.initiator().submit(Request::Read { lba, count });
                submitted.map_err(|rejected| self.unfit(OP, rejected.error))?;
                to_ask.next();
            }
            let mut failure = None;
            self.step(&mut |completion| match (completion.request, completion.result) {
                (Request::Read { lba, .. }, Ok(Answer::Data(data))) => {
                    waiting.insert(lba, data.to_vec());
                }
                (_, result) => failure = failure.or(result.err()).or(Some(Failure::Malformed)),
            })?;
            if let Some(failure) = failure {
                return Err(self.failed(OP, failure));
            }
            while let Some(data) = waiting.remove(&next_lba) {
                sink(&data)?;
                next_lba = next_lba.saturating_add(sectors_in(&data));
            }
        }
        Ok(())
    }

    /// Writes `span` with bytes from `source`, which is asked to fill one piece of whole sectors
    /// after the other, in order. `progress` is told the bytes acknowledged. Nothing is durable
    /// before [`Session::flush`].
    ///
    /// # Errors
    /// The first failure, be it of a request or of `source`. An unknown part is written then.
    pub fn write(
        &mut self,
        span: SectorSpan,
        mut source: impl FnMut(&mut [u8]) -> Result<()>,
        mut progress: impl FnMut(u64),
    ) -> Result<()> {
        const OP: &str = "write to the target";
        let mut to_write = pieces(span.lba, span.sectors, self.sectors_max()).peekable();
        while to_write.peek().is_some() || self.initiator().outstanding() > 0 {
            while let Some(&(lba, count)) = to_write.peek()
                && self.initiator().outstanding() < REQUESTS_MAX
            {
                let mut data = vec![0; usize::from(count) * SECTOR_LEN];
                source(&mut data)?;
                let submitted =
                    self.initiator().submit(Request::Write { lba, data, durable: false });
                submitted.map_err(|rejected| self.unfit(OP, rejected.error))?;
                to_write.next();
            }
            let mut failure = None;
            self.step(&mut |completion| match (&completion.request, completion.result) {
                (Request::Write { data, .. }, Ok(_)) => progress(data.len() as u64),
                (_, result) => failure = failure.or(result.err()).or(Some(Failure::Malformed)),
            })?;
            if let Some(failure) = failure {
                return Err(self.failed(OP, failure));
            }
        }
        Ok(())
    }
}

fn sectors_in(data: &[u8]) -> u64 {
    (data.len() / SECTOR_LEN) as u64
}
