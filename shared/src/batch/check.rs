//! The rules of format version 1: which header goes with which body, and what a body may hold.
//! `encode` and `decode` both ask here, so they cannot disagree.

use std::collections::HashSet;

use super::{Body, Column, Data, Gap, Group, Header, Hello, Kind, SeriesColumns, SeriesDefinition};
use crate::column::{self, BOOL_PRICE, TEXT_PRICE, TIME_PRICE};
use crate::id::{BatchNumber, Lane};
use crate::limits::{
    BATCH_DECODED_BYTES_MAX, BATCH_ROWS_MAX, BATCH_VALUES_MAX, COUNT_MAX, DEFINITIONS_MAX,
    FIELDS_MAX, OLDER_EPOCHS_MAX, TEXT_BYTES_MAX,
};
use crate::reading::{Unfit, check_series};

/// Budget price of one group, besides its times.
pub const GROUP_PRICE: usize = 64;
/// Budget price of one series of a group.
pub const SERIES_PRICE: usize = 32;
/// Budget price of one column, besides its flags and values.
pub const COLUMN_PRICE: usize = 80;
/// Budget price of one series definition, besides its texts.
pub const DEFINITION_PRICE: usize = 128;
/// Budget price of one older epoch.
pub const EPOCH_PRICE: usize = 8;

/// What a header alone can tell.
pub fn check_header(header: &Header, kind: Kind) -> Result<(), Unfit> {
    let names_lane = header.lane == Lane::Names;
    let first = header.number == BatchNumber(1);
    if header.number == BatchNumber::NONE {
        return Err(Unfit::Rule("batches are numbered from 1"));
    }
    if header.number.0 > COUNT_MAX || header.names_needed.0 > COUNT_MAX {
        return Err(Unfit::Limit("a batch number"));
    }
    if names_lane && header.names_needed != BatchNumber::NONE {
        return Err(Unfit::Rule("a batch of the names lane that needs names"));
    }
    if header.boot_relative && kind != Kind::Data {
        return Err(Unfit::Rule("times since boot in what is no data"));
    }
    match kind {
        Kind::Hello if !(names_lane && first) => Err(Unfit::Rule(
            "a hello that is not number 1 of the names lane",
        )),
        Kind::Names if !names_lane => Err(Unfit::Rule("definitions outside the names lane")),
        Kind::Data if names_lane => Err(Unfit::Rule("readings in the names lane")),
        Kind::Clock if !names_lane => Err(Unfit::Rule("a clock outside the names lane")),
        Kind::Names | Kind::Clock if first => {
            Err(Unfit::Rule("number 1 of the names lane is the hello"))
        }
        Kind::Hello | Kind::Names | Kind::Data | Kind::Gap | Kind::Clock => Ok(()),
    }
}

/// Everything else.
pub fn check_body(header: &Header, body: &Body) -> Result<(), Unfit> {
    match body {
        Body::Hello(hello) => check_hello(header, hello),
        Body::Names(definitions) => check_names(definitions),
        Body::Data(data) => check_data(data),
        Body::Gap(gap) => check_gap(header, gap),
        Body::Clock(_) => Ok(()),
    }
}

/// What decoding this body will allocate at most, in budget prices; `decode` refuses a body above
/// [`crate::limits::decoded_bytes_max`]. An agent seals before it gets there.
pub fn decoded_bytes(body: &Body) -> usize {
    match body {
        Body::Hello(hello) => hello.older_epochs.len() * EPOCH_PRICE,
        Body::Names(definitions) => definitions.iter().map(definition_bytes).sum(),
        Body::Data(data) => data.groups.iter().map(group_bytes).sum(),
        Body::Gap(_) | Body::Clock(_) => 0,
    }
}

/// The part of it that is one definition's.
pub fn definition_bytes(definition: &SeriesDefinition) -> usize {
    let text = |text: &String| TEXT_PRICE + text.len();
    let tags = definition
        .tags
        .iter()
        .map(|(key, value)| text(key) + text(value));
    let fields = definition.fields.iter().map(|(name, _)| text(name));
    DEFINITION_PRICE
        + text(&definition.table)
        + text(&definition.device)
        + tags.sum::<usize>()
        + fields.sum::<usize>()
}

fn group_bytes(group: &Group) -> usize {
    let series = |series: &SeriesColumns| {
        SERIES_PRICE + series.columns.iter().map(column_bytes).sum::<usize>()
    };
    GROUP_PRICE + group.times.len() * TIME_PRICE + group.series.iter().map(series).sum::<usize>()
}

fn column_bytes(column: &Column) -> usize {
    let flags = column.present.as_ref().map_or(0, Vec::len);
    COLUMN_PRICE + flags * BOOL_PRICE + column::price(&column.values)
}

fn check_hello(header: &Header, hello: &Hello) -> Result<(), Unfit> {
    if hello.older_epochs.len() > OLDER_EPOCHS_MAX {
        return Err(Unfit::Limit("older epochs"));
    }
    if hello.max_unsafe_ms > COUNT_MAX {
        return Err(Unfit::Limit("max_unsafe_ms"));
    }
    let last = hello.last.map(|last| last.epoch);
    if hello.older_epochs.contains(&header.epoch) || last == Some(header.epoch) {
        return Err(Unfit::Rule("an epoch that is older than itself"));
    }
    if has_duplicates(hello.older_epochs.iter().map(|epoch| epoch.0)) {
        return Err(Unfit::Rule("an older epoch twice"));
    }
    Ok(())
}

fn check_names(definitions: &[SeriesDefinition]) -> Result<(), Unfit> {
    if definitions.is_empty() {
        return Err(Unfit::Rule("no definitions"));
    }
    if definitions.len() > DEFINITIONS_MAX {
        return Err(Unfit::Limit("definitions of a batch"));
    }
    for definition in definitions {
        let SeriesDefinition {
            table,
            device,
            tags,
            fields,
            ..
        } = definition;
        check_series(
            table,
            device,
            tags,
            fields.iter().map(|(name, _)| name.as_str()),
        )?;
    }
    if has_duplicates(
        definitions
            .iter()
            .map(|definition| u64::from(definition.id.0)),
    ) {
        return Err(Unfit::Rule("a series defined twice"));
    }
    let decoded: usize = definitions.iter().map(definition_bytes).sum();
    if decoded > BATCH_DECODED_BYTES_MAX {
        return Err(Unfit::Limit("bytes after decoding"));
    }
    Ok(())
}

fn check_gap(header: &Header, gap: &Gap) -> Result<(), Unfit> {
    if gap.from == BatchNumber::NONE || gap.from > header.number {
        return Err(Unfit::Rule("a gap that ends before it starts"));
    }
    if gap.readings > COUNT_MAX {
        return Err(Unfit::Limit("readings lost"));
    }
    Ok(())
}

fn check_data(data: &Data) -> Result<(), Unfit> {
    if data.groups.is_empty() {
        return Err(Unfit::Rule("data without a group"));
    }
    for group in &data.groups {
        check_group(group)?;
    }
    if data.rows() > BATCH_ROWS_MAX {
        return Err(Unfit::Limit("rows of a batch"));
    }
    if data.values() > BATCH_VALUES_MAX {
        return Err(Unfit::Limit("values of a batch"));
    }
    let decoded: usize = data.groups.iter().map(group_bytes).sum();
    if decoded > BATCH_DECODED_BYTES_MAX {
        return Err(Unfit::Limit("bytes after decoding"));
    }
    Ok(())
}

fn check_group(group: &Group) -> Result<(), Unfit> {
    if group.times.is_empty() || group.series.is_empty() {
        return Err(Unfit::Rule("a group without times or without series"));
    }
    if has_duplicates(group.series.iter().map(|series| u64::from(series.id.0))) {
        return Err(Unfit::Rule("a series twice in a group"));
    }
    group
        .series
        .iter()
        .try_for_each(|series| check_columns(series, group.times.len()))
}

fn check_columns(series: &SeriesColumns, rows: usize) -> Result<(), Unfit> {
    if series.columns.is_empty() {
        return Err(Unfit::Rule("a series without columns"));
    }
    if !series.columns.is_sorted_by(|a, b| a.field < b.field) {
        return Err(Unfit::Rule(
            "columns that are not sorted by field, or a field twice",
        ));
    }
    if series
        .columns
        .last()
        .is_some_and(|last| usize::from(last.field) >= FIELDS_MAX)
    {
        return Err(Unfit::Limit("fields of a series"));
    }
    for column in &series.columns {
        check_column(column, rows)?;
    }
    // A reading has a field: a row of which every column is absent would be none.
    let full = |column: &Column| column.present.is_none();
    let has_value =
        |column: &Column, row: usize| column.present.as_ref().is_none_or(|present| present[row]);
    let row_has_value = |row: usize| series.columns.iter().any(|column| has_value(column, row));
    if series.columns.iter().any(full) || (0..rows).all(row_has_value) {
        Ok(())
    } else {
        Err(Unfit::Rule("a row without values"))
    }
}

fn check_column(column: &Column, rows: usize) -> Result<(), Unfit> {
    let expected = match &column.present {
        None => rows,
        Some(present) if present.len() == rows => present.iter().filter(|flag| **flag).count(),
        Some(_) => return Err(Unfit::Rule("a presence flag too many or too few")),
    };
    if column.values.len() != expected {
        return Err(Unfit::Rule("a value too many or too few"));
    }
    if expected == 0 {
        return Err(Unfit::Rule("a column without values"));
    }
    match &column.values {
        super::Values::Text(texts) if texts.iter().any(|text| text.len() > TEXT_BYTES_MAX) => {
            Err(Unfit::Limit("bytes of a text value"))
        }
        _ => Ok(()),
    }
}

/// Ascending numbers, the usual case, cost one pass and no memory.
fn has_duplicates(numbers: impl Iterator<Item = u64> + Clone) -> bool {
    let mut seen = HashSet::new();
    !numbers.clone().is_sorted_by(|a, b| a < b) && !numbers.into_iter().all(|n| seen.insert(n))
}
