//! Writing segments and their rollups: blocks one by one, then index and footer. Nothing is visible
//! under a name before it is whole and synced.

use std::sync::Arc;

use journal::{OpenMode, Storage, StorageFile};
use shared::id::Digest;

use super::block::{self, BlockMeta, LongText};
use super::error::StoreError;
use super::index::{self, Entries};
use super::rollup;
use super::segment::{PIECE_BYTES, SegmentFile, SegmentHead, footer};
use crate::state::rows::SeriesRows;

const TMP: &str = ".tmp";

/// Writes one segment.
pub(super) struct SegmentWriter {
    head: SegmentHead,
    out: FileWriter,
    sealed: bool,
}

/// Writes a rollup of a segment that is being written.
pub(super) struct RollupWriter {
    head: SegmentHead,
    out: FileWriter,
}

/// A file under a name that nobody believes.
struct FileWriter {
    tmp: String,
    file: Arc<dyn StorageFile>,
    written: u64,
    pending: Vec<u8>,
    digest: Digest,
    blocks: Vec<BlockMeta>,
}

impl SegmentWriter {
    pub(super) fn create(
        storage: &dyn Storage,
        head: SegmentHead,
        kept_days: u32,
        sealed: bool,
    ) -> Result<Self, StoreError> {
        let stem = head.partition.stem(head.command);
        let out = FileWriter::create(storage, format!("{stem}-{kept_days}{TMP}"), &head)?;
        Ok(Self { head, out, sealed })
    }

    /// Adds sorted rows of one series. Returns where their block begins.
    pub(super) fn add(&mut self, rows: &SeriesRows) -> Result<u64, StoreError> {
        let (bytes, meta) =
            block::encode(rows, self.sealed).map_err(|long| self.out.unreadable(long))?;
        debug_assert!(
            block::decode(&bytes, &meta, &|_| true).is_ok(),
            "what is written can be read"
        );
        self.out.add(&bytes, meta)
    }

    /// Writes index and footer and syncs: the last that needs room.
    pub(super) fn complete(&mut self) -> Result<(), StoreError> {
        self.out.complete(Entries::Segment)
    }

    /// Gives a complete file its name; the directory is not synced yet.
    pub(super) fn name(&self, storage: &dyn Storage) -> Result<SegmentFile, StoreError> {
        let SegmentHead {
            command, partition, ..
        } = self.head;
        let name = partition.file_name(command, self.out.digest, self.sealed);
        self.out.name(storage, name)
    }

    /// Gives back the room that was taken.
    pub(super) fn abandon(self, storage: &dyn Storage) {
        self.out.abandon(storage);
    }
}

impl RollupWriter {
    /// `head`: the segment's, with the rollup's resolution. `kept_days`: the segment's, and its own.
    pub(super) fn create(
        storage: &dyn Storage,
        head: SegmentHead,
        (kept_days, own_days): (u32, Option<u32>),
    ) -> Result<Self, StoreError> {
        let stem = head.partition.stem(head.command);
        let seconds = head.resolution.map_or(0, rollup::Resolution::seconds);
        let own_days = own_days.unwrap_or(0);
        let tmp = format!("{stem}-{kept_days}.{seconds}-{own_days}{TMP}");
        let out = FileWriter::create(storage, tmp, &head)?;
        Ok(Self { head, out })
    }

    /// Adds the states of the segment's block that begins at `source`, as [`rollup::cells`] has them.
    pub(super) fn add(&mut self, cells: &SeriesRows, source: u64) -> Result<(), StoreError> {
        let (bytes, meta) =
            block::encode(cells, false).map_err(|long| self.out.unreadable(long))?;
        let meta = BlockMeta {
            columns: Vec::new(),
            source,
            ..meta
        };
        self.out.add(&bytes, meta).map(|_| ())
    }

    /// As a segment's.
    pub(super) fn complete(&mut self) -> Result<(), StoreError> {
        self.out.complete(Entries::Rollup)
    }

    /// As a segment's, after that of its segment.
    pub(super) fn name(
        &self,
        storage: &dyn Storage,
        segment: &str,
    ) -> Result<SegmentFile, StoreError> {
        let name = rollup::file_name(segment, self.head.resolution, self.out.digest);
        self.out.name(storage, name)
    }

    /// As a segment's.
    pub(super) fn abandon(self, storage: &dyn Storage) {
        self.out.abandon(storage);
    }
}

impl FileWriter {
    fn create(storage: &dyn Storage, tmp: String, head: &SegmentHead) -> Result<Self, StoreError> {
        let io = |source| StoreError::io(&tmp, source);
        let file = storage.open(&tmp, OpenMode::Create).map_err(io)?;
        // Left over from a merge that did not end.
        file.set_len(0).map_err(io)?;
        Ok(Self {
            tmp,
            file,
            written: 0,
            pending: head.encode(),
            digest: Digest::ZERO,
            blocks: Vec::new(),
        })
    }

    fn unreadable(&self, long: LongText) -> StoreError {
        let LongText {
            series,
            field,
            bytes,
        } = long;
        StoreError::Unreadable {
            file: self.tmp.clone(),
            series: series.0,
            field,
            bytes,
        }
    }

    /// Where it begins.
    fn add(&mut self, bytes: &[u8], meta: BlockMeta) -> Result<u64, StoreError> {
        let offset = self.end();
        self.blocks.push(BlockMeta { offset, ..meta });
        self.put(bytes)?;
        Ok(offset)
    }

    fn end(&self) -> u64 {
        self.written + self.pending.len() as u64
    }

    fn complete(&mut self, of: Entries) -> Result<(), StoreError> {
        let index_at = self.end();
        self.blocks.sort_by_key(|block| block.series);
        let index = index::encode(&self.blocks, of);
        self.put(&index)?;
        let rest = std::mem::take(&mut self.pending);
        if !rest.is_empty() {
            self.digest = shared::batch::digest(self.digest, &rest);
            self.write(&rest)?;
        }
        self.write(&footer(index_at, index.len(), self.digest))?;
        let synced = self.file.sync();
        synced.map_err(|source| StoreError::io(&self.tmp, source))
    }

    fn name(&self, storage: &dyn Storage, name: String) -> Result<SegmentFile, StoreError> {
        storage
            .rename(&self.tmp, &name)
            .map_err(|source| StoreError::io(&name, source))?;
        Ok(SegmentFile {
            name,
            len: self.written,
            digest: self.digest,
        })
    }

    fn abandon(self, storage: &dyn Storage) {
        if let Err(error) = storage.remove(&self.tmp) {
            // The manifest does not name it: the next try or the next open removes it.
            tracing::warn!(file = self.tmp, %error, "part of a merge stays for now");
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.pending.extend_from_slice(bytes);
        while self.pending.len() >= PIECE_BYTES {
            let rest = self.pending.split_off(PIECE_BYTES);
            let piece = std::mem::replace(&mut self.pending, rest);
            self.digest = shared::batch::digest(self.digest, &piece);
            self.write(&piece)?;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let written = self.file.write_at(self.written, bytes);
        written.map_err(|source| StoreError::io(&self.tmp, source))?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}
