//! Snapshots: the last durable transaction and the list of its files, which stand for themselves.

use std::sync::Arc;

use bytes::Bytes;

use super::claims::Promise;
use super::segment::{SegmentFile, SegmentHandle};

/// A snapshot to send, or one that was received. The files of one to send stay while it lives.
#[derive(Debug, Clone)]
pub struct SnapshotFiles {
    /// Everything up to this log index is in it.
    pub index: u64,
    /// Last log id and membership, opaque to the store.
    pub raft: Bytes,
    /// The encoded state.
    pub state: Bytes,
    pub files: Vec<SegmentFile>,
    held: Vec<Arc<SegmentHandle>>,
    /// Of one that came: its files stay until it is installed.
    pub(super) promise: Option<Arc<Promise>>,
}

impl SnapshotFiles {
    /// One that came from a peer.
    pub fn new(index: u64, raft: Bytes, state: Bytes, files: Vec<SegmentFile>) -> Self {
        Self {
            index,
            raft,
            state,
            files,
            held: Vec::new(),
            promise: None,
        }
    }

    /// Its files stay while it lives.
    #[must_use]
    pub fn with_promise(self, promise: Promise) -> Self {
        Self {
            promise: Some(Arc::new(promise)),
            ..self
        }
    }

    pub(super) fn of(index: u64, raft: Bytes, state: Bytes, held: Vec<Arc<SegmentHandle>>) -> Self {
        let files = held.iter().map(|segment| segment.file.clone()).collect();
        Self {
            index,
            raft,
            state,
            files,
            held,
            promise: None,
        }
    }

    /// Segments kept on disk by this snapshot.
    pub fn held(&self) -> usize {
        self.held.len()
    }
}
