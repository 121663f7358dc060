//! What the log holds, in memory: one slot for every entry, with its place in the journal, and the
//! bytes of recent ones. Pure: `store` feeds it, and `recover` feeds it the journal's records.

use std::collections::VecDeque;

use bytes::Bytes;
use journal::{Position, RecordHead};

use super::layout::{self, LogId, Malformed, Vote};

/// What an entry takes of a file beside its payload: its record's head, and the hint that says it
/// is committed.
const ENTRY_BYTES: u64 = 96;

/// One entry.
struct Slot {
    id: LogId,
    kind: u8,
    /// Tells an entry from another one at its index, before or after a truncation.
    serial: u64,
    /// Bytes in files of this entry, about, and of those that came before it.
    bytes: u64,
    bytes_before: u64,
    /// Where it stands, once it is written.
    position: Option<Position>,
    cached: Option<Bytes>,
}

/// Where an entry can be had.
#[derive(Clone)]
pub(super) enum Source {
    Memory(Bytes),
    Journal(Position),
}

/// An entry to be decoded.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) index: u64,
    pub(super) kind: u8,
    pub(super) source: Source,
}

impl Found {
    pub(super) fn bytes(&self) -> usize {
        match &self.source {
            Source::Memory(bytes) => bytes.len(),
            Source::Journal(position) => position.payload_bytes(),
        }
    }
}

/// Invariant: `slots` are entries with consecutive indexes from `first` on, and above `purged`.
pub(super) struct Index {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    first: u64,
    slots: VecDeque<Slot>,
    serial_next: u64,
    /// Slots below this index hold no bytes.
    cached_from: u64,
    cached_bytes: usize,
    cached_bytes_max: usize,
    /// The oldest file that may still hold something.
    file_oldest: u64,
    /// Where the last ones stand that were recovered.
    vote_position: Option<Position>,
    purged_position: Option<Position>,
    committed_position: Option<Position>,
}

impl Index {
    pub(super) fn new(cached_bytes_max: usize) -> Self {
        Self {
            vote: None,
            committed: None,
            purged: None,
            first: 0,
            slots: VecDeque::new(),
            serial_next: 0,
            cached_from: 0,
            cached_bytes: 0,
            cached_bytes_max,
            file_oldest: 0,
            vote_position: None,
            purged_position: None,
            committed_position: None,
        }
    }

    pub(super) fn vote(&self) -> Option<Vote> {
        self.vote
    }

    pub(super) fn set_vote(&mut self, vote: Vote) {
        self.vote = Some(vote);
    }

    pub(super) fn committed(&self) -> Option<LogId> {
        self.committed
    }

    pub(super) fn set_committed(&mut self, committed: Option<LogId>) {
        self.committed = committed;
    }

    pub(super) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    pub(super) fn last(&self) -> Option<LogId> {
        self.slots.back().map(|slot| slot.id).or(self.purged)
    }

    /// The last index before the newest entries that take about `keep_bytes`; 0 if all do.
    pub(super) fn index_below(&self, keep_bytes: u64) -> u64 {
        let end = self.bytes_end();
        let kept = |slot: &Slot| end - slot.bytes_before <= keep_bytes;
        let nth = self.slots.partition_point(|slot| !kept(slot));
        let last = nth.checked_sub(1).and_then(|nth| self.slots.get(nth));
        last.map_or(0, |slot| slot.id.index.saturating_sub(1))
    }

    /// Bytes of the entries behind `index`, about.
    pub(super) fn bytes_after(&self, index: u64) -> u64 {
        let nth = self.slots.partition_point(|slot| slot.id.index <= index);
        let first = self.slots.get(nth);
        first.map_or(0, |slot| self.bytes_end() - slot.bytes_before)
    }

    fn bytes_end(&self) -> u64 {
        let last = self.slots.back();
        last.map_or(0, |slot| slot.bytes_before + slot.bytes)
    }

    fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        let nth = index.checked_sub(self.first)?;
        self.slots.get(usize::try_from(nth).ok()?)
    }

    /// Adds an entry and returns its serial.
    ///
    /// # Errors
    /// It does not continue the log: a hole would be taken for a log that was never written.
    pub(super) fn push(&mut self, id: LogId, kind: u8, payload: Bytes) -> Result<u64, Malformed> {
        let continues = match (self.slots.is_empty(), self.purged) {
            (false, _) => id.index == self.end(),
            (true, Some(purged)) => id.index == purged.index + 1,
            (true, None) => true,
        };
        if !continues {
            return Err(Malformed("an entry does not continue the log"));
        }
        Ok(self.put(id, kind, payload.len(), Some(payload)))
    }

    fn put(&mut self, id: LogId, kind: u8, payload_bytes: usize, cached: Option<Bytes>) -> u64 {
        if self.slots.is_empty() {
            self.first = id.index;
            self.cached_from = id.index;
        }
        let serial = self.serial_next;
        self.serial_next += 1;
        self.cached_bytes += cached.as_ref().map_or(0, Bytes::len);
        let bytes_before = self.bytes_end();
        self.slots.push_back(Slot {
            id,
            kind,
            serial,
            bytes: payload_bytes as u64 + ENTRY_BYTES,
            bytes_before,
            position: None,
            cached,
        });
        serial
    }

    /// Entries from `index` with consecutive serials from `serial` stand at these positions, if
    /// they are still the log's.
    pub(super) fn written(&mut self, index: u64, serial: u64, positions: &[Position]) {
        for (nth, position) in positions.iter().enumerate() {
            let Some(nth_slot) = (index + nth as u64).checked_sub(self.first) else {
                continue;
            };
            let slot = usize::try_from(nth_slot)
                .ok()
                .and_then(|nth| self.slots.get_mut(nth));
            if let Some(slot) = slot.filter(|slot| slot.serial == serial + nth as u64) {
                slot.position = Some(*position);
            }
        }
        self.evict();
    }

    /// Forgets the bytes of the oldest entries that are written, above the bound.
    fn evict(&mut self) {
        self.cached_from = self.cached_from.max(self.first);
        while self.cached_bytes > self.cached_bytes_max && self.cached_from < self.end() {
            let nth = usize::try_from(self.cached_from - self.first).expect("an index of slots");
            let slot = &mut self.slots[nth];
            if slot.position.is_none() {
                break;
            }
            self.cached_bytes -= slot.cached.take().map_or(0, |bytes| bytes.len());
            self.cached_from += 1;
        }
    }

    /// Drops entries from `index` on.
    pub(super) fn truncate(&mut self, index: u64) {
        let kept = usize::try_from(index.saturating_sub(self.first)).unwrap_or(usize::MAX);
        while self.slots.len() > kept {
            let slot = self.slots.pop_back().expect("longer than what is kept");
            self.cached_bytes -= slot.cached.map_or(0, |bytes| bytes.len());
        }
        self.cached_from = self.cached_from.min(self.end());
        if self
            .committed
            .is_some_and(|committed| committed.index >= index)
        {
            self.committed = None;
        }
    }

    /// Drops entries up to and with `id`. One that was dropped before stays dropped.
    pub(super) fn purge(&mut self, id: LogId) {
        if self.purged.is_some_and(|purged| purged.index >= id.index) {
            return;
        }
        self.purged = Some(id);
        while self
            .slots
            .front()
            .is_some_and(|slot| slot.id.index <= id.index)
        {
            let slot = self.slots.pop_front().expect("just seen");
            self.cached_bytes -= slot.cached.map_or(0, |bytes| bytes.len());
            self.first += 1;
        }
        if self.slots.is_empty() {
            self.first = id.index + 1;
        }
    }

    /// The file of the oldest entry that is written.
    pub(super) fn oldest_position(&self) -> Option<Position> {
        self.slots.front().and_then(|slot| slot.position)
    }

    /// Whether there may be files that hold no entry any more.
    pub(super) fn may_release(&self) -> bool {
        self.oldest_position()
            .is_none_or(|position| position.file() > self.file_oldest)
    }

    pub(super) fn released(&mut self, before: Position) {
        self.file_oldest = before.file();
    }

    /// After a recovery: the first record that is needed still. What stands before it was released,
    /// or may be. `None`: nothing was purged, so nothing was released.
    pub(super) fn releasable_before(&self) -> Option<Position> {
        let purged = self.purged_position?;
        let others = [
            self.oldest_position(),
            self.vote_position,
            self.committed_position,
        ];
        Some(others.into_iter().flatten().fold(purged, Ord::min))
    }

    /// Where the entries of a range are, from its start, as far as they exist and up to about
    /// `bytes_max` (at least one).
    pub(super) fn find(&self, start: u64, end: u64, bytes_max: usize) -> Vec<Found> {
        let mut found = Vec::new();
        let mut bytes = 0;
        for index in start.max(self.first)..end.min(self.end()) {
            let slot = self.slot(index).expect("between first and end");
            let source = match (&slot.cached, slot.position) {
                (Some(bytes), _) => Source::Memory(bytes.clone()),
                (None, Some(position)) => Source::Journal(position),
                // Bytes are kept until they are written.
                (None, None) => break,
            };
            let one = Found {
                index,
                kind: slot.kind,
                source,
            };
            bytes += one.bytes();
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(one);
        }
        found
    }

    /// Takes a record of the journal at `open`, in their order.
    pub(super) fn recover(
        &mut self,
        position: Position,
        head: RecordHead,
        payload: &[u8],
    ) -> Result<(), Malformed> {
        if self.file_oldest == 0 {
            self.file_oldest = position.file();
        }
        match head.kind {
            layout::KIND_BLANK | layout::KIND_COMMAND | layout::KIND_MEMBERSHIP => {
                let id = layout::decode_log_id(head.number, payload)?;
                // The files that told how an empty log got here may be gone: `recovered` judges.
                if !self.slots.is_empty() && id.index != self.end() {
                    return Err(Malformed("an entry does not continue the log"));
                }
                let serial = self.put(id, head.kind, payload.len(), None);
                self.written(id.index, serial, &[position]);
            }
            layout::KIND_VOTE => {
                self.vote = Some(layout::decode_vote(payload)?);
                self.vote_position = Some(position);
            }
            layout::KIND_TRUNCATED => self.truncate(head.number),
            layout::KIND_PURGED => {
                let id = layout::decode_log_id(head.number, payload)?;
                self.purge(id);
                // One that says less tells nothing on its own.
                if self.purged == Some(id) {
                    self.purged_position = Some(position);
                }
            }
            layout::KIND_COMMITTED => {
                self.committed = Some(layout::decode_log_id(head.number, payload)?);
                self.committed_position = Some(position);
            }
            _ => return Err(Malformed("its kind is unknown: a later version wrote it")),
        }
        Ok(())
    }

    /// The last check of a recovery.
    pub(super) fn recovered(&mut self) -> Result<(), Malformed> {
        let expected = self.purged.map_or(0, |purged| purged.index + 1);
        if !self.slots.is_empty() && self.first != expected {
            return Err(Malformed("entries are missing at the log's start"));
        }
        let last = self.last();
        self.committed = self.committed.filter(|committed| Some(*committed) <= last);
        Ok(())
    }
}
