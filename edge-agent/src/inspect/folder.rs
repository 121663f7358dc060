//! An agent's data folder, as a start of the agent would find it.
//!
//! Takes no lock, so the agent may run: a file that it lets go of while it is read is passed over,
//! with whatever was seen in it.

use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::path::Path;

use journal::{DiskStorage, JournalError, Storage};

use super::{CANNOT_FAIL, Description, InspectError};
use crate::buffer::Inventory;
use crate::clock::memory;
use crate::keeper::folder::{DAMAGED, DEAD_LETTERS, JOURNAL};
use crate::keeper::quarantine;

/// Names of files that are listed; the rest is counted.
const NAMES_MAX: usize = 32;

/// Describes an agent's data folder, or the folder of its journal.
pub(super) fn describe(path: &Path) -> Result<Description, InspectError> {
    let journal = path.join(JOURNAL);
    if journal.is_dir() {
        let mut described = describe_journal(&journal, true)?;
        let aside = put_beside(&mut described.text, path).map_err(|source| InspectError::Read {
            path: path.to_owned(),
            source,
        })?;
        described.damaged |= aside;
        return Ok(described);
    }
    describe_journal(path, false)
}

/// A folder without files is that of a journal only if its name says so.
fn describe_journal(path: &Path, may_be_empty: bool) -> Result<Description, InspectError> {
    let unreadable = |source| InspectError::Read {
        path: path.to_owned(),
        source,
    };
    let storage = DiskStorage::open_read_only(path).map_err(unreadable)?;
    let files = journal::inspect::files(storage.as_ref()).map_err(unreadable)?;
    if !may_be_empty && files.is_empty() {
        let path = path.to_owned();
        return Err(InspectError::NotADataFolder { path });
    }
    let mut seen = Seen::default();
    let mut text = format!("journal: {} files in {}\n", files.len(), path.display());
    let mut next = None;
    for (nth, (generation, name)) in files.iter().enumerate() {
        if next.is_some_and(|next| next != *generation) {
            seen.damaged = true;
            writeln!(text, "  a file before {name} is missing").expect(CANNOT_FAIL);
        }
        next = generation.checked_add(1);
        let successor = files.get(nth + 1).map(|(_, name)| name.as_str());
        let line = seen.file(storage.as_ref(), name, *generation, successor);
        let line = line.map_err(|source| InspectError::Journal {
            path: path.join(name),
            source,
        })?;
        writeln!(text, "  {line}").expect(CANNOT_FAIL);
    }
    if seen.damaged {
        seen.inventory.damaged();
    }
    text.push_str(&seen.inventory.into_text());
    Ok(Description {
        text,
        damaged: seen.damaged,
    })
}

/// What was found so far.
#[derive(Default)]
struct Seen {
    inventory: Inventory,
    damaged: bool,
}

impl Seen {
    /// Takes the records of a file. Returns the line that tells of it.
    fn file(
        &mut self,
        storage: &dyn Storage,
        name: &str,
        generation: u64,
        successor: Option<&str>,
    ) -> Result<String, JournalError> {
        let inventory = &mut self.inventory;
        let mut refused = None;
        let described = journal::inspect::describe(storage, name, &mut |record, payload| {
            if record.is_own() {
                return;
            }
            let visited = inventory.visit(record.position(generation), record.head, payload);
            if let Err(error) = visited
                && refused.is_none()
            {
                refused = Some(error);
            }
        });
        // A file that is used again has another name and other records by now.
        let kept = storage
            .list()
            .is_ok_and(|names| names.iter().any(|known| known == name));
        match described {
            Ok(_) if !kept => Ok(format!("{name}: let go of while it was read")),
            Err(error) if is_gone(&error) => Ok(format!("{name}: let go of before it was read")),
            Ok(described) => {
                self.damaged |= described.damage.is_some() || refused.is_some();
                let mut line = described.to_string();
                if let Some(error) = refused {
                    write!(line, "; {error}").expect(CANNOT_FAIL);
                }
                if let Some(successor) = successor.filter(|_| !described.sealed) {
                    self.damaged = true;
                    write!(line, "; damaged at its end, for {successor} follows")
                        .expect(CANNOT_FAIL);
                }
                Ok(line)
            }
            Err(error) => Err(error),
        }
    }
}

fn is_gone(error: &JournalError) -> bool {
    let not_found = io::ErrorKind::NotFound;
    matches!(error, JournalError::Io { source, .. } if source.kind() == not_found)
}

/// What else the data folder holds. Returns whether something damaged was put aside.
fn put_beside(text: &mut String, path: &Path) -> io::Result<bool> {
    match memory::last_good(path) {
        Some(time) => writeln!(text, "clock: it was {} ns when it was last known", time.0),
        None => writeln!(text, "clock: no time of day is remembered"),
    }
    .expect(CANNOT_FAIL);
    let letters = files_in(&path.join(DEAD_LETTERS))?;
    put_files(text, "dead letters", &letters).expect(CANNOT_FAIL);
    let damaged = files_in(&path.join(quarantine::FOLDER))?;
    put_files(text, "damaged records, put aside", &damaged).expect(CANNOT_FAIL);
    let mut any = !damaged.is_empty();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(DAMAGED) {
            any = true;
            writeln!(text, "a damaged journal, set aside: {name}").expect(CANNOT_FAIL);
        }
    }
    Ok(any)
}

/// Names and bytes of the files in a folder, sorted; none if there is no folder.
fn files_in(folder: &Path) -> io::Result<Vec<(String, u64)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        // It may be gone by now.
        if let Ok(about) = entry.metadata()
            && about.is_file()
        {
            files.push((
                entry.file_name().to_string_lossy().into_owned(),
                about.len(),
            ));
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn put_files(text: &mut String, what: &str, files: &[(String, u64)]) -> fmt::Result {
    let bytes: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    writeln!(text, "{what}: {} files, {bytes} bytes", files.len())?;
    for (name, bytes) in files.iter().take(NAMES_MAX) {
        writeln!(text, "  {name}: {bytes} bytes")?;
    }
    if files.len() > NAMES_MAX {
        writeln!(text, "  and {} more", files.len() - NAMES_MAX)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use journal::{Journal, Options};
    use shared::id::{Epoch, TimeNs};
    use std::time::Duration;

    use super::*;
    use crate::buffer::{Buffer, BufferOptions, Classes, DiskWork, Recovery};

    /// A data folder whose agent has begun an epoch.
    fn data_folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            file_bytes: 64 << 10,
            files_max: 4,
        };
        let storage = DiskStorage::open(folder.path().join(JOURNAL)).unwrap();
        let mut journal = Journal::open(storage, options, &mut |_, _, _| Ok(())).unwrap();
        let options = BufferOptions {
            dir: folder.path().to_owned(),
            bytes_max: 1 << 20,
            ram_bytes_max: 1 << 20,
            max_unsafe: Duration::ZERO,
            classes: Classes::default(),
            entries_near: 16,
        };
        let recovery = Recovery::default();
        let mut buffer = Buffer::new(options, recovery, Epoch(7), Duration::ZERO, TimeNs(9));
        if let Some(DiskWork::Append(records)) = buffer.next_sync(Duration::ZERO, true) {
            for one in records {
                journal.append(one.head, &one.payload).unwrap();
            }
        }
        journal.sync().unwrap();
        memory::remember(folder.path(), TimeNs(1_764)).unwrap();
        folder
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_data_folder_tells_its_epochs_and_what_lies_beside_them() {
        let folder = data_folder();
        let letters = folder.path().join(DEAD_LETTERS);
        fs::create_dir(&letters).unwrap();
        fs::write(letters.join("a.batch"), "abc").unwrap();
        let before = names(folder.path());
        let described = describe(folder.path()).unwrap();
        for part in [
            "journal: 1 files in ",
            "  0000000000000001.journal: ",
            "epoch 0000000000000007: order ",
            "clock: it was 1764 ns",
            "dead letters: 1 files, 3 bytes\n  a.batch: 3 bytes",
        ] {
            assert!(described.text.contains(part), "{part}: {}", described.text);
        }
        assert!(!described.damaged, "{}", described.text);
        assert_eq!(names(folder.path()), before, "nothing is made");
        let journal = describe(&folder.path().join(JOURNAL)).unwrap();
        assert!(described.text.starts_with(&journal.text));
    }

    #[test]
    fn damage_in_the_journal_is_told() {
        let folder = data_folder();
        fs::create_dir(folder.path().join("journal-damaged-7")).unwrap();
        let described = describe(folder.path()).unwrap();
        assert!(described.text.contains("set aside: journal-damaged-7"));
        assert!(described.damaged);
        let file = folder.path().join(JOURNAL).join("0000000000000001.journal");
        let later = folder.path().join(JOURNAL).join("0000000000000003.journal");
        fs::copy(file, later).unwrap();
        let text = describe(folder.path()).unwrap().text;
        assert!(text.contains("a file before 0000000000000003.journal is missing"));
    }

    #[test]
    fn another_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = describe(folder.path()).unwrap_err().to_string();
        assert!(error.contains("holds no journal"), "{error}");
        assert!(names(folder.path()).is_empty());
    }
}
