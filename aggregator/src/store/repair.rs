//! Putting a sound copy, which came from a peer, in the place of a segment that is damaged here. The
//! copy is verified whole before anything changes; a crash leaves the old file or the new one.
//!
//! A copy of the same bytes takes the file's name. A peer may have cut the same rows into other
//! blocks: such a copy comes under its own name, and one transaction exchanges the two.

use std::collections::BTreeMap;
use std::sync::Arc;

use journal::{OpenMode, StorageFile};

use super::Store;
use super::block::BlockMeta;
use super::claims::Claims;
use super::error::StoreError;
use super::reader::View;
use super::rolled;
use super::segment::{SegmentFile, SegmentHandle};
use crate::state::SeriesId;

/// A copy that is verified and on the disk; [`Store::finish_repair`] lets it count.
#[derive(Debug)]
pub struct Repaired {
    old: Arc<SegmentHandle>,
    /// `None`: the old one reads the new bytes already.
    new: Option<Arc<SegmentHandle>>,
}

/// What became of a repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairEnd {
    Done,
    /// A merge runs, which may take the damaged segment's place: to be tried again after it.
    Later,
    /// The damaged segment is not part of the store any more.
    Obsolete,
}

/// Takes the file `received`, which lies beside the segments under a name that is no segment's, for
/// the view's segment `name`. `offered` is what the peer says of its file. Reads and writes whole
/// files: for a thread that may wait. `None`: the view has no such segment.
///
/// # Errors
/// `Damaged`: the copy is not what was offered, or no copy of this segment; nothing has changed. `Io`:
/// as after any sync that failed the node must stop; no other copy is taken. The received file is gone
/// after any error.
pub fn repair(
    claims: &Arc<Claims>,
    view: &View,
    name: &str,
    received: &str,
    offered: &SegmentFile,
) -> Result<Option<Repaired>, StoreError> {
    let old = view.segments.iter().find(|one| one.file.name == name);
    let repaired = match old {
        Some(old) => place(claims, view, old, received, offered).map(Some),
        None => Ok(None),
    };
    if !matches!(repaired, Ok(Some(_)))
        && let Err(error) = claims.files().remove(received)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        // No manifest names it: the next open removes it.
        tracing::warn!(file = received, %error, "a copy that is not used stays for now");
    }
    repaired
}

fn place(
    claims: &Arc<Claims>,
    view: &View,
    old: &Arc<SegmentHandle>,
    received: &str,
    offered: &SegmentFile,
) -> Result<Repaired, StoreError> {
    let files = claims.files();
    let io = |source| StoreError::io(received, source);
    let content = files.open(received, OpenMode::Existing).map_err(io)?;
    content.sync().map_err(io)?;
    check(old, &*content, offered)?;
    // Until it counts nobody may unlink it: a snapshot may just have brought it, too.
    let _promise = claims.promise(vec![offered.name.clone()]);
    files.rename(received, &offered.name).map_err(io)?;
    // What fails from here on leaves no file of this name.
    claims.disown(&offered.name);
    let synced = claims.sync();
    synced.map_err(|source| StoreError::io("segments", source))?;
    let old = Arc::clone(old);
    let same = *offered == old.file;
    if same && old.is_known() {
        old.faults.clear_all();
        tracing::warn!(
            file = offered.name,
            "a damaged segment was replaced by a peer's copy"
        );
        return Ok(Repaired { old, new: None });
    }
    let new = SegmentHandle::open(claims, offered.clone(), view.catalog())?;
    if !same {
        // It goes again unless it comes to count.
        new.doom();
    }
    let new = Some(new);
    Ok(Repaired { old, new })
}

/// Whether a file is what was offered, and holds the rows of a segment.
fn check(
    old: &SegmentHandle,
    content: &dyn StorageFile,
    offered: &SegmentFile,
) -> Result<(), StoreError> {
    let damaged = |what| StoreError::damaged(&offered.name, 0, what);
    offered.check(content)?;
    let (head, blocks) = offered.read_parts(content)?;
    let known = (old.head.command, old.head.partition);
    if (head.command, head.partition) != known || (head != old.head && old.is_known()) {
        return Err(damaged("a copy of another segment"));
    }
    let named = head
        .partition
        .file_name(head.command, offered.digest, old.is_sealed());
    if offered != &old.file && offered.name != named {
        return Err(damaged("its name is not that of such a file"));
    }
    if !old.is_opaque() && rows(&blocks) != rows(&old.blocks) {
        return Err(damaged("a copy with other rows"));
    }
    blocks
        .iter()
        .try_for_each(|block| offered.read_block(content, block, &|_| true).map(|_| ()))
}

/// How many rows each series has, and from when to when.
fn rows(blocks: &[BlockMeta]) -> BTreeMap<SeriesId, (u64, i64, i64)> {
    let mut all = BTreeMap::new();
    for block in blocks {
        let nothing = (0, i64::MAX, i64::MIN);
        let (rows, min, max) = all.entry(block.series).or_insert(nothing);
        *rows += u64::from(block.rows);
        *min = block.time_min.min(*min);
        *max = block.time_max.max(*max);
    }
    all
}

impl Store {
    /// Lets a copy count. Whoever reads the old file goes on with it.
    ///
    /// # Errors
    /// `Full`: nothing was changed that is seen; it has to be done again with this same copy until it
    /// is not `Full`. The transaction may have been committed all the same, and what drops the old
    /// segment meanwhile does not know the new one: then the manifest names a segment that the store
    /// does not have, until the next start reads its rows again. Until that is settled in the store the
    /// caller holds up retention, merges that seal and other repairs of this segment. A copy that is
    /// given up after `Full` stays on the disk until the next start.
    pub fn finish_repair(&mut self, repaired: &Repaired) -> Result<RepairEnd, StoreError> {
        let Repaired { old, new } = repaired;
        let at = self.segments.iter().position(|one| Arc::ptr_eq(one, old));
        let (at, new) = match (at, new) {
            (None, _) => return Ok(RepairEnd::Obsolete),
            (Some(_), None) => return Ok(RepairEnd::Done),
            (Some(at), Some(new)) => (at, new),
        };
        // One that seals would take the rows of the old file along, and leave the new one beside.
        if self.merges_running() > 0 {
            return Ok(RepairEnd::Later);
        }
        if new.file != old.file {
            // First: a transaction that was told of a full disk may have been committed.
            new.revive();
            // States are of blocks as the old one had cut them.
            let mut gone = rolled::of_segment(&self.rollups, old).to_vec();
            let also: Vec<&str> = gone.iter().map(|one| one.file.name.as_str()).collect();
            self.manifest.exchange(&old.file.name, &also, &new.file)?;
            let rollups = Arc::make_mut(&mut self.rollups);
            rollups.retain(|known| !gone.iter().any(|one| Arc::ptr_eq(one, known)));
            gone.push(Arc::clone(old));
            self.doom(&gone);
        }
        let segments = Arc::make_mut(&mut self.segments);
        segments[at] = Arc::clone(new);
        segments.sort_by(|a, b| a.file.name.cmp(&b.file.name));
        tracing::warn!(
            file = old.file.name,
            by = new.file.name,
            "a damaged segment was replaced by a peer's copy"
        );
        self.publish();
        Ok(RepairEnd::Done)
    }
}
