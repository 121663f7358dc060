//! States of buckets are those of the rows, bit by bit, on the way to a file and back.

use shared::batch::{Column, Values};
use shared::reading::{FieldType, Value};

use super::aggregate::ALL;
use super::{ALWAYS_WORTH, Random};
use crate::state::SeriesId;
use crate::state::rows::SeriesRows;
use crate::store::aggregate::{Buckets, state_of};
use crate::store::block::BlockMeta;
use crate::store::rollup::{self, Asked, AskedField, Resolution, Worth};
use crate::store::{FieldState, Group, Measures, block};

const SECOND: i64 = 1_000_000_000;
const START: i64 = 1_764_000_000 * SECOND;

pub(super) type Fields = Vec<AskedField>;

pub(super) fn minutes() -> Resolution {
    Resolution::new(60).unwrap()
}

/// Ten rows a minute, the fields from 0 on.
fn rows(count: usize, columns: &[(u16, Option<Vec<bool>>, Values)]) -> SeriesRows {
    let time = |row: usize| START + i64::try_from(row).unwrap() * 6 * SECOND + 7;
    let columns = columns.iter().map(|(field, present, values)| Column {
        field: *field,
        present: present.clone(),
        values: values.clone(),
    });
    SeriesRows {
        series: SeriesId(3),
        times: (0..count).map(time).collect(),
        columns: columns.collect(),
    }
}

/// What the index says of a block of these rows.
fn entry(rows: &SeriesRows) -> BlockMeta {
    block::encode(rows, false).unwrap().1
}

/// Through the bytes of a block, of which only what is wanted is decoded.
fn decoded(rows: &SeriesRows, fields: &Fields) -> SeriesRows {
    let cells = rollup::cells(rows, minutes(), ALWAYS_WORTH).unwrap();
    let (bytes, meta) = block::encode(&cells, false).unwrap();
    let (asked, of) = (Asked::new(fields.clone()), entry(rows));
    block::decode(&bytes, &meta, &|column| asked.wants(column, &of)).unwrap()
}

fn groups(rows: &SeriesRows, fields: &Fields) -> Option<Vec<Group>> {
    let read = decoded(rows, fields);
    let all = i64::MIN..=i64::MAX;
    rollup::groups(&read, Some(rows.times.len() as u64), &all, fields).unwrap()
}

/// Of the rows themselves.
pub(super) fn folded(rows: &SeriesRows, fields: &Fields) -> Vec<Group> {
    let buckets = Buckets::new(60 * SECOND, 0).unwrap();
    let (mut groups, mut row) = (Vec::new(), 0);
    let mut next = vec![0; fields.len()];
    while row < rows.times.len() {
        let (bucket, count) = buckets.run(&rows.times[row..]);
        let run = row..row + count;
        let states = fields
            .iter()
            .zip(&mut next)
            .map(|((slot, measures), next)| {
                let slot = slot.map(|(slot, _)| slot);
                let column = rows.columns.iter().find(|one| Some(one.field) == slot);
                let state = column.map(|one| state_of(one, &rows.times, &run, next, *measures));
                state.unwrap_or_default()
            });
        groups.push(Group {
            bucket,
            rows: count as u64,
            time_min: rows.times[run.start],
            time_max: rows.times[run.end - 1],
            fields: states.collect(),
        });
        row += count;
    }
    groups
}

/// By bits: NaN is not equal to itself, and -0.0 is to 0.0.
pub(super) fn bits(groups: &[Group]) -> Vec<String> {
    let shown = |value: Option<Value>| match value {
        Some(Value::Float(float)) => format!("{:x}", float.to_bits()),
        other => format!("{other:?}"),
    };
    let of_field = |field: &FieldState| {
        let [first, last] = [&field.first, &field.last].map(|end| Some(end.clone()?.1));
        let values = [field.min.clone(), field.max.clone(), first, last].map(shown);
        format!("{values:?} {field:?}")
    };
    let of_group = |group: &Group| {
        let fields: Vec<String> = group.fields.iter().map(of_field).collect();
        let rows = (group.bucket, group.rows, group.time_min, group.time_max);
        format!("{rows:?} {fields:?}")
    };
    groups.iter().map(of_group).collect()
}

fn odd_rows(random: &mut Random) -> SeriesRows {
    let odd = [
        f64::NAN,
        f64::from_bits(0x7ff8_0000_0000_1234),
        -f64::NAN,
        -0.0,
        0.0,
        f64::INFINITY,
        f64::NEG_INFINITY,
        1e308,
        5e-324,
    ];
    let large = [i64::MIN, i64::MAX, 0, -1, i64::MAX - 1];
    let count = 1 + random.below(200);
    let present = |random: &mut Random| -> Vec<bool> {
        let share = [5, 50, 95][random.below(3)];
        (0..count).map(|_| random.chance(share)).collect()
    };
    let some = |flags: &[bool]| flags.iter().filter(|flag| **flag).count();
    let (a, b, c) = (present(random), present(random), present(random));
    let float = |random: &mut Random| match random.below(4) {
        0 => odd[random.below(odd.len())],
        _ => f64::from(u32::try_from(random.below(1_000)).unwrap()) / 7.0,
    };
    let int = |random: &mut Random| match random.below(3) {
        0 => large[random.below(large.len())],
        _ => i64::try_from(random.below(9)).unwrap(),
    };
    let floats = (0..count).map(|_| float(random)).collect();
    let holed = (0..some(&a)).map(|_| float(random)).collect();
    let ints = (0..count).map(|_| int(random)).collect();
    let holed_ints = (0..some(&b)).map(|_| int(random)).collect();
    let bools = (0..some(&c)).map(|_| random.chance(50)).collect();
    rows(
        count,
        &[
            (0, None, Values::Float(floats)),
            (1, Some(a), Values::Float(holed)),
            (2, None, Values::Int(ints)),
            (5, Some(b), Values::Int(holed_ints)),
            (4_095, Some(c), Values::Bool(bools)),
        ],
    )
}

#[test]
fn states_are_those_of_the_rows_bit_by_bit() {
    let mut random = Random(1);
    for _ in 0..400 {
        let rows = odd_rows(&mut random);
        let types = [
            (0, FieldType::Float),
            (1, FieldType::Float),
            (2, FieldType::Int),
            (5, FieldType::Int),
            (4_095, FieldType::Bool),
            // None of its rows has a value.
            (7, FieldType::Float),
        ];
        let mut fields: Fields = vec![(None, ALL)];
        for (slot, field_type) in types {
            let measures = Measures {
                sum: random.chance(70),
                extremes: random.chance(70),
                ends: random.chance(70),
            };
            fields.push((Some((slot, field_type)), measures));
        }
        let found = groups(&rows, &fields).unwrap();
        assert_eq!(bits(&found), bits(&folded(&rows, &fields)));
    }
}

#[test]
fn ints_that_became_floats_are_told_as_such_while_their_sums_are_exact() {
    let exact = 1_i64 << 53;
    let of = |ints: Vec<i64>, measures| {
        let rows = rows(ints.len(), &[(2, None, Values::Int(ints.clone()))]);
        let fields = vec![(Some((2, FieldType::Float)), measures)];
        let floats = ints.iter().map(|int| *int as f64).collect();
        let widened = SeriesRows {
            columns: vec![Column {
                field: 2,
                present: None,
                values: Values::Float(floats),
            }],
            ..rows.clone()
        };
        let expected = folded(&widened, &fields);
        groups(&rows, &fields).map(|found| assert_eq!(bits(&found), bits(&expected)))
    };
    let sum = Measures {
        sum: true,
        ..Measures::default()
    };
    for measures in [ALL, sum] {
        assert!(of((0..40).collect(), measures).is_some());
        assert!(of(vec![exact], measures).is_some());
        assert!(of(vec![exact, 1], measures).is_none());
    }
    let extremes = Measures {
        extremes: true,
        ..Measures::default()
    };
    assert!(of(vec![exact, 1], extremes).is_some());
}

/// Of texts only their number is kept.
#[test]
fn texts_are_counted() {
    let flags: Vec<bool> = (0..20).map(|row| row > 12).collect();
    let texts = (0..7).map(|row| format!("t{row}")).collect();
    let floats = (0..20).map(f64::from).collect();
    let rows = rows(
        20,
        &[
            (0, Some(flags), Values::Text(texts)),
            (1, None, Values::Float(floats)),
        ],
    );
    let text = |measures| vec![(Some((0, FieldType::Text)), measures)];
    let found = groups(&rows, &text(Measures::default())).unwrap();
    let counts: Vec<u64> = found.iter().map(|group| group.fields[0].count).collect();
    assert_eq!(counts, [0, 7]);
    assert_eq!(groups(&rows, &text(ALL)), None);
}

#[test]
fn a_bucket_that_the_time_cuts_is_not_answered() {
    let floats = (0..40).map(f64::from).collect();
    let rows = rows(40, &[(0, None, Values::Float(floats))]);
    let fields: Fields = vec![(Some((0, FieldType::Float)), ALL)];
    let cells = decoded(&rows, &fields);
    let of = |time| {
        let found = rollup::groups(&cells, Some(40), &time, &fields).unwrap()?;
        Some(found.iter().map(|group| group.rows).collect::<Vec<u64>>())
    };
    let (second, third) = (rows.times[10], rows.times[20]);
    assert_eq!(of(i64::MIN..=i64::MAX), Some(vec![10; 4]));
    assert_eq!(of(second..=third - 1), Some(vec![10]));
    assert_eq!(of(second - 6 * SECOND + 1..=i64::MAX), Some(vec![10; 3]));
    assert_eq!(of(second + 1..=i64::MAX), None);
    assert_eq!(of(i64::MIN..=third), None);
    assert_eq!(of(i64::MIN..=START), Some(vec![]), "none is in time");
    let other = rollup::groups(&cells, Some(41), &(0..=1), &fields);
    assert!(other.is_err(), "states of other rows");
    let mut unsorted = cells.clone();
    unsorted.columns.swap(0, 1);
    let unsorted = rollup::groups(&unsorted, Some(40), &(0..=1), &fields);
    assert!(unsorted.is_err(), "columns that would not be found");
}

#[test]
fn a_time_cuts_buckets_where_rows_may_be_on_both_sides() {
    let minute = 60 * SECOND;
    let (least, greatest) = (5 * minute + 7, 9 * minute + 7);
    let is_cut = |time| minutes().is_cut(&time, (least, greatest));
    assert!(!is_cut(i64::MIN..=i64::MAX));
    assert!(!is_cut(least..=greatest));
    assert!(!is_cut(6 * minute..=9 * minute - 1));
    assert!(is_cut(6 * minute + 1..=i64::MAX));
    assert!(is_cut(i64::MIN..=9 * minute));
    assert!(is_cut(i64::MIN..=9 * minute - 2));
    assert!(minutes().is_cut(&(-1..=i64::MAX), (-2, 5)));
    assert!(!minutes().is_cut(&(-minute..=i64::MAX), (i64::MIN, 5)));
}

/// A sum is decoded alone where no int can have become a float.
#[test]
fn only_what_is_asked_for_is_decoded() {
    let floats = Values::Float((0..200).map(f64::from).collect());
    let ints = Values::Int((0..200).collect());
    let rows = rows(
        200,
        &[
            (0, None, floats.clone()),
            (1, None, ints),
            (9, None, floats),
        ],
    );
    let sum = Measures {
        sum: true,
        ..Measures::default()
    };
    let ends = Measures {
        ends: true,
        ..Measures::default()
    };
    let names = |rows: &SeriesRows, fields: &Fields| -> Vec<String> {
        let read = decoded(rows, fields);
        let names = read
            .columns
            .iter()
            .map(|one| rollup::column_name(one.field));
        names.filter(|name| name.starts_with("field")).collect()
    };
    let float = |slot| (Some((slot, FieldType::Float)), sum);
    let fields = vec![float(9), (None, ALL), float(1), float(0)];
    let expected = [
        "field 0 count",
        "field 0 sum",
        "field 1 count",
        "field 1 sum",
        "field 1 min",
        "field 1 max",
        "field 9 count",
        "field 9 sum",
    ];
    assert_eq!(names(&rows, &fields), expected);
    // Nobody says what a short block holds.
    let short = rows.slice(0..100);
    assert_eq!(names(&short, &vec![float(0)]).len(), 4);
    // Twice, for different things.
    let twice = vec![float(0), (Some((0, FieldType::Float)), ends)];
    assert_eq!(names(&rows, &twice).len(), 4);
    let both = groups(&rows, &twice).unwrap();
    assert_eq!(bits(&both), bits(&folded(&rows, &twice)));
}

#[test]
fn what_would_not_pay_is_not_written() {
    let few = rows(1_000, &[(0, None, Values::Int(vec![1; 1_000]))]);
    let hours = Resolution::new(3_600).unwrap();
    let worth = Worth::default();
    assert!(rollup::cells(&few, minutes(), worth).is_none());
    assert_eq!(rollup::cells(&few, hours, worth).unwrap().times.len(), 2);
    let day = Resolution::new(86_400).unwrap();
    assert!(rollup::cells(&few, day, worth).is_none(), "one bucket");
    let short = few.slice(0..127);
    assert!(rollup::cells(&short, hours, worth).is_none());
    let texts = rows(
        1_000,
        &[(0, None, Values::Text(vec!["a".to_owned(); 1_000]))],
    );
    assert!(rollup::cells(&texts, hours, worth).is_none());
}

#[test]
fn a_rollup_is_named_after_its_segment() {
    let stem = rollup::stem("0000000000000035-489984+24.83b7a9185690f9c0.sealed.seg");
    assert_eq!(stem, "0000000000000035-489984+24.83b7a9185690f9c0.");
    let part = "0000000000000035-489984+24.83b7a9185690f9c0.seg";
    assert_eq!(rollup::stem(part), part);
}
