//! Printing: tables for people, JSON for programs, progress for the patient.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::error::{HostError, Result};

/// Prints `text` and a line end to standard output.
pub(super) fn print_line(text: &str) -> Result<()> {
    write_stdout(|out| writeln!(out, "{text}"))
}

/// Prints `bytes` as they are.
pub(super) fn print_bytes(bytes: &[u8]) -> Result<()> {
    write_stdout(|out| out.write_all(bytes))
}

/// Prints `value` as indented JSON.
pub(super) fn print_json<T: Serialize>(value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| HostError::io(io::Error::other(error), "print JSON"))?;
    print_line(&text)
}

fn write_stdout(write: impl FnOnce(&mut io::StdoutLock<'static>) -> io::Result<()>) -> Result<()> {
    let mut out = io::stdout().lock();
    match write(&mut out).and_then(|()| out.flush()) {
        // Whoever reads has seen enough: `cowblade status | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| HostError::io(error, "print")),
    }
}

/// Rows under a heading, in columns wide enough for their contents.
#[derive(Debug)]
pub(super) struct Table {
    /// Heading and alignment; `true` is right.
    columns: Vec<(&'static str, bool)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows. A heading that begins with `>` aligns its column to the right.
    pub(super) fn new(headings: &[&'static str]) -> Self {
        let column = |heading: &&'static str| match heading.strip_prefix('>') {
            Some(heading) => (heading, true),
            None => (*heading, false),
        };
        Self { columns: headings.iter().map(column).collect(), rows: Vec::new() }
    }

    pub(super) fn add(&mut self, row: impl IntoIterator<Item = String>) {
        self.rows.push(row.into_iter().collect());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text, without a line end at its end.
    pub(super) fn render(&self) -> String {
        let width_of = |at: usize, heading: &str| {
            let cells = self.rows.iter().filter_map(|row| row.get(at));
            cells.map(|cell| cell.chars().count()).chain([heading.chars().count()]).max()
        };
        let widths: Vec<usize> = (0..)
            .zip(&self.columns)
            .map(|(at, (heading, _))| width_of(at, heading).unwrap_or(0))
            .collect();
        let headings: Vec<String> =
            self.columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
        let lines = core::iter::once(&headings).chain(&self.rows).map(|row| {
            let cells = row.iter().zip(&widths).zip(&self.columns);
            let padded: Vec<String> = cells
                .map(
                    |((cell, &width), (_, right))| {
                        if *right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
                    },
                )
                .collect();
            padded.join("  ").trim_end().to_owned()
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// `5 s`, `3 min`, `2 h`, `4 d`: how long ago.
pub(super) fn human_age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A progress bar over `len_bytes` on standard error, if somebody watches and `wanted`.
pub(super) fn progress_bar(len_bytes: u64, wanted: bool) -> ProgressBar {
    if !wanted || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{bar:40} {percent:>3}%  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(len_bytes).with_style(style)
}

/// A progress bar over `count` things on standard error, with the name of the present one, if
/// somebody watches and `wanted`.
pub(super) fn count_bar(count: usize, wanted: bool) -> ProgressBar {
    if !wanted || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos} of {len}  {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(count as u64).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_contents() {
        let mut table = Table::new(&["name", ">size", "note"]);
        table.add(["a".to_owned(), "1024".to_owned(), String::new()]);
        table.add(["long-name".to_owned(), "1".to_owned(), "é".to_owned()]);
        assert_eq!(table.render(), "name       size  note\na          1024\nlong-name     1  é");
    }

    #[test]
    fn ages() {
        for (seconds, text) in [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h")] {
            assert_eq!(human_age(seconds), text);
        }
        assert_eq!(human_age(200_000), "2 d");
    }
}
