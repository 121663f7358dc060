//! Integers: a constant step, zigzag varints of the differences, or bit-packed above a base,
//! whichever is shortest. `timestamp`, `float` and `text` put their numbers through it.

use super::{INT_PRICE, bits};
use crate::wire::{Budget, Reader, WireError, put_signed, signed_bytes};

/// First value and step.
const STEP: u8 = 0;
/// First value, then each difference as a zigzag varint.
const VARINT: u8 = 1;
/// Base, width, then each value above the base.
const PACKED: u8 = 2;
/// First value, base, width, then each difference above the base.
const PACKED_DELTA: u8 = 3;

/// Appends the values. A single value is a bare zigzag varint without a codec byte.
pub fn encode_ints(values: &[i64], out: &mut Vec<u8>) {
    let Some((&first, rest)) = values.split_first() else {
        return;
    };
    if rest.is_empty() {
        put_signed(out, first);
        return;
    }
    let codec = choose(values);
    out.push(codec);
    if codec != PACKED {
        put_signed(out, first);
    }
    match codec {
        STEP => put_signed(out, rest[0].wrapping_sub(first)),
        VARINT => deltas(values).for_each(|delta| put_signed(out, delta)),
        PACKED => put_packed(
            values.iter().copied(),
            &Span::of(values.iter().copied()),
            out,
        ),
        _ => put_packed(deltas(values), &Span::of(deltas(values)), out),
    }
}

/// Reads `count` values.
pub fn decode_ints(
    reader: &mut Reader<'_>,
    count: usize,
    budget: &mut Budget,
) -> Result<Vec<i64>, WireError> {
    budget.charge(count, INT_PRICE)?;
    if count <= 1 {
        return (0..count).map(|_| reader.signed()).collect();
    }
    let codec = reader.byte()?;
    if codec == PACKED {
        let base = reader.signed()?;
        let width = reader.byte()?;
        let above = bits::unpack(reader, count, width)?;
        return Ok(above
            .map(|number| base.wrapping_add(number.cast_signed()))
            .collect());
    }
    let mut last = reader.signed()?;
    let mut values = Vec::with_capacity(count);
    values.push(last);
    let mut push = |delta: i64| {
        last = last.wrapping_add(delta);
        values.push(last);
    };
    match codec {
        STEP => {
            let step = reader.signed()?;
            (1..count).for_each(|_| push(step));
        }
        VARINT => {
            for _ in 1..count {
                push(reader.signed()?);
            }
        }
        PACKED_DELTA => {
            let base = reader.signed()?;
            let width = reader.byte()?;
            let above = bits::unpack(reader, count - 1, width)?;
            above.for_each(|number| push(base.wrapping_add(number.cast_signed())));
        }
        _ => return Err(WireError::Malformed("an unknown codec of integers")),
    }
    Ok(values)
}

/// Differences of neighbours; they wrap, and adding them wraps back.
fn deltas(values: &[i64]) -> impl Iterator<Item = i64> {
    values.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]))
}

/// Least and greatest of some numbers, and how many they are.
struct Span {
    least: i64,
    greatest: i64,
    count: usize,
}

impl Span {
    fn of(numbers: impl Iterator<Item = i64>) -> Self {
        let start = Self {
            least: i64::MAX,
            greatest: i64::MIN,
            count: 0,
        };
        numbers.fold(start, |span, number| Self {
            least: span.least.min(number),
            greatest: span.greatest.max(number),
            count: span.count + 1,
        })
    }

    fn width(&self) -> u8 {
        bits::width(self.greatest.wrapping_sub(self.least).cast_unsigned())
    }

    fn packed_bytes(&self) -> usize {
        let packed = bits::packed_bytes(self.count, self.width());
        packed.map_or(usize::MAX, |bytes| {
            (signed_bytes(self.least) + 1).saturating_add(bytes)
        })
    }
}

/// The shortest codec for two or more values; of equals the first, which decodes fastest.
fn choose(values: &[i64]) -> u8 {
    let steps = Span::of(deltas(values));
    if steps.least == steps.greatest {
        return STEP;
    }
    let first = signed_bytes(values[0]);
    let varint = first + deltas(values).map(signed_bytes).sum::<usize>();
    let packed = Span::of(values.iter().copied()).packed_bytes();
    let packed_delta = steps.packed_bytes().saturating_add(first);
    let costs = [
        (packed, PACKED),
        (packed_delta, PACKED_DELTA),
        (varint, VARINT),
    ];
    costs
        .into_iter()
        .min_by_key(|(cost, _)| *cost)
        .map_or(VARINT, |(_, codec)| codec)
}

fn put_packed(numbers: impl Iterator<Item = i64>, span: &Span, out: &mut Vec<u8>) {
    put_signed(out, span.least);
    out.push(span.width());
    let above = numbers.map(|number| number.wrapping_sub(span.least).cast_unsigned());
    bits::pack(above, span.width(), out);
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
        check(&noise, 4 + 500);
        let walk: Vec<i64> = (0..1000).map(|i| i * 1000 + (i * 7919) % 16).collect();
        check(&walk, 6 + 1000 * 11 / 8);
        let rare: Vec<i64> = (0..1000).map(|i| i64::from(i == 500) << 40).collect();
        check(&rare, 3 + 1000 + 10);
    }

    #[test]
    fn extremes_survive() {
        let (low, high) = (i64::MIN, i64::MAX);
        check(&[low], 10);
        check(&[low, high], 12);
        check(&[low, high, low, high, 0, -1, 1], 80);
        check(&[high, high - 1, low, low + 1], 50);
        check(&[0, low, 0, high, 0, low], 70);
    }

    #[test]
    fn unknown_codecs_and_hollow_budgets_are_refused() {
        let mut budget = Budget::new(1000);
        let read =
            |bytes: &[u8], budget: &mut Budget| decode_ints(&mut Reader::new(bytes), 10, budget);
        assert!(matches!(
            read(&[9, 0, 0], &mut budget),
            Err(WireError::Malformed(_))
        ));
        assert!(matches!(
            read(&[0, 0, 0], &mut Budget::new(79)),
            Err(WireError::Limit(_))
        ));
        assert_eq!(read(&[1, 0, 0], &mut budget), Err(WireError::Short));
    }
}
