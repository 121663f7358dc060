//! Floats as what most of them are: decimal numbers of a few digits, so m / 10^e with one e for
//! the column and m through `integer` (the idea of decimal front ends: Afroozeh et al., "ALP:
//! Adaptive Lossless floating-Point Compression", SIGMOD 2024; here exact per value, and m is not
//! bound to a block). A value is taken only if the way back gives it bit by bit; what does not
//! (NaN, -0.0, infinities, long fractions) stands beside as an exception. Sensors that compute in
//! single precision, registers that are multiplied by 0.1 and sums that miss their decimal by an
//! ulp have forms of their own; what has none is written as its bits.

use std::collections::HashMap;

use super::integer::{decode_ints, encode_ints};
use super::{FLOAT_PRICE, INT_PRICE};
use crate::wire::{Budget, Reader, WireError, put_varint};

/// Up to here the codec is e: mantissas, every value is m / 10^e.
const DECIMAL_MAX: u8 = 15;
/// e, exceptions, mantissas: m / 10^e.
const DECIMAL: u8 = 16;
/// e, exceptions, mantissas: m * 10^-e.
const SCALED: u8 = 17;
/// e, exceptions, mantissas: m / 10^e rounded to single precision.
const SINGLE: u8 = 18;
/// e, exceptions, mantissas, then by how many ulp each value lies above m / 10^e.
const ULPS: u8 = 19;
/// Bits in an order that follows the values' order.
const BITS: u8 = 20;
/// The same of values that single precision holds.
const SINGLE_BITS: u8 = 21;
/// Count of distinct values, eight bytes each, then an index a value.
const DICTIONARY: u8 = 22;
/// Eight bytes a value, little-endian.
const RAW: u8 = 23;

const POWERS: [f64; 16] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
];
const SCALES: [f64; 16] = [
    1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12, 1e-13, 1e-14,
    1e-15,
];
/// Added to a float below [`MANTISSA_MAX`] it leaves no bit for a fraction, so the sum is rounded
/// and its lowest bits are the whole number.
const ROUND: f64 = 6_755_399_441_055_744.0;
const MANTISSA_MAX: f64 = 2_251_799_813_685_248.0;
/// Values that a form is tried on.
const SAMPLE: usize = 64;
/// Values that the exponent of all is guessed from; if it fits all it is taken.
const QUICK_SAMPLE: usize = 8;
/// Above this the guess may come from a single value that is unlike the others.
const QUICK_EXPONENT_MAX: usize = 6;
/// What one more digit costs a value, and what an exception costs, in bits.
const DIGIT_BITS: f64 = 3.32;
const EXCEPTION_BITS: f64 = 80.0;
/// One of so many values may be an exception.
const EXCEPTIONS: usize = 6;
const ULPS_MAX: i64 = 3;

/// A way between floats and whole numbers.
#[derive(Debug, Clone, Copy)]
enum Form {
    Decimal,
    Scaled,
    Single,
    Ulps,
}

impl Form {
    fn of(codec: u8) -> Option<Form> {
        match codec {
            DECIMAL => Some(Form::Decimal),
            SCALED => Some(Form::Scaled),
            SINGLE => Some(Form::Single),
            ULPS => Some(Form::Ulps),
            _ => None,
        }
    }

    fn codec(self) -> u8 {
        match self {
            Form::Decimal => DECIMAL,
            Form::Scaled => SCALED,
            Form::Single => SINGLE,
            Form::Ulps => ULPS,
        }
    }

    /// The float that a whole number stands for.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "single precision is what it stands for"
    )]
    fn float(self, whole: f64, exponent: usize) -> f64 {
        match self {
            Form::Decimal | Form::Ulps => whole / POWERS[exponent],
            Form::Scaled => whole * SCALES[exponent],
            Form::Single => f64::from((whole / POWERS[exponent]) as f32),
        }
    }

    /// The whole number nearest to what the value stands for, and whether it gives the value back.
    #[inline]
    fn whole(self, value: f64, exponent: usize) -> (i64, bool) {
        let sum = value * POWERS[exponent] + ROUND;
        let whole = sum - ROUND;
        let mantissa = sum.to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
        let back = self.float(whole, exponent);
        // The comparison is false for NaN, too.
        let small = whole.abs() < MANTISSA_MAX;
        let exact = match self {
            Form::Ulps => ulps(value, back).unsigned_abs() <= ULPS_MAX.unsigned_abs(),
            Form::Decimal | Form::Scaled | Form::Single => back.to_bits() == value.to_bits(),
        };
        (mantissa, small & exact)
    }

    /// The exponent of the first values, if all agree that it is enough.
    fn quick_exponent(self, values: &[f64]) -> Option<usize> {
        let mut most = 0;
        for value in values.iter().take(QUICK_SAMPLE) {
            let exact = |exponent: &usize| self.whole(*value, *exponent).1;
            most = (most..POWERS.len()).find(exact)?;
        }
        Some(most)
    }

    /// The exponent that costs least on these values, if it gives most of them back.
    fn exponent(self, sample: &[f64]) -> Option<usize> {
        let mut counts = [0_usize; POWERS.len()];
        for value in sample {
            let exact = |exponent: &usize| self.whole(*value, *exponent).1;
            if let Some(exponent) = (0..POWERS.len()).find(exact) {
                counts[exponent] += 1;
            }
        }
        let mut exact = 0;
        let mut best = None;
        for (exponent, count) in counts.into_iter().enumerate() {
            exact += count;
            let missed = sample.len() - exact;
            if count == 0 || missed * EXCEPTIONS > sample.len() {
                continue;
            }
            let cost =
                missed as f64 * EXCEPTION_BITS + (sample.len() * exponent) as f64 * DIGIT_BITS;
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, exponent));
            }
        }
        best.map(|(_, exponent)| exponent)
    }
}

/// Appends the values.
pub fn encode_floats(values: &[f64], out: &mut Vec<u8>) {
    if values.is_empty() {
        return;
    }
    let at = out.len();
    out.push(0);
    out[at] = put_floats(values, out);
}

/// Reads `count` values.
pub fn decode_floats(
    reader: &mut Reader<'_>,
    count: usize,
    budget: &mut Budget,
) -> Result<Vec<f64>, WireError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let codec = reader.byte()?;
    take_floats(codec, reader, count, budget)
}

/// Appends the values without their codec, which it returns.
pub fn put_floats(values: &[f64], out: &mut Vec<u8>) -> u8 {
    if values.is_empty() {
        return 0;
    }
    for form in [Form::Decimal, Form::Scaled] {
        if let Some(exponent) = form.quick_exponent(values)
            && exponent <= QUICK_EXPONENT_MAX
            && let Some(codec) = put_form(form, exponent, values, 0, out)
        {
            return codec;
        }
    }
    let (sample, exceptions_max) = (sample(values), values.len() / EXCEPTIONS);
    if let Some(exponent) = Form::Decimal.exponent(&sample)
        && let Some(codec) = put_form(Form::Decimal, exponent, values, exceptions_max, out)
    {
        return codec;
    }
    put_shortest(values, &sample, out)
}

/// Writes the values in each form that may fit, and keeps the shortest.
fn put_shortest(values: &[f64], sample: &[f64], out: &mut Vec<u8>) -> u8 {
    let exceptions_max = values.len() / EXCEPTIONS;
    let mut best = Vec::new();
    let mut codec = put_bits(values, &mut best);
    let mut try_other = |other: Option<(u8, Vec<u8>)>| {
        if let Some((other, bytes)) = other
            && bytes.len() < best.len()
        {
            (codec, best) = (other, bytes);
        }
    };
    for form in [Form::Scaled, Form::Single, Form::Ulps] {
        let mut bytes = Vec::new();
        let fits = form
            .exponent(sample)
            .and_then(|exponent| put_form(form, exponent, values, exceptions_max, &mut bytes));
        try_other(fits.map(|codec| (codec, bytes)));
    }
    try_other(dictionary(values).map(|bytes| (DICTIONARY, bytes)));
    let raw = values
        .iter()
        .flat_map(|value| value.to_bits().to_le_bytes());
    if values.len() * 8 < best.len() {
        (codec, best) = (RAW, raw.collect());
    }
    out.append(&mut best);
    codec
}

/// Appends the values in one form; nothing if there are more exceptions than that.
fn put_form(
    form: Form,
    exponent: usize,
    values: &[f64],
    exceptions_max: usize,
    out: &mut Vec<u8>,
) -> Option<u8> {
    let mut mantissas = Vec::with_capacity(values.len());
    let mut missed = 0;
    mantissas.extend(values.iter().map(|value| {
        let (mantissa, exact) = form.whole(*value, exponent);
        missed += usize::from(!exact);
        mantissa
    }));
    if missed > exceptions_max {
        return None;
    }
    // The table has sixteen entries.
    let exponent_byte = u8::try_from(exponent).expect("one of sixteen");
    if missed == 0 && matches!(form, Form::Decimal) {
        encode_ints(&mantissas, out);
        return Some(exponent_byte);
    }
    let exact = |value: f64| form.whole(value, exponent).1;
    out.push(exponent_byte);
    put_exceptions(values, missed, exact, out);
    let mut before = 0;
    for (mantissa, value) in mantissas.iter_mut().zip(values) {
        // An exception repeats the mantissa before it, which costs least.
        if !exact(*value) {
            *mantissa = before;
        }
        before = *mantissa;
    }
    encode_ints(&mantissas, out);
    if matches!(form, Form::Ulps) {
        let above = values.iter().zip(&mantissas).map(|(value, mantissa)| {
            let above = ulps(*value, form.float(*mantissa as f64, exponent));
            if exact(*value) { above } else { 0 }
        });
        encode_ints(&above.collect::<Vec<i64>>(), out);
    }
    Some(form.codec())
}

fn put_exceptions(values: &[f64], count: usize, exact: impl Fn(f64) -> bool, out: &mut Vec<u8>) {
    put_varint(out, count as u64);
    let mut next = 0;
    for (index, value) in values
        .iter()
        .enumerate()
        .filter(|(_, value)| !exact(**value))
    {
        put_varint(out, (index - next) as u64);
        out.extend_from_slice(&value.to_bits().to_le_bytes());
        next = index + 1;
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a value that loses something by it is not taken"
)]
fn put_bits(values: &[f64], out: &mut Vec<u8>) -> u8 {
    let single = |value: &f64| f64::from(*value as f32).to_bits() == value.to_bits();
    if values.iter().all(single) {
        let ordered = values.iter().map(|value| {
            let bits = (*value as f32).to_bits().cast_signed();
            i64::from(bits ^ ((bits >> 31) & i32::MAX))
        });
        encode_ints(&ordered.collect::<Vec<i64>>(), out);
        return SINGLE_BITS;
    }
    let ordered = values.iter().map(|value| ordered_bits(*value));
    encode_ints(&ordered.collect::<Vec<i64>>(), out);
    BITS
}

fn dictionary(values: &[f64]) -> Option<Vec<u8>> {
    let mut places = HashMap::new();
    let mut distinct = Vec::new();
    let mut indices = Vec::with_capacity(values.len());
    for value in values {
        let place = *places.entry(value.to_bits()).or_insert_with(|| {
            distinct.push(value.to_bits());
            i64::try_from(distinct.len() - 1).expect("they fit the memory")
        });
        indices.push(place);
        if distinct.len() * 2 > values.len() {
            return None;
        }
    }
    let mut out = Vec::new();
    put_varint(&mut out, distinct.len() as u64);
    distinct
        .iter()
        .for_each(|bits| out.extend_from_slice(&bits.to_le_bytes()));
    encode_ints(&indices, &mut out);
    Some(out)
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
    if codec <= DECIMAL_MAX {
        let exponent = usize::from(codec);
        let mantissas = decode_ints(reader, count, budget)?;
        let float = |mantissa: i64| Form::Decimal.float(mantissa as f64, exponent);
        return Ok(mantissas.into_iter().map(float).collect());
    }
    if let Some(form) = Form::of(codec) {
        return take_form(form, reader, count, budget);
    }
    match codec {
        BITS => {
            let bits = decode_ints(reader, count, budget)?;
            Ok(bits.into_iter().map(float_of_ordered).collect())
        }
        SINGLE_BITS => {
            let bits = decode_ints(reader, count, budget)?;
            let mut values = Vec::with_capacity(count);
            for bits in bits {
                let bits = i32::try_from(bits)
                    .map_err(|_| WireError::Malformed("a single float above 32 bits"))?;
                let bits = bits ^ ((bits >> 31) & i32::MAX);
                values.push(f64::from(f32::from_bits(bits.cast_unsigned())));
            }
            Ok(values)
        }
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

fn take_form(
    form: Form,
    reader: &mut Reader<'_>,
    count: usize,
    budget: &mut Budget,
) -> Result<Vec<f64>, WireError> {
    let exponent = usize::from(reader.byte()?);
    if exponent >= POWERS.len() {
        return Err(WireError::Malformed("an exponent above 15"));
    }
    let (mut list, exceptions) = take_exceptions(reader, count)?;
    let mantissas = decode_ints(reader, count, budget)?;
    let float = |mantissa: i64| form.float(mantissa as f64, exponent);
    let mut values: Vec<f64> = mantissas.into_iter().map(float).collect();
    if matches!(form, Form::Ulps) {
        // The mantissas are gone, so this is paid for.
        let mut paid = Budget::new(count * INT_PRICE);
        let above = decode_ints(reader, count, &mut paid)?;
        for (value, above) in values.iter_mut().zip(above) {
            *value = float_of_ordered(ordered_bits(*value).wrapping_add(above));
        }
    }
    let mut next = 0;
    for _ in 0..exceptions {
        let (index, value) = take_exception(&mut list, next, count)?;
        values[index] = value;
        next = index + 1;
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

/// Walks over the exceptions, which fills no memory, and returns a reader at their start.
fn take_exceptions<'a>(
    reader: &mut Reader<'a>,
    count: usize,
) -> Result<(Reader<'a>, usize), WireError> {
    let exceptions = reader.count(count, "exceptions of a float column")?;
    let list = reader.clone();
    let mut next = 0;
    for _ in 0..exceptions {
        next = take_exception(reader, next, count)?.0 + 1;
    }
    Ok((list, exceptions))
}

fn take_exception(
    reader: &mut Reader<'_>,
    next: usize,
    count: usize,
) -> Result<(usize, f64), WireError> {
    let distance = reader.count(count, "an exception past the end of its column")?;
    let index = next + distance;
    if index >= count {
        return Err(WireError::Malformed(
            "an exception past the end of its column",
        ));
    }
    Ok((index, f64::from_le_bytes(reader.array()?)))
}

/// Bits whose order as integers is that of the floats (IEEE 754, total order).
fn ordered_bits(value: f64) -> i64 {
    let bits = value.to_bits().cast_signed();
    bits ^ ((bits >> 63) & i64::MAX)
}

fn float_of_ordered(ordered: i64) -> f64 {
    f64::from_bits((ordered ^ ((ordered >> 63) & i64::MAX)).cast_unsigned())
}

/// How many representable floats `value` lies above `other`.
fn ulps(value: f64, other: f64) -> i64 {
    ordered_bits(value).wrapping_sub(ordered_bits(other))
}

/// Values from all over the column.
fn sample(values: &[f64]) -> Vec<f64> {
    let step = values.len().div_ceil(SAMPLE);
    values.iter().copied().step_by(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[f64], bytes_max: usize) -> u8 {
        let mut out = Vec::new();
        encode_floats(values, &mut out);
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
