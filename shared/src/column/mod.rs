//! Columns of values as bytes: of a batch on its way and of a block at rest.
//!
//! Every encoded column starts with a codec byte, so that encodings can be added; a reader that
//! meets one it does not know refuses the column. An encoder takes the shortest of what it knows,
//! by exact cost, and always the same for the same values. A decoder is told how many values to
//! expect and charges a [`Budget`] before it allocates; what the caller passes as `count` it has
//! checked. No values are no bytes. Byte by byte in `docs/formats.md`.

pub mod bits;
pub mod integer;
pub mod timestamp;
pub mod float;
pub mod boolean;
pub mod text;
#[cfg(test)]
pub(crate) mod properties;

pub use boolean::{decode_bools, encode_bools};
pub use float::{decode_floats, encode_floats};
pub use integer::{decode_ints, encode_ints};
pub use text::{decode_texts, encode_texts};
pub use timestamp::{decode_times, encode_times};

use crate::batch::Values;
use crate::reading::FieldType;
use crate::wire::{Budget, Reader, WireError};

/// Budget price of one time.
pub const TIME_PRICE: usize = 8;
/// Budget price of one integer.
pub const INT_PRICE: usize = 8;
/// Budget price of one float: itself and its decimal mantissa.
pub const FLOAT_PRICE: usize = 16;
/// Budget price of one boolean or one presence flag.
pub const BOOL_PRICE: usize = 1;
/// Budget price of one text, besides its bytes.
pub const TEXT_PRICE: usize = 48;

/// Appends the values, without their type and count.
pub fn encode_values(values: &Values, out: &mut Vec<u8>) {
    match values {
        Values::Float(values) => encode_floats(values, out),
        Values::Int(values) => encode_ints(values, out),
        Values::Bool(values) => encode_bools(values, out),
        Values::Text(values) => encode_texts(values, out),
    }
}

/// Reads `count` values of one type.
pub fn decode_values(
    reader: &mut Reader<'_>,
    field_type: FieldType,
    count: usize,
    budget: &mut Budget,
) -> Result<Values, WireError> {
    Ok(match field_type {
        FieldType::Float => Values::Float(decode_floats(reader, count, budget)?),
        FieldType::Int => Values::Int(decode_ints(reader, count, budget)?),
        FieldType::Bool => Values::Bool(decode_bools(reader, count, budget)?),
        FieldType::Text => Values::Text(decode_texts(reader, count, budget)?),
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
