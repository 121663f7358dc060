//! The writing half of the Raft log.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use journal::writer::{Done, Gauge, Usage};
use journal::{Append, Journal, JournalError, Position, RecordHead, Storage, Writer, WriterHandle};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend, alias};
use tokio::sync::{Semaphore, oneshot};

use super::index::Index;
use super::layout::{self, Entry, LogId, Malformed, Vote};
use super::reader::LogReader;
use crate::cluster::types::{CommandBytes, TypeConfig};
use crate::state::Command;

/// Every record carries its Raft group; there is one.
const GROUP: u32 = 0;
/// Files that are made before they are needed: while these are written to, a full disk is known.
const FILES_AHEAD: usize = 2;
/// Bytes of entries that may wait for the disk: above, `append` waits.
pub(in crate::cluster) const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;
/// What one permit of the above stands for.
const PERMIT_BYTES: usize = 1 << 10;
const PERMITS: u32 = 1 << 16;
const _: () = assert!(PERMITS as usize * PERMIT_BYTES == IN_FLIGHT_BYTES_MAX);
const _: () = assert!(IN_FLIGHT_BYTES_MAX < journal::writer::QUEUE_BYTES_MAX);

/// Who does the writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A thread of its own; reads that miss memory go to the blocking pool.
    Thread,
    /// Whoever calls, before the call returns: for a simulation that has one thread.
    Inline,
}

/// The bounds of a log.
#[derive(Debug, Clone, Copy)]
pub struct LogOptions {
    pub journal: journal::Options,
    /// Bytes of recent entries kept in memory, beside those not written yet.
    pub cached_bytes_max: usize,
    pub mode: Mode,
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk, or what is on it.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The records are whole and make no log.
    #[error("the Raft log: {0}")]
    Malformed(#[from] Malformed),
    #[error("the Raft log's thread: {0}")]
    Thread(#[source] io::Error),
}

/// openraft's log storage. Dropping it ends the writer's thread, after the last sync.
pub struct LogStore {
    reader: LogReader,
    owner: Owner,
    in_flight: Arc<Semaphore>,
    room: LogRoom,
}

/// What a group of entries is to the log's room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cluster) enum Load {
    /// Some are submissions.
    Submissions,
    /// What the cluster writes for itself, below 1 KiB each: a full log gets room by it.
    Own,
}

impl Load {
    pub(in crate::cluster) fn of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Load {
        let submissions = |entry: &Entry| match &entry.payload {
            EntryPayload::Normal(CommandBytes(bytes)) => Command::is_submissions(bytes),
            EntryPayload::Blank | EntryPayload::Membership(_) => false,
        };
        if entries.into_iter().any(submissions) {
            Load::Submissions
        } else {
            Load::Own
        }
    }
}

/// Tells how much room a log has, to whoever decides what may enter it. Cheap to clone.
#[derive(Clone)]
pub(in crate::cluster) struct LogRoom {
    gauge: Gauge,
    file_bytes: u64,
}

impl LogRoom {
    pub(in crate::cluster) fn bytes_free(&self) -> u64 {
        self.gauge.usage().bytes_free
    }

    pub(in crate::cluster) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// What stays free of such entries: of submissions a file's worth, of the cluster's own entries
    /// half, for the records that must be written to release files.
    pub(in crate::cluster) fn least_free(&self, load: Load) -> u64 {
        match load {
            Load::Submissions => self.file_bytes,
            Load::Own => self.file_bytes / 2,
        }
    }
}

/// The writer, wherever it runs.
struct Owner {
    /// `None` only while it is dropped.
    handle: Option<WriterHandle>,
    thread: Option<JoinHandle<()>>,
    inline: Option<Mutex<Writer>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.handle = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the Raft log's thread panicked");
        }
    }
}

impl Owner {
    fn new(journal: Journal, mode: Mode) -> Result<Owner, LogError> {
        let (writer, handle) = Writer::new(journal);
        // An entry behind one that is missing would make the log one that cannot be opened.
        let writer = writer.contiguous();
        let (thread, inline) = match mode {
            Mode::Thread => (
                Some(writer.spawn("raft-log").map_err(LogError::Thread)?),
                None,
            ),
            Mode::Inline => (None, Some(Mutex::new(writer))),
        };
        Ok(Owner {
            handle: Some(handle),
            thread,
            inline,
        })
    }

    fn handle(&self) -> &WriterHandle {
        self.handle.as_ref().expect("it is there until the drop")
    }

    /// Writes one record; it is durable when this returns.
    async fn submit_durable(&self, record: Append) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        let done = |result: Result<Vec<Position>, JournalError>| {
            // A caller that went away asked for nothing more.
            let _ = sender.send(result.map(|_| ()));
        };
        self.submit(vec![record], true, Box::new(done))?;
        receiver
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::from)
    }

    /// Queues records; inline, also writes them. `durable` asks for a sync before `done`.
    fn submit(&self, records: Vec<Append>, durable: bool, done: Done) -> Result<(), JournalError> {
        if durable {
            self.handle().append(records, done)?;
        } else {
            self.handle().note(records, done)?;
        }
        if let Some(writer) = &self.inline {
            while self.handle().pending() {
                writer.lock().unwrap_or_else(PoisonError::into_inner).step();
            }
        }
        Ok(())
    }
}

fn record(kind: u8, number: u64, payload: Vec<u8>) -> Append {
    Append {
        head: RecordHead {
            group: GROUP,
            kind,
            number,
        },
        payload: Bytes::from(payload),
    }
}

fn log_id_record(kind: u8, id: &LogId) -> Append {
    record(kind, id.index, layout::encode_leader(id))
}

/// For records whose loss is found out by the next that asks for a sync: the writer refuses it.
fn unobserved() -> Done {
    Box::new(|_| {})
}

impl LogStore {
    /// Opens the log in a directory of its own, reading it once from start to end.
    ///
    /// # Errors
    /// `Journal(Rot)`: what this node promised is lost, it must rejoin as a new one.
    pub fn open(storage: Arc<dyn Storage>, options: LogOptions) -> Result<LogStore, LogError> {
        let mut index = Index::new(options.cached_bytes_max);
        let mut journal =
            Journal::open(storage, options.journal, &mut |position, head, payload| {
                if head.group != GROUP {
                    return Err(JournalError::Refused {
                        what: format!("group {}", head.group),
                    });
                }
                let refused = |error: Malformed| JournalError::Refused {
                    what: error.to_string(),
                };
                index.recover(position, head, payload).map_err(refused)
            })?;
        index.recovered()?;
        // Files that were released before come back with every opening: until they are released
        // again they would count as used, in a log that is full for ever.
        if let Some(before) = index.releasable_before() {
            journal.release(before)?;
            index.released(before);
        }
        journal.keep_ahead(FILES_AHEAD)?;
        let reader = LogReader {
            index: Arc::new(Mutex::new(index)),
            journal: journal.reader(),
            mode: options.mode,
        };
        let owner = Owner::new(journal, options.mode)?;
        let room = LogRoom {
            gauge: owner.handle().gauge(),
            file_bytes: options.journal.file_bytes,
        };
        Ok(LogStore {
            reader,
            owner,
            in_flight: Arc::new(Semaphore::new(PERMITS as usize)),
            room,
        })
    }

    /// The reading half.
    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    /// How full the log is. Submissions are refused when `bytes_free` comes down to one file, which
    /// stops the node: whoever proposes must stop before that, and purge.
    pub fn usage(&self) -> Usage {
        self.owner.handle().usage()
    }

    /// The same, for others than the owner.
    pub(in crate::cluster) fn room(&self) -> LogRoom {
        self.room.clone()
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.reader.index()
    }

    /// Writes what the files to be released would take with them, and then releases them.
    fn release(&self) -> Result<(), JournalError> {
        let mut records = Vec::new();
        {
            let index = self.index();
            let vote = index.vote();
            records
                .extend(vote.map(|vote| record(layout::KIND_VOTE, 0, layout::encode_vote(&vote))));
            records.extend(
                index
                    .purged()
                    .map(|id| log_id_record(layout::KIND_PURGED, &id)),
            );
            records.extend(
                index
                    .committed()
                    .map(|id| log_id_record(layout::KIND_COMMITTED, &id)),
            );
        }
        let index = Arc::clone(&self.reader.index);
        let handle = self.owner.handle().clone();
        let done = move |carried: Result<Vec<Position>, JournalError>| {
            let Some(carried) = carried
                .ok()
                .and_then(|positions| positions.first().copied())
            else {
                return;
            };
            let before = {
                let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
                // An entry without a position yet will stand behind what was carried.
                let before = index
                    .oldest_position()
                    .map_or(carried, |oldest| oldest.min(carried));
                index.released(before);
                before
            };
            if let Err(error) = handle.release(before) {
                tracing::warn!(%error, "files of the Raft log are not released");
            }
        };
        self.owner.submit(records, true, Box::new(done))
    }

    /// Room for so many bytes of entries among those that wait for the disk.
    async fn take_room(
        &self,
        load: Load,
        bytes: usize,
    ) -> io::Result<tokio::sync::OwnedSemaphorePermit> {
        let permits = u32::try_from(bytes / PERMIT_BYTES + 1)
            .unwrap_or(PERMITS)
            .min(PERMITS);
        let room = Arc::clone(&self.in_flight)
            .acquire_many_owned(permits)
            .await;
        let room = room.map_err(io::Error::other)?;
        let waiting = match load {
            Load::Submissions => {
                (PERMITS as usize - self.in_flight.available_permits()) * PERMIT_BYTES
            }
            Load::Own => bytes,
        };
        // Twice: large entries leave the ends of files unused.
        let needed = self.room.least_free(load) + 2 * waiting as u64;
        if self.room.bytes_free() < needed {
            return Err(JournalError::Full.into());
        }
        Ok(room)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let index = self.index();
        Ok(LogState {
            last_purged_log_id: index.purged(),
            last_log_id: index.last(),
        })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.reader.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        // Set before it is durable: a release that is queued behind it must carry this one, and
        // nobody reads it before this call returns.
        self.index().set_vote(*vote);
        let record = record(layout::KIND_VOTE, 0, layout::encode_vote(vote));
        self.owner.submit_durable(record).await
    }

    async fn save_committed(
        &mut self,
        committed: Option<alias::LogIdOf<TypeConfig>>,
    ) -> Result<(), io::Error> {
        self.index().set_committed(committed);
        let Some(id) = committed else { return Ok(()) };
        let records = vec![log_id_record(layout::KIND_COMMITTED, &id)];
        Ok(self.owner.submit(records, false, unobserved())?)
    }

    async fn read_committed(&mut self) -> Result<Option<alias::LogIdOf<TypeConfig>>, io::Error> {
        Ok(self.index().committed())
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = alias::EntryOf<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        let mut ids = Vec::new();
        let entries: Vec<Entry> = entries.into_iter().collect();
        let load = Load::of(&entries);
        for entry in entries {
            let (kind, payload) = layout::encode_entry(&entry).map_err(io::Error::other)?;
            let head = RecordHead {
                group: GROUP,
                kind,
                number: entry.log_id.index,
            };
            ids.push(entry.log_id);
            records.push(Append { head, payload });
        }
        let bytes: usize = records.iter().map(|record| record.payload.len()).sum();
        let room = self.take_room(load, bytes).await?;
        let mut serial_first = None;
        {
            let mut index = self.index();
            for (id, record) in ids.iter().zip(&records) {
                let serial = index
                    .push(*id, record.head.kind, record.payload.clone())
                    .map_err(io::Error::other)?;
                serial_first.get_or_insert(serial);
            }
        }
        let written = ids.first().map(|id| id.index).zip(serial_first);
        let index = Arc::clone(&self.reader.index);
        let done = move |result: Result<Vec<Position>, JournalError>| {
            drop(room);
            if let (Ok(positions), Some((first, serial))) = (&result, written) {
                let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
                index.written(first, serial, positions);
            }
            callback.io_completed(result.map(|_| ()).map_err(io::Error::from));
        };
        Ok(self.owner.submit(records, true, Box::new(done))?)
    }

    async fn truncate_after(
        &mut self,
        last_log_id: Option<alias::LogIdOf<TypeConfig>>,
    ) -> Result<(), io::Error> {
        let first_gone = last_log_id.map_or(0, |id| id.index + 1);
        self.index().truncate(first_gone);
        // Durable before a snapshot is: a tail of another leader, come back behind what was
        // installed, would keep the node from starting for ever.
        let record = record(layout::KIND_TRUNCATED, first_gone, Vec::new());
        self.owner.submit_durable(record).await
    }

    async fn purge(&mut self, log_id: alias::LogIdOf<TypeConfig>) -> Result<(), io::Error> {
        let may_release = {
            let mut index = self.index();
            index.purge(log_id);
            index.may_release()
        };
        if may_release {
            return Ok(self.release()?);
        }
        let records = vec![log_id_record(layout::KIND_PURGED, &log_id)];
        Ok(self.owner.submit(records, false, unobserved())?)
    }
}
