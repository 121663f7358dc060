//! Numbers of one width, packed without gaps, lowest bit first; the last byte is filled with zero
//! bits. Its neighbour `blocks` packs with it.

use crate::wire::{Reader, WireError};

/// Numbers that are unpacked in one go.
pub const BLOCK: usize = 128;

/// Up to here any number lies within eight bytes, wherever its first bit is.
const NEAR_WIDTH_MAX: u8 = 57;
/// A block of such numbers, and eight bytes from the last number's first on.
const NEAR_BYTES: usize = (BLOCK * NEAR_WIDTH_MAX as usize).div_ceil(8) + 8;

/// Bits needed for this value: 0 to 64.
pub fn width(value: u64) -> u8 {
    // At most 64, so nothing is cut.
    (64 - value.leading_zeros()).to_le_bytes()[0]
}

/// Bytes that `count` numbers of this width take, at most [`BLOCK`] of them.
pub fn packed_bytes(count: usize, width: u8) -> usize {
    (count * usize::from(width)).div_ceil(8)
}

/// Appends numbers; of each only the lowest `width` bits.
pub fn pack(numbers: &[u64], width: u8, out: &mut Vec<u8>) {
    let mask = mask(width);
    let width = u32::from(width);
    out.reserve(numbers.len() * 8);
    // Fewer than 64 bits of it are used, so that no sum and no shift below can overflow.
    let (mut pending, mut used) = (0_u64, 0_u32);
    for number in numbers {
        let number = number & mask;
        pending |= number.wrapping_shl(used);
        used = used.wrapping_add(width);
        if used >= 64 {
            out.extend_from_slice(&pending.to_le_bytes());
            used = used.wrapping_sub(64);
            // What did not fit: by two shifts, because one may be by 64.
            pending = (number >> 1).wrapping_shr(width.wrapping_sub(used).wrapping_sub(1));
        }
    }
    let rest = used.div_ceil(8) as usize;
    out.extend_from_slice(&pending.to_le_bytes()[..rest]);
}

/// Reads packed numbers until `numbers` is full, at most [`BLOCK`]; they are unsigned, and stand
/// where the values that they become will stand.
pub fn unpack(reader: &mut Reader<'_>, width: u8, numbers: &mut [i64]) -> Result<(), WireError> {
    if width > 64 {
        return Err(WireError::Malformed("packed numbers above 64 bits"));
    }
    let count = numbers.len();
    let bytes = reader.take(packed_bytes(count, width))?;
    let used_bits = (count * usize::from(width)) % 8;
    if used_bits != 0 && bytes.last().is_some_and(|last| last >> used_bits != 0) {
        return Err(WireError::Malformed("padding that is not zero"));
    }
    if width <= NEAR_WIDTH_MAX && count <= BLOCK {
        unpack_near(bytes, width, numbers);
        return Ok(());
    }
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let mut words = words.iter();
    let mask = mask(width);
    let width = u32::from(width);
    // So many bits of the words are left that were begun. No sum and no shift below can overflow.
    let (mut pending, mut left) = (0_u64, 0_u32);
    for number in numbers {
        if left >= width {
            *number = (pending & mask).cast_signed();
            pending = pending.wrapping_shr(width);
            left = left.wrapping_sub(width);
        } else {
            let word = u64::from_le_bytes(*words.next().unwrap_or(&last));
            *number = ((pending | word.wrapping_shl(left)) & mask).cast_signed();
            let taken = width.wrapping_sub(left);
            // By two shifts, because all of the word may be taken.
            pending = (word >> 1).wrapping_shr(taken.wrapping_sub(1));
            left = 64_u32.wrapping_sub(taken);
        }
    }
    Ok(())
}

/// Each number by itself, so that none waits for the one before.
fn unpack_near(bytes: &[u8], width: u8, numbers: &mut [i64]) {
    let mut padded = [0; NEAR_BYTES];
    padded[..bytes.len()].copy_from_slice(bytes);
    let mask = mask(width);
    let mut bit = 0_usize;
    for number in numbers {
        // The block ends eight bytes before the padding does.
        let near = padded[bit / 8..].first_chunk().copied();
        let word = u64::from_le_bytes(near.unwrap_or_default());
        *number = (word >> (bit % 8) & mask).cast_signed();
        bit = bit.wrapping_add(width.into());
    }
}

fn mask(width: u8) -> u64 {
    u64::MAX.checked_shr(64 - u32::from(width)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_is_read_back() {
        for bits in 0..=64_u8 {
            for count in [1, 2, 5, 127, BLOCK] {
                let numbers: Vec<u64> = (0..count as u64)
                    .map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) & mask(bits))
                    .collect();
                let mut out = vec![7];
                pack(&numbers, bits, &mut out);
                let packed = packed_bytes(count, bits);
                assert_eq!(out.len(), 1 + packed);
                // What follows makes no difference.
                for more in [0, 1, 7, 8, 100] {
                    out.resize(1 + packed + more, 0xff);
                    let mut reader = Reader::new(&out[1..]);
                    let mut back = vec![9; count];
                    unpack(&mut reader, bits, &mut back).unwrap();
                    let back: Vec<u64> = back.into_iter().map(i64::cast_unsigned).collect();
                    assert_eq!(back, numbers, "{bits} bits");
                    assert_eq!(reader.remaining(), more);
                }
            }
        }
    }

    #[test]
    fn only_the_lowest_bits_are_packed() {
        let mut out = Vec::new();
        pack(&[0xff, 0x12], 4, &mut out);
        assert_eq!(out, [0x2f]);
    }

    #[test]
    fn bad_widths_lengths_and_padding_are_refused() {
        let error = |bytes: &[u8], count, width| {
            unpack(&mut Reader::new(bytes), width, &mut vec![0; count]).unwrap_err()
        };
        assert!(matches!(error(&[0; 80], 1, 65), WireError::Malformed(_)));
        assert_eq!(error(&[0; 7], 1, 64), WireError::Short);
        assert!(matches!(
            error(&[0b1000_0000], 7, 1),
            WireError::Malformed(_)
        ));
    }
}
