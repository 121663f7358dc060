//! What the table `quarantine` gets: a row for each value that cannot be stored as declared.
//!
//! A batch of some bytes may have tens of thousands of them. So memory refers to what the rows of
//! a series have in common, which becomes text only when they are read, and then in pieces.

use std::borrow::Cow;
use std::sync::Arc;

use shared::batch::{Column, Values};
use shared::id::AgentId;
use shared::limits::{NAME_BYTES_MAX, TEXT_BYTES_MAX};
use shared::reading::FieldType;

use super::catalog::{QUARANTINE_FIELDS, Refusal, SeriesId, SeriesInfo};
use super::dictionary::RefusedSeries;
use super::rows::{Resolved, SeriesRows, Target, each_present, is_exact};

/// Bytes of the column `tags`: every row repeats them, so longer ones are cut.
pub(crate) const TAGS_BYTES_MAX: usize = 1_024;
/// Memory of the rows that are handed on together, but for the last of them.
const PIECE_BYTES_MAX: usize = 8 << 20;
/// What agent, field, value and reason of a row weigh, about.
const OWN_TEXT_BYTES: usize = 96;

// No text of a row is longer than one that a block may hold.
const _: () = assert!(TAGS_BYTES_MAX <= TEXT_BYTES_MAX && NAME_BYTES_MAX <= TEXT_BYTES_MAX);

/// Where the refused values of one series go, and what all their rows say.
#[derive(Debug)]
pub(crate) struct Quarantined {
    pub(crate) series: SeriesId,
    pub(super) declared: Declared,
    /// The names of its fields; none if it was not defined.
    pub(super) fields: Arc<[String]>,
}

/// How a series was declared whose values are refused. The state holds the same.
#[derive(Debug)]
pub(super) enum Declared {
    /// Some of its values do not fit.
    Series(Arc<SeriesInfo>),
    Refused(Arc<RefusedSeries>),
    Undefined,
}

impl Declared {
    pub(super) fn device(&self) -> Option<&str> {
        match self {
            Self::Series(info) => Some(&info.device),
            Self::Refused(refused) => Some(&refused.device),
            Self::Undefined => None,
        }
    }

    fn table(&self) -> &str {
        match self {
            Self::Series(info) => &info.table,
            Self::Refused(refused) => &refused.table,
            Self::Undefined => "",
        }
    }

    fn tags(&self) -> &[(String, String)] {
        match self {
            Self::Series(info) => &info.tags,
            Self::Refused(refused) => &refused.tags,
            Self::Undefined => &[],
        }
    }
}

impl Quarantined {
    /// Memory of one of its rows, in bytes, about.
    pub(super) fn row_bytes(&self) -> usize {
        let tag = |(key, value): &(String, String)| key.len() + value.len() + 2;
        let tags: usize = self.declared.tags().iter().map(tag).sum();
        let texts = self.declared.table().len() + tags.min(TAGS_BYTES_MAX) + OWN_TEXT_BYTES;
        size_of::<i64>() + QUARANTINE_FIELDS.len() * size_of::<String>() + texts
    }

    fn field(&self, at: u16) -> Cow<'_, str> {
        match self.fields.get(usize::from(at)) {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Owned(format!("#{at}")),
        }
    }
}

/// Hands on the rows that `quarantine` gets, one for each refused value, in pieces.
pub(super) fn refused_rows(
    times: &[i64],
    columns: &[Column],
    to: &Resolved,
    agent: &AgentId,
    sink: &mut dyn FnMut(SeriesRows),
) {
    let Some(quarantined) = &to.quarantine else {
        return;
    };
    let mut piece = Piece::new(quarantined, agent);
    for (column, target) in columns.iter().zip(to.columns.iter()) {
        let field = quarantined.field(column.field);
        each_present(times.len(), column, |row, value| {
            let Some(reason) = refusal(*target, &column.values, value) else {
                return;
            };
            let text = value_text(&column.values, value);
            piece.push(times[row], &field, text, reason);
            if piece.bytes >= PIECE_BYTES_MAX {
                sink(piece.take());
            }
        });
    }
    if !piece.times.is_empty() {
        sink(piece.take());
    }
}

/// Why this value is refused, if it is.
fn refusal(target: Target, values: &Values, at: usize) -> Option<Refusal> {
    match (target, values) {
        (Target::Refuse { reason }, _) => Some(reason),
        (
            Target::Keep {
                field_type: FieldType::Float,
                ..
            },
            Values::Int(ints),
        ) if !is_exact(ints[at]) => Some(Refusal::IntNotExact),
        (Target::Keep { .. }, _) => None,
    }
}

/// Rows that are not handed on yet.
struct Piece {
    series: SeriesId,
    agent: String,
    table: String,
    tags: String,
    times: Vec<i64>,
    fields: Vec<String>,
    values: Vec<String>,
    reasons: Vec<String>,
    /// What they will hold.
    bytes: usize,
}

impl Piece {
    fn new(quarantined: &Quarantined, agent: &AgentId) -> Self {
        Self {
            series: quarantined.series,
            agent: agent.to_string(),
            table: quarantined.declared.table().to_owned(),
            tags: tags_text(quarantined.declared.tags()),
            times: Vec::new(),
            fields: Vec::new(),
            values: Vec::new(),
            reasons: Vec::new(),
            bytes: 0,
        }
    }

    fn push(&mut self, time: i64, field: &str, value: String, reason: Refusal) {
        let reason = reason.text();
        let common = self.agent.len() + self.table.len() + self.tags.len();
        let own = field.len() + value.len() + reason.len();
        let strings = QUARANTINE_FIELDS.len() * size_of::<String>();
        self.bytes += size_of::<i64>() + strings + common + own;
        self.times.push(time);
        self.fields.push(field.to_owned());
        self.values.push(value);
        self.reasons.push(reason.into_owned());
    }

    fn take(&mut self) -> SeriesRows {
        self.bytes = 0;
        let times = std::mem::take(&mut self.times);
        let rows = times.len();
        let texts = [
            vec![self.agent.clone(); rows],
            vec![self.table.clone(); rows],
            vec![self.tags.clone(); rows],
            std::mem::take(&mut self.fields),
            std::mem::take(&mut self.values),
            std::mem::take(&mut self.reasons),
        ];
        let columns = (0_u16..).zip(texts).map(|(field, texts)| Column {
            field,
            present: None,
            values: Values::Text(texts),
        });
        SeriesRows {
            series: self.series,
            times,
            columns: columns.collect(),
        }
    }
}

/// `key=value,..`, as much as has room.
fn tags_text(tags: &[(String, String)]) -> String {
    let mut text = String::new();
    for (key, value) in tags {
        if text.len() > TAGS_BYTES_MAX {
            break;
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(key);
        text.push('=');
        text.push_str(value);
    }
    fit(text, TAGS_BYTES_MAX)
}

/// The whole characters of a text that this many bytes have room for.
pub(super) fn fit(mut text: String, bytes_max: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}

fn value_text(values: &Values, at: usize) -> String {
    match values {
        Values::Float(v) => format!("{:?}", v[at]),
        Values::Int(v) => v[at].to_string(),
        Values::Bool(v) => v[at].to_string(),
        Values::Text(v) => v[at].clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::TableId;

    /// As many tags as a series may have, each as long as it may be.
    fn long_tags() -> Vec<(String, String)> {
        let tag = |at: u32| (format!("{at:02}{}", "k".repeat(254)), "v".repeat(256));
        (0..64).map(tag).collect()
    }

    fn resolved(tags: Vec<(String, String)>, target: Target) -> Resolved {
        let info = SeriesInfo {
            id: SeriesId(7),
            table_id: TableId(0),
            table: "t".repeat(256),
            device: "d".to_owned(),
            tags,
        };
        let quarantined = Quarantined {
            series: SeriesId(8),
            declared: Declared::Series(Arc::new(info)),
            fields: ["f".repeat(256)].into(),
        };
        Resolved {
            series: None,
            rows: 0,
            refused: 1,
            quarantine: Some(Arc::new(quarantined)),
            columns: [target].into(),
        }
    }

    fn texts(rows: &SeriesRows, at: usize) -> &[String] {
        match &rows.columns[at].values {
            Values::Text(texts) => texts,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn many_refused_values_of_a_long_name_come_in_pieces() {
        let times: Vec<i64> = (0..58_000).collect();
        let columns = [Column {
            field: 0,
            present: None,
            values: Values::Bool(vec![true; times.len()]),
        }];
        let reason = Refusal::TypeConflict;
        let to = resolved(long_tags(), Target::Refuse { reason });
        let agent = AgentId::parse("gw").unwrap();
        let (mut pieces, mut all_bytes, mut back) = (0, 0, Vec::new());
        refused_rows(&times, &columns, &to, &agent, &mut |rows| {
            let row_bytes = rows.bytes_held() / rows.times.len();
            assert!(row_bytes < 2_048, "{row_bytes} bytes a row");
            assert!(rows.bytes_held() <= PIECE_BYTES_MAX + 4_096);
            for column in 0..rows.columns.len() {
                let longest = texts(&rows, column).iter().map(String::len).max();
                assert!(longest.unwrap() <= TEXT_BYTES_MAX);
            }
            pieces += 1;
            all_bytes += rows.bytes_held();
            back.extend(rows.times);
        });
        assert_eq!(back, times);
        let about = to.quarantine.unwrap().row_bytes() * times.len();
        assert!(about / 2 < all_bytes && all_bytes < about * 2);
        assert!(pieces > 1 && all_bytes < 128 << 20, "{all_bytes} bytes");
    }

    #[test]
    fn a_row_names_the_field_of_an_int_that_is_not_exact() {
        let columns = [Column {
            field: 0,
            present: Some(vec![true, false, true]),
            values: Values::Int(vec![7, i64::MAX]),
        }];
        let target = Target::Keep {
            slot: 3,
            field_type: FieldType::Float,
        };
        let tags = vec![("a".to_owned(), "1".to_owned()), ("b".into(), "2".into())];
        let to = resolved(tags, target);
        let agent = AgentId::parse("gw").unwrap();
        let mut all = Vec::new();
        refused_rows(&[10, 11, 12], &columns, &to, &agent, &mut |rows| {
            all.push(rows);
        });
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].times, [12]);
        assert_eq!(texts(&all[0], 2), ["a=1,b=2"]);
        assert_eq!(texts(&all[0], 3), ["f".repeat(256)]);
        assert_eq!(texts(&all[0], 4), [i64::MAX.to_string()]);
    }

    #[test]
    fn what_has_no_room_is_cut_between_characters() {
        assert_eq!(fit("aä".to_owned(), 3), "aä");
        assert_eq!(fit("aä".to_owned(), 2), "a");
        assert_eq!(fit("\u{fffd}".repeat(9), 16).len(), 15);
        let tags = tags_text(&long_tags());
        assert!(tags.len() == TAGS_BYTES_MAX && tags.starts_with("00k"));
    }
}
