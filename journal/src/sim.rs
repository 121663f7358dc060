//! A storage that loses power: the double behind every crash test. Seeded and deterministic.
//!
//! What a power cut forgets: bytes not synced (each 512-byte sector on its own may survive or
//! not), and names, renames and removals since the last `sync_directory` (a prefix survives). A
//! failed sync drops the dirty pages, as Linux does: the bytes stay readable, and a later sync that
//! succeeds does not write them.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::storage::{OpenMode, Storage, StorageFile};

const SECTOR_BYTES: u64 = 512;

/// A directory that exists only in memory. Clones are the same directory.
#[derive(Clone)]
pub struct SimStorage {
    disk: Arc<Mutex<Disk>>,
    /// `""` or `"sub/"`.
    prefix: String,
}

struct SimFile {
    disk: Arc<Mutex<Disk>>,
    inode: u64,
    boot: u64,
}

#[derive(Default)]
struct Disk {
    random: u64,
    inodes: BTreeMap<u64, Inode>,
    inode_next: u64,
    /// As a running program sees it.
    names: BTreeMap<String, u64>,
    /// As the platter has it.
    names_durable: BTreeMap<String, u64>,
    changes: Vec<Change>,
    /// Counts power cuts: a handle of an earlier boot is dead.
    boot: u64,
    operations: u64,
    bytes_read: u64,
    forgotten: u64,
    cut_at: Option<u64>,
    off: bool,
    writes_until_failure: Option<u64>,
    syncs_until_failure: Option<u64>,
    bytes_left: Option<u64>,
    copies_on_write: bool,
    gives_back: bool,
    files_open: usize,
    files_open_max: Option<usize>,
}

#[derive(Default)]
struct Inode {
    current: Vec<u8>,
    durable: Vec<u8>,
    dirty: Vec<Dirty>,
    unreadable: Vec<Range<u64>>,
}

impl Inode {
    fn is_unreadable(&self, read: &Range<u64>) -> bool {
        self.unreadable.iter().any(|range| overlap(range, read))
    }
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

enum Dirty {
    Write { offset: u64, data: Vec<u8> },
    SetLen(u64),
}

enum Change {
    Name { name: String, inode: u64 },
    Rename { from: String, to: String },
    Remove { name: String },
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Change::Name { name, inode } => {
                names.insert(name.clone(), *inode);
            }
            Change::Rename { from, to } => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            Change::Remove { name } => {
                names.remove(name);
            }
        }
    }

    fn is_in(&self, prefix: &str) -> bool {
        let (Change::Name { name, .. } | Change::Remove { name } | Change::Rename { to: name, .. }) =
            self;
        in_directory(name, prefix)
    }
}

fn in_directory(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|rest| !rest.contains('/'))
}

fn put(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let from = usize::try_from(offset).expect("simulated files are small");
    if bytes.len() < from + data.len() {
        bytes.resize(from + data.len(), 0);
    }
    bytes[from..from + data.len()].copy_from_slice(data);
}

impl Dirty {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Dirty::Write { offset, data } => put(bytes, *offset, data),
            Dirty::SetLen(len) => {
                bytes.resize(usize::try_from(*len).expect("simulated files are small"), 0);
            }
        }
    }
}

impl Disk {
    /// SplitMix64: enough to choose what a power cut takes.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Counts an operation that changes the disk. `Err` once the power is gone; the operation
    /// during which it goes is half done by its caller.
    fn power(&mut self) -> io::Result<bool> {
        if self.off {
            return Err(io::Error::other("the power is off"));
        }
        self.operations += 1;
        self.off = self.cut_at == Some(self.operations);
        Ok(!self.off)
    }

    fn alive(&self, boot: u64) -> io::Result<()> {
        if self.off || self.boot != boot {
            return Err(io::Error::other("the power went"));
        }
        Ok(())
    }

    /// What of the un-synced operations reaches the platter when nothing orders it to.
    fn lose(&mut self, dirty: &[Dirty], bytes: &mut Vec<u8>) {
        // 0: nothing survives, 1: all, 2: every sector on its own, 3: a prefix, its last write torn.
        let fate = self.below(4);
        let whole = if fate == 3 {
            self.below(dirty.len() as u64)
        } else {
            0
        };
        for (nth, operation) in dirty.iter().enumerate() {
            let nth = nth as u64;
            self.forgotten += u64::from(fate != 1);
            match (fate, operation) {
                (0, _) => {}
                (3, _) if nth > whole => {}
                (3, _) if nth < whole => operation.apply(bytes),
                (2 | 3, Dirty::Write { offset, data }) => self.tear(*offset, data, bytes),
                (2, Dirty::SetLen(_)) if self.below(2) == 0 => {}
                _ => operation.apply(bytes),
            }
        }
    }

    /// Writes some sectors of a write and not the others.
    fn tear(&mut self, offset: u64, data: &[u8], bytes: &mut Vec<u8>) {
        let mut at = 0;
        while at < data.len() {
            let sector_end = (offset + at as u64 + 1).next_multiple_of(SECTOR_BYTES) - offset;
            let end = usize::try_from(sector_end).expect("small").min(data.len());
            if self.below(2) == 0 {
                put(bytes, offset + at as u64, &data[at..end]);
            }
            at = end;
        }
    }

    /// For a write at this place of a file of `len` bytes.
    fn take_room_to_write(&mut self, len: u64, offset: u64, bytes: u64) -> io::Result<()> {
        let growth = (offset + bytes).saturating_sub(len);
        self.take_room(if self.copies_on_write { bytes } else { growth })
    }

    fn take_room(&mut self, growth: u64) -> io::Result<()> {
        if let Some(left) = &mut self.bytes_left {
            if *left < growth {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            *left -= growth;
        }
        Ok(())
    }
}

/// Counts down to a failure that was asked for.
fn due(countdown: &mut Option<u64>) -> bool {
    match countdown {
        Some(1) => {
            *countdown = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

impl SimStorage {
    pub fn new(seed: u64) -> Self {
        let disk = Disk {
            random: seed,
            ..Disk::default()
        };
        Self {
            disk: Arc::new(Mutex::new(disk)),
            prefix: String::new(),
        }
    }

    pub fn as_storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.clone())
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power goes and comes back: handles die, what was not synced is lost in part or whole,
    /// failures that were asked for are forgotten.
    pub fn power_cut(&self) {
        let disk = &mut *self.disk();
        let kept = disk.below(disk.changes.len() as u64 + 1);
        let changes = std::mem::take(&mut disk.changes);
        for change in &changes[..usize::try_from(kept).expect("a count")] {
            change.apply(&mut disk.names_durable);
        }
        disk.names = disk.names_durable.clone();
        let mut inodes = std::mem::take(&mut disk.inodes);
        inodes.retain(|inode, _| disk.names.values().any(|used| used == inode));
        for inode in inodes.values_mut() {
            let dirty = std::mem::take(&mut inode.dirty);
            disk.lose(&dirty, &mut inode.durable);
            inode.current = inode.durable.clone();
        }
        disk.inodes = inodes;
        disk.boot += 1;
        disk.off = false;
        disk.cut_at = None;
        disk.writes_until_failure = None;
        disk.syncs_until_failure = None;
    }

    /// The power goes during the `nth` operation from now (1 is the next one) that changes the
    /// disk: it is half done, it and all later ones fail until `power_cut`.
    pub fn cut_at(&self, nth: u64) {
        let disk = &mut *self.disk();
        disk.cut_at = Some(disk.operations + nth);
    }

    /// Whether the power went and is not back.
    pub fn is_off(&self) -> bool {
        self.disk().off
    }

    /// Operations that changed the disk so far: writes, lengths, syncs, names.
    pub fn operations(&self) -> u64 {
        self.disk().operations
    }

    /// Bytes that were asked for so far.
    pub fn bytes_read(&self) -> u64 {
        self.disk().bytes_read
    }

    /// Operations so far that were forgotten or torn, or might have been: they were not synced when
    /// the power went or a sync failed.
    pub fn forgotten(&self) -> u64 {
        self.disk().forgotten
    }

    /// The `nth` write from now (1 is the next one) fails, half done.
    pub fn fail_write(&self, nth: u64) {
        self.disk().writes_until_failure = Some(nth);
    }

    /// The `nth` sync of a file from now (1 is the next one) fails.
    pub fn fail_sync(&self, nth: u64) {
        self.disk().syncs_until_failure = Some(nth);
    }

    /// Files may grow by this many bytes together, then the disk is full.
    pub fn fill_up(&self, bytes: u64) {
        self.disk().bytes_left = Some(bytes);
    }

    /// From now on what is written over takes room as well, as on disks that copy on write: on a
    /// full one no write succeeds.
    pub fn copy_on_write(&self) {
        self.disk().copies_on_write = true;
    }

    /// From now on the room of a file that is removed can be taken again at once.
    pub fn give_room_back(&self) {
        self.disk().gives_back = true;
    }

    /// From now on so many files may be open at a time: opening another fails.
    pub fn limit_open_files(&self, max: usize) {
        self.disk().files_open_max = Some(max);
    }

    /// Flips one bit, on the platter and in memory. False if the file is not that long.
    pub fn flip_bit(&self, name: &str, offset_bit: u64) -> bool {
        let disk = &mut *self.disk();
        let name = format!("{}{name}", self.prefix);
        let Some(inode) = disk
            .names
            .get(&name)
            .and_then(|inode| disk.inodes.get_mut(inode))
        else {
            return false;
        };
        let at = usize::try_from(offset_bit / 8).expect("simulated files are small");
        let mask = 1 << (offset_bit % 8);
        for bytes in [&mut inode.current, &mut inode.durable] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= mask;
            }
        }
        at < inode.current.len()
    }

    /// From now on these bytes of a file cannot be read, until some of them are written over. False if
    /// there is no such file.
    pub fn fail_reads(&self, name: &str, bytes: Range<u64>) -> bool {
        let disk = &mut *self.disk();
        let name = format!("{}{name}", self.prefix);
        let inode = disk.names.get(&name).copied();
        let Some(inode) = inode.and_then(|inode| disk.inodes.get_mut(&inode)) else {
            return false;
        };
        inode.unreadable.push(bytes);
        true
    }

    /// All that stands in a file can be read again.
    pub fn heal_reads(&self, name: &str) {
        let disk = &mut *self.disk();
        let inode = disk.names.get(&format!("{}{name}", self.prefix)).copied();
        if let Some(inode) = inode.and_then(|inode| disk.inodes.get_mut(&inode)) {
            inode.unreadable.clear();
        }
    }

    fn full_name(&self, name: &str) -> io::Result<String> {
        if name.is_empty() || name == "." || name == ".." || name.contains('/') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{name:?} is no name"),
            ));
        }
        Ok(format!("{}{name}", self.prefix))
    }
}

impl Storage for SimStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        let disk = self.disk();
        let names = disk
            .names
            .keys()
            .filter(|name| in_directory(name, &self.prefix));
        Ok(names
            .map(|name| name[self.prefix.len()..].to_owned())
            .collect())
    }

    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let name = self.full_name(name)?;
        let disk = &mut *self.disk();
        if disk
            .files_open_max
            .is_some_and(|max| disk.files_open >= max)
        {
            return Err(io::Error::other("too many open files"));
        }
        let boot = disk.boot;
        let inode = match (disk.names.get(&name).copied(), mode) {
            (Some(inode), OpenMode::Existing | OpenMode::Create) => inode,
            (None, OpenMode::Existing) => return Err(io::ErrorKind::NotFound.into()),
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, OpenMode::Create | OpenMode::CreateNew) => {
                disk.power()?;
                disk.inode_next += 1;
                let inode = disk.inode_next;
                disk.inodes.insert(inode, Inode::default());
                disk.names.insert(name.clone(), inode);
                disk.changes.push(Change::Name { name, inode });
                inode
            }
        };
        disk.alive(boot)?;
        disk.files_open += 1;
        Ok(Arc::new(SimFile {
            disk: Arc::clone(&self.disk),
            inode,
            boot,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let change = Change::Rename {
            from: self.full_name(from)?,
            to: self.full_name(to)?,
        };
        let disk = &mut *self.disk();
        if !disk.names.contains_key(&self.full_name(from)?) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.power()?;
        change.apply(&mut disk.names);
        disk.changes.push(change);
        disk.alive(disk.boot)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let name = self.full_name(name)?;
        let disk = &mut *self.disk();
        let Some(inode) = disk.names.get(&name) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let bytes = disk.inodes.get(inode).map_or(0, |one| one.current.len());
        disk.power()?;
        if let Some(left) = disk.bytes_left.as_mut().filter(|_| disk.gives_back) {
            *left = left.saturating_add(bytes as u64);
        }
        let change = Change::Remove { name };
        change.apply(&mut disk.names);
        disk.changes.push(change);
        disk.alive(disk.boot)
    }

    fn sync_directory(&self) -> io::Result<()> {
        let disk = &mut *self.disk();
        if !disk.power()? {
            return disk.alive(disk.boot);
        }
        let (mine, others) = std::mem::take(&mut disk.changes)
            .into_iter()
            .partition::<Vec<_>, _>(|change| change.is_in(&self.prefix));
        for change in &mine {
            change.apply(&mut disk.names_durable);
        }
        disk.changes = others;
        Ok(())
    }

    fn directory(&self, name: &str) -> io::Result<Arc<dyn Storage>> {
        let prefix = format!("{}/", self.full_name(name)?);
        Ok(Arc::new(SimStorage {
            disk: Arc::clone(&self.disk),
            prefix,
        }))
    }
}

impl SimFile {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.disk().files_open -= 1;
    }
}

impl Disk {
    fn inode(&mut self, file: &SimFile) -> io::Result<&mut Inode> {
        self.alive(file.boot)?;
        self.inodes
            .get_mut(&file.inode)
            .ok_or_else(|| io::Error::other("no such inode"))
    }
}

impl StorageFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk().inode(self)?.current.len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let disk = &mut *self.disk();
        disk.bytes_read += buf.len() as u64;
        let inode = disk.inode(self)?;
        if inode.is_unreadable(&(offset..offset + buf.len() as u64)) {
            return Err(io::Error::other("these bytes cannot be read"));
        }
        let bytes = &inode.current;
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let range = bytes.get(from..from.saturating_add(buf.len()));
        buf.copy_from_slice(range.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let disk = &mut *self.disk();
        let len = disk.inode(self)?.current.len() as u64;
        disk.take_room_to_write(len, offset, data.len() as u64)?;
        let powered = disk.power()?;
        let fails = due(&mut disk.writes_until_failure);
        let written = if powered && !fails {
            data.len() as u64
        } else {
            disk.below(data.len() as u64 + 1)
        };
        // Half of a write is all of it to the caches, some sectors of it to the platter: the last
        // sync forgets.
        let part = &data[..usize::try_from(written).expect("at most the data")];
        let inode = disk.inodes.get_mut(&self.inode).expect("checked above");
        put(&mut inode.current, offset, part);
        let over = offset..offset + part.len() as u64;
        inode.unreadable.retain(|range| !overlap(range, &over));
        inode.dirty.push(Dirty::Write {
            offset,
            data: part.to_vec(),
        });
        match (powered, fails) {
            (true, false) => Ok(()),
            (true, true) => Err(io::Error::other("this write was made to fail")),
            (false, _) => Err(io::Error::other("the power went")),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let disk = &mut *self.disk();
        let before = disk.inode(self)?.current.len() as u64;
        disk.take_room(len.saturating_sub(before))?;
        disk.power()?;
        let inode = disk.inodes.get_mut(&self.inode).expect("checked above");
        Dirty::SetLen(len).apply(&mut inode.current);
        inode.dirty.push(Dirty::SetLen(len));
        disk.alive(self.boot)
    }

    fn sync(&self) -> io::Result<()> {
        let disk = &mut *self.disk();
        disk.inode(self)?;
        if !disk.power()? {
            return Err(io::Error::other("the power went"));
        }
        let fails = due(&mut disk.syncs_until_failure);
        let mut inode = disk.inodes.remove(&self.inode).expect("checked above");
        let dirty = std::mem::take(&mut inode.dirty);
        if fails {
            disk.lose(&dirty, &mut inode.durable);
        } else {
            for operation in &dirty {
                operation.apply(&mut inode.durable);
            }
        }
        disk.inodes.insert(self.inode, inode);
        if fails {
            Err(io::Error::other("this sync was made to fail"))
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(storage: &SimStorage, name: &str) -> Arc<dyn StorageFile> {
        storage.open(name, OpenMode::Create).unwrap()
    }

    #[test]
    fn what_is_synced_survives_and_the_rest_may_not() {
        let (mut lost, mut kept, mut torn) = (0, 0, 0);
        for seed in 0..200 {
            let sim = SimStorage::new(seed);
            let first = file(&sim, "a");
            first.write_at(0, &[1; 1024]).unwrap();
            first.sync().unwrap();
            sim.sync_directory().unwrap();
            first.write_at(0, &[2; 1024]).unwrap();
            assert_eq!(sim.forgotten(), 0);
            sim.power_cut();
            assert!(sim.forgotten() <= 1);
            assert!(first.len().is_err(), "a handle from before the cut is dead");
            let mut bytes = [0; 1024];
            file(&sim, "a").read_at(0, &mut bytes).unwrap();
            match (bytes[0], bytes[512]) {
                (1, 1) => lost += 1,
                (2, 2) => kept += 1,
                (1 | 2, 1 | 2) => torn += 1,
                other => panic!("invented {other:?}"),
            }
        }
        assert!(lost > 20 && kept > 20 && torn > 20, "{lost} {kept} {torn}");
    }

    #[test]
    fn names_need_the_directory_synced() {
        let (mut with, mut without) = (0, 0);
        for seed in 0..100 {
            let sim = SimStorage::new(seed);
            file(&sim, "a").sync().unwrap();
            sim.power_cut();
            if sim.list().unwrap().is_empty() {
                without += 1;
            } else {
                with += 1;
            }
        }
        assert!(with > 10 && without > 10);
    }

    #[test]
    fn a_failed_sync_drops_the_pages() {
        let lost = (0..50).filter(|seed| {
            let sim = SimStorage::new(*seed);
            let first = file(&sim, "a");
            sim.sync_directory().unwrap();
            first.write_at(0, &[1; 512]).unwrap();
            sim.fail_sync(1);
            first.sync().unwrap_err();
            first.sync().unwrap();
            assert_eq!(first.len().unwrap(), 512, "still readable");
            sim.power_cut();
            file(&sim, "a").is_empty().unwrap()
        });
        assert!(lost.count() > 5);
    }
}
