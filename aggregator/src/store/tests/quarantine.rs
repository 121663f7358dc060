//! What cannot be stored as declared: whatever a valid batch holds, it can be kept, merged and
//! read, and costs no more than is counted.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use shared::batch::{Body, Column, Data, Group, SeriesColumns, SeriesDefinition, Values};
use shared::id::{Lane, LocalSeriesId};
use shared::limits::TEXT_BYTES_MAX;
use shared::reading::FieldType;

use super::features::{Bench, DAY, submission};
use super::{PlainRow, all_rows, plain_value};
use crate::state::rows::{Resolved, Source, Target};
use crate::state::{Command, Outcome, Payload, Rows};

const NOW: i64 = 1000 * DAY;

/// Tags with keys and values of `length` + 2 bytes.
fn tags(count: usize, length: usize) -> Vec<(String, String)> {
    let tag = |at: usize| {
        (
            format!("{at:02}{}", "k".repeat(length)),
            "v".repeat(length + 2),
        )
    };
    (0..count).map(tag).collect()
}

fn definition(
    id: u32,
    table: &str,
    tags: Vec<(String, String)>,
    fields: &[&str],
) -> SeriesDefinition {
    let field = |name: &&str| ((*name).to_owned(), FieldType::Float);
    SeriesDefinition {
        id: LocalSeriesId(id),
        table: table.to_owned(),
        device: "d".to_owned(),
        tags,
        fields: fields.iter().map(field).collect(),
    }
}

fn define(bench: &mut Bench, definitions: Vec<SeriesDefinition>) {
    let names = bench.agent.define(definitions);
    assert_eq!(bench.send(&names), Outcome::Stored);
}

/// One series with one column.
fn group(times: Vec<i64>, id: u32, values: Values) -> Group {
    let column = Column {
        field: 0,
        present: None,
        values,
    };
    let series = vec![SeriesColumns {
        id: LocalSeriesId(id),
        columns: vec![column],
    }];
    Group { times, series }
}

fn send(bench: &mut Bench, groups: Vec<Group>) {
    let link = bench.agent.seal(Lane::Live, Body::Data(Data { groups }));
    assert_eq!(bench.send(&link), Outcome::Stored);
}

fn lines(bench: &mut Bench, bytes: Vec<u8>) {
    let command = submission(&bench.agent.id, Payload::Lines(Bytes::from(bytes)));
    assert_eq!(bench.apply(&command).outcomes[0].1, Outcome::Stored);
}

/// What applying a batch gives to the store, which does not get it.
fn applied(bench: &mut Bench, groups: Vec<Group>) -> Rows {
    let link = bench.agent.seal(Lane::Live, Body::Data(Data { groups }));
    let command = submission(&bench.agent.id, Payload::Batch(link.bytes));
    let mut effects = bench.node.state.apply(bench.index + 1, &command);
    assert_eq!(effects.outcomes[0].1, Outcome::Stored);
    effects.rows.pop().unwrap()
}

fn resolved(rows: &Rows) -> &[Resolved] {
    match &rows.source {
        Source::Batch { series, .. } => series,
        Source::Decoded(_) => panic!("a batch stays as it is"),
    }
}

fn merge(bench: &mut Bench) {
    bench.apply(&Command::Merge);
    assert!(bench.node.finish_merges());
}

/// The rows of before and after a merge, which must be the same, in segments that verify.
fn merged(bench: &mut Bench) -> (Vec<PlainRow>, Vec<PlainRow>) {
    let before = all_rows(&bench.node.store.view());
    merge(bench);
    for name in bench.files() {
        bench.node.store.verify(&name).unwrap();
    }
    (before, all_rows(&bench.node.store.view()))
}

/// Once a merge wrote tags of 32,895 bytes, and no node could read them.
#[test]
fn the_longest_texts_can_be_read_once_they_are_merged() {
    let mut bench = Bench::new();
    define(&mut bench, vec![definition(7, "t", tags(64, 254), &["f"])]);
    send(
        &mut bench,
        vec![group(vec![NOW], 7, Values::Float(vec![1.0]))],
    );
    send(
        &mut bench,
        vec![group(vec![NOW], 7, Values::Bool(vec![true]))],
    );
    let long = "x".repeat(TEXT_BYTES_MAX);
    send(
        &mut bench,
        vec![group(vec![NOW], 7, Values::Text(vec![long.clone()]))],
    );
    // Each byte of these becomes a character of three.
    lines(&mut bench, vec![0xff; TEXT_BYTES_MAX]);
    let (before, after) = merged(&mut bench);
    assert_eq!(before, after);
    let refused = after.iter().filter(|row| row.table == "quarantine");
    assert_eq!(refused.clone().count(), 3);
    let value = (
        "value".to_owned(),
        plain_value(&shared::reading::Value::Text(long)),
    );
    assert!(refused.clone().any(|row| row.values.contains(&value)));
    let tags = format!("Text(\"00{}=", "k".repeat(254));
    assert!(refused.flat_map(|row| &row.values).any(|(name, text)| {
        name == "tags" && text.starts_with(&tags) && text.len() == "Text(\"\")".len() + 1_024
    }));
}

/// Forty bytes that stood for two gigabytes.
#[test]
fn many_refused_rows_of_a_few_bytes_make_a_small_segment() {
    let mut bench = Bench::new();
    define(&mut bench, vec![definition(7, "t", tags(64, 254), &["f"])]);
    send(
        &mut bench,
        vec![group(vec![NOW], 7, Values::Float(vec![1.0]))],
    );
    let times: Vec<i64> = (NOW..NOW + 58_000).collect();
    let values = Values::Bool(vec![true; times.len()]);
    send(&mut bench, vec![group(times, 7, values)]);
    assert!(bench.node.store.level0_bytes() < 10_000);
    merge(&mut bench);
    assert_eq!(
        bench.node.store.view().row_count("quarantine"),
        Some(58_000)
    );
    for file in bench.node.store.snapshot().unwrap().files {
        bench.node.store.verify(&file.name).unwrap();
        assert!(file.len < 200_000, "{} bytes", file.len);
    }
}

#[test]
fn a_series_that_is_refused_in_many_groups_is_held_once() {
    let mut bench = Bench::new();
    define(&mut bench, vec![definition(7, "t", tags(64, 254), &["f"])]);
    send(
        &mut bench,
        vec![group(vec![NOW], 7, Values::Float(vec![1.0]))],
    );
    let one = group(vec![NOW], 7, Values::Bool(vec![true]));
    let rows = applied(&mut bench, vec![one; 5_000]);
    let series = resolved(&rows);
    let first = series[0].quarantine.as_ref().unwrap();
    for resolved in series {
        assert!(Arc::ptr_eq(first, resolved.quarantine.as_ref().unwrap()));
        assert!(Arc::ptr_eq(&series[0].columns, &resolved.columns));
    }
    let least = size_of_val(series);
    assert!(rows.bytes_held() >= least && rows.bytes_held() < 2 * least);
}

#[test]
fn the_columns_of_a_series_that_was_not_defined_are_counted() {
    let mut bench = Bench::new();
    let column = |field| Column {
        field,
        present: None,
        values: Values::Bool(vec![true]),
    };
    let series = |id, fields| SeriesColumns {
        id: LocalSeriesId(id),
        columns: (0..fields).map(column).collect(),
    };
    let columns = 1_024 + 1_023 + 1_024;
    let group = Group {
        times: vec![NOW],
        series: vec![series(9, 1_024), series(10, 1_023), series(11, 1_024)],
    };
    let rows = applied(&mut bench, vec![group]);
    let held = rows.bytes_held();
    assert!(held >= columns * size_of::<Target>(), "{held} bytes held");
    assert!(held < 30_000, "no text for each of them: {held} bytes held");
    let series = resolved(&rows);
    assert!(series.iter().all(|resolved| resolved.rows == 0));
    let refused: u32 = series.iter().map(|resolved| resolved.refused).sum();
    assert_eq!(usize::try_from(refused).unwrap(), columns);
}

#[derive(Debug, Clone)]
enum Step {
    Data(Vec<Group>),
    Lines(Vec<u8>),
    Merge,
}

fn any_values(count: usize) -> BoxedStrategy<Values> {
    let float = prop_oneof![
        any::<u64>().prop_map(f64::from_bits),
        (-99..99_i8).prop_map(f64::from),
    ];
    let int = prop_oneof![any::<i64>(), -9..9_i64, Just((1_i64 << 53) + 1)];
    prop_oneof![
        prop::collection::vec(float, count).prop_map(Values::Float),
        prop::collection::vec(int, count).prop_map(Values::Int),
        prop::collection::vec(any::<bool>(), count).prop_map(Values::Bool),
        prop::collection::vec("[ab]{0,2}|.{0,9}", count).prop_map(Values::Text),
    ]
    .boxed()
}

/// The first is full, so that no row is without a value.
fn any_columns(rows: usize) -> impl Strategy<Value = Vec<Column>> {
    let sparse = prop::collection::vec(any::<bool>(), rows).prop_flat_map(|mut present| {
        present[0] = true;
        let count = present.iter().filter(|flag| **flag).count();
        any_values(count).prop_map(move |values| Column {
            field: 0,
            present: Some(present.clone()),
            values,
        })
    });
    let fields: Vec<u16> = (0..6).collect();
    let fields = prop::sample::subsequence(fields, 1..=3);
    let all = (any_values(rows), prop::collection::vec(sparse, 2), fields);
    all.prop_map(|(values, sparse, fields)| {
        let full = Column {
            field: 0,
            present: None,
            values,
        };
        let columns = [full].into_iter().chain(sparse).zip(fields);
        columns
            .map(|(column, field)| Column { field, ..column })
            .collect()
    })
}

/// Of series that are defined, and of some that are not.
fn any_group() -> impl Strategy<Value = Group> {
    (1..12_usize).prop_flat_map(|rows| {
        let time = prop_oneof![3 => NOW - 2 * DAY..NOW + DAY, 1 => any::<i64>()];
        let series = prop::collection::btree_map(0..7_u32, any_columns(rows), 1..4);
        (prop::collection::vec(time, rows), series).prop_map(|(times, series)| {
            let one = |(id, columns)| SeriesColumns {
                id: LocalSeriesId(id),
                columns,
            };
            Group {
                times,
                series: series.into_iter().map(one).collect(),
            }
        })
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    let line = "[tu],[a-c]=1 [a-c]=(t|1|2i|\"x\")( 1)?";
    prop_oneof![
        6 => prop::collection::vec(any_group(), 1..3).prop_map(Step::Data),
        1 => line.prop_map(|line| Step::Lines(line.into_bytes())),
        1 => prop::collection::vec(any::<u8>(), 1..300).prop_map(Step::Lines),
        1 => Just(Step::Merge),
    ]
}

/// Four definitions, some of them of reserved tables, of one series, or with too many tags.
fn any_definitions() -> impl Strategy<Value = Vec<SeriesDefinition>> {
    let table = prop_oneof![3 => Just("t"), 1 => Just("u"), 1 => Just("agents")];
    let tags = (0..=64_usize, 0..=254_usize).prop_map(|(count, length)| tags(count, length));
    let fields = prop::sample::subsequence(vec!["a", "b", "c", "e"], 1..=4);
    prop::collection::vec((table, tags, fields), 4).prop_map(|all| {
        let numbered = (1_u32..).zip(all);
        numbered
            .map(|(id, (table, tags, fields))| definition(id, table, tags, &fields))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_takes_effect_is_merged_and_read_back(
        definitions in any_definitions(),
        steps in prop::collection::vec(any_step(), 1..10),
    ) {
        let mut bench = Bench::new();
        define(&mut bench, definitions);
        for step in steps {
            match step {
                Step::Data(groups) => send(&mut bench, groups),
                Step::Lines(bytes) => lines(&mut bench, bytes),
                Step::Merge => merge(&mut bench),
            }
        }
        let (before, after) = merged(&mut bench);
        prop_assert_eq!(before, after);
    }
}
