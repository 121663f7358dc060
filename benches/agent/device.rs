//! A file system of its own on a loop device, so that every byte that reaches the "flash" counts,
//! those of the file system's journal too.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SECTOR_BYTES: u64 = 512;
/// Sectors written, in `/sys/block/*/stat` (kernel documentation, block/stat).
const SECTORS_WRITTEN: usize = 6;

/// Mounted until dropped.
pub(crate) struct Device {
    mount: PathBuf,
    name: String,
}

impl Device {
    /// An ext4 of this size in `folder`, under a name of its own, with these options.
    pub(crate) fn mount(
        folder: &Path,
        name: &str,
        bytes: u64,
        options: &str,
    ) -> Result<Device, Box<dyn Error>> {
        let image = folder.join(format!("{name}.img"));
        let mount = folder.join(name);
        fs::File::create(&image)?.set_len(bytes)?;
        fs::create_dir_all(&mount)?;
        // All tables are written now: nothing that the kernel does later counts as the agent's.
        let tables = "lazy_itable_init=0,lazy_journal_init=0";
        run(Command::new("mkfs.ext4")
            .args(["-q", "-E", tables])
            .arg(&image))?;
        run(Command::new("mount")
            .args(["-o", &format!("loop,{options}")])
            .arg(&image)
            .arg(&mount))?;
        let devices = run(Command::new("losetup")
            .args(["-n", "-O", "NAME", "-j"])
            .arg(&image))?;
        let name = devices.trim().trim_start_matches("/dev/").to_owned();
        Ok(Device { mount, name })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.mount
    }

    /// Bytes written to the device so far, after all that is on its way has been written.
    pub(crate) fn written(&self) -> Result<u64, Box<dyn Error>> {
        run(Command::new("sync").arg("-f").arg(&self.mount))?;
        let stat = fs::read_to_string(format!("/sys/block/{}/stat", self.name))?;
        let sectors = stat.split_whitespace().nth(SECTORS_WRITTEN);
        let sectors: u64 = sectors.ok_or("an unknown form of block/stat")?.parse()?;
        Ok(sectors * SECTOR_BYTES)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // A mount that stays is seen by whoever removes the folder.
        let _ = run(Command::new("umount").arg(&self.mount));
    }
}

fn run(command: &mut Command) -> Result<String, Box<dyn Error>> {
    Ok(tests::process::run(command)?)
}
