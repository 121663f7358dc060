//! The journal: a run of files with consecutive generations, the newest written to.
//!
//! Invariants, which `recover` relies on:
//! - A file gets a successor only once it ends in a seal and is synced; the successor's name is
//!   durable before anything is written to it.
//! - Before `open` returns, a record that no earlier opening wrote is durable behind the last good
//!   one, so what a power cut left further on never continues the chain of checksums.
//! - What `sync` has not returned `Ok` for is written again at the next `open`, never believed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::current::{Current, FILLER_BYTES_MAX, SEAL_BYTES};
use crate::error::JournalError;
use crate::files::{FileInfo, Files, LiveFile, Position, Reader, file_name, parse_name};
use crate::record::{
    self, FIRST_BYTES, HEADER_BYTES, KIND_FILE, KIND_OPEN, KIND_OWN_MIN, KIND_SEAL,
    PAYLOAD_BYTES_MAX, RecordHead,
};
use crate::recover::{Refused, Scanned, Skipped};
use crate::scan::{self, Skipping, Visit, rot};
use crate::spare::{Spare, Spares};
use crate::storage::Storage;

/// The smallest file that makes sense: first record, opening, seal and something to keep.
pub(crate) const FILE_BYTES_MIN: u64 = 1 << 10;
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Above this the buffer goes to the file before the next sync asks for it.
const BUFFER_BYTES_MAX: usize = 8 << 20;
const OPEN_BYTES: usize = HEADER_BYTES + 8;

/// The bounds of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Size of every file, 1 KiB to 1 GiB. A record must fit in one file.
    pub file_bytes: u64,
    /// How many files there may be, at least 2.
    pub files_max: usize,
}

/// The one writer of a directory of files.
pub struct Journal {
    storage: Arc<dyn Storage>,
    options: Options,
    files: Arc<Files>,
    released: VecDeque<(u64, Arc<LiveFile>)>,
    spares: Spares,
    /// How many files are to be ready before they are needed.
    ahead: usize,
    /// All files that there may be are to be there.
    reserving: bool,
    /// What is given away before a record, so that a sync of little touches one block.
    filler_bytes_max: usize,
    current: Option<Current>,
    opens: u64,
    opens_durable: bool,
    latched: bool,
}

impl Journal {
    /// Opens a directory that holds only this journal, and shows `visit` every record in it, in
    /// order: also those of files that were released and not yet reused.
    ///
    /// # Errors
    /// `Rot` if something that had been synced is damaged or missing; whatever `visit` returns.
    pub fn open(
        storage: Arc<dyn Storage>,
        options: Options,
        visit: Visit<'_>,
    ) -> Result<Journal, JournalError> {
        Self::open_with(storage, options, None, visit)
    }

    /// As [`Journal::open`], for records that stand for themselves: damaged ones are passed over,
    /// and told; of a file whose end is damaged all from there on. `sums_up` knows the records that
    /// tell all that matters of those before them: the files before the newest undamaged one that
    /// holds such a record are not read, and count as full.
    ///
    /// # Errors
    /// `Rot` if files are missing or too many places are damaged; whatever `visit` returns.
    pub fn open_skipping(
        storage: Arc<dyn Storage>,
        options: Options,
        sums_up: fn(RecordHead) -> bool,
        visit: Visit<'_>,
    ) -> Result<(Journal, Vec<Skipped>), JournalError> {
        let mut skipped = Vec::new();
        let skipping = Skipping {
            skipped: &mut skipped,
            sums_up,
        };
        let journal = Self::open_with(storage, options, Some(skipping), visit)?;
        Ok((journal, skipped))
    }

    fn open_with(
        storage: Arc<dyn Storage>,
        options: Options,
        skipping: Option<Skipping<'_>>,
        visit: Visit<'_>,
    ) -> Result<Journal, JournalError> {
        if !(FILE_BYTES_MIN..=FILE_BYTES_MAX).contains(&options.file_bytes) || options.files_max < 2
        {
            return Err(JournalError::Misuse {
                what: "files of 1 KiB to 1 GiB, at least two",
            });
        }
        let files = Arc::new(RwLock::new(BTreeMap::new()));
        let mut journal = Journal {
            spares: Spares::new(Arc::clone(&storage), options.file_bytes),
            ahead: 0,
            reserving: false,
            filler_bytes_max: 0,
            storage,
            options,
            files,
            released: VecDeque::new(),
            current: None,
            opens: 0,
            opens_durable: false,
            latched: false,
        };
        if let Some((generation, scanned)) = journal.scan(skipping, visit)? {
            journal.settle(generation, scanned)?;
        }
        let synced = journal.storage.sync_directory();
        synced.map_err(JournalError::io("sync the directory"))?;
        if journal
            .current
            .as_ref()
            .is_none_or(|current| current.sealed)
        {
            match journal.rotate() {
                // The owner releases files first: whatever it appends then rotates.
                Ok(()) | Err(JournalError::Full) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(journal)
    }

    /// Finds the files. Returns the newest and what it holds.
    fn scan(
        &mut self,
        skipping: Option<Skipping<'_>>,
        visit: Visit<'_>,
    ) -> Result<Option<(u64, Scanned)>, JournalError> {
        let names = self
            .storage
            .list()
            .map_err(JournalError::io("list the directory"))?;
        self.spares.find(&names)?;
        let generations: Vec<u64> = names.iter().filter_map(|name| parse_name(name)).collect();
        let (files, newest) = scan::files(self.storage.as_ref(), &generations, skipping, visit)?;
        for (generation, live) in files {
            self.insert(generation, Arc::new(live));
        }
        Ok(newest)
    }

    /// Makes what was found in the newest file durable, and what may follow it distinct.
    fn settle(&mut self, generation: u64, scanned: Scanned) -> Result<(), JournalError> {
        let live = self.live(generation).expect("just scanned");
        let mut current = Current {
            generation,
            live,
            buffer: Vec::new(),
            written: scanned.end,
            synced: scanned.synced,
            chain: scanned.chain,
            sealed: scanned.sealed,
        };
        let opens = scanned.opens.checked_add(1);
        self.opens = opens.ok_or_else(|| rot(generation, "no journal was opened that often"))?;
        if scanned.refused == Refused::All {
            // The disk may give again what it does not give now: nothing may stand in its place.
            current.sealed = true;
            self.current = Some(current);
            return Ok(());
        }
        current.write_again()?;
        if !scanned.begun {
            current.put_own(KIND_FILE, &[generation, self.opens]);
            self.opens_durable = true;
        } else if current.fits(OPEN_BYTES) {
            current.put_own(KIND_OPEN, &[self.opens]);
            self.opens_durable = true;
        } else if !current.sealed {
            current.put_own(KIND_SEAL, &[]);
            current.sealed = true;
        }
        current.sync()?;
        self.current = Some(current);
        Ok(())
    }

    fn live(&self, generation: u64) -> Option<Arc<LiveFile>> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        files.get(&generation).cloned()
    }

    fn insert(&self, generation: u64, live: Arc<LiveFile>) {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        files.insert(generation, live);
    }

    fn files_live(&self) -> usize {
        self.files
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    fn usable(&self) -> Result<(), JournalError> {
        if self.latched {
            Err(JournalError::Latched)
        } else {
            Ok(())
        }
    }

    /// After a failure of the disk nothing more is tried: only a new `open` knows what is there.
    fn latch<T>(&mut self, result: Result<T, JournalError>) -> Result<T, JournalError> {
        if let Err(error @ JournalError::Io { .. }) = &result {
            self.latched = true;
            tracing::error!(%error, "the journal stops here");
        }
        result
    }

    /// Bytes of payload that fit in one record of this journal.
    pub fn payload_bytes_max(&self) -> usize {
        let file_bytes = usize::try_from(self.options.file_bytes).unwrap_or(usize::MAX);
        let room = file_bytes - FIRST_BYTES - SEAL_BYTES - HEADER_BYTES;
        (room - room % record::ALIGNMENT_BYTES).min(PAYLOAD_BYTES_MAX)
    }

    /// Adds a record behind the last one. It is durable once a `sync` after it returned `Ok`.
    ///
    /// # Errors
    /// `Full` when a new file is needed and all are in use (not latched: release some); `TooLarge`;
    /// `Io` latches.
    pub fn append(&mut self, head: RecordHead, payload: &[u8]) -> Result<Position, JournalError> {
        self.usable()?;
        if head.kind >= KIND_OWN_MIN {
            return Err(JournalError::Misuse {
                what: "kinds from 0xf0 on are the journal's own",
            });
        }
        if payload.len() > self.payload_bytes_max() {
            let bytes_max = self.payload_bytes_max();
            return Err(JournalError::TooLarge {
                bytes: payload.len(),
                bytes_max,
            });
        }
        let bytes = record::record_bytes(payload.len());
        if !self
            .current
            .as_ref()
            .is_some_and(|current| current.fits(bytes))
        {
            let rotated = self.rotate();
            self.latch(rotated)?;
        }
        let current = self.current.as_mut().expect("rotate made one");
        let position = current.put(head, payload);
        if current.buffer.len() >= BUFFER_BYTES_MAX {
            let flushed = current.flush();
            self.latch(flushed)?;
        }
        Ok(position)
    }

    /// Makes every record appended so far durable: one write and one sync.
    ///
    /// # Errors
    /// `Io` latches: then nothing since the last sync may be reported as durable.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        self.usable()?;
        let synced = self.current.as_mut().map_or(Ok(()), |current| {
            current.fill_block(self.filler_bytes_max);
            current.sync()
        });
        self.latch(synced)
    }

    #[cfg(test)]
    pub(crate) fn end(&self) -> u32 {
        self.current.as_ref().map_or(0, Current::end)
    }

    /// From here on a sync that covers less than a block touches one block, not two, for a few bytes of
    /// filler, if it covers about as much as the one before: flash wears by blocks.
    pub fn spare_blocks(&mut self) {
        self.filler_bytes_max = FILLER_BYTES_MAX;
    }

    /// From here on so many files are ready before they are needed, as far as the bounds allow: a
    /// disk without room shows in `bytes_free` while there is still some to write to.
    pub fn keep_ahead(&mut self, files: usize) -> Result<(), JournalError> {
        self.usable()?;
        self.ahead = files;
        let made = self.make_ahead();
        self.latch(made)
    }

    /// Makes one of the files that there may be: space that is the journal's from then on, however
    /// full the disk gets. `false`: all are there, or the disk is full; then `seek_room` tries again.
    pub fn reserve_one(&mut self) -> Result<bool, JournalError> {
        self.usable()?;
        self.reserving = true;
        if self.spares.disk_full() {
            return Ok(false);
        }
        let made = self.make_spare();
        self.latch(made)
    }

    /// Sees whether somebody made room on a full disk, by making one file that is missing. It fills
    /// a whole file with zeros if it can: not for each record, and not while one waits for its sync.
    ///
    /// # Errors
    /// `Io` latches.
    pub fn seek_room(&mut self) -> Result<(), JournalError> {
        self.usable()?;
        if !self.spares.disk_full() {
            return Ok(());
        }
        let short = self.reserving || self.files_ready() < self.ahead;
        if short && self.files_live() + self.files_ready() < self.options.files_max {
            let made = self.make_spare().map(|_| ());
            return self.latch(made);
        }
        // Released files are enough: the room there is belongs to others. When these are written
        // to, the disk is asked anew.
        self.spares.need_no_room();
        Ok(())
    }

    /// While the disk is known to be full it is not asked with each new file.
    fn make_ahead(&mut self) -> Result<(), JournalError> {
        while self.files_ready() < self.ahead && !self.spares.disk_full() && self.make_spare()? {}
        Ok(())
    }

    /// `false`: there are as many files as there may be, or the disk is full.
    fn make_spare(&mut self) -> Result<bool, JournalError> {
        let may = self.files_live() + self.files_ready() < self.options.files_max;
        Ok(may && self.spares.add()?)
    }

    fn files_ready(&self) -> usize {
        self.released.len() + self.spares.count()
    }

    /// Hands what is buffered to the file, so that readers see it, without waiting for the disk.
    pub fn flush(&mut self) -> Result<(), JournalError> {
        self.usable()?;
        let flushed = self.current.as_mut().map_or(Ok(()), Current::flush);
        self.latch(flushed)
    }

    /// Goes on in another file: a released one, or a new one.
    fn rotate(&mut self) -> Result<(), JournalError> {
        let (name, file) = self.next_file()?;
        let (generation, chain) = match &mut self.current {
            Some(current) => {
                if !current.sealed {
                    current.put_own(KIND_SEAL, &[]);
                    current.sealed = true;
                }
                current.sync()?;
                (current.generation + 1, current.chain)
            }
            None => (1, 0),
        };
        let renamed = self.storage.rename(&name, &file_name(generation));
        renamed.map_err(JournalError::io("rename a file"))?;
        let synced = self.storage.sync_directory();
        synced.map_err(JournalError::io("sync the directory"))?;
        let file_bytes = self.options.file_bytes;
        let live = Arc::new(LiveFile {
            file,
            file_bytes,
            written: AtomicU64::new(0),
            is_bad: false,
        });
        self.insert(generation, Arc::clone(&live));
        let buffer = self
            .current
            .take()
            .map(|current| current.buffer)
            .unwrap_or_default();
        let mut current = Current {
            generation,
            live,
            buffer,
            written: 0,
            synced: 0,
            chain,
            sealed: false,
        };
        current.put_own(KIND_FILE, &[generation, self.opens]);
        if !self.opens_durable {
            current.sync()?;
            self.opens_durable = true;
        }
        self.current = Some(current);
        self.make_ahead()
    }

    /// A file to go on in.
    fn next_file(&mut self) -> Result<Spare, JournalError> {
        while let Some((generation, live)) = self.released.pop_front() {
            let name = file_name(generation);
            if live.file_bytes == self.options.file_bytes && !live.is_bad {
                return Ok((name, Arc::clone(&live.file)));
            }
            self.storage
                .remove(&name)
                .map_err(JournalError::io("remove a file"))?;
        }
        if self.files_live() >= self.options.files_max {
            return Err(JournalError::Full);
        }
        // A full disk is full files: nothing was lost, and releasing some helps.
        self.spares.take()?.ok_or(JournalError::Full)
    }

    /// Lets go of the files that hold only records before `before`: readers find them released at
    /// once, and the journal reuses them. After a crash `open` may show them again.
    pub fn release(&mut self, before: Position) -> Result<(), JournalError> {
        self.usable()?;
        let newest = self
            .current
            .as_ref()
            .map_or(0, |current| current.generation);
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        let kept = files.split_off(&before.generation.min(newest));
        self.released.extend(std::mem::replace(&mut *files, kept));
        Ok(())
    }

    /// For reading records back, on any thread.
    pub fn reader(&self) -> Reader {
        Reader {
            files: Arc::clone(&self.files),
        }
    }

    /// Bytes of the records in files that are not released.
    pub fn bytes_used(&self) -> u64 {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let written: u64 = files
            .values()
            .map(|live| live.written.load(Ordering::Acquire))
            .sum();
        let buffered = self
            .current
            .as_ref()
            .map_or(0, |current| current.buffer.len() as u64);
        written + buffered
    }

    pub fn bytes_max(&self) -> u64 {
        self.options.file_bytes * self.options.files_max as u64
    }

    /// Of them, those that stand on the disk already.
    pub fn bytes_reserved(&self) -> u64 {
        let files = self.files_live() + self.files_ready();
        (files as u64 * self.options.file_bytes).min(self.bytes_max())
    }

    /// There was no room for another file when one was last made.
    pub fn disk_full(&self) -> bool {
        self.spares.disk_full()
    }

    /// Bytes that can be appended before `Full`, less what the ends of files waste. While the disk
    /// is full, only what stands on it already.
    pub fn bytes_free(&self) -> u64 {
        let allowed = self.options.files_max.saturating_sub(self.files_live());
        let unused = if self.spares.disk_full() {
            allowed.min(self.files_ready())
        } else {
            allowed
        };
        let open = self.current.as_ref().filter(|current| !current.sealed);
        let rest = open.map_or(0, |open| open.live.file_bytes - u64::from(open.end()));
        unused as u64 * self.options.file_bytes + rest
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        self.options.file_bytes
    }

    /// All files, oldest first.
    pub fn files(&self) -> Vec<FileInfo> {
        let info = |generation: u64, live: &LiveFile, released| FileInfo {
            name: file_name(generation),
            generation,
            file_bytes: live.file_bytes,
            used_bytes: live.written.load(Ordering::Acquire),
            released,
        };
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let released = self
            .released
            .iter()
            .map(|(generation, live)| info(*generation, live, true));
        released
            .chain(
                files
                    .iter()
                    .map(|(generation, live)| info(*generation, live, false)),
            )
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimStorage;
    use crate::storage::OpenMode;

    /// Found by fuzzing: the count of openings was added to before it was looked at.
    #[test]
    fn a_count_of_openings_that_cannot_be_is_rot() {
        let disk = SimStorage::new(1);
        let head = RecordHead {
            group: 0,
            kind: KIND_FILE,
            number: 0,
        };
        let payload = [1_u64.to_le_bytes(), u64::MAX.to_le_bytes()].concat();
        let mut content = Vec::new();
        record::encode(&mut content, 1, head, 0, 0, &payload);
        content.resize(1 << 10, 0);
        let storage = disk.as_storage();
        let file = storage.open(&file_name(1), OpenMode::CreateNew).unwrap();
        file.write_at(0, &content).unwrap();
        let options = Options {
            file_bytes: 1 << 10,
            files_max: 2,
        };
        let opened = Journal::open(storage, options, &mut |_, _, _| Ok(()));
        assert!(matches!(opened, Err(JournalError::Rot { .. })));
    }
}
