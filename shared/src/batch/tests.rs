//! Tests of the batch as a whole: round trips, every rule, and bytes that someone tampered with.

use super::properties::bits_of;
use super::*;
use crate::limits::*;

const NOON: i64 = 1_764_000_000_000_000_000;

pub(super) fn header(lane: Lane, number: u64) -> Header {
    let names_needed = if lane == Lane::Names { 0 } else { 2 };
    Header {
        epoch: Epoch(0x0123_4567_89ab_cdef),
        lane,
        number: BatchNumber(number),
        previous: if number == 1 {
            Digest::ZERO
        } else {
            Digest([1, 2, 3, 4, 5, 6, 7, 8])
        },
        names_needed: BatchNumber(names_needed),
        sealed_at: TimeNs(NOON),
        complete_below: TimeNs(NOON - 1_500_000_000),
        boot_relative: false,
    }
}

fn definition(id: u32) -> SeriesDefinition {
    let text = str::to_owned;
    SeriesDefinition {
        id: LocalSeriesId(id),
        table: text("truck"),
        device: format!("t-{id}"),
        tags: vec![(text("fleet"), text("Süd")), (text("model"), text("H-2"))],
        fields: vec![
            (text("velocity"), FieldType::Float),
            (text("load"), FieldType::Int),
            (text("moving"), FieldType::Bool),
            (text("state"), FieldType::Text),
        ],
    }
}

fn column(field: u16, present: Option<Vec<bool>>, values: Values) -> Column {
    Column {
        field,
        present,
        values,
    }
}

fn data() -> Data {
    let truck = SeriesColumns {
        id: LocalSeriesId(7),
        columns: vec![
            column(0, None, Values::Float(vec![21.5, -0.0, f64::INFINITY])),
            column(
                1,
                Some(vec![true, false, true]),
                Values::Int(vec![i64::MIN, i64::MAX]),
            ),
            column(2, None, Values::Bool(vec![true, false, true])),
            column(
                3,
                Some(vec![false, true, false]),
                Values::Text(vec!["läuft".to_owned()]),
            ),
        ],
    };
    let other = SeriesColumns {
        id: LocalSeriesId(3),
        columns: vec![
            column(1, Some(vec![true, true, false]), Values::Int(vec![1, 2])),
            column(
                900,
                Some(vec![false, false, true]),
                Values::Float(vec![0.1]),
            ),
        ],
    };
    let single = SeriesColumns {
        id: LocalSeriesId(u32::MAX),
        columns: vec![column(0, None, Values::Float(vec![3.25]))],
    };
    Data {
        groups: vec![
            Group {
                times: vec![NOON, NOON - 1_000_000_000, NOON],
                series: vec![truck, other],
            },
            Group {
                times: vec![i64::MIN],
                series: vec![single],
            },
        ],
    }
}

/// Readings of the first minute after a boot.
fn early() -> Data {
    let series = SeriesColumns {
        id: LocalSeriesId(7),
        columns: vec![column(0, None, Values::Float(vec![21.5, 21.75]))],
    };
    Data {
        groups: vec![Group {
            times: vec![59_000_000_000, 60_000_000_000],
            series: vec![series],
        }],
    }
}

/// Columns that between them take every codec there is, in a group for each unit of times.
fn every_codec() -> Data {
    fn scatter(i: i64) -> u64 {
        let mixed = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }
    fn noise(i: i64) -> i64 {
        scatter(i).cast_signed() >> 57
    }
    let group = |rows: i64, unit: i64, columns: Vec<Values>| {
        let columns = columns.into_iter().enumerate();
        let columns = columns.map(|(i, values)| column(i as u16, None, values));
        Group {
            times: (0..rows).map(|i| (NOON / unit + i * i) * unit).collect(),
            series: vec![SeriesColumns {
                id: LocalSeriesId(1),
                columns: columns.collect(),
            }],
        }
    };
    let ints = |value: fn(i64) -> i64| Values::Int((0..40).map(value).collect());
    let floats = |value: fn(i64) -> f64| Values::Float((0..40).map(value).collect());
    let bools = |value: fn(i64) -> bool| Values::Bool((0..40).map(value).collect());
    let texts = |value: fn(i64) -> String| Values::Text((0..40).map(value).collect());
    let short = |values: [i64; 3]| Values::Int(values.to_vec());
    let of_ints = vec![
        ints(|i| 1000 - 3 * i),
        ints(|i| 5000 + noise(i)),
        ints(|i| if i == 20 { 1 << 40 } else { -(i % 2) }),
        ints(|i| (1 << 50) + i * 1_000_000 + noise(i)),
        ints(|i| i + i / 7 - i / 20 * (1 << 40)),
        ints(|i| i * i * 1000 + noise(i) % 2),
        ints(|i| 7 + noise(i) * 1_000_000),
    ];
    let of_floats = vec![
        floats(|i| i as f64 / 100.0),
        floats(|i| {
            if i == 7 {
                f64::from_bits(0x7ff8_0000_0000_0bad)
            } else {
                0.5
            }
        }),
        floats(|i| noise(i) as f64 * 0.1),
        floats(|i| f64::from(noise(i) as f32 / 100.0)),
        floats(|i| noise(i) as f64 / 10.0 + 0.2 + 0.1),
        floats(|i| (1e6 + noise(i) as f64).sqrt()),
        floats(|i| f64::from(f32::from_bits(scatter(i) as u32 & 0x3fff_ffff))),
        floats(|i| ((i % 3) as f64).exp() / 3.0),
        floats(|i| f64::from_bits(scatter(i))),
    ];
    let others = vec![
        bools(|_| false),
        bools(|_| true),
        bools(|i| i % 3 == 0),
        bools(|i| i > 20),
        bools(|i| i < 20),
        texts(|i| ["run", "idle"][(i % 2) as usize].to_owned()),
        texts(|i| format!("line {i}")),
    ];
    Data {
        groups: vec![
            group(40, 1_000_000_000, of_ints),
            group(40, 1_000_000, of_floats),
            group(40, 1_000, others),
            group(3, 1, vec![short([3, -1, 4]), short([1000, 1001, 999])]),
        ],
    }
}

/// One batch of each kind, with its name.
pub(super) fn samples() -> Vec<(&'static str, Batch)> {
    let batch = |lane, number, body| Batch {
        header: header(lane, number),
        body,
    };
    let first_hello = Hello {
        older_epochs: Vec::new(),
        last: None,
        max_unsafe_ms: 0,
    };
    let hello = Hello {
        older_epochs: vec![Epoch(9), Epoch(u64::MAX)],
        last: Some(LastEpoch {
            epoch: Epoch(u64::MAX),
            ended_cleanly: false,
        }),
        max_unsafe_ms: 10_000,
    };
    let gap = Gap {
        from: BatchNumber(5),
        readings: 12_345,
        reason: GapReason::Overflow,
        digest_to: Digest([8, 7, 6, 5, 4, 3, 2, 1]),
    };
    let clock = Clock {
        offset_ns: NOON - 61_000_000_000,
        quality: ClockQuality::Cluster,
    };
    let mut since_boot = batch(Lane::Live, 2, Body::Data(early()));
    since_boot.header.boot_relative = true;
    vec![
        (
            "hello_first",
            batch(Lane::Names, 1, Body::Hello(first_hello)),
        ),
        ("hello", batch(Lane::Names, 1, Body::Hello(hello))),
        (
            "names",
            batch(
                Lane::Names,
                2,
                Body::Names(vec![definition(7), definition(3)]),
            ),
        ),
        ("data_live", batch(Lane::Live, 1, Body::Data(data()))),
        (
            "data_backlog",
            batch(Lane::Backlog, 1 << 40, Body::Data(data())),
        ),
        ("gap", batch(Lane::Backlog, 900, Body::Gap(gap))),
        (
            "data_codecs",
            batch(Lane::Live, 77, Body::Data(every_codec())),
        ),
        ("clock", batch(Lane::Names, 3, Body::Clock(clock))),
        ("data_since_boot", since_boot),
    ]
}

/// Puts a checksum that matches behind bytes whose own one may not.
pub(super) fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len().saturating_sub(4));
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    bytes
}

#[test]
fn every_kind_is_read_back() {
    for (name, batch) in samples() {
        let bytes = encode(&batch.header, &batch.body).unwrap();
        assert_eq!(bits_of(&decode(&bytes).unwrap()), bits_of(&batch), "{name}");
        assert_eq!(
            read_header(&bytes),
            Ok((batch.header.clone(), batch.body.kind())),
            "{name}"
        );
        assert_eq!(encode(&batch.header, &batch.body).unwrap(), bytes, "{name}");
    }
}

#[test]
fn the_sample_of_codecs_takes_every_codec() {
    let data = every_codec();
    let codecs = |group: usize| -> Vec<u8> {
        let columns = data.groups[group].series[0].columns.iter();
        columns
            .map(|column| {
                let scratch = &mut crate::column::Scratch::default();
                crate::column::put_values(&column.values, scratch, &mut Vec::new())
            })
            .collect()
    };
    assert_eq!(codecs(0), [0, 3, 4, 5, 6, 7, 0x14]);
    assert_eq!(codecs(1), [2, 16, 17, 18, 19, 20, 21, 22, 23]);
    assert_eq!(codecs(2), [0, 1, 2, 3, 4, 1, 0]);
    assert_eq!(codecs(3), [1, 2]);
}

#[test]
fn data_counts_its_parts() {
    let data = data();
    assert_eq!(data.rows(), 7);
    assert_eq!(data.values(), 3 + 2 + 3 + 1 + 2 + 1 + 1);
    assert_eq!(data.time_range(), Some((TimeNs(i64::MIN), TimeNs(NOON))));
    assert_eq!(Data::default().time_range(), None);
    assert_eq!(Data::default().rows(), 0);
}

#[test]
fn a_gap_covers_from_its_first_number() {
    for (name, batch) in samples() {
        let expected = if name == "gap" {
            BatchNumber(5)
        } else {
            batch.header.number
        };
        assert_eq!(batch.first_number(), expected);
    }
}

#[test]
fn the_digest_is_seeded_xxh3() {
    // Reference values of xxhsum (XXH3_64bits_withSeed): the chain must never change.
    assert_eq!(digest(Digest::ZERO, b"").to_string(), "2d06800538d394c2");
    let one = digest(Digest::ZERO, b"batch one");
    let two = digest(one, b"batch two");
    assert_ne!(two, digest(Digest::ZERO, b"batch two"));
    assert_ne!(two, digest(one, b"batch twp"));
}

#[test]
fn headers_keep_the_rules() {
    let sample = |name: &str| {
        samples()
            .into_iter()
            .find(|(n, _)| *n == name)
            .map(|(_, batch)| batch)
            .unwrap()
    };
    let breaches: [(&str, &str, fn(&mut Header)); 15] = [
        ("number 0", "data_live", |h| h.number = BatchNumber(0)),
        ("number too high", "data_live", |h| {
            h.number = BatchNumber(COUNT_MAX + 1);
        }),
        ("names number too high", "data_live", |h| {
            h.names_needed = BatchNumber(u64::MAX);
        }),
        ("data in names", "data_live", |h| {
            *h = header(Lane::Names, 2);
        }),
        ("names in live", "names", |h| *h = header(Lane::Live, 2)),
        ("names as number 1", "names", |h| h.number = BatchNumber(1)),
        ("names that need names", "names", |h| {
            h.names_needed = BatchNumber(1);
        }),
        ("hello in live", "hello", |h| *h = header(Lane::Live, 1)),
        ("hello as number 2", "hello", |h| h.number = BatchNumber(2)),
        ("hello older than itself", "hello", |h| h.epoch = Epoch(9)),
        ("clock in live", "clock", |h| *h = header(Lane::Live, 3)),
        ("clock as number 1", "clock", |h| h.number = BatchNumber(1)),
        ("clock since boot", "clock", |h| h.boot_relative = true),
        ("names since boot", "names", |h| h.boot_relative = true),
        ("gap since boot", "gap", |h| h.boot_relative = true),
    ];
    for (what, name, breach) in breaches {
        let mut batch = sample(name);
        breach(&mut batch.header);
        assert!(encode(&batch.header, &batch.body).is_err(), "{what}");
    }
    let last = sample("data_live");
    let header = Header {
        number: BatchNumber(COUNT_MAX),
        ..last.header
    };
    assert!(encode(&header, &last.body).is_ok());
}

#[test]
fn data_keeps_the_rules() {
    let breaches: [(&str, fn(&mut Data)); 15] = [
        ("no group", |d| d.groups.clear()),
        ("no times", |d| d.groups[0].times.clear()),
        ("no series", |d| d.groups[0].series.clear()),
        ("series twice", |d| {
            d.groups[0].series[1].id = LocalSeriesId(7);
        }),
        ("no columns", |d| d.groups[0].series[0].columns.clear()),
        ("column twice", |d| {
            d.groups[0].series[0].columns[1].field = 0;
        }),
        ("columns unsorted", |d| {
            d.groups[0].series[0].columns.swap(0, 1);
        }),
        ("field too high", |d| {
            d.groups[0].series[1].columns[1].field = 1024;
        }),
        ("value too few", |d| d.groups[0].times.push(NOON)),
        ("flag too few", |d| {
            d.groups[0].series[0].columns[1].present = Some(vec![true, true]);
        }),
        ("flags and values differ", |d| {
            d.groups[0].series[0].columns[1].present = Some(vec![true; 3]);
        }),
        ("column without values", |d| {
            d.groups[0].series[0].columns[1] =
                column(1, Some(vec![false; 3]), Values::empty(FieldType::Int));
        }),
        ("row without values", |d| {
            d.groups[0].series[1].columns[1].field = 800;
            d.groups[0].series[1].columns[1] = column(
                800,
                Some(vec![true, false, false]),
                Values::Float(vec![0.5]),
            );
        }),
        ("text too long", |d| {
            d.groups[0].series[0].columns[3].values =
                Values::Text(vec!["x".repeat(TEXT_BYTES_MAX + 1)]);
        }),
        ("too many rows", |d| {
            let values = Values::Bool(vec![true; BATCH_ROWS_MAX + 1]);
            d.groups[1].times = vec![0; BATCH_ROWS_MAX + 1];
            d.groups[1].series[0].columns = vec![column(0, None, values)];
        }),
    ];
    for (what, breach) in breaches {
        let mut broken = data();
        breach(&mut broken);
        assert!(
            encode(&header(Lane::Live, 1), &Body::Data(broken)).is_err(),
            "{what}"
        );
    }
}

#[test]
fn names_hello_and_gap_keep_the_rules() {
    let names = |definitions| encode(&header(Lane::Names, 2), &Body::Names(definitions));
    assert!(names(vec![]).is_err());
    assert!(names(vec![definition(1), definition(2), definition(1)]).is_err());
    assert!(names((0..=DEFINITIONS_MAX as u32).map(definition).collect()).is_err());
    assert!(names((0..DEFINITIONS_MAX as u32).map(definition).collect()).is_ok());
    let reserved = SeriesDefinition {
        fields: vec![("time".to_owned(), FieldType::Int)],
        ..definition(1)
    };
    assert!(names(vec![reserved]).is_err());

    let hello = |older: Vec<u64>| {
        let older_epochs = older.into_iter().map(Epoch).collect();
        let hello = Hello {
            older_epochs,
            last: None,
            max_unsafe_ms: 1,
        };
        encode(&header(Lane::Names, 1), &Body::Hello(hello))
    };
    assert!(hello(vec![1, 2, 1]).is_err());
    assert!(hello((0..=OLDER_EPOCHS_MAX as u64).collect()).is_err());
    assert!(hello((0..OLDER_EPOCHS_MAX as u64).collect()).is_ok());

    let gap = |from, readings| {
        let reason = GapReason::Crash;
        let gap = Gap {
            from: BatchNumber(from),
            readings,
            reason,
            digest_to: Digest::ZERO,
        };
        encode(&header(Lane::Live, 9), &Body::Gap(gap))
    };
    assert!(gap(0, 1).is_err());
    assert!(gap(10, 1).is_err());
    assert!(gap(1, COUNT_MAX + 1).is_err());
    assert!(gap(1, 1).is_ok());
    assert!(gap(9, 0).is_ok());
}

#[test]
fn the_value_and_byte_limits_hold() {
    let batch = |values: Vec<Values>| {
        let rows = values[0].len();
        let series = values
            .into_iter()
            .enumerate()
            .map(|(i, values)| SeriesColumns {
                id: LocalSeriesId(i as u32),
                columns: vec![column(0, None, values)],
            });
        let group = Group {
            times: vec![NOON; rows],
            series: series.collect(),
        };
        encode(
            &header(Lane::Live, 1),
            &Body::Data(Data {
                groups: vec![group],
            }),
        )
    };
    let half = BATCH_VALUES_MAX / 2;
    let mixed = |count: usize| {
        let mix = |i: usize| {
            i64::try_from(i)
                .unwrap()
                .wrapping_mul(0x9e37_79b9_7f4a_7c15_u64.cast_signed())
        };
        Values::Int((0..count).map(|i| mix(i) ^ mix(i) >> 29).collect())
    };
    let bytes = batch(vec![mixed(half), mixed(half)]).unwrap();
    assert!(decode(&bytes).is_ok());
    assert!(batch(vec![mixed(half), mixed(half + 1)]).is_err());
    // Few bytes on the wire, far too many in memory.
    let hollow = EncodeError::Limit("bytes after decoding");
    let bomb = batch(vec![Values::Text(vec!["x".repeat(1000); 9000])]);
    assert_eq!(bomb, Err(hollow));
    let constant = batch(vec![Values::Int(vec![0; half]), Values::Int(vec![0; half])]);
    assert_eq!(constant, Err(hollow));
    let fits = batch(vec![Values::Int(vec![0; half / 2])]).unwrap();
    assert!(fits.len() < 100 && decode(&fits).is_ok());
    let noise = |i: usize| format!("{i}").repeat(200);
    let large = batch(vec![Values::Text((10_000..12_000).map(noise).collect())]);
    assert_eq!(large, Err(EncodeError::Limit("bytes of a batch")));
}

/// What an encoder of ours never seals: a publisher of its own may send it.
#[test]
fn few_bytes_that_decode_to_many_are_refused() {
    let of = |values: Values| {
        let rows = values.len();
        let series = SeriesColumns {
            id: LocalSeriesId(0),
            columns: vec![column(0, None, values)],
        };
        Body::Data(Data {
            groups: vec![Group {
                times: vec![NOON; rows],
                series: vec![series],
            }],
        })
    };
    let bombs = [
        of(Values::Text(vec!["x".repeat(TEXT_BYTES_MAX); 9_000])),
        of(Values::Int(vec![0; BATCH_VALUES_MAX])),
        of(Values::Float(vec![0.5; BATCH_VALUES_MAX])),
    ];
    for bomb in bombs {
        let bytes = super::encode::written(&header(Lane::Live, 1), &bomb);
        assert!(bytes.len() < 20_000, "{} bytes are no bomb", bytes.len());
        let hollow = DecodeError::Limit("bytes after decoding");
        assert_eq!(decode(&bytes), Err(hollow));
    }
}

#[test]
fn times_since_boot_take_few_bytes() {
    let since_boot = Header {
        boot_relative: true,
        ..header(Lane::Live, 2)
    };
    let few = encode(&since_boot, &Body::Data(early())).unwrap();
    let many = encode(&header(Lane::Live, 2), &Body::Data(early())).unwrap();
    assert!(few.len() < many.len());
    assert_eq!((few[3], many[3]), (0x66, 0x26));
}

#[test]
fn errors_say_who_must_act() {
    let (_, batch) = samples().remove(3);
    let good = encode(&batch.header, &batch.body).unwrap();
    assert!(matches!(decode(b""), Err(DecodeError::Damaged(_))));
    assert!(matches!(decode(b"TB\x01"), Err(DecodeError::Damaged(_))));
    assert!(matches!(decode(&[b'x'; 100]), Err(DecodeError::Damaged(_))));
    let mut newer = good.clone();
    newer[2] = 2;
    assert_eq!(
        decode(&newer),
        Err(DecodeError::Version {
            version: 2,
            flags: newer[3]
        })
    );
    let mut flagged = good.clone();
    flagged[3] |= 0x80;
    let flags = flagged[3];
    let flagged = with_checksum(flagged);
    assert_eq!(
        decode(&flagged),
        Err(DecodeError::Version { version: 1, flags })
    );
    // Kinds that may come one day.
    for unknown in [0x41, 0x43] {
        let mut other = good.clone();
        other[3] = unknown;
        let (version, flags) = (1, unknown);
        let error = Err(DecodeError::Version { version, flags });
        assert_eq!(decode(&with_checksum(other)), error);
    }
    let mut damaged = good.clone();
    damaged[40] ^= 1;
    assert!(matches!(decode(&damaged), Err(DecodeError::Damaged(_))));
    let mut longer = good;
    longer.push(0);
    assert!(matches!(
        decode(&with_checksum(longer)),
        Err(DecodeError::Invalid(_))
    ));
    assert!(matches!(
        decode(&vec![0; BATCH_BYTES_MAX + 1]),
        Err(DecodeError::Limit(_))
    ));
}
