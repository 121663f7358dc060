//! A run of numbers in blocks of 128: each block has the width that makes it shortest, and what is
//! wider stands behind it as exceptions (patched frame of reference: Zukowski et al., "Super-Scalar
//! RAM-CPU Cache Compression", ICDE 2006). A change that comes seldom so costs two or three bytes.

use super::bits::{self, BLOCK};
use crate::wire::{Reader, WireError, put_varint};

/// Beside a block's width: exceptions follow.
const HAS_EXCEPTIONS: u8 = 0x80;
/// Widths are tried down from the greatest until this part of a block would be exceptions.
const EXCEPTIONS_MAX: usize = 4;

/// How one block is best written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    width: u8,
    exceptions: usize,
    bytes: usize,
}

/// Bytes that [`put`] takes for one block of at most 128 numbers.
pub fn block_bytes(numbers: &[u64]) -> usize {
    plan(numbers).bytes
}

/// Appends numbers, in blocks.
pub fn put(numbers: &[u64], out: &mut Vec<u8>) {
    for block in numbers.chunks(BLOCK) {
        let Plan {
            width, exceptions, ..
        } = plan(block);
        if exceptions == 0 {
            out.push(width);
            bits::pack(block, width, out);
            continue;
        }
        out.push(width | HAS_EXCEPTIONS);
        out.push(u8::try_from(exceptions).expect("a part of 128"));
        bits::pack(block, width, out);
        let above = || {
            let high = block.iter().map(|number| number >> width);
            (0_u8..).zip(high).filter(|(_, high)| *high != 0)
        };
        out.extend(above().map(|(at, _)| at));
        above().for_each(|(_, high)| put_varint(out, high));
    }
}

/// Reads numbers until `numbers` is full.
pub fn take(reader: &mut Reader<'_>, numbers: &mut [u64]) -> Result<(), WireError> {
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
            *number |= high << width;
        }
    }
    Ok(())
}

fn plan(block: &[u64]) -> Plan {
    let mut counts = [0_usize; 65];
    for number in block {
        counts[usize::from(bits::width(*number))] += 1;
    }
    let widest = counts.iter().rposition(|count| *count > 0).unwrap_or(0);
    let mut best = Plan {
        width: bits::width(0),
        exceptions: 0,
        bytes: usize::MAX,
    };
    let mut exceptions = 0;
    for width in (0..=widest).rev() {
        let high_bytes = || {
            let wider = counts[width + 1..=widest].iter().enumerate();
            wider.map(|(above, count)| count * (1 + (above + 1).div_ceil(7)))
        };
        let mut bytes = 1 + (block.len() * width).div_ceil(8);
        if exceptions > 0 {
            bytes += 1 + high_bytes().sum::<usize>();
        }
        if bytes < best.bytes {
            best = Plan {
                width: u8::try_from(width).expect("at most 64"),
                exceptions,
                bytes,
            };
        }
        exceptions += counts[width];
        if exceptions * EXCEPTIONS_MAX > block.len() {
            break;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(numbers: &[u64], bytes_max: usize) {
        let mut out = Vec::new();
        put(numbers, &mut out);
        assert!(out.len() <= bytes_max, "{} > {bytes_max}", out.len());
        let planned: usize = numbers.chunks(BLOCK).map(block_bytes).sum();
        assert_eq!(out.len(), planned);
        let mut reader = Reader::new(&out);
        let mut back = vec![1; numbers.len()];
        take(&mut reader, &mut back).unwrap();
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
