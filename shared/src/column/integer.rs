//! Integers: a constant step, varints where there are few, else blocks of packed numbers; as they
//! are, as differences or as differences of differences, whichever is shortest by a sample; and
//! what they are all multiples of is taken out first. `timestamp`, `float` and `text` put their
//! numbers through it.

use std::iter;

use super::bits::{self, BLOCK};
use super::blocks::{self, Plan, Widths};
use super::{INT_PRICE, behind_codec};
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

/// Memory that encoding uses again.
#[derive(Debug, Default)]
pub struct IntScratch {
    quotients: Vec<i64>,
    numbers: Vec<u64>,
}

/// Appends the values. A single value is a bare zigzag varint without a codec byte.
pub fn encode_ints(values: &[i64], scratch: &mut IntScratch, out: &mut Vec<u8>) {
    match values {
        [] => {}
        [only] => put_signed(out, *only),
        _ => behind_codec(values.len(), out, |out| put_ints(values, scratch, out)),
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
pub fn put_ints(values: &[i64], scratch: &mut IntScratch, out: &mut Vec<u8>) -> u8 {
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
    let IntScratch { quotients, numbers } = scratch;
    let Some(divisor) = common_divisor(values) else {
        return put_undivided(values, numbers, out);
    };
    let remainder = first.rem_euclid(divisor);
    put_varint(out, divisor.unsigned_abs());
    put_varint(out, remainder.unsigned_abs());
    quotients.clear();
    quotients.extend(values.iter().map(|value| value.div_euclid(divisor)));
    put_undivided(quotients, numbers, out) | DIVIDED
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
        let mut values = Vec::with_capacity(count);
        if count == 1 {
            values.push(reader.signed()?);
        }
        return Ok(values);
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

/// Appends three or more values that have no constant step.
fn put_undivided(values: &[i64], numbers: &mut Vec<u64>, out: &mut Vec<u8>) -> u8 {
    let (first, step) = (values[0], values[1].wrapping_sub(values[0]));
    let least = values.iter().copied().min().unwrap_or(0);
    let least_delta = deltas(values).min().unwrap_or(0);
    let Choice { codec, plan, .. } = choose(values, least, least_delta);
    numbers.clear();
    match codec {
        SHORT => {
            values.iter().for_each(|value| put_signed(out, *value));
            return codec;
        }
        SHORT_DELTA => {
            put_signed(out, first);
            deltas(values).for_each(|delta| put_signed(out, delta));
            return codec;
        }
        ABOVE => {
            put_signed(out, least);
            numbers.extend(values.iter().map(|value| above(*value, least)));
        }
        PLAIN => numbers.extend(values.iter().map(|value| zigzag(*value))),
        DELTA_ABOVE => {
            put_signed(out, first);
            put_signed(out, least_delta);
            numbers.extend(deltas(values).map(|delta| above(delta, least_delta)));
        }
        DELTA => {
            put_signed(out, first);
            numbers.extend(deltas(values).map(zigzag));
        }
        _ => {
            put_signed(out, first);
            put_signed(out, step);
            numbers.extend(second_deltas(values).map(zigzag));
        }
    }
    match plan {
        Some(plan) => blocks::put_block(numbers, plan, out),
        None => blocks::put(numbers, out),
    }
    codec
}

fn take_undivided(codec: u8, reader: &mut Reader<'_>, count: usize) -> Result<Vec<i64>, WireError> {
    // `vec![0; count]` would ask for zeroed memory, which glibc never takes from a thread's cache.
    let mut values: Vec<i64> = iter::repeat_n(0, count).collect();
    match codec {
        STEP => {
            let mut next = reader.signed()?;
            let step = reader.signed()?;
            for value in &mut values {
                *value = next;
                next = next.wrapping_add(step);
            }
        }
        SHORT => {
            for value in &mut values {
                *value = reader.signed()?;
            }
        }
        SHORT_DELTA => {
            for value in &mut values {
                *value = reader.signed()?;
            }
            add_up(&mut values);
        }
        ABOVE => {
            let least = reader.signed()?;
            blocks::take(reader, &mut values)?;
            for value in &mut values {
                *value = value.wrapping_add(least);
            }
        }
        PLAIN => {
            blocks::take(reader, &mut values)?;
            unfold(&mut values);
        }
        DELTA_ABOVE => {
            values[0] = reader.signed()?;
            let least = reader.signed()?;
            blocks::take(reader, &mut values[1..])?;
            for delta in &mut values[1..] {
                *delta = delta.wrapping_add(least);
            }
            add_up(&mut values);
        }
        DELTA => {
            values[0] = reader.signed()?;
            blocks::take(reader, &mut values[1..])?;
            unfold(&mut values[1..]);
            add_up(&mut values);
        }
        DELTA_DELTA => {
            values[0] = reader.signed()?;
            values[1] = reader.signed()?;
            blocks::take(reader, &mut values[2..])?;
            unfold(&mut values[2..]);
            add_up(&mut values[1..]);
            add_up(&mut values);
        }
        _ => return Err(WireError::Malformed("an unknown codec of integers")),
    }
    Ok(values)
}

/// Zigzag numbers as what they stand for.
fn unfold(numbers: &mut [i64]) {
    for number in numbers {
        *number = unzigzag(number.cast_unsigned());
    }
}

/// Each value as the sum of all up to it: the inverse of [`deltas`].
fn add_up(values: &mut [i64]) {
    let mut sum = 0_i64;
    for value in values {
        sum = sum.wrapping_add(*value);
        *value = sum;
    }
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

/// A codec, what it takes by a sample, and how its numbers are packed if they are one block.
#[derive(Debug, Clone, Copy)]
struct Choice {
    codec: u8,
    bytes: usize,
    plan: Option<Plan>,
}

/// The shortest codec by a sample of the values; of equals the one that decodes fastest, which has
/// the lowest number.
fn choose(values: &[i64], least: i64, least_delta: i64) -> Choice {
    let (first, step) = (values[0], values[1].wrapping_sub(values[0]));
    let (first, step) = (signed_bytes(first), signed_bytes(step));
    let mut search = Search::new(values);
    if values.len() <= SHORT_MAX {
        let short = values.iter().map(|value| signed_bytes(*value)).sum();
        let short_delta = first + deltas(values).map(signed_bytes).sum::<usize>();
        search.offer(SHORT, short, None);
        search.offer(SHORT_DELTA, short_delta, None);
    }
    search.try_blocks(ABOVE, signed_bytes(least), |run| {
        run.iter().map(|value| above(*value, least))
    });
    // Without a negative number it is never shorter than the one before by more than that one's
    // head. The same goes for the differences.
    if least < 0 {
        search.try_blocks(PLAIN, 0, |run| run.iter().map(|value| zigzag(*value)));
    }
    search.try_blocks(DELTA_ABOVE, first + signed_bytes(least_delta), |run| {
        deltas(run).map(|delta| above(delta, least_delta))
    });
    if least_delta < 0 {
        search.try_blocks(DELTA, first, |run| deltas(run).map(zigzag));
    }
    if bends_less(values) {
        search.try_blocks(DELTA_DELTA, first + step, |run| {
            second_deltas(run).map(zigzag)
        });
    }
    search.best
}

/// The best codec so far. Codecs are tried in the order of their numbers.
struct Search<'a> {
    values: &'a [i64],
    runs: usize,
    best: Choice,
}

impl<'a> Search<'a> {
    fn new(values: &'a [i64]) -> Self {
        let best = Choice {
            codec: PLAIN,
            bytes: usize::MAX,
            plan: None,
        };
        Self {
            values,
            runs: sample(values).count(),
            best,
        }
    }

    fn offer(&mut self, codec: u8, bytes: usize, plan: Option<Plan>) {
        if bytes < self.best.bytes {
            self.best = Choice { codec, bytes, plan };
        }
    }

    /// Tries a codec that is a head of so many bytes and blocks of these numbers of a run.
    fn try_blocks<N: Iterator<Item = u64>>(
        &mut self,
        codec: u8,
        head: usize,
        numbers: impl Fn(&'a [i64]) -> N,
    ) {
        let count = self.values.len();
        let sampled = self.runs * count.min(BLOCK);
        let all = |sample_bytes: usize| head + sample_bytes * count / sampled;
        // No block is shorter than a byte. So what cannot win is seen before all is counted.
        let mut sample_bytes = self.runs;
        let mut plan = None;
        for run in sample(self.values) {
            let widths = Widths::of(numbers(run));
            sample_bytes -= 1;
            if all(sample_bytes + widths.bytes_min()) >= self.best.bytes {
                return;
            }
            let planned = widths.plan();
            sample_bytes += planned.bytes();
            plan = Some(planned);
        }
        self.offer(codec, all(sample_bytes), plan.filter(|_| count <= BLOCK));
    }
}

/// Whether the first differences change by less than they are.
fn bends_less(values: &[i64]) -> bool {
    let run = &values[..values.len().min(BLOCK / 4)];
    let bits = |number: i64| u32::from(bits::width(zigzag(number)));
    second_deltas(run).map(bits).sum::<u32>() < deltas(run).skip(1).map(bits).sum::<u32>()
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
    use proptest::prelude::*;

    use super::*;
    use crate::column::properties::{any_int, any_ints};

    /// The definition: every codec is counted to the end, and of the shortest the first is taken.
    fn choose_slowly(values: &[i64], least: i64, least_delta: i64) -> u8 {
        let blocks = |numbers: &dyn Fn(&[i64]) -> Vec<u64>| {
            let (mut bytes, mut sampled) = (0, 0);
            for run in sample(values) {
                bytes += Widths::of(numbers(run).into_iter()).plan().bytes();
                sampled += run.len();
            }
            bytes * values.len() / sampled
        };
        let first = signed_bytes(values[0]);
        let above_least = |run: &[i64]| -> Vec<u64> {
            let above_least = |value: &i64| above(*value, least);
            run.iter().map(above_least).collect()
        };
        let plain = |run: &[i64]| -> Vec<u64> { run.iter().copied().map(zigzag).collect() };
        let deltas_above = |run: &[i64]| -> Vec<u64> {
            let above_least = |delta| above(delta, least_delta);
            deltas(run).map(above_least).collect()
        };
        let plain_deltas = |run: &[i64]| -> Vec<u64> { deltas(run).map(zigzag).collect() };
        let bends = |run: &[i64]| -> Vec<u64> { second_deltas(run).map(zigzag).collect() };
        let mut costs = vec![
            (signed_bytes(least) + blocks(&above_least), ABOVE),
            (
                first + signed_bytes(least_delta) + blocks(&deltas_above),
                DELTA_ABOVE,
            ),
        ];
        if least < 0 {
            costs.push((blocks(&plain), PLAIN));
        }
        if least_delta < 0 {
            costs.push((first + blocks(&plain_deltas), DELTA));
        }
        if bends_less(values) {
            let step = signed_bytes(values[1].wrapping_sub(values[0]));
            costs.push((first + step + blocks(&bends), DELTA_DELTA));
        }
        if values.len() <= SHORT_MAX {
            let short_deltas: usize = deltas(values).map(signed_bytes).sum();
            costs.push((values.iter().copied().map(signed_bytes).sum(), SHORT));
            costs.push((first + short_deltas, SHORT_DELTA));
        }
        costs.into_iter().min().unwrap().1
    }

    proptest! {
        #[test]
        fn the_choice_is_what_all_codecs_counted_give(
            values in prop_oneof![
                any_ints(),
                prop::collection::vec(-9..9_i64, 3..20),
                prop::collection::vec(any_int(), 3..600),
            ],
        ) {
            prop_assume!(values.len() > 2);
            let least = values.iter().copied().min().unwrap();
            let least_delta = deltas(&values).min().unwrap();
            let choice = choose(&values, least, least_delta);
            prop_assert_eq!(choice.codec, choose_slowly(&values, least, least_delta));
        }
    }

    fn check(values: &[i64], bytes_max: usize) {
        let mut out = Vec::new();
        encode_ints(values, &mut IntScratch::default(), &mut out);
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
