//! The memory that metadata pages of images lie in.

use cow_core::pages::{Frame, Page, PagePool};

use crate::error::{ErrorKind, HostError, Result};

/// The memory of a metadata pool.
#[derive(Debug)]
pub struct PoolMemory {
    pages: Vec<Page>,
    frames: Vec<Frame>,
}

impl PoolMemory {
    /// Room for `pages` pages.
    pub fn new(pages: usize) -> Self {
        let zeroed = |n| core::iter::repeat_with(|| Page::ZERO).take(n).collect();
        Self { pages: zeroed(pages), frames: vec![Frame::EMPTY; pages] }
    }

    /// The pool.
    ///
    /// # Errors
    /// When there is less than the smallest pool.
    pub fn pool(&mut self) -> Result<PagePool<'_>> {
        PagePool::new(&mut self.pages, &mut self.frames)
            .ok_or_else(|| HostError::new(ErrorKind::Usage, "make a metadata pool of so few pages"))
    }
}
