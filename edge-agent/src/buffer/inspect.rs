//! What the buffer's records mean and what a journal of them holds, in words: `inspect` prints it.
//! It goes by the same recovery as the agent's own start, but reads everything: no summary is
//! taken for what it sums up.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use journal::{JournalError, Position as DiskPosition, RecordHead};
use shared::batch::{Body, Kind, decode, read_header};
use shared::id::{BatchNumber, Lane};
use shared::verdict::Position;

use super::EpochShelf;
use super::lane::{Entry, LaneShelf};
use super::record::{
    BatchRecord, EpochRecord, KIND_BATCH, KIND_EPOCH, KIND_SUMMARY, decode_batch, decode_epoch,
};
use super::recover::Recovery;
use super::summary::decode_summary;
use crate::clock::BootId;

/// What one record says, as a line.
///
/// # Errors
/// Why it is none of the buffer's.
pub fn meaning(head: RecordHead, payload: &[u8]) -> Result<String, String> {
    match head.kind {
        KIND_BATCH => batch_meaning(payload),
        KIND_EPOCH => decode_epoch(payload)
            .map(|record| epoch_meaning(&record))
            .map_err(|error| error.to_string()),
        KIND_SUMMARY => summary_meaning(payload),
        other => Err(format!("kind {other} is none of an agent's buffer")),
    }
}

fn batch_meaning(payload: &[u8]) -> Result<String, String> {
    let (record, at) = decode_batch(payload).map_err(|error| error.to_string())?;
    let bytes = &payload[at..];
    let (header, kind) = read_header(bytes).map_err(|error| error.to_string())?;
    let BatchRecord {
        readings,
        class,
        thin,
    } = record;
    let (lane, to) = (header.lane.as_str(), header.number);
    let what = if kind == Kind::Gap {
        let batch = decode(bytes).map_err(|error| error.to_string())?;
        let reason = match &batch.body {
            Body::Gap(gap) => gap.reason.as_str(),
            Body::Hello(_) | Body::Names(_) | Body::Data(_) | Body::Clock(_) => kind.as_str(),
        };
        let numbers = numbers(batch.first_number(), to);
        format!("gap {lane} {numbers}: {reason}, {readings} readings lost")
    } else {
        let thin = if thin { ", thin" } else { "" };
        let (kind, class) = (kind.as_str(), class.0);
        format!(
            "{kind} {lane} {}: {readings} readings, class {class}{thin}",
            to.0
        )
    };
    let (size, epoch, sealed_at) = (bytes.len(), header.epoch, header.sealed_at.0);
    Ok(format!(
        "{what}, {size} bytes, sealed at {sealed_at} ns, epoch {epoch}"
    ))
}

fn summary_meaning(payload: &[u8]) -> Result<String, String> {
    let epochs = decode_summary(payload).map_err(|error| error.to_string())?;
    let items = || epochs.iter().flat_map(|epoch| &epoch.lanes).flatten();
    let records: u64 = items().map(Entry::records).sum();
    let readings: u64 = items().map(Entry::pending).sum();
    let (epochs, items) = (epochs.len(), items().count());
    Ok(format!(
        "summary: {epochs} epochs, {records} batches and gap records in {items} parts, {readings} readings"
    ))
}

fn epoch_meaning(record: &EpochRecord) -> String {
    let EpochRecord {
        epoch,
        order,
        ended_cleanly,
        boot,
        acked,
        written,
    } = record;
    format!(
        "epoch {epoch}: order {order}, {}, {}, acknowledged {}, written before {}",
        ended(*ended_cleanly),
        boot_text(*boot),
        by_lane(acked),
        by_lane(written)
    )
}

fn by_lane(positions: &[Position; 3]) -> String {
    let [names, live, backlog] = positions.map(|position| position.last.0);
    format!("names {names} live {live} backlog {backlog}")
}

fn ended(cleanly: bool) -> &'static str {
    if cleanly {
        "ended cleanly"
    } else {
        "open or not ended cleanly"
    }
}

fn boot_text(boot: BootId) -> String {
    if boot == BootId::default() {
        "boot not told".to_owned()
    } else {
        format!("boot {:032x}", u128::from_be_bytes(boot.0))
    }
}

fn numbers(from: BatchNumber, to: BatchNumber) -> String {
    if from == to {
        format!("{}", to.0)
    } else {
        format!("{} to {}", from.0, to.0)
    }
}

/// Collects the records of a journal in their order.
#[derive(Debug)]
pub struct Inventory {
    recovery: Recovery,
    /// The latest record of each epoch, by its order.
    epochs: BTreeMap<u64, EpochRecord>,
}

impl Default for Inventory {
    fn default() -> Self {
        Inventory {
            recovery: Recovery::one_by_one(),
            epochs: BTreeMap::new(),
        }
    }
}

impl Inventory {
    /// Takes the next record.
    ///
    /// # Errors
    /// `Refused` if it is none of the buffer's.
    pub fn visit(
        &mut self,
        position: DiskPosition,
        head: RecordHead,
        payload: &[u8],
    ) -> Result<(), JournalError> {
        if head.kind == KIND_SUMMARY {
            let refused = |what| JournalError::Refused { what };
            return summary_meaning(payload).map(|_| ()).map_err(refused);
        }
        self.recovery.visit(position, head, payload)?;
        if head.kind == KIND_EPOCH
            && let Ok(record) = decode_epoch(payload)
        {
            self.epochs.insert(record.order, record);
        }
        Ok(())
    }

    /// Some of the records are damaged: numbers that are missing may be lost.
    pub fn damaged(&mut self) {
        self.recovery.damaged();
    }

    /// The epochs, oldest first, and what a start of the agent would find of each.
    pub fn into_text(self) -> String {
        let Inventory { recovery, epochs } = self;
        let mut shelves = recovery.into_shelves();
        let mut text = String::new();
        for record in epochs.values() {
            let at = shelves.iter().position(|shelf| shelf.epoch == record.epoch);
            let shelf = at.map(|at| shelves.remove(at));
            put_epoch(&mut text, record, shelf.as_ref()).expect(CANNOT_FAIL);
        }
        for shelf in &shelves {
            let epoch = shelf.epoch;
            writeln!(
                text,
                "epoch {epoch}: the record of where it stands is missing"
            )
            .and_then(|()| put_lanes(&mut text, shelf))
            .expect(CANNOT_FAIL);
        }
        if text.is_empty() {
            text.push_str("no epoch has begun here\n");
        }
        text
    }
}

const CANNOT_FAIL: &str = "writing to a string cannot fail";

fn put_epoch(text: &mut String, record: &EpochRecord, shelf: Option<&EpochShelf>) -> fmt::Result {
    writeln!(text, "{}", epoch_meaning(record))?;
    match shelf {
        Some(shelf) => put_lanes(text, shelf),
        None => writeln!(text, "  nothing is left to send"),
    }
}

fn put_lanes(text: &mut String, shelf: &EpochShelf) -> fmt::Result {
    for (lane, held) in Lane::ALL.into_iter().zip(&shelf.lanes) {
        put_lane(text, lane, held)?;
    }
    Ok(())
}

fn put_lane(text: &mut String, lane: Lane, held: &LaneShelf) -> fmt::Result {
    let (name, acked) = (lane.as_str(), held.acked.last.0);
    write!(text, "  {name:<8} acknowledged to {acked}, ")?;
    let (Some(first), Some(last)) = (held.entries.front(), held.entries.back()) else {
        return writeln!(text, "holds nothing");
    };
    let entries = || held.entries.iter();
    let batches = entries().filter(|entry| entry.gap.is_none()).count();
    let readings: u64 = entries().map(Entry::pending).sum();
    let bytes: usize = entries().map(|entry| entry.size).sum();
    // Of what was lost to damage no time is known.
    let sealed = || {
        entries()
            .map(|entry| entry.sealed_at.0)
            .filter(|at| *at != 0)
    };
    let (oldest, newest) = (
        sealed().min().unwrap_or_default(),
        sealed().max().unwrap_or_default(),
    );
    writeln!(
        text,
        "holds {}: {batches} batches, {readings} readings, {bytes} bytes, sealed from {oldest} to {newest} ns",
        numbers(first.from, last.to)
    )?;
    for entry in entries() {
        if let Some(reason) = entry.gap {
            let (numbers, lost) = (numbers(entry.from, entry.to), entry.readings);
            let reason = reason.as_str();
            writeln!(text, "    gap {numbers}: {reason}, {lost} readings lost")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use shared::batch::{Gap, GapReason, Header, encode};
    use shared::id::{Digest, Epoch, TimeNs};

    use super::super::record::{batch_head, encode_batch, encode_epoch, epoch_head, summary_head};
    use super::super::summary::encode_summary;
    use super::*;
    use crate::handed::Class;

    fn gap_record() -> (RecordHead, Vec<u8>) {
        let header = Header {
            epoch: Epoch(7),
            lane: Lane::Live,
            number: BatchNumber(5),
            previous: Digest::ZERO,
            names_needed: BatchNumber::NONE,
            sealed_at: TimeNs(9),
            complete_below: TimeNs(8),
            boot_relative: false,
        };
        let body = Body::Gap(Gap {
            from: BatchNumber(1),
            readings: 30,
            reason: GapReason::Overflow,
            digest_to: Digest([1; 8]),
        });
        let record = BatchRecord {
            readings: 30,
            class: Class(0),
            thin: true,
        };
        let payload = encode_batch(&record, &encode(&header, &body).unwrap());
        (batch_head(Lane::Live, BatchNumber(5)), payload.to_vec())
    }

    fn epoch_record() -> Vec<u8> {
        let record = EpochRecord {
            epoch: Epoch(7),
            order: 2,
            ended_cleanly: true,
            boot: BootId([1; 16]),
            acked: [Position::default(); 3],
            written: [Position {
                last: BatchNumber(5),
                digest: Digest([1; 8]),
            }; 3],
        };
        encode_epoch(&record).to_vec()
    }

    #[test]
    fn records_are_told_by_what_they_mean() {
        let (head, payload) = gap_record();
        let text = meaning(head, &payload).unwrap();
        assert!(text.starts_with("gap live 1 to 5: "), "{text}");
        assert!(text.contains("30 readings lost"), "{text}");
        let text = meaning(epoch_head(), &epoch_record()).unwrap();
        assert!(text.contains("order 2, ended cleanly, boot 0101"), "{text}");
        let written = "written before names 5 live 5 backlog 5";
        assert!(text.contains(written), "{text}");
        assert!(meaning(epoch_head(), b"x").is_err());
        let text = meaning(summary_head(), &encode_summary(&[], 16)).unwrap();
        assert!(text.starts_with("summary: 0 epochs, 0 batches"), "{text}");
        assert!(meaning(summary_head(), b"x").is_err());
        let other = RecordHead { kind: 9, ..head };
        assert!(meaning(other, &payload).is_err());
    }

    #[test]
    fn an_inventory_tells_what_is_held_by_epoch_and_lane() {
        assert_eq!(
            Inventory::default().into_text(),
            "no epoch has begun here\n"
        );
        let mut inventory = Inventory::default();
        let at = position();
        inventory.visit(at, epoch_head(), &epoch_record()).unwrap();
        let (head, payload) = gap_record();
        inventory.visit(at, head, &payload).unwrap();
        let text = inventory.into_text();
        for part in [
            "epoch 0000000000000007: order 2",
            "  names    acknowledged to 0, holds nothing",
            "  live     acknowledged to 0, holds 1 to 5: 0 batches",
            "    gap 1 to 5: ",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    /// Any will do: nothing is read back.
    fn position() -> DiskPosition {
        let info = journal::inspect::RecordInfo {
            offset: 0,
            length: 0,
            head: epoch_head(),
            synced: 0,
            crc: 0,
        };
        info.position(1)
    }
}
