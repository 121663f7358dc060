//! Bytes as a batch. The only decoder that reads bytes from the network, so it trusts nothing:
//! length, magic, version and checksum first, then every count before it is used, with a budget
//! for all that is allocated; at the end the rules of `check`. It never panics.

use super::check::{
    COLUMN_PRICE, DEFINITION_PRICE, EPOCH_PRICE, GROUP_PRICE, SERIES_PRICE, check_body,
    check_header,
};
use super::encode::HAS_PRESENCE;
use super::{
    Batch, Body, Column, Data, Gap, GapReason, Group, Header, Hello, Kind, LastEpoch, MAGIC,
    SeriesColumns, SeriesDefinition, VERSION,
};
use crate::column::{TEXT_PRICE, TIME_PRICE, decode_bools, decode_times, decode_values};
use crate::id::{BatchNumber, Digest, Epoch, Lane, LocalSeriesId, TimeNs};
use crate::limits::{
    BATCH_BYTES_MAX, BATCH_DECODED_BYTES_MAX, BATCH_ROWS_MAX, BATCH_VALUES_MAX, DEFINITIONS_MAX,
    FIELDS_MAX, NAME_BYTES_MAX, OLDER_EPOCHS_MAX, TAGS_MAX,
};
use crate::reading::{FieldType, Unfit};
use crate::wire::{Budget, Reader, WireError};

/// Magic, version, flags, kind and lane; at the end the checksum.
const BYTES_MIN: usize = 5 + CHECKSUM_BYTES;
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
    let mut budget = Budget::new(BATCH_DECODED_BYTES_MAX);
    let body = match kind {
        Kind::Hello => Body::Hello(take_hello(&mut reader, &mut budget)?),
        Kind::Names => Body::Names(take_names(&mut reader, &mut budget)?),
        Kind::Data => Body::Data(take_data(&header, &mut reader, &mut budget)?),
        Kind::Gap => Body::Gap(take_gap(&header, &mut reader)?),
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
    if flags != 0 {
        return Err(DecodeError::Version { version, flags });
    }
    let mut reader = Reader::new(&covered[4..]);
    let (header, kind) = take_header(&mut reader)?;
    let body_bytes = reader.varint()?;
    if usize::try_from(body_bytes) != Ok(reader.remaining()) {
        return Err(DecodeError::Invalid(
            "a body of another length than its header says",
        ));
    }
    check_header(&header, kind)?;
    Ok((header, kind, reader))
}

fn take_header(reader: &mut Reader<'_>) -> Result<(Header, Kind), DecodeError> {
    let kind_and_lane = reader.byte()?;
    let kind = Kind::from_byte(kind_and_lane >> 4).ok_or(DecodeError::Invalid("unknown kind"))?;
    let lane = Lane::from_byte(kind_and_lane & 0x0f).ok_or(DecodeError::Invalid("unknown lane"))?;
    let epoch = Epoch(u64::from_be_bytes(reader.array()?));
    let number = BatchNumber(reader.varint()?);
    let previous = Digest(reader.array()?);
    let names_needed = BatchNumber(reader.varint()?);
    let sealed_at = i64::from_be_bytes(reader.array()?);
    let complete_below = TimeNs(sealed_at.wrapping_sub(reader.signed()?));
    let sealed_at = TimeNs(sealed_at);
    let header = Header {
        epoch,
        lane,
        number,
        previous,
        names_needed,
        sealed_at,
        complete_below,
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
    let times = decode_times(reader, rows, header.sealed_at.0, budget)?;
    budget.charge(count, SERIES_PRICE)?;
    let mut series = Vec::with_capacity(count);
    let mut before = 0;
    for _ in 0..count {
        let id = take_id(reader, &mut before)?;
        let columns = take_columns(reader, rows, budget)?;
        series.push(SeriesColumns { id, columns });
    }
    Ok(Group { times, series })
}

fn take_columns(
    reader: &mut Reader<'_>,
    rows: usize,
    budget: &mut Budget,
) -> Result<Vec<Column>, DecodeError> {
    let count = reader.count(FIELDS_MAX, "columns of a series")?;
    budget.charge(count, COLUMN_PRICE)?;
    let mut columns = Vec::with_capacity(count);
    let mut next_field = 0;
    for _ in 0..count {
        let skipped = reader.count(FIELDS_MAX, "fields of a series")?;
        let field = u16::try_from(next_field + skipped);
        let field = field.map_err(|_| DecodeError::Limit("fields of a series"))?;
        next_field = usize::from(field) + 1;
        columns.push(take_column(field, reader, rows, budget)?);
    }
    Ok(columns)
}

fn take_column(
    field: u16,
    reader: &mut Reader<'_>,
    rows: usize,
    budget: &mut Budget,
) -> Result<Column, DecodeError> {
    let type_byte = reader.byte()?;
    let field_type = take_type(type_byte & !HAS_PRESENCE)?;
    let (present, count) = if type_byte & HAS_PRESENCE == 0 {
        (None, rows)
    } else {
        let present = decode_bools(reader, rows, budget)?;
        let count = present.iter().filter(|flag| **flag).count();
        (Some(present), count)
    };
    if count > BATCH_VALUES_MAX {
        return Err(DecodeError::Limit("values of a batch"));
    }
    let values = decode_values(reader, field_type, count, budget)?;
    Ok(Column {
        field,
        present,
        values,
    })
}

const _: () = assert!(
    TIME_PRICE == crate::column::INT_PRICE,
    "times are decoded as integers"
);
