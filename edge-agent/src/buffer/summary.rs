//! The journal's record of all that is on disk. A start reads the latest one and what stands behind
//! it; the files before are read when it is their batches' turn.
//!
//! ```text
//! version u8 = 1, epochs varint, then for each epoch
//!     epoch u64, order varint, boot 16
//!     flags u8 (bit 0 a newest early reading, bit 1 a clock; others 0)
//!     where told: newest early reading signed (ns since boot), clock varint
//!     for each lane: last acked varint, digest 8, items varint, then the items in number order
//! item, a batch, a gap record or a run of batches
//!     form u8 (bits 0 to 2 class, bit 4 boot-relative, bit 5 gap record, bit 6 run, bit 7 thin)
//!     from varint, to - from varint, d(from - 1) 8, d(to) 8, names needed varint
//!     readings varint, sealed at i64, bytes varint
//!     file varint, offset varint, payload bytes varint: where the first record of it stands
//!     gap record: reason u8
//!     run: where the last record of it ends varint, shares varint, then for each
//!         form u8 (bits 0 to 2 class, bit 7 thin), batches varint, bytes varint
//! ```
//! Of a run readings and bytes are sums, names needed is the greatest, sealed at the oldest.

use std::time::Duration;

use bytes::Bytes;
use journal::{PAYLOAD_BYTES_MAX, Position as DiskPosition};
use shared::batch::GapReason;
use shared::id::{BatchNumber, Digest, Epoch, Lane, TimeNs};
use shared::limits::COUNT_MAX;
use shared::verdict::Position;
use shared::wire::{Reader, WireError, put_signed, put_varint};

use super::EpochShelf;
use super::class::Sum;
use super::early::Early;
use super::lane::{Entry, Form, OnDisk, Share};
use super::record::{CLASS_BITS, EpochRecord, THIN_BIT};
use super::run::{RUN_BATCHES_MAX, RUN_BYTES_MAX, Run, run_lengths, sum};
use crate::clock::BootId;
use crate::handed::{CLASSES_MAX, Class};

const VERSION: u8 = 1;
const NEWEST_BIT: u8 = 0x01;
const CLOCK_BIT: u8 = 0x02;
const BOOT_BIT: u8 = 0x10;
const GAP_BIT: u8 = 0x20;
const RUN_BIT: u8 = 0x40;

/// What is said of one epoch.
#[derive(Debug)]
pub(super) struct EpochSummary {
    pub(super) record: EpochRecord,
    pub(super) early: Early,
    /// By `Lane as usize`.
    pub(super) lanes: [Vec<Entry>; 3],
}

/// Neighbours are told as runs, but for the names, which are needed one by one.
pub(super) fn encode_summary(shelves: &[EpochShelf], entries_near: usize) -> Bytes {
    let mut out = vec![VERSION];
    put_varint(&mut out, shelves.len() as u64);
    for shelf in shelves {
        put_epoch(&mut out, shelf);
        for (lane, held) in Lane::ALL.into_iter().zip(&shelf.lanes) {
            put_varint(&mut out, held.acked.last.0);
            out.extend_from_slice(&held.acked.digest.0);
            let on_disk = held.entries.iter().filter(|entry| entry.is_safe());
            let batches_max = match lane {
                Lane::Names => 1,
                Lane::Live | Lane::Backlog => RUN_BATCHES_MAX.min(entries_near),
            };
            let lengths = run_lengths(on_disk.clone(), batches_max);
            put_varint(&mut out, lengths.len() as u64);
            let mut on_disk = on_disk;
            for length in lengths {
                let members: Vec<&Entry> = on_disk.by_ref().take(length).collect();
                match members[..] {
                    [one] => put_item(&mut out, one),
                    _ => put_item(&mut out, &sum(&members)),
                }
            }
        }
    }
    out.into()
}

fn put_epoch(out: &mut Vec<u8>, shelf: &EpochShelf) {
    out.extend_from_slice(&shelf.epoch.0.to_be_bytes());
    put_varint(out, shelf.order);
    out.extend_from_slice(&shelf.boot.0);
    let Early {
        newest_ns, clock, ..
    } = shelf.early;
    let newest = newest_ns.map_or(0, |_| NEWEST_BIT);
    out.push(newest | clock.map_or(0, |_| CLOCK_BIT));
    if let Some(newest_ns) = newest_ns {
        put_signed(out, newest_ns);
    }
    if let Some(clock) = clock {
        put_varint(out, clock.0);
    }
}

fn put_item(out: &mut Vec<u8>, entry: &Entry) {
    let OnDisk::At(position) = entry.disk else {
        unreachable!("only what is on disk is told");
    };
    let bit = |is, bit| if is { bit } else { 0 };
    out.push(
        entry.class.0 & CLASS_BITS
            | bit(entry.boot_relative, BOOT_BIT)
            | bit(entry.gap.is_some(), GAP_BIT)
            | bit(entry.run.is_some(), RUN_BIT)
            | bit(entry.form.is_thin(), THIN_BIT),
    );
    put_varint(out, entry.from.0);
    put_varint(out, entry.to.0 - entry.from.0);
    out.extend_from_slice(&entry.previous.0);
    out.extend_from_slice(&entry.digest.0);
    put_varint(out, entry.names_needed.0);
    put_varint(out, entry.readings);
    out.extend_from_slice(&entry.sealed_at.0.to_be_bytes());
    put_varint(out, entry.size as u64);
    put_varint(out, position.file());
    put_varint(out, u64::from(position.offset()));
    put_varint(out, position.payload_bytes() as u64);
    if let Some(reason) = entry.gap {
        out.push(reason as u8);
    }
    if let Some(run) = &entry.run {
        put_varint(out, u64::from(run.end));
        put_varint(out, run.shares.len() as u64);
        for Share { class, thin, sum } in &run.shares {
            out.push(class.0 & CLASS_BITS | bit(*thin, THIN_BIT));
            put_varint(out, sum.batches);
            put_varint(out, sum.bytes);
        }
    }
}

/// # Errors
/// It is another version, or not what [`encode_summary`] makes.
pub(super) fn decode_summary(payload: &[u8]) -> Result<Vec<EpochSummary>, WireError> {
    let mut reader = Reader::new(payload);
    if reader.byte()? != VERSION {
        return Err(WireError::Malformed("a record of another version"));
    }
    // An epoch, and an item, has more bytes than one: no count is believed that the rest cannot hold.
    let epochs = reader.count(reader.remaining(), "epochs of a summary")?;
    let summaries = (0..epochs).map(|_| take_epoch(&mut reader)).collect();
    if reader.is_empty() {
        summaries
    } else {
        summaries.and(Err(WireError::Malformed("bytes behind a summary")))
    }
}

fn take_epoch(reader: &mut Reader<'_>) -> Result<EpochSummary, WireError> {
    let epoch = Epoch(u64::from_be_bytes(reader.array()?));
    let order = limited(reader, "epochs")?;
    let boot = BootId(reader.array()?);
    let flags = reader.byte()?;
    if flags & !(NEWEST_BIT | CLOCK_BIT) != 0 {
        return Err(WireError::Malformed("flags of an epoch"));
    }
    let mut early = Early::default();
    if flags & NEWEST_BIT != 0 {
        early.newest_ns = Some(reader.signed()?);
    }
    if flags & CLOCK_BIT != 0 {
        early.clock = Some(BatchNumber(limited(reader, "numbers")?));
    }
    let mut acked = [Position::default(); 3];
    let mut lanes: [Vec<Entry>; 3] = Default::default();
    for (acked, items) in acked.iter_mut().zip(&mut lanes) {
        acked.last = BatchNumber(limited(reader, "numbers")?);
        acked.digest = Digest(reader.array()?);
        let count = reader.count(reader.remaining(), "items of a lane")?;
        for _ in 0..count {
            let item = take_item(reader)?;
            let in_order = items
                .last()
                .is_none_or(|before: &Entry| before.to < item.from);
            if !in_order {
                return Err(WireError::Malformed("items out of order"));
            }
            items.push(item);
        }
    }
    Ok(EpochSummary {
        record: EpochRecord {
            epoch,
            order,
            ended_cleanly: false,
            boot,
            acked,
            // The items say it.
            written: Default::default(),
        },
        early,
        lanes,
    })
}

fn take_item(reader: &mut Reader<'_>) -> Result<Entry, WireError> {
    let form = reader.byte()?;
    if form & !(CLASS_BITS | BOOT_BIT | GAP_BIT | RUN_BIT | THIN_BIT) != 0 {
        return Err(WireError::Malformed("an item of unknown form"));
    }
    let from = limited(reader, "numbers")?;
    let to = from
        .checked_add(limited(reader, "numbers")?)
        .filter(|to| *to <= COUNT_MAX)
        .ok_or(WireError::Limit("numbers"))?;
    let (previous, digest) = (Digest(reader.array()?), Digest(reader.array()?));
    let names_needed = BatchNumber(limited(reader, "numbers")?);
    let readings = limited(reader, "readings")?;
    let sealed_at = TimeNs(i64::from_be_bytes(reader.array()?));
    let size = reader.count(PAYLOAD_BYTES_MAX, "bytes of an item")?;
    let file = reader.varint()?;
    let offset = u32_in(reader)?;
    let payload_bytes = reader.count(PAYLOAD_BYTES_MAX, "bytes of a payload")?;
    let position = DiskPosition::at(
        file,
        offset,
        u32::try_from(payload_bytes).unwrap_or(u32::MAX),
    );
    let gap = if form & GAP_BIT == 0 {
        None
    } else {
        let reason = GapReason::from_byte(reader.byte()?);
        Some(reason.ok_or(WireError::Malformed("an unknown reason of a gap"))?)
    };
    let run = if form & RUN_BIT == 0 {
        None
    } else {
        Some(Box::new(take_run(reader, to - from, position)?))
    };
    let is_one = gap.is_some() || run.is_some() || from == to;
    if from == 0 || !is_one || (gap.is_some() && run.is_some()) {
        return Err(WireError::Malformed(
            "an item that is neither one nor a run",
        ));
    }
    Ok(Entry {
        from: BatchNumber(from),
        to: BatchNumber(to),
        previous,
        digest,
        names_needed,
        readings,
        gap,
        run,
        class: Class(form & CLASS_BITS),
        form: if form & THIN_BIT == 0 {
            Form::Whole
        } else {
            Form::Thin
        },
        boot_relative: form & BOOT_BIT != 0,
        sealed_at,
        born: Duration::ZERO,
        size,
        ram: None,
        disk: OnDisk::At(position),
        urgent: false,
        waiters: Vec::new(),
    })
}

/// The rest of a run that goes on for so many batches behind its first.
fn take_run(reader: &mut Reader<'_>, behind: u64, first: DiskPosition) -> Result<Run, WireError> {
    let end = u32_in(reader)?;
    let bytes = end.checked_sub(first.offset());
    let is_bounded = bytes.is_some_and(|bytes| bytes <= RUN_BYTES_MAX);
    if !is_bounded || behind >= RUN_BATCHES_MAX as u64 {
        return Err(WireError::Limit("a run"));
    }
    let count = reader.count(2 * CLASSES_MAX, "shares of a run")?;
    let mut shares = Vec::with_capacity(count);
    for _ in 0..count {
        let form = reader.byte()?;
        if form & !(CLASS_BITS | THIN_BIT) != 0 {
            return Err(WireError::Malformed("a share of unknown form"));
        }
        shares.push(Share {
            class: Class(form & CLASS_BITS),
            thin: form & THIN_BIT != 0,
            sum: Sum {
                batches: limited(reader, "batches")?,
                bytes: limited(reader, "bytes")?,
            },
        });
    }
    Ok(Run {
        end,
        born_last: Duration::ZERO,
        shares,
    })
}

fn limited(reader: &mut Reader<'_>, what: &'static str) -> Result<u64, WireError> {
    let value = reader.varint()?;
    if value > COUNT_MAX {
        return Err(WireError::Limit(what));
    }
    Ok(value)
}

fn u32_in(reader: &mut Reader<'_>) -> Result<u32, WireError> {
    u32::try_from(reader.varint()?).map_err(|_| WireError::Limit("an offset"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::lane::LaneShelf;

    fn entry(number: u64, offset: u32) -> Entry {
        let digest = |number: u64| Digest([u8::try_from(number).unwrap(); 8]);
        Entry {
            from: BatchNumber(number),
            to: BatchNumber(number),
            previous: digest(number - 1),
            digest: digest(number),
            names_needed: BatchNumber(1),
            readings: 10,
            gap: None,
            run: None,
            class: Class(1),
            form: Form::Whole,
            boot_relative: false,
            sealed_at: TimeNs(1_000),
            born: Duration::ZERO,
            size: 100,
            ram: None,
            disk: OnDisk::At(DiskPosition::at(3, offset, 102)),
            urgent: false,
            waiters: Vec::new(),
        }
    }

    fn shelf() -> EpochShelf {
        let names = LaneShelf {
            entries: [entry(1, 48)].into(),
            ..LaneShelf::default()
        };
        let mut gap = entry(2, 192);
        gap.from = BatchNumber(1);
        gap.gap = Some(GapReason::Overflow);
        let live = LaneShelf {
            entries: [gap, entry(3, 336), entry(4, 480)].into(),
            ..LaneShelf::default()
        };
        EpochShelf {
            epoch: Epoch(7),
            order: 2,
            boot: BootId([9; 16]),
            began_here: false,
            lanes: [names, live, LaneShelf::default()],
            early: Early {
                newest_ns: Some(-1),
                clock: Some(BatchNumber(5)),
                is_placed: false,
            },
        }
    }

    /// The bytes must be read for ever.
    const GOLDEN: &str = "01\
        01 0000000000000007 02 09090909090909090909090909090909 03 01 05\
        00 0000000000000000 01\
        01 01 00 0000000000000000 0101010101010101 01 0a 00000000000003e8 64 03 30 66\
        00 0000000000000000 02\
        21 01 01 0101010101010101 0202020202020202 01 0a 00000000000003e8 64 03 c001 66 00\
        40 03 01 0202020202020202 0404040404040404 01 14 00000000000003e8 c801 03 d002 66\
        e804 01 01 02 a802\
        00 0000000000000000 00";

    #[test]
    fn a_summary_is_these_bytes_and_is_read_back() {
        let shelves = [shelf()];
        let payload = encode_summary(&shelves, 100);
        let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN.replace(' ', ""));
        let read = decode_summary(&payload).unwrap();
        assert_eq!(read[0].record.acked, shelves[0].record().acked);
        assert_eq!((read[0].record.epoch, read[0].record.order), (Epoch(7), 2));
        assert_eq!(read[0].record.boot, shelves[0].boot);
        assert_eq!(read[0].early, shelves[0].early);
        let [names, live, backlog] = &read[0].lanes;
        assert_eq!((names.len(), live.len(), backlog.len()), (1, 2, 0));
        let run = &live[1];
        assert_eq!(
            (run.from.0, run.to.0, run.readings, run.size),
            (3, 4, 20, 200)
        );
        let share = run.shares().next().unwrap();
        assert_eq!((share.class, share.thin), (Class(1), false));
        assert_eq!((share.sum.batches, share.sum.bytes), (2, 296));
        assert_eq!(run.held_bytes(), 296);
    }

    #[test]
    fn what_is_no_summary_is_refused() {
        let payload = encode_summary(&[shelf()], 100);
        for end in 0..payload.len() {
            assert!(decode_summary(&payload[..end]).is_err(), "{end}");
        }
        let mut longer = payload.to_vec();
        longer.push(0);
        assert!(decode_summary(&longer).is_err());
        for at in 0..payload.len() {
            for bit in 0..8 {
                let mut other = payload.to_vec();
                other[at] ^= 1 << bit;
                // Whatever it says, nothing is allocated that the bytes cannot hold.
                let _ = decode_summary(&other);
            }
        }
    }
}
