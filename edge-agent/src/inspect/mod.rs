//! Shows what an agent keeps to people: a batch as it goes over the wire, a file of the buffer's
//! journal, or (`folder`) all that a data folder holds. Reads only, beside a running agent too.

mod folder;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use journal::{DiskStorage, JournalError};
use shared::limits::BATCH_BYTES_MAX;

use crate::buffer;

/// How the files of a journal are named.
const JOURNAL_ENDING: &str = "journal";
const CANNOT_FAIL: &str = "writing to a string cannot fail";

/// Why nothing can be shown. Who must act: whoever typed the name.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} has {bytes} bytes: no batch is over {BATCH_BYTES_MAX}, and a journal's file is named <16 hex digits>.journal", path.display())]
    NotABatch { path: PathBuf, bytes: u64 },
    #[error("{} holds no journal: name an agent's data_dir or the journal folder in it", path.display())]
    NotADataFolder { path: PathBuf },
    #[error("cannot read {}: {source}", path.display())]
    Journal { path: PathBuf, source: JournalError },
}

/// What stands there, in words.
#[derive(Debug, PartialEq, Eq)]
pub struct Description {
    pub text: String,
    /// Some of it is not as it was written; the text says what.
    pub damaged: bool,
}

/// Describes a batch, a file of a journal, a journal's folder or an agent's data folder. Damage is
/// part of the description.
///
/// # Errors
/// It cannot be read, or is none of these.
pub fn describe(path: &Path) -> Result<Description, InspectError> {
    let unreadable = |source| InspectError::Read {
        path: path.to_owned(),
        source,
    };
    let about = fs::metadata(path).map_err(unreadable)?;
    if about.is_dir() {
        return folder::describe(path);
    }
    if path
        .extension()
        .is_some_and(|ending| ending == JOURNAL_ENDING)
    {
        return journal_file(path);
    }
    let bytes = about.len();
    if bytes > BATCH_BYTES_MAX as u64 {
        let path = path.to_owned();
        return Err(InspectError::NotABatch { path, bytes });
    }
    let batch = fs::read(path).map_err(unreadable)?;
    Ok(Description {
        text: shared::batch::describe(&batch),
        damaged: shared::batch::decode(&batch).is_err(),
    })
}

/// One file, record by record, each by what it means.
fn journal_file(path: &Path) -> Result<Description, InspectError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    let storage = DiskStorage::open_read_only(folder).map_err(|source| InspectError::Read {
        path: folder.to_owned(),
        source,
    })?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut records = String::new();
    let mut strange = false;
    let described = journal::inspect::describe(storage.as_ref(), &name, &mut |record, payload| {
        let written = if record.is_own() {
            writeln!(records, "{record}")
        } else {
            match buffer::meaning(record.head, payload) {
                Ok(meaning) => writeln!(records, "{:>10} {meaning}", record.offset),
                Err(why) => {
                    strange = true;
                    writeln!(records, "{record}: {why}")
                }
            }
        };
        written.expect(CANNOT_FAIL);
    });
    let description = described.map_err(|source| InspectError::Journal {
        path: path.to_owned(),
        source,
    })?;
    Ok(Description {
        text: format!("{description}\n{records}"),
        damaged: strange || description.damage.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures");

    #[test]
    fn a_batch_is_described() {
        let fixture = format!("{FIXTURES}/batch/v1/hello.bin");
        let described = describe(Path::new(&fixture)).unwrap();
        assert!(described.text.contains("hello"), "{described:?}");
        assert!(!described.damaged);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cut.batch");
        let batch = fs::read(fixture).unwrap();
        fs::write(&path, &batch[..batch.len() - 1]).unwrap();
        assert!(describe(&path).unwrap().damaged);
    }

    #[test]
    fn a_file_of_a_journal_is_described_and_nothing_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0000000000000001.journal");
        assert!(describe(&path).is_err());
        fs::write(&path, "").unwrap();
        let text = describe(&path).unwrap().text;
        assert!(
            text.starts_with("0000000000000001.journal: 0 records"),
            "{text}"
        );
        let elsewhere = folder.path().join("nowhere/0000000000000001.journal");
        assert!(describe(&elsewhere).is_err());
        assert!(!folder.path().join("nowhere").exists());
    }

    #[test]
    fn records_that_are_none_of_a_buffer_are_listed_and_said_to_be_strange() {
        let fixture = format!("{FIXTURES}/journal/v1/0000000000000001.journal");
        let described = describe(Path::new(&fixture)).unwrap();
        let lines: Vec<&str> = described.text.lines().collect();
        assert_eq!(
            lines[0],
            "0000000000000001.journal: 18 records in 1008 bytes, sealed"
        );
        assert!(lines[1].contains(" file "), "{}", lines[1]);
        assert!(lines[4].contains("number 2: 10 bytes"), "{}", lines[4]);
        assert!(described.damaged);
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
