//! Values as devices mostly write them, read in one pass: decimal numbers of few digits, integers,
//! booleans, texts without escapes. What is not plain is nothing here, and is left to the rules.

use crate::limits::TEXT_BYTES_MAX;
use crate::reading::Value;

/// Digits of a float that is exact: below 2^53, over a power of ten that is exact as well, so that
/// one division rounds as it should (Clinger, "How to read floating point numbers accurately").
const FLOAT_DIGITS_MAX: usize = 15;
/// Digits that never overflow 63 bits.
const INT_DIGITS_MAX: usize = 18;
/// Digits that never overflow 64 bits.
const NATURAL_DIGITS_MAX: usize = 19;
const POWERS_OF_TEN: [f64; FLOAT_DIGITS_MAX + 1] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
];

/// The value that `text` begins with, and its bytes; it ends where a value may end.
pub(super) fn value(text: &[u8]) -> Option<(Value, usize)> {
    let (value, length) = match text.first()? {
        b'0'..=b'9' | b'-' | b'.' => number(text)?,
        b'"' => quoted(text)?,
        _ => {
            let length = text.iter().position(|byte| ends_value(*byte));
            let length = length.unwrap_or(text.len());
            (Value::Bool(boolean(&text[..length])?), length)
        }
    };
    text.get(length)
        .is_none_or(|byte| ends_value(*byte))
        .then_some((value, length))
}

/// Whether a value ends before this byte.
pub(super) fn ends_value(byte: u8) -> bool {
    matches!(byte, b',' | b' ' | b'\n' | b'\r')
}

fn boolean(word: &[u8]) -> Option<bool> {
    match word {
        b"t" | b"T" | b"true" | b"True" | b"TRUE" => Some(true),
        b"f" | b"F" | b"false" | b"False" | b"FALSE" => Some(false),
        _ => None,
    }
}

/// The integer that `text` begins with, and its bytes.
pub(super) fn integer(text: &[u8]) -> Option<(i64, usize)> {
    let sign = usize::from(text.first() == Some(&b'-'));
    let (natural, digits) = natural(&text[sign..])?;
    let size = i64::try_from(natural).ok()?;
    Some((if sign == 1 { -size } else { size }, sign + digits))
}

fn natural(text: &[u8]) -> Option<(u64, usize)> {
    let (mut number, mut at) = (0_u64, 0);
    while at + 8 <= NATURAL_DIGITS_MAX
        && let Some(eight) = text[at..].first_chunk()
        && let Some(more) = eight_digits(*eight)
    {
        number = number * 100_000_000 + more;
        at += 8;
    }
    while let Some(digit) = text.get(at).copied().and_then(digit) {
        if at == NATURAL_DIGITS_MAX {
            return None;
        }
        number = number * 10 + digit;
        at += 1;
    }
    (at > 0).then_some((number, at))
}

/// Eight digits at once, as sums of neighbours: ones to tens, those to hundreds, those to all
/// (Lemire, "Quickly parsing eight digits").
fn eight_digits(text: [u8; 8]) -> Option<u64> {
    let word = u64::from_le_bytes(text);
    let high = word & 0xf0f0_f0f0_f0f0_f0f0;
    let high_after_six = word.wrapping_add(0x0606_0606_0606_0606) & 0xf0f0_f0f0_f0f0_f0f0;
    if (high | high_after_six >> 4) != 0x3333_3333_3333_3333 {
        return None;
    }
    let ones = word & 0x0f0f_0f0f_0f0f_0f0f;
    let tens = (ones.wrapping_mul(10 * (1 << 8) + 1) >> 8) & 0x00ff_00ff_00ff_00ff;
    let hundreds = (tens.wrapping_mul(100 * (1 << 16) + 1) >> 16) & 0x0000_ffff_0000_ffff;
    Some(hundreds.wrapping_mul(10_000 * (1 << 32) + 1) >> 32)
}

fn digit(byte: u8) -> Option<u64> {
    let digit = byte.wrapping_sub(b'0');
    (digit < 10).then_some(u64::from(digit))
}

/// A float, or an integer with its `i`.
fn number(text: &[u8]) -> Option<(Value, usize)> {
    let start = usize::from(text.first() == Some(&b'-'));
    let (mut size, mut point, mut at) = (0_u64, None, start);
    while let Some(byte) = text.get(at).copied() {
        if let Some(digit) = digit(byte) {
            // Only what has few digits is used.
            size = size.wrapping_mul(10).wrapping_add(digit);
        } else if byte == b'.' && point.is_none() {
            point = Some(at);
        } else {
            break;
        }
        at += 1;
    }
    let digits = at - start - usize::from(point.is_some());
    let is_int = text.get(at) == Some(&b'i');
    match (point, digits) {
        (None, 1..=INT_DIGITS_MAX) if is_int => {
            let size = i64::try_from(size).ok()?;
            Some((Value::Int(if start == 1 { -size } else { size }), at + 1))
        }
        (_, 1..=FLOAT_DIGITS_MAX) if !is_int => {
            let decimals = point.map_or(0, |point| at - point - 1);
            let size = size as f64 / POWERS_OF_TEN[decimals];
            Some((Value::Float(if start == 1 { -size } else { size }), at))
        }
        _ => None,
    }
}

fn quoted(text: &[u8]) -> Option<(Value, usize)> {
    let inner = text.get(1..)?;
    let length = inner
        .iter()
        .position(|byte| matches!(byte, b'"' | b'\\' | b'\n'))?;
    if inner[length] != b'"' || length > TEXT_BYTES_MAX {
        return None;
    }
    let inner = std::str::from_utf8(&inner[..length]).ok()?;
    Some((Value::Text(inner.to_owned()), length + 2))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the standard library reads it.
    fn float(text: &str) -> f64 {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_not_plain_is_nothing() {
        for text in [
            "",
            "-",
            ".",
            "-.",
            "i",
            "-i",
            "1.5i",
            "+1",
            "1e3",
            "1x",
            "1.2.3",
            "tru",
            "truex",
            "1u",
            "0x1",
            "\"",
            "\"a",
            "\"a\\\"\"",
            "\"a\nb\"",
            "\"a\"b",
            "1234567890123456",
            "1234567890123456789i",
            "nan",
        ] {
            assert_eq!(value(text.as_bytes()), None, "{text}");
        }
        assert_eq!(value(b"\"\xff\""), None);
        assert_eq!(integer(b"12345678901234567890"), None);
        assert_eq!(integer(b"9223372036854775808"), None);
        assert_eq!(integer(b"-"), None);
        assert_eq!(integer(b"x"), None);
    }

    #[test]
    fn a_value_ends_where_it_may() {
        assert_eq!(value(b"1.5,b=2"), Some((Value::Float(1.5), 3)));
        assert_eq!(value(b"-7i 9"), Some((Value::Int(-7), 3)));
        assert_eq!(value(b"false\r"), Some((Value::Bool(false), 5)));
        let text = Value::Text("a, b=c".to_owned());
        assert_eq!(value(b"\"a, b=c\" 1"), Some((text, 8)));
        let zero = value(b"-0").unwrap().0;
        assert!(matches!(zero, Value::Float(zero) if zero.is_sign_negative()));
    }

    proptest! {
        #[test]
        fn decimals_are_rounded_as_they_should(text in "-?[0-9]{1,8}(\\.[0-9]{0,7})?") {
            let (read, length) = value(text.as_bytes()).unwrap();
            prop_assert_eq!(length, text.len());
            let Value::Float(read) = read else { panic!("{text} is a float") };
            prop_assert_eq!(read.to_bits(), float(&text).to_bits());
        }

        #[test]
        fn long_fractions_too(text in "-?\\.[0-9]{1,15}") {
            let Some((Value::Float(read), _)) = value(text.as_bytes()) else {
                panic!("{text} is a float")
            };
            prop_assert_eq!(read.to_bits(), float(&text).to_bits());
        }

        #[test]
        fn integers_are_what_they_say(number in any::<i64>(), tail in "[ ,i]?") {
            let text = format!("{number}{tail}");
            let length = text.len() - tail.len();
            if number != i64::MIN {
                prop_assert_eq!(integer(text.as_bytes()), Some((number, length)));
            }
            if number.unsigned_abs() < 1_000_000_000_000_000_000 {
                let text = format!("{number}i");
                prop_assert_eq!(value(text.as_bytes()), Some((Value::Int(number), text.len())));
            }
        }

        #[test]
        fn eight_bytes_are_digits_or_nothing(bytes in any::<[u8; 8]>()) {
            let text = std::str::from_utf8(&bytes).ok();
            let digits = text.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            prop_assert_eq!(eight_digits(bytes), digits.map(|text| text.parse::<u64>().unwrap()));
        }

        #[test]
        fn eight_digits_are_their_number(number in 0_u64..100_000_000) {
            let text = format!("{number:08}");
            prop_assert_eq!(eight_digits(text.as_bytes().try_into().unwrap()), Some(number));
        }
    }
}
