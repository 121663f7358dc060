//! Times: counted in the coarsest of nanoseconds, microseconds, milliseconds and seconds that
//! fits them all, from a time that the reader knows too; the rest is `integer`'s.

use super::integer::{put_ints, take_ints};
use super::{Scratch, behind_codec};
use crate::wire::{Budget, Reader, WireError};

/// Nanoseconds of the units, finest first. A unit's place stands in the codec byte.
const UNITS: [i64; 4] = [1, 1_000, 1_000_000, 1_000_000_000];
/// Where in the codec byte the unit stands, above the codec of integers.
const UNIT_SHIFT: u32 = 5;

/// Appends codec and times. `base` is a time near them that the reader knows too, or 0.
pub fn encode_times(times: &[i64], base: i64, scratch: &mut Scratch, out: &mut Vec<u8>) {
    behind_codec(times.len(), out, |out| put_times(times, base, scratch, out));
}

/// Appends times without their codec, which it returns: it has all eight bits.
fn put_times(times: &[i64], base: i64, scratch: &mut Scratch, out: &mut Vec<u8>) -> u8 {
    let counts = &mut scratch.wholes;
    let unit: u8 = if count_in::<{ UNITS[3] }>(times, base, counts) {
        3
    } else if count_in::<{ UNITS[2] }>(times, base, counts) {
        2
    } else if count_in::<{ UNITS[1] }>(times, base, counts) {
        1
    } else {
        count_in::<{ UNITS[0] }>(times, base, counts);
        0
    };
    put_ints(counts, &mut scratch.ints, out) | unit << UNIT_SHIFT
}

/// Counts the times from the base in a unit, if it fits them all. A constant each, so that there
/// is nothing to divide by.
fn count_in<const UNIT: i64>(times: &[i64], base: i64, counts: &mut Vec<i64>) -> bool {
    let base = base.div_euclid(UNIT);
    let count = |time: &i64| (time % UNIT == 0).then(|| (time / UNIT).wrapping_sub(base));
    counts.clear();
    counts.reserve(times.len());
    counts.extend(times.iter().map_while(count));
    counts.len() == times.len()
}

/// Reads codec and `count` times that were written with the same `base`.
pub fn decode_times(
    reader: &mut Reader<'_>,
    count: usize,
    base: i64,
    budget: &mut Budget,
) -> Result<Vec<i64>, WireError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let codec = reader.byte()?;
    let scale = UNITS.get(usize::from(codec >> UNIT_SHIFT));
    let scale = *scale.ok_or(WireError::Malformed("an unknown unit of times"))?;
    let base = base.div_euclid(scale);
    let codec = codec & ((1 << UNIT_SHIFT) - 1);
    let mut times = take_ints(codec, reader, count, budget)?;
    for time in &mut times {
        *time = time.wrapping_add(base).wrapping_mul(scale);
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::column::TIME_PRICE;

    const NOON: i64 = 1_764_000_000_000_000_000;

    fn check(times: &[i64], base: i64, bytes_max: usize) {
        let mut out = Vec::new();
        encode_times(times, base, &mut Scratch::default(), &mut out);
        assert!(out.len() <= bytes_max, "{} > {bytes_max}", out.len());
        let mut reader = Reader::new(&out);
        let mut budget = Budget::new(times.len() * TIME_PRICE);
        let back = decode_times(&mut reader, times.len(), base, &mut budget);
        assert_eq!(back.as_deref(), Ok(times));
        assert!(reader.is_empty());
        assert_eq!(budget.left(), 0);
    }

    #[test]
    fn usual_clocks_are_short() {
        check(&[], 0, 0);
        check(&[NOON - 1000], NOON, 2);
        check(&[NOON; 50], NOON, 3);
        let even: Vec<i64> = (0..1000).map(|i| NOON + i * 10_000_000_000).collect();
        check(&even, NOON + 123_456_789, 3);
        let jitter: Vec<i64> = (0..1000)
            .map(|i| NOON + i * 1_000_000_000 + (i * 7919) % 8 * 1_000_000)
            .collect();
        check(&jitter, NOON, 20 + 8 + 1000 / 2);
        let late: Vec<i64> = (0..1000)
            .map(|i| NOON + (i * 7919) % 1000 * 1_000_000)
            .collect();
        check(&late, NOON, 20 + 8 + 1000 * 10 / 8);
        let ticks: Vec<i64> = (0..1000)
            .map(|i| NOON + 5 + (i * 7919) % 8 * 123_457)
            .collect();
        check(&ticks, NOON, 20 + 8 + 1000 / 2);
    }

    #[test]
    fn extremes_survive() {
        let (low, high) = (i64::MIN, i64::MAX);
        check(&[low], high, 11);
        check(&[low, high], low, 30);
        check(&[high, low, 0, -1], 0, 50);
        check(&[0, low, low, 0], 0, 50);
        check(&[0, low], -5, 50);
        check(&[-1, low, high - 1], 7, 50);
        check(&[low, low + 10, low + 20, low + 25], high, 50);
        let second = UNITS[3];
        check(&[low / second * second, high / second * second], low, 50);
    }

    #[test]
    fn damage_is_refused() {
        let mut budget = Budget::new(1000);
        let mut read = |bytes: &[u8]| decode_times(&mut Reader::new(bytes), 3, 0, &mut budget);
        for bytes in [[0x80, 0, 0], [0x0f, 0, 0]] {
            assert!(matches!(read(&bytes), Err(WireError::Malformed(_))));
        }
        assert_eq!(read(&[1, 0, 1]), Err(WireError::Short));
    }
}
