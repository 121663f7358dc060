use super::*;
use shared::batch::{Body, Header, Values, decode, encode};
use shared::id::{BatchNumber, Digest, Epoch, Lane, TimeNs};
use shared::limits::BATCH_BYTES_MAX;
use shared::reading::{FieldType, Value};

use crate::handed::{Class, Stamp};

const LINGER: Duration = Duration::from_millis(20);
const OPTIONS: BatchOptions = BatchOptions {
    rows_max: 1_000,
    bytes_max: 1 << 20,
    linger: Linger::of_all(LINGER),
};
const START: Duration = Duration::ZERO;
const KIND: Kind = Kind {
    class: Class(0),
    stamp: Stamp::Wall,
};

fn reading(device: &str, time: i64, fields: &[(&str, Value)]) -> Reading {
    let fields = fields
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()));
    reading_of(device, time, fields.collect())
}

fn reading_of(device: &str, time: i64, fields: Vec<(String, Value)>) -> Reading {
    let tags = vec![("room".to_owned(), "r1".to_owned())];
    Reading::new(
        "t".to_owned(),
        device.to_owned(),
        tags,
        TimeNs(time),
        fields,
    )
}

fn push(batcher: &mut Batcher, reading: Reading) {
    assert_eq!(batcher.fit(&reading, KIND), Fit::Yes);
    batcher.push(START, reading, KIND, None);
}

fn encoded(data: &Data) -> Vec<u8> {
    let header = Header {
        epoch: Epoch(1),
        lane: Lane::Live,
        number: BatchNumber(1),
        previous: Digest::ZERO,
        names_needed: BatchNumber(1),
        sealed_at: TimeNs(0),
        complete_below: TimeNs(0),
        boot_relative: false,
    };
    let bytes = encode(&header, &Body::Data(data.clone())).unwrap();
    assert_eq!(decode(&bytes).unwrap().body, Body::Data(data.clone()));
    bytes
}

#[test]
fn series_read_together_share_their_times() {
    let mut batcher = Batcher::new(OPTIONS);
    for time in 1..=3 {
        for device in ["a", "b"] {
            push(
                &mut batcher,
                reading(device, time, &[("x", Value::Int(time))]),
            );
        }
    }
    push(&mut batcher, reading("c", 2, &[("x", Value::Int(7))]));
    let collected = batcher.take(KIND).unwrap();
    assert_eq!(collected.readings, 7);
    assert_eq!(collected.names.len(), 1);
    assert_eq!(collected.names[0].len(), 3);
    let groups = &collected.data.groups;
    assert_eq!(groups.len(), 2);
    assert_eq!(
        (groups[0].times.as_slice(), groups[0].series.len()),
        ([1, 2, 3].as_slice(), 2)
    );
    assert_eq!(
        (groups[1].times.as_slice(), groups[1].series.len()),
        ([2].as_slice(), 1)
    );
    encoded(&collected.data);
    assert_eq!(batcher.take(KIND), None);
    push(&mut batcher, reading("a", 4, &[("x", Value::Int(4))]));
    assert!(batcher.take(KIND).unwrap().names.is_empty(), "known by now");
}

#[test]
fn fields_that_come_late_or_stay_away_are_absent() {
    let mut batcher = Batcher::new(OPTIONS);
    push(
        &mut batcher,
        reading("a", 1, &[("x", Value::Int(1)), ("y", Value::Bool(true))]),
    );
    push(&mut batcher, reading("a", 2, &[("y", Value::Bool(false))]));
    push(&mut batcher, reading("a", 3, &[("x", Value::Int(3))]));
    let collected = batcher.take(KIND).unwrap();
    let columns = &collected.data.groups[0].series[0].columns;
    assert_eq!(columns[0].present, Some(vec![true, false, true]));
    assert_eq!(columns[0].values, Values::Int(vec![1, 3]));
    assert_eq!(columns[1].present, Some(vec![true, true, false]));
    encoded(&collected.data);
}

#[test]
fn readings_that_share_their_shape_mean_what_others_mean() {
    let mut batcher = Batcher::new(OPTIONS);
    let shared = reading("a", 1, &[("x", Value::Int(1)), ("y", Value::Bool(true))]);
    let again = |time, values| Reading {
        time: TimeNs(time),
        values,
        ..shared.clone()
    };
    let alone = |time| reading("a", time, &[("y", Value::Bool(true)), ("x", Value::Int(9))]);
    push(&mut batcher, shared.clone());
    push(&mut batcher, alone(2));
    push(
        &mut batcher,
        again(3, vec![Value::Int(3), Value::Bool(false)]),
    );
    push(
        &mut batcher,
        again(4, vec![Value::Float(0.5), Value::Bool(false)]),
    );
    push(
        &mut batcher,
        again(5, vec![Value::Int(5), Value::Bool(false)]),
    );
    let collected = batcher.take(KIND).unwrap();
    assert_eq!(collected.names[0].len(), 2, "the type of x changed");
    let groups = &collected.data.groups;
    assert_eq!(groups[0].times, [1, 2, 3, 5]);
    let columns = &groups[0].series[0].columns;
    assert_eq!(columns[0].values, Values::Int(vec![1, 9, 3, 5]));
    assert_eq!(groups[1].times, [4]);
    encoded(&collected.data);
    batcher.new_epoch();
    push(
        &mut batcher,
        again(6, vec![Value::Int(6), Value::Bool(true)]),
    );
    assert_eq!(batcher.take(KIND).unwrap().names[0].len(), 1, "told anew");
}

#[test]
fn fields_that_come_one_by_one_end_in_one_definition() {
    let mut batcher = Batcher::new(OPTIONS);
    let x = reading("a", 1, &[("x", Value::Int(1))]);
    let y = reading("a", 1, &[("y", Value::Int(1))]);
    for one in [&x, &y, &x, &y] {
        push(&mut batcher, one.clone());
    }
    let collected = batcher.take(KIND).unwrap();
    let rows = collected.data.groups.iter().map(|group| group.times.len());
    assert_eq!(rows.collect::<Vec<_>>(), [1, 3]);
    encoded(&collected.data);
}

#[test]
fn a_new_field_or_a_changed_type_is_a_new_id_and_the_old_one_is_found_again() {
    let mut batcher = Batcher::new(OPTIONS);
    let int = || reading("a", 1, &[("x", Value::Int(1))]);
    let float = || reading("a", 2, &[("x", Value::Float(1.5))]);
    for one in [int(), float(), int(), float()] {
        push(&mut batcher, one);
    }
    push(
        &mut batcher,
        reading("a", 3, &[("z", Value::Text("hi".to_owned()))]),
    );
    let collected = batcher.take(KIND).unwrap();
    let types: Vec<_> = collected.names[0]
        .iter()
        .map(|one| one.fields.clone())
        .collect();
    let field = |name: &str, field_type| (name.to_owned(), field_type);
    assert_eq!(
        types,
        [
            vec![field("x", FieldType::Int)],
            vec![field("x", FieldType::Float)],
            vec![field("x", FieldType::Float), field("z", FieldType::Text)],
        ]
    );
    let rows: Vec<_> = collected
        .data
        .groups
        .iter()
        .map(|group| group.times.len())
        .collect();
    assert_eq!(rows, [2, 2, 1]);
    encoded(&collected.data);
}

#[test]
fn it_is_due_by_rows_by_bytes_and_by_age() {
    let mut batcher = Batcher::new(BatchOptions {
        rows_max: 2,
        ..OPTIONS
    });
    assert_eq!(batcher.due(), None);
    push(&mut batcher, reading("a", 1, &[("x", Value::Int(1))]));
    assert!(!batcher.is_due(START));
    assert!(batcher.is_due(START + LINGER));
    push(&mut batcher, reading("a", 2, &[("x", Value::Int(1))]));
    assert!(batcher.is_due(START));
    assert_eq!(
        batcher.fit(&reading("a", 3, &[("x", Value::Int(1))]), KIND),
        Fit::AfterSeal
    );
    let mut batcher = Batcher::new(BatchOptions {
        bytes_max: 100,
        ..OPTIONS
    });
    push(
        &mut batcher,
        reading("a", 1, &[("x", Value::Text("y".repeat(100)))]),
    );
    assert!(batcher.is_due(START));
}

#[test]
fn what_is_urgent_waits_for_nothing_and_leaves_the_rest_waiting() {
    let urgent = Kind {
        class: Class(1),
        ..KIND
    };
    let mut batcher = Batcher::new(BatchOptions {
        linger: OPTIONS.linger.but(Class(1), Duration::ZERO),
        ..OPTIONS
    });
    push(&mut batcher, reading("a", 1, &[("x", Value::Int(1))]));
    assert_eq!(batcher.due(), Some(START + LINGER));
    let alarm = reading("a", 2, &[("x", Value::Int(2))]);
    assert_eq!(batcher.fit(&alarm, urgent), Fit::Yes);
    batcher.push(START, alarm, urgent, None);
    assert_eq!(batcher.due(), Some(START));
    assert_eq!(batcher.due_kinds(START).collect::<Vec<_>>(), [urgent]);
    assert_eq!(batcher.take(urgent).unwrap().readings, 1);
    assert_eq!(batcher.due(), Some(START + LINGER));
    // Where nothing can be sent anyway it may as well be gathered.
    batcher.gather(Some(LINGER * 2));
    batcher.push(
        START,
        reading("a", 3, &[("x", Value::Int(3))]),
        urgent,
        None,
    );
    assert_eq!(batcher.due(), Some(START + LINGER * 2));
}

#[test]
fn whatever_fits_can_be_encoded() {
    let wide: Vec<(String, Value)> = (0..1_000)
        .map(|nth| (format!("f{nth}"), Value::Float(1.0 / f64::from(nth + 3))))
        .collect();
    let texts: Vec<(String, Value)> = (0..20)
        .map(|nth| (format!("f{nth}"), Value::Text("\u{e4}x".repeat(5_000))))
        .collect();
    let flags = vec![("f".to_owned(), Value::Bool(true))];
    for fields in [wide, texts, flags] {
        let mut batcher = Batcher::new(BatchOptions {
            rows_max: usize::MAX,
            bytes_max: usize::MAX,
            ..OPTIONS
        });
        let make = |nth: i64| reading_of(&format!("d{nth}"), nth * nth * 7_919, fields.clone());
        let mut count = 0;
        while batcher.fit(&make(count), KIND) == Fit::Yes {
            batcher.push(START, make(count), KIND, Some(WaiterId(9)));
            count += 1;
        }
        assert!(count > 1, "at least two readings in a batch");
        let most = batcher.sealed_bytes_most(KIND);
        let collected = batcher.take(KIND).unwrap();
        assert_eq!(collected.waiters, [WaiterId(9)]);
        let bytes = encoded(&collected.data).len();
        assert!(bytes <= BATCH_BYTES_MAX && bytes as u64 <= most);
    }
}

/// Each reading of a device with a new field defines all its fields anew: once, names filled the buffer.
#[test]
fn a_device_with_ever_new_fields_fills_no_buffer_with_names() {
    let bytes_max = 8 << 20;
    let mut batcher = Batcher::new(OPTIONS).with_buffer(bytes_max as u64);
    let of = |nth: i64| {
        reading_of(
            "d",
            nth,
            vec![(format!("field_{nth:026}"), Value::Int(nth))],
        )
    };
    let (mut names, mut epochs, mut new_most) = (0, 0, 0);
    for nth in 0..3_000 {
        loop {
            match batcher.fit(&of(nth), KIND) {
                Fit::Yes => break,
                Fit::AfterSeal => {
                    let taken = batcher.take(KIND).unwrap().names;
                    let taken = taken.iter().flatten().map(check::definition_bytes);
                    names += taken.sum::<usize>();
                }
                Fit::AfterEpoch => {
                    assert_eq!(
                        batcher.fit(&of(nth - 1), KIND),
                        Fit::AfterSeal,
                        "it is known"
                    );
                    batcher.give_up(KIND);
                    batcher.new_epoch();
                    assert!(names <= bytes_max / 2, "{names}");
                    (names, epochs) = (0, epochs + 1);
                }
                Fit::Never => panic!("it is small"),
            }
        }
        batcher.push(START, of(nth), KIND, None);
        new_most = new_most.max(batcher.dictionary.new_bytes());
    }
    assert!(epochs > 3, "{epochs}");
    assert!(new_most < NEW_NAMES_BYTES_MAX + (128 << 10), "{new_most}");
}

/// Sums of a thinning have fields of their own, which take room for names as others do.
#[test]
fn what_is_collected_apart_keeps_the_bound_of_names() {
    let mut batcher = Batcher::new(OPTIONS).with_buffer(1 << 20);
    let of = |nth: i64| {
        reading_of(
            "d",
            nth,
            vec![(format!("field_{nth:026}"), Value::Int(nth))],
        )
    };
    let fits = batcher.collect(START, KIND, (0..100).map(of).collect());
    assert!(fits.is_some());
    assert_eq!(
        batcher.collect(START, KIND, (100..10_000).map(of).collect()),
        None
    );
    let known = batcher.collect(START, KIND, (0..100).map(of).collect());
    assert!(known.is_some(), "needs no new name");
}

/// While the buffer is full nothing is sealed, and new definitions wait.
#[test]
fn definitions_that_are_never_taken_are_bounded() {
    let mut batcher = Batcher::new(OPTIONS);
    let mut nth = 0;
    loop {
        nth += 1;
        let one = reading_of("d", nth, vec![(format!("field_{nth}"), Value::Int(nth))]);
        match batcher.fit(&one, KIND) {
            Fit::Yes => batcher.push(START, one, KIND, None),
            Fit::AfterSeal => assert!(batcher.give_up(KIND).0 > 0),
            Fit::AfterEpoch => break,
            Fit::Never => panic!("it is small"),
        }
        assert!(batcher.dictionary.new_bytes() < 2 * NEW_NAMES_BYTES_MAX + (128 << 10));
    }
}

#[test]
fn a_reading_that_no_batch_can_carry_is_told_so() {
    let mut batcher = Batcher::new(OPTIONS);
    let fields = (0..100).map(|nth| (format!("f{nth}"), Value::Text("x".repeat(16_000))));
    let huge = reading_of("a", 1, fields.collect());
    assert_eq!(huge.check(), Ok(()));
    assert_eq!(batcher.fit(&huge, KIND), Fit::Never);
}

#[test]
fn many_definitions_make_several_names_batches() {
    let mut batcher = Batcher::new(BatchOptions {
        rows_max: usize::MAX,
        ..OPTIONS
    });
    for nth in 0..4_500 {
        push(
            &mut batcher,
            reading(&format!("d{nth}"), 1, &[("x", Value::Bool(true))]),
        );
    }
    let sizes: Vec<_> = batcher
        .take(KIND)
        .unwrap()
        .names
        .iter()
        .map(Vec::len)
        .collect();
    assert_eq!(sizes.iter().sum::<usize>(), 4_500);
    assert_eq!(sizes.len(), 2, "{sizes:?}");
}

#[test]
fn each_kind_has_a_batch_of_its_own_and_all_share_one_dictionary() {
    let mut batcher = Batcher::new(OPTIONS);
    let other = Kind {
        class: Class(1),
        stamp: Stamp::Boot,
    };
    let one = |time| reading("a", time, &[("x", Value::Int(time))]);
    let later = START + LINGER;
    batcher.push(START, one(1), KIND, None);
    batcher.push(later, one(2), other, Some(WaiterId(1)));
    assert_eq!((batcher.readings(), batcher.since()), (2, Some(START)));
    assert!(batcher.due_kinds(later).eq([KIND]));
    assert!(batcher.open_kinds().eq([KIND, other]));
    let second = batcher.take(other).unwrap();
    assert_eq!((second.kind, second.since), (other, later));
    assert_eq!(second.names.len(), 1, "whoever goes first takes the names");
    let first = batcher.take(KIND).unwrap();
    assert!(first.names.is_empty());
    assert_eq!(first.data.groups[0].times, [1]);
    assert_eq!(first.waiters, []);
    assert_eq!(batcher.due(), None);
}

#[test]
fn what_is_given_up_leaves_its_definitions_to_others() {
    let mut batcher = Batcher::new(OPTIONS);
    let other = Kind {
        class: Class(1),
        ..KIND
    };
    let one = |time| reading("a", time, &[("x", Value::Int(time))]);
    batcher.push(START, one(1), other, Some(WaiterId(3)));
    assert_eq!(batcher.give_up(other), (1, vec![WaiterId(3)]));
    assert_eq!(batcher.give_up(other), (0, vec![]));
    assert_eq!(batcher.take(other), None);
    push(&mut batcher, one(2));
    assert_eq!(batcher.take(KIND).unwrap().names[0].len(), 1);
}

#[test]
fn what_cannot_be_sent_is_gathered_longer_unless_somebody_waits() {
    let mut batcher = Batcher::new(OPTIONS);
    let longer = LINGER * 9;
    let other = Kind {
        class: Class(1),
        ..KIND
    };
    let one = reading("a", 1, &[("x", Value::Int(1))]);
    batcher.gather(Some(longer));
    batcher.push(START, one.clone(), KIND, None);
    assert_eq!(batcher.due(), Some(START + longer));
    batcher.push(START, one, other, Some(WaiterId(1)));
    assert!(batcher.due_kinds(START + LINGER).eq([other]));
    // Other settings say nothing of the session.
    batcher.use_options(OPTIONS);
    assert!(batcher.due_kinds(START + LINGER).eq([other]));
    batcher.gather(None);
    assert!(batcher.due_kinds(START + LINGER).eq([KIND, other]));
}
