//! The batch: what an agent seals, numbers and sends. The same bytes in the agent's RAM and
//! flash, on the wire and in the Raft log. Byte by byte in `docs/formats.md`.
//!
//! What a valid batch is, is decided here and nowhere else: `check` holds the rules, `encode`
//! refuses to write what breaks them and `decode` refuses to read it. So whoever holds a `Batch`
//! that `decode` gave need not fear its content; only its place in the stream is left to judge.

pub mod check;
pub mod decode;
pub mod encode;
pub mod inspect;
#[cfg(test)]
mod golden;
#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the numbers of a test are small"
)]
mod properties;
#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the numbers of a test are small"
)]
mod tests;

pub use decode::{DecodeError, decode, read_header};
pub use encode::encode;
pub use inspect::describe;

pub use crate::reading::Unfit as EncodeError;

use crate::id::{BatchNumber, Digest, Epoch, Lane, LocalSeriesId, TimeNs};
use crate::reading::FieldType;

/// The version that [`encode`] writes.
pub const VERSION: u8 = 1;
/// The first two bytes of every batch.
pub const MAGIC: [u8; 2] = *b"TB";

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
    /// When it was sealed, by the agent's clock. An agent that does not know the time of day
    /// counts on from the last time that it knew.
    pub sealed_at: TimeNs,
    /// Everything this agent sealed before this time was acked when this batch was sealed.
    pub complete_below: TimeNs,
    /// Of data only: the times of its readings are nanoseconds since the boot of the machine, to
    /// be raised by the offset of its epoch's [`Clock`].
    pub boot_relative: bool,
}

/// What a batch holds, as its header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    Hello = 0,
    Names = 1,
    Data = 2,
    Gap = 3,
    Clock = 4,
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
    /// What the boot-relative times of its epoch count from. `names` lane only.
    Clock(Clock),
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// There was no room for all of them: the sums of their minutes come in another batch.
    Thinned = 5,
}

/// What the boot-relative times of an epoch are to be raised by. The first that takes effect
/// counts; a later one changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Time of day minus time since the machine's boot, in nanoseconds.
    pub offset_ns: i64,
    pub quality: ClockQuality,
}

/// How an agent came to know the time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ClockQuality {
    /// By the machine's clock, which the operating system called synchronised.
    Synced = 1,
    /// By the cluster's time in CONNACK.
    Cluster = 2,
    /// By what it remembers: the machine was started again before it knew.
    Estimated = 3,
}

/// The next link of a stream's digest chain: xxh3-64 of a batch's bytes, seeded with the link
/// before.
pub fn digest(previous: Digest, bytes: &[u8]) -> Digest {
    let seed = u64::from_be_bytes(previous.0);
    Digest(twox_hash::XxHash3_64::oneshot_with_seed(seed, bytes).to_be_bytes())
}

impl Batch {
    /// The first number it covers: `from` of a gap record, else its own.
    pub fn first_number(&self) -> BatchNumber {
        match &self.body {
            Body::Gap(gap) => gap.from,
            Body::Hello(_) | Body::Names(_) | Body::Data(_) | Body::Clock(_) => self.header.number,
        }
    }
}

impl Body {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::Hello,
            Self::Names(_) => Kind::Names,
            Self::Data(_) => Kind::Data,
            Self::Gap(_) => Kind::Gap,
            Self::Clock(_) => Kind::Clock,
        }
    }
}

impl Kind {
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Hello, Self::Names, Self::Data, Self::Gap, Self::Clock]
            .into_iter()
            .find(|k| *k as u8 == byte)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Names => "names",
            Self::Data => "data",
            Self::Gap => "gap",
            Self::Clock => "clock",
        }
    }
}

impl Header {
    /// What the columns of times count from, for the sake of few bytes.
    fn time_base(&self) -> i64 {
        if self.boot_relative {
            0
        } else {
            self.sealed_at.0
        }
    }
}

impl ClockQuality {
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Synced, Self::Cluster, Self::Estimated]
            .into_iter()
            .find(|quality| *quality as u8 == byte)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Synced => "synced",
            Self::Cluster => "cluster",
            Self::Estimated => "estimated",
        }
    }
}

impl GapReason {
    pub const ALL: [GapReason; 6] = [
        Self::Overflow,
        Self::Damaged,
        Self::Crash,
        Self::Refused,
        Self::Restored,
        Self::Thinned,
    ];

    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == byte)
    }

    /// The reason as it stands in the SQL table `gaps`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Overflow => "overflow",
            Self::Damaged => "damaged",
            Self::Crash => "crash",
            Self::Refused => "refused",
            Self::Restored => "restored",
            Self::Thinned => "thinned",
        }
    }
}

impl Data {
    /// Readings: rows of all series together.
    pub fn rows(&self) -> usize {
        self.groups
            .iter()
            .map(|group| group.times.len() * group.series.len())
            .sum()
    }

    /// Values that are present.
    pub fn values(&self) -> usize {
        self.columns().map(|column| column.values.len()).sum()
    }

    /// The least and the greatest time; `None` if there is no row.
    pub fn time_range(&self) -> Option<(TimeNs, TimeNs)> {
        let times = || {
            self.groups
                .iter()
                .flat_map(|group| group.times.iter().copied())
        };
        Some((TimeNs(times().min()?), TimeNs(times().max()?)))
    }

    fn columns(&self) -> impl Iterator<Item = &Column> {
        let series = self.groups.iter().flat_map(|group| &group.series);
        series.flat_map(|series| &series.columns)
    }
}

impl Values {
    /// A column without values of this type.
    pub fn empty(field_type: FieldType) -> Self {
        match field_type {
            FieldType::Float => Self::Float(Vec::new()),
            FieldType::Int => Self::Int(Vec::new()),
            FieldType::Bool => Self::Bool(Vec::new()),
            FieldType::Text => Self::Text(Vec::new()),
        }
    }

    pub fn field_type(&self) -> FieldType {
        match self {
            Self::Float(_) => FieldType::Float,
            Self::Int(_) => FieldType::Int,
            Self::Bool(_) => FieldType::Bool,
            Self::Text(_) => FieldType::Text,
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Float(values) => values.len(),
            Self::Int(values) => values.len(),
            Self::Bool(values) => values.len(),
            Self::Text(values) => values.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
