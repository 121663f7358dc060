//! A reading: one row that a device gave.

use crate::id::TimeNs;
use crate::limits::{FIELDS_MAX, NAME_BYTES_MAX, TAGS_MAX, TEXT_BYTES_MAX};

/// One row = (table, device, tags, time, fields).
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Readings of one kind: "weather", "truck".
    pub table: String,
    /// What it comes from.
    pub device: String,
    /// Labels that identify, together with the device. Sorted by key, keys unique.
    pub tags: Vec<(String, String)>,
    pub time: TimeNs,
    /// At least one; names unique and different from every tag key.
    pub fields: Vec<(String, Value)>,
}

/// One field of one reading.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Float(f64),
    Int(i64),
    Bool(bool),
    Text(String),
}

/// The type of a field, fixed at its first use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FieldType {
    Float = 0,
    Int = 1,
    Bool = 2,
    Text = 3,
}

/// Names that every table has already, so that no tag or field can bear them.
pub const RESERVED_COLUMNS: [&str; 2] = ["time", "device"];

/// Why a reading, a series or a batch cannot be encoded: its source has to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Too long or too many; smaller parts may fit.
    #[error("over a limit of the format: {0}")]
    Limit(&'static str),
    /// Never allowed, in any size.
    #[error("against the format: {0}")]
    Rule(&'static str),
}

impl Reading {
    /// Whether a batch can carry this reading.
    pub fn check(&self) -> Result<(), Unfit> {
        let names = self.fields.iter().map(|(name, _)| name.as_str());
        check_series(&self.table, &self.device, &self.tags, names)?;
        let fits = |value: &Value| match value {
            Value::Text(text) => text.len() <= TEXT_BYTES_MAX,
            Value::Float(_) | Value::Int(_) | Value::Bool(_) => true,
        };
        if self.fields.iter().all(|(_, value)| fits(value)) {
            Ok(())
        } else {
            Err(Unfit::Limit("bytes of a text value"))
        }
    }
}

/// The rules of a series: its names, and how tags and fields stand to each other.
pub(crate) fn check_series<'a>(
    table: &'a str,
    device: &'a str,
    tags: &'a [(String, String)],
    fields: impl ExactSizeIterator<Item = &'a str> + Clone,
) -> Result<(), Unfit> {
    check_name(table)?;
    check_name(device)?;
    if tags.len() > TAGS_MAX {
        return Err(Unfit::Limit("tags of a series"));
    }
    for (key, value) in tags {
        check_name(key)?;
        check_name(value)?;
    }
    if !tags.is_sorted_by(|a, b| a.0 < b.0) {
        return Err(Unfit::Rule(
            "tags that are not sorted by key, or a key twice",
        ));
    }
    if fields.len() > FIELDS_MAX {
        return Err(Unfit::Limit("fields of a series"));
    }
    if fields.len() == 0 {
        return Err(Unfit::Rule("a series without fields"));
    }
    fields.clone().try_for_each(check_name)?;
    let is_tag = |name: &str| {
        tags.binary_search_by(|(key, _)| key.as_str().cmp(name))
            .is_ok()
    };
    if fields.clone().any(is_tag) {
        return Err(Unfit::Rule("a tag and a field of one name"));
    }
    let mut columns: Vec<&str> = fields.chain(RESERVED_COLUMNS).collect();
    columns.extend(tags.iter().map(|(key, _)| key.as_str()));
    columns.sort_unstable();
    match columns.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) if RESERVED_COLUMNS.contains(&pair[0]) => {
            Err(Unfit::Rule("a tag or field named `time` or `device`"))
        }
        Some(_) => Err(Unfit::Rule("a field twice")),
    }
}

/// The rules of a table, device, tag key, tag value or field name.
fn check_name(name: &str) -> Result<(), Unfit> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Unfit::Limit("bytes of a name"));
    }
    if name.is_empty() {
        return Err(Unfit::Rule("an empty name"));
    }
    if name.chars().any(char::is_control) {
        return Err(Unfit::Rule("a control character in a name"));
    }
    Ok(())
}

impl Value {
    pub fn field_type(&self) -> FieldType {
        match self {
            Value::Float(_) => FieldType::Float,
            Value::Int(_) => FieldType::Int,
            Value::Bool(_) => FieldType::Bool,
            Value::Text(_) => FieldType::Text,
        }
    }
}

impl FieldType {
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Float, Self::Int, Self::Bool, Self::Text]
            .into_iter()
            .find(|t| *t as u8 == byte)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::Int => "int",
            Self::Bool => "bool",
            Self::Text => "text",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading() -> Reading {
        let pair = |key: &str| (key.to_owned(), "x".to_owned());
        Reading {
            table: "truck".to_owned(),
            device: "t-17".to_owned(),
            tags: vec![pair("fleet"), pair("model")],
            time: TimeNs(1),
            fields: vec![
                ("velocity".to_owned(), Value::Float(1.5)),
                ("state".to_owned(), Value::Text("on".to_owned())),
            ],
        }
    }

    #[test]
    fn a_plain_reading_fits() {
        assert_eq!(reading().check(), Ok(()));
    }

    #[test]
    fn each_rule_bites() {
        let breaches: [(&str, fn(&mut Reading)); 13] = [
            ("no table", |r| r.table.clear()),
            ("long table", |r| r.table = "x".repeat(257)),
            ("control character", |r| r.device = "a\nb".to_owned()),
            ("empty tag value", |r| r.tags[0].1.clear()),
            ("unsorted tags", |r| r.tags.swap(0, 1)),
            ("tag twice", |r| r.tags[1].0 = "fleet".to_owned()),
            ("no fields", |r| r.fields.clear()),
            ("field twice", |r| r.fields[1].0 = "velocity".to_owned()),
            ("field like a tag", |r| r.fields[1].0 = "model".to_owned()),
            ("field time", |r| r.fields[0].0 = "time".to_owned()),
            ("tag device", |r| r.tags[0].0 = "device".to_owned()),
            ("too many fields", |r| {
                r.fields = (0..1025)
                    .map(|i| (format!("f{i}"), Value::Bool(true)))
                    .collect();
            }),
            ("long text", |r| {
                r.fields[1].1 = Value::Text("x".repeat(16_385));
            }),
        ];
        for (what, breach) in breaches {
            let mut broken = reading();
            breach(&mut broken);
            assert!(broken.check().is_err(), "{what}");
        }
    }
}
