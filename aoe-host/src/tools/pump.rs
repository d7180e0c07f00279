//! Filling a disk from a chain: one thread reads and looks for zeros, another one writes.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use cow_core::units::{Extent, Lba, SECTOR_BYTES};

use super::disk::WriteDisk;
use super::parts::{Content, Part, changes, data_and_zeros};
use super::source::{Piece, Source};
use crate::error::{ErrorKind, HostError, Result};
use crate::image::Progress;

/// Sectors read at a time: 1 MiB.
const CHUNK_SECTORS: u64 = 2048;

/// Chunks on their way from the reader to the writer.
const CHUNKS: usize = 4;

/// Some sectors, and what is to be done about them.
#[derive(Debug, Default)]
struct Chunk {
    at: u64,
    bytes: Vec<u8>,
    parts: Vec<Part>,
}

/// What was done to a disk.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Pumped {
    /// Sectors that were written.
    pub(super) data: u64,
    /// Sectors that were made zero.
    pub(super) zeros: u64,
}

/// Makes `disk`, which reads as `below` does, or as zeros if that is `None`, read as `source` does.
/// Of a source that ends before the disk, the rest of the disk is left alone.
///
/// # Errors
/// The media's; the disk then holds a part.
pub(super) fn pump(
    source: &mut Source<'_>,
    below: Option<&mut Source<'_>>,
    disk: &mut dyn WriteDisk,
    progress: &mut Progress<'_>,
) -> Result<Pumped> {
    let sectors = source.sectors();
    let over = below.is_some();
    let (to_writer, from_reader) = sync_channel::<Chunk>(CHUNKS);
    let (to_reader, from_writer) = channel::<Chunk>();
    for _ in 0..CHUNKS {
        // Both ends are here.
        let _is_taken = to_reader.send(Chunk::default());
    }
    thread::scope(|scope| {
        let reader = Reader { source, below, to: to_writer, spare: from_writer };
        let reading = scope.spawn(move || reader.run(sectors));
        let writer = Writer { disk, over, from: from_reader, spare: to_reader };
        let written = writer.run(sectors, progress);
        let died =
            || Err(HostError::new(ErrorKind::Io, "read the chain").detail("its thread died"));
        let read = reading.join().unwrap_or_else(|_panic| died());
        // Of two failures the writer's is the first one: the reader only finds nobody there.
        let pumped = written?;
        read?;
        Ok(pumped)
    })
}

struct Reader<'a, 'm, 'b> {
    source: &'a mut Source<'m>,
    below: Option<&'a mut Source<'b>>,
    to: SyncSender<Chunk>,
    spare: Receiver<Chunk>,
}

impl Reader<'_, '_, '_> {
    fn run(mut self, sectors: u64) -> Result<()> {
        let mut at = 0;
        while at < sectors {
            let piece = self.next(at)?;
            let extent = piece.extent();
            // The writer is gone: it has its own error to tell.
            let Ok(mut chunk) = self.spare.recv() else { return Ok(()) };
            chunk.at = extent.end().get();
            chunk.parts.clear();
            if let Piece::Data(extent) = piece {
                chunk.at = extent.start().get();
                self.fill(extent, &mut chunk)?;
                self.source.check_unchanged()?;
            }
            if self.to.send(chunk).is_err() {
                return Ok(());
            }
            at = extent.end().get();
        }
        self.source.check_unchanged()
    }

    /// Zeros here and below, or data of one of the two.
    fn next(&mut self, at: u64) -> Result<Piece> {
        let piece = self.source.piece(at, CHUNK_SECTORS)?;
        let Some(below) = &mut self.below else { return Ok(piece) };
        if at >= below.sectors() {
            return Ok(piece);
        }
        let other = below.piece(at, CHUNK_SECTORS)?;
        let sectors = piece.extent().sectors().min(other.extent().sectors());
        Ok(match (piece, other) {
            (Piece::Zeros(extent), Piece::Zeros(_)) => Piece::Zeros(extent.take(sectors)),
            (piece, _) => Piece::Data(piece.extent().take(sectors.min(CHUNK_SECTORS))),
        })
    }

    fn fill(&mut self, extent: Extent, chunk: &mut Chunk) -> Result<()> {
        let len = usize::try_from(extent.bytes()).unwrap_or(0);
        let (at, Chunk { bytes, parts, .. }) = (extent.start(), chunk);
        bytes.resize(len, 0);
        self.source.read(at, bytes)?;
        let Some(below) = &mut self.below else {
            data_and_zeros(at.get(), bytes, parts);
            return Ok(());
        };
        let mut old = vec![0; len];
        let inside = extent.until(below.sectors());
        if !inside.is_empty() {
            let len = usize::try_from(inside.bytes()).unwrap_or(0);
            below.read(at, old.get_mut(..len).unwrap_or_default())?;
        }
        changes(bytes, &old, parts);
        Ok(())
    }
}

struct Writer<'a> {
    disk: &'a mut dyn WriteDisk,
    /// Something is below: zeros have to be written.
    over: bool,
    from: Receiver<Chunk>,
    spare: Sender<Chunk>,
}

impl Writer<'_> {
    fn run(self, sectors: u64, progress: &mut Progress<'_>) -> Result<Pumped> {
        let total = sectors.saturating_mul(SECTOR_BYTES);
        let mut pumped = Pumped::default();
        while let Ok(chunk) = self.from.recv() {
            for part in &chunk.parts {
                put(self.disk, &chunk, part, self.over, &mut pumped)?;
            }
            let done = chunk.parts.iter().map(|part| part.sectors as u64).sum::<u64>();
            progress(chunk.at.saturating_add(done).saturating_mul(SECTOR_BYTES), total);
            // A reader that has ended needs no more of them.
            let _unneeded = self.spare.send(chunk);
        }
        Ok(pumped)
    }
}

fn put(
    disk: &mut dyn WriteDisk,
    chunk: &Chunk,
    part: &Part,
    over: bool,
    pumped: &mut Pumped,
) -> Result<()> {
    let start = chunk.at.saturating_add(part.from as u64);
    let sectors = part.sectors as u64;
    let outside = || HostError::new(ErrorKind::Usage, "write beyond the end of the largest disk");
    match part.content {
        Content::Data => {
            disk.write(Lba::new(start).ok_or_else(outside)?, part.of(&chunk.bytes))?;
            pumped.data = pumped.data.saturating_add(sectors);
        }
        Content::Zeros if over => {
            disk.make_zero(Extent::new(start, sectors).ok_or_else(outside)?)?;
            pumped.zeros = pumped.zeros.saturating_add(sectors);
        }
        Content::Zeros | Content::Same => {}
    }
    Ok(())
}
