//! The manifest: which segments there are, and the state, log position and membership that they
//! belong to, in one redb file moved by single transactions. redb does not verify checksums when it
//! reads, so every value carries its own, and the head tells what must be there.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use journal::{OpenMode, Storage, StorageFile};
use redb::backends::InMemoryBackend;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use shared::id::Digest;

use super::error::StoreError;
use super::segment::{SegmentFile, is_rollup, is_segment};
use crate::state::bytes::{ReadFault, Reader, Writer, crc32c};

const FILE: &str = "manifest.redb";
const NEW_FILE: &str = "manifest.new";
const VERSION: u16 = 2;
/// Of a manifest that names no rollup: nodes that know none read it, and stop at another.
const VERSION_WITHOUT_ROLLUPS: u16 = 1;
const HEAD: TableDefinition<&str, &[u8]> = TableDefinition::new("head");
const STATE: TableDefinition<u32, &[u8]> = TableDefinition::new("state");
const SEGMENTS: TableDefinition<&str, &[u8]> = TableDefinition::new("segments");
const HEAD_KEY: &str = "head";
/// Just under a power of two: redb gives every value that many pages.
const PIECE_BYTES: usize = (64 << 10) - 256;
const CACHE_BYTES: usize = 4 << 20;
/// Copies that are looked at: a node that runs may write while one is made.
const COPIES_MAX: u32 = 3;

/// The keyed file. One transaction at a time, from any thread.
pub(super) struct Manifest {
    file: Arc<LatchedFile>,
    /// `None`: the disk was full during a transaction. redb believes nothing of its memory then; the
    /// next transaction opens the file anew, as a restart would.
    // A std mutex: whoever holds it does I/O, on a thread that may.
    db: Mutex<Option<Database>>,
}

/// A file that is not believed any more once a sync of it failed, however often it is opened anew.
struct LatchedFile {
    file: Arc<dyn StorageFile>,
    failed: AtomicBool,
}

impl LatchedFile {
    fn sync(&self) -> std::io::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(std::io::Error::other("a sync failed before"));
        }
        self.file.sync().map_err(|error| {
            self.failed.store(true, Ordering::Release);
            // Of whatever kind: no room may be made for what a sync has lost.
            std::io::Error::other(format!("sync: {error}"))
        })
    }
}

/// What one transaction made durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Durable {
    /// Everything up to this log index is in the segments and the state. 0: nothing yet.
    pub(super) index: u64,
    /// Counts snapshots that were installed.
    pub(super) installs: u64,
    pub(super) raft: Bytes,
    pub(super) state: Bytes,
    /// Sorted by name.
    pub(super) files: Vec<SegmentFile>,
}

/// The head record: what the other tables must hold.
struct Head {
    version: u16,
    index: u64,
    installs: u64,
    raft: Bytes,
    state_len: u64,
    state_crc: u32,
    files: u32,
    files_crc: u32,
}

impl Manifest {
    /// Opens the manifest of a store, or makes that of an empty one: of one that has no `segments`.
    pub(super) fn open(
        storage: &dyn Storage,
        segments: &[String],
    ) -> Result<(Self, Durable), StoreError> {
        let names = storage
            .list()
            .map_err(|source| StoreError::io(FILE, source))?;
        if !names.iter().any(|name| name == FILE) {
            // A new one would name none of them, and they would be removed.
            if segments.iter().any(|name| is_segment(name)) {
                return Err(damaged(
                    "the file is gone, and segments are there that it named",
                ));
            }
            create(storage)?;
        }
        let file = storage.open(FILE, OpenMode::Existing);
        let file = file.map_err(|source| StoreError::io(FILE, source))?;
        let file = Arc::new(LatchedFile {
            file,
            failed: AtomicBool::new(false),
        });
        let db = open_file(&file)?;
        let durable = read(&db)?;
        let db = Mutex::new(Some(db));
        Ok((Self { file, db }, durable))
    }

    /// Moves to a new index, state and set of files, if the manifest still stands at index
    /// `expected` and no snapshot was installed since.
    pub(super) fn advance(
        &self,
        expected: u64,
        durable: &Durable,
        added: &[SegmentFile],
        replaced: &[&str],
    ) -> Result<(), StoreError> {
        self.change(|before, files| {
            // Where it stands already, a try that was told of a full disk was committed all the same.
            let stands = [expected, durable.index].contains(&before.index);
            if !stands || before.installs != durable.installs {
                return Err(StoreError::Superseded);
            }
            files.retain(|file| !replaced.contains(&file.name.as_str()));
            files.extend(added.iter().cloned());
            Ok(Some(durable))
        })
    }

    /// Forgets segments; index and state stay.
    pub(super) fn forget(&self, dropped: &[String]) -> Result<(), StoreError> {
        self.change(|_, files| {
            files.retain(|file| !dropped.contains(&file.name));
            Ok(None)
        })
    }

    /// One segment stands for another, of which more goes with it, if it does not already; index and
    /// state stay.
    pub(super) fn exchange(
        &self,
        gone: &str,
        also: &[&str],
        new: &SegmentFile,
    ) -> Result<(), StoreError> {
        self.change(|_, files| {
            if !files.iter().any(|file| file.name == gone || file == new) {
                return Err(StoreError::Superseded);
            }
            files.retain(|file| file.name != gone && !also.contains(&file.name.as_str()));
            files.push(new.clone());
            Ok(None)
        })
    }

    /// Becomes exactly this.
    pub(super) fn replace(&self, durable: &Durable) -> Result<(), StoreError> {
        self.change(|_, files| {
            files.clone_from(&durable.files);
            Ok(Some(durable))
        })
    }

    fn db(&self) -> MutexGuard<'_, Option<Database>> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One transaction: `edit` changes the list of files and may bring a new index and state.
    ///
    /// # Errors
    /// `Full`: nothing was changed; it can be done again once there is room.
    fn change<'a>(
        &self,
        edit: impl FnOnce(&Head, &mut Vec<SegmentFile>) -> Result<Option<&'a Durable>, StoreError>,
    ) -> Result<(), StoreError> {
        let mut open = self.db();
        let db = match open.take() {
            Some(db) => db,
            None => self.reopen().map_err(StoreError::or_full)?,
        };
        let changed = Self::transact(&db, edit).map_err(StoreError::or_full);
        if let Err(StoreError::Full { .. }) = changed {
            // Closing it writes nothing after a failed write.
            close(db)?;
        } else {
            *open = Some(db);
        }
        changed
    }

    /// What a transaction that failed has written may be seen in the file and not be on the disk.
    fn reopen(&self) -> Result<Database, StoreError> {
        let synced = self.file.sync();
        synced.map_err(|source| StoreError::io(FILE, source))?;
        open_file(&self.file)
    }

    fn transact<'a>(
        db: &Database,
        edit: impl FnOnce(&Head, &mut Vec<SegmentFile>) -> Result<Option<&'a Durable>, StoreError>,
    ) -> Result<(), StoreError> {
        let mut refused = None;
        let done = guarded(|| {
            let mut txn = db.begin_write()?;
            txn.set_quick_repair(true);
            let checked = {
                let head = read_head(&txn.open_table(HEAD)?)?;
                let files = read_files(&txn.open_table(SEGMENTS)?)?;
                Head::check(head).and_then(|head| {
                    let files = check_files(&head, files)?;
                    Ok((head, files))
                })
            };
            let edited = checked.and_then(|(head, files)| {
                let mut after = files.clone();
                let brought = edit(&head, &mut after)?;
                after.sort_by(|a, b| a.name.cmp(&b.name));
                after.dedup_by(|a, b| a.name == b.name);
                Ok((head, files, after, brought))
            });
            match edited {
                Ok((head, before, after, brought)) => {
                    write(&txn, &head, &before, &after, brought)?;
                    txn.commit()?;
                }
                Err(error) => {
                    refused = Some(error);
                    txn.abort()?;
                }
            }
            Ok(())
        });
        refused.map_or(done, Err)
    }
}

impl Drop for Manifest {
    fn drop(&mut self) {
        let db = self.db().take();
        if let Some(Err(error)) = db.map(close) {
            tracing::warn!(%error, "the manifest was not closed cleanly");
        }
    }
}

/// redb reads pages for it, and may give up on them.
fn close(db: Database) -> Result<(), StoreError> {
    guarded(|| {
        drop(db);
        Ok(())
    })
}

fn open_file(file: &Arc<LatchedFile>) -> Result<Database, StoreError> {
    let file = Arc::clone(file);
    guarded(|| open_database(Backend { file }))
}

fn read(db: &Database) -> Result<Durable, StoreError> {
    let (head, files, state) = guarded(|| {
        let txn = db.begin_read()?;
        let head = read_head(&txn.open_table(HEAD)?)?;
        let files = read_files(&txn.open_table(SEGMENTS)?)?;
        let state = read_state(&txn.open_table(STATE)?)?;
        Ok((head, files, state))
    })?;
    let head = Head::check(head)?;
    let files = check_files(&head, files)?;
    let state = check_state(&head, &state)?;
    let Head {
        index,
        installs,
        raft,
        ..
    } = head;
    Ok(Durable {
        index,
        installs,
        raft,
        state,
        files,
    })
}

/// The first transaction is made under another name: under its own the manifest is always whole.
fn create(storage: &dyn Storage) -> Result<(), StoreError> {
    let io = |source| StoreError::io(NEW_FILE, source);
    let file = storage.open(NEW_FILE, OpenMode::Create).map_err(io)?;
    file.set_len(0).map_err(io)?;
    let file = Arc::new(LatchedFile {
        file,
        failed: AtomicBool::new(false),
    });
    let db = open_file(&file)?;
    guarded(|| {
        let mut txn = db.begin_write()?;
        txn.set_quick_repair(true);
        let nothing = Durable {
            index: 0,
            installs: 0,
            raft: Bytes::new(),
            state: Bytes::new(),
            files: vec![],
        };
        let head = Head::of(&nothing, &[]);
        write(&txn, &head, &[], &[], Some(&nothing))?;
        txn.commit()?;
        drop(db);
        Ok(())
    })?;
    file.sync().map_err(io)?;
    storage.rename(NEW_FILE, FILE).map_err(io)?;
    storage.sync_directory().map_err(io)
}

/// Whether something was written to one.
pub(super) fn is_there(storage: &dyn Storage) -> Result<bool, StoreError> {
    let io = |source| StoreError::io(FILE, source);
    if !storage.list().map_err(io)?.iter().any(|name| name == FILE) {
        return Ok(false);
    }
    let file = storage.open(FILE, OpenMode::Existing).map_err(io)?;
    Ok(file.len().map_err(io)? > 0)
}

/// What a manifest says, for people. The file is not touched: redb opens, and repairs if it must, a
/// copy in memory.
pub(super) fn look(storage: &dyn Storage) -> Result<Durable, StoreError> {
    let mut copies = 1;
    loop {
        match read_copy(storage) {
            Err(StoreError::Damaged { .. }) if copies < COPIES_MAX => copies += 1,
            read => return read,
        }
    }
}

fn read_copy(storage: &dyn Storage) -> Result<Durable, StoreError> {
    let io = |source| StoreError::io(FILE, source);
    let file = storage.open(FILE, OpenMode::Existing).map_err(io)?;
    let len = usize::try_from(file.len().map_err(io)?).map_err(|_| damaged("too long"))?;
    let mut bytes = vec![0; len];
    file.read_at(0, &mut bytes).map_err(io)?;
    let db = guarded(|| {
        let copy = InMemoryBackend::new();
        StorageBackend::set_len(&copy, bytes.len() as u64)?;
        StorageBackend::write(&copy, 0, &bytes)?;
        open_database(copy)
    })?;
    read(&db)
}

fn open_database(backend: impl StorageBackend) -> Result<Database, redb::Error> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    Ok(builder.create_with_backend(backend)?)
}

/// Runs a step of redb. Damaged pages may make it panic: that is an answer too.
fn guarded<T>(step: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(step)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(redb::Error::Io(source))) => Err(StoreError::io(FILE, source)),
        Ok(Err(error @ redb::Error::PreviousIo)) => Err(StoreError::io(
            FILE,
            std::io::Error::other(error.to_string()),
        )),
        Ok(Err(error)) => Err(StoreError::damaged(FILE, 0, error.to_string())),
        Err(_) => Err(StoreError::damaged(FILE, 0, "redb gave up on its pages")),
    }
}

fn write(
    txn: &redb::WriteTransaction,
    head: &Head,
    before: &[SegmentFile],
    after: &[SegmentFile],
    brought: Option<&Durable>,
) -> Result<(), redb::Error> {
    let mut segments = txn.open_table(SEGMENTS)?;
    for file in before.iter().filter(|file| !after.contains(file)) {
        segments.remove(file.name.as_str())?;
    }
    for file in after.iter().filter(|file| !before.contains(file)) {
        segments.insert(file.name.as_str(), encode_file(file).as_slice())?;
    }
    let mut state = txn.open_table(STATE)?;
    let head = match brought {
        None => head.with_files(after),
        Some(durable) => {
            let pieces = (0_u32..).zip(durable.state.chunks(PIECE_BYTES));
            for (at, piece) in pieces {
                let mut value = Writer::default();
                value.out.extend_from_slice(piece);
                state.insert(at, value.checked().as_slice())?;
            }
            let count = durable.state.len().div_ceil(PIECE_BYTES);
            let count = u32::try_from(count).expect("a state is far below 2^48 bytes");
            state.retain(|at, _| at < count)?;
            Head::of(durable, after)
        }
    };
    txn.open_table(HEAD)?
        .insert(HEAD_KEY, head.encode().as_slice())?;
    Ok(())
}

fn read_head(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<Option<Vec<u8>>, redb::Error> {
    Ok(table.get(HEAD_KEY)?.map(|value| value.value().to_vec()))
}

type RawFiles = Vec<(String, Vec<u8>)>;

fn read_files(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<RawFiles, redb::Error> {
    let mut files = Vec::new();
    for row in table.iter()? {
        let (name, value) = row?;
        files.push((name.value().to_owned(), value.value().to_vec()));
    }
    Ok(files)
}

fn read_state(table: &impl ReadableTable<u32, &'static [u8]>) -> Result<Vec<Vec<u8>>, redb::Error> {
    let rows = table.iter()?;
    rows.map(|row| Ok(row?.1.value().to_vec())).collect()
}

fn check_files(head: &Head, raw: RawFiles) -> Result<Vec<SegmentFile>, StoreError> {
    let files = raw.into_iter().map(|(name, value)| {
        let file = decode_file(name, &value);
        file.map_err(|fault| damaged(format!("segment row: {fault}")))
    });
    let files = files.collect::<Result<Vec<_>, _>>()?;
    if usize::try_from(head.files) == Ok(files.len()) && head.files_crc == files_crc(&files) {
        Ok(files)
    } else {
        Err(damaged("the list of segments is not what the head says"))
    }
}

fn check_state(head: &Head, pieces: &[Vec<u8>]) -> Result<Bytes, StoreError> {
    let mut state = Vec::new();
    for piece in pieces {
        let mut from = Reader::checked(piece).map_err(|fault| damaged(fault.to_string()))?;
        let rest = from
            .take(from.left())
            .map_err(|fault| damaged(fault.to_string()))?;
        state.extend_from_slice(rest);
    }
    if (head.state_len, head.state_crc) == (state.len() as u64, crc32c(&state)) {
        Ok(state.into())
    } else {
        Err(damaged("the state is not what the head says"))
    }
}

fn damaged(what: impl Into<String>) -> StoreError {
    StoreError::damaged(FILE, 0, what)
}

impl Head {
    fn of(durable: &Durable, files: &[SegmentFile]) -> Self {
        let head = Self {
            version: VERSION,
            index: durable.index,
            installs: durable.installs,
            raft: durable.raft.clone(),
            state_len: durable.state.len() as u64,
            state_crc: crc32c(&durable.state),
            files: 0,
            files_crc: 0,
        };
        head.with_files(files)
    }

    fn with_files(&self, files: &[SegmentFile]) -> Self {
        let names_rollups = files.iter().any(|file| is_rollup(&file.name));
        Self {
            version: if names_rollups {
                VERSION
            } else {
                VERSION_WITHOUT_ROLLUPS
            },
            raft: self.raft.clone(),
            files: u32::try_from(files.len()).expect("segments are counted in thousands"),
            files_crc: files_crc(files),
            ..*self
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u16(self.version);
        out.u64(self.index);
        out.u64(self.installs);
        out.u64(self.state_len);
        out.u32(self.state_crc);
        out.u32(self.files);
        out.u32(self.files_crc);
        out.bytes(&self.raft);
        out.checked()
    }

    fn check(bytes: Option<Vec<u8>>) -> Result<Self, StoreError> {
        let bytes = bytes.ok_or_else(|| damaged("the head is gone"))?;
        let fault = |fault: ReadFault| damaged(format!("head: {fault}"));
        let mut from = Reader::checked(&bytes).map_err(fault)?;
        let version = from.u16().map_err(fault)?;
        if !(VERSION_WITHOUT_ROLLUPS..=VERSION).contains(&version) {
            return Err(StoreError::Version {
                file: FILE.to_owned(),
                version,
            });
        }
        let mut read = || -> Result<Self, ReadFault> {
            Ok(Self {
                version,
                index: from.u64()?,
                installs: from.u64()?,
                state_len: from.u64()?,
                state_crc: from.u32()?,
                files: from.u32()?,
                files_crc: from.u32()?,
                raft: Bytes::copy_from_slice(from.bytes()?),
            })
        };
        read().map_err(fault)
    }
}

fn encode_file(file: &SegmentFile) -> Vec<u8> {
    let mut out = Writer::default();
    out.text(&file.name);
    out.u64(file.len);
    out.out.extend_from_slice(&file.digest.0);
    out.checked()
}

fn decode_file(name: String, value: &[u8]) -> Result<SegmentFile, ReadFault> {
    let mut from = Reader::checked(value)?;
    if from.text()? != name {
        return Err(ReadFault::Invalid("another segment's row"));
    }
    let (len, digest) = (from.u64()?, Digest(from.digest()?));
    from.end()?;
    Ok(SegmentFile { name, len, digest })
}

fn files_crc(files: &[SegmentFile]) -> u32 {
    crc32c(&files.iter().flat_map(encode_file).collect::<Vec<u8>>())
}

/// redb over the storage seam.
struct Backend {
    file: Arc<LatchedFile>,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backend")
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> std::io::Result<u64> {
        self.file.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.file.file.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.file.file.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.file.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.file.file.write_at(offset, data)
    }
}

#[cfg(test)]
mod tests;
