//! Floats as what most of them are: decimal numbers of a few digits, so m / 10^e with one e for
//! the column and m through `integer`. A value is taken only if the division gives it back bit by
//! bit; what does not (NaN, -0.0, infinities, long fractions) stands beside as an exception. When
//! that does not pay, the raw bits.

use super::integer::{decode_ints, encode_ints};
use super::{FLOAT_PRICE, INT_PRICE};
use crate::wire::{Budget, Reader, WireError, put_varint};

/// Eight bytes a value, little-endian.
const RAW: u8 = 0;
/// This plus e: mantissas.
const DECIMAL: u8 = 0x10;
/// This plus e: count of exceptions, each with its distance and raw bits, then mantissas.
const DECIMAL_EXCEPT: u8 = 0x20;

const POWERS: [f64; 16] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
];
/// Whole numbers up to here are exact as floats.
const MANTISSA_MAX: f64 = 9_007_199_254_740_992.0;

/// Appends the values.
pub fn encode_floats(values: &[f64], out: &mut Vec<u8>) {
    if values.is_empty() {
        return;
    }
    let exponent = common_exponent(values);
    let mut mantissas = Vec::with_capacity(values.len());
    let mut exceptions = Vec::new();
    for (index, value) in values.iter().enumerate() {
        let before = mantissas.last().copied().unwrap_or(0);
        let mantissa = mantissa(*value, exponent);
        if mantissa.is_none() {
            exceptions.push((index, value.to_bits()));
        }
        // An exception repeats the mantissa before it, which costs least.
        mantissas.push(mantissa.unwrap_or(before));
    }
    let start = out.len();
    // The codec byte has four bits for the exponent, whose table has sixteen entries.
    out.push(
        if exceptions.is_empty() {
            DECIMAL
        } else {
            DECIMAL_EXCEPT
        } | u8::try_from(exponent).expect("one of sixteen"),
    );
    put_exceptions(&exceptions, out);
    encode_ints(&mantissas, out);
    if out.len() - start > 1 + 8 * values.len() {
        out.truncate(start);
        out.push(RAW);
        for value in values {
            out.extend_from_slice(&value.to_bits().to_le_bytes());
        }
    }
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
    // `decode_ints` charges the rest of the price.
    budget.charge(count, FLOAT_PRICE - INT_PRICE)?;
    let codec = reader.byte()?;
    if codec == RAW {
        budget.charge(count, INT_PRICE)?;
        let bytes = reader.take(count.checked_mul(8).ok_or(WireError::Short)?)?;
        let (values, _) = bytes.as_chunks::<8>();
        return Ok(values
            .iter()
            .map(|bits| f64::from_le_bytes(*bits))
            .collect());
    }
    let power = POWERS[usize::from(codec & 0x0f)];
    let exceptions = match codec & 0xf0 {
        DECIMAL => None,
        DECIMAL_EXCEPT => Some(take_exceptions(reader, count)?),
        _ => return Err(WireError::Malformed("an unknown codec of floats")),
    };
    let mantissas = decode_ints(reader, count, budget)?;
    let mut values: Vec<f64> = mantissas.iter().map(|m| *m as f64 / power).collect();
    if let Some((mut list, exceptions)) = exceptions {
        let mut next = 0;
        for _ in 0..exceptions {
            let (index, value) = take_exception(&mut list, next, count)?;
            values[index] = value;
            next = index + 1;
        }
    }
    Ok(values)
}

fn put_exceptions(exceptions: &[(usize, u64)], out: &mut Vec<u8>) {
    if exceptions.is_empty() {
        return;
    }
    put_varint(out, exceptions.len() as u64);
    let mut next = 0;
    for (index, value) in exceptions {
        put_varint(out, (index - next) as u64);
        out.extend_from_slice(&value.to_le_bytes());
        next = index + 1;
    }
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

/// The whole number m with m / 10^e = value, bit by bit.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a whole number that is small enough, or it is not used"
)]
fn mantissa(value: f64, exponent: usize) -> Option<i64> {
    let power = POWERS[exponent];
    let whole = (value * power).round();
    // False for NaN too.
    let small = whole.abs() <= MANTISSA_MAX;
    (small && (whole / power).to_bits() == value.to_bits() && !is_negative_zero(whole))
        .then_some(whole as i64)
}

/// An integer has no negative zero.
fn is_negative_zero(value: f64) -> bool {
    value == 0.0 && value.is_sign_negative()
}

/// The least exponent at which every value that has one at all is whole: a value that is whole at
/// one exponent is so at the next, as long as its mantissa fits.
fn common_exponent(values: &[f64]) -> usize {
    let mut common = 0;
    for value in values {
        if let Some(least) = (common..POWERS.len()).find(|e| mantissa(*value, *e).is_some()) {
            common = least;
        }
    }
    common
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[f64], bytes_max: usize) {
        let mut out = Vec::new();
        encode_floats(values, &mut out);
        assert!(
            out.len() <= bytes_max,
            "{} > {bytes_max}: {values:?}",
            out.len()
        );
        let mut reader = Reader::new(&out);
        let mut budget = Budget::new(values.len() * FLOAT_PRICE);
        let back = decode_floats(&mut reader, values.len(), &mut budget).unwrap();
        let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&back), bits(values));
        assert!(reader.is_empty());
        assert_eq!(budget.left(), 0);
    }

    #[test]
    fn decimals_are_short() {
        check(&[], 0);
        check(&[0.0], 2);
        check(&[21.5], 3);
        check(&[21.5; 1000], 5);
        let tenths: Vec<f64> = (0..1000)
            .map(|i| f64::from((i * 7919) % 64 + 200) / 10.0)
            .collect();
        check(&tenths, 10 + 1000 * 6 / 8);
        let mixed: Vec<f64> = (0..1000)
            .map(|i| {
                if i == 500 {
                    f64::NAN
                } else {
                    f64::from(i) / 100.0
                }
            })
            .collect();
        check(&mixed, 1600);
    }

    #[test]
    fn every_bit_survives() {
        let odd = [
            -0.0,
            0.0,
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
            check(&[value], 9);
            check(&[value, 1.5, value, 2.5, 3.5, 4.5, 5.5, 6.5], 65);
        }
    }

    #[test]
    fn damage_is_refused() {
        let mut budget = Budget::new(10_000);
        let mut read = |bytes: &[u8]| decode_floats(&mut Reader::new(bytes), 2, &mut budget);
        assert!(matches!(
            read(&[0x30, 0, 0, 0]),
            Err(WireError::Malformed(_))
        ));
        assert_eq!(read(&[RAW, 0, 0, 0]), Err(WireError::Short));
        assert!(matches!(read(&[0x21, 3, 0, 0]), Err(WireError::Limit(_))));
        let past = [0x21, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(matches!(read(&past), Err(WireError::Malformed(_))));
    }
}
