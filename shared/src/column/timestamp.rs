//! Times: what they have in common is taken out (the first one, the greatest common divisor of
//! the distances), and the rest goes through `integer` as it is or as differences.

use super::integer::{decode_ints, encode_ints};
use crate::wire::{Budget, Reader, WireError, put_signed, put_varint};

/// The times as integers. For times that lie further apart than an i64 can tell.
const PLAIN: u8 = 0;
/// First time, divisor, then (time - first) / divisor of all but the first.
const SCALED: u8 = 1;
/// First time, divisor, then the differences of (time - first) / divisor.
const SCALED_DELTA: u8 = 2;

/// Appends times. `base` is a time near them that the reader knows too, or 0. A single time is a
/// bare zigzag varint without a codec byte.
pub fn encode_times(times: &[i64], base: i64, out: &mut Vec<u8>) {
    let Some((&first, rest)) = times.split_first() else {
        return;
    };
    if rest.is_empty() {
        put_signed(out, first.wrapping_sub(base));
        return;
    }
    let distances: Option<Vec<i64>> = rest.iter().map(|time| time.checked_sub(first)).collect();
    let Some(mut scaled) = distances else {
        out.push(PLAIN);
        encode_ints(times, out);
        return;
    };
    let divisor = common_divisor(&scaled);
    for distance in &mut scaled {
        // The divisor of distances is at most the greatest of them; only i64::MIN gives 2^63,
        // whose division as i128 cannot overflow.
        let quotient = i128::from(*distance) / i128::from(divisor);
        *distance = i64::try_from(quotient).expect("an i64 by a number above zero");
    }
    let mut plain = Vec::new();
    encode_ints(&scaled, &mut plain);
    let mut last = 0;
    for value in &mut scaled {
        let delta = value.wrapping_sub(last);
        last = *value;
        *value = delta;
    }
    let mut differences = Vec::new();
    encode_ints(&scaled, &mut differences);
    let delta_wins = differences.len() < plain.len();
    out.push(if delta_wins { SCALED_DELTA } else { SCALED });
    put_signed(out, first.wrapping_sub(base));
    put_varint(out, divisor);
    out.append(if delta_wins {
        &mut differences
    } else {
        &mut plain
    });
}

/// Reads `count` times that were written with the same `base`.
pub fn decode_times(
    reader: &mut Reader<'_>,
    count: usize,
    base: i64,
    budget: &mut Budget,
) -> Result<Vec<i64>, WireError> {
    if count <= 1 {
        let mut times = decode_ints(reader, count, budget)?;
        for time in &mut times {
            *time = base.wrapping_add(*time);
        }
        return Ok(times);
    }
    let codec = reader.byte()?;
    if codec == PLAIN {
        return decode_ints(reader, count, budget);
    }
    if codec > SCALED_DELTA {
        return Err(WireError::Malformed("an unknown codec of times"));
    }
    budget.charge(1, super::TIME_PRICE)?;
    let first = base.wrapping_add(reader.signed()?);
    let divisor = reader.varint()?.cast_signed();
    if divisor == 0 {
        return Err(WireError::Malformed("times divided by zero"));
    }
    let mut times = decode_ints(reader, count - 1, budget)?;
    let mut last = 0_i64;
    for time in &mut times {
        last = if codec == SCALED_DELTA {
            last.wrapping_add(*time)
        } else {
            *time
        };
        *time = first.wrapping_add(last.wrapping_mul(divisor));
    }
    times.insert(0, first);
    Ok(times)
}

/// The greatest number that divides all distances; 1 if all are zero.
fn common_divisor(distances: &[i64]) -> u64 {
    let divisor = distances
        .iter()
        .fold(0, |divisor, distance| gcd(distance.unsigned_abs(), divisor));
    divisor.max(1)
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_764_000_000_000_000_000;

    fn check(times: &[i64], base: i64, bytes_max: usize) {
        let mut out = Vec::new();
        encode_times(times, base, &mut out);
        assert!(out.len() <= bytes_max, "{} > {bytes_max}", out.len());
        let mut reader = Reader::new(&out);
        let mut budget = Budget::new(times.len() * 8);
        let back = decode_times(&mut reader, times.len(), base, &mut budget);
        assert_eq!(back.as_deref(), Ok(times));
        assert!(reader.is_empty());
        assert_eq!(budget.left(), 0);
    }

    #[test]
    fn usual_clocks_are_short() {
        check(&[], 0, 0);
        check(&[NOON - 1000], NOON, 2);
        check(&[NOON; 50], NOON, 6);
        let even: Vec<i64> = (0..1000).map(|i| NOON + i * 1_000_000_000).collect();
        check(&even, NOON, 10);
        let jitter: Vec<i64> = (0..1000)
            .map(|i| NOON + i * 1_000_000_000 + (i * 7919) % 8 * 1_000_000)
            .collect();
        check(&jitter, NOON, 20 + 1000 / 2);
        let late: Vec<i64> = (0..1000)
            .map(|i| NOON + (i * 7919) % 1000 * 1_000_000)
            .collect();
        check(&late, NOON, 20 + 1000 * 10 / 8);
    }

    #[test]
    fn extremes_survive() {
        let (low, high) = (i64::MIN, i64::MAX);
        check(&[low], high, 10);
        check(&[low, high], low, 30);
        check(&[high, low, 0, -1], 0, 50);
        check(&[0, low, low, 0], 0, 50);
        check(&[0, low], -5, 50);
        check(&[-1, low, high - 1], 7, 50);
        check(&[low, low + 10, low + 20, low + 25], high, 50);
    }

    #[test]
    fn damage_is_refused() {
        let mut budget = Budget::new(1000);
        let mut read = |bytes: &[u8]| decode_times(&mut Reader::new(bytes), 3, 0, &mut budget);
        assert!(matches!(
            read(&[3, 0, 1, 0, 0]),
            Err(WireError::Malformed(_))
        ));
        assert!(matches!(
            read(&[1, 0, 0, 0, 0]),
            Err(WireError::Malformed(_))
        ));
        assert_eq!(read(&[1, 0, 1]), Err(WireError::Short));
    }
}
