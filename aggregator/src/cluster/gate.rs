//! What may enter the log while it is nearly full. A full log stops a node, so before that
//! submissions are put off, here where they enter consensus, and a follower takes no more entries.
//! What the cluster writes for itself always passes: merges among it, which give room.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use openraft::raft::AppendEntriesRequest;
use tokio::sync::watch;

use super::apply::Progress;
use super::log::{self, Load, LogRoom};
use super::outbox::{COMMAND_BYTES_MAX, FLIGHTS_MAX};
use super::peer::PROPOSALS_MAX;
use super::types::TypeConfig;
use crate::state::Command;

/// What may be on its way to the log when it is found to be short. Twice, because large entries
/// leave the ends of files unused.
const ON_THE_WAY_BYTES: usize =
    2 * (log::IN_FLIGHT_BYTES_MAX + (PROPOSALS_MAX + FLIGHTS_MAX) * COMMAND_BYTES_MAX);
/// Rows in memory, in what asks for a merge: more means that merges do not keep up.
const MERGES_IN_MEMORY_MAX: u64 = 4;

/// Bytes of the log that submissions leave free.
pub(super) fn reserve_bytes(file_bytes: u64) -> u64 {
    file_bytes + ON_THE_WAY_BYTES as u64
}

/// The gate of a node that leads, before consensus.
pub(super) struct Gate {
    room: LogRoom,
    progress: watch::Receiver<Progress>,
    reserve_bytes: u64,
    rows_bytes_max: u64,
    shut: AtomicBool,
}

impl Gate {
    pub(super) fn new(
        room: LogRoom,
        progress: watch::Receiver<Progress>,
        reserve_bytes: u64,
        merge_bytes: u64,
    ) -> Arc<Gate> {
        Arc::new(Gate {
            room,
            progress,
            reserve_bytes,
            rows_bytes_max: merge_bytes.saturating_mul(MERGES_IN_MEMORY_MAX),
            shut: AtomicBool::new(false),
        })
    }

    /// Whether a command may be given to consensus now.
    pub(super) fn admits(&self, command: &[u8]) -> bool {
        !Command::is_submissions(command) || self.look()
    }

    /// Whether the log is to be cut to what it needs.
    pub(super) fn log_is_short(&self) -> bool {
        self.room.bytes_free() < self.bytes_to_open()
    }

    /// Once shut, it opens a file later: else it would flap with every file that fills.
    fn bytes_to_open(&self) -> u64 {
        self.reserve_bytes + self.room.file_bytes()
    }

    /// Whether there is room for submissions. Says so when that changes.
    pub(super) fn look(&self) -> bool {
        let bytes_free = self.room.bytes_free();
        let rows_bytes = {
            let progress = self.progress.borrow();
            (progress.level0_bytes + progress.frozen_bytes) as u64
        };
        let needed = if self.shut.load(Ordering::Relaxed) {
            self.bytes_to_open()
        } else {
            self.reserve_bytes
        };
        let open = bytes_free >= needed && rows_bytes <= self.rows_bytes_max;
        let was_open = !self.shut.swap(!open, Ordering::Relaxed);
        match (was_open, open) {
            (true, false) => tracing::warn!(
                bytes_free,
                rows_bytes,
                "the log has little room left, or merges do not keep up: while this node leads, \
                 publishers are told to wait; see to its disk if this lasts"
            ),
            (false, true) => tracing::warn!(
                bytes_free,
                rows_bytes,
                "the log has room again: publishers need not wait"
            ),
            _ => {}
        }
        open
    }
}

/// Entries of a leader that are on their way to this node's disk.
pub(super) struct Incoming {
    room: LogRoom,
    bytes: AtomicU64,
    refusing: AtomicBool,
}

/// The place of one message of entries; kept until they are on the disk.
pub(super) struct Place {
    incoming: Arc<Incoming>,
    bytes: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.incoming.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Incoming {
    pub(super) fn new(room: LogRoom) -> Arc<Incoming> {
        Arc::new(Incoming {
            room,
            bytes: AtomicU64::new(0),
            refusing: AtomicBool::new(false),
        })
    }

    /// A place for a message of so many bytes, unless the log would refuse its entries: that would
    /// stop the node, and this only makes the leader try again.
    ///
    /// # Errors
    /// The text of a refusal.
    pub(super) fn enter(
        self: &Arc<Self>,
        message: &AppendEntriesRequest<TypeConfig>,
        message_bytes: usize,
    ) -> Result<Place, String> {
        // A heartbeat needs no room.
        let bytes = match message.entries.len() {
            0 => 0,
            _ => message_bytes as u64,
        };
        let on_the_way = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let place = Place {
            incoming: Arc::clone(self),
            bytes,
        };
        if bytes == 0 {
            return Ok(place);
        }
        // Twice what the log asks for: it may have written some and not told yet.
        let needed = self.room.least_free(Load::of(&message.entries)) + 4 * on_the_way;
        let refused = self.room.bytes_free() < needed;
        if refused && !self.refusing.swap(true, Ordering::Relaxed) {
            tracing::warn!("the log has no room for entries of the leader; merges will make some");
        }
        if refused {
            return Err("its log has no room for entries now".to_owned());
        }
        if self.refusing.swap(false, Ordering::Relaxed) {
            tracing::warn!("the log has room for entries of the leader again");
        }
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use journal::SimStorage;
    use openraft::EntryPayload;
    use openraft::storage::{IOFlushed, RaftLogStorage};
    use openraft::type_config::TypeConfigExt;

    use super::super::log::{Entry, LeaderId, LogId, LogOptions, LogStore, Mode, Vote};
    use super::super::types::CommandBytes;
    use super::*;

    const FILE_BYTES: u64 = 8192;
    const MERGE_BYTES: u64 = 1000;

    fn leader_id() -> LeaderId {
        LeaderId {
            term: 1,
            node_id: 1,
        }
    }

    fn entry(index: u64, command: Bytes) -> Entry {
        Entry {
            log_id: LogId {
                leader_id: leader_id(),
                index,
            },
            payload: EntryPayload::Normal(CommandBytes(command)),
        }
    }

    fn submissions() -> Bytes {
        let mut bytes = vec![7; 900];
        bytes[..2].copy_from_slice(&[1, 0]);
        bytes.into()
    }

    fn log() -> LogStore {
        let options = LogOptions {
            journal: journal::Options {
                file_bytes: FILE_BYTES,
                files_max: 8,
            },
            cached_bytes_max: 4096,
            mode: Mode::Inline,
        };
        LogStore::open(SimStorage::new(1).as_storage(), options).unwrap()
    }

    async fn append(log: &mut LogStore, index: u64) {
        let (sender, receiver) = TypeConfig::oneshot();
        let entries = vec![entry(index, submissions())];
        let flushed = IOFlushed::signal(sender);
        log.append(entries, flushed).await.unwrap();
        assert!(matches!(receiver.await, Ok(Ok(()))));
    }

    #[tokio::test]
    async fn submissions_wait_while_the_log_is_short_and_merges_pass() {
        let mut log = log();
        let (_applied, progress) = watch::channel(Progress::default());
        let gate = Gate::new(log.room(), progress, 3 * FILE_BYTES, MERGE_BYTES);
        let mut index = 0;
        while gate.admits(&submissions()) {
            append(&mut log, index).await;
            index += 1;
        }
        assert!(log.usage().bytes_free >= 2 * FILE_BYTES);
        assert!(gate.log_is_short() && gate.admits(&Command::Merge.encode()));
        let id = |index| LogId {
            leader_id: leader_id(),
            index,
        };
        let mut purged = 0;
        while !gate.look() {
            purged += 1;
            log.purge(id(purged)).await.unwrap();
        }
        assert!(log.usage().bytes_free >= 4 * FILE_BYTES);
        assert!(!gate.log_is_short() && purged < index);
    }

    #[tokio::test]
    async fn submissions_wait_while_merges_do_not_keep_up() {
        let log = log();
        let (applied, progress) = watch::channel(Progress::default());
        let gate = Gate::new(log.room(), progress, FILE_BYTES, MERGE_BYTES);
        assert!(gate.admits(&submissions()));
        applied.send_replace(Progress {
            level0_bytes: 1,
            frozen_bytes: 4000,
            ..Progress::default()
        });
        assert!(!gate.admits(&submissions()) && !gate.log_is_short());
        applied.send_replace(Progress::default());
        assert!(gate.admits(&submissions()));
    }

    #[tokio::test]
    async fn a_follower_refuses_entries_before_its_log_does() {
        let mut log = log();
        let incoming = Incoming::new(log.room());
        let message = |index, command: Option<Bytes>| AppendEntriesRequest::<TypeConfig> {
            vote: Vote {
                leader_id: leader_id(),
                committed: true,
            },
            prev_log_id: None,
            entries: command
                .map(|command| entry(index, command))
                .into_iter()
                .collect(),
            leader_commit: None,
        };
        let mut index = 0;
        while let Ok(_place) = incoming.enter(&message(index, Some(submissions())), 1000) {
            append(&mut log, index).await;
            index += 1;
        }
        assert!(index > 20);
        assert!(incoming.enter(&message(index, None), 50).is_ok());
        let merge = Some(Command::Merge.encode());
        assert!(incoming.enter(&message(index, merge), 100).is_ok());
        assert_eq!(incoming.bytes.load(Ordering::Relaxed), 0);
        append(&mut log, index).await;
    }
}
