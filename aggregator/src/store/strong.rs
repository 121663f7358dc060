//! The shortest form of a column, for partitions that are sealed: what the own coder made of it as whole
//! numbers, entropy coded in the format of pco (Loncaric, "Pcodec: better compression for numerical
//! sequences", 2025): by `packing` where numbers lie close together, else by pco. It takes longer, and pays where values are noise in a few digits.
//!
//! Only bytes that this cluster wrote come here, behind a checksum that matched: pco's decoder is not
//! made for others. What is written is read back at once, bit by bit.

use pco::standalone::{simple_compress, simple_decompress_into};
use pco::{ChunkConfig, DeltaSpec, ModeSpec};
use shared::batch::Values;
use shared::column::decimal::{Decimal, Exponent, Form};
use shared::column::{FLOAT_PRICE, INT_PRICE};
use shared::reading::FieldType;
use shared::wire::Budget;

use super::packing::{Packing, pack};
use crate::state::bytes::ReadFault;

/// Above this bytes hardly become fewer, and bins are sought for longer.
const LEVEL: usize = 6;
/// Shorter columns gain nothing: pco's own head takes about 20 bytes.
const VALUES_MIN: usize = 256;
const OWN_BYTES_MIN: usize = 128;
/// Of the own form: at most so many percent, else the own one, which is read faster, stays.
const WORTH_PERCENT: usize = 95;

const INTS: u8 = 0;
/// And the exponent, of 0 to 15.
const DECIMALS: u8 = 1;
const FLOATS: u8 = 17;

/// The values in this form if it is worth it; `own` is what the own coder made of them, and `wholes`
/// are their whole numbers if that is decimals.
pub(super) fn encode(values: &Values, own: &[u8], wholes: &[i64]) -> Option<Vec<u8>> {
    if values.len() < VALUES_MIN || own.len() < OWN_BYTES_MIN {
        return None;
    }
    let bytes_max = own.len() * WORTH_PERCENT / 100;
    match values {
        Values::Int(ints) => packed(INTS, ints, order(own[0])?, bytes_max),
        Values::Float(_) if own[0] < FLOATS - DECIMALS => {
            packed(DECIMALS + own[0], wholes, order(own[1])?, bytes_max)
        }
        Values::Float(floats) => {
            let bytes = packed_floats(floats)?;
            let is_same = |a: &f64, b: &f64| a.to_bits() == b.to_bits();
            let is_worth_it = bytes.len() <= bytes_max && gives_back(&bytes[1..], floats, is_same);
            is_worth_it.then_some(bytes)
        }
        Values::Bool(_) | Values::Text(_) => None,
    }
}

fn packed_floats(floats: &[f64]) -> Option<Vec<u8>> {
    let plain = packed_as(FLOATS, floats, ModeSpec::Auto, DeltaSpec::NoOp)?;
    let change = packed_as(FLOATS, floats, ModeSpec::Auto, DeltaSpec::TryConsecutive(1))?;
    Some(if change.len() < plain.len() {
        change
    } else {
        plain
    })
}

/// How often differences are taken, as the own coder chose by a sample; none where its own form is as short
/// as can be.
fn order(codec: u8) -> Option<usize> {
    Some(match codec {
        3 | 4 => 0,
        5 | 6 => 1,
        7 => 2,
        _ => return None,
    })
}

/// Whole numbers behind their form, if that is at most so long.
fn packed(form: u8, numbers: &[i64], order: usize, bytes_max: usize) -> Option<Vec<u8>> {
    let bytes = match pack(numbers, order, bytes_max, vec![form]) {
        Packing::Packed(bytes) => bytes,
        Packing::Longer => return None,
        Packing::Wide => {
            let delta = match order {
                0 => DeltaSpec::NoOp,
                order => DeltaSpec::TryConsecutive(order),
            };
            packed_as(form, numbers, ModeSpec::Classic, delta)?
        }
    };
    let is_worth_it = bytes.len() <= bytes_max && gives_back(&bytes[1..], numbers, i64::eq);
    is_worth_it.then_some(bytes)
}

fn packed_as<T: pco::data_types::Number>(
    form: u8,
    numbers: &[T],
    mode: ModeSpec,
    delta: DeltaSpec,
) -> Option<Vec<u8>> {
    let config = ChunkConfig::default()
        .with_compression_level(LEVEL)
        .with_mode_spec(mode)
        .with_delta_spec(delta);
    let mut bytes = vec![form];
    bytes.extend(simple_compress(numbers, &config).ok()?);
    Some(bytes)
}

/// Whether the numbers come back bit by bit. That floats are what their whole numbers stand for, the own
/// coder has seen.
fn gives_back<T: pco::data_types::Number + Default>(
    packed: &[u8],
    all: &[T],
    is_same: impl Fn(&T, &T) -> bool,
) -> bool {
    let back = numbers::<T>(packed, all.len());
    back.is_ok_and(|back| back.iter().zip(all).all(|(a, b)| is_same(a, b)))
}

/// What the first byte says, for people.
pub(super) fn form_name(form: u8) -> String {
    match form {
        INTS => "pco".to_owned(),
        FLOATS => "pco of floats".to_owned(),
        DECIMALS..FLOATS => format!("pco of decimals, e {}", form - DECIMALS),
        other => format!("unknown form {other}"),
    }
}

/// Reads so many values of this type.
pub(super) fn decode(
    bytes: &[u8],
    field_type: FieldType,
    count: usize,
    budget: &mut Budget,
) -> Result<Values, ReadFault> {
    let invalid = ReadFault::Invalid("a packed column does not decode");
    let (form, packed) = bytes.split_first().ok_or(ReadFault::Short)?;
    let price = match field_type {
        FieldType::Int => INT_PRICE,
        _ => FLOAT_PRICE,
    };
    let charged = budget.charge(count, price);
    charged.map_err(|_| ReadFault::Invalid("a packed column is too large"))?;
    match (field_type, *form) {
        (FieldType::Int, INTS) => Ok(Values::Int(numbers(packed, count)?)),
        (FieldType::Float, FLOATS) => Ok(Values::Float(numbers(packed, count)?)),
        (FieldType::Float, form @ DECIMALS..FLOATS) => {
            let exponent = Exponent::new((form - DECIMALS).into());
            let wholes: Vec<i64> = numbers(packed, count)?;
            let float = |whole: i64| Decimal::float(exponent, whole as f64);
            Ok(Values::Float(wholes.into_iter().map(float).collect()))
        }
        _ => Err(invalid),
    }
}

fn numbers<T: pco::data_types::Number + Default>(
    packed: &[u8],
    count: usize,
) -> Result<Vec<T>, ReadFault> {
    let invalid = ReadFault::Invalid("a packed column does not decode");
    let mut all = vec![T::default(); count];
    match simple_decompress_into(packed, &mut all) {
        Ok(progress) if progress.finished && progress.n_processed == count => Ok(all),
        _ => Err(invalid),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use shared::column::{Scratch, encode_values};

    use super::*;

    fn own(values: &Values) -> (Vec<u8>, Scratch) {
        let (mut bytes, mut scratch) = (Vec::new(), Scratch::default());
        encode_values(values, &mut scratch, &mut bytes);
        (bytes, scratch)
    }

    fn encoded(values: &Values) -> Option<Vec<u8>> {
        let (own, scratch) = own(values);
        encode(values, &own, scratch.wholes())
    }

    fn comes_back(bytes: &[u8], values: &Values) -> bool {
        let mut budget = Budget::new(usize::MAX);
        let back = decode(bytes, values.field_type(), values.len(), &mut budget);
        match (back, values) {
            (Ok(Values::Int(back)), Values::Int(values)) => back == *values,
            (Ok(Values::Float(back)), Values::Float(values)) => {
                let bits = |float: &f64| float.to_bits();
                back.iter().map(bits).eq(values.iter().map(bits))
            }
            _ => false,
        }
    }

    /// Numbers that are noise in their last digits.
    fn noise(count: u64) -> impl Iterator<Item = i64> {
        let mixed = |nth: u64| (nth.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40).cast_signed();
        (0..count).map(move |nth| (mixed(nth) % 97) * (mixed(nth + 7) % 3))
    }

    /// Values of each form, and the file of it.
    fn samples() -> [(Values, u8, &'static str); 3] {
        let ints = Values::Int(noise(5_000).collect());
        let decimals = noise(5_000).map(|int| int as f64 / 10.0);
        let decimals = Values::Float(decimals.collect());
        let mut odd: Vec<f64> = noise(5_000).map(|int| int as f64 / 3.0).collect();
        (odd[7], odd[9]) = (-0.0, f64::from_bits(0x7ff8_0000_0000_1234));
        [
            (ints, INTS, "ints.bin"),
            (decimals, DECIMALS + 1, "decimals.bin"),
            (Values::Float(odd), FLOATS, "floats.bin"),
        ]
    }

    fn golden(name: &str) -> PathBuf {
        let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/packed/v1");
        PathBuf::from(fixtures).join(name)
    }

    /// What was written once is read for ever; another pco may write other bytes.
    #[test]
    fn golden_columns_are_read() {
        for (values, form, name) in samples() {
            let bytes = fs::read(golden(name)).unwrap();
            assert_eq!(bytes[0], form);
            assert!(comes_back(&bytes, &values), "{name}");
        }
    }

    /// Run with `--ignored` after adding a sample. It leaves files that are there alone.
    #[test]
    #[ignore = "writes the golden files of new samples"]
    fn write_golden_columns() {
        for (values, _, name) in samples() {
            let path = golden(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if !path.exists() {
                fs::write(path, encoded(&values).unwrap()).unwrap();
            }
        }
    }

    #[test]
    fn what_is_worth_it_comes_back_bit_by_bit() {
        for (values, form, _) in samples() {
            let (own, _) = own(&values);
            let bytes = encoded(&values).expect("it is worth it");
            assert_eq!(bytes[0], form);
            assert!(bytes.len() * 100 <= own.len() * WORTH_PERCENT);
            assert!(comes_back(&bytes, &values));
            let count = values.len();
            let budget = &mut Budget::new(1 << 30);
            assert!(decode(&bytes, values.field_type(), count + 1, budget).is_err());
            assert!(decode(&bytes, values.field_type(), count - 1, budget).is_err());
            assert!(decode(&bytes[..9], values.field_type(), count, budget).is_err());
            assert!(decode(&bytes, FieldType::Bool, count, budget).is_err());
            let small = &mut Budget::new(count);
            assert!(decode(&bytes, values.field_type(), count, small).is_err());
        }
    }

    #[test]
    fn what_is_short_already_stays() {
        let few = Values::Int(noise(VALUES_MIN as u64 - 1).collect());
        let steps = Values::Int((0..5_000).collect());
        let flags = Values::Bool((0..5_000).map(|nth| nth % 3 == 0).collect());
        for values in [few, steps, flags] {
            assert_eq!(encoded(&values), None);
        }
    }
}
