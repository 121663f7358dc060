//! Floats as what most of them are: decimal numbers of a few digits, so m / 10^e with one e for
//! the column and m through `integer` (the idea of decimal front ends: Afroozeh et al., "ALP:
//! Adaptive Lossless floating-Point Compression", SIGMOD 2024; here exact per value, and m is not
//! bound to a block). Sensors that compute in single precision, registers that are multiplied by
//! 0.1 and sums that miss their decimal by an ulp have forms of their own in `decimal`; what has
//! none is written as its bits, or as its place among the few values that there are.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;

use super::decimal::{
    Decimal, EXCEPTIONS, Exponent, Form, Scaled, Single, Ulps, all_wholes, exponent,
    first_exponent, float_of_ordered, ordered_bits, put_form, quick_exponent, take_form,
    take_wholes,
};
use super::integer::{decode_ints, encode_ints};
use super::{FLOAT_PRICE, INT_PRICE, Scratch};
use crate::wire::{Budget, Reader, WireError, put_varint};

/// Up to here the codec is e: whole numbers m, every value is m / 10^e.
const DECIMAL_MAX: u8 = 15;
/// e, exceptions, whole numbers: m / 10^e.
const DECIMAL: u8 = Decimal::CODEC;
/// e, exceptions, whole numbers: m * 10^-e.
const SCALED: u8 = Scaled::CODEC;
/// e, exceptions, whole numbers: m / 10^e rounded to single precision.
const SINGLE: u8 = Single::CODEC;
/// e, exceptions, whole numbers, then by how many ulp each value lies above m / 10^e.
const ULPS: u8 = Ulps::CODEC;
/// Bits in an order that follows the values' order.
const BITS: u8 = 20;
/// The same of values that single precision holds.
const SINGLE_BITS: u8 = 21;
/// Count of distinct values, eight bytes each, then an index a value.
const DICTIONARY: u8 = 22;
/// Eight bytes a value, little-endian.
const RAW: u8 = 23;

/// Above this the first values' exponent may come from a single one that is unlike the others.
const QUICK_EXPONENT_MAX: usize = 6;
/// Of a NaN that is not signalling; the processor's own conversion may change other bits.
const QUIET_NAN: u64 = 0x7ff8_0000_0000_0000;

/// Appends the values without their codec, which it returns.
pub fn put_floats(values: &[f64], scratch: &mut Scratch, out: &mut Vec<u8>) -> u8 {
    if values.is_empty() {
        return 0;
    }
    let quick = |exponent: &usize| *exponent <= QUICK_EXPONENT_MAX;
    if let Some(exponent) = quick_wholes(values, &mut scratch.wholes) {
        encode_ints(&scratch.wholes, &mut scratch.ints, out);
        return exponent;
    }
    if let Some(exponent) = quick_exponent::<Scaled>(values).filter(quick)
        && let Some(codec) = put_form::<Scaled>(exponent, values, 0, scratch, out)
    {
        return codec;
    }
    if let Some(codec) = put_sampled::<Decimal>(values, scratch, out) {
        return codec;
    }
    put_shortest(values, scratch, out)
}

/// The exponent, and the whole numbers of all values, if the first values agree about it and all fit.
fn quick_wholes(values: &[f64], wholes: &mut Vec<i64>) -> Option<u8> {
    let mut fits = |exponent: &usize| {
        *exponent <= QUICK_EXPONENT_MAX
            && all_wholes::<Decimal>(Exponent::new(*exponent), values, wholes)
    };
    // That of the first value alone fits mostly, and is then that of all.
    let first = first_exponent::<Decimal>(values)?;
    let all = Some(first).filter(&mut fits);
    let all = all.or_else(|| {
        let more = quick_exponent::<Decimal>(values).filter(|more| *more > first);
        more.filter(&mut fits)
    });
    all.map(|exponent| u8::try_from(exponent).expect("at most six"))
}

/// Appends the values in one form if it fits most of them, by a sample and then by all.
fn put_sampled<F: Form>(values: &[f64], scratch: &mut Scratch, out: &mut Vec<u8>) -> Option<u8> {
    let exponent = exponent::<F>(values)?;
    put_form::<F>(exponent, values, values.len() / EXCEPTIONS, scratch, out)
}

/// Writes the values in each form that may fit, and keeps the shortest; of equals the first.
fn put_shortest(values: &[f64], scratch: &mut Scratch, out: &mut Vec<u8>) -> u8 {
    let start = out.len();
    let mut codec = put_bits(values, scratch, out);
    let others = [
        put_sampled::<Scaled>,
        put_sampled::<Single>,
        put_sampled::<Ulps>,
    ];
    for put_other in others {
        let end = out.len();
        let other = put_other(values, scratch, out);
        codec = keep_shorter(codec, start..end, other, out);
    }
    let end = out.len();
    let other = put_dictionary(values, end - start, scratch, out);
    codec = keep_shorter(codec, start..end, other, out);
    if values.len() * 8 < out.len() - start {
        out.truncate(start);
        let raw = |value: &f64| value.to_bits().to_le_bytes();
        out.extend(values.iter().flat_map(raw));
        codec = RAW;
    }
    codec
}

/// Of what stands in this range and what another codec has appended behind it.
fn keep_shorter(codec: u8, range: Range<usize>, other: Option<u8>, out: &mut Vec<u8>) -> u8 {
    match other {
        Some(other) if out.len() - range.end < range.len() => {
            out.drain(range);
            other
        }
        _ => {
            out.truncate(range.end);
            codec
        }
    }
}

fn put_bits(values: &[f64], scratch: &mut Scratch, out: &mut Vec<u8>) -> u8 {
    let Scratch { wholes, ints, .. } = scratch;
    let ordered = |bits: u32| {
        let bits = bits.cast_signed();
        i64::from(bits ^ ((bits >> 31) & i32::MAX))
    };
    wholes.clear();
    wholes.extend(values.iter().map_while(|value| narrow(*value).map(ordered)));
    let all_single = wholes.len() == values.len();
    if !all_single {
        wholes.clear();
        wholes.extend(values.iter().map(|value| ordered_bits(*value)));
    }
    encode_ints(wholes, ints, out);
    if all_single { SINGLE_BITS } else { BITS }
}

/// Bits of the single that gives this value back; the inverse of [`widen`].
#[expect(
    clippy::cast_possible_truncation,
    reason = "a value that loses something by it is not taken"
)]
fn narrow(value: f64) -> Option<u32> {
    let bits = if value.is_nan() {
        let high = |shift: u32| (value.to_bits() >> shift) as u32;
        high(32) & 0x8000_0000 | 0x7f80_0000 | high(29) & 0x007f_ffff
    } else {
        (value as f32).to_bits()
    };
    (widen(bits).to_bits() == value.to_bits()).then_some(bits)
}

/// The value of a single, bit by bit the same on every processor: what the conversion leaves of a
/// NaN differs among them.
fn widen(bits: u32) -> f64 {
    let single = f32::from_bits(bits);
    if single.is_nan() {
        let sign = u64::from(bits >> 31) << 63;
        return f64::from_bits(sign | QUIET_NAN | u64::from(bits & 0x007f_ffff) << 29);
    }
    f64::from(single)
}

/// Appends a dictionary and places in it; nothing if it would not be shorter than so many bytes.
fn put_dictionary(
    values: &[f64],
    shorter_than: usize,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Option<u8> {
    let Scratch { wholes, ints, .. } = scratch;
    let distinct_max = values.len() / 2;
    let mut places = HashMap::with_capacity_and_hasher(distinct_max + 1, BitsSeed::default());
    let mut distinct = Vec::new();
    wholes.clear();
    for value in values {
        let bits = value.to_bits();
        let place = *places.entry(bits).or_insert_with(|| {
            distinct.push(bits);
            i64::try_from(distinct.len() - 1).expect("they fit the memory")
        });
        wholes.push(place);
        if distinct.len() > distinct_max || 1 + 8 * distinct.len() >= shorter_than {
            return None;
        }
    }
    put_varint(out, distinct.len() as u64);
    for bits in distinct {
        out.extend_from_slice(&bits.to_le_bytes());
    }
    encode_ints(wholes, ints, out);
    Some(DICTIONARY)
}

/// Hashes the bits of floats in one multiplication. Seeded at random, so that no publisher can
/// choose values that collide; places are only looked up, so the bytes do not depend on it.
#[derive(Debug, Clone, Copy)]
struct BitsSeed(u64);

impl Default for BitsSeed {
    fn default() -> Self {
        Self(RandomState::new().hash_one(0_u64))
    }
}

impl BuildHasher for BitsSeed {
    type Hasher = BitsHasher;

    fn build_hasher(&self) -> BitsHasher {
        BitsHasher(self.0)
    }
}

#[derive(Debug, Clone, Copy)]
struct BitsHasher(u64);

impl Hasher for BitsHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    /// Both halves of a product of 128 bits, one over the other: each bit depends on all.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the two halves are taken apart"
    )]
    fn write_u64(&mut self, bits: u64) {
        let product = u128::from(self.0 ^ bits) * 0x9e37_79b9_7f4a_7c15;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Reads `count` values of this codec.
pub fn take_floats(
    codec: u8,
    reader: &mut Reader<'_>,
    count: usize,
    budget: &mut Budget,
) -> Result<Vec<f64>, WireError> {
    if count == 0 {
        return match codec {
            0 => Ok(Vec::new()),
            _ => Err(WireError::Malformed("a codec for no floats")),
        };
    }
    // `decode_ints` charges the rest of the price.
    budget.charge(count, FLOAT_PRICE - INT_PRICE)?;
    match codec {
        0..=DECIMAL_MAX => {
            let e = Exponent::new(usize::from(codec));
            take_wholes::<Decimal>(e, reader, count, budget)
        }
        DECIMAL => take_form::<Decimal>(reader, count, budget),
        SCALED => take_form::<Scaled>(reader, count, budget),
        SINGLE => take_form::<Single>(reader, count, budget),
        ULPS => take_form::<Ulps>(reader, count, budget),
        BITS => {
            let bits = decode_ints(reader, count, budget)?;
            Ok(bits.into_iter().map(float_of_ordered).collect())
        }
        SINGLE_BITS => take_single_bits(reader, count, budget),
        DICTIONARY => take_dictionary(reader, count, budget),
        RAW => {
            budget.charge(count, INT_PRICE)?;
            let bytes = reader.take(count.checked_mul(8).ok_or(WireError::Short)?)?;
            let (values, _) = bytes.as_chunks::<8>();
            let float = |bits: &[u8; 8]| f64::from_le_bytes(*bits);
            Ok(values.iter().map(float).collect())
        }
        _ => Err(WireError::Malformed("an unknown codec of floats")),
    }
}

fn take_single_bits(
    reader: &mut Reader<'_>,
    count: usize,
    budget: &mut Budget,
) -> Result<Vec<f64>, WireError> {
    let ordered = decode_ints(reader, count, budget)?;
    let mut values = Vec::with_capacity(count);
    for ordered in ordered {
        let ordered = i32::try_from(ordered)
            .map_err(|_| WireError::Malformed("a single float above 32 bits"))?;
        let bits = ordered ^ ((ordered >> 31) & i32::MAX);
        values.push(widen(bits.cast_unsigned()));
    }
    Ok(values)
}

fn take_dictionary(
    reader: &mut Reader<'_>,
    count: usize,
    budget: &mut Budget,
) -> Result<Vec<f64>, WireError> {
    let entries = reader.count(count, "floats of a dictionary")?;
    let bytes = reader.take(entries.checked_mul(8).ok_or(WireError::Short)?)?;
    let (entries, _) = bytes.as_chunks::<8>();
    let indices = decode_ints(reader, count, budget)?;
    let mut values = Vec::with_capacity(count);
    for index in indices {
        let entry = usize::try_from(index).ok().and_then(|at| entries.get(at));
        let bits = entry.ok_or(WireError::Malformed("an index outside its dictionary"))?;
        values.push(f64::from_le_bytes(*bits));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Values;
    use crate::column::{decode_values, encode_values};
    use crate::reading::FieldType;

    fn decode_floats(
        reader: &mut Reader<'_>,
        count: usize,
        budget: &mut Budget,
    ) -> Result<Vec<f64>, WireError> {
        match decode_values(reader, FieldType::Float, count, budget)? {
            Values::Float(values) => Ok(values),
            other => panic!("asked for floats, got {other:?}"),
        }
    }

    fn check(values: &[f64], bytes_max: usize) -> u8 {
        let mut out = Vec::new();
        let values_of = Values::Float(values.to_vec());
        encode_values(&values_of, &mut Scratch::default(), &mut out);
        let codec = out.first().copied().unwrap_or(0);
        assert!(
            out.len() <= bytes_max,
            "{} > {bytes_max}, codec {codec}: {values:?}",
            out.len()
        );
        let mut reader = Reader::new(&out);
        let mut budget = Budget::new(values.len() * FLOAT_PRICE);
        let back = decode_floats(&mut reader, values.len(), &mut budget).unwrap();
        let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<u64>>();
        assert_eq!(bits(&back), bits(values), "codec {codec}");
        assert!(reader.is_empty());
        assert_eq!(budget.left(), 0);
        codec
    }

    fn noise(count: u32) -> impl Iterator<Item = i32> {
        (0..count).map(|i| (i.wrapping_mul(2_654_435_761) >> 20).cast_signed())
    }

    #[test]
    fn what_sensors_print_is_short() {
        assert_eq!(check(&[], 0), 0);
        assert_eq!(check(&[21.5], 3), 1);
        assert_eq!(check(&[7.0; 1000], 4), 0);
        let walk: Vec<f64> = (0..1000)
            .map(|i| f64::from(2150 + (i * 7) % 13) / 100.0)
            .collect();
        assert_eq!(check(&walk, 10 + 8 + 1000 * 5 / 8), 2);
        let mut holes = walk.clone();
        holes[17] = f64::NAN;
        holes[400] = -0.0;
        assert_eq!(check(&holes, 40 + 8 + 1000 * 5 / 8), DECIMAL);
    }

    #[test]
    fn the_whole_numbers_of_decimals_are_at_hand() {
        let tenths: Vec<f64> = noise(300).map(|whole| f64::from(whole) / 10.0).collect();
        let thousandths = noise(300).map(|whole| f64::from(whole) / 1000.0);
        let late = (0..8).map(f64::from).chain(thousandths).collect();
        let scratch = &mut Scratch::default();
        for (values, exponent, power) in [(tenths, 1, 10.0), (late, 3, 1000.0)] {
            assert_eq!(put_floats(&values, scratch, &mut Vec::new()), exponent);
            let back = scratch.wholes().iter().map(|whole| *whole as f64 / power);
            assert!(back.eq(values));
        }
    }

    #[test]
    fn each_way_of_computing_has_its_form() {
        let registers: Vec<f64> = noise(500).map(|n| f64::from(n) * 0.1).collect();
        assert_eq!(check(&registers, 500 * 13 / 8 + 20), SCALED);
        let singles: Vec<f64> = noise(500)
            .map(|n| f64::from(n as f32 / 100.0_f32))
            .collect();
        assert_eq!(check(&singles, 500 * 13 / 8 + 20), SINGLE);
        let sums: Vec<f64> = noise(500)
            .map(|n| f64::from(n) / 10.0 + 0.2 + 0.1)
            .collect();
        assert_eq!(check(&sums, 500 * 16 / 8 + 40), ULPS);
        let few: Vec<f64> = (0..500).map(|i| f64::from(i % 3).sqrt() / 3.0).collect();
        assert_eq!(check(&few, 40 + 500 / 4), DICTIONARY);
        let binary: Vec<f64> = noise(500).map(|n| f64::from((n as f32).sqrt())).collect();
        assert_eq!(check(&binary, 500 * 4), SINGLE_BITS);
        let any: Vec<f64> = noise(500).map(|n| f64::from(n).sqrt()).collect();
        assert_eq!(check(&any, 500 * 8), BITS);
    }

    #[test]
    fn every_pattern_of_bits_survives() {
        let odd = [
            f64::NAN,
            f64::from_bits(0x7ff8_dead_beef_0001),
            f64::from_bits(0xfff0_0000_0000_0001),
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MIN_POSITIVE,
            f64::from_bits(1),
            f64::MAX,
            f64::MIN,
            1.0 / 3.0,
            0.1 + 0.2,
            9_007_199_254_740_993.0,
            1e15,
            1e22,
            -1e-15,
        ];
        check(&odd, 1 + 8 * odd.len());
        for value in odd {
            check(&[value], 11);
            check(&[value, 1.5, value, 2.5, 3.5, 4.5, 5.5, 6.5], 65);
            check(&[value, 1.5, 3.5, 2.5, 3.5, 4.5, 5.5, 6.5], 22);
        }
        check(&[f64::from(f32::MIN_POSITIVE), f64::from(f32::MAX)], 17);
    }

    #[test]
    fn singles_are_widened_bit_by_bit() {
        let exact = [
            0,
            1,
            0x8000_0000,
            0x3f80_0001,
            0x7f7f_ffff,
            0x7f80_0000,
            0xff80_0000,
            0x7fc0_0000,
            0xffc0_0001,
        ];
        for bits in exact {
            assert_eq!(narrow(widen(bits)), Some(bits), "{bits:#x}");
        }
        assert_eq!(widen(0x7fc0_0000).to_bits(), 0x7ff8_0000_0000_0000);
        assert_eq!(widen(0xffc0_0001).to_bits(), 0xfff8_0000_2000_0000);
        // A signalling NaN becomes a quiet one; so it cannot be written as a single.
        assert_eq!(widen(0x7f80_0001).to_bits(), 0x7ff8_0000_2000_0000);
        let none = [
            0x7ff0_0000_2000_0000,
            0x7ff0_0000_0000_0001,
            0x7ff8_0000_0000_0001,
            0.1_f64.to_bits(),
        ];
        for bits in none {
            assert_eq!(narrow(f64::from_bits(bits)), None, "{bits:#x}");
        }
    }

    #[test]
    fn damage_is_refused() {
        let mut budget = Budget::new(10_000);
        let mut read = |bytes: &[u8]| decode_floats(&mut Reader::new(bytes), 2, &mut budget);
        assert!(matches!(read(&[24, 0, 0, 0]), Err(WireError::Malformed(_))));
        assert_eq!(read(&[RAW, 0, 0, 0]), Err(WireError::Short));
        assert!(matches!(
            read(&[DECIMAL, 1, 3, 0, 0]),
            Err(WireError::Limit(_))
        ));
        assert!(matches!(
            read(&[DECIMAL, 16, 0, 0, 0]),
            Err(WireError::Malformed(_))
        ));
        let past = [DECIMAL, 1, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(matches!(read(&past), Err(WireError::Malformed(_))));
        let wide = [SINGLE_BITS, 1, 0xff, 0xff, 0xff, 0xff, 0x7f, 0];
        assert!(matches!(read(&wide), Err(WireError::Malformed(_))));
        let outside = [DICTIONARY, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
        assert!(matches!(read(&outside), Err(WireError::Malformed(_))));
    }
}
