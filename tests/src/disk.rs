//! A disk whose power can be cut: an ext4 of its own in a file, mounted by a loop device.
//!
//! A cut is the file system's own shutdown without a flush of its journal: what was synced is there
//! after the next mount, and what only the page cache knew is gone, as after a real one. The kernel
//! may still tell a sync under way at that moment that it went well, so whoever writes is to be
//! frozen before.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::{process, wait};

/// A process that was killed may hold its files a moment longer.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(20);
/// Harsher than a server's: a file renamed over another is not written out for it, and the journal
/// is not closed every 5 s. Who wants something kept has to say so.
const OPTIONS: &str = "loop,noauto_da_alloc,commit=300";
/// Inodes of a disk: files of a node in a test.
const FILES_MAX: &str = "8192";

/// A mounted file system, unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    place: PathBuf,
}

impl Disk {
    /// Makes a file system of so many bytes in the file `image` and mounts it at `place`, which is
    /// made too. The file is sparse.
    pub fn make(image: &Path, place: &Path, bytes: u64) -> Result<Disk, String> {
        let told = |e: std::io::Error| format!("{}: {e}", image.display());
        File::create(image)
            .and_then(|file| file.set_len(bytes))
            .map_err(told)?;
        let mut mkfs = Command::new("/sbin/mkfs.ext4");
        mkfs.args(["-q", "-F", "-N", FILES_MAX, "-m", "0"])
            .args(["-E", "lazy_itable_init=0,lazy_journal_init=0"])
            .arg(image);
        process::run(&mut mkfs)?;
        fs::create_dir_all(place).map_err(told)?;
        let disk = Disk {
            image: image.to_owned(),
            place: place.to_owned(),
        };
        disk.mount()?;
        // A node's own folder has nothing of others in it.
        fs::remove_dir(place.join("lost+found")).map_err(told)?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Bytes that can still be written.
    pub fn free_bytes(&self) -> Result<u64, String> {
        let mut command = Command::new("df");
        command
            .args(["--output=avail", "--block-size=1"])
            .arg(&self.place);
        let told = process::run(&mut command)?;
        let bytes = told
            .lines()
            .last()
            .and_then(|line| line.trim().parse().ok());
        bytes.ok_or_else(|| format!("df says {told:?}"))
    }

    /// Cuts its power. Nothing can be read or written until it is mounted again.
    pub fn cut(&self) -> Result<(), String> {
        let mut command = Command::new("/usr/sbin/xfs_io");
        command.args(["-x", "-c", "shutdown"]).arg(&self.place);
        process::run(&mut command).map(|_told| ())
    }

    /// Power is back: mounts it again. Nobody may have a file of it open.
    pub fn restore(&self) -> Result<(), String> {
        self.unmount()?;
        self.mount()
    }

    fn mount(&self) -> Result<(), String> {
        let mut command = Command::new("mount");
        command.args(["-t", "ext4", "-o", OPTIONS]);
        command.args([&self.image, &self.place]);
        process::run(&mut command).map(|_told| ())
    }

    fn unmount(&self) -> Result<(), String> {
        let mut last = String::new();
        wait::until("a disk is unmounted", UNMOUNT_LIMIT, || {
            let done = process::run(Command::new("umount").arg(&self.place));
            done.map_err(|busy| last = busy).ok()
        })
        .map(|_told| ())
        .map_err(|late| format!("{late}: {last}"))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.unmount().is_err() {
            // Then at least nobody finds it any more; it goes with its last file.
            let _ = process::run(Command::new("umount").arg("--lazy").arg(&self.place));
        }
    }
}

/// Why this machine has no disks to cut, if so: one is made and cut to see.
pub fn cannot() -> Option<String> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    let look = || {
        let why = forgets_what_was_not_synced().err()?;
        Some(format!(
            "no disk can be cut from power here ({why}): it needs root, loop devices, and \
             apt-get install xfsprogs e2fsprogs mount"
        ))
    };
    FOUND.get_or_init(look).clone()
}

fn forgets_what_was_not_synced() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let place = folder.path().join("disk");
    let disk = Disk::make(&folder.path().join("image"), &place, 16 << 20)?;
    let write = |name: &str, is_synced: bool| {
        let mut file = File::create(place.join(name))?;
        file.write_all(b"text")?;
        if is_synced { file.sync_all() } else { Ok(()) }
    };
    write("synced", true)
        .and_then(|()| write("not", false))
        .map_err(|e| e.to_string())?;
    disk.cut()?;
    disk.restore()?;
    let found = |name: &str| fs::read(place.join(name)).ok();
    match (found("synced").as_deref(), found("not")) {
        (Some(b"text"), None) => Ok(()),
        (synced, not) => Err(format!("after a cut there is {synced:?} and {not:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::skip::skip;

    #[test]
    fn a_cut_takes_what_was_not_synced_and_nothing_else() {
        if let Some(why) = cannot() {
            skip(&why);
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("disk");
        let disk = Disk::make(&folder.path().join("image"), &place, 16 << 20).unwrap();
        fs::write(disk.place().join("file"), "text").unwrap();
        disk.cut().unwrap();
        assert!(fs::write(place.join("other"), "text").is_err());
        drop(disk);
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        assert!(!mounts.contains(place.to_str().unwrap()), "{mounts}");
    }
}
