//! The buffer's records in the journal.
//!
//! ```text
//! kind 1, a batch or gap record   head.group = lane, head.number = its number
//!     version u8 = 1, readings varint, then the bytes as they are sent: of class 0, not thin
//!     version u8 = 2, form u8 (bits 0 to 2 class, bit 7 thin), then the same
//! kind 2, where an epoch stands   head.number = 0
//!     version u8 = 2, epoch u64, order varint, ended cleanly u8, boot 16,
//!     then for each lane what is acked: last varint, digest 8
//!     then for each lane what was written before this record: last varint, digest 8
//!     version u8 = 1: without the last three
//! kind 3, all that is on disk     head.number = 0, payload in summary.rs
//! ```
//! Numbers are big-endian. A later record replaces what an earlier one says of the same numbers or
//! epoch.

use bytes::Bytes;
use journal::RecordHead;
use shared::id::{BatchNumber, Digest, Epoch, Lane};
use shared::limits::COUNT_MAX;
use shared::verdict::Position;
use shared::wire::{Reader, WireError, put_varint};

use crate::clock::BootId;
use crate::handed::Class;

pub(super) const KIND_BATCH: u8 = 1;
pub(super) const KIND_EPOCH: u8 = 2;
/// What all records before it come to, as far as it still matters.
pub(super) const KIND_SUMMARY: u8 = 3;
const VERSION: u8 = 1;
/// Of a batch that has something to say of its form.
const VERSION_FORM: u8 = 2;
/// Of an epoch that tells what was written.
const VERSION_WRITTEN: u8 = 2;
pub(super) const CLASS_BITS: u8 = 0x07;
pub(super) const THIN_BIT: u8 = 0x80;

/// What stands before the bytes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchRecord {
    pub(super) readings: u64,
    pub(super) class: Class,
    /// It is not thinned any more.
    pub(super) thin: bool,
}

/// Where an epoch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct EpochRecord {
    pub(super) epoch: Epoch,
    /// Epochs of this buffer are ordered by it.
    pub(super) order: u64,
    pub(super) ended_cleanly: bool,
    /// The boot of the machine in which it began.
    pub(super) boot: BootId,
    /// By `Lane as usize`: what the cluster is known to have.
    pub(super) acked: [Position; 3],
    /// Up to here records stood before this one when it was written: a start that does not find them
    /// knows that they are damaged, if the cluster does not have them.
    pub(super) written: [Position; 3],
}

pub(super) fn batch_head(lane: Lane, number: BatchNumber) -> RecordHead {
    RecordHead {
        group: lane as u32,
        kind: KIND_BATCH,
        number: number.0,
    }
}

pub(super) fn epoch_head() -> RecordHead {
    RecordHead {
        group: 0,
        kind: KIND_EPOCH,
        number: 0,
    }
}

pub(super) fn summary_head() -> RecordHead {
    RecordHead {
        group: 0,
        kind: KIND_SUMMARY,
        number: 0,
    }
}

/// Whether a record tells all that matters of those before it.
pub fn sums_up(head: RecordHead) -> bool {
    head.kind == KIND_SUMMARY
}

pub(super) fn encode_batch(record: &BatchRecord, bytes: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(bytes.len() + 12);
    let thin = if record.thin { THIN_BIT } else { 0 };
    let form = thin | (record.class.0 & CLASS_BITS);
    if form == 0 {
        out.push(VERSION);
    } else {
        out.extend([VERSION_FORM, form]);
    }
    put_varint(&mut out, record.readings);
    out.extend_from_slice(bytes);
    out.into()
}

/// What is said of a batch, and where in the payload its bytes begin.
pub(super) fn decode_batch(payload: &[u8]) -> Result<(BatchRecord, usize), WireError> {
    let mut reader = Reader::new(payload);
    let form = match reader.byte()? {
        VERSION => 0,
        VERSION_FORM => reader.byte()?,
        _ => return Err(WireError::Malformed("a record of another version")),
    };
    if form & !(CLASS_BITS | THIN_BIT) != 0 {
        return Err(WireError::Malformed("a batch of unknown form"));
    }
    let readings = reader.varint()?;
    if readings > COUNT_MAX {
        return Err(WireError::Limit("readings of a batch"));
    }
    let record = BatchRecord {
        readings,
        class: Class(form & CLASS_BITS),
        thin: form & THIN_BIT != 0,
    };
    Ok((record, payload.len() - reader.remaining()))
}

pub(super) fn encode_epoch(record: &EpochRecord) -> Bytes {
    let mut out = vec![VERSION_WRITTEN];
    out.extend_from_slice(&record.epoch.0.to_be_bytes());
    put_varint(&mut out, record.order);
    out.push(u8::from(record.ended_cleanly));
    out.extend_from_slice(&record.boot.0);
    for position in record.acked.iter().chain(&record.written) {
        put_varint(&mut out, position.last.0);
        out.extend_from_slice(&position.digest.0);
    }
    out.into()
}

pub(super) fn decode_epoch(payload: &[u8]) -> Result<EpochRecord, WireError> {
    let mut reader = Reader::new(payload);
    let version = reader.byte()?;
    if version != VERSION && version != VERSION_WRITTEN {
        return Err(WireError::Malformed("a record of another version"));
    }
    let epoch = Epoch(u64::from_be_bytes(reader.array()?));
    let order = reader.varint()?;
    if order > COUNT_MAX {
        return Err(WireError::Limit("epochs"));
    }
    let ended_cleanly = match reader.byte()? {
        0 => false,
        1 => true,
        _ => return Err(WireError::Malformed("neither ended cleanly nor not")),
    };
    let boot = BootId(reader.array()?);
    let acked = take_positions(&mut reader)?;
    let written = if version == VERSION_WRITTEN {
        take_positions(&mut reader)?
    } else {
        Default::default()
    };
    Ok(EpochRecord {
        epoch,
        order,
        ended_cleanly,
        boot,
        acked,
        written,
    })
}

/// One of each lane.
fn take_positions(reader: &mut Reader<'_>) -> Result<[Position; 3], WireError> {
    let mut positions = [Position::default(); 3];
    for position in &mut positions {
        let last = reader.varint()?;
        if last > COUNT_MAX {
            return Err(WireError::Limit("numbers"));
        }
        position.last = BatchNumber(last);
        position.digest = Digest(reader.array()?);
    }
    Ok(positions)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An epoch's record; the bytes must be read for ever.
    const GOLDEN: &str = "02 0000000000000007 ac02 01 09090909090909090909090909090909\
        01 0101010101010101 02 0202020202020202 c801 c8c8c8c8c8c8c8c8\
        03 0303030303030303 c801 c8c8c8c8c8c8c8c8 00 0000000000000000";

    #[test]
    fn records_are_read_back() {
        for (class, thin, version) in [(0, false, 1), (7, false, 2), (0, true, 2), (3, true, 2)] {
            let record = BatchRecord {
                readings: 300,
                class: Class(class),
                thin,
            };
            let payload = encode_batch(&record, b"batch");
            assert_eq!(payload[0], version);
            let (read, at) = decode_batch(&payload).unwrap();
            assert_eq!((read, &payload[at..]), (record, b"batch".as_slice()));
        }
        let position = |last: u8| Position {
            last: BatchNumber(u64::from(last)),
            digest: Digest([last; 8]),
        };
        let record = EpochRecord {
            epoch: Epoch(7),
            order: 300,
            ended_cleanly: true,
            boot: BootId([9; 16]),
            acked: [1, 2, 200].map(position),
            written: [3, 200, 0].map(position),
        };
        let payload = encode_epoch(&record);
        assert_eq!(decode_epoch(&payload), Ok(record));
        let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN.replace(' ', ""));
        let mut first = payload[..payload.len() - 28].to_vec();
        first[0] = 1;
        let told = EpochRecord {
            written: Default::default(),
            ..record
        };
        assert_eq!(decode_epoch(&first), Ok(told), "version 1 is read for ever");
        for end in 0..payload.len() {
            assert!(decode_epoch(&payload[..end]).is_err());
        }
        assert!(decode_epoch(b"\x03").is_err());
        assert!(decode_batch(&[3, 0]).is_err());
        assert!(decode_batch(&[2, 0x08, 0]).is_err());
        assert!(decode_batch(&[2, 0x01]).is_err());
    }
}
