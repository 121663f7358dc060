//! Several neighbouring records read back at once, and what of them is damaged.

use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::error::JournalError;
use crate::files::{Position, Reader, file_name};
use crate::record::{self, ALIGNMENT_BYTES, HEADER_BYTES, RecordHead};
use crate::recover::Skipped;
use crate::storage::StorageFile;

/// What a disk reads or fails to read as a whole.
const SECTOR_BYTES: usize = 4096;

/// What stands in a part of a file.
#[derive(Debug, Default)]
pub struct Span {
    /// The good records, in order.
    pub records: Vec<(Position, RecordHead, Bytes)>,
    pub damaged: Vec<Skipped>,
}

impl Reader {
    /// All records from `first` to the offset `end` of its file, the journal's own left out. What
    /// is damaged, or cannot be read, is told beside them.
    ///
    /// # Errors
    /// `Released` once the file was.
    pub fn read_span(&self, first: Position, end: u32) -> Result<Span, JournalError> {
        let file = self.file(first.generation).ok_or(JournalError::Released)?;
        let written = file.written.load(Ordering::Acquire);
        let end = u64::from(end).min(written);
        let length = end.saturating_sub(u64::from(first.offset));
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        // If it gives none of them, all is damaged.
        let _ = read_what_can_be(file.file.as_ref(), u64::from(first.offset), &mut bytes);
        let span = parse(first, &Bytes::from(bytes));
        // A file that was released and reused under our feet is no damage.
        if self.file(first.generation).is_none() {
            return Err(JournalError::Released);
        }
        Ok(span)
    }
}

/// Where the disk does not give the bytes there are zeros, which are no record.
///
/// # Errors
/// It gives none of them.
pub(crate) fn read_what_can_be(
    file: &dyn StorageFile,
    offset: u64,
    bytes: &mut [u8],
) -> io::Result<()> {
    let Err(error) = file.read_at(offset, bytes) else {
        return Ok(());
    };
    let (mut at, mut rest, mut any) = (offset, bytes, false);
    while !rest.is_empty() {
        // Up to where the next one begins on the disk.
        let left = SECTOR_BYTES - usize::try_from(at % SECTOR_BYTES as u64).unwrap_or(0);
        let (sector, behind) = rest.split_at_mut(left.min(rest.len()));
        let read = file.read_at(at, sector);
        if read.is_err() {
            sector.fill(0);
        }
        any |= read.is_ok();
        at += sector.len() as u64;
        rest = behind;
    }
    if any { Ok(()) } else { Err(error) }
}

fn parse(first: Position, bytes: &Bytes) -> Span {
    let mut span = Span::default();
    let mut bad: Option<usize> = None;
    let mut at = 0;
    while at < bytes.len() {
        let Some((head, payload)) = record_at(first.generation, bytes, at) else {
            bad.get_or_insert(at);
            at += ALIGNMENT_BYTES;
            continue;
        };
        if let Some(bad) = bad.take() {
            span.damaged.push(skipped(first, bytes, bad..at));
        }
        let length = payload.len();
        if head.kind < record::KIND_OWN_MIN {
            let position = Position {
                generation: first.generation,
                offset: first.offset + u32::try_from(at).expect("a file is below 4 GiB"),
                length: u32::try_from(length).expect("it lies in the file"),
            };
            span.records.push((position, head, payload));
        }
        at += record::record_bytes(length);
    }
    if let Some(bad) = bad {
        span.damaged.push(skipped(first, bytes, bad..bytes.len()));
    }
    span
}

/// The record at an offset, if it is good.
fn record_at(generation: u64, bytes: &Bytes, at: usize) -> Option<(RecordHead, Bytes)> {
    let raw: &[u8; HEADER_BYTES] = bytes.get(at..at + HEADER_BYTES)?.try_into().ok()?;
    let header = record::decode(raw)?;
    let start = at + HEADER_BYTES;
    let range = start..start + header.length as usize;
    let payload = bytes.get(range.clone())?;
    let good = header.version == record::VERSION
        && header.crc == record::checksum(generation, raw, payload);
    good.then(|| (header.head, bytes.slice(range)))
}

fn skipped(first: Position, bytes: &Bytes, range: Range<usize>) -> Skipped {
    Skipped {
        file: file_name(first.generation),
        offset: u64::from(first.offset) + range.start as u64,
        length: range.len() as u64,
        bytes: bytes[range].to_vec(),
    }
}
