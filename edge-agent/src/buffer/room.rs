//! What room the journal has, and what of it new batches may take: what tells of dropped ones, and what
//! is written again so that a file can go, must find some at any time.

use journal::writer::Usage;

use super::Buffer;
use super::disk::SUBMISSION_BYTES_MAX;

/// This part of the bound, but no more than so many files, is kept free of new batches: for the gap
/// records without which no file can go, and for what the oldest file still holds.
const RESERVE_PARTS: u64 = 16;
const RESERVE_FILES: u64 = 2;

impl Buffer {
    /// What room the journal has. While the disk is too full for all of it, batches may take less.
    /// `true` says that this began.
    pub fn see_space(&mut self, usage: Usage) -> bool {
        let was_short = self.disk.bytes_there.is_some();
        self.disk.bytes_there = usage.disk_full.then_some(usage.bytes_reserved);
        let on_its_way = if self.is_syncing() {
            self.disk.queued_bytes
        } else {
            0
        };
        self.disk.room = Some(usage.bytes_free.saturating_sub(on_its_way));
        self.disk.file_bytes = usage.file_bytes;
        self.disk.waits_for_room = false;
        if self.room_for_batches() > 0 {
            // Somebody made room that is not ours to make.
            self.disk.full = false;
        }
        usage.disk_full && !was_short
    }

    /// Bytes of batches that the next submission may have. Where there is little room it lies in two
    /// files at most: the end of one that a batch does not fit in stays empty.
    pub(super) fn room_for_batches(&self) -> usize {
        let Some(room) = self.disk.room else {
            return SUBMISSION_BYTES_MAX;
        };
        let room = room.saturating_sub(self.reserve());
        let most = SUBMISSION_BYTES_MAX as u64;
        let room = if room < most {
            room.min(self.disk.file_bytes / 2)
        } else {
            most
        };
        usize::try_from(room).expect("below SUBMISSION_BYTES_MAX")
    }

    /// Bytes that new batches leave free.
    fn reserve(&self) -> u64 {
        (self.disk_bytes_max() / RESERVE_PARTS).min(RESERVE_FILES * self.disk.file_bytes)
    }

    /// What the journal may take, or what it has where others fill the disk.
    pub(super) fn disk_bytes_max(&self) -> u64 {
        let bytes_max = self.options.bytes_max;
        self.disk.bytes_there.unwrap_or(bytes_max).min(bytes_max)
    }

    /// Whether no batch comes to disk before a file goes.
    pub(super) fn has_no_room(&self) -> bool {
        self.disk.full || self.disk.room.is_some_and(|room| room <= self.reserve())
    }

    /// Whether something that is only in RAM waits for a file to go.
    pub fn waits_for_room(&self) -> bool {
        self.waits_for_a_file() && !self.disk.failed && self.held.readings_unsafe > 0
    }

    /// Whether nothing more comes to disk before room is looked for again.
    pub(super) fn waits_for_a_file(&self) -> bool {
        self.disk.full || self.disk.waits_for_room
    }

    /// Whether files should go as soon as they can: new batches will wait for that.
    pub fn is_short_of_room(&self) -> bool {
        let short = |room| room < 2 * self.reserve();
        self.disk.full || self.disk.room.is_some_and(short)
    }

    /// Whether more is in RAM than the disk takes at once, so that whoever hands over should wait
    /// until it has.
    pub fn is_behind(&self) -> bool {
        let most = self.options.ram_bytes_max + SUBMISSION_BYTES_MAX;
        self.is_syncing() && self.held.ram_bytes > most
    }
}
