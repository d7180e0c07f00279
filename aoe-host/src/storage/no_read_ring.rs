//! In place of the ring on processors that it is not built for: there is none.

use core::convert::Infallible;
use core::marker::PhantomData;
use std::io;
use std::os::fd::BorrowedFd;

use super::FileStorage;

/// A read of a file, and whatever its owner wants to know of it at its end.
pub(super) struct Read<T> {
    pub(super) file: FileStorage,
    pub(super) offset: u64,
    pub(super) memory: Vec<u8>,
    pub(super) about: T,
}

/// A ring that does not exist.
#[derive(Debug)]
pub(super) struct ReadRing<T>(Infallible, PhantomData<T>);

impl<T> ReadRing<T> {
    pub(super) fn new(_reads_max: u16, _bell: BorrowedFd<'_>) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "not built for this processor"))
    }

    pub(super) fn push(&mut self, _read: Read<T>) -> Result<(), Read<T>> {
        match self.0 {}
    }

    pub(super) fn has_place(&self) -> bool {
        match self.0 {}
    }

    pub(super) fn has_news(&mut self) -> bool {
        match self.0 {}
    }

    pub(super) fn is_used(&self) -> bool {
        match self.0 {}
    }

    pub(super) fn enter(&mut self) -> io::Result<()> {
        match self.0 {}
    }

    pub(super) fn next(&mut self) -> Option<(Read<T>, bool)> {
        match self.0 {}
    }

    pub(super) fn abandon(self) -> Vec<(FileStorage, T)> {
        match self.0 {}
    }
}
