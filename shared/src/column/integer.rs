//! Integers: a constant step, varints where there are few, else blocks of packed numbers; as they
//! are, as differences or as differences of differences, whichever is shortest by a sample; and
//! what they are all multiples of is taken out first. `timestamp`, `float` and `text` put their
//! numbers through it.

use super::bits::{self, BLOCK};
use super::blocks::{self, Plan};
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
#[derive(Debug)]
pub struct IntScratch {
    quotients: Vec<i64>,
    blocks: Blocks,
}

/// The numbers of a block by the codec that is tried, and by the best so far.
#[derive(Debug)]
struct Blocks([[u64; BLOCK]; 2]);

impl Default for IntScratch {
    fn default() -> Self {
        Self {
            quotients: Vec::new(),
            blocks: Blocks([[0; BLOCK]; 2]),
        }
    }
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
    let IntScratch { quotients, blocks } = scratch;
    let Some(divisor) = common_divisor(values) else {
        return put_undivided(values, blocks, out);
    };
    let remainder = first.rem_euclid(divisor);
    put_varint(out, divisor.unsigned_abs());
    put_varint(out, remainder.unsigned_abs());
    quotients.clear();
    quotients.extend(values.iter().map(|value| value.div_euclid(divisor)));
    put_undivided(quotients, blocks, out) | DIVIDED
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
fn put_undivided(values: &[i64], blocks: &mut Blocks, out: &mut Vec<u8>) -> u8 {
    let heads = Heads::of(values);
    let Search {
        best: Choice { codec, plan, .. },
        kept,
        tried,
        ..
    } = choose(values, &heads, blocks);
    match codec {
        SHORT => {
            values.iter().for_each(|value| put_signed(out, *value));
            return codec;
        }
        SHORT_DELTA => {
            put_signed(out, values[0]);
            deltas(values).for_each(|delta| put_signed(out, delta));
            return codec;
        }
        _ => {
            let (heads, count) = heads.of_codec(codec);
            for head in &heads[..count] {
                put_signed(out, *head);
            }
        }
    }
    let order = order(codec);
    let count = values.len() - order;
    if let Some(plan) = plan {
        blocks::put_block(&kept[..count], plan, out);
        return codec;
    }
    for from in (0..count).step_by(BLOCK) {
        let to = count.min(from + BLOCK) + order;
        let numbers = heads.numbers(codec, &values[from..to], tried);
        blocks::put_block(numbers, blocks::plan(numbers), out);
    }
    codec
}

fn take_undivided(codec: u8, reader: &mut Reader<'_>, count: usize) -> Result<Vec<i64>, WireError> {
    // All are written below. Zeros would be asked for as zeroed memory, which glibc never takes from a
    // thread's cache.
    let mut values = vec![1; count];
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

fn above(value: i64, least: i64) -> u64 {
    value.wrapping_sub(least).cast_unsigned()
}

/// What blocks of numbers stand behind: of each codec some.
#[derive(Debug)]
struct Heads {
    first: i64,
    step: i64,
    least: i64,
    least_delta: i64,
}

impl Heads {
    /// Of three or more values.
    fn of(values: &[i64]) -> Self {
        let (first, step) = (values[0], values[1].wrapping_sub(values[0]));
        let (mut least, mut least_delta) = (first, step);
        let mut before = first;
        for value in &values[1..] {
            least = least.min(*value);
            least_delta = least_delta.min(value.wrapping_sub(before));
            before = *value;
        }
        Self {
            first,
            step,
            least,
            least_delta,
        }
    }

    /// Those of a codec, and how many they are.
    fn of_codec(&self, codec: u8) -> ([i64; 2], usize) {
        match codec {
            ABOVE => ([self.least, 0], 1),
            DELTA_ABOVE => ([self.first, self.least_delta], 2),
            DELTA => ([self.first, 0], 1),
            DELTA_DELTA => ([self.first, self.step], 2),
            _ => ([0, 0], 0),
        }
    }

    /// What a codec makes of a run of values: as many numbers, less its order.
    fn numbers<'a>(&self, codec: u8, run: &[i64], numbers: &'a mut [u64; BLOCK]) -> &'a mut [u64] {
        let numbers = &mut numbers[..run.len() - order(codec)];
        let places = numbers.iter_mut();
        match codec {
            ABOVE => {
                for (to, value) in places.zip(run) {
                    *to = above(*value, self.least);
                }
            }
            PLAIN => {
                for (to, value) in places.zip(run) {
                    *to = zigzag(*value);
                }
            }
            DELTA_ABOVE => {
                for (to, delta) in places.zip(deltas(run)) {
                    *to = above(delta, self.least_delta);
                }
            }
            DELTA => {
                for (to, delta) in places.zip(deltas(run)) {
                    *to = zigzag(delta);
                }
            }
            _ => {
                let pairs = deltas(run).zip(deltas(&run[1..]));
                for (to, (one, next)) in places.zip(pairs) {
                    *to = zigzag(next.wrapping_sub(one));
                }
            }
        }
        numbers
    }
}

/// How many values stand before those that a codec makes numbers of.
fn order(codec: u8) -> usize {
    match codec {
        DELTA_ABOVE | DELTA => 1,
        DELTA_DELTA => 2,
        _ => 0,
    }
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

/// Finds the shortest codec by a sample of the values; of equals the one that decodes fastest, which
/// has the lowest number.
fn choose<'a>(values: &'a [i64], heads: &'a Heads, blocks: &'a mut Blocks) -> Search<'a> {
    let [tried, kept] = &mut blocks.0;
    let mut search = Search {
        values,
        heads,
        tried,
        kept,
        best: Choice {
            codec: u8::MAX,
            bytes: usize::MAX,
            plan: None,
        },
    };
    // What is shortest most often comes first, so that the others are seen to be longer.
    search.try_blocks(DELTA_ABOVE);
    search.try_blocks(ABOVE);
    // Without a negative number it is never shorter than the one before by more than that one's
    // head. The same goes for the differences.
    if heads.least_delta < 0 {
        search.try_blocks(DELTA);
    }
    if heads.least < 0 {
        search.try_blocks(PLAIN);
    }
    if bends_less(values) {
        search.try_blocks(DELTA_DELTA);
    }
    if values.len() <= SHORT_MAX {
        search.try_varints();
    }
    search
}

/// The best codec so far, whatever the order in which they are tried.
struct Search<'a> {
    values: &'a [i64],
    heads: &'a Heads,
    tried: &'a mut [u64; BLOCK],
    /// The numbers of the best, if it has a plan.
    kept: &'a mut [u64; BLOCK],
    best: Choice,
}

impl Search<'_> {
    /// Keeps it if it is the best.
    fn offer(&mut self, codec: u8, bytes: usize, plan: Option<Plan>) -> bool {
        let is_best = (bytes, codec) < (self.best.bytes, self.best.codec);
        if is_best {
            self.best = Choice { codec, bytes, plan };
        }
        is_best
    }

    /// Adds up what varints take, where a bound does not say that it is too much.
    fn try_varints(&mut self) {
        let Heads { first, least, .. } = *self.heads;
        let count = self.values.len();
        // No value is shorter than the least of those that are not negative.
        if count * signed_bytes(least.max(0)) <= self.best.bytes {
            let bytes = self.values.iter().map(|value| signed_bytes(*value)).sum();
            self.offer(SHORT, bytes, None);
        }
        let first = signed_bytes(first);
        if first + count - 1 <= self.best.bytes {
            let rest: usize = deltas(self.values).map(signed_bytes).sum();
            self.offer(SHORT_DELTA, first + rest, None);
        }
    }

    /// Tries a codec that is a head and blocks of numbers.
    fn try_blocks(&mut self, codec: u8) {
        let (heads, heads_count) = self.heads.of_codec(codec);
        let head: usize = heads[..heads_count].iter().copied().map(signed_bytes).sum();
        let count = self.values.len();
        if count <= BLOCK {
            return self.try_block(codec, head);
        }
        let (mut runs, mut bytes) = (0, 0);
        for run in sample(self.values) {
            let numbers = self.heads.numbers(codec, run, self.tried);
            bytes += blocks::plan(numbers).bytes();
            runs += 1;
        }
        self.offer(codec, head + bytes * count / (runs * BLOCK), None);
    }

    /// Tries one whose numbers are one block.
    fn try_block(&mut self, codec: u8, head: usize) {
        let numbers = self.heads.numbers(codec, self.values, self.tried);
        // How wide a block may be that is not longer than the best: so most that cannot win are seen
        // before they are planned.
        let Some(bytes_max) = self.best.bytes.checked_sub(head + 1) else {
            return;
        };
        let width_max = bytes_max.saturating_mul(8) / numbers.len();
        let width_max = u8::try_from(width_max).unwrap_or(u8::MAX);
        if width_max < 64 && blocks::is_too_narrow(numbers, width_max) {
            return;
        }
        let plan = blocks::plan(numbers);
        if self.offer(codec, head + plan.bytes(), Some(plan)) {
            std::mem::swap(&mut self.tried, &mut self.kept);
        }
    }
}

/// Whether the first differences change by less than they are.
fn bends_less(values: &[i64]) -> bool {
    let run = &values[..values.len().min(BLOCK / 4)];
    let bits = |number: i64| u32::from(bits::width(zigzag(number)));
    let pairs = deltas(run).zip(deltas(&run[1..]));
    let (mut changes, mut all) = (0_u32, 0_u32);
    for (one, next) in pairs {
        changes = changes.wrapping_add(bits(next.wrapping_sub(one)));
        all = all.wrapping_add(bits(next));
    }
    changes < all
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
                bytes += blocks::plan(&numbers(run)).bytes();
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
        let bends = |run: &[i64]| -> Vec<u64> {
            let deltas: Vec<i64> = deltas(run).collect();
            super::deltas(&deltas).map(zigzag).collect()
        };
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
            let heads = Heads::of(&values);
            let mut scratch = IntScratch::default();
            let codec = choose(&values, &heads, &mut scratch.blocks).best.codec;
            prop_assert_eq!(codec, choose_slowly(&values, heads.least, heads.least_delta));
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
