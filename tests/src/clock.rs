//! The wall clock of one process, as libfaketime has it read one: a file with how many seconds it
//! is ahead.

use std::fs;
use std::path::{Path, PathBuf};

/// A clock that lies; right at first.
#[derive(Debug, Clone)]
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    /// A clock kept in this file.
    pub fn set(file: PathBuf, ahead_seconds: i64) -> Clock {
        let clock = Clock { file };
        clock.step(ahead_seconds);
        clock
    }

    /// # Panics
    /// If its file cannot be written.
    pub fn step(&self, ahead_seconds: i64) {
        // Moved into place: the process reads it whenever it asks for the time.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{ahead_seconds:+}\n"))
            .and_then(|()| fs::rename(&new, &self.file))
            .expect("a clock's file can be written");
    }

    /// What makes a process go by this clock.
    pub fn environment(&self, library: &Path) -> Vec<(String, String)> {
        let variables = [
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            // Only the wall clock lies; the name of the switch has changed once.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        variables.map(|(key, value)| (key.to_owned(), value)).into()
    }
}

/// Where Debian's package puts the library that lies about the time.
pub fn library() -> Result<PathBuf, String> {
    let files = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut files = files.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    files
        .find(|file| file.is_file())
        .ok_or_else(|| "libfaketime cannot be found: apt-get install faketime".to_owned())
}
