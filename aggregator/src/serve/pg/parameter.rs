//! Values of `$1` and its like, as clients send them. Pure.

use std::fmt::Write as _;

use crate::query::Parameter;

use super::encode::{DAYS_TO_2000, Format, MICROS_TO_2000};
use super::error::PgError;

const NANOS_A_MICRO: i64 = 1_000;
const NANOS_A_DAY: i64 = 86_400_000_000_000;

/// Reads a value of the type that was agreed on; the engine casts it to what it needs.
pub(super) fn decode(oid: u32, format: Format, bytes: &[u8]) -> Result<Parameter, PgError> {
    match format {
        Format::Text => text(oid, bytes),
        Format::Binary => binary(oid, bytes),
    }
}

fn text(oid: u32, bytes: &[u8]) -> Result<Parameter, PgError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| PgError::error("22021", "a parameter is not UTF-8"))?;
    let parsed = match oid {
        16 => match text.to_lowercase().as_str() {
            "t" | "true" | "on" | "yes" | "y" | "1" => Some(Parameter::Bool(true)),
            "f" | "false" | "off" | "no" | "n" | "0" => Some(Parameter::Bool(false)),
            _ => None,
        },
        20 | 21 | 23 | 26 => text.trim().parse().ok().map(Parameter::Int),
        700 | 701 => text.trim().parse().ok().map(Parameter::Float),
        _ => Some(Parameter::Text(text.to_owned())),
    };
    parsed.ok_or_else(|| {
        let message = format!("the parameter {text:?} does not have its type");
        PgError::error("22P02", message).hint("bind it as text, or correct it")
    })
}

fn binary(oid: u32, bytes: &[u8]) -> Result<Parameter, PgError> {
    let out_of_range = || PgError::error("22008", "a time is out of range");
    let nanos = |micros: i64| {
        let since_1970 = micros.checked_add(MICROS_TO_2000);
        since_1970
            .and_then(|micros| micros.checked_mul(NANOS_A_MICRO))
            .ok_or_else(out_of_range)
    };
    Ok(match oid {
        16 => Parameter::Bool(u8::from_be_bytes(exactly(bytes)?) != 0),
        21 => Parameter::Int(i16::from_be_bytes(exactly(bytes)?).into()),
        23 => Parameter::Int(i32::from_be_bytes(exactly(bytes)?).into()),
        26 => Parameter::Int(u32::from_be_bytes(exactly(bytes)?).into()),
        20 => Parameter::Int(i64::from_be_bytes(exactly(bytes)?)),
        700 => Parameter::Float(f32::from_be_bytes(exactly(bytes)?).into()),
        701 => Parameter::Float(f64::from_be_bytes(exactly(bytes)?)),
        1082 => {
            let days = i64::from(i32::from_be_bytes(exactly(bytes)?)) + i64::from(DAYS_TO_2000);
            Parameter::Time(days.checked_mul(NANOS_A_DAY).ok_or_else(out_of_range)?)
        }
        1114 | 1184 => Parameter::Time(nanos(i64::from_be_bytes(exactly(bytes)?))?),
        1186 => interval(bytes)?,
        1700 => Parameter::Text(numeric(bytes)?),
        // Text, and what is sent as such.
        19 | 25 | 114 | 705 | 1042 | 1043 => text(25, bytes)?,
        other => {
            let message = format!("binary parameters of the type {other} are not supported");
            return Err(PgError::error("0A000", message).hint("bind it as text"));
        }
    })
}

fn exactly<const N: usize>(bytes: &[u8]) -> Result<[u8; N], PgError> {
    bytes.try_into().map_err(|_| {
        let message = format!(
            "a parameter has {} bytes where its type has {N}",
            bytes.len()
        );
        PgError::error("22P03", message)
    })
}

/// As text, for which there is a cast.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a part of it is what is wanted"
)]
fn interval(bytes: &[u8]) -> Result<Parameter, PgError> {
    let whole = u128::from_be_bytes(exactly(bytes)?);
    // Microseconds, days and months, one behind the other.
    let micros = ((whole >> 64) as u64).cast_signed();
    let days = ((whole >> 32) as u32).cast_signed();
    let months = (whole as u32).cast_signed();
    let sign = if micros < 0 { "-" } else { "" };
    let (seconds, part) = (
        micros.unsigned_abs() / 1_000_000,
        micros.unsigned_abs() % 1_000_000,
    );
    let text = format!("{months} months {days} days {sign}{seconds}.{part:06} seconds");
    Ok(Parameter::Text(text))
}

/// Groups of four decimal digits around the point, as text.
fn numeric(bytes: &[u8]) -> Result<String, PgError> {
    const NEGATIVE: u16 = 0x4000;
    let broken = || PgError::error("22P03", "a numeric parameter is broken");
    let mut words = bytes
        .chunks_exact(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let mut word = || words.next().ok_or_else(broken);
    let (count, weight, sign, scale) = (word()?, word()?.cast_signed(), word()?, word()?);
    let groups: Result<Vec<u16>, _> = (0..count).map(|_| word()).collect();
    let groups = groups?;
    // Far more digits than any column has; and a bound on what is written below.
    let sound =
        groups.iter().all(|group| *group < 10_000) && weight.unsigned_abs() < 100 && scale < 400;
    if !sound || !matches!(sign, 0 | NEGATIVE) {
        return Err(broken());
    }
    let group = |at: i16| {
        let at = usize::try_from(weight - at).ok();
        at.and_then(|at| groups.get(at)).copied().unwrap_or(0)
    };
    let mut text = String::from(if sign == NEGATIVE { "-" } else { "" });
    for at in (0..=weight.max(0)).rev() {
        let _ = write!(text, "{:04}", group(at));
    }
    if scale > 0 {
        text.push('.');
        let last = i16::try_from(scale.div_ceil(4)).map_err(|_| broken())?;
        let end = text.len() + usize::from(scale);
        for at in 1..=last {
            let _ = write!(text, "{:04}", group(-at));
        }
        text.truncate(end);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_break_a_parameter(
            oid in prop_oneof![0_u32..4_000, any::<u32>()],
            bytes in prop_oneof![vec(any::<u8>(), 0..40), "[-+0-9.eEinfNa: ]{0,24}".prop_map(String::into_bytes)],
        ) {
            let _ = decode(oid, Format::Text, &bytes);
            let _ = decode(oid, Format::Binary, &bytes);
        }
    }

    #[test]
    fn values_are_read_in_both_formats() {
        for (oid, format, bytes, expected) in [
            (
                25,
                Format::Text,
                &b"it's"[..],
                Parameter::Text("it's".into()),
            ),
            (20, Format::Text, b"-7", Parameter::Int(-7)),
            (16, Format::Text, b"t", Parameter::Bool(true)),
            (701, Format::Text, b"1e3", Parameter::Float(1000.0)),
            (
                23,
                Format::Binary,
                &[0xff, 0xff, 0xff, 0xf9],
                Parameter::Int(-7),
            ),
            (
                1184,
                Format::Binary,
                &[0; 8],
                Parameter::Time(946_684_800_000_000_000),
            ),
            (
                1082,
                Format::Binary,
                &[0, 0, 0, 1],
                Parameter::Time(946_771_200_000_000_000),
            ),
            (1043, Format::Binary, b"x", Parameter::Text("x".into())),
            (
                1700,
                Format::Binary,
                // 12345.678
                &[0, 3, 0, 1, 0, 0, 0, 3, 0, 1, 0x09, 0x29, 0x1a, 0x7c],
                Parameter::Text("00012345.678".into()),
            ),
            (
                1186,
                Format::Binary,
                &[0, 0, 0, 0, 0, 0x16, 0xe3, 0x60, 0, 0, 0, 2, 0, 0, 0, 1],
                Parameter::Text("1 months 2 days 1.500000 seconds".into()),
            ),
        ] {
            assert_eq!(decode(oid, format, bytes).unwrap(), expected, "{oid}");
        }
    }

    #[test]
    fn broken_values_are_refused() {
        for (oid, format, bytes, code) in [
            (20, Format::Text, &b"x"[..], "22P02"),
            (16, Format::Text, b"maybe", "22P02"),
            (25, Format::Text, b"\xff", "22021"),
            (20, Format::Binary, b"123", "22P03"),
            (1184, Format::Binary, &[0x7f; 8], "22008"),
            (1700, Format::Binary, &[0xff; 8], "22P03"),
            (1700, Format::Binary, b"1", "22P03"),
            (600, Format::Binary, &[0; 16], "0A000"),
        ] {
            assert_eq!(decode(oid, format, bytes).unwrap_err().code, code, "{oid}");
        }
    }
}
