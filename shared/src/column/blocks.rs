//! A run of numbers in blocks of 128: each block has the width that makes it shortest, and what is
//! wider stands behind it as exceptions (patched frame of reference: Zukowski et al., "Super-Scalar
//! RAM-CPU Cache Compression", ICDE 2006). A change that comes seldom so costs two or three bytes.

use super::bits::{self, BLOCK};
use crate::wire::{Reader, WireError, put_varint};

/// Beside a block's width: exceptions follow.
const HAS_EXCEPTIONS: u8 = 0x80;
/// Widths are tried down from the greatest until this part of a block would be exceptions.
const EXCEPTIONS_MAX: usize = 4;

/// Widths of numbers: 0 to 64 bits.
const WIDTHS: usize = 65;
/// Counters of one width, used in turn, so that no number waits for the one before to be counted.
const TURNS: usize = 4;

/// How many numbers of a block have which width.
#[derive(Debug)]
struct Widths {
    counts: [[u8; TURNS]; WIDTHS],
    numbers: usize,
    widest: usize,
}

/// How one block is best written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    width: u8,
    exceptions: u8,
    bytes: usize,
}

impl Widths {
    /// Of the numbers of one block, and the width of the widest.
    fn of(numbers: &[u64], widest: u8) -> Self {
        let mut counts = [[0_u8; TURNS]; WIDTHS];
        for turns in numbers.chunks(TURNS) {
            for (turn, number) in turns.iter().enumerate() {
                let count = &mut counts[usize::from(bits::width(*number))][turn];
                // A block's 128 numbers fit a byte.
                *count = count.wrapping_add(1);
            }
        }
        Self {
            counts,
            numbers: numbers.len(),
            widest: widest.into(),
        }
    }

    /// The width that makes the block shortest; of equals the greatest.
    fn plan(&self) -> Plan {
        let mut best = Plan {
            width: 0,
            exceptions: 0,
            bytes: usize::MAX,
        };
        let (mut exceptions, mut exception_bytes) = (0, 0);
        // What lies above takes one byte more every seven bits, so numbers whose widths are equal
        // modulo seven grow together.
        let mut growing = [0_usize; 7];
        for width in (0..=self.widest).rev() {
            if width < self.widest {
                let more = self.count(width + 1);
                let growing = &mut growing[(width + 1) % 7];
                *growing += more;
                exceptions += more;
                // The places of those that join, and a byte for each that grows.
                exception_bytes += more + *growing;
                if exceptions * EXCEPTIONS_MAX > self.numbers {
                    break;
                }
            }
            let mut bytes = 1 + (self.numbers * width).div_ceil(8);
            if exceptions > 0 {
                bytes += 1 + exception_bytes;
            }
            if bytes < best.bytes {
                best = Plan {
                    width: u8::try_from(width).expect("at most 64"),
                    exceptions: u8::try_from(exceptions).expect("a part of 128"),
                    bytes,
                };
            }
        }
        best
    }

    fn count(&self, width: usize) -> usize {
        self.counts[width].iter().copied().map(usize::from).sum()
    }
}

impl Plan {
    /// Bytes that [`put_block`] takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// How a block of at most 128 numbers is shortest.
pub fn plan(numbers: &[u64]) -> Plan {
    let widest = bits::width(numbers.iter().fold(0, |all, number| all | number));
    if pays_no_exceptions(numbers, widest) {
        return Plan {
            width: widest,
            exceptions: 0,
            bytes: 1 + bits::packed_bytes(numbers.len(), widest),
        };
    }
    Widths::of(numbers, widest).plan()
}

/// Whether it is plain that no narrower block is shorter: an exception takes two bytes or more, and
/// a byte says how many there are. Cheaper than to count all widths, and mostly enough.
fn pays_no_exceptions(numbers: &[u64], widest: u8) -> bool {
    let count = numbers.len();
    for width in (0..widest).rev() {
        let exceptions = wider(numbers, width);
        if exceptions * EXCEPTIONS_MAX > count {
            return true;
        }
        let saved_most = (usize::from(widest - width) * count).div_ceil(8);
        if 1 + 2 * exceptions < saved_most {
            return false;
        }
    }
    true
}

/// Whether a block of this width would have more exceptions than one may have.
pub fn is_too_narrow(numbers: &[u64], width: u8) -> bool {
    wider(numbers, width) * EXCEPTIONS_MAX > numbers.len()
}

/// How many numbers have more bits than this, of 0 to 63.
fn wider(numbers: &[u64], width: u8) -> usize {
    let above = |number: &u64| u64::from(number.wrapping_shr(width.into()) != 0);
    // As many as there are numbers at most.
    let all = numbers.iter().map(above).fold(0_u64, u64::wrapping_add);
    usize::try_from(all).expect("a block is short")
}

/// Appends the one block that was planned.
pub fn put_block(block: &[u64], plan: Plan, out: &mut Vec<u8>) {
    let Plan {
        width, exceptions, ..
    } = plan;
    if exceptions == 0 {
        out.push(width);
        return bits::pack(block, width, out);
    }
    out.push(width | HAS_EXCEPTIONS);
    out.push(exceptions);
    bits::pack(block, width, out);
    let above = || {
        let high = block.iter().map(|number| number >> width);
        (0_u8..).zip(high).filter(|(_, high)| *high != 0)
    };
    out.extend(above().map(|(at, _)| at));
    above().for_each(|(_, high)| put_varint(out, high));
}

/// Reads numbers until `numbers` is full; they are unsigned, as those of [`bits::unpack`].
pub fn take(reader: &mut Reader<'_>, numbers: &mut [i64]) -> Result<(), WireError> {
    for block in numbers.chunks_mut(BLOCK) {
        let head = reader.byte()?;
        let width = head & !HAS_EXCEPTIONS;
        if head & HAS_EXCEPTIONS == 0 {
            bits::unpack(reader, width, block)?;
            continue;
        }
        if width >= 64 {
            return Err(WireError::Malformed("exceptions above 64 bits"));
        }
        let exceptions = usize::from(reader.byte()?);
        bits::unpack(reader, width, block)?;
        for at in reader.take(exceptions)? {
            let number = block.get_mut(usize::from(*at));
            let number = number.ok_or(WireError::Malformed("an exception outside its block"))?;
            let high = reader.varint()?;
            if bits::width(high) + width > 64 {
                return Err(WireError::Malformed("an exception above 64 bits"));
            }
            *number |= (high << width).cast_signed();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::column::properties::any_int;

    /// The definition: each width from the greatest down, with every byte counted.
    fn plan_slowly(block: &[u64]) -> Plan {
        let widest = block.iter().map(|number| bits::width(*number)).max();
        let mut best: Option<Plan> = None;
        for width in (0..=widest.unwrap_or(0)).rev() {
            let above = block.iter().map(|number| number.checked_shr(width.into()));
            let above: Vec<u64> = above.map(|high| high.unwrap_or(0)).collect();
            let high = above.iter().filter(|high| **high != 0);
            let exceptions = high.clone().count();
            if exceptions * EXCEPTIONS_MAX > block.len() {
                break;
            }
            let varints = high.map(|high| 1 + crate::wire::varint_bytes(*high));
            let bytes = 1
                + bits::packed_bytes(block.len(), width)
                + usize::from(exceptions > 0)
                + varints.sum::<usize>();
            if best.is_none_or(|best| bytes < best.bytes) {
                best = Some(Plan {
                    width,
                    exceptions: u8::try_from(exceptions).unwrap(),
                    bytes,
                });
            }
        }
        best.unwrap()
    }

    proptest! {
        #[test]
        fn a_plan_is_what_every_width_tried_gives(
            block in prop::collection::vec((any_int(), 0..64_u32), 0..=BLOCK),
        ) {
            let narrow = block.iter().map(|(number, shift)| number.cast_unsigned() >> shift);
            let wide = block.iter().map(|(number, _)| number.unsigned_abs());
            for block in [narrow.collect::<Vec<u64>>(), wide.collect()] {
                prop_assert_eq!(plan(&block), plan_slowly(&block));
            }
        }
    }

    fn check(numbers: &[u64], bytes_max: usize) {
        let mut out = Vec::new();
        let mut planned = 0;
        for block in numbers.chunks(BLOCK) {
            let plan = plan(block);
            put_block(block, plan, &mut out);
            planned += plan.bytes();
        }
        assert!(out.len() <= bytes_max, "{} > {bytes_max}", out.len());
        assert_eq!(out.len(), planned);
        let mut reader = Reader::new(&out);
        let mut back = vec![1; numbers.len()];
        take(&mut reader, &mut back).unwrap();
        let back: Vec<u64> = back.into_iter().map(i64::cast_unsigned).collect();
        assert_eq!(back, numbers);
        assert!(reader.is_empty());
    }

    #[test]
    fn each_block_has_its_own_width() {
        check(&[], 0);
        check(&[0; 1000], 8);
        let two: Vec<u64> = (0..256)
            .map(|i| if i < 128 { 1 } else { 1 << 40 })
            .collect();
        check(&two, 1 + 16 + 1 + 41 * 16);
    }

    #[test]
    fn what_comes_seldom_is_patched() {
        let seldom: Vec<u64> = (0..128).map(|i| u64::from(i % 50 == 7) * 300).collect();
        check(&seldom, 2 + 3 * 3);
        let high: Vec<u64> = (0..128)
            .map(|i| if i == 3 { u64::MAX } else { i % 4 })
            .collect();
        check(&high, 2 + 32 + 1 + 9);
        check(&[u64::MAX; 130], 2 + 130 * 8);
    }

    #[test]
    fn damage_is_refused() {
        let read = |bytes: &[u8], count| take(&mut Reader::new(bytes), &mut vec![0; count]);
        assert!(matches!(read(&[65, 0, 0], 1), Err(WireError::Malformed(_))));
        assert!(matches!(
            read(&[0x80 | 64, 0], 1),
            Err(WireError::Malformed(_))
        ));
        assert!(matches!(
            read(&[0x80, 1, 5, 1], 5),
            Err(WireError::Malformed(_))
        ));
        let wide = [
            0x80 | 1,
            1,
            0,
            0,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            1,
        ];
        assert!(matches!(read(&wide, 1), Err(WireError::Malformed(_))));
        assert_eq!(read(&[0x80, 1, 4], 5), Err(WireError::Short));
    }
}
