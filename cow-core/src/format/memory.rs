//! A storage in memory for the unit tests of formats.

use std::vec::Vec;

use embedded_io::{ErrorKind, ErrorType};

use crate::storage::{ReadStorage, Storage};

/// Bytes; reads and writes behind their end fail, and everything that changes them is listed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Memory {
    pub(super) bytes: Vec<u8>,
    /// Offsets and lengths of what was written or made zero; (0, 0) for a sync.
    pub(super) log: Vec<(u64, u64)>,
}

impl Memory {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, log: Vec::new() }
    }

    fn part(&mut self, offset: u64, len: u64) -> Result<&mut [u8], ErrorKind> {
        self.log.push((offset, len));
        let at = usize::try_from(offset).map_err(|_| ErrorKind::InvalidInput)?;
        let len = usize::try_from(len).map_err(|_| ErrorKind::InvalidInput)?;
        self.bytes.get_mut(at..at + len).ok_or(ErrorKind::InvalidInput)
    }
}

impl ErrorType for Memory {
    type Error = ErrorKind;
}

impl ReadStorage for Memory {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ErrorKind> {
        let at = usize::try_from(offset).map_err(|_| ErrorKind::InvalidInput)?;
        let part = self.bytes.get(at..at.saturating_add(buf.len()));
        buf.copy_from_slice(part.ok_or(ErrorKind::InvalidInput)?);
        Ok(())
    }

    fn len_bytes(&self) -> Result<u64, ErrorKind> {
        Ok(self.bytes.len() as u64)
    }
}

impl Storage for Memory {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), ErrorKind> {
        self.part(offset, data.len() as u64)?.copy_from_slice(data);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), ErrorKind> {
        self.log.push((0, 0));
        Ok(())
    }

    fn zero_at(&mut self, offset: u64, len: u64) -> Result<(), ErrorKind> {
        self.part(offset, len)?.fill(0);
        Ok(())
    }

    fn extend(&mut self, len: u64) -> Result<(), ErrorKind> {
        let len = usize::try_from(len).map_err(|_| ErrorKind::OutOfMemory)?;
        self.bytes.resize(self.bytes.len().max(len), 0);
        Ok(())
    }
}
