//! The seam to the disk: one directory of files. `DiskStorage` is the real one, `sim::SimStorage`
//! the double that loses power.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// How [`Storage::open`] treats a file that is there, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// It must exist.
    Existing,
    /// Made if absent, kept as it is otherwise.
    Create,
    /// It must not exist.
    CreateNew,
}

/// One directory. A name, a rename or a removal is durable after `sync_directory`, never before.
pub trait Storage: Send + Sync + 'static {
    /// Names of the files in this directory, sorted, without sub-directories.
    fn list(&self) -> io::Result<Vec<String>>;
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>>;
    /// Replaces `to` if it exists. Open handles follow the file.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    fn sync_directory(&self) -> io::Result<()>;
    /// A sub-directory, made (and made durable) if absent.
    fn directory(&self, name: &str) -> io::Result<Arc<dyn Storage>>;
}

/// One open file. Bytes are durable after `sync`, never before.
pub trait StorageFile: Send + Sync + 'static {
    fn len(&self) -> io::Result<u64>;
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Fills `buf` or fails.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    /// Writes all of `data`; past the end the file grows.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// `fdatasync`: what was written before is on the disk when this returns `Ok`.
    fn sync(&self) -> io::Result<()>;
}

/// A directory of the operating system.
#[derive(Debug)]
pub struct DiskStorage {
    path: PathBuf,
    /// Nothing is made or changed.
    read_only: bool,
}

struct DiskFile {
    file: fs::File,
}

impl DiskStorage {
    /// Opens a directory, making it if absent. Whoever owns it locks it: this does not.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Arc<dyn Storage>> {
        let path = path.as_ref();
        if !path.is_dir() {
            fs::create_dir_all(path)?;
            if let Some(parent) = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
            {
                fs::File::open(parent)?.sync_all()?;
            }
        }
        Ok(Arc::new(DiskStorage {
            path: path.to_path_buf(),
            read_only: false,
        }))
    }

    /// Opens a directory that is there, to look at what another process may be writing: whatever
    /// would change it fails with `PermissionDenied`.
    ///
    /// # Errors
    /// It is no directory.
    pub fn open_read_only(path: impl AsRef<Path>) -> io::Result<Arc<dyn Storage>> {
        let path = path.as_ref();
        if !fs::metadata(path)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Arc::new(DiskStorage {
            path: path.to_path_buf(),
            read_only: true,
        }))
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.read_only {
            Err(io::ErrorKind::PermissionDenied.into())
        } else {
            Ok(())
        }
    }

    /// The path of a plain name: separators and `..` never leave the directory.
    fn at(&self, name: &str) -> io::Result<PathBuf> {
        let mut parts = Path::new(name).components();
        match (parts.next(), parts.next()) {
            (Some(Component::Normal(_)), None) => Ok(self.path.join(name)),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{name:?} is no name"),
            )),
        }
    }
}

impl Storage for DiskStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(!self.read_only);
        if mode != OpenMode::Existing {
            self.check_writable()?;
        }
        match mode {
            OpenMode::Existing => {}
            OpenMode::Create => {
                options.create(true);
            }
            OpenMode::CreateNew => {
                options.create_new(true);
            }
        }
        Ok(Arc::new(DiskFile {
            file: options.open(self.at(name)?)?,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check_writable()?;
        fs::rename(self.at(from)?, self.at(to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check_writable()?;
        fs::remove_file(self.at(name)?)
    }

    fn sync_directory(&self) -> io::Result<()> {
        fs::File::open(&self.path)?.sync_all()
    }

    fn directory(&self, name: &str) -> io::Result<Arc<dyn Storage>> {
        if self.read_only {
            DiskStorage::open_read_only(self.at(name)?)
        } else {
            DiskStorage::open(self.at(name)?)
        }
    }
}

impl StorageFile for DiskFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_never_leave_the_directory() {
        let disk = DiskStorage {
            path: PathBuf::from("/nowhere"),
            read_only: false,
        };
        for bad in ["", ".", "..", "../x", "a/b", "/etc/passwd"] {
            assert!(disk.at(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            disk.at("a.journal").unwrap(),
            Path::new("/nowhere/a.journal")
        );
    }

    #[test]
    fn what_is_looked_at_stays_as_it_is() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/journal/v1");
        assert!(DiskStorage::open_read_only(format!("{folder}/nowhere")).is_err());
        let disk = DiskStorage::open_read_only(folder).unwrap();
        let name = "0000000000000001.journal";
        let mut magic = [0; 2];
        let file = disk.open(name, OpenMode::Existing).unwrap();
        file.read_at(0, &mut magic).unwrap();
        assert_eq!(magic, *b"TJ");
        assert!(file.write_at(0, b"TJ").is_err());
        assert!(disk.open("new", OpenMode::Create).is_err());
        assert!(disk.remove("no-such-file").is_err());
        assert!(disk.directory("new").is_err());
        assert!(!disk.list().unwrap().iter().any(|name| name == "new"));
    }
}
