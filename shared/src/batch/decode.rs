//! Bytes as a batch. The only decoder that reads bytes from the network, so it trusts nothing:
//! length, magic, version and checksum first, then every count before it is used, with a budget
//! for all that is allocated; at the end the rules of `check`. It never panics.

use super::check::{
    COLUMN_PRICE, DEFINITION_PRICE, EPOCH_PRICE, GROUP_PRICE, SERIES_PRICE, check_body,
    check_header,
};
use super::encode::{
    BOOT_RELATIVE, HAS_PRESENCE, KIND_HIGH, KIND_HIGH_SHIFT, LANE_SHIFT, SKIP, TYPE_SHIFT,
    UNIT_SHIFT, UNITS,
};
use super::{
    Batch, Body, Clock, ClockQuality, Column, Data, Gap, GapReason, Group, Header, Hello, Kind,
    LastEpoch, MAGIC, SeriesColumns, SeriesDefinition, VERSION, Values,
};
use crate::column::{
    CODEC_BITS, INT_PRICE, TEXT_PRICE, decode_bools, decode_ints, decode_times, take_values,
};
use crate::id::{BatchNumber, Digest, Epoch, Lane, LocalSeriesId, TimeNs};
use crate::limits::{
    BATCH_BYTES_MAX, BATCH_ROWS_MAX, BATCH_VALUES_MAX, DEFINITIONS_MAX, FIELDS_MAX, NAME_BYTES_MAX,
    OLDER_EPOCHS_MAX, TAGS_MAX, decoded_bytes_max,
};
use crate::reading::{FieldType, Unfit};
use crate::wire::{Budget, Reader, WireError};

/// Magic, version and flags; at the end the checksum.
const BYTES_MIN: usize = 4 + CHECKSUM_BYTES;
/// The bits of the flags that have a meaning.
const FLAGS: u8 = 0x7f;
const CHECKSUM_BYTES: usize = 4;

/// Why bytes are no batch, sorted by who must act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The reader is too old for the writer.
    #[error("batch version {version} with flags {flags:#04x}; this program reads version 1")]
    Version { version: u8, flags: u8 },
    /// The bytes are not as they were written.
    #[error("damaged batch: {0}")]
    Damaged(&'static str),
    /// The writer put together what the format does not allow.
    #[error("invalid batch: {0}")]
    Invalid(&'static str),
    /// The writer made it too large.
    #[error("batch over a limit of the format: {0}")]
    Limit(&'static str),
}

impl From<WireError> for DecodeError {
    fn from(error: WireError) -> Self {
        // The checksum has matched by then, so it was written this way.
        match error {
            WireError::Short => Self::Invalid("a part that ends too early"),
            WireError::Malformed(what) => Self::Invalid(what),
            WireError::Limit(what) => Self::Limit(what),
        }
    }
}

impl From<Unfit> for DecodeError {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::Limit(what) => Self::Limit(what),
            Unfit::Rule(what) => Self::Invalid(what),
        }
    }
}

/// Decodes a batch and checks all of it.
pub fn decode(bytes: &[u8]) -> Result<Batch, DecodeError> {
    let (header, kind, mut reader) = open(bytes)?;
    let mut budget = Budget::new(decoded_bytes_max(bytes.len()));
    let body = match kind {
        Kind::Hello => Body::Hello(take_hello(&mut reader, &mut budget)?),
        Kind::Names => Body::Names(take_names(&mut reader, &mut budget)?),
        Kind::Data => Body::Data(take_data(&header, &mut reader, &mut budget)?),
        Kind::Gap => Body::Gap(take_gap(&header, &mut reader)?),
        Kind::Clock => Body::Clock(take_clock(&mut reader)?),
    };
    if !reader.is_empty() {
        return Err(DecodeError::Invalid("bytes after the end of the body"));
    }
    check_body(&header, &body)?;
    Ok(Batch { header, body })
}

/// Checks lengths, version and checksum and reads the header, but leaves the body alone.
pub fn read_header(bytes: &[u8]) -> Result<(Header, Kind), DecodeError> {
    open(bytes).map(|(header, kind, _)| (header, kind))
}

/// The header, and a reader over exactly the body.
fn open(bytes: &[u8]) -> Result<(Header, Kind, Reader<'_>), DecodeError> {
    if bytes.len() > BATCH_BYTES_MAX {
        return Err(DecodeError::Limit("bytes of a batch"));
    }
    let Some((covered, checksum)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(DecodeError::Damaged("shorter than any batch"));
    };
    if bytes.len() < BYTES_MIN || covered[..2] != MAGIC {
        return Err(DecodeError::Damaged("it does not start like a batch"));
    }
    let (version, flags) = (covered[2], covered[3]);
    if version != VERSION {
        return Err(DecodeError::Version { version, flags });
    }
    if crc32c::crc32c(covered) != u32::from_be_bytes(*checksum) {
        return Err(DecodeError::Damaged("the checksum does not match"));
    }
    if flags & !FLAGS != 0 {
        return Err(DecodeError::Version { version, flags });
    }
    let mut reader = Reader::new(&covered[4..]);
    let (header, kind) = take_header(flags, &mut reader)?;
    check_header(&header, kind)?;
    Ok((header, kind, reader))
}

fn take_header(flags: u8, reader: &mut Reader<'_>) -> Result<(Header, Kind), DecodeError> {
    let two_bits = |shift: u32| flags >> shift & 3;
    let kind = two_bits(0) | (flags & KIND_HIGH) >> KIND_HIGH_SHIFT;
    let boot_relative = kind == BOOT_RELATIVE;
    let kind = if boot_relative {
        Kind::Data
    } else {
        let version = VERSION;
        Kind::from_byte(kind).ok_or(DecodeError::Version { version, flags })?
    };
    let lane = Lane::from_byte(two_bits(LANE_SHIFT));
    let lane = lane.ok_or(DecodeError::Invalid("unknown lane"))?;
    let unit = UNITS[usize::from(two_bits(UNIT_SHIFT))];
    let epoch = Epoch(u64::from_be_bytes(reader.array()?));
    let number = BatchNumber(reader.varint()?);
    let previous = Digest(reader.array()?);
    let names_needed = BatchNumber(reader.varint()?);
    let sealed_at = reader.signed()?;
    let complete_below = sealed_at.wrapping_sub(reader.signed()?);
    let time = |count: i64| count.checked_mul(unit).map(TimeNs);
    let too_far = DecodeError::Invalid("a time outside 64 bits");
    let sealed_at = time(sealed_at).ok_or(too_far)?;
    let complete_below = time(complete_below).ok_or(too_far)?;
    let header = Header {
        epoch,
        lane,
        number,
        previous,
        names_needed,
        sealed_at,
        complete_below,
        boot_relative,
    };
    Ok((header, kind))
}

fn take_hello(reader: &mut Reader<'_>, budget: &mut Budget) -> Result<Hello, DecodeError> {
    let count = reader.count(OLDER_EPOCHS_MAX, "older epochs")?;
    budget.charge(count, EPOCH_PRICE)?;
    let older_epochs = (0..count)
        .map(|_| take_epoch(reader))
        .collect::<Result<Vec<Epoch>, WireError>>()?;
    let last = match reader.byte()? {
        0 => None,
        ended @ (1 | 2) => Some(LastEpoch {
            epoch: take_epoch(reader)?,
            ended_cleanly: ended == 2,
        }),
        _ => return Err(DecodeError::Invalid("an unknown end of the last epoch")),
    };
    Ok(Hello {
        older_epochs,
        last,
        max_unsafe_ms: reader.varint()?,
    })
}

fn take_epoch(reader: &mut Reader<'_>) -> Result<Epoch, WireError> {
    Ok(Epoch(u64::from_be_bytes(reader.array()?)))
}

fn take_gap(header: &Header, reader: &mut Reader<'_>) -> Result<Gap, DecodeError> {
    let distance = reader.varint()?;
    let from = header.number.0.checked_sub(distance);
    let from = from.ok_or(DecodeError::Invalid("a gap that starts before number 0"))?;
    let readings = reader.varint()?;
    let reason = GapReason::from_byte(reader.byte()?);
    let reason = reason.ok_or(DecodeError::Invalid("an unknown reason of a gap"))?;
    Ok(Gap {
        from: BatchNumber(from),
        readings,
        reason,
        digest_to: Digest(reader.array()?),
    })
}

fn take_clock(reader: &mut Reader<'_>) -> Result<Clock, DecodeError> {
    let offset_ns = reader.signed()?;
    let quality = ClockQuality::from_byte(reader.byte()?);
    Ok(Clock {
        offset_ns,
        quality: quality.ok_or(DecodeError::Invalid("an unknown quality of a clock"))?,
    })
}

fn take_names(
    reader: &mut Reader<'_>,
    budget: &mut Budget,
) -> Result<Vec<SeriesDefinition>, DecodeError> {
    let count = reader.count(DEFINITIONS_MAX, "definitions of a batch")?;
    budget.charge(count, DEFINITION_PRICE)?;
    let mut definitions = Vec::with_capacity(count);
    let mut before = 0;
    for _ in 0..count {
        let id = take_id(reader, &mut before)?;
        let table = take_name(reader, budget)?;
        let device = take_name(reader, budget)?;
        let tags = reader.count(TAGS_MAX, "tags of a series")?;
        let tags = (0..tags)
            .map(|_| Ok((take_name(reader, budget)?, take_name(reader, budget)?)))
            .collect::<Result<Vec<_>, WireError>>()?;
        let fields = reader.count(FIELDS_MAX, "fields of a series")?;
        let fields = (0..fields)
            .map(|_| Ok((take_name(reader, budget)?, take_type(reader.byte()?)?)))
            .collect::<Result<Vec<_>, WireError>>()?;
        definitions.push(SeriesDefinition {
            id,
            table,
            device,
            tags,
            fields,
        });
    }
    Ok(definitions)
}

fn take_name(reader: &mut Reader<'_>, budget: &mut Budget) -> Result<String, WireError> {
    let name = reader.text(NAME_BYTES_MAX, "bytes of a name")?;
    budget.charge(1, TEXT_PRICE + name.len())?;
    Ok(name.to_owned())
}

fn take_type(byte: u8) -> Result<FieldType, WireError> {
    FieldType::from_byte(byte).ok_or(WireError::Malformed("an unknown type"))
}

/// An id, written as its distance from the one before.
fn take_id(reader: &mut Reader<'_>, before: &mut i64) -> Result<LocalSeriesId, WireError> {
    let id = before
        .checked_add(reader.signed()?)
        .and_then(|id| u32::try_from(id).ok());
    let id = id.ok_or(WireError::Malformed("a series id outside 32 bits"))?;
    *before = i64::from(id);
    Ok(LocalSeriesId(id))
}

fn take_data(
    header: &Header,
    reader: &mut Reader<'_>,
    budget: &mut Budget,
) -> Result<Data, DecodeError> {
    let count = reader.count(BATCH_ROWS_MAX, "groups of a batch")?;
    budget.charge(count, GROUP_PRICE)?;
    let mut groups = Vec::with_capacity(count);
    for _ in 0..count {
        groups.push(take_group(header, reader, budget)?);
    }
    Ok(Data { groups })
}

fn take_group(
    header: &Header,
    reader: &mut Reader<'_>,
    budget: &mut Budget,
) -> Result<Group, DecodeError> {
    let rows = reader.count(BATCH_ROWS_MAX, "rows of a batch")?;
    let count = reader.count(BATCH_ROWS_MAX, "series of a group")?;
    let times = decode_times(reader, rows, header.time_base(), budget)?;
    budget.charge(count, SERIES_PRICE)?;
    let mut series = Vec::with_capacity(count);
    let mut before = 0_i64;
    while series.len() < count {
        let alike = reader.count(count - series.len(), "series of a group")?;
        // The price of the series is their own size. Their ids are held for a moment beside them: a
        // quarter more, which is within what `Budget` leaves open.
        let mut paid = Budget::new(alike * INT_PRICE);
        let ids = decode_ints(reader, alike, &mut paid)?;
        if ids.is_empty() {
            return Err(DecodeError::Invalid("a run of no series"));
        }
        let (first, last) = (series.len(), before);
        for id in ids {
            let id = last.checked_add(id).and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or(WireError::Malformed("a series id outside 32 bits"))?;
            before = i64::from(id);
            series.push(SeriesColumns {
                id: LocalSeriesId(id),
                columns: Vec::new(),
            });
        }
        take_columns(&mut series[first..], reader, rows, budget)?;
    }
    Ok(Group { times, series })
}

/// Reads the columns of series that have the same fields.
fn take_columns(
    alike: &mut [SeriesColumns],
    reader: &mut Reader<'_>,
    rows: usize,
    budget: &mut Budget,
) -> Result<(), DecodeError> {
    let count = reader.count(FIELDS_MAX, "columns of a series")?;
    let columns = count.checked_mul(alike.len());
    budget.charge(columns.ok_or(WireError::Short)?, COLUMN_PRICE)?;
    for series in &mut *alike {
        series.columns.reserve_exact(count);
    }
    let mut next_field = 0;
    for _ in 0..count {
        let mut head = reader.byte()?;
        let mut field = next_field;
        if head == SKIP {
            field += reader.count(FIELDS_MAX, "fields of a series")?;
            head = reader.byte()?;
        }
        next_field = field + 1;
        let field = u16::try_from(field);
        let field = field.map_err(|_| DecodeError::Limit("fields of a series"))?;
        take_column(head, field, alike, reader, rows, budget)?;
    }
    Ok(())
}

/// Reads one field of all the series.
fn take_column(
    head: u8,
    field: u16,
    alike: &mut [SeriesColumns],
    reader: &mut Reader<'_>,
    rows: usize,
    budget: &mut Budget,
) -> Result<(), DecodeError> {
    let field_type = take_type((head & !HAS_PRESENCE) >> TYPE_SHIFT)?;
    let flags_count = rows.checked_mul(alike.len()).ok_or(WireError::Short)?;
    let present = if head & HAS_PRESENCE == 0 {
        None
    } else {
        Some(decode_bools(reader, flags_count, budget)?)
    };
    let present_count = |flags: &[bool]| flags.iter().filter(|flag| **flag).count();
    let count = present.as_deref().map_or(flags_count, present_count);
    if count > BATCH_VALUES_MAX {
        return Err(DecodeError::Limit("values of a batch"));
    }
    let mut values = take_values(head & CODEC_BITS, reader, field_type, count, budget)?;
    if let [series] = alike {
        series.columns.push(Column {
            field,
            present,
            values,
        });
        return Ok(());
    }
    // From the last to the first, so that each is the end of what is left.
    let mut left = count;
    for (nth, series) in alike.iter_mut().enumerate().rev() {
        let flags = present
            .as_ref()
            .map(|flags| flags[nth * rows..][..rows].to_vec());
        left -= flags.as_deref().map_or(rows, present_count);
        series.columns.push(Column {
            field,
            present: flags,
            values: split_off(&mut values, left),
        });
    }
    Ok(())
}

/// The values from a place on.
fn split_off(values: &mut Values, at: usize) -> Values {
    match values {
        Values::Float(values) => Values::Float(tail(values, at)),
        Values::Int(values) => Values::Int(tail(values, at)),
        Values::Bool(values) => Values::Bool(tail(values, at)),
        Values::Text(values) => Values::Text(tail(values, at)),
    }
}

/// What `Vec::split_off` gives, but the last part is what is left and no copy of its room.
fn tail<T>(values: &mut Vec<T>, at: usize) -> Vec<T> {
    if at > 0 {
        return values.split_off(at);
    }
    let mut all = std::mem::take(values);
    all.shrink_to_fit();
    all
}
