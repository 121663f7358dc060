//! Snapshots: the last durable transaction and the list of its files, which stand for themselves.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use journal::{Storage, StorageFile};
use shared::id::Digest;

use super::claims::Promise;
use super::damage::{self, Place};
use super::error::StoreError;
use super::segment::{
    FOOTER_BYTES, PIECE_BYTES, SegmentFile, SegmentHandle, digest_on, unreadable,
};
use crate::state::State;

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
    /// Of one to send, as of when it was made: whose rows are damaged, and when that was found.
    known: Option<State>,
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
            known: None,
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

    pub(super) fn of(
        index: u64,
        raft: Bytes,
        state: Bytes,
        held: Vec<Arc<SegmentHandle>>,
        known: State,
    ) -> Self {
        let files = held.iter().map(|segment| segment.file.clone()).collect();
        Self {
            index,
            raft,
            state,
            files,
            held,
            known: Some(known),
            promise: None,
        }
    }

    /// Segments kept on disk by this snapshot.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Opens one of `files` by its place, to give it away.
    ///
    /// # Errors
    /// `Damaged`: that is told. The next snapshot does without the file if it is a rollup.
    pub fn open(&self, at: usize, storage: &dyn Storage) -> Result<Outgoing<'_>, StoreError> {
        let file = &self.files[at];
        let opened = file.open(storage).and_then(|content| {
            file.check_length(&*content)?;
            file.read_footer(&*content)?;
            Ok(content)
        });
        let content = opened.inspect_err(|error| self.tell(at, error))?;
        Ok(Outgoing {
            snapshot: self,
            at,
            content,
            offset: 0,
            digest: Digest::ZERO,
        })
    }

    fn tell(&self, at: usize, error: &StoreError) {
        if let (Some(segment), Some(known)) = (self.held.get(at), &self.known) {
            damage::report(segment, Place::File, error, known);
        }
    }
}

/// A file on its way to another node.
pub struct Outgoing<'a> {
    snapshot: &'a SnapshotFiles,
    at: usize,
    content: Arc<dyn StorageFile>,
    /// How much of it was read, and the digest of that.
    offset: u64,
    digest: Digest,
}

impl Outgoing<'_> {
    /// What comes next: so many bytes, a multiple of what the digest takes at a time, but for the last part.
    /// `None` at the end. The last part is given away only if all is what was written.
    ///
    /// # Errors
    /// As when it is opened.
    pub fn next(&mut self, bytes: usize) -> Result<Option<Bytes>, StoreError> {
        assert_eq!(bytes % PIECE_BYTES, 0, "the digest runs over pieces");
        let snapshot = self.snapshot;
        let file = &snapshot.files[self.at];
        let left = usize::try_from(file.len - self.offset).unwrap_or(usize::MAX);
        if left == 0 {
            return Ok(None);
        }
        let part = self.read(file, left.min(bytes));
        part.map(Some)
            .inspect_err(|error| snapshot.tell(self.at, error))
    }

    fn read(&mut self, file: &SegmentFile, bytes: usize) -> Result<Bytes, StoreError> {
        let mut part = BytesMut::zeroed(bytes);
        let read = self.content.read_at(self.offset, &mut part);
        read.map_err(|source| unreadable(&file.name, self.offset, &source))?;
        let covered = (file.len - FOOTER_BYTES as u64).saturating_sub(self.offset);
        let covered = usize::try_from(covered).unwrap_or(usize::MAX).min(bytes);
        self.digest = digest_on(self.digest, &part[..covered]);
        self.offset += bytes as u64;
        if self.offset == file.len && self.digest != file.digest {
            let what = "the digest does not match";
            return Err(StoreError::damaged(&file.name, 0, what));
        }
        Ok(part.freeze())
    }
}
