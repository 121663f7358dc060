//! A segment: an immutable file with the rows that one merge command put into one partition; or a
//! rollup of one. Header, blocks, index, footer; every part has a checksum, the whole a digest. Equal
//! rows make equal bytes; `writer` makes them. Layout in `docs/formats.md`.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use journal::{OpenMode, Storage, StorageFile};
use shared::id::{Digest, TimeNs};

use super::block::{self, BlockMeta};
use super::claims::Claims;
use super::damage::Faults;
use super::error::StoreError;
use super::index::{self, Entries};
use super::partition::{Partition, ROLLUP, SEALED, SEGMENT};
use super::rollup::Resolution;
use crate::state::bytes::{ReadFault, Reader, Writer, crc32c};
use crate::state::rows::SeriesRows;
use crate::state::{Catalog, SeriesId, TableId};

const MAGIC: &[u8; 8] = b"TRIBSEGM";
const END_MAGIC: &[u8; 8] = b"TRIBEND.";
const VERSION: u16 = 3;
/// Up to here entries of the index have no sums; sealed ones, and only they, had version 2.
const VERSION_PLAIN_INDEX: u16 = 2;
const ROLLUP_MAGIC: &[u8; 8] = b"TRIBROLL";
const ROLLUP_VERSION: u16 = 2;
/// Of a rollup that has not all blocks: nodes that know no other read it.
const ROLLUP_VERSION_IN_PART: u16 = 1;
const HEADER_BYTES: usize = 8 + 2 + 8 + 13 + 8 + 4;
const ROLLUP_HEADER_BYTES: usize = HEADER_BYTES + 4;
pub(super) const FOOTER_BYTES: usize = 8 + 8 + 8 + 4 + 8;
/// The digest runs over pieces of this size.
pub(super) const PIECE_BYTES: usize = 64 << 10;

/// What names a segment in the manifest and in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentFile {
    pub name: String,
    pub len: u64,
    /// Over all bytes before the footer.
    pub digest: Digest,
}

/// What stands in the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHead {
    /// The index of the merge command that made it.
    pub(super) command: u64,
    pub(super) partition: Partition,
    /// Replicated time at that command: how old a wild partition is.
    pub(super) merged_at: i64,
    /// Of a rollup; `None`: the file holds rows.
    pub(super) resolution: Option<Resolution>,
    /// A rollup that has states of each block of its tables: it may outlive them.
    pub(super) is_whole: bool,
}

/// A segment, or a rollup of one, that is known and checked. Its file is open only while it is read: segments gather for
/// years, and a process may have but so many files open. The name stays until the last owner of a
/// doomed one lets go; then the file is unlinked.
pub(crate) struct SegmentHandle {
    pub(super) file: SegmentFile,
    pub(super) head: SegmentHead,
    /// Sorted by series; the blocks of one series in the order of their writing.
    pub(super) blocks: Vec<BlockMeta>,
    /// Of a rollup: how many states.
    pub(super) rows: BTreeMap<TableId, u64>,
    /// How many blocks.
    pub(super) blocks_of: BTreeMap<TableId, usize>,
    claims: Arc<Claims>,
    doomed: AtomicBool,
    pub(super) faults: Faults,
    known: Known,
}

/// What of a segment could be read when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    All,
    /// Of the header only what the name says: its rows are served.
    Blocks,
    /// The name, perhaps the header: what is in it is not known.
    Name,
}

/// Whether a file is named as a segment that is whole.
pub(super) fn is_segment(name: &str) -> bool {
    name.ends_with(SEGMENT)
}

/// Whether a file is named as a rollup of a segment.
pub(super) fn is_rollup(name: &str) -> bool {
    name.ends_with(ROLLUP)
}

impl SegmentHead {
    /// The bytes in front of the blocks.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        let (magic, version) = match self.resolution {
            None => (MAGIC, VERSION),
            Some(_) if self.is_whole => (ROLLUP_MAGIC, ROLLUP_VERSION),
            Some(_) => (ROLLUP_MAGIC, ROLLUP_VERSION_IN_PART),
        };
        out.out.extend_from_slice(magic);
        out.u16(version);
        out.u64(self.command);
        self.partition.encode(&mut out);
        out.i64(self.merged_at);
        if let Some(resolution) = self.resolution {
            out.u32(resolution.seconds());
        }
        out.checked()
    }
}

/// The last bytes of a file: where its index is, and the digest of all before.
pub(super) fn footer(index_at: u64, index_bytes: usize, digest: Digest) -> Vec<u8> {
    let mut footer = Writer::default();
    footer.u64(index_at);
    footer.u64(index_bytes as u64);
    footer.out.extend_from_slice(&digest.0);
    footer.u32(crc32c(&footer.out));
    footer.out.extend_from_slice(END_MAGIC);
    footer.out
}

impl SegmentFile {
    /// Compares what came from a peer with what it was said to be, before it gets the name.
    pub(crate) fn check(&self, content: &dyn StorageFile) -> Result<(), StoreError> {
        self.check_length(content)?;
        self.read_footer(content)?;
        self.check_digest(content)
    }

    /// One block of an open file, checked.
    pub(super) fn read_block(
        &self,
        content: &dyn StorageFile,
        block: &BlockMeta,
        wanted: &dyn Fn(u16) -> bool,
    ) -> Result<SeriesRows, StoreError> {
        let mut bytes = vec![0; usize::try_from(block.bytes).expect("a u32 fits")];
        content
            .read_at(block.offset, &mut bytes)
            .map_err(|source| unreadable(&self.name, block.offset, &source))?;
        block::decode(&bytes, block, wanted)
            .map_err(|fault| StoreError::damaged(&self.name, block.offset, fault.to_string()))
    }

    /// Opens what the manifest or a snapshot names.
    pub(super) fn open(&self, storage: &dyn Storage) -> Result<Arc<dyn StorageFile>, StoreError> {
        let opened = storage.open(&self.name, OpenMode::Existing);
        opened.map_err(|source| {
            if source.kind() == io::ErrorKind::NotFound {
                StoreError::damaged(&self.name, 0, "the file is gone")
            } else {
                StoreError::io(&self.name, source)
            }
        })
    }

    /// What a file says of itself, for people: length and digest are nobody else's word.
    pub(super) fn of(name: &str, content: &dyn StorageFile) -> Result<SegmentFile, StoreError> {
        let io = |source| StoreError::io(name, source);
        let len = content.len().map_err(io)?;
        let footer_at = len.checked_sub(FOOTER_BYTES as u64);
        let footer_at = footer_at.filter(|at| *at >= HEADER_BYTES as u64);
        let footer_at = footer_at
            .ok_or_else(|| StoreError::damaged(name, len, "too short for header and footer"))?;
        let mut footer = [0; FOOTER_BYTES];
        content.read_at(footer_at, &mut footer).map_err(io)?;
        let (_, _, digest) = read_footer(&footer)
            .map_err(|fault| StoreError::damaged(name, footer_at, fault.to_string()))?;
        Ok(SegmentFile {
            name: name.to_owned(),
            len,
            digest,
        })
    }

    /// Header and index, checked against each other and the footer.
    pub(super) fn read_parts(
        &self,
        content: &dyn StorageFile,
    ) -> Result<(SegmentHead, Vec<BlockMeta>), StoreError> {
        self.check_length(content)?;
        let (version, head) = self.read_head(content)?;
        Ok((head, self.read_blocks(version, content)?))
    }

    /// Also the version. The length was checked before.
    fn read_head(&self, content: &dyn StorageFile) -> Result<(u16, SegmentHead), StoreError> {
        let name = self.name.as_str();
        let is_rollup = is_rollup(name);
        let bytes = if is_rollup {
            ROLLUP_HEADER_BYTES
        } else {
            HEADER_BYTES
        };
        let mut header = vec![0; bytes];
        let read = content.read_at(0, &mut header);
        read.map_err(|source| unreadable(name, 0, &source))?;
        read_header(&header, is_rollup).map_err(|fault| match fault {
            HeaderFault::Version(version) => StoreError::Version {
                file: name.into(),
                version,
            },
            HeaderFault::Fault(fault) => StoreError::damaged(name, 0, fault.to_string()),
        })
    }

    /// The index. The length was checked before.
    fn read_blocks(
        &self,
        version: u16,
        content: &dyn StorageFile,
    ) -> Result<Vec<BlockMeta>, StoreError> {
        let name = self.name.as_str();
        let damaged = |offset, what: &str| StoreError::damaged(name, offset, what);
        let (index_at, index_len) = self.read_footer(content)?;
        let index_bytes = usize::try_from(index_len).map_err(|_| damaged(index_at, "index"))?;
        let mut index = vec![0; index_bytes];
        let read = content.read_at(index_at, &mut index);
        read.map_err(|source| unreadable(name, index_at, &source))?;
        let blocks = if is_rollup(name) {
            read_rollup_index(&index)
        } else {
            read_index(version, &index)
        };
        let blocks = blocks.and_then(|blocks| check_inside(blocks, index_at));
        blocks.map_err(|fault| damaged(index_at, &fault.to_string()))
    }

    pub(super) fn check_length(&self, content: &dyn StorageFile) -> Result<(), StoreError> {
        let len = content.len();
        let len = len.map_err(|source| StoreError::io(&self.name, source))?;
        if len != self.len || len < (HEADER_BYTES + FOOTER_BYTES) as u64 {
            let what = "the file has another length";
            return Err(StoreError::damaged(&self.name, len, what));
        }
        Ok(())
    }

    /// Where the index is and how long. The length was checked before.
    pub(super) fn read_footer(&self, content: &dyn StorageFile) -> Result<(u64, u64), StoreError> {
        let footer_at = self.len - FOOTER_BYTES as u64;
        let damaged = |what: &str| StoreError::damaged(&self.name, footer_at, what);
        let mut footer = [0; FOOTER_BYTES];
        content
            .read_at(footer_at, &mut footer)
            .map_err(|source| unreadable(&self.name, footer_at, &source))?;
        let (index_at, index_len, digest) =
            read_footer(&footer).map_err(|fault| damaged(&fault.to_string()))?;
        if digest != self.digest {
            return Err(damaged("another digest than the manifest says"));
        }
        if index_at.checked_add(index_len) != Some(footer_at) {
            return Err(damaged("the index does not end at the footer"));
        }
        Ok((index_at, index_len))
    }

    /// Reads every byte that the digest covers. The length was checked before.
    pub(super) fn check_digest(&self, content: &dyn StorageFile) -> Result<(), StoreError> {
        let covered = self.len - FOOTER_BYTES as u64;
        let (mut digest, mut at) = (Digest::ZERO, 0);
        let mut piece = vec![0; PIECE_BYTES];
        while at < covered {
            let len = usize::try_from((covered - at).min(PIECE_BYTES as u64)).expect("a piece");
            content
                .read_at(at, &mut piece[..len])
                .map_err(|source| unreadable(&self.name, at, &source))?;
            digest = shared::batch::digest(digest, &piece[..len]);
            at += len as u64;
        }
        if digest != self.digest {
            let what = "the digest does not match";
            return Err(StoreError::damaged(&self.name, 0, what));
        }
        Ok(())
    }
}

/// The digest of what was before and of this: whole pieces, but for the last of a file.
pub(super) fn digest_on(before: Digest, bytes: &[u8]) -> Digest {
    let pieces = bytes.chunks(PIECE_BYTES);
    pieces.fold(before, shared::batch::digest)
}

impl SegmentHandle {
    /// Reads a segment that the manifest or a snapshot names and checks all but its blocks.
    pub(super) fn open(
        claims: &Arc<Claims>,
        file: SegmentFile,
        catalog: &Catalog,
    ) -> Result<Arc<Self>, StoreError> {
        let open = file.open(&**claims.files())?;
        let (head, blocks) = file.read_parts(&*open)?;
        let rows = rows_of(&file, &blocks, catalog)?;
        Ok(Self::of(claims, file, head, (blocks, rows), Known::All))
    }

    /// Stands for a segment that the manifest names and that cannot be opened: with its rows if only
    /// the header is damaged, else without any. `None`: not even the name says what it is. `now`: how
    /// old a wild partition is that does not say it.
    pub(super) fn open_what_is_left(
        claims: &Arc<Claims>,
        file: SegmentFile,
        catalog: &Catalog,
        now: TimeNs,
    ) -> Option<Arc<Self>> {
        let (command, partition) = Partition::of_file_name(&file.name)?;
        let content = file.open(&**claims.files()).ok();
        let content = content.filter(|content| file.check_length(&**content).is_ok());
        let head = content.as_ref().and_then(|one| file.read_head(&**one).ok());
        let named =
            |(_, head): &(u16, SegmentHead)| (head.command, head.partition) == (command, partition);
        // An index of another version than the newest does not read as one of it.
        let (version, head) = head.filter(named).unwrap_or((
            VERSION,
            SegmentHead {
                command,
                partition,
                merged_at: now.0,
                resolution: None,
                is_whole: false,
            },
        ));
        // Of a rollup nothing is used that is not sound: its segment answers instead.
        let content = content.filter(|_| !is_rollup(&file.name));
        let blocks = content.and_then(|one| {
            let blocks = file.read_blocks(version, &*one).ok()?;
            let rows = rows_of(&file, &blocks, catalog).ok()?;
            Some((blocks, rows))
        });
        let known = blocks.as_ref().map_or(Known::Name, |_| Known::Blocks);
        Some(Self::of(
            claims,
            file,
            head,
            blocks.unwrap_or_default(),
            known,
        ))
    }

    fn of(
        claims: &Arc<Claims>,
        file: SegmentFile,
        head: SegmentHead,
        (blocks, (rows, blocks_of)): (Vec<BlockMeta>, ByTable),
        known: Known,
    ) -> Arc<Self> {
        claims.hold(&file.name);
        Arc::new(Self {
            file,
            head,
            blocks,
            rows,
            blocks_of,
            claims: Arc::clone(claims),
            doomed: AtomicBool::new(false),
            faults: Faults::default(),
            known,
        })
    }

    /// What is in it is not known.
    pub(super) fn is_opaque(&self) -> bool {
        self.known == Known::Name
    }

    /// Header and index were sound when it was opened.
    pub(super) fn is_known(&self) -> bool {
        self.known == Known::All
    }

    /// The directory that its file is in.
    pub(super) fn storage(&self) -> &dyn Storage {
        &**self.claims.files()
    }

    /// The file, to read several blocks of it.
    pub(super) fn content(&self) -> Result<Arc<dyn StorageFile>, StoreError> {
        self.file.open(self.storage())
    }

    /// Reads one block of the file and checks it.
    pub(super) fn read(
        &self,
        content: &dyn StorageFile,
        block: &BlockMeta,
        wanted: &dyn Fn(u16) -> bool,
    ) -> Result<SeriesRows, StoreError> {
        self.file.read_block(content, block, wanted)
    }

    /// Reads every byte and compares it with the digest and the checksums.
    pub(super) fn verify(&self) -> Result<(), StoreError> {
        let content = self.content()?;
        self.file.read_parts(&*content)?;
        self.file.check_digest(&*content)?;
        self.blocks
            .iter()
            .try_for_each(|block| self.read(&*content, block, &|_| true).map(|_| ()))
    }

    /// Where its rows stand in the log's order. Of one command, what sealing took along is older than
    /// what came with the command.
    pub(super) fn log_order(&self) -> (u64, bool) {
        (self.head.command, !self.is_sealed())
    }

    /// Whether it holds all that came for its partition until its command.
    pub(super) fn is_sealed(&self) -> bool {
        self.file.name.ends_with(SEALED)
    }

    /// Something in it cannot be read: it is not sealed. One that could not be opened whole stays so,
    /// whatever can be read of its file by now: nobody may take it for one of fewer rows.
    pub(super) fn is_spoilt(&self) -> bool {
        !self.is_known() || !self.faults.is_empty()
    }

    /// Nobody new may take it; the file goes with the last view that names it.
    pub(super) fn doom(&self) {
        self.doomed.store(true, Ordering::Release);
    }

    pub(super) fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::Acquire)
    }

    /// It counts again.
    pub(super) fn revive(&self) {
        self.doomed.store(false, Ordering::Release);
    }

    /// Which blocks one series has.
    pub(super) fn block_range(&self, series: SeriesId) -> Range<usize> {
        let from = self.blocks.partition_point(|block| block.series < series);
        from..from + self.blocks[from..].partition_point(|block| block.series == series)
    }
}

impl Drop for SegmentHandle {
    fn drop(&mut self) {
        self.claims.release(&self.file.name, self.is_doomed());
    }
}

impl fmt::Debug for SegmentHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentHandle")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// How many rows of each table blocks hold.
/// Rows and blocks.
type ByTable = (BTreeMap<TableId, u64>, BTreeMap<TableId, usize>);

fn rows_of(
    file: &SegmentFile,
    blocks: &[BlockMeta],
    catalog: &Catalog,
) -> Result<ByTable, StoreError> {
    let (mut rows, mut count) = (BTreeMap::new(), BTreeMap::new());
    for block in blocks {
        let Some(info) = catalog.series(block.series) else {
            let what = "a series that the catalog does not know";
            return Err(StoreError::damaged(&file.name, 0, what));
        };
        *rows.entry(info.table_id).or_insert(0) += u64::from(block.rows);
        *count.entry(info.table_id).or_insert(0) += 1;
    }
    Ok((rows, count))
}

/// What the disk does not give is as good as damaged: a peer has it.
pub(super) fn unreadable(file: &str, offset: u64, source: &io::Error) -> StoreError {
    StoreError::damaged(file, offset, format!("it cannot be read: {source}"))
}

enum HeaderFault {
    Version(u16),
    Fault(ReadFault),
}

impl From<ReadFault> for HeaderFault {
    fn from(fault: ReadFault) -> Self {
        Self::Fault(fault)
    }
}

fn read_header(bytes: &[u8], is_rollup: bool) -> Result<(u16, SegmentHead), HeaderFault> {
    let mut from = Reader::checked(bytes)?;
    let (magic, newest) = if is_rollup {
        (ROLLUP_MAGIC, ROLLUP_VERSION)
    } else {
        (MAGIC, VERSION)
    };
    if from.take(magic.len())? != magic {
        return Err(ReadFault::Invalid("it does not start as its name says").into());
    }
    let version = from.u16()?;
    if !(1..=newest).contains(&version) {
        return Err(HeaderFault::Version(version));
    }
    let command = from.u64()?;
    let partition = Partition::decode(&mut from)?;
    let merged_at = from.i64()?;
    let resolution = is_rollup.then(|| Resolution::decode(&mut from));
    let head = SegmentHead {
        command,
        partition,
        merged_at,
        resolution: resolution.transpose()?,
        is_whole: is_rollup && version > ROLLUP_VERSION_IN_PART,
    };
    Ok((version, head))
}

fn read_footer(bytes: &[u8]) -> Result<(u64, u64, Digest), ReadFault> {
    let (checked, magic) = bytes.split_at(bytes.len() - END_MAGIC.len());
    if magic != END_MAGIC {
        return Err(ReadFault::Invalid("it does not end like a segment"));
    }
    let mut from = Reader::checked(checked)?;
    Ok((from.u64()?, from.u64()?, Digest(from.digest()?)))
}

fn read_index(version: u16, bytes: &[u8]) -> Result<Vec<BlockMeta>, ReadFault> {
    if version > VERSION_PLAIN_INDEX {
        index::decode(bytes, Entries::Segment)
    } else {
        read_plain_index(bytes)
    }
}

fn read_rollup_index(bytes: &[u8]) -> Result<Vec<BlockMeta>, ReadFault> {
    let blocks = index::decode(bytes, Entries::Rollup)?;
    // A block of the segment is looked up here.
    if blocks.is_sorted_by(|a, b| (a.series, a.source) < (b.series, b.source)) {
        Ok(blocks)
    } else {
        Err(ReadFault::Invalid("blocks of a rollup"))
    }
}

fn check_inside(blocks: Vec<BlockMeta>, blocks_end: u64) -> Result<Vec<BlockMeta>, ReadFault> {
    let inside = |block: &BlockMeta| {
        block
            .offset
            .checked_add(u64::from(block.bytes))
            .is_some_and(|end| end <= blocks_end)
    };
    if !blocks.iter().all(inside) || !blocks.is_sorted_by_key(|block| block.series) {
        return Err(ReadFault::Invalid("blocks of the index"));
    }
    Ok(blocks)
}

fn read_plain_index(bytes: &[u8]) -> Result<Vec<BlockMeta>, ReadFault> {
    let mut from = Reader::checked(bytes)?;
    let count = from.count(BlockMeta::BYTES_MIN)?;
    let blocks = (0..count).map(|_| BlockMeta::decode(&mut from));
    let blocks = blocks.collect::<Result<Vec<_>, _>>()?;
    from.end()?;
    Ok(blocks)
}
