//! Which files of a journal are read when it is opened, and what they hold. What one file holds says
//! `recover`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::error::JournalError;
use crate::files::{LiveFile, Position, file_name};
use crate::journal::FILE_BYTES_MIN;
use crate::record::{KIND_OWN_MIN, RecordHead};
use crate::recover::{self, Beside, Refused, Scanned, Seen, Skipped};
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
        check_next(generation, generations[nth + 1])?;
        files.push((
            generation,
            live(open(storage, generation)?, generation, None, false)?,
        ));
    }
    let mut newest: Option<(u64, Scanned)> = None;
    let mut gives_some = unread > 0;
    for (nth, generation) in generations.iter().copied().enumerate().skip(unread) {
        if let Some((before, scanned)) = newest {
            check_next(before, generation)?;
            if skipping.is_none() {
                check_sealed(before, scanned)?;
            }
        }
        let place = Place {
            generation,
            before: newest.map(|(_, scanned)| scanned),
            next: generations.get(nth + 1).copied(),
        };
        let file = open(storage, generation)?;
        let (mut scanned, end) = read(storage, file.as_ref(), place, skipping.as_mut(), visit)?;
        gives_some |= scanned.refused != Refused::All;
        scanned.opens = scanned
            .opens
            .max(newest.map_or(0, |(_, scanned)| scanned.opens));
        files.push((
            generation,
            live(file, generation, end, scanned.refused == Refused::All)?,
        ));
        newest = Some((generation, scanned));
    }
    if let Some((generation, _)) = newest.filter(|_| !gives_some) {
        // No file is damaged: the disk is gone.
        let read = open(storage, generation)?.read_at(0, &mut [0; 1]);
        read.map_err(JournalError::io("read a file"))?;
    }
    Ok((files, newest))
}

/// A file among those that are read.
#[derive(Clone, Copy)]
struct Place {
    generation: u64,
    /// What the file before it holds.
    before: Option<Scanned>,
    /// The file behind it.
    next: Option<u64>,
}

/// Shows `visit` what a file holds. Also says where its records end, if that is known.
fn read(
    storage: &dyn Storage,
    file: &dyn StorageFile,
    place: Place,
    mut skipping: Option<&mut Skipping<'_>>,
    visit: Visit<'_>,
) -> Result<(Scanned, Option<u32>), JournalError> {
    let Place {
        generation,
        before,
        next,
    } = place;
    let sealed = before.and_then(|before| before.sealed.then_some(before.chain));
    // It may continue another one, if the disk gave nothing of the file before when it was begun.
    let told = skipping
        .as_ref()
        .and_then(|_| recover::continued_by(file, generation));
    let beside = Beside {
        before: sealed.filter(|sealed| told.is_none_or(|told| told == *sealed)),
        seal: match next.filter(|_| skipping.is_some()) {
            Some(next) => recover::continued_by(open(storage, next)?.as_ref(), next),
            None => None,
        },
    };
    let skipped = skipping.as_mut().map(|skipping| &mut *skipping.skipped);
    let scanned = recover::scan(file, generation, beside, skipped, &mut |seen| {
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
    let ends_badly = next.is_some() && !scanned.sealed;
    if let Some(skipping) = skipping
        && (ends_badly || scanned.refused != Refused::Nothing)
    {
        recover::pass_over_rest(file, generation, scanned.end, skipping.skipped)?;
        if ends_badly || scanned.refused == Refused::All {
            return Ok((scanned, None));
        }
    }
    let may_be_unbegun = next.is_none() && (before.is_some() || generation == 1);
    if !scanned.begun && !may_be_unbegun {
        return Err(rot(generation, "its first record is missing"));
    }
    Ok((scanned, Some(scanned.end)))
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
        let beside = Beside::default();
        let scanned = recover::scan(file.as_ref(), generation, beside, Some(&mut skipped), look);
        let is_last = nth + 1 == generations.len();
        match scanned {
            Ok(scanned) if found && skipped.is_empty() && (scanned.sealed || is_last) => {
                return Ok(nth);
            }
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

/// A file with records up to `end`. Of one that was not read, or whose end is damaged, that is not
/// known: it has a successor and takes no more.
fn live(
    file: Arc<dyn StorageFile>,
    generation: u64,
    end: Option<u32>,
    is_bad: bool,
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
        is_bad,
    })
}

fn check_next(before: u64, next: u64) -> Result<(), JournalError> {
    if next == before + 1 {
        Ok(())
    } else {
        Err(rot(before + 1, "the file is missing"))
    }
}

fn check_sealed(generation: u64, scanned: Scanned) -> Result<(), JournalError> {
    if scanned.sealed {
        return Ok(());
    }
    Err(JournalError::Rot {
        file: file_name(generation),
        offset: u64::from(scanned.end),
        detail: "it has a successor and no seal",
    })
}

pub(crate) fn rot(generation: u64, detail: &'static str) -> JournalError {
    JournalError::Rot {
        file: file_name(generation),
        offset: 0,
        detail,
    }
}
