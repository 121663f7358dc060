//! Any bytes as line protocol: parsing never panics, what it reads fits a batch and comes back
//! from its own line, a reader that knows such lines reads the same, and where InfluxDB's parser
//! accepts the payload too, it reads the same.

#![no_main]

use influxdb_line_protocol::{FieldValue, ParsedLine, parse_lines};
use libfuzzer_sys::fuzz_target;
use shared::id::TimeNs;
use shared::payload::line::{self, LineOptions, LineReader, Precision};
use shared::reading::{Reading, Value};

const DEFAULT_TIME: TimeNs = TimeNs(1_764_000_000_000_000_000);
const DEFAULT_DEVICE: &str = "gateway";

fuzz_target!(|bytes: &[u8]| {
    let options = LineOptions::new(DEFAULT_TIME, DEFAULT_DEVICE);
    let lines: Vec<_> = line::parse(bytes, options).collect();
    let line_ends = bytes.iter().filter(|byte| **byte == b'\n').count();
    assert!(lines.len() <= line_ends + 1, "more readings than lines");
    let mut readings = Vec::with_capacity(lines.len());
    for line in &lines {
        match line {
            Ok(reading) => {
                check(reading, options);
                readings.push(reading);
            }
            Err(error) => assert!((1..=line_ends + 1).contains(&error.line), "{error}"),
        }
    }
    let mut reader = LineReader::new(Precision::Ns, line::DEVICE_KEY, DEFAULT_DEVICE);
    for _ in 0..2 {
        for one in bytes.split(|byte| *byte == b'\n') {
            let by_the_rules = line::parse(one, options).next();
            assert_eq!(reader.read(one, DEFAULT_TIME), by_the_rules);
        }
    }
    if readings.len() == lines.len() {
        compare(bytes, &readings);
    }
});

/// A reading comes back from the line that is written for it.
fn check(reading: &Reading, options: LineOptions<'_>) {
    assert_eq!(reading.check(), Ok(()));
    // The table of a line may begin with an escaped `#`, which cannot be written.
    let Ok(text) = line::format(reading) else {
        return assert!(reading.shape.table.starts_with('#'), "{reading:?}");
    };
    let again: Vec<_> = line::parse(text.as_bytes(), options).collect();
    assert_eq!(again, [Ok(reading.clone())], "{text}");
}

/// What InfluxDB's parser reads from the payload, if it takes all of it.
fn compare(bytes: &[u8], ours: &[&Reading]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    // Around a reading we pass over both, theirs keeps them in names.
    if text.contains(['\r', '\t']) {
        return;
    }
    let Ok(theirs) = parse_lines(text).collect::<Result<Vec<_>, _>>() else {
        return;
    };
    assert_eq!(ours.len(), theirs.len(), "readings");
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert_eq!(**ours, reading_of(&theirs));
    }
}

fn reading_of(parsed: &ParsedLine<'_>) -> Reading {
    let mut device = DEFAULT_DEVICE.to_owned();
    let mut tags = Vec::new();
    for (key, value) in parsed.series.tag_set.iter().flatten() {
        if key.as_str() == line::DEVICE_KEY {
            device = value.to_string();
        } else {
            tags.push((key.to_string(), value.to_string()));
        }
    }
    tags.sort_unstable();
    let value = |value: &FieldValue<'_>| match value {
        FieldValue::I64(value) => Value::Int(*value),
        FieldValue::U64(value) => Value::Int(i64::try_from(*value).expect("ours refuses it")),
        FieldValue::F64(value) => Value::Float(*value),
        FieldValue::String(value) => Value::Text(value.to_string()),
        FieldValue::Boolean(value) => Value::Bool(*value),
    };
    let fields = parsed.field_set.iter();
    Reading::new(
        parsed.series.measurement.to_string(),
        device,
        tags,
        parsed.timestamp.map_or(DEFAULT_TIME, TimeNs),
        fields
            .map(|(key, given)| (key.to_string(), value(given)))
            .collect(),
    )
}
