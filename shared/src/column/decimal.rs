//! Floats as whole numbers and one exponent for the column, in one of several forms. A whole number
//! is taken only if the way back gives its value bit by bit; what does not (NaN, -0.0, infinities,
//! long fractions) stands beside as an exception. `float` chooses among the forms.

use super::integer::{IntScratch, decode_ints, encode_ints};
use super::{INT_PRICE, Scratch};
use crate::wire::{Budget, Reader, WireError, put_varint};

const POWERS: [f64; 16] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
];
const SCALES: [f64; 16] = [
    1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12, 1e-13, 1e-14,
    1e-15,
];
/// Added to a float below [`WHOLE_MAX`] it leaves no bit for a fraction, so the sum is rounded and
/// its lowest bits are the whole number.
const ROUND: f64 = 6_755_399_441_055_744.0;
const WHOLE_MAX: f64 = 2_251_799_813_685_248.0;
/// Values that a form is tried on.
const SAMPLE: usize = 64;
/// Values that the exponent of all is guessed from; if it fits all it is taken.
const QUICK_SAMPLE: usize = 8;
/// What one more digit costs a value, and what an exception costs, in bits.
const DIGIT_BITS: f64 = 3.32;
const EXCEPTION_BITS: f64 = 80.0;
/// One of so many values may be an exception.
pub const EXCEPTIONS: usize = 6;
const ULPS_MAX: u64 = 3;
/// Values between two looks at whether it is still worth going on.
const STRIDE: usize = 64;

/// The exponent e of a column, as the numbers that values are multiplied or divided by.
#[derive(Debug, Clone, Copy)]
pub struct Exponent {
    /// 10^e.
    power: f64,
    /// The float nearest to 10^-e.
    scale: f64,
}

impl Exponent {
    /// Of 0 to 15.
    #[inline]
    pub fn new(exponent: usize) -> Self {
        let (power, scale) = (POWERS[exponent], SCALES[exponent]);
        Exponent { power, scale }
    }
}

/// A way between floats and whole numbers. A type each, so that loops over values hold no choice.
pub trait Form {
    /// The codec of a column in this form.
    const CODEC: u8;
    /// Multiplied by 10^e, a value that the form takes lies within this part of itself of its whole
    /// number, unless that is zero. At least twice what rounding can do, so that a product that does
    /// not is refused without the way back.
    const TOLERANCE: f64;

    /// The float that a whole number stands for.
    fn float(e: Exponent, whole: f64) -> f64;

    /// Zero if the way back has led to the value.
    #[inline]
    fn miss(value: f64, back: f64) -> u64 {
        back.to_bits() ^ value.to_bits()
    }

    /// False only if no exponent can take this value.
    #[inline]
    fn may_take(_value: f64) -> bool {
        true
    }

    /// The whole number nearest to what the value stands for, and zero if it gives the value back:
    /// numbers that loops can gather for several values at once.
    #[inline]
    fn whole(e: Exponent, value: f64) -> (i64, u64) {
        let sum = value * e.power + ROUND;
        let whole = sum - ROUND;
        let bits = sum.to_bits().wrapping_sub(ROUND.to_bits());
        // The comparison is false for NaN, too.
        let small = whole.abs() < WHOLE_MAX;
        let miss = Self::miss(value, Self::float(e, whole));
        (bits.cast_signed(), miss | u64::from(!small))
    }

    /// Whether a whole number gives the value back, faster where none does.
    #[inline]
    fn takes(e: Exponent, value: f64) -> bool {
        let product = value * e.power;
        let whole = (product + ROUND) - ROUND;
        let near = (product - whole).abs() <= product.abs() * Self::TOLERANCE;
        (near || whole == 0.0)
            && whole.abs() < WHOLE_MAX
            && Self::miss(value, Self::float(e, whole)) == 0
    }
}

/// m / 10^e.
pub enum Decimal {}

impl Form for Decimal {
    const CODEC: u8 = 16;
    const TOLERANCE: f64 = 2.0 * f64::EPSILON;

    #[inline]
    fn float(e: Exponent, whole: f64) -> f64 {
        whole / e.power
    }
}

/// m * 10^-e: registers that are multiplied by 0.1.
pub enum Scaled {}

impl Form for Scaled {
    const CODEC: u8 = 17;
    const TOLERANCE: f64 = 4.0 * f64::EPSILON;

    #[inline]
    fn float(e: Exponent, whole: f64) -> f64 {
        whole * e.scale
    }
}

/// m / 10^e rounded to single precision: sensors that compute in it.
pub enum Single {}

impl Form for Single {
    const CODEC: u8 = 18;
    const TOLERANCE: f64 = 2.0 * f32::EPSILON as f64;

    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "single precision is what it stands for"
    )]
    fn float(e: Exponent, whole: f64) -> f64 {
        f64::from((whole / e.power) as f32)
    }

    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "whether it loses something by it is the question"
    )]
    fn may_take(value: f64) -> bool {
        f64::from(value as f32).to_bits() == value.to_bits()
    }
}

/// m / 10^e, and a few ulp beside it: sums that miss their decimal.
pub enum Ulps {}

impl Form for Ulps {
    const CODEC: u8 = 19;
    const TOLERANCE: f64 = 8.0 * f64::EPSILON;

    #[inline]
    fn float(e: Exponent, whole: f64) -> f64 {
        Decimal::float(e, whole)
    }

    #[inline]
    fn miss(value: f64, back: f64) -> u64 {
        u64::from(ulps(value, back).unsigned_abs() > ULPS_MAX)
    }
}

/// The exponent of the first value.
pub fn first_exponent<F: Form>(values: &[f64]) -> Option<usize> {
    let first = values.first()?;
    (0..POWERS.len()).find(|exponent| F::takes(Exponent::new(*exponent), *first))
}

/// The exponent of the first values, if all agree that it is enough.
pub fn quick_exponent<F: Form>(values: &[f64]) -> Option<usize> {
    let mut most = 0;
    for value in values.iter().take(QUICK_SAMPLE) {
        most = (most..POWERS.len()).find(|exponent| F::takes(Exponent::new(*exponent), *value))?;
    }
    Some(most)
}

/// The exponent that costs least on values from all over the column, if it gives most of them back.
pub fn exponent<F: Form>(values: &[f64]) -> Option<usize> {
    let step = values.len().div_ceil(SAMPLE).max(1);
    let sampled = values.len().div_ceil(step);
    let mut counts = [0_usize; POWERS.len()];
    let mut never = 0;
    for value in values.iter().step_by(step) {
        let takes = |exponent: &usize| F::takes(Exponent::new(*exponent), *value);
        let least = F::may_take(*value).then(|| (0..POWERS.len()).find(takes));
        match least.flatten() {
            Some(exponent) => counts[exponent] += 1,
            None => never += 1,
        }
        // Each of them is missed by every exponent.
        if never * EXCEPTIONS > sampled {
            return None;
        }
    }
    cheapest(&counts, sampled)
}

/// Of the exponents that so many values of a sample need, the one that costs least.
fn cheapest(counts: &[usize; POWERS.len()], sampled: usize) -> Option<usize> {
    let mut exact = 0;
    let mut best = None;
    for (exponent, count) in counts.iter().enumerate() {
        exact += count;
        let missed = sampled - exact;
        if *count == 0 || missed * EXCEPTIONS > sampled {
            continue;
        }
        let cost = missed as f64 * EXCEPTION_BITS + (sampled * exponent) as f64 * DIGIT_BITS;
        if best.is_none_or(|(least, _)| cost < least) {
            best = Some((cost, exponent));
        }
    }
    best.map(|(_, exponent)| exponent)
}

/// The whole numbers of all values; false if a value has none, and then not all are there.
pub fn all_wholes<F: Form>(e: Exponent, values: &[f64], wholes: &mut Vec<i64>) -> bool {
    wholes.clear();
    wholes.resize(values.len(), 0);
    let mut parts = wholes.chunks_mut(STRIDE).zip(values.chunks(STRIDE));
    parts.all(|(wholes, values)| {
        let mut misses = 0;
        for (to, value) in wholes.iter_mut().zip(values) {
            let (whole, miss) = F::whole(e, *value);
            *to = whole;
            misses |= miss;
        }
        misses == 0
    })
}

/// The same where some may have none, and which have one. Says how many have not; nothing if they
/// are more than that.
fn most_wholes<F: Form>(
    e: Exponent,
    values: &[f64],
    missed_max: usize,
    scratch: &mut Scratch,
) -> Option<usize> {
    let Scratch { wholes, exact, .. } = scratch;
    wholes.clear();
    exact.clear();
    let mut missed = 0;
    for part in values.chunks(STRIDE) {
        for value in part {
            let (whole, miss) = F::whole(e, *value);
            wholes.push(whole);
            exact.push(miss == 0);
            missed += usize::from(miss != 0);
        }
        if missed > missed_max {
            return None;
        }
    }
    Some(missed)
}

/// Appends the values in one form and returns the codec; nothing if there are more exceptions than
/// that.
pub fn put_form<F: Form>(
    exponent: usize,
    values: &[f64],
    exceptions_max: usize,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Option<u8> {
    let e = Exponent::new(exponent);
    let missed = most_wholes::<F>(e, values, exceptions_max, scratch)?;
    // The table has sixteen entries.
    let exponent = u8::try_from(exponent).expect("one of sixteen");
    let Scratch {
        wholes,
        exact,
        ints,
    } = scratch;
    if missed == 0 && F::CODEC == Decimal::CODEC {
        encode_ints(wholes, ints, out);
        return Some(exponent);
    }
    out.push(exponent);
    put_exceptions(values, exact, missed, out);
    let mut before = 0;
    for (whole, exact) in wholes.iter_mut().zip(exact.iter()) {
        // An exception repeats the whole number before it, which costs least.
        if !exact {
            *whole = before;
        }
        before = *whole;
    }
    encode_ints(wholes, ints, out);
    if F::CODEC == Ulps::CODEC {
        put_ulps::<F>(e, values, exact, wholes, ints, out);
    }
    Some(F::CODEC)
}

fn put_exceptions(values: &[f64], exact: &[bool], count: usize, out: &mut Vec<u8>) {
    put_varint(out, count as u64);
    let mut next = 0;
    let exceptions = values.iter().zip(exact).enumerate();
    for (index, (value, _)) in exceptions.filter(|(_, (_, exact))| !**exact) {
        put_varint(out, (index - next) as u64);
        out.extend_from_slice(&value.to_bits().to_le_bytes());
        next = index + 1;
    }
}

/// Appends how far each value lies above its whole number's float.
fn put_ulps<F: Form>(
    e: Exponent,
    values: &[f64],
    exact: &[bool],
    wholes: &mut [i64],
    ints: &mut IntScratch,
    out: &mut Vec<u8>,
) {
    for ((whole, value), exact) in wholes.iter_mut().zip(values).zip(exact) {
        *whole = if *exact {
            ulps(*value, F::float(e, *whole as f64))
        } else {
            0
        };
    }
    encode_ints(wholes, ints, out);
}

/// Reads `count` values in one form.
pub fn take_form<F: Form>(
    reader: &mut Reader<'_>,
    count: usize,
    budget: &mut Budget,
) -> Result<Vec<f64>, WireError> {
    let exponent = usize::from(reader.byte()?);
    if exponent >= POWERS.len() {
        return Err(WireError::Malformed("an exponent above 15"));
    }
    let (mut list, exceptions) = take_exceptions(reader, count)?;
    let mut values = take_wholes::<F>(Exponent::new(exponent), reader, count, budget)?;
    if F::CODEC == Ulps::CODEC {
        // The whole numbers are gone, so this is paid for.
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

/// Reads whole numbers with their own codec, as the floats that they stand for.
pub fn take_wholes<F: Form>(
    e: Exponent,
    reader: &mut Reader<'_>,
    count: usize,
    budget: &mut Budget,
) -> Result<Vec<f64>, WireError> {
    let wholes = decode_ints(reader, count, budget)?;
    let float = |whole: i64| F::float(e, whole as f64);
    Ok(wholes.into_iter().map(float).collect())
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
pub fn ordered_bits(value: f64) -> i64 {
    let bits = value.to_bits().cast_signed();
    bits ^ ((bits >> 63) & i64::MAX)
}

/// The inverse of [`ordered_bits`].
pub fn float_of_ordered(ordered: i64) -> f64 {
    f64::from_bits((ordered ^ ((ordered >> 63) & i64::MAX)).cast_unsigned())
}

/// How many representable floats `value` lies above `other`.
fn ulps(value: f64, other: f64) -> i64 {
    ordered_bits(value).wrapping_sub(ordered_bits(other))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::column::properties::any_float;

    /// Floats that some form takes, those beside them, those beside zero, and any others.
    fn any_near() -> impl Strategy<Value = f64> {
        let whole = (any::<i64>(), 13..60_u32).prop_map(|(whole, shift)| (whole >> shift) as f64);
        let form = (whole, 0..POWERS.len(), 0..3_u8, -5..=5_i64);
        let near = form.prop_map(|(whole, exponent, form, beside)| {
            let value = match form {
                0 => Decimal::float(Exponent::new(exponent), whole),
                1 => Scaled::float(Exponent::new(exponent), whole),
                _ => Single::float(Exponent::new(exponent), whole),
            };
            float_of_ordered(ordered_bits(value) + beside)
        });
        prop_oneof![
            6 => near,
            1 => (-9..9_i64).prop_map(float_of_ordered),
            1 => any_float(),
        ]
    }

    /// Columns of one exponent with some strays.
    fn any_column() -> impl Strategy<Value = Vec<f64>> {
        let value = prop_oneof![
            9 => (-100_000..100_000_i32).prop_map(|whole| (f64::from(whole), None::<f64>)),
            1 => any_near().prop_map(|stray| (0.0, Some(stray))),
        ];
        let wholes = prop::collection::vec(value, 1..150);
        let column = (wholes, 0..POWERS.len()).prop_map(|(wholes, exponent)| {
            let e = Exponent::new(exponent);
            let value =
                |(whole, stray): (f64, Option<f64>)| stray.unwrap_or(Decimal::float(e, whole));
            wholes.into_iter().map(value).collect::<Vec<f64>>()
        });
        prop_oneof![column, prop::collection::vec(any_near(), 1..150)]
    }

    fn exponent_slowly<F: Form>(values: &[f64]) -> Option<usize> {
        let sample = values.iter().step_by(values.len().div_ceil(SAMPLE));
        let mut counts = [0; POWERS.len()];
        for value in sample.clone() {
            let exact = |exponent: &usize| F::whole(Exponent::new(*exponent), *value).1 == 0;
            if let Some(exponent) = (0..POWERS.len()).find(exact) {
                counts[exponent] += 1;
            }
        }
        cheapest(&counts, sample.count())
    }

    fn fast_is_slow<F: Form>(values: &[f64]) -> Result<(), TestCaseError> {
        for (value, exponent) in values.iter().zip((0..POWERS.len()).cycle()) {
            let e = Exponent::new(exponent);
            prop_assert_eq!(F::takes(e, *value), F::whole(e, *value).1 == 0, "{}", value);
        }
        prop_assert_eq!(exponent::<F>(values), exponent_slowly::<F>(values));
        Ok(())
    }

    proptest! {
        #[test]
        fn what_is_refused_early_is_what_the_way_back_refuses(values in any_column()) {
            fast_is_slow::<Decimal>(&values)?;
            fast_is_slow::<Scaled>(&values)?;
            fast_is_slow::<Single>(&values)?;
            fast_is_slow::<Ulps>(&values)?;
        }
    }

    #[test]
    fn a_few_ulp_beside_zero_are_taken() {
        for value in [0.0, -0.0, 5e-324, -1e-323, f64::MIN_POSITIVE] {
            for exponent in 0..POWERS.len() {
                let e = Exponent::new(exponent);
                assert_eq!(Ulps::takes(e, value), Ulps::whole(e, value).1 == 0);
                assert_eq!(Ulps::takes(e, value), value.abs() < 2e-323);
            }
        }
    }
}
