//! Booleans and presence flags: all alike, or one bit each.

use super::{BOOL_PRICE, bits};
use crate::wire::{Budget, Reader, WireError};

const ALL_FALSE: u8 = 0;
const ALL_TRUE: u8 = 1;
const PACKED: u8 = 2;

/// Appends the values.
pub fn encode_bools(values: &[bool], out: &mut Vec<u8>) {
    let Some(first) = values.first() else { return };
    if values.iter().all(|value| value == first) {
        out.push(if *first { ALL_TRUE } else { ALL_FALSE });
        return;
    }
    out.push(PACKED);
    bits::pack(values.iter().map(|value| u64::from(*value)), 1, out);
}

/// Reads `count` values.
pub fn decode_bools(
    reader: &mut Reader<'_>,
    count: usize,
    budget: &mut Budget,
) -> Result<Vec<bool>, WireError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    budget.charge(count, BOOL_PRICE)?;
    match reader.byte()? {
        ALL_FALSE => Ok(vec![false; count]),
        ALL_TRUE => Ok(vec![true; count]),
        PACKED => Ok(bits::unpack(reader, count, 1)?
            .map(|bit| bit == 1)
            .collect()),
        _ => Err(WireError::Malformed("an unknown codec of booleans")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_back() {
        let mixed: Vec<bool> = (0..1000).map(|i| i % 7 == 0).collect();
        let cases: [(&[bool], usize); 6] = [
            (&[], 0),
            (&[true], 1),
            (&[false], 1),
            (&[true; 1000], 1),
            (&[true, false, true], 2),
            (&mixed, 126),
        ];
        for (values, bytes) in cases {
            let mut out = Vec::new();
            encode_bools(values, &mut out);
            assert_eq!(out.len(), bytes);
            let mut budget = Budget::new(values.len());
            let back = decode_bools(&mut Reader::new(&out), values.len(), &mut budget);
            assert_eq!(back.as_deref(), Ok(values));
        }
    }

    #[test]
    fn damage_is_refused() {
        let mut budget = Budget::new(100);
        let mut read = |bytes: &[u8]| decode_bools(&mut Reader::new(bytes), 9, &mut budget);
        assert!(matches!(read(&[3]), Err(WireError::Malformed(_))));
        assert!(matches!(
            read(&[PACKED, 0xff, 0x02]),
            Err(WireError::Malformed(_))
        ));
        assert_eq!(read(&[PACKED, 0xff]), Err(WireError::Short));
    }
}
