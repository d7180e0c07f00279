//! What a driver reads and writes: positioned storage, its durability contract, and adapters.

use core::cell::RefCell;

use embedded_io::{ErrorKind, ErrorType, Read, Seek, SeekFrom, Write};

/// Positioned reading. Offsets and lengths are bytes.
pub trait ReadStorage: ErrorType {
    /// Fills all of `buf` from byte `offset`. A range that ends past [`len_bytes`](Self::len_bytes)
    /// is an error, never a short read.
    ///
    /// # Errors
    /// The medium's. `buf` then holds anything.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Self::Error>;

    /// Length in bytes at this moment.
    ///
    /// # Errors
    /// The medium's.
    fn len_bytes(&self) -> Result<u64, Self::Error>;
}

/// Adds mutation to [`ReadStorage`]. Writes may be lost, torn or reordered until [`sync`](Self::sync) returns.
pub trait Storage: ReadStorage {
    /// Writes all of `data` at byte `offset`. On error the range holds old bytes, new bytes or a mix.
    ///
    /// # Errors
    /// The medium's; [`ErrorKind::OutOfMemory`] or [`ErrorKind::WriteZero`] mean that it is full.
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), Self::Error>;

    /// Barrier: every write that returned before this call is durable when it returns `Ok`.
    ///
    /// # Errors
    /// The medium's. What was written since the last `Ok` may then be lost, even if a later call succeeds.
    fn sync(&mut self) -> Result<(), Self::Error>;

    /// Makes `len` bytes from `offset` read as zeros. The default writes them.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    fn zero_at(&mut self, offset: u64, len: u64) -> Result<(), Self::Error> {
        const ZEROS: [u8; 512] = [0; 512];
        let (mut at, mut left) = (offset, len);
        while left > 0 {
            let piece = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
            self.write_at(at, ZEROS.get(..piece).unwrap_or(&ZEROS))?;
            at = at.saturating_add(piece as u64);
            left = left.saturating_sub(piece as u64);
        }
        Ok(())
    }

    /// Gives the space of a range back where that is possible. Afterwards the range holds anything;
    /// only ranges that nothing refers to are passed. The default does nothing.
    ///
    /// # Errors
    /// The medium's; not being able to punch is no error.
    fn punch(&mut self, _offset: u64, _len: u64) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Makes the storage `len` bytes long, if it can grow; new bytes read as zeros.
    ///
    /// # Errors
    /// The medium's, and a storage of fixed length that is shorter. The default compares only.
    fn extend(&mut self, len: u64) -> Result<(), Self::Error>;
}

impl<T: ReadStorage + ?Sized> ReadStorage for &T
where
    for<'a> &'a T: ErrorType<Error = T::Error>,
{
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Self::Error> {
        T::read_at(self, offset, buf)
    }

    fn len_bytes(&self) -> Result<u64, Self::Error> {
        T::len_bytes(self)
    }
}

impl<T: ReadStorage + ?Sized> ReadStorage for &mut T {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Self::Error> {
        T::read_at(self, offset, buf)
    }

    fn len_bytes(&self) -> Result<u64, Self::Error> {
        T::len_bytes(self)
    }
}

impl<T: Storage + ?Sized> Storage for &mut T {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), Self::Error> {
        T::write_at(self, offset, data)
    }

    fn sync(&mut self) -> Result<(), Self::Error> {
        T::sync(self)
    }

    fn zero_at(&mut self, offset: u64, len: u64) -> Result<(), Self::Error> {
        T::zero_at(self, offset, len)
    }

    fn punch(&mut self, offset: u64, len: u64) -> Result<(), Self::Error> {
        T::punch(self, offset, len)
    }

    fn extend(&mut self, len: u64) -> Result<(), Self::Error> {
        T::extend(self, len)
    }
}

/// Durability, which the owner of a device grants on purpose: `embedded_io`'s `flush` is not it
/// (a no-op on many devices).
pub trait DurableSync: ErrorType {
    /// Returns once everything written before is on the medium.
    ///
    /// # Errors
    /// The medium's.
    fn sync_durably(&mut self) -> Result<(), Self::Error>;
}

/// Any seekable `embedded_io` device as storage.
///
/// Writing needs the device to implement [`DurableSync`] too; its `flush` is called but not believed.
#[derive(Debug)]
pub struct Stream<T>(RefCell<T>);

/// Why a [`Stream`] operation failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum StreamError<E> {
    /// The device's own error.
    Device(E),
    /// The device ended at this byte, before the range did.
    UnexpectedEnd {
        /// Bytes that the device holds from the range's start.
        at: u64,
    },
    /// The device accepted no more bytes.
    WriteZero,
    /// The device is shorter and cannot grow by itself.
    TooShort {
        /// Length of the device in bytes.
        len: u64,
    },
    /// The device is in use further up the call stack.
    Reentered,
}

impl<E: core::fmt::Debug> core::fmt::Display for StreamError<E> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Device(_) => f.write_str("the device failed"),
            Self::UnexpectedEnd { at } => write!(f, "the device ended {at} bytes into the range"),
            Self::WriteZero => f.write_str("the device accepts no more bytes"),
            Self::TooShort { len } => write!(f, "the device has only {len} bytes"),
            Self::Reentered => f.write_str("the device is already in use"),
        }
    }
}

impl<E: core::fmt::Debug> core::error::Error for StreamError<E> {}

impl<E: embedded_io::Error> embedded_io::Error for StreamError<E> {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Device(e) => e.kind(),
            Self::WriteZero => ErrorKind::WriteZero,
            Self::UnexpectedEnd { .. } | Self::TooShort { .. } => ErrorKind::InvalidInput,
            Self::Reentered => ErrorKind::Other,
        }
    }
}

impl<T> Stream<T> {
    /// Takes the device; its position does not matter.
    pub const fn new(device: T) -> Self {
        Self(RefCell::new(device))
    }

    /// Gives the device back.
    pub fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

impl<T: ErrorType> ErrorType for Stream<T> {
    type Error = StreamError<T::Error>;
}

impl<T: Read + Seek> ReadStorage for Stream<T> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Self::Error> {
        let mut device = self.0.try_borrow_mut().map_err(|_reentered| StreamError::Reentered)?;
        device.seek(SeekFrom::Start(offset)).map_err(StreamError::Device)?;
        let (mut rest, mut done) = (buf, 0_u64);
        while !rest.is_empty() {
            let got = device.read(rest).map_err(StreamError::Device)?;
            let Some((_, tail)) = rest.split_at_mut_checked(got) else {
                return Err(StreamError::UnexpectedEnd { at: done });
            };
            if got == 0 {
                return Err(StreamError::UnexpectedEnd { at: done });
            }
            done = done.saturating_add(got as u64);
            rest = tail;
        }
        Ok(())
    }

    fn len_bytes(&self) -> Result<u64, Self::Error> {
        let mut device = self.0.try_borrow_mut().map_err(|_reentered| StreamError::Reentered)?;
        device.seek(SeekFrom::End(0)).map_err(StreamError::Device)
    }
}

impl<T: Read + Write + Seek + DurableSync> Storage for Stream<T> {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), Self::Error> {
        let device = self.0.get_mut();
        device.seek(SeekFrom::Start(offset)).map_err(StreamError::Device)?;
        let mut rest = data;
        while !rest.is_empty() {
            let put = device.write(rest).map_err(StreamError::Device)?;
            match rest.split_at_checked(put) {
                Some((_, tail)) if put > 0 => rest = tail,
                _ => return Err(StreamError::WriteZero),
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Self::Error> {
        let device = self.0.get_mut();
        device.flush().map_err(StreamError::Device)?;
        device.sync_durably().map_err(StreamError::Device)
    }

    fn extend(&mut self, len: u64) -> Result<(), Self::Error> {
        let have = self.len_bytes()?;
        if have < len { Err(StreamError::TooShort { len: have }) } else { Ok(()) }
    }
}
