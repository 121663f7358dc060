//! Booleans and presence flags: all alike, runs, or one bit each.

use super::{BOOL_PRICE, behind_codec};
use crate::wire::{Budget, Reader, WireError, put_varint, varint_bytes};

const ALL_FALSE: u8 = 0;
const ALL_TRUE: u8 = 1;
const PACKED: u8 = 2;
/// How many runs there are but for the last, and their lengths. This one begins with false.
const RUNS_FALSE: u8 = 3;
const RUNS_TRUE: u8 = 4;

/// Appends codec and values.
pub fn encode_bools(values: &[bool], out: &mut Vec<u8>) {
    behind_codec(values.len(), out, |out| put_bools(values, out));
}

/// Reads codec and `count` values.
pub fn decode_bools(
    reader: &mut Reader<'_>,
    count: usize,
    budget: &mut Budget,
) -> Result<Vec<bool>, WireError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let codec = reader.byte()?;
    take_bools(codec, reader, count, budget)
}

/// Appends the values without their codec, which it returns.
pub fn put_bools(values: &[bool], out: &mut Vec<u8>) -> u8 {
    let Some(&first) = values.first() else {
        return ALL_FALSE;
    };
    let runs = || values.chunk_by(|a, b| a == b).map(<[bool]>::len);
    let changes = runs().count() - 1;
    if changes == 0 {
        return if first { ALL_TRUE } else { ALL_FALSE };
    }
    let runs_bytes = || {
        let lengths = runs().take(changes).map(|run| varint_bytes(run as u64));
        varint_bytes(changes as u64) + lengths.sum::<usize>()
    };
    let packed_bytes = values.len().div_ceil(8);
    if changes < packed_bytes && runs_bytes() < packed_bytes {
        put_varint(out, changes as u64);
        runs()
            .take(changes)
            .for_each(|run| put_varint(out, run as u64));
        return if first { RUNS_TRUE } else { RUNS_FALSE };
    }
    let byte = |flags: &[bool]| {
        let push = |byte: u8, flag: &bool| byte << 1 | u8::from(*flag);
        flags.iter().rev().fold(0, push)
    };
    out.extend(values.chunks(8).map(byte));
    PACKED
}

/// Reads `count` values of this codec.
pub fn take_bools(
    codec: u8,
    reader: &mut Reader<'_>,
    count: usize,
    budget: &mut Budget,
) -> Result<Vec<bool>, WireError> {
    budget.charge(count, BOOL_PRICE)?;
    match codec {
        ALL_FALSE => Ok(vec![false; count]),
        ALL_TRUE => Ok(vec![true; count]),
        PACKED => {
            let bytes = reader.take(count.div_ceil(8))?;
            let used_bits = count % 8;
            if used_bits != 0 && bytes.last().is_some_and(|last| last >> used_bits != 0) {
                return Err(WireError::Malformed("padding that is not zero"));
            }
            let bit = |at: usize| bytes[at / 8] >> (at % 8) & 1 == 1;
            Ok((0..count).map(bit).collect())
        }
        RUNS_FALSE | RUNS_TRUE => {
            let mut values = Vec::with_capacity(count);
            let mut value = codec == RUNS_TRUE;
            for _ in 0..reader.count(count, "runs of booleans")? {
                let run = reader.count(count - values.len(), "a run past the end of its column")?;
                values.resize(values.len() + run, value);
                value = !value;
            }
            values.resize(count, value);
            Ok(values)
        }
        _ => Err(WireError::Malformed("an unknown codec of booleans")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_back() {
        let mixed: Vec<bool> = (0..1000).map(|i| i % 7 == 0).collect();
        let seldom: Vec<bool> = (0..1000).map(|i| (200..215).contains(&i)).collect();
        let cases: [(&[bool], usize); 7] = [
            (&[], 0),
            (&[true], 1),
            (&[false], 1),
            (&[true; 1000], 1),
            (&[true, false, true], 2),
            (&mixed, 126),
            (&seldom, 5),
        ];
        for (values, bytes) in cases {
            let mut out = Vec::new();
            encode_bools(values, &mut out);
            assert_eq!(out.len(), bytes);
            let mut budget = Budget::new(values.len() * BOOL_PRICE);
            let back = decode_bools(&mut Reader::new(&out), values.len(), &mut budget);
            assert_eq!(back.as_deref(), Ok(values));
        }
    }

    #[test]
    fn damage_is_refused() {
        let mut budget = Budget::new(1_000);
        let mut read = |bytes: &[u8]| decode_bools(&mut Reader::new(bytes), 9, &mut budget);
        assert!(matches!(read(&[5]), Err(WireError::Malformed(_))));
        assert!(matches!(
            read(&[PACKED, 0xff, 0x02]),
            Err(WireError::Malformed(_))
        ));
        assert_eq!(read(&[PACKED, 0xff]), Err(WireError::Short));
        assert!(matches!(read(&[RUNS_TRUE, 10]), Err(WireError::Limit(_))));
        assert!(matches!(
            read(&[RUNS_TRUE, 2, 5, 5]),
            Err(WireError::Limit(_))
        ));
    }
}
