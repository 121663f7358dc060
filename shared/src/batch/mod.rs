//! The batch: what an agent seals, numbers and sends. The same bytes in the agent's RAM and
//! flash, on the wire and in the Raft log. Byte by byte in `docs/formats.md`.

use crate::id::{BatchNumber, Digest, Epoch, Lane, LocalSeriesId, TimeNs};
use crate::reading::FieldType;

/// What every batch says of itself; readable without decoding the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub epoch: Epoch,
    pub lane: Lane,
    /// The batch's own number; of a gap record, the last number it covers (`to`).
    pub number: BatchNumber,
    /// `d(number - 1)`; of a gap record `d(from - 1)`.
    pub previous: Digest,
    /// The `names` number that must be applied before this batch. Zero in the `names` lane.
    pub names_needed: BatchNumber,
    /// When it was sealed, by the agent's clock.
    pub sealed_at: TimeNs,
    /// Everything this agent sealed before this time was acked when this batch was sealed.
    pub complete_below: TimeNs,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Number 1 of the `names` lane of every epoch.
    Hello(Hello),
    /// Dictionary: what local series ids mean. `names` lane only.
    Names(Vec<SeriesDefinition>),
    /// Readings. `live` and `backlog` lanes only.
    Data(Data),
    /// Numbers that will not come. Any lane.
    Gap(Gap),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    pub header: Header,
    pub body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Epochs that the agent still holds batches of, oldest first.
    pub older_epochs: Vec<Epoch>,
    /// The epoch before this one, if the agent remembers one.
    pub last: Option<LastEpoch>,
    /// What a fire-and-forget source may lose at an unclean end, in milliseconds.
    pub max_unsafe_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastEpoch {
    pub epoch: Epoch,
    pub ended_cleanly: bool,
}

/// "7 = table truck, device t-17, tags .., fields velocity float, ..". An id is defined once in
/// an epoch and never changes; a series that gains a field gets a new id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesDefinition {
    pub id: LocalSeriesId,
    pub table: String,
    pub device: String,
    /// Sorted by key, keys unique.
    pub tags: Vec<(String, String)>,
    pub fields: Vec<(String, FieldType)>,
}

/// Readings, grouped by a shared time column.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Data {
    pub groups: Vec<Group>,
}

/// Series that were read together.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// One time a row, in the order of arrival: neither sorted nor unique.
    pub times: Vec<i64>,
    pub series: Vec<SeriesColumns>,
}

/// The columns of one series in a group; each has as many rows as the group has times.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesColumns {
    pub id: LocalSeriesId,
    pub columns: Vec<Column>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Index into the definition's `fields`.
    pub field: u16,
    /// `None`: every row has a value. Else one flag a row.
    pub present: Option<Vec<bool>>,
    /// One value for each present row.
    pub values: Values,
}

/// The values of a column, one type for all.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    Float(Vec<f64>),
    Int(Vec<i64>),
    Bool(Vec<bool>),
    Text(Vec<String>),
}

/// A record of numbers that will not come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// First number covered; the header's number is the last.
    pub from: BatchNumber,
    /// Readings lost, as far as the agent knows.
    pub readings: u64,
    pub reason: GapReason,
    /// `d(to)`: what the stream's digest is once the record took effect.
    pub digest_to: Digest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum GapReason {
    /// The buffer was full and the oldest went.
    Overflow = 0,
    /// The stored bytes did not match their checksum.
    Damaged = 1,
    /// Lost with the agent's memory.
    Crash = 2,
    /// The cluster refused the batch for ever; its bytes are in the dead-letter file.
    Refused = 3,
    /// Acked once, then lost by a cluster restored from an older backup.
    Restored = 4,
}
