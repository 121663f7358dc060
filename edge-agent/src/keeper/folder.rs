//! The buffer's folder on disk: its lock, its journal, what was damaged in it, and batches that were
//! refused for ever.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use journal::{DiskStorage, Journal, JournalError, Options, Skipped, Writer, WriterHandle};
use shared::id::{Epoch, TimeNs};

use super::KeeperError;
use super::dead_letters::DeadLetters;
use super::quarantine::Quarantine;
use crate::buffer::{Buffer, BufferOptions, DiskWork, Place, Recovery, sums_up};
use crate::clock::BootId;

const FILE_BYTES_MIN: u64 = 2 << 20;
const FILE_BYTES_MAX: u64 = 16 << 20;
const FILES_MIN: u64 = 4;
/// Below an agent's data folder.
pub(crate) const JOURNAL: &str = "journal";
pub(crate) const DEAD_LETTERS: &str = "dead-letters";
/// How a journal that is set aside begins.
pub(crate) const DAMAGED: &str = "journal-damaged-";
/// Damaged journals that are set aside; with more, whoever runs the agent has to look first.
const DAMAGED_MAX: usize = 4;

pub(super) struct Folder {
    dead_letters: DeadLetters,
    pub(super) quarantine: Quarantine,
    /// Held as long as the folder is used.
    _lock: File,
}

pub(super) struct Opened {
    pub(super) folder: Folder,
    pub(super) buffer: Buffer,
    pub(super) handle: WriterHandle,
    pub(super) thread: JoinHandle<()>,
    /// What people should know of how it was found.
    pub(super) trouble: Option<String>,
}

/// 64 random bits.
pub(super) fn mint_epoch() -> Epoch {
    Epoch(crate::random::bits().expect("the operating system gives random bits"))
}

/// A few files that together keep the bound; each holds at least one batch of any size.
fn journal_options(bytes_max: u64) -> Options {
    let file_bytes = (bytes_max / 32).clamp(FILE_BYTES_MIN, FILE_BYTES_MAX);
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
        let dead_letters = DeadLetters::open(&path.join(DEAD_LETTERS)).map_err(failed)?;
        let mut quarantine = Quarantine::open(&path).map_err(failed)?;
        let (journal, recovery, trouble) = open_or_set_aside(options, epoch, &mut quarantine)?;
        let (buffer, writer, handle) =
            begin(journal, recovery, options, epoch, wall).map_err(|error| {
                KeeperError::Buffer {
                    path: path.clone(),
                    error,
                }
            })?;
        let thread = writer.spawn("buffer").map_err(failed)?;
        let folder = Folder {
            dead_letters,
            quarantine,
            _lock: lock,
        };
        Ok(Opened {
            folder,
            buffer,
            handle,
            thread,
            trouble,
        })
    }

    /// Keeps a refused batch. Returns how many older ones were removed to make room.
    pub(super) fn dead_letter(&mut self, place: Place, bytes: &[u8]) -> io::Result<u64> {
        self.dead_letters.keep(place, bytes)
    }
}

/// Opens the journal. Damaged records are put aside; one that cannot be read as a whole is moved
/// aside and a new one begun: an agent that keeps nothing loses more. Also says what people should
/// know of that.
fn open_or_set_aside(
    options: &BufferOptions,
    epoch: Epoch,
    quarantine: &mut Quarantine,
) -> Result<(Journal, Recovery, Option<String>), KeeperError> {
    let path = &options.dir;
    let failed = |source| KeeperError::Folder {
        path: path.clone(),
        source,
    };
    let damaged = count_damaged(path).map_err(failed)?;
    let mut recovery = Recovery::default();
    let error = match open_journal(options, &mut recovery) {
        Ok((journal, skipped)) => {
            if !skipped.is_empty() {
                recovery.damaged();
                let text = put_aside(&skipped, quarantine);
                return Ok((journal, recovery, Some(text)));
            }
            // The agent may have been stopped between moving one aside and beginning another.
            if recovery.is_first() && damaged > 0 {
                recovery = recovery.without_what_is_held();
            }
            return Ok((journal, recovery, None));
        }
        Err(KeeperError::Buffer {
            error: error @ JournalError::Rot { .. },
            ..
        }) if damaged < DAMAGED_MAX => error,
        Err(other) => return Err(other),
    };
    let aside = path.join(format!("{DAMAGED}{epoch}"));
    fs::rename(path.join(JOURNAL), &aside).map_err(failed)?;
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(failed)?;
    let text = format!(
        "the buffer is damaged: {error}. Readings in it that were not acknowledged are lost; the \
         agent begins with an empty one. The damaged one is {}: check the disk, look at its files \
         with `inspect`, then remove it",
        aside.display()
    );
    tracing::error!("{text}");
    let (journal, _) = open_journal(options, &mut Recovery::default())?;
    Ok((journal, recovery.without_what_is_held(), Some(text)))
}

/// Copies what was passed over; the text tells people.
fn put_aside(skipped: &[Skipped], quarantine: &mut Quarantine) -> String {
    let mut bytes = 0;
    for one in skipped {
        quarantine.put_skipped(one);
        bytes += one.length;
    }
    let text = format!(
        "the buffer is damaged in {} places, {bytes} bytes together: readings in them that were not \
         acknowledged are lost, and the cluster is told. What stood there is in {}: check the disk",
        skipped.len(),
        quarantine.path().display()
    );
    tracing::error!("{text}");
    text
}

fn count_damaged(path: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        count += usize::from(name.to_string_lossy().starts_with(DAMAGED));
    }
    Ok(count)
}

fn open_journal(
    options: &BufferOptions,
    recovery: &mut Recovery,
) -> Result<(Journal, Vec<Skipped>), KeeperError> {
    let path = &options.dir;
    let storage = DiskStorage::open(path.join(JOURNAL)).map_err(|source| KeeperError::Folder {
        path: path.clone(),
        source,
    })?;
    let mut visit = |position, head, payload: &[u8]| recovery.visit(position, head, payload);
    let bounds = journal_options(options.bytes_max);
    let opened = Journal::open_skipping(storage, bounds, sums_up, &mut visit);
    let (mut journal, mut skipped) = opened.map_err(|error| KeeperError::Buffer {
        path: path.clone(),
        error,
    })?;
    journal.spare_blocks();
    skipped.append(&mut recovery.settle(&journal.reader()));
    Ok((journal, skipped))
}

/// Puts the new epoch's beginning on disk.
fn begin(
    mut journal: Journal,
    recovery: Recovery,
    options: &BufferOptions,
    epoch: Epoch,
    wall: TimeNs,
) -> Result<(Buffer, Writer, WriterHandle), JournalError> {
    let mut buffer = Buffer::new(options.clone(), recovery, epoch, Duration::ZERO, wall);
    buffer.begin_boot(BootId::of_this_boot());
    // Files that were let go of before are there again, and may be all there are.
    if let Some(before) = buffer.release() {
        journal.release(before)?;
    }
    if let Some(DiskWork::Append(records)) = buffer.next_sync(Duration::ZERO, false) {
        let append = |one: &journal::Append| journal.append(one.head, &one.payload);
        let appended: Result<Vec<_>, _> = records.iter().map(append).collect();
        match appended {
            Ok(positions) => {
                journal.sync()?;
                buffer.synced(Ok(positions));
            }
            // The buffer makes room first and tries again.
            Err(full @ JournalError::Full) => {
                buffer.synced(Err(full));
            }
            Err(other) => return Err(other),
        }
    }
    let (writer, handle) = Writer::new(journal);
    Ok((buffer, writer.reserving(), handle))
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
