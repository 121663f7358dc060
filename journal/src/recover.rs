//! Reading one file from its start: what is good, where it ends, and whether the end is a torn
//! tail or rot. `journal` calls it for every file at `open`, `inspect` for people.
//!
//! Rot can be passed over where records stand for themselves. What lies between a bad record and
//! one that was written after a sync of it was all written by one run, in one piece: no record of
//! an earlier run is there, so the next good one is the next that was appended. So it is with what
//! lies before the seal that the next file continues. Where a file has a successor and its seal is
//! bad as well, nobody knows where its records ended: nothing behind the bad one counts.

use std::io;

use crate::error::JournalError;
use crate::files::file_name;
use crate::record::{self, FIRST_BYTES, HEADER_BYTES, Header, KIND_FILE, KIND_OPEN, KIND_SEAL};
use crate::span::read_what_can_be;
use crate::storage::StorageFile;

const WINDOW_BYTES: usize = 1 << 20;
/// Bytes that are copied of one damaged part.
const SKIPPED_BYTES_MAX: usize = 1 << 20;
/// Damaged parts that are passed over; with more the journal is of no use.
const SKIPPED_MAX: usize = 64;

/// A damaged part that was passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The name of its file.
    pub file: String,
    pub offset: u64,
    /// From there to the next good record, or to the end of the file.
    pub length: u64,
    /// How it begins; at most 1 MiB.
    pub bytes: Vec<u8>,
}

/// A good record, as the scan meets it.
pub(crate) struct Seen<'a> {
    pub(crate) header: Header,
    pub(crate) offset: u32,
    pub(crate) payload: &'a [u8],
}

/// What a file turned out to hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Scanned {
    /// The first record is good: the file was in use.
    pub(crate) begun: bool,
    /// Nothing follows in this file.
    pub(crate) sealed: bool,
    /// End of the last good record.
    pub(crate) end: u32,
    /// Its checksum.
    pub(crate) chain: u32,
    /// What is before this offset was synced before the last good record was written.
    pub(crate) synced: u32,
    /// The last opening that the file tells of.
    pub(crate) opens: u64,
    pub(crate) refused: Refused,
}

/// What the disk does not give of a file that is read to be passed over: that is damage, and no torn
/// tail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Nothing that stands behind the last good record, at least.
    #[default]
    Nothing,
    /// What stands behind it.
    Rest,
    /// All of the file.
    All,
}

/// What is done where the disk does not give the bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unreadable {
    Fails,
    /// They are damage.
    IsDamage,
}

/// Buffered reads of a file, forward.
struct Window<'a> {
    file: &'a dyn StorageFile,
    file_bytes: u64,
    generation: u64,
    unreadable: Unreadable,
    /// Some of the bytes could be read.
    given: bool,
    /// Others could not.
    refused: bool,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    fn new(
        file: &dyn StorageFile,
        generation: u64,
        unreadable: Unreadable,
    ) -> Result<Window<'_>, JournalError> {
        let file_bytes = file
            .len()
            .map_err(JournalError::io("read a file's length"))?;
        if file_bytes > u64::from(u32::MAX) {
            return Err(rot(generation, 0, "longer than a journal's file can be"));
        }
        Ok(Window {
            file,
            file_bytes,
            generation,
            unreadable,
            given: false,
            refused: false,
            start: 0,
            bytes: Vec::new(),
        })
    }

    /// `length` bytes at `offset`, which the caller checked to lie in the file.
    fn get(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let loaded = self.start..self.start + self.bytes.len() as u64;
        if offset < loaded.start || offset + length as u64 > loaded.end {
            let rest = usize::try_from(self.file_bytes - offset).unwrap_or(usize::MAX);
            self.bytes.resize(rest.min(length.max(WINDOW_BYTES)), 0);
            self.start = offset;
            self.load()?;
        }
        let at = usize::try_from(offset - self.start).expect("within the window");
        Ok(&self.bytes[at..at + length])
    }

    fn load(&mut self) -> io::Result<()> {
        if self.unreadable == Unreadable::Fails {
            return self.file.read_at(self.start, &mut self.bytes);
        }
        match read_what_can_be(self.file, self.start, &mut self.bytes) {
            Ok(()) => self.given = true,
            Err(_) => self.refused = true,
        }
        Ok(())
    }

    /// Whether the disk does not give all of the record that is to stand at `offset` and continue
    /// this checksum. What an earlier use of the file left there is no matter.
    fn is_unreadable(&mut self, offset: u64, chain: u32) -> Result<bool, JournalError> {
        if offset + HEADER_BYTES as u64 > self.file_bytes {
            return Ok(false);
        }
        if self.file.read_at(offset, &mut [0; HEADER_BYTES]).is_err() {
            return Ok(true);
        }
        let header = self.header(offset);
        let header = header.map_err(JournalError::io("read a file"))?;
        let Some(header) = header.filter(|header| header.previous == chain) else {
            return Ok(false);
        };
        let mut bytes = vec![0; HEADER_BYTES + header.length as usize];
        Ok(self.file.read_at(offset, &mut bytes).is_err())
    }

    /// The header at `offset` if the record it announces lies in the file.
    fn header(&mut self, offset: u64) -> io::Result<Option<Header>> {
        if offset + HEADER_BYTES as u64 > self.file_bytes {
            return Ok(None);
        }
        let bytes = self.get(offset, HEADER_BYTES)?;
        let header = record::decode(bytes.try_into().expect("just that long"));
        Ok(header.filter(|header| {
            let end = offset + record::record_bytes(header.length as usize) as u64;
            end <= self.file_bytes && u64::from(header.synced) <= offset
        }))
    }

    /// The record at `offset`, if its checksum is right.
    fn record(&mut self, offset: u64) -> Result<Option<(Header, &[u8])>, JournalError> {
        let read = JournalError::io("read a file");
        let (generation, Some(header)) = (self.generation, self.header(offset).map_err(read)?)
        else {
            return Ok(None);
        };
        let bytes = self
            .get(offset, HEADER_BYTES + header.length as usize)
            .map_err(JournalError::io("read a file"))?;
        let (raw, payload) = bytes.split_at(HEADER_BYTES);
        let raw = raw.try_into().expect("just that long");
        if record::checksum(generation, raw, payload) != header.crc {
            return Ok(None);
        }
        if header.version != record::VERSION {
            let file = file_name(generation);
            return Err(JournalError::Version {
                file,
                offset,
                version: header.version,
            });
        }
        Ok(Some((header, payload)))
    }

    /// Whether a good record stands behind the bad one at `bad` that was written when the bad one
    /// had already been synced, or the file's seal, which is known by its checksum.
    fn was_synced(&mut self, bad: u64, seal: Option<u32>) -> Result<bool, JournalError> {
        let mut offset = bad + record::ALIGNMENT_BYTES as u64;
        while offset + HEADER_BYTES as u64 <= self.file_bytes {
            let header = self
                .header(offset)
                .map_err(JournalError::io("read a file"))?;
            let tells = header.is_some_and(|header| {
                let is_seal = header.head.kind == KIND_SEAL && Some(header.crc) == seal;
                is_seal || u64::from(header.synced) > bad
            });
            if tells && self.record(offset)?.is_some() {
                return Ok(true);
            }
            offset += record::ALIGNMENT_BYTES as u64;
        }
        Ok(false)
    }

    /// Where the first good record behind a bad one stands, and the checksum that it continues.
    fn good_behind(&mut self, bad: u64) -> Result<Option<(u64, u32)>, JournalError> {
        let mut offset = bad + record::ALIGNMENT_BYTES as u64;
        while offset + HEADER_BYTES as u64 <= self.file_bytes {
            if let Some((header, _)) = self.record(offset)? {
                return Ok(Some((offset, header.previous)));
            }
            offset += record::ALIGNMENT_BYTES as u64;
        }
        Ok(None)
    }

    fn skipped(&mut self, offset: u64, end: u64) -> Result<Skipped, JournalError> {
        let length = end - offset;
        let copied =
            usize::try_from(length).map_or(SKIPPED_BYTES_MAX, |all| all.min(SKIPPED_BYTES_MAX));
        let bytes = self.get(offset, copied);
        let bytes = bytes.map_err(JournalError::io("read a file"))?.to_vec();
        Ok(Skipped {
            file: file_name(self.generation),
            offset,
            length,
            bytes,
        })
    }
}

fn rot(generation: u64, offset: u64, detail: &'static str) -> JournalError {
    JournalError::Rot {
        file: file_name(generation),
        offset,
        detail,
    }
}

fn u64_in(payload: &[u8], nth: usize) -> Option<u64> {
    let bytes = payload.get(nth * 8..nth * 8 + 8)?;
    Some(u64::from_le_bytes(
        bytes.try_into().expect("just that long"),
    ))
}

/// What the files beside one say of it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Beside {
    /// The checksum of the last record of the file before.
    pub(crate) before: Option<u32>,
    /// That of its seal, as the first record of the file behind has it.
    pub(crate) seal: Option<u32>,
}

/// The checksum that the first record of a file continues; `None` if that record is damaged.
pub(crate) fn continued_by(file: &dyn StorageFile, generation: u64) -> Option<u32> {
    let mut bytes = [0; FIRST_BYTES];
    file.read_at(0, &mut bytes).ok()?;
    let (raw, payload) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let header = record::decode(raw)?;
    let is_first = header.head.kind == KIND_FILE && header.length as usize == payload.len();
    let good = is_first && header.crc == record::checksum(generation, raw, payload);
    good.then_some(header.previous)
}

/// Tells that all from `end` on is damaged. How far it was written nobody knows: to the end of the
/// file, but for less than the first record of the next file.
pub(crate) fn pass_over_rest(
    file: &dyn StorageFile,
    generation: u64,
    end: u32,
    skipped: &mut Vec<Skipped>,
) -> Result<(), JournalError> {
    let end = u64::from(end);
    if skipped.len() >= SKIPPED_MAX {
        return Err(rot(generation, end, "bad here, as in too many places"));
    }
    let mut window = Window::new(file, generation, Unreadable::IsDamage)?;
    let file_bytes = window.file_bytes;
    if end < file_bytes {
        skipped.push(window.skipped(end, file_bytes)?);
    }
    Ok(())
}

/// Scans a file. `visit` gets every good record, the journal's own too, in order. With `skipped`,
/// what is bad where it was synced, or cannot be read, is passed over and told there.
///
/// # Errors
/// `Rot` where something that had been synced is bad; `Version`; `Io`; whatever `visit` returns.
pub(crate) fn scan(
    file: &dyn StorageFile,
    generation: u64,
    beside: Beside,
    mut skipped: Option<&mut Vec<Skipped>>,
    visit: &mut dyn FnMut(Seen<'_>) -> Result<(), JournalError>,
) -> Result<Scanned, JournalError> {
    let unreadable = match skipped {
        Some(_) => Unreadable::IsDamage,
        None => Unreadable::Fails,
    };
    let mut window = Window::new(file, generation, unreadable)?;
    let Beside { before, seal } = beside;
    let mut scanned = Scanned {
        chain: before.unwrap_or(0),
        ..Scanned::default()
    };
    loop {
        scan_run(&mut window, &mut scanned, before, visit)?;
        let bad = u64::from(scanned.end);
        if scanned.sealed || !window.was_synced(bad, seal)? {
            let looks_torn = skipped.is_some() && !scanned.sealed;
            if window.refused && !window.given {
                scanned.refused = Refused::All;
            } else if looks_torn && window.is_unreadable(bad, scanned.chain)? {
                scanned.refused = Refused::Rest;
            }
            return Ok(scanned);
        }
        let detail = "bad here, but good where it was synced later";
        let room = skipped.as_deref_mut();
        let room = room.filter(|skipped| skipped.len() < SKIPPED_MAX);
        let (Some(skipped), Some((next, chain))) = (room, window.good_behind(bad)?) else {
            return Err(rot(generation, bad, detail));
        };
        skipped.push(window.skipped(bad, next)?);
        scanned.begun = true;
        scanned.end = u32::try_from(next).expect("it lies in the file");
        scanned.chain = chain;
    }
}

/// Takes records from `scanned.end` on, up to a seal or to the first that is not the next.
fn scan_run(
    window: &mut Window<'_>,
    scanned: &mut Scanned,
    before: Option<u32>,
    visit: &mut dyn FnMut(Seen<'_>) -> Result<(), JournalError>,
) -> Result<(), JournalError> {
    let generation = window.generation;
    while !scanned.sealed {
        let offset = u64::from(scanned.end);
        let first = scanned.end == 0;
        let Some((header, payload)) = window.record(offset)? else {
            break;
        };
        if first && before.is_some_and(|before| before != header.previous) {
            return Err(rot(generation, 0, "it does not continue the file before"));
        }
        if !first && header.previous != scanned.chain {
            break;
        }
        match header.head.kind {
            KIND_FILE if first && u64_in(payload, 0) == Some(generation) => {
                scanned.begun = true;
                scanned.opens = u64_in(payload, 1).unwrap_or(0);
            }
            _ if first => return Err(rot(generation, 0, "its first record is not a file's first")),
            KIND_OPEN => scanned.opens = u64_in(payload, 0).unwrap_or(0),
            KIND_SEAL => scanned.sealed = true,
            _ => {}
        }
        visit(Seen {
            header,
            offset: scanned.end,
            payload,
        })?;
        scanned.end += u32::try_from(record::record_bytes(header.length as usize))
            .expect("it lies in the file");
        scanned.chain = header.crc;
        scanned.synced = header.synced;
    }
    Ok(())
}
