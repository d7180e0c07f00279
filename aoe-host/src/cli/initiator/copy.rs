//! `cowblade read` and `write`: between a target and a file.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::Path;

use indicatif::ProgressBar;
use serde::Serialize;

use super::connect::with_session;
use super::{ReadArgs, TargetArgs, WriteArgs};
use crate::cli::output::{print_json, print_line, progress_bar};
use crate::error::{Exit, HostError, Result};
use crate::initiator::{SectorSpan, Session};
use crate::values::{Address, ByteSize, human_bytes, serde_text};

const SECTOR_LEN: u64 = 512;

/// Files are read and written in portions of this many bytes.
const FILE_BUFFER_LEN: usize = 256 * 1024;

/// What came of comparing the disk with the file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Comparison {
    NotMade,
    Equal,
    /// From this byte of the disk on.
    Different(u64),
}

/// What was done, as JSON shows it.
#[derive(Debug, Serialize)]
struct Copied {
    #[serde(serialize_with = "serde_text::address::serialize")]
    address: Address,
    offset_bytes: u64,
    length_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<bool>,
    /// First byte of the disk that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_difference_bytes: Option<u64>,
}

pub(in crate::cli) fn read(args: &ReadArgs) -> Result<Exit> {
    let to_stdout = args.output == Path::new("-");
    if to_stdout && (args.verify || args.target.json) {
        return Err(HostError::usage(
            "read to standard output",
            "its bytes leave no room for more",
        )
        .advice("name a file with --output"));
    }
    with_session(&args.target, args.address, |session| {
        let disk_sectors = session.connect()?.sectors;
        let length = match args.length {
            Some(length) => length,
            None => ByteSize(disk_sectors.saturating_mul(SECTOR_LEN).saturating_sub(args.offset.0)),
        };
        let span = span_of(args.offset, length, disk_sectors)?;
        let progress = progress_bar(span_len(span), !args.target.json && !to_stdout);
        if to_stdout {
            let mut out = io::stdout().lock();
            session.read(span, |data| {
                out.write_all(data).map_err(|error| HostError::io(error, "write standard output"))
            })?;
            out.flush().map_err(|error| HostError::io(error, "write standard output"))?;
            return Ok(Exit::Success);
        }
        let file = File::create(&args.output)
            .map_err(|error| HostError::io(error, "create").path(&args.output))?;
        fill_file(session, span, &file, &args.output, &progress)?;
        let comparison = if args.verify {
            compare(session, span, reopened(&args.output)?, &progress)?
        } else {
            Comparison::NotMade
        };
        progress.finish_and_clear();
        report(&args.target, args.address, span, comparison, "read")
    })
}

pub(in crate::cli) fn write(args: &WriteArgs) -> Result<Exit> {
    let open = || -> Result<File> {
        File::open(&args.input).map_err(|error| HostError::io(error, "open").path(&args.input))
    };
    let mut file = open()?;
    let len = file
        .seek(io::SeekFrom::End(0))
        .map_err(|error| HostError::io(error, "measure").path(&args.input))?;
    if len == 0 {
        return Err(HostError::usage("write", "the file is empty").path(&args.input));
    }
    with_session(&args.target, args.address, |session| {
        let disk_sectors = session.connect()?.sectors;
        let length = ByteSize(len.div_ceil(SECTOR_LEN).saturating_mul(SECTOR_LEN));
        let span = span_of(args.offset, length, disk_sectors)?;
        let progress = progress_bar(span_len(span), !args.target.json);
        let mut from = Padded::new(open()?, &args.input);
        session.write(span, |data| from.fill(data), |bytes| progress.inc(bytes))?;
        if !session.flush()? {
            eprintln!("warning: the target has no FLUSH; the data may not be durable yet");
        }
        let comparison = if args.verify {
            compare(session, span, Padded::new(open()?, &args.input), &progress)?
        } else {
            Comparison::NotMade
        };
        progress.finish_and_clear();
        report(&args.target, args.address, span, comparison, "written")
    })
}

/// The sectors that `offset` and `length` mean, if they are sectors of the disk.
fn span_of(offset: ByteSize, length: ByteSize, disk_sectors: u64) -> Result<SectorSpan> {
    for (word, size) in [("--offset", offset), ("the length", length)] {
        if !size.bytes().is_multiple_of(SECTOR_LEN) {
            return Err(HostError::usage(
                format!("use {word} {}", size.bytes()),
                "it is not a multiple of 512",
            ));
        }
    }
    let span =
        SectorSpan { lba: offset.bytes() / SECTOR_LEN, sectors: length.bytes() / SECTOR_LEN };
    let inside = span.lba.checked_add(span.sectors).is_some_and(|end| end <= disk_sectors);
    if span.sectors == 0 || !inside {
        let disk = disk_sectors.saturating_mul(SECTOR_LEN);
        return Err(HostError::usage(
            format!("reach {} bytes from byte {}", length.bytes(), offset.bytes()),
            format!("the disk has {disk} bytes ({})", human_bytes(disk)),
        ));
    }
    Ok(span)
}

fn span_len(span: SectorSpan) -> u64 {
    span.sectors.saturating_mul(SECTOR_LEN)
}

fn fill_file(
    session: &mut Session<'_>,
    span: SectorSpan,
    file: &File,
    path: &Path,
    progress: &ProgressBar,
) -> Result<()> {
    let failed = |error| HostError::io(error, "write").path(path);
    let mut out = io::BufWriter::with_capacity(FILE_BUFFER_LEN, file);
    session.read(span, |data| {
        progress.inc(data.len() as u64);
        out.write_all(data).map_err(failed)
    })?;
    out.flush().map_err(failed)?;
    drop(out);
    // A device or a pipe cannot be synced and need not be.
    match file.sync_all() {
        Err(error) if error.kind() != io::ErrorKind::InvalidInput => Err(failed(error)),
        _ => Ok(()),
    }
}

fn reopened(path: &Path) -> Result<Padded<'_>> {
    let file = File::open(path).map_err(|error| HostError::io(error, "open").path(path))?;
    Ok(Padded::new(file, path))
}

/// Reads the span again and compares it with the file.
fn compare(
    session: &mut Session<'_>,
    span: SectorSpan,
    mut expected: Padded<'_>,
    progress: &ProgressBar,
) -> Result<Comparison> {
    progress.reset();
    let mut at = span.lba.saturating_mul(SECTOR_LEN);
    let mut comparison = Comparison::Equal;
    let mut buffer = Vec::new();
    session.read(span, |data| {
        buffer.resize(data.len(), 0);
        expected.fill(&mut buffer)?;
        let here = data.iter().zip(&buffer).position(|(read, written)| read != written);
        if let (Comparison::Equal, Some(offset)) = (comparison, here) {
            comparison = Comparison::Different(at.saturating_add(offset as u64));
        }
        at = at.saturating_add(data.len() as u64);
        progress.inc(data.len() as u64);
        Ok(())
    })?;
    Ok(comparison)
}

/// A file whose end is followed by zeros.
struct Padded<'p> {
    file: BufReader<File>,
    path: &'p Path,
}

impl<'p> Padded<'p> {
    fn new(file: File, path: &'p Path) -> Self {
        Self { file: BufReader::with_capacity(FILE_BUFFER_LEN, file), path }
    }

    fn fill(&mut self, data: &mut [u8]) -> Result<()> {
        let mut rest = data;
        while !rest.is_empty() {
            match self.file.read(rest) {
                Ok(0) => {
                    rest.fill(0);
                    break;
                }
                Ok(len) => rest = rest.get_mut(len..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(HostError::io(error, "read").path(self.path)),
            }
        }
        Ok(())
    }
}

fn report(
    target: &TargetArgs,
    address: Address,
    span: SectorSpan,
    comparison: Comparison,
    done: &str,
) -> Result<Exit> {
    let (verified, first_difference_bytes, verdict) = match comparison {
        Comparison::NotMade => (None, None, String::new()),
        Comparison::Equal => (Some(true), None, ", and compared: equal".to_owned()),
        Comparison::Different(at) => {
            (Some(false), Some(at), format!(", and compared: DIFFERENT from byte {at} on"))
        }
    };
    let offset_bytes = span.lba.saturating_mul(SECTOR_LEN);
    let length_bytes = span_len(span);
    if target.json {
        let copied =
            Copied { address, offset_bytes, length_bytes, verified, first_difference_bytes };
        print_json(&copied)?;
    } else {
        let size = human_bytes(length_bytes);
        print_line(&format!("{size} {done}, from byte {offset_bytes} of {address}{verdict}"))?;
    }
    Ok(if verified == Some(false) { Exit::Problems } else { Exit::Success })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn span(offset: u64, length: u64, disk_sectors: u64) -> Result<SectorSpan> {
        span_of(ByteSize(offset), ByteSize(length), disk_sectors)
    }

    #[test]
    fn ranges_are_sectors_of_the_disk() {
        assert_eq!(span(512, 1024, 3).unwrap(), SectorSpan { lba: 1, sectors: 2 });
        for (offset, length, disk) in
            [(1, 512, 9), (0, 513, 9), (0, 0, 9), (512, 1024, 2), (u64::MAX - 511, 512, 9)]
        {
            let error = span(offset, length, disk).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
        }
    }

    #[test]
    fn the_last_sector_is_filled_up_with_zeros() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, b"abc").unwrap();
        let mut padded = reopened(&path).unwrap();
        let mut data = [0xA5; 8];
        padded.fill(&mut data).unwrap();
        assert_eq!(&data, b"abc\0\0\0\0\0");
    }
}
