//! Which files a journal has, where a record stands in them, and reading it back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use crate::error::JournalError;
use crate::record::{self, HEADER_BYTES, RecordHead};
use crate::storage::StorageFile;

const SUFFIX: &str = ".journal";

/// Where a record stands. Ordered as the records were appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub(crate) generation: u64,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

impl Position {
    /// Where a record was said to stand; reading finds out whether it does.
    pub fn at(file: u64, offset: u32, payload_bytes: u32) -> Position {
        Position {
            generation: file,
            offset,
            length: payload_bytes,
        }
    }

    /// The generation of the file that holds it: a file is released as a whole.
    pub fn file(&self) -> u64 {
        self.generation
    }

    /// Where in the file.
    pub fn offset(&self) -> u32 {
        self.offset
    }

    /// Bytes of payload.
    pub fn payload_bytes(&self) -> usize {
        self.length as usize
    }

    /// Where in the file the next record begins.
    pub fn end(&self) -> u32 {
        let bytes = record::record_bytes(self.payload_bytes());
        self.offset
            .saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX))
    }
}

/// One file, for people and bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    pub name: String,
    pub generation: u64,
    pub file_bytes: u64,
    /// Bytes of records in it.
    pub used_bytes: u64,
    /// Released: it may be reused at any time.
    pub released: bool,
}

pub(crate) fn file_name(generation: u64) -> String {
    format!("{generation:016x}{SUFFIX}")
}

pub(crate) fn parse_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let generation = u64::from_str_radix(digits, 16).ok()?;
    (file_name(generation) == name).then_some(generation)
}

/// A file that holds records of one generation.
pub(crate) struct LiveFile {
    pub(crate) file: Arc<dyn StorageFile>,
    pub(crate) file_bytes: u64,
    /// Bytes handed to the file so far: a reader looks no further.
    pub(crate) written: AtomicU64,
    /// The disk gave nothing of it: it is not written again.
    pub(crate) is_bad: bool,
}

/// The files by generation, shared with the readers.
pub(crate) type Files = RwLock<BTreeMap<u64, Arc<LiveFile>>>;

/// Reads records back by position. Cheap to clone; any thread.
#[derive(Clone)]
pub struct Reader {
    pub(crate) files: Arc<Files>,
}

impl Reader {
    /// Whether a file is there and was not released.
    pub fn has(&self, file: u64) -> bool {
        self.file(file).is_some()
    }

    pub(crate) fn file(&self, generation: u64) -> Option<Arc<LiveFile>> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        files.get(&generation).cloned()
    }

    /// The payload at `position`, its checksum checked.
    ///
    /// # Errors
    /// `NotWritten` while the record waits for a sync, `Released` once its file was, `Rot` if the
    /// bytes are not those that were written.
    pub fn read(&self, position: Position) -> Result<Bytes, JournalError> {
        self.read_record(position).map(|(_, payload)| payload)
    }

    /// The bytes of a record as they stand in the file, header first, right or wrong.
    pub fn read_raw(&self, position: Position) -> Result<Bytes, JournalError> {
        let live = self
            .file(position.generation)
            .ok_or(JournalError::Released)?;
        let mut bytes = vec![0; HEADER_BYTES + position.length as usize];
        live.file
            .read_at(u64::from(position.offset), &mut bytes)
            .map_err(JournalError::io("read a record"))?;
        Ok(bytes.into())
    }

    /// As [`Reader::read`], with the head.
    pub fn read_record(&self, position: Position) -> Result<(RecordHead, Bytes), JournalError> {
        let live = self
            .file(position.generation)
            .ok_or(JournalError::Released)?;
        let payload = position.length as usize;
        let end = u64::from(position.offset) + record::record_bytes(payload) as u64;
        if end > live.written.load(Ordering::Acquire) {
            return Err(JournalError::NotWritten);
        }
        let mut bytes = vec![0; HEADER_BYTES + payload];
        live.file
            .read_at(u64::from(position.offset), &mut bytes)
            .map_err(JournalError::io("read a record"))?;
        let bytes = Bytes::from(bytes);
        let raw: &[u8; HEADER_BYTES] = bytes[..HEADER_BYTES].try_into().expect("just that long");
        if let Some(header) = record::decode(raw)
            && header.length == position.length
            && header.crc == record::checksum(position.generation, raw, &bytes[HEADER_BYTES..])
        {
            return Ok((header.head, bytes.slice(HEADER_BYTES..)));
        }
        // A file that was released and reused under our feet is no damage.
        if self.file(position.generation).is_none() {
            return Err(JournalError::Released);
        }
        Err(JournalError::Rot {
            file: file_name(position.generation),
            offset: u64::from(position.offset),
            detail: "a record read back does not match its checksum",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_names_are_ours() {
        assert_eq!(parse_name(&file_name(0x1f)), Some(0x1f));
        for other in [
            "1f.journal",
            "000000000000001F.journal",
            "x",
            "prepared.tmp",
            "spare-1.tmp",
            "+00000000000001f.journal",
        ] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }
}
