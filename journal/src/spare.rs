//! Files of zeros, made before the journal needs them: later syncs then write data and no metadata,
//! and a disk without room shows while there is still some to write to.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use crate::error::JournalError;
use crate::storage::{OpenMode, Storage, StorageFile};

/// A file that is being filled; it has no place in the journal yet.
pub(crate) const PREPARED: &str = "prepared.tmp";
const SPARE_PREFIX: &str = "spare-";
const SPARE_SUFFIX: &str = ".tmp";
const ZERO_BYTES: usize = 1 << 18;

/// A file and its present name.
pub(crate) type Spare = (String, Arc<dyn StorageFile>);

pub(crate) struct Spares {
    storage: Arc<dyn Storage>,
    file_bytes: u64,
    /// By the number in their names, which ascend.
    ready: VecDeque<(u64, Arc<dyn StorageFile>)>,
    /// There was no room on the disk when a file was last made.
    disk_full: bool,
}

fn spare_name(nth: u64) -> String {
    format!("{SPARE_PREFIX}{nth}{SPARE_SUFFIX}")
}

fn parse_name(name: &str) -> Option<u64> {
    let digits = name
        .strip_prefix(SPARE_PREFIX)?
        .strip_suffix(SPARE_SUFFIX)?;
    let nth = digits.parse().ok()?;
    (spare_name(nth) == name).then_some(nth)
}

impl Spares {
    pub(crate) fn new(storage: Arc<dyn Storage>, file_bytes: u64) -> Spares {
        Spares {
            storage,
            file_bytes,
            ready: VecDeque::new(),
            disk_full: false,
        }
    }

    /// Takes what an earlier opening made and did not need, and removes what it did not finish.
    pub(crate) fn find(&mut self, names: &[String]) -> Result<(), JournalError> {
        if names.iter().any(|name| name == PREPARED) {
            self.remove(PREPARED)?;
        }
        let mut found: Vec<u64> = names.iter().filter_map(|name| parse_name(name)).collect();
        found.sort_unstable();
        for nth in found {
            let name = spare_name(nth);
            let file = self.storage.open(&name, OpenMode::Existing);
            let file = file.map_err(JournalError::io("open a file"))?;
            let file_bytes = file.len();
            if file_bytes.map_err(JournalError::io("read a file's length"))? == self.file_bytes {
                self.ready.push_back((nth, file));
            } else {
                self.remove(&name)?;
            }
        }
        Ok(())
    }

    pub(crate) fn count(&self) -> usize {
        self.ready.len()
    }

    pub(crate) fn disk_full(&self) -> bool {
        self.disk_full
    }

    /// Whether the disk is full counts no more: what is needed of it is here.
    pub(crate) fn need_no_room(&mut self) {
        self.disk_full = false;
    }

    /// A file to go on in; `None`: there is none, and the disk is full.
    pub(crate) fn take(&mut self) -> Result<Option<Spare>, JournalError> {
        if let Some((nth, file)) = self.ready.pop_front() {
            return Ok(Some((spare_name(nth), file)));
        }
        let prepared = self.prepare()?;
        Ok(prepared.map(|file| (PREPARED.to_owned(), file)))
    }

    /// One more file that waits. `false`: the disk is full.
    pub(crate) fn add(&mut self) -> Result<bool, JournalError> {
        let Some(file) = self.prepare()? else {
            return Ok(false);
        };
        let nth = self.ready.back().map_or(0, |(nth, _)| nth + 1);
        // Its content is durable. If its name is not, there is one file less to begin with.
        self.storage
            .rename(PREPARED, &spare_name(nth))
            .map_err(JournalError::io("rename a file"))?;
        self.ready.push_back((nth, file));
        Ok(true)
    }

    /// A file under the name `PREPARED`; `None`: the disk is full, so nothing was lost.
    fn prepare(&mut self) -> Result<Option<Arc<dyn StorageFile>>, JournalError> {
        let filled = self.fill();
        let full = |error: &io::Error| error.kind() == io::ErrorKind::StorageFull;
        self.disk_full = filled.as_ref().is_err_and(full);
        match filled {
            Ok(file) => Ok(Some(file)),
            Err(_) if self.disk_full => {
                self.remove(PREPARED)?;
                Ok(None)
            }
            Err(error) => Err(JournalError::io("prepare a file")(error)),
        }
    }

    fn fill(&self) -> io::Result<Arc<dyn StorageFile>> {
        let file = self.storage.open(PREPARED, OpenMode::Create)?;
        file.set_len(0)?;
        let zeros = vec![0; ZERO_BYTES];
        let mut at = 0;
        while at < self.file_bytes {
            let left = usize::try_from(self.file_bytes - at).unwrap_or(usize::MAX);
            let chunk = &zeros[..left.min(ZERO_BYTES)];
            file.write_at(at, chunk)?;
            at += chunk.len() as u64;
        }
        file.sync()?;
        Ok(file)
    }

    fn remove(&self, name: &str) -> Result<(), JournalError> {
        self.storage
            .remove(name)
            .map_err(JournalError::io("remove a file"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimStorage;

    #[test]
    fn only_our_names_are_ours() {
        assert_eq!(parse_name(&spare_name(12)), Some(12));
        for other in ["spare-+1.tmp", "spare-01.tmp", "spare-.tmp", PREPARED] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }

    #[test]
    fn files_that_wait_are_found_again_and_others_removed() {
        let disk = SimStorage::new(1);
        let storage = disk.as_storage();
        let mut spares = Spares::new(Arc::clone(&storage), 4096);
        assert!(spares.add().unwrap() && spares.add().unwrap());
        storage.open(PREPARED, OpenMode::CreateNew).unwrap();
        let names = storage.list().unwrap();
        let mut found = Spares::new(Arc::clone(&storage), 4096);
        found.find(&names).unwrap();
        assert_eq!(found.count(), 2);
        assert_eq!(found.take().unwrap().unwrap().0, spare_name(0));
        assert!(found.add().unwrap());
        assert_eq!(found.ready.back().unwrap().0, 2);
        let names = storage.list().unwrap();
        Spares::new(Arc::clone(&storage), 8192)
            .find(&names)
            .unwrap();
        assert_eq!(storage.list().unwrap(), [""; 0]);
    }

    #[test]
    fn a_full_disk_is_found_to_have_room_again() {
        let disk = SimStorage::new(1);
        let mut spares = Spares::new(disk.as_storage(), 4096);
        disk.fill_up(4096);
        assert!(spares.add().unwrap());
        assert!(!spares.add().unwrap() && spares.disk_full());
        disk.fill_up(1 << 20);
        assert!(spares.add().unwrap() && !spares.disk_full());
    }
}
