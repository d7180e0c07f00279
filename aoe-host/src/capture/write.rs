//! Writes classic pcap files with nanoseconds, which every reader of today knows.

use core::time::Duration;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{ADDRESSES_LEN, TAG_LEN, TPIDS};
use crate::error::{HostError, Result};

/// Marks nanoseconds, and our byte order.
const MAGIC: u32 = 0xA1B2_3C4D;
/// Longest record that readers have to expect.
const SNAP_LEN: u32 = 262_144;
/// Link type Ethernet.
const LINK_ETHERNET: u32 = 1;

/// A capture file under construction.
#[derive(Debug)]
pub struct CaptureWriter {
    path: PathBuf,
    file: BufWriter<File>,
}

impl CaptureWriter {
    /// Starts an empty file, in place of one that may be there.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path)
            .map_err(|error| HostError::io(error, "create the capture file").path(path))?;
        let mut writer = Self { path: path.to_owned(), file: BufWriter::new(file) };
        let version = 2 | 4 << 16;
        let header = [MAGIC, version, 0, 0, SNAP_LEN, LINK_ETHERNET];
        writer.words(&header).map_err(|error| writer.failed(error))?;
        Ok(writer)
    }

    /// Appends a frame that was heard `at` after 1970, with its VLAN tag put back. `wire_len` is its
    /// whole length without the tag.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn append(
        &mut self,
        at: Duration,
        frame: &[u8],
        wire_len: usize,
        tci: Option<u16>,
    ) -> Result<()> {
        self.try_append(at, frame, wire_len, tci).map_err(|error| self.failed(error))
    }

    fn try_append(
        &mut self,
        at: Duration,
        frame: &[u8],
        wire_len: usize,
        tci: Option<u16>,
    ) -> io::Result<()> {
        let split = frame.split_at_checked(ADDRESSES_LEN);
        let extra = if tci.is_some() && split.is_some() { TAG_LEN } else { 0 };
        let count = |len: usize| u32::try_from(len).map_err(io::Error::other);
        let seconds = u32::try_from(at.as_secs()).unwrap_or(u32::MAX);
        let lengths = [count(frame.len() + extra)?, count(wire_len + extra)?];
        self.words(&[seconds, at.subsec_nanos(), lengths[0], lengths[1]])?;
        match (tci, split) {
            (Some(tci), Some((addresses, rest))) => {
                let [tpid, _] = TPIDS;
                let [high, low] = tci.to_be_bytes();
                self.file.write_all(addresses)?;
                self.file.write_all(&[tpid[0], tpid[1], high, low])?;
                self.file.write_all(rest)
            }
            _ => self.file.write_all(frame),
        }
    }

    /// Everything appended so far reaches the file.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(|error| self.failed(error))
    }

    fn words(&mut self, words: &[u32]) -> io::Result<()> {
        words.iter().try_for_each(|word| self.file.write_all(&word.to_le_bytes()))
    }

    fn failed(&self, error: io::Error) -> HostError {
        HostError::io(error, "write the capture file").path(&self.path)
    }
}
