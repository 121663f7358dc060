//! Describes a file of a journal, for people: `inspect` commands print it. Reads only.

use std::fmt;
use std::io;

use crate::error::JournalError;
use crate::files::{Position, file_name, parse_name};
use crate::record::{KIND_FILE, KIND_FILLER, KIND_OPEN, KIND_OWN_MIN, KIND_SEAL, RecordHead};
use crate::recover::{self, Beside, Skipped};
use crate::storage::{OpenMode, Storage};

/// One record in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordInfo {
    pub offset: u32,
    pub length: u32,
    pub head: RecordHead,
    /// The file was known to be synced up to here when the record was written.
    pub synced: u32,
    pub crc: u32,
}

impl RecordInfo {
    /// Where it stands, in the file of that generation.
    pub fn position(&self, generation: u64) -> Position {
        Position {
            generation,
            offset: self.offset,
            length: self.length,
        }
    }

    /// Whether it is one of the journal's own and not its owner's.
    pub fn is_own(&self) -> bool {
        self.head.kind >= KIND_OWN_MIN
    }
}

/// The generations and names of the files of a journal, in the order of their records.
///
/// # Errors
/// The folder cannot be listed.
pub fn files(storage: &dyn Storage) -> io::Result<Vec<(u64, String)>> {
    let named = |name: String| Some((parse_name(&name)?, name));
    let mut files: Vec<(u64, String)> = storage.list()?.into_iter().filter_map(named).collect();
    files.sort_unstable();
    Ok(files)
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub name: String,
    pub generation: u64,
    /// End of the last good record.
    pub end: u32,
    /// It ends in a seal: it has, or is about to have, a successor.
    pub sealed: bool,
    pub records: u64,
    /// Openings of the journal so far, as of this file.
    pub opens: u64,
    /// The damage, if there is any: `Rot` or a later version.
    pub damage: Option<String>,
}

/// Describes one file by its name and shows `visit` every good record in it, and its payload. Damage
/// is passed over as far as what follows can be read.
///
/// # Errors
/// `Misuse` for a name that is no journal's; `Io`. Damage is part of the description.
pub fn describe(
    storage: &dyn Storage,
    name: &str,
    visit: &mut dyn FnMut(RecordInfo, &[u8]),
) -> Result<Description, JournalError> {
    let generation = parse_name(name).ok_or(JournalError::Misuse {
        what: "a journal's file is named <16 hex digits>.journal",
    })?;
    let file = storage
        .open(name, OpenMode::Existing)
        .map_err(JournalError::io("open a file"))?;
    let mut records = 0;
    let mut skipped = Vec::new();
    let (beside, told) = (Beside::default(), Some(&mut skipped));
    let scanned = recover::scan(file.as_ref(), generation, beside, told, &mut |seen| {
        records += 1;
        let info = RecordInfo {
            offset: seen.offset,
            length: seen.header.length,
            head: seen.header.head,
            synced: seen.header.synced,
            crc: seen.header.crc,
        };
        visit(info, seen.payload);
        Ok(())
    });
    let (scanned, damage) = match scanned {
        Ok(scanned) => (scanned, damage(&skipped)),
        Err(error @ (JournalError::Rot { .. } | JournalError::Version { .. })) => {
            (recover::Scanned::default(), Some(error.to_string()))
        }
        Err(other) => return Err(other),
    };
    Ok(Description {
        name: file_name(generation),
        generation,
        end: scanned.end,
        sealed: scanned.sealed,
        records,
        opens: scanned.opens,
        damage,
    })
}

/// Where something that had been synced is bad.
fn damage(skipped: &[Skipped]) -> Option<String> {
    let place = |one: &Skipped| format!("{} bytes at {}", one.length, one.offset);
    let places: Vec<String> = skipped.iter().map(place).collect();
    (!places.is_empty()).then(|| format!("damaged where it was synced: {}", places.join(", ")))
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.sealed { "sealed" } else { "open" };
        write!(
            f,
            "{}: {} records in {} bytes, {end}",
            self.name, self.records, self.end
        )?;
        match &self.damage {
            Some(damage) => write!(f, "; {damage}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for RecordInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RecordInfo {
            offset,
            length,
            head,
            synced,
            crc,
        } = self;
        let kind = match head.kind {
            KIND_FILE => "file".to_owned(),
            KIND_OPEN => "open".to_owned(),
            KIND_SEAL => "seal".to_owned(),
            KIND_FILLER => "filler".to_owned(),
            kind => format!("kind {kind}"),
        };
        let RecordHead { group, number, .. } = head;
        write!(
            f,
            "{offset:>10} {kind:<8} group {group} number {number}: {length} bytes, "
        )?;
        write!(f, "synced to {synced}, crc {crc:08x}")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::journal::{Journal, Options};
    use crate::sim::SimStorage;
    use crate::storage::StorageFile;

    const FILES: [&str; 2] = ["0000000000000001.journal", "0000000000000002.journal"];

    /// Bytes that were once written and must be read for ever.
    fn golden() -> SimStorage {
        let disk = SimStorage::new(1);
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/journal/v1");
        for name in FILES {
            let bytes = fs::read(format!("{folder}/{name}")).unwrap();
            let file = disk.as_storage().open(name, OpenMode::CreateNew).unwrap();
            StorageFile::write_at(file.as_ref(), 0, &bytes).unwrap();
        }
        disk
    }

    #[test]
    fn golden_files_are_described() {
        let disk = golden();
        let mut lines = Vec::new();
        let mut show = |name: &str| {
            let visit = &mut |record: RecordInfo, _: &[u8]| lines.push(record.to_string());
            describe(disk.as_storage().as_ref(), name, visit)
                .unwrap()
                .to_string()
        };
        assert_eq!(
            FILES.map(&mut show),
            [
                "0000000000000001.journal: 18 records in 1008 bytes, sealed",
                "0000000000000002.journal: 14 records in 880 bytes, open",
            ]
        );
        let expected = "       120 kind 2   group 1 number 2: 10 bytes, synced to 48, crc ";
        assert!(lines[3].starts_with(expected), "{}", lines[3]);
        assert!(lines[17].contains(" seal "), "{}", lines[17]);
    }

    #[test]
    fn golden_files_are_read_as_what_was_written() {
        let options = Options {
            file_bytes: 1 << 10,
            files_max: 4,
        };
        let mut found = Vec::new();
        let visit = &mut |_, head: RecordHead, payload: &[u8]| {
            found.push((head.group, head.kind, head.number, payload.to_vec()));
            Ok(())
        };
        drop(Journal::open(golden().as_storage(), options, visit).unwrap());
        let before = (0..3_u8).map(|n| (1, 2, u64::from(n), vec![n + 1; usize::from(n) * 5]));
        let behind = (0..25).map(|n| (1, 2, n, vec![7; 32]));
        assert_eq!(found, before.chain(behind).collect::<Vec<_>>());
    }

    #[test]
    fn damage_is_part_of_the_description() {
        let disk = golden();
        assert!(disk.flip_bit(FILES[0], 130 * 8));
        let mut behind = 0;
        let count = &mut |record: RecordInfo, _: &[u8]| behind += u32::from(record.offset > 130);
        let described = describe(disk.as_storage().as_ref(), FILES[0], count).unwrap();
        assert!(described.damage.is_some(), "{described}");
        assert!(behind > 0, "what follows is shown");
    }
}
