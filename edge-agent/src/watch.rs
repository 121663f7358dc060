//! Whether files have changed since they were last used: by time, length and inode, looked at every
//! few seconds. A change counts once two looks in a row saw the same: a file that is being written
//! is not read in between, nor a new certificate without its key.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Between two looks.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Tells one state of a file from another; behind a symbolic link, of what it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

/// `None`: it is not there.
pub(crate) type Stamps = Vec<Option<Stamp>>;

/// What was seen of some files. It begins with nothing used: the first look that sees them at rest
/// is a change, because they may have changed between their first use and the first look.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    used: Option<Stamps>,
    seen: Option<Stamps>,
}

impl Watched {
    /// They are used as they are now, at rest or not.
    pub(crate) fn take(&mut self, now: Stamps) {
        self.used = Some(now.clone());
        self.seen = Some(now);
    }

    /// `true` if they have changed and are at rest. They count as used then.
    pub(crate) fn look(&mut self, now: Stamps) -> bool {
        let rests = self.seen.as_ref() == Some(&now);
        self.seen = Some(now);
        let changed = rests && self.used != self.seen;
        if changed {
            self.used.clone_from(&self.seen);
        }
        changed
    }
}

/// Local files, and few: not worth another thread.
pub(crate) fn stamps<'a>(files: impl IntoIterator<Item = &'a Path>) -> Stamps {
    let stamp = |file: &Path| {
        let metadata = std::fs::metadata(file).ok()?;
        Some(Stamp {
            modified: metadata.modified().ok(),
            bytes: metadata.len(),
            inode: metadata.ino(),
        })
    };
    files.into_iter().map(stamp).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_once_it_rests_and_only_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.toml");
        let look = |watched: &mut Watched| watched.look(stamps([file.as_path()]));
        let mut watched = Watched::default();
        assert!(!look(&mut watched));
        assert!(look(&mut watched), "nothing was used before");
        assert!(!look(&mut watched));

        std::fs::write(&file, "a").unwrap();
        assert!(!look(&mut watched), "it may be in the making");
        std::fs::write(&file, "ab").unwrap();
        assert!(!look(&mut watched), "it was");
        assert!(look(&mut watched));
        assert!(!look(&mut watched));

        let other = folder.path().join("other");
        std::fs::write(&other, "cd").unwrap();
        std::fs::rename(&other, &file).unwrap();
        assert!(!look(&mut watched));
        assert!(look(&mut watched), "another file of that name and length");

        std::fs::write(&file, "longer").unwrap();
        watched.take(stamps([file.as_path()]));
        assert!(!look(&mut watched), "it was used");
    }
}
