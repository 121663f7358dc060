//! Which files of a journal are read when it is opened, and what they hold. What one file holds says
//! `recover`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::error::JournalError;
use crate::files::{LiveFile, Position, file_name};
use crate::journal::FILE_BYTES_MIN;
use crate::record::{KIND_OWN_MIN, RecordHead};
use crate::recover::{self, Scanned, Seen, Skipped};
use crate::storage::{OpenMode, Storage, StorageFile};

/// Gets every record of the owner, in order.
pub(crate) type Visit<'a> =
    &'a mut dyn FnMut(Position, RecordHead, &[u8]) -> Result<(), JournalError>;

/// How records that stand for themselves are read.
pub(crate) struct Skipping<'a> {
    /// What was damaged.
    pub(crate) skipped: &'a mut Vec<Skipped>,
    /// Whether a record tells all that matters of those before it.
    pub(crate) sums_up: fn(RecordHead) -> bool,
}

/// Files by generation, with the newest and what it holds.
type Found = (Vec<(u64, LiveFile)>, Option<(u64, Scanned)>);

/// Scans the files that are to be read, oldest first.
pub(crate) fn files(
    storage: &dyn Storage,
    generations: &[u64],
    mut skipping: Option<Skipping<'_>>,
    visit: Visit<'_>,
) -> Result<Found, JournalError> {
    let unread = match &skipping {
        Some(skipping) => count_unread(storage, generations, skipping.sums_up)?,
        None => 0,
    };
    let mut files = Vec::with_capacity(generations.len());
    for (nth, generation) in generations[..unread].iter().copied().enumerate() {
        if generations[nth + 1] != generation + 1 {
            return Err(rot(generation + 1, "the file is missing"));
        }
        files.push((
            generation,
            live(open(storage, generation)?, generation, None)?,
        ));
    }
    let mut newest = None;
    for (nth, generation) in generations.iter().copied().enumerate().skip(unread) {
        let before: Option<(u64, Scanned)> = newest;
        if let Some((before, scanned)) = before {
            check_continued(before, scanned, generation)?;
        }
        let file = open(storage, generation)?;
        let chain = before.map(|(_, scanned)| scanned.chain);
        let skipped = skipping.as_mut().map(|skipping| &mut *skipping.skipped);
        let mut scanned = recover::scan(file.as_ref(), generation, chain, skipped, &mut |seen| {
            let position = Position {
                generation,
                offset: seen.offset,
                length: seen.header.length,
            };
            if seen.header.head.kind >= KIND_OWN_MIN {
                return Ok(());
            }
            visit(position, seen.header.head, seen.payload)
        })?;
        let last = nth + 1 == generations.len();
        if !scanned.begun && !(last && (before.is_some() || generation == 1)) {
            return Err(rot(generation, "its first record is missing"));
        }
        scanned.opens = scanned
            .opens
            .max(before.map_or(0, |(_, scanned)| scanned.opens));
        files.push((generation, live(file, generation, Some(scanned.end))?));
        newest = Some((generation, scanned));
    }
    Ok((files, newest))
}

/// How many of the files stand before the newest undamaged one with a record that sums up.
fn count_unread(
    storage: &dyn Storage,
    generations: &[u64],
    sums_up: fn(RecordHead) -> bool,
) -> Result<usize, JournalError> {
    for (nth, generation) in generations.iter().copied().enumerate().skip(1).rev() {
        let file = open(storage, generation)?;
        let mut found = false;
        let mut skipped = Vec::new();
        let look = &mut |seen: Seen<'_>| {
            found |= sums_up(seen.header.head);
            Ok(())
        };
        match recover::scan(file.as_ref(), generation, None, Some(&mut skipped), look) {
            Ok(_) if found && skipped.is_empty() => return Ok(nth),
            Err(error @ JournalError::Io { .. }) => return Err(error),
            // Of what is wrong with it the reading that follows tells.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(0)
}

fn open(storage: &dyn Storage, generation: u64) -> Result<Arc<dyn StorageFile>, JournalError> {
    storage
        .open(&file_name(generation), OpenMode::Existing)
        .map_err(JournalError::io("open a file"))
}

/// A file with records up to `end`; one that was not read has a successor and takes no more.
fn live(
    file: Arc<dyn StorageFile>,
    generation: u64,
    end: Option<u32>,
) -> Result<LiveFile, JournalError> {
    let file_bytes = file
        .len()
        .map_err(JournalError::io("read a file's length"))?;
    if !(FILE_BYTES_MIN..=u64::from(u32::MAX)).contains(&file_bytes) {
        return Err(rot(generation, "no length that a journal's file can have"));
    }
    Ok(LiveFile {
        file,
        file_bytes,
        written: AtomicU64::new(end.map_or(file_bytes, u64::from)),
    })
}

fn check_continued(before: u64, scanned: Scanned, next: u64) -> Result<(), JournalError> {
    if next != before + 1 {
        return Err(rot(before + 1, "the file is missing"));
    }
    if !scanned.sealed {
        return Err(JournalError::Rot {
            file: file_name(before),
            offset: u64::from(scanned.end),
            detail: "it has a successor and no seal",
        });
    }
    Ok(())
}

pub(crate) fn rot(generation: u64, detail: &'static str) -> JournalError {
    JournalError::Rot {
        file: file_name(generation),
        offset: 0,
        detail,
    }
}
