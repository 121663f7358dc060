//! Batches that were refused for ever, as files that `inspect` reads. Bounded: the oldest go.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::buffer::Place;

/// Files that are held.
const FILES_MAX: usize = 1_000;
/// Bytes of all of them together.
const BYTES_MAX: u64 = 64 << 20;

#[derive(Debug)]
pub(super) struct DeadLetters {
    folder: PathBuf,
    /// The oldest first.
    files: VecDeque<(OsString, u64)>,
    bytes: u64,
}

impl DeadLetters {
    /// Makes the folder, or finds what it holds.
    pub(super) fn open(folder: &Path) -> io::Result<DeadLetters> {
        fs::create_dir_all(folder)?;
        let mut found: Vec<(SystemTime, OsString, u64)> = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let about = entry.metadata()?;
            if about.is_file() {
                // Where a file system has no times, names decide.
                let changed = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                found.push((changed, entry.file_name(), about.len()));
            }
        }
        found.sort();
        let files = found.into_iter().map(|(_, name, bytes)| (name, bytes));
        let files: VecDeque<_> = files.collect();
        Ok(DeadLetters {
            folder: folder.to_owned(),
            bytes: files.iter().map(|(_, bytes)| bytes).sum(),
            files,
        })
    }

    /// Keeps a refused batch, durably. Returns how many older ones were removed to make room.
    pub(super) fn keep(&mut self, place: Place, batch: &[u8]) -> io::Result<u64> {
        let bytes = batch.len() as u64;
        let removed = self.make_room(FILES_MAX - 1, BYTES_MAX.saturating_sub(bytes))?;
        let (epoch, lane, number) = (place.epoch, place.lane.as_str(), place.to.0);
        let name = OsString::from(format!("{epoch}-{lane}-{number}.batch"));
        let mut file = File::create(self.folder.join(&name))?;
        // Counted even if it is not whole: it takes room.
        self.forget(&name);
        self.files.push_back((name, bytes));
        self.bytes += bytes;
        file.write_all(batch)?;
        file.sync_all()?;
        File::open(&self.folder)?.sync_all()?;
        Ok(removed)
    }

    fn make_room(&mut self, files_max: usize, bytes_max: u64) -> io::Result<u64> {
        let mut removed = 0;
        while self.files.len() > files_max || (self.bytes > bytes_max && !self.files.is_empty()) {
            let (name, bytes) = self.files.pop_front().expect("the loop saw it");
            self.bytes -= bytes;
            match fs::remove_file(self.folder.join(name)) {
                Ok(()) => removed += 1,
                // Somebody took care of it already.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    /// A file of this name is written anew.
    fn forget(&mut self, name: &OsStr) {
        if let Some(at) = self.files.iter().position(|(known, _)| known == name) {
            let (_, bytes) = self.files.remove(at).expect("it was found there");
            self.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::id::{BatchNumber, Epoch, Lane};

    fn place(number: u64) -> Place {
        Place {
            epoch: Epoch(1),
            lane: Lane::Live,
            from: BatchNumber(number),
            to: BatchNumber(number),
        }
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
    fn the_oldest_go_when_there_are_too_many_or_too_much() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("dead-letters");
        let mut letters = DeadLetters::open(&folder).unwrap();
        for number in 1..=4 {
            assert_eq!(letters.keep(place(number), b"batch").unwrap(), 0);
        }
        assert_eq!(letters.make_room(3, BYTES_MAX).unwrap(), 1);
        let held = ["2", "3", "4"].map(|number| format!("{}-live-{number}.batch", Epoch(1)));
        assert_eq!(names(&folder), held);
        // The same batch again is the same file.
        assert_eq!(letters.keep(place(3), b"batch").unwrap(), 0);
        assert_eq!((letters.files.len(), letters.bytes), (3, 15));
        assert_eq!(letters.make_room(3, 9).unwrap(), 2);
        assert_eq!(names(&folder), [format!("{}-live-3.batch", Epoch(1))]);
        assert_eq!((letters.files.len(), letters.bytes), (1, 5));
    }

    #[test]
    fn what_is_there_counts_after_a_start_and_may_be_taken_away() {
        let scratch = tempfile::tempdir().unwrap();
        let mut letters = DeadLetters::open(scratch.path()).unwrap();
        for number in 1..=3 {
            letters.keep(place(number), &[0; 100]).unwrap();
        }
        let mut letters = DeadLetters::open(scratch.path()).unwrap();
        assert_eq!((letters.files.len(), letters.bytes), (3, 300));
        for name in names(scratch.path()) {
            fs::remove_file(scratch.path().join(name)).unwrap();
        }
        assert_eq!(letters.make_room(0, 0).unwrap(), 0);
        assert_eq!(letters.keep(place(4), b"x").unwrap(), 0);
    }
}
