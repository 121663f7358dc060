//! What stored bytes say, for a person: a batch, a segment, a file of the Raft log, or (`node`) all
//! that a node's data folder holds. Reads only, beside a running node too.

mod node;
mod tables;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use journal::{DiskStorage, JournalError, Storage};
use shared::limits::BATCH_BYTES_MAX;

use crate::cluster::log;
use crate::store::{self, StoreError};
pub use tables::table_warnings;

/// Why nothing can be shown. Who must act: whoever typed the name.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} has {bytes} bytes: no batch is over {BATCH_BYTES_MAX}; a segment is named .seg, a file of the Raft log .journal", path.display())]
    NotABatch { path: PathBuf, bytes: u64 },
    #[error("{} is no data folder of a node: it holds neither identity nor store nor log", path.display())]
    NotADataFolder { path: PathBuf },
    #[error("cannot read {}: {source}", path.display())]
    Log { path: PathBuf, source: JournalError },
    #[error("cannot read {}: {source}", path.display())]
    Store { path: PathBuf, source: StoreError },
}

/// Shows what stands at a path, piece by piece; with `rows` those of a segment too. Returns whether
/// some of it is damaged: the text says what.
///
/// # Errors
/// It cannot be read, or is nothing that a node or an agent writes.
pub fn describe(path: &Path, rows: bool, show: &mut dyn FnMut(&str)) -> Result<bool, InspectError> {
    let unreadable = |source| InspectError::Read {
        path: path.to_owned(),
        source,
    };
    let about = fs::metadata(path).map_err(unreadable)?;
    if about.is_dir() {
        return node::describe(path, show);
    }
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("seg") => {
            let (storage, name) = place(path)?;
            let shown = store::inspect::segment(storage.as_ref(), &name, rows, show);
            shown.map_err(|source| InspectError::Store {
                path: path.to_owned(),
                source,
            })
        }
        Some("journal") => log_file(path, show),
        _ => batch(path, show),
    }
}

/// Shows one encoded batch, as it lies in an agent's dead-letter folder or came off the wire.
///
/// # Errors
/// As [`describe`].
pub fn batch(path: &Path, show: &mut dyn FnMut(&str)) -> Result<bool, InspectError> {
    let unreadable = |source| InspectError::Read {
        path: path.to_owned(),
        source,
    };
    let bytes = fs::metadata(path).map_err(unreadable)?.len();
    if bytes > BATCH_BYTES_MAX as u64 {
        let path = path.to_owned();
        return Err(InspectError::NotABatch { path, bytes });
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    show(&shared::batch::describe(&bytes));
    Ok(shared::batch::decode(&bytes).is_err())
}

/// The folder of a file, to be read only, and the file's name in it.
fn place(path: &Path) -> Result<(Arc<dyn Storage>, String), InspectError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    let storage = DiskStorage::open_read_only(folder).map_err(|source| InspectError::Read {
        path: folder.to_owned(),
        source,
    })?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok((storage, name.into_owned()))
}

/// One file of the log, record by record, each by what it means.
fn log_file(path: &Path, show: &mut dyn FnMut(&str)) -> Result<bool, InspectError> {
    let (storage, name) = place(path)?;
    let mut strange = false;
    let described = journal::inspect::describe(storage.as_ref(), &name, &mut |record, payload| {
        if record.is_own() {
            show(&record.to_string());
            return;
        }
        match log::inspect::meaning(record.head, payload) {
            Ok(meaning) => show(&format!("{:>10} {meaning}", record.offset)),
            Err(why) => {
                strange = true;
                show(&format!("{record}: {why}"));
            }
        }
    });
    let described = described.map_err(|source| InspectError::Log {
        path: path.to_owned(),
        source,
    })?;
    show(&described.to_string());
    Ok(strange || described.damage.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures");

    /// The text and whether it tells of damage.
    fn shown(path: &Path) -> Result<(String, bool), InspectError> {
        let mut text = String::new();
        let damaged = describe(path, false, &mut |part| {
            text.push_str(part);
            text.push('\n');
        })?;
        Ok((text, damaged))
    }

    #[test]
    fn a_batch_is_shown_and_a_cut_one_is_damaged() {
        let fixture = format!("{FIXTURES}/batch/v1/hello.bin");
        let (text, damaged) = shown(Path::new(&fixture)).unwrap();
        assert!(text.starts_with("hello batch, version 1"), "{text}");
        assert!(!damaged);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cut.batch");
        let bytes = fs::read(fixture).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(shown(&path).unwrap().1);
    }

    #[test]
    fn a_file_of_a_journal_is_shown_record_by_record() {
        let fixture = format!("{FIXTURES}/journal/v1/0000000000000001.journal");
        let (text, damaged) = shown(Path::new(&fixture)).unwrap();
        let last = text.lines().last().unwrap();
        assert_eq!(
            last,
            "0000000000000001.journal: 18 records in 1008 bytes, sealed"
        );
        assert!(damaged, "its records are none of a Raft log");
    }

    #[test]
    fn what_is_nothing_of_ours_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path| shown(path).unwrap_err().to_string();
        assert!(refused(folder.path()).contains("no data folder"));
        let path = folder.path().join("disk.img");
        assert!(refused(&path).contains("cannot read"));
        fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(refused(&path).contains("no batch is over"));
        let path = folder.path().join("a.seg");
        fs::write(&path, "short").unwrap();
        let (text, damaged) = shown(&path).unwrap();
        assert!(damaged && text.contains("too short"), "{text}");
    }
}
