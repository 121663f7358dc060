//! What was damaged in the buffer, put aside for people: as many files and bytes as fit.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use journal::Skipped;

use super::Keeper;
use crate::buffer::{Place, Source};

pub(crate) const FOLDER: &str = "damaged";
const FILES_MAX: usize = 256;
const BYTES_MAX: u64 = 16 << 20;

/// The folder of damaged records.
pub(super) struct Quarantine {
    path: PathBuf,
    files: usize,
    bytes: u64,
}

impl Quarantine {
    /// The folder below `data_dir`, made when it is needed.
    pub(super) fn open(data_dir: &Path) -> io::Result<Quarantine> {
        let path = data_dir.join(FOLDER);
        let (mut files, mut bytes) = (0, 0);
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                files += 1;
                bytes += entry?.metadata()?.len();
            }
        }
        Ok(Quarantine { path, files, bytes })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts bytes aside under this name, once, if there is room. They are of use to people only, so
    /// nothing depends on it.
    pub(super) fn put(&mut self, name: &str, bytes: &[u8]) {
        let size = bytes.len() as u64;
        if self.files >= FILES_MAX || self.bytes + size > BYTES_MAX {
            tracing::warn!(file = name, "there is no room to put damaged bytes aside");
            return;
        }
        match self.write(name, bytes) {
            Ok(()) => {
                self.files += 1;
                self.bytes += size;
            }
            // It was put aside at an earlier start.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => tracing::warn!(file = name, %error, "damaged bytes cannot be put aside"),
        }
    }

    /// Puts aside what a scan passed over.
    pub(super) fn put_skipped(&mut self, skipped: &Skipped) {
        let name = format!("{}-{}", skipped.file, skipped.offset);
        self.put(&name, &skipped.bytes);
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.path)?;
        let mut file = File::create_new(self.path.join(name))?;
        file.write_all(bytes)?;
        file.sync_all()
    }
}

impl Keeper {
    /// A batch cannot be read back: what stands in its place on disk is put aside.
    pub(super) fn set_aside(&mut self, place: Place) {
        let Some(Source::Disk(position)) = self.buffer.source(place) else {
            return;
        };
        let name = format!("{:016x}.journal-{}", position.file(), position.offset());
        match self.disk.handle.reader().read_raw(position) {
            Ok(bytes) => self.folder.quarantine.put(&name, &bytes),
            Err(error) => tracing::warn!(file = name, %error, "damaged bytes cannot be put aside"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_bytes_are_put_aside_once_and_within_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let mut quarantine = Quarantine::open(folder.path()).unwrap();
        assert!(!quarantine.path().exists());
        quarantine.put("a", &[1; 10]);
        quarantine.put("a", &[2; 10]);
        assert_eq!(fs::read(quarantine.path().join("a")).unwrap(), [1; 10]);
        let half = vec![0; usize::try_from(BYTES_MAX / 2).unwrap()];
        for name in ["b", "c"] {
            quarantine.put(name, &half);
        }
        assert!(!quarantine.path().join("c").exists());
        for nth in 0..FILES_MAX {
            quarantine.put(&format!("small-{nth}"), &[3]);
        }
        let again = Quarantine::open(folder.path()).unwrap();
        assert_eq!((again.files, again.bytes), (FILES_MAX, quarantine.bytes));
    }
}
