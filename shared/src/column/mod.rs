//! Columns of values as bytes: of a batch on its way and of a block at rest.
//!
//! Every encoded column has a codec of five bits, so that encodings can be added; a reader that
//! meets one it does not know refuses the column. It stands in a byte before the column
//! (`encode_`, `decode_`) or where the caller keeps it (`put_`, `take_`). An encoder takes the
//! shortest of what it knows, and always the same for the same values; what it computes on the way
//! stands in a [`Scratch`] that the columns of a batch share. A decoder is told how many
//! values to expect and charges a [`Budget`] before it allocates; what the caller passes as `count`
//! it has checked. No values are no bytes. Byte by byte in `docs/formats.md`.

pub mod bits;
pub mod blocks;
pub mod integer;
pub mod timestamp;
pub mod decimal;
pub mod float;
pub mod boolean;
pub mod text;
mod name;
#[cfg(test)]
pub(crate) mod properties;

pub use boolean::{decode_bools, encode_bools};
pub use integer::{decode_ints, encode_ints};
pub use name::{codec_name, time_codec_name};
pub use timestamp::{decode_times, encode_times};

use boolean::{put_bools, take_bools};
use float::{put_floats, take_floats};
use integer::{IntScratch, put_ints, take_ints};
use text::{put_texts, take_texts};

use crate::batch::Values;
use crate::reading::FieldType;
use crate::wire::{Budget, Reader, WireError};

/// The bits of a byte that a codec may use.
pub const CODEC_BITS: u8 = 0x1f;

/// Budget price of one time.
pub const TIME_PRICE: usize = INT_PRICE;
/// Budget price of one integer: itself, and once more while columns are put together or apart.
pub const INT_PRICE: usize = 16;
/// Budget price of one float: itself and its decimal mantissa.
pub const FLOAT_PRICE: usize = 16;
/// Budget price of one boolean or one presence flag.
pub const BOOL_PRICE: usize = 2;
/// Budget price of one text, besides its bytes.
pub const TEXT_PRICE: usize = 64;

/// Memory that encoding uses again from column to column.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Whole numbers that stand for the values of a column.
    pub(crate) wholes: Vec<i64>,
    /// Which values a form gives back.
    exact: Vec<bool>,
    pub(crate) ints: IntScratch,
}

impl Scratch {
    /// If floats were put last and their codec is an exponent: their whole numbers.
    pub fn wholes(&self) -> &[i64] {
        &self.wholes
    }
}

/// Appends codec and values, without their type and count.
pub fn encode_values(values: &Values, scratch: &mut Scratch, out: &mut Vec<u8>) {
    behind_codec(values.len(), out, |out| put_values(values, scratch, out));
}

/// Appends what `put` appends, behind the codec that it returns; nothing for no values.
fn behind_codec(count: usize, out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>) -> u8) {
    if count == 0 {
        return;
    }
    let at = out.len();
    out.push(0);
    out[at] = put(out);
}

/// Reads codec and `count` values of one type.
pub fn decode_values(
    reader: &mut Reader<'_>,
    field_type: FieldType,
    count: usize,
    budget: &mut Budget,
) -> Result<Values, WireError> {
    if count == 0 {
        return Ok(Values::empty(field_type));
    }
    let codec = reader.byte()?;
    take_values(codec, reader, field_type, count, budget)
}

/// Appends the values alone and returns their codec.
pub fn put_values(values: &Values, scratch: &mut Scratch, out: &mut Vec<u8>) -> u8 {
    match values {
        Values::Float(values) => put_floats(values, scratch, out),
        Values::Int(values) => put_ints(values, &mut scratch.ints, out),
        Values::Bool(values) => put_bools(values, out),
        Values::Text(values) => put_texts(values, scratch, out),
    }
}

/// Reads `count` values of one type and codec.
pub fn take_values(
    codec: u8,
    reader: &mut Reader<'_>,
    field_type: FieldType,
    count: usize,
    budget: &mut Budget,
) -> Result<Values, WireError> {
    Ok(match field_type {
        FieldType::Float => Values::Float(take_floats(codec, reader, count, budget)?),
        FieldType::Int => Values::Int(take_ints(codec, reader, count, budget)?),
        FieldType::Bool => Values::Bool(take_bools(codec, reader, count, budget)?),
        FieldType::Text => Values::Text(take_texts(codec, reader, count, budget)?),
    })
}

/// What decoding these values will charge.
pub fn price(values: &Values) -> usize {
    match values {
        Values::Float(values) => values.len() * FLOAT_PRICE,
        Values::Int(values) => values.len() * INT_PRICE,
        Values::Bool(values) => values.len() * BOOL_PRICE,
        Values::Text(values) => values.iter().map(|text| TEXT_PRICE + text.len()).sum(),
    }
}
