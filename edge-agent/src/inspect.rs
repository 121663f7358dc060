//! Shows a file to people: a batch as it goes over the wire, or a file of the buffer's journal.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use journal::{DiskStorage, JournalError};
use shared::limits::BATCH_BYTES_MAX;

/// How the files of a journal are named.
const JOURNAL_ENDING: &str = "journal";

/// Why a file cannot be shown. Who must act: whoever typed its name.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} has {bytes} bytes: no batch is over {BATCH_BYTES_MAX}, and a journal's file is named <16 hex digits>.journal", path.display())]
    NotABatch { path: PathBuf, bytes: u64 },
    #[error("cannot read {}: {source}", path.display())]
    Journal { path: PathBuf, source: JournalError },
}

/// The text that describes a file. Damage is part of the description.
///
/// # Errors
/// The file cannot be read, or is neither a batch nor a journal's.
pub fn describe(path: &Path) -> Result<String, InspectError> {
    if path
        .extension()
        .is_some_and(|ending| ending == JOURNAL_ENDING)
    {
        return journal_file(path);
    }
    let unreadable = |source| InspectError::Read {
        path: path.to_owned(),
        source,
    };
    let bytes = fs::metadata(path).map_err(unreadable)?.len();
    if bytes > BATCH_BYTES_MAX as u64 {
        let path = path.to_owned();
        return Err(InspectError::NotABatch { path, bytes });
    }
    let batch = fs::read(path).map_err(unreadable)?;
    Ok(shared::batch::describe(&batch))
}

fn journal_file(path: &Path) -> Result<String, InspectError> {
    let unreadable = |source| InspectError::Read {
        path: path.to_owned(),
        source,
    };
    // Opening a folder would make it.
    fs::metadata(path).map_err(unreadable)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    let storage = DiskStorage::open(folder).map_err(unreadable)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut records = String::new();
    let described = journal::inspect::describe(storage.as_ref(), &name, &mut |record| {
        writeln!(records, "{record}").expect("writing to a string cannot fail");
    });
    let description = described.map_err(|source| InspectError::Journal {
        path: path.to_owned(),
        source,
    })?;
    Ok(format!("{description}\n{records}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_described() {
        let fixture = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/fixtures/batch/v1/hello.bin"
        );
        let text = describe(Path::new(fixture)).unwrap();
        assert!(text.contains("hello"), "{text}");
    }

    #[test]
    fn a_file_of_a_journal_is_described_and_nothing_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0000000000000001.journal");
        assert!(describe(&path).is_err());
        fs::write(&path, "").unwrap();
        let text = describe(&path).unwrap();
        assert!(
            text.starts_with("0000000000000001.journal: 0 records"),
            "{text}"
        );
        let elsewhere = folder.path().join("nowhere/0000000000000001.journal");
        assert!(describe(&elsewhere).is_err());
        assert!(!folder.path().join("nowhere").exists());
    }

    #[test]
    fn what_is_too_large_for_a_batch_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let error = describe(&path).unwrap_err().to_string();
        assert!(error.contains("no batch is over"), "{error}");
    }
}
