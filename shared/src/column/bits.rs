//! Numbers of one width, packed without gaps, lowest bit first; the last byte is filled with zero
//! bits. Neighbours: `integer` and `boolean` pack with it.

use crate::wire::{Reader, WireError};

/// Bits needed for this value: 0 to 64.
pub fn width(value: u64) -> u8 {
    u8::try_from(64 - value.leading_zeros()).expect("at most 64")
}

/// Bytes that `count` numbers of this width take; `None` above what a machine can address.
pub fn packed_bytes(count: usize, width: u8) -> Option<usize> {
    count
        .checked_mul(usize::from(width))
        .map(|bits| bits.div_ceil(8))
}

/// Appends the numbers; each must fit `width` bits.
pub fn pack(numbers: impl Iterator<Item = u64>, width: u8, out: &mut Vec<u8>) {
    let mut pending = 0_u128;
    let mut pending_bits = 0;
    for number in numbers {
        debug_assert!(self::width(number) <= width);
        pending |= u128::from(number) << pending_bits;
        pending_bits += u32::from(width);
        while pending_bits >= 8 {
            out.push((pending & 0xff) as u8);
            pending >>= 8;
            pending_bits -= 8;
        }
    }
    if pending_bits > 0 {
        out.push((pending & 0xff) as u8);
    }
}

/// Takes `count` packed numbers; each is at most 64 bits wide.
pub fn unpack<'a>(
    reader: &mut Reader<'a>,
    count: usize,
    width: u8,
) -> Result<impl Iterator<Item = u64> + use<'a>, WireError> {
    if width > 64 {
        return Err(WireError::Malformed("packed numbers above 64 bits"));
    }
    let length = packed_bytes(count, width).ok_or(WireError::Short)?;
    let bytes = reader.take(length)?;
    let used_bits = (count * usize::from(width)) % 8;
    if used_bits != 0 && bytes.last().is_some_and(|last| last >> used_bits != 0) {
        return Err(WireError::Malformed("padding that is not zero"));
    }
    let mask = if width == 64 {
        u64::MAX
    } else {
        (1 << width) - 1
    };
    let mut bytes = bytes.iter();
    let mut pending = 0_u128;
    let mut pending_bits = 0;
    Ok((0..count).map(move |_| {
        while pending_bits < u32::from(width) {
            let byte = bytes.next().copied().unwrap_or(0);
            pending |= u128::from(byte) << pending_bits;
            pending_bits += 8;
        }
        let number = u64::try_from(pending & u128::from(mask)).expect("a mask of 64 bits");
        pending >>= width;
        pending_bits -= u32::from(width);
        number
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_is_read_back() {
        for bits in 0..=64_u8 {
            let top = if bits == 0 {
                0
            } else {
                u64::MAX >> (64 - bits)
            };
            let numbers = [top, 0, top / 3, 1 & top, top];
            let mut out = Vec::new();
            pack(numbers.into_iter(), bits, &mut out);
            assert_eq!(Some(out.len()), packed_bytes(numbers.len(), bits));
            let mut reader = Reader::new(&out);
            let back: Vec<u64> = unpack(&mut reader, numbers.len(), bits).unwrap().collect();
            assert_eq!(back, numbers, "{bits} bits");
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn bad_widths_lengths_and_padding_are_refused() {
        let error = |bytes: &[u8], count, width| {
            unpack(&mut Reader::new(bytes), count, width)
                .map(drop)
                .unwrap_err()
        };
        assert!(matches!(error(&[0; 80], 1, 65), WireError::Malformed(_)));
        assert_eq!(error(&[0; 7], 1, 64), WireError::Short);
        assert_eq!(error(&[], usize::MAX, 64), WireError::Short);
        assert!(matches!(
            error(&[0b1000_0000], 7, 1),
            WireError::Malformed(_)
        ));
    }
}
