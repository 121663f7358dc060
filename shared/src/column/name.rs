//! What codecs are called in `docs/formats.md`, for people.

use super::CODEC_BITS;
use crate::reading::FieldType;

const DIVIDED: u8 = 0x10;
const INTS: [&str; 8] = [
    "step",
    "short",
    "short delta",
    "above",
    "plain",
    "delta above",
    "delta",
    "delta of delta",
];
/// From 16 on; what is below is decimal without exceptions.
const FLOATS: [&str; 8] = [
    "decimal",
    "scaled",
    "single",
    "ulps",
    "bits",
    "single bits",
    "dictionary",
    "raw",
];
const BOOLS: [&str; 5] = [
    "all false",
    "all true",
    "packed",
    "runs from false",
    "runs from true",
];
const TEXTS: [&str; 2] = ["plain", "dictionary"];
const UNITS: [&str; 4] = ["ns", "us", "ms", "s"];

/// The name of the codec of a column of that type; above its five bits a byte may hold others.
pub fn codec_name(field_type: FieldType, byte: u8) -> String {
    let codec = byte & CODEC_BITS;
    let name = |names: &[&str], at: u8| match names.get(usize::from(at)) {
        Some(name) => (*name).to_owned(),
        None => format!("unknown codec {codec}"),
    };
    match field_type {
        FieldType::Float if codec < 16 => format!("decimal {codec}"),
        FieldType::Float => name(&FLOATS, codec - 16),
        FieldType::Int if codec & DIVIDED != 0 => {
            format!("divided {}", name(&INTS, codec & !DIVIDED))
        }
        FieldType::Int => name(&INTS, codec),
        FieldType::Bool => name(&BOOLS, codec),
        FieldType::Text => name(&TEXTS, codec),
    }
}

/// The name of the unit and the codec of a column of times.
pub fn time_codec_name(byte: u8) -> String {
    let unit = UNITS.get(usize::from(byte >> 5)).unwrap_or(&"unknown unit");
    format!("{unit} {}", codec_name(FieldType::Int, byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Values;
    use crate::column::{Scratch, encode_times, encode_values};

    #[test]
    fn codecs_are_named() {
        let name = |values: Values, field_type| {
            let mut out = Vec::new();
            encode_values(&values, &mut Scratch::default(), &mut out);
            codec_name(field_type, out[0])
        };
        assert_eq!(
            name(Values::Bool(vec![true; 9]), FieldType::Bool),
            "all true"
        );
        assert_eq!(
            name(Values::Float(vec![0.1]), FieldType::Float),
            "decimal 1"
        );
        assert_eq!(codec_name(FieldType::Int, 0x16), "divided delta");
        assert_eq!(codec_name(FieldType::Text, 9), "unknown codec 9");
        let mut out = Vec::new();
        let times = [1_000_000_000, 2_000_000_000];
        encode_times(&times, 0, &mut Scratch::default(), &mut out);
        assert!(time_codec_name(out[0]).starts_with("s "));
    }
}
