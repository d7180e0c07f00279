//! Telling how far long work has come.

/// Is told bytes done and bytes in all, now and then.
pub type Progress<'a> = dyn FnMut(u64, u64) + 'a;
