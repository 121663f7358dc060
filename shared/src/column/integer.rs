//! Integers: a constant step, varints where there are few, else blocks of packed numbers; as they
//! are, as differences or as differences of differences, whichever is shortest by a sample; and
//! what they are all multiples of is taken out first. `timestamp`, `float` and `text` put their
//! numbers through it.

use super::bits::{self, BLOCK};
use super::{INT_PRICE, blocks};
use crate::wire::{
    Budget, Reader, WireError, put_signed, put_varint, signed_bytes, unzigzag, zigzag,
};

/// First value and step.
const STEP: u8 = 0;
/// Each value as a varint.
const SHORT: u8 = 1;
/// First value, then each difference as a varint.
const SHORT_DELTA: u8 = 2;
/// The least value, then blocks of the values above it.
const ABOVE: u8 = 3;
/// Blocks of the values.
const PLAIN: u8 = 4;
/// First value, the least difference, then blocks of the differences above it.
const DELTA_ABOVE: u8 = 5;
/// First value, then blocks of the differences.
const DELTA: u8 = 6;
/// First value, first difference, then blocks of the differences of the differences.
const DELTA_DELTA: u8 = 7;
/// Bit beside the others: a divisor and a remainder come first, and the values are quotients.
const DIVIDED: u8 = 0x10;

/// More values than this are never written as varints.
const SHORT_MAX: usize = 16;
/// What is tried on: that many blocks at most.
const SAMPLES: usize = 3;

/// Appends the values. A single value is a bare zigzag varint without a codec byte.
pub fn encode_ints(values: &[i64], out: &mut Vec<u8>) {
    let at = out.len();
    if values.len() > 1 {
        out.push(0);
    }
    let codec = put_ints(values, out);
    if values.len() > 1 {
        out[at] = codec;
    }
}

/// Reads `count` values that [`encode_ints`] wrote.
pub fn decode_ints(
    reader: &mut Reader<'_>,
    count: usize,
    budget: &mut Budget,
) -> Result<Vec<i64>, WireError> {
    let codec = if count > 1 { reader.byte()? } else { STEP };
    take_ints(codec, reader, count, budget)
}

/// Appends the values without their codec, which it returns: 0 for fewer than two.
pub fn put_ints(values: &[i64], out: &mut Vec<u8>) -> u8 {
    let Some((&first, rest)) = values.split_first() else {
        return STEP;
    };
    let Some(&second) = rest.first() else {
        put_signed(out, first);
        return STEP;
    };
    let step = second.wrapping_sub(first);
    if deltas(values).all(|delta| delta == step) {
        put_signed(out, first);
        put_signed(out, step);
        return STEP;
    }
    let Some(divisor) = common_divisor(values) else {
        return put_undivided(values, out);
    };
    let remainder = first.rem_euclid(divisor);
    put_varint(out, divisor.unsigned_abs());
    put_varint(out, remainder.unsigned_abs());
    let quotients: Vec<i64> = values
        .iter()
        .map(|value| value.div_euclid(divisor))
        .collect();
    put_undivided(&quotients, out) | DIVIDED
}

/// Reads `count` values of this codec.
pub fn take_ints(
    codec: u8,
    reader: &mut Reader<'_>,
    count: usize,
    budget: &mut Budget,
) -> Result<Vec<i64>, WireError> {
    budget.charge(count, INT_PRICE)?;
    if count <= 1 {
        if codec != STEP {
            return Err(WireError::Malformed("a codec for a single integer"));
        }
        return (0..count).map(|_| reader.signed()).collect();
    }
    if codec & DIVIDED == 0 {
        return take_undivided(codec, reader, count);
    }
    let divisor = reader.varint()?.cast_signed();
    let remainder = reader.varint()?.cast_signed();
    if divisor <= 0 || remainder < 0 || remainder >= divisor {
        return Err(WireError::Malformed("a remainder that is none"));
    }
    let mut values = take_undivided(codec & !DIVIDED, reader, count)?;
    for value in &mut values {
        *value = value.wrapping_mul(divisor).wrapping_add(remainder);
    }
    Ok(values)
}

fn put_undivided(values: &[i64], out: &mut Vec<u8>) -> u8 {
    let first = values[0];
    let codec = choose(values);
    match codec {
        STEP => {
            put_signed(out, first);
            put_signed(out, values[1].wrapping_sub(first));
        }
        SHORT => values.iter().for_each(|value| put_signed(out, *value)),
        SHORT_DELTA => {
            put_signed(out, first);
            deltas(values).for_each(|delta| put_signed(out, delta));
        }
        ABOVE => {
            let least = values.iter().copied().min().unwrap_or(0);
            put_signed(out, least);
            let above = values.iter().map(|value| above(*value, least));
            blocks::put(&above.collect::<Vec<u64>>(), out);
        }
        PLAIN => {
            let numbers = values.iter().map(|value| zigzag(*value));
            blocks::put(&numbers.collect::<Vec<u64>>(), out);
        }
        DELTA_ABOVE => {
            let least = deltas(values).min().unwrap_or(0);
            put_signed(out, first);
            put_signed(out, least);
            let above = deltas(values).map(|delta| above(delta, least));
            blocks::put(&above.collect::<Vec<u64>>(), out);
        }
        DELTA => {
            put_signed(out, first);
            let numbers = deltas(values).map(zigzag);
            blocks::put(&numbers.collect::<Vec<u64>>(), out);
        }
        _ => {
            put_signed(out, first);
            put_signed(out, values[1].wrapping_sub(first));
            let numbers = second_deltas(values).map(zigzag);
            blocks::put(&numbers.collect::<Vec<u64>>(), out);
        }
    }
    codec
}

fn take_undivided(codec: u8, reader: &mut Reader<'_>, count: usize) -> Result<Vec<i64>, WireError> {
    let mut values = Vec::with_capacity(count);
    match codec {
        STEP => {
            let mut next = reader.signed()?;
            let step = reader.signed()?;
            values.extend((0..count).map(|_| {
                let value = next;
                next = next.wrapping_add(step);
                value
            }));
        }
        SHORT => {
            for _ in 0..count {
                values.push(reader.signed()?);
            }
        }
        SHORT_DELTA => {
            let mut last = 0_i64;
            for _ in 0..count {
                last = last.wrapping_add(reader.signed()?);
                values.push(last);
            }
        }
        ABOVE => {
            let least = reader.signed()?;
            take_blocks(reader, count, |number| {
                values.push(least.wrapping_add(number.cast_signed()));
            })?;
        }
        PLAIN => take_blocks(reader, count, |number| values.push(unzigzag(number)))?,
        DELTA_ABOVE => {
            let mut last = reader.signed()?;
            let least = reader.signed()?;
            values.push(last);
            take_blocks(reader, count - 1, |number| {
                last = last.wrapping_add(least).wrapping_add(number.cast_signed());
                values.push(last);
            })?;
        }
        DELTA => {
            let mut last = reader.signed()?;
            values.push(last);
            take_blocks(reader, count - 1, |number| {
                last = last.wrapping_add(unzigzag(number));
                values.push(last);
            })?;
        }
        DELTA_DELTA => {
            let mut last = reader.signed()?;
            let mut delta = reader.signed()?;
            values.push(last);
            last = last.wrapping_add(delta);
            values.push(last);
            take_blocks(reader, count - 2, |number| {
                delta = delta.wrapping_add(unzigzag(number));
                last = last.wrapping_add(delta);
                values.push(last);
            })?;
        }
        _ => return Err(WireError::Malformed("an unknown codec of integers")),
    }
    Ok(values)
}

fn take_blocks(
    reader: &mut Reader<'_>,
    count: usize,
    mut each: impl FnMut(u64),
) -> Result<(), WireError> {
    let mut block = [0; BLOCK];
    let mut left = count;
    while left > 0 {
        let numbers = &mut block[..left.min(BLOCK)];
        blocks::take(reader, numbers)?;
        numbers.iter().for_each(|number| each(*number));
        left -= numbers.len();
    }
    Ok(())
}

/// Differences of neighbours; they wrap, and adding them wraps back.
fn deltas(values: &[i64]) -> impl Iterator<Item = i64> {
    values.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]))
}

fn second_deltas(values: &[i64]) -> impl Iterator<Item = i64> {
    let delta = |pair: &[i64]| pair[1].wrapping_sub(pair[0]);
    values
        .windows(3)
        .map(move |three| delta(&three[1..]).wrapping_sub(delta(&three[..2])))
}

fn above(value: i64, least: i64) -> u64 {
    value.wrapping_sub(least).cast_unsigned()
}

/// The greatest number above one that divides all distances.
fn common_divisor(values: &[i64]) -> Option<i64> {
    let first = values[0];
    let mut divisor = 0;
    for value in values {
        let distance = value.checked_sub(first)?.unsigned_abs();
        // Most distances are multiples of what was found so far.
        if divisor != 0 && distance.is_multiple_of(divisor) {
            continue;
        }
        divisor = gcd(distance, divisor);
        if divisor == 1 {
            return None;
        }
    }
    i64::try_from(divisor).ok().filter(|divisor| *divisor > 1)
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// The shortest codec for two or more values, by a sample of them; of equals the one that decodes
/// fastest.
fn choose(values: &[i64]) -> u8 {
    let (first, step) = (signed_bytes(values[0]), values[1].wrapping_sub(values[0]));
    let least = values.iter().copied().min().unwrap_or(0);
    let least_delta = deltas(values).min().unwrap_or(0);
    let mut costs = [
        (signed_bytes(least), ABOVE),
        (0, PLAIN),
        (first + signed_bytes(least_delta), DELTA_ABOVE),
        (first, DELTA),
        (first + signed_bytes(step), DELTA_DELTA),
    ];
    for (cost, codec) in &mut costs {
        *cost += match *codec {
            ABOVE => estimate(values, |run| run.iter().map(|value| above(*value, least))),
            // Only above zero it is never shorter than `ABOVE` by more than that one's head.
            PLAIN if least >= 0 => usize::MAX / 2,
            PLAIN => estimate(values, |run| run.iter().map(|value| zigzag(*value))),
            DELTA_ABOVE => estimate(values, |run| {
                deltas(run).map(|delta| above(delta, least_delta))
            }),
            DELTA if least_delta >= 0 => usize::MAX / 2,
            DELTA => estimate(values, |run| deltas(run).map(zigzag)),
            _ if bends_less(values) => estimate(values, |run| second_deltas(run).map(zigzag)),
            _ => usize::MAX / 2,
        };
    }
    let mut best = (usize::MAX, PLAIN);
    for cost in costs {
        if cost.0 < best.0 {
            best = cost;
        }
    }
    if values.len() <= SHORT_MAX {
        let short: usize = values.iter().map(|value| signed_bytes(*value)).sum();
        let short_delta = first + deltas(values).map(signed_bytes).sum::<usize>();
        best = best.min((short, SHORT)).min((short_delta, SHORT_DELTA));
    }
    best.1
}

/// Whether the first differences change by less than they are.
fn bends_less(values: &[i64]) -> bool {
    let run = &values[..values.len().min(BLOCK / 4)];
    let bits = |number: i64| u32::from(bits::width(zigzag(number)));
    second_deltas(run).map(bits).sum::<u32>() < deltas(run).skip(1).map(bits).sum::<u32>()
}

/// Bytes of blocks of these numbers, from those of a few runs.
fn estimate<'a, N: Iterator<Item = u64>>(
    values: &'a [i64],
    numbers: impl Fn(&'a [i64]) -> N,
) -> usize {
    let (mut bytes, mut sampled) = (0, 0);
    let mut block = [0; BLOCK];
    for run in sample(values) {
        let mut count = 0;
        for (place, number) in block.iter_mut().zip(numbers(run)) {
            *place = number;
            count += 1;
        }
        bytes += blocks::block_bytes(&block[..count]);
        sampled += run.len();
    }
    bytes * values.len() / sampled.max(1)
}

/// Up to three runs of a block's length: at the start, in the middle and at the end.
fn sample(values: &[i64]) -> impl Iterator<Item = &[i64]> {
    let run = BLOCK.min(values.len());
    let samples = values.len().div_ceil(BLOCK).min(SAMPLES);
    let gap = (values.len() - run).checked_div(samples - 1).unwrap_or(0);
    (0..samples).map(move |nth| &values[nth * gap..nth * gap + run])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[i64], bytes_max: usize) {
        let mut out = Vec::new();
        encode_ints(values, &mut out);
        assert!(
            out.len() <= bytes_max,
            "{} > {bytes_max}: {values:?}",
            out.len()
        );
        let mut reader = Reader::new(&out);
        let mut budget = Budget::new(values.len() * INT_PRICE);
        assert_eq!(
            decode_ints(&mut reader, values.len(), &mut budget).as_deref(),
            Ok(values)
        );
        assert!(reader.is_empty());
        assert_eq!(budget.left(), 0);
    }

    #[test]
    fn each_shape_takes_its_codec() {
        check(&[], 0);
        check(&[5], 1);
        check(&[7; 1000], 3);
        check(&(0..1000).map(|i| 100 + 3 * i).collect::<Vec<_>>(), 4);
        let noise: Vec<i64> = (0..1000).map(|i| 5000 + (i * 7919) % 16).collect();
        check(&noise, 3 + 8 + 500);
        let walk: Vec<i64> = (0..1000).map(|i| i * 1000 + (i * 7919) % 16).collect();
        check(&walk, 6 + 8 + 1000 * 5 / 8);
        let rare: Vec<i64> = (0..1000).map(|i| i64::from(i == 500) << 40).collect();
        check(&rare, 2 + 8 + 20);
        let steps: Vec<i64> = (0..1000).map(|i| 3 + (i * 7919) % 16 * 1_000_000).collect();
        check(&steps, 6 + 2 + 8 + 500);
        let bend: Vec<i64> = (0..1000).map(|i| i * i).collect();
        check(&bend, 4 + 8 + 1000 * 3 / 8);
        check(&[3, 1, 4, 1, 5, 9, 2, 6], 9);
        check(&[1000, 1001, 1003, 999], 6);
    }

    #[test]
    fn extremes_survive() {
        let (low, high) = (i64::MIN, i64::MAX);
        check(&[low], 10);
        check(&[low, high], 12);
        check(&[low, high, low, high, 0, -1, 1], 80);
        check(&[high, high - 1, low, low + 1], 50);
        check(&[0, low, 0, high, 0, low], 70);
        check(&[low, 0, low, 0, 0], 70);
        check(&[low; 300], 12);
        let mixed: Vec<i64> = (0..300)
            .map(|i| if i % 7 == 0 { low } else { high - i })
            .collect();
        check(&mixed, 300 * 10);
    }

    #[test]
    fn damage_and_hollow_budgets_are_refused() {
        let mut budget = Budget::new(10_000);
        let read =
            |bytes: &[u8], budget: &mut Budget| decode_ints(&mut Reader::new(bytes), 10, budget);
        for bytes in [[9, 0, 0], [0x10, 0, 0], [0x10, 3, 3]] {
            let read = read(&bytes, &mut budget);
            assert!(matches!(read, Err(WireError::Malformed(_))), "{read:?}");
        }
        assert!(matches!(
            read(&[0, 0, 0], &mut Budget::new(10 * INT_PRICE - 1)),
            Err(WireError::Limit(_))
        ));
        assert_eq!(read(&[1, 0, 0], &mut budget), Err(WireError::Short));
    }
}
