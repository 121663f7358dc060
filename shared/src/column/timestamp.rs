//! Times: counted in the coarsest of nanoseconds, microseconds, milliseconds and seconds that
//! fits them all, from a time that the reader knows too; the rest is `integer`'s.

use super::integer::{put_ints, take_ints};
use crate::wire::{Budget, Reader, WireError};

/// Nanoseconds of the units, finest first. A unit's place stands in the codec byte.
const UNITS: [i64; 4] = [1, 1_000, 1_000_000, 1_000_000_000];
/// Where in the codec byte the unit stands, above the codec of integers.
const UNIT_SHIFT: u32 = 5;

/// Appends times. `base` is a time near them that the reader knows too, or 0.
pub fn encode_times(times: &[i64], base: i64, out: &mut Vec<u8>) {
    if times.is_empty() {
        return;
    }
    let fits = |unit: &i64| times.iter().all(|time| time % unit == 0);
    let unit = UNITS.iter().rposition(fits).unwrap_or(0);
    let (scale, base) = (UNITS[unit], base.div_euclid(UNITS[unit]));
    let counts = times.iter().map(|time| (time / scale).wrapping_sub(base));
    let at = out.len();
    out.push(0);
    let codec = put_ints(&counts.collect::<Vec<i64>>(), out);
    out[at] = codec | u8::try_from(unit << UNIT_SHIFT).expect("one of four");
}

/// Reads `count` times that were written with the same `base`.
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
        encode_times(times, base, &mut out);
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
