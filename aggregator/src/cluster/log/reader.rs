//! The reading half of the Raft log: recent entries from memory, others from the journal.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{Stream, stream};
use journal::{JournalError, Reader};
use openraft::storage::RaftLogReader;
use openraft::{OptionalSend, alias};

use super::index::{Found, Index, Source};
use super::layout::{self, Entry, Malformed, Vote};
use super::store::Mode;
use crate::cluster::types::TypeConfig;

/// Bytes of entries that one call hands out: about what one message to a follower carries.
const READ_BYTES_MAX: usize = 4 << 20;

/// Reads the log; cheap to clone. Sees what `append` was given as soon as it returned.
#[derive(Clone)]
pub struct LogReader {
    pub(super) index: Arc<Mutex<Index>>,
    pub(super) journal: Reader,
    pub(super) mode: Mode,
}

fn malformed(error: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl LogReader {
    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last index that is no longer needed when the newest entries, about `keep_bytes` of them,
    /// stay; 0 if all stay.
    pub fn index_below(&self, keep_bytes: u64) -> u64 {
        self.index().index_below(keep_bytes)
    }

    /// Bytes that the entries behind `index` take, about.
    pub fn bytes_after(&self, index: u64) -> u64 {
        self.index().bytes_after(index)
    }

    /// Entries from `start` on, up to about `bytes_max`, at least one if there is one.
    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let found = self.index().find(start, end, bytes_max);
        let in_memory = found
            .iter()
            .all(|one| matches!(one.source, Source::Memory(_)));
        if in_memory || self.mode == Mode::Inline {
            return self.decode_all(&found);
        }
        let reader = self.clone();
        let read = tokio::task::spawn_blocking(move || reader.decode_all(&found));
        read.await.map_err(io::Error::other)?
    }

    fn decode_all(&self, found: &[Found]) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::with_capacity(found.len());
        for one in found {
            let payload = match &one.source {
                Source::Memory(bytes) => bytes.clone(),
                Source::Journal(position) => match self.journal.read(*position) {
                    Ok(bytes) => bytes,
                    // Purged since we looked: then it is as if it had been before, and a start
                    // that is missing is no hole.
                    Err(JournalError::Released)
                        if entries.is_empty() && self.is_purged(one.index) =>
                    {
                        continue;
                    }
                    Err(other) => return Err(other.into()),
                },
            };
            entries.push(layout::decode_entry(one.kind, one.index, &payload).map_err(malformed)?);
        }
        Ok(entries)
    }

    fn is_purged(&self, index: u64) -> bool {
        self.index()
            .purged()
            .is_some_and(|purged| index <= purged.index)
    }
}

/// A range as `start..end`.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

/// A stream's place in the log.
struct Cursor {
    reader: LogReader,
    next: u64,
    end: u64,
    ready: VecDeque<Entry>,
}

impl Cursor {
    async fn advance(mut self) -> Option<(io::Result<Entry>, Self)> {
        if self.ready.is_empty() && self.next < self.end {
            match self.reader.read(self.next, self.end, READ_BYTES_MAX).await {
                Ok(entries) => self.ready = entries.into(),
                Err(error) => {
                    self.end = self.next;
                    return Some((Err(error), self));
                }
            }
        }
        let entry = self.ready.pop_front()?;
        self.next = entry.log_id.index + 1;
        Some((Ok(entry), self))
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<alias::EntryOf<TypeConfig>>, io::Error> {
        let (start, end) = bounds(&range);
        self.read(start, end, usize::MAX).await
    }

    /// What a follower is sent behind the entry before `start`: from there on, or nothing. A start
    /// that was purged meanwhile would be a hole in its log.
    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<alias::EntryOf<TypeConfig>>, io::Error> {
        let entries = self.read(start, end, READ_BYTES_MAX).await?;
        let first = entries.first().map(|first| first.log_id.index);
        Ok(if first == Some(start) {
            entries
        } else {
            Vec::new()
        })
    }

    /// Reads on as the stream is drained: a log's whole tail never stands in memory.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<alias::EntryOf<TypeConfig>, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (next, end) = bounds(&range);
        let cursor = Cursor {
            reader: self.clone(),
            next,
            end,
            ready: VecDeque::new(),
        };
        Box::pin(stream::unfold(cursor, Cursor::advance))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.index().vote())
    }
}
