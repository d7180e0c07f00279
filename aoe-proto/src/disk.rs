//! What a target serves: sectors that can be read and written, one request at a time.

use crate::sectors::SectorRange;
use crate::target::AtaError;

/// A disk of 512-byte sectors.
///
/// Every range lies inside the size that the [`TargetConfig`](crate::TargetConfig) names. A failed
/// write may have touched a prefix of its range, never anything else.
pub trait Disk {
    /// Fills `data`, which has exactly the length of `range`.
    ///
    /// # Errors
    /// What the initiator is to hear, [`AtaError::Uncorrectable`] as a rule.
    fn read(&mut self, range: SectorRange, data: &mut [u8]) -> Result<(), AtaError>;

    /// Writes `data`, which has exactly the length of `range`.
    ///
    /// # Errors
    /// What the initiator is to hear, [`AtaError::WriteFault`] as a rule.
    fn write(&mut self, range: SectorRange, data: &[u8]) -> Result<(), AtaError>;

    /// Returns when every write that returned before is durable.
    ///
    /// # Errors
    /// What the initiator is to hear, [`AtaError::WriteFault`] as a rule.
    fn flush(&mut self) -> Result<(), AtaError>;

    /// Forgets the contents of a range. A disk that is offered as
    /// [`TrimSupport::Zeroing`](crate::TrimSupport::Zeroing) reads zeros afterwards.
    ///
    /// # Errors
    /// What the initiator is to hear.
    fn discard(&mut self, range: SectorRange) -> Result<(), AtaError>;
}

impl<D: Disk + ?Sized> Disk for &mut D {
    fn read(&mut self, range: SectorRange, data: &mut [u8]) -> Result<(), AtaError> {
        (**self).read(range, data)
    }

    fn write(&mut self, range: SectorRange, data: &[u8]) -> Result<(), AtaError> {
        (**self).write(range, data)
    }

    fn flush(&mut self) -> Result<(), AtaError> {
        (**self).flush()
    }

    fn discard(&mut self, range: SectorRange) -> Result<(), AtaError> {
        (**self).discard(range)
    }
}
