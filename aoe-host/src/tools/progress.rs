//! Telling how far long work has come.

use core::time::Duration;
use std::io::{IsTerminal, stderr};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Is told how far work has come. Closures are.
pub trait Progress {
    /// `done` of `total` bytes.
    fn at(&mut self, done: u64, total: u64);
}

impl<F: FnMut(u64, u64)> Progress for F {
    fn at(&mut self, done: u64, total: u64) {
        self(done, total);
    }
}

/// A bar on the terminal; nothing where standard error is none.
#[derive(Debug)]
pub struct Bar(ProgressBar);

impl Bar {
    /// A bar that says `label` before it. It appears with the first news.
    pub fn new(label: &'static str) -> Self {
        let is_seen = stderr().is_terminal();
        let target =
            if is_seen { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        let style =
            "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar.set_message(label);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }
}

impl Progress for Bar {
    fn at(&mut self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
