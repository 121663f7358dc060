//! The buffer's folder on disk: its lock, its journal, and batches that were refused for ever.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use journal::{DiskStorage, Journal, Options, Storage, Writer, WriterHandle};
use shared::id::{Epoch, TimeNs};

use super::KeeperError;
use crate::buffer::{Buffer, BufferOptions, DiskWork, Place, Recovery};

/// Refused batches that are set aside; more are counted only.
const DEAD_LETTERS_MAX: usize = 1_000;
const FILE_BYTES_MIN: u64 = 2 << 20;
const FILE_BYTES_MAX: u64 = 16 << 20;
const FILES_MIN: u64 = 4;

pub(super) struct Folder {
    path: PathBuf,
    dead_letters: usize,
    /// Held as long as the folder is used.
    _lock: File,
}

pub(super) struct Opened {
    pub(super) folder: Folder,
    pub(super) buffer: Buffer,
    pub(super) handle: WriterHandle,
    pub(super) thread: JoinHandle<()>,
}

/// 64 random bits.
pub(super) fn mint_epoch() -> Epoch {
    Epoch(getrandom::u64().expect("the operating system gives random bits"))
}

/// A few files that together keep the bound; each holds at least one batch of any size.
fn journal_options(bytes_max: u64) -> Options {
    let file_bytes = (bytes_max / 16).clamp(FILE_BYTES_MIN, FILE_BYTES_MAX);
    let files = (bytes_max / file_bytes).max(FILES_MIN);
    Options {
        file_bytes,
        files_max: usize::try_from(files).unwrap_or(usize::MAX),
    }
}

impl Folder {
    pub(super) fn open(
        options: &BufferOptions,
        epoch: Epoch,
        wall: TimeNs,
    ) -> Result<Opened, KeeperError> {
        let path = options.dir.clone();
        let failed = |source| KeeperError::Folder {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(&path).map_err(failed)?;
        let lock = lock(&path)?;
        let dead = path.join("dead-letters");
        fs::create_dir_all(&dead).map_err(failed)?;
        let dead_letters = fs::read_dir(&dead).map_err(failed)?.count();
        let storage = DiskStorage::open(path.join("journal")).map_err(failed)?;
        let (buffer, writer, handle) =
            recover(storage, options, epoch, wall).map_err(|error| KeeperError::Buffer {
                path: path.clone(),
                error,
            })?;
        let thread = writer.spawn("buffer").map_err(failed)?;
        let folder = Folder {
            path: path.clone(),
            dead_letters,
            _lock: lock,
        };
        Ok(Opened {
            folder,
            buffer,
            handle,
            thread,
        })
    }

    /// Keeps a refused batch as a file that `inspect` reads.
    pub(super) fn dead_letter(&mut self, place: Place, bytes: &[u8]) -> io::Result<()> {
        if self.dead_letters >= DEAD_LETTERS_MAX {
            return Err(io::Error::other("there are 1,000 refused batches already"));
        }
        let name = format!(
            "{}-{}-{}.batch",
            place.epoch,
            place.lane.as_str(),
            place.to.0
        );
        let folder = self.path.join("dead-letters");
        let mut file = File::create(folder.join(name))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        File::open(folder)?.sync_all()?;
        self.dead_letters += 1;
        Ok(())
    }
}

/// Opens the journal, takes what it holds, and puts the new epoch's beginning on disk.
fn recover(
    storage: Arc<dyn Storage>,
    options: &BufferOptions,
    epoch: Epoch,
    wall: TimeNs,
) -> Result<(Buffer, Writer, WriterHandle), journal::JournalError> {
    let mut recovery = Recovery::default();
    let mut visit = |position, head, payload: &[u8]| recovery.visit(position, head, payload);
    let mut journal = Journal::open(storage, journal_options(options.bytes_max), &mut visit)?;
    let mut buffer = Buffer::new(options.clone(), recovery, epoch, Duration::ZERO, wall);
    if let Some(DiskWork::Append(records)) = buffer.next_sync(Duration::ZERO, false) {
        let append = |one: &journal::Append| journal.append(one.head, &one.payload);
        let appended: Result<Vec<_>, _> = records.iter().map(append).collect();
        match appended {
            Ok(positions) => {
                journal.sync()?;
                buffer.synced(Ok(positions));
            }
            // The buffer makes room first and tries again.
            Err(full @ journal::JournalError::Full) => {
                buffer.synced(Err(full));
            }
            Err(other) => return Err(other),
        }
    }
    let (writer, handle) = Writer::new(journal);
    Ok((buffer, writer, handle))
}

fn lock(path: &Path) -> Result<File, KeeperError> {
    let opened = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join("lock"));
    let file = opened.map_err(|source| KeeperError::Folder {
        path: path.to_owned(),
        source,
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(KeeperError::Locked {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(KeeperError::Folder {
            path: path.to_owned(),
            source,
        }),
    }
}
