//! The newest file of a journal: what is put behind its end, handed to the disk and synced.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::JournalError;
use crate::files::{LiveFile, Position};
use crate::record::{self, HEADER_BYTES, KIND_FILLER, RecordHead};

pub(crate) const SEAL_BYTES: usize = HEADER_BYTES;
/// What a file system writes at least for a sync that covers any byte of it.
const BLOCK_BYTES: usize = 4096;
/// The most that is given away to spare a sync a second block.
pub(crate) const FILLER_BYTES_MAX: usize = BLOCK_BYTES / 4;
/// A buffer that grew beyond this is given back after a sync.
const BUFFER_BYTES_KEPT: usize = 1 << 20;
/// Bytes of a tail that are written again at a time.
const CHUNK_BYTES: usize = 1 << 18;

/// The newest file.
pub(crate) struct Current {
    pub(crate) generation: u64,
    pub(crate) live: Arc<LiveFile>,
    /// Records not handed to the file yet; they begin at `written`.
    pub(crate) buffer: Vec<u8>,
    pub(crate) written: u32,
    pub(crate) synced: u32,
    pub(crate) chain: u32,
    pub(crate) sealed: bool,
}

impl Current {
    pub(crate) fn end(&self) -> u32 {
        self.written + u32::try_from(self.buffer.len()).expect("a file is below 4 GiB")
    }

    /// Whether a record fits, with the seal behind it.
    pub(crate) fn fits(&self, record_bytes: usize) -> bool {
        let needed = u64::from(self.end()) + (record_bytes + SEAL_BYTES) as u64;
        !self.sealed && needed <= self.live.file_bytes
    }

    pub(crate) fn put(&mut self, head: RecordHead, payload: &[u8]) -> Position {
        let offset = self.end();
        let generation = self.generation;
        self.chain = record::encode(
            &mut self.buffer,
            generation,
            head,
            self.synced,
            self.chain,
            payload,
        );
        let length = u32::try_from(payload.len()).expect("below PAYLOAD_BYTES_MAX");
        Position {
            generation,
            offset,
            length,
        }
    }

    /// Fills the block in which what is to be synced ends, if as much and a little more would lie in two
    /// blocks next time, would fit in one, and no more than this is given away. Now, since a filler
    /// that is written then touches this block again.
    pub(crate) fn fill_block(&mut self, filler_bytes_max: usize) {
        let group = (self.end() - self.synced) as usize;
        let left = BLOCK_BYTES - self.end() as usize % BLOCK_BYTES;
        let little = (HEADER_BYTES..=filler_bytes_max).contains(&left);
        let two = left < group + group / 8 && group <= BLOCK_BYTES;
        if group > 0 && little && two && self.fits(left) {
            self.put_filler(left);
        }
    }

    pub(crate) fn put_own(&mut self, kind: u8, payload: &[u64]) {
        let bytes: Vec<u8> = payload.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.put(
            RecordHead {
                group: 0,
                kind,
                number: 0,
            },
            &bytes,
        );
    }

    pub(crate) fn put_filler(&mut self, bytes: usize) {
        let head = RecordHead {
            group: 0,
            kind: KIND_FILLER,
            number: 0,
        };
        self.put(head, &[0; FILLER_BYTES_MAX][..bytes - HEADER_BYTES]);
    }

    pub(crate) fn flush(&mut self) -> Result<(), JournalError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = self
            .live
            .file
            .write_at(u64::from(self.written), &self.buffer);
        written.map_err(JournalError::io("write to a file"))?;
        self.written = self.end();
        self.live
            .written
            .store(u64::from(self.written), Ordering::Release);
        self.buffer.clear();
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        }
        Ok(())
    }

    pub(crate) fn sync(&mut self) -> Result<(), JournalError> {
        self.flush()?;
        if self.synced < self.written {
            self.live
                .file
                .sync()
                .map_err(JournalError::io("sync a file"))?;
            self.synced = self.written;
        }
        Ok(())
    }

    /// Hands the bytes from `synced` on to the file once more: they may be readable and yet never
    /// have reached the disk.
    pub(crate) fn write_again(&mut self) -> Result<(), JournalError> {
        let mut at = u64::from(self.synced);
        let mut bytes = vec![0; CHUNK_BYTES];
        while at < u64::from(self.written) {
            let left = usize::try_from(u64::from(self.written) - at).unwrap_or(usize::MAX);
            let chunk = &mut bytes[..left.min(CHUNK_BYTES)];
            self.live
                .file
                .read_at(at, chunk)
                .map_err(JournalError::io("read the tail"))?;
            self.live
                .file
                .write_at(at, chunk)
                .map_err(JournalError::io("rewrite the tail"))?;
            at += chunk.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::journal::{Journal, Options};
    use crate::sim::SimStorage;
    use crate::span::Span;

    use super::*;

    const HEAD: RecordHead = RecordHead {
        group: 1,
        kind: 2,
        number: 3,
    };
    const OPTIONS: Options = Options {
        file_bytes: 64 << 10,
        files_max: 2,
    };

    #[test]
    fn a_sync_like_the_one_before_touches_one_block() {
        let disk = SimStorage::new(1);
        let mut journal = Journal::open(disk.as_storage(), OPTIONS, &mut |_, _, _| Ok(())).unwrap();
        journal.spare_blocks();
        let (mut kept, mut two) = (Vec::new(), 0);
        let mut written = journal.end();
        for nth in 0..20 {
            // A short one that would fit into what is left of a block, and a longer one.
            kept.push(journal.append(HEAD, &[7; 40]).unwrap());
            kept.push(journal.append(HEAD, &vec![7; 700 + nth]).unwrap());
            journal.sync().unwrap();
            let end = journal.end();
            let block = u32::try_from(BLOCK_BYTES).unwrap();
            two += usize::from(written / block != (end - 1) / block);
            written = end;
        }
        assert_eq!(two, 0);
        let given_away = written - kept[0].offset - 40 * 32 - (700..720).sum::<u32>() - 20 * 40;
        assert!(given_away < 5 * 1_024 + 256, "{given_away}");

        // All of them are found again, and nothing else.
        let Span { records, damaged } =
            journal.reader().read_span(kept[0], kept[39].end()).unwrap();
        assert_eq!((records.len(), damaged.len()), (40, 0));
        drop(journal);
        let mut seen = Vec::new();
        let mut visit = |position, _, _: &[u8]| {
            seen.push(position);
            Ok(())
        };
        Journal::open(disk.as_storage(), OPTIONS, &mut visit).unwrap();
        assert_eq!(seen, kept);
    }

    #[test]
    fn nothing_is_given_away_for_what_touches_two_blocks_anyhow() {
        let disk = SimStorage::new(1);
        let mut journal = Journal::open(disk.as_storage(), OPTIONS, &mut |_, _, _| Ok(())).unwrap();
        journal.spare_blocks();
        for bytes in [5_000, 1_000] {
            let large = journal.append(HEAD, &vec![7; bytes]).unwrap();
            journal.sync().unwrap();
            assert_eq!(journal.end(), large.end());
        }
    }
}
