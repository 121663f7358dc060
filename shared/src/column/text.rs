//! Texts: each on its own, or a dictionary in order of first use and one index a value through
//! `integer`. States of machines repeat; log lines do not.

use std::collections::HashMap;

use super::integer::{decode_ints, encode_ints};
use super::{INT_PRICE, Scratch, TEXT_PRICE};
use crate::limits::TEXT_BYTES_MAX;
use crate::wire::{Budget, Reader, WireError, put_text, put_varint, varint_bytes};

const PLAIN: u8 = 0;
const DICTIONARY: u8 = 1;

/// Appends the values without their codec, which it returns.
pub fn put_texts(values: &[String], scratch: &mut Scratch, out: &mut Vec<u8>) -> u8 {
    let mut places = HashMap::new();
    let mut dictionary = Vec::new();
    let indices = &mut scratch.wholes;
    indices.clear();
    for value in values {
        let text = value.as_str();
        let place = *places.entry(text).or_insert_with(|| {
            dictionary.push(text);
            i64::try_from(dictionary.len() - 1).expect("they fit the memory")
        });
        indices.push(place);
    }
    let start = out.len();
    put_varint(out, dictionary.len() as u64);
    for text in dictionary {
        put_text(out, text);
    }
    encode_ints(indices, &mut scratch.ints, out);
    let plain = |text: &str| varint_bytes(text.len() as u64) + text.len();
    let plain_bytes: usize = values.iter().map(|value| plain(value)).sum();
    if out.len() - start <= plain_bytes {
        return DICTIONARY;
    }
    out.truncate(start);
    for value in values {
        put_text(out, value);
    }
    PLAIN
}

/// Reads `count` values of this codec, of at most [`TEXT_BYTES_MAX`] bytes each.
pub fn take_texts(
    codec: u8,
    reader: &mut Reader<'_>,
    count: usize,
    budget: &mut Budget,
) -> Result<Vec<String>, WireError> {
    // `decode_ints` charges the indices; without a dictionary they are charged all the same, so
    // that the price of a text does not hang on its codec.
    budget.charge(count, TEXT_PRICE - INT_PRICE)?;
    if codec == PLAIN {
        budget.charge(count, INT_PRICE)?;
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            values.push(copy(take_text(reader)?, budget)?);
        }
        return Ok(values);
    }
    if codec != DICTIONARY {
        return Err(WireError::Malformed("an unknown codec of texts"));
    }
    let entries = reader.count(count, "texts of a dictionary")?;
    // Collecting results would grow by doubling, which the price does not cover.
    let mut dictionary = Vec::with_capacity(entries);
    for _ in 0..entries {
        dictionary.push(take_text(reader)?);
    }
    let indices = decode_ints(reader, count, budget)?;
    let mut values = Vec::with_capacity(count);
    for index in indices {
        let text = usize::try_from(index)
            .ok()
            .and_then(|index| dictionary.get(index))
            .ok_or(WireError::Malformed("an index outside its dictionary"))?;
        values.push(copy(text, budget)?);
    }
    Ok(values)
}

fn take_text<'a>(reader: &mut Reader<'a>) -> Result<&'a str, WireError> {
    reader.text(TEXT_BYTES_MAX, "bytes of a text value")
}

fn copy(text: &str, budget: &mut Budget) -> Result<String, WireError> {
    budget.charge(text.len(), 1)?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Values;
    use crate::column::{decode_values, encode_values};
    use crate::reading::FieldType;

    fn decode_texts(
        reader: &mut Reader<'_>,
        count: usize,
        budget: &mut Budget,
    ) -> Result<Values, WireError> {
        decode_values(reader, FieldType::Text, count, budget)
    }

    fn texts(values: &[&str]) -> Values {
        Values::Text(values.iter().map(|text| (*text).to_owned()).collect())
    }

    fn check(values: &[&str], bytes_max: usize) {
        let mut out = Vec::new();
        encode_values(&texts(values), &mut Scratch::default(), &mut out);
        assert!(out.len() <= bytes_max, "{} > {bytes_max}", out.len());
        let mut reader = Reader::new(&out);
        let price: usize = values.iter().map(|text| TEXT_PRICE + text.len()).sum();
        let mut budget = Budget::new(price);
        let back = decode_texts(&mut reader, values.len(), &mut budget).unwrap();
        assert_eq!(back, texts(values));
        assert!(reader.is_empty());
        assert_eq!(budget.left(), 0);
    }

    #[test]
    fn states_are_short_and_lines_are_not_longer() {
        check(&[], 0);
        check(&[""], 2);
        check(&["running"], 9);
        check(&["running"; 1000], 16);
        let states: Vec<&str> = (0..1000)
            .map(|i| ["run", "idle", "fault \u{26a0}"][(i * 7919) % 3])
            .collect();
        check(&states, 30 + 8 + 250);
        check(&["a", "bb", "ccc", "dddd"], 1 + 2 + 3 + 4 + 5);
    }

    #[test]
    fn damage_is_refused() {
        let read = |bytes: &[u8], left: usize| {
            decode_texts(&mut Reader::new(bytes), 2, &mut Budget::new(left))
        };
        assert!(matches!(read(&[2, 0], 1000), Err(WireError::Malformed(_))));
        assert!(matches!(
            read(&[PLAIN, 1, 0xff, 0], 1000),
            Err(WireError::Malformed(_))
        ));
        assert!(matches!(
            read(&[DICTIONARY, 3, 0, 0, 0], 1000),
            Err(WireError::Limit(_))
        ));
        let outside = [DICTIONARY, 1, 1, b'a', 0, 0, 2];
        assert!(matches!(read(&outside, 1000), Err(WireError::Malformed(_))));
        let repeated = [DICTIONARY, 1, 4, b'a', b'b', b'c', b'd', 0, 0, 0];
        assert_eq!(
            read(&repeated, 2 * TEXT_PRICE + 8).unwrap(),
            texts(&["abcd", "abcd"])
        );
        assert!(matches!(
            read(&repeated, 2 * TEXT_PRICE + 7),
            Err(WireError::Limit(_))
        ));
    }
}
