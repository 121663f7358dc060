//! A reading: one row that a device gave.

use std::sync::Arc;

use crate::id::TimeNs;
use crate::limits::{FIELDS_MAX, NAME_BYTES_MAX, TAGS_MAX, TEXT_BYTES_MAX};

/// One row = (table, device, tags, time, fields).
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// All but the time and the values: readings share it.
    pub shape: Arc<SeriesShape>,
    pub time: TimeNs,
    /// One for each of the shape's fields, in their order.
    pub values: Vec<Value>,
}

/// A series and the names of its fields: what its readings have in common. A source that gives
/// many readings makes it once, so that one more reading costs its values alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesShape {
    /// Readings of one kind: "weather", "truck".
    pub table: String,
    /// What it comes from.
    pub device: String,
    /// Labels that identify, together with the device. Sorted by key, keys unique.
    pub tags: Vec<(String, String)>,
    /// At least one; unique and different from every tag key.
    pub fields: Vec<String>,
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
    /// A reading with a shape of its own.
    pub fn new(
        table: String,
        device: String,
        tags: Vec<(String, String)>,
        time: TimeNs,
        fields: Vec<(String, Value)>,
    ) -> Reading {
        let (fields, values) = fields.into_iter().unzip();
        let shape = Arc::new(SeriesShape {
            table,
            device,
            tags,
            fields,
        });
        Reading {
            shape,
            time,
            values,
        }
    }

    /// Its fields, by name.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        let names = self.shape.fields.iter().map(String::as_str);
        names.zip(&self.values)
    }

    /// Whether a batch can carry this reading.
    pub fn check(&self) -> Result<(), Unfit> {
        self.shape.check()?;
        if self.values.len() != self.shape.fields.len() {
            return Err(Unfit::Rule("a field without a value, or one too many"));
        }
        let fits = |value: &Value| match value {
            Value::Text(text) => text.len() <= TEXT_BYTES_MAX,
            Value::Float(_) | Value::Int(_) | Value::Bool(_) => true,
        };
        if self.values.iter().all(fits) {
            Ok(())
        } else {
            Err(Unfit::Limit("bytes of a text value"))
        }
    }
}

impl SeriesShape {
    /// Whether batches can carry readings of this shape.
    pub fn check(&self) -> Result<(), Unfit> {
        let names = self.fields.iter().map(String::as_str);
        check_series(&self.table, &self.device, &self.tags, names)
    }

    /// About what it takes in memory.
    pub fn memory_bytes(&self) -> usize {
        const EACH: usize = 64;
        let tags = self
            .tags
            .iter()
            .map(|(key, value)| EACH + key.len() + value.len());
        let fields = self.fields.iter().map(|name| EACH + name.len());
        let names = self.table.len() + self.device.len();
        EACH + names + tags.sum::<usize>() + fields.sum::<usize>()
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
        Reading::new(
            "truck".to_owned(),
            "t-17".to_owned(),
            vec![pair("fleet"), pair("model")],
            TimeNs(1),
            vec![
                ("velocity".to_owned(), Value::Float(1.5)),
                ("state".to_owned(), Value::Text("on".to_owned())),
            ],
        )
    }

    #[test]
    fn a_plain_reading_fits() {
        assert_eq!(reading().check(), Ok(()));
    }

    #[test]
    fn each_rule_bites() {
        let breaches: [(&str, fn(&mut SeriesShape)); 12] = [
            ("no table", |s| s.table.clear()),
            ("long table", |s| s.table = "x".repeat(257)),
            ("control character", |s| s.device = "a\nb".to_owned()),
            ("empty tag value", |s| s.tags[0].1.clear()),
            ("unsorted tags", |s| s.tags.swap(0, 1)),
            ("tag twice", |s| s.tags[1].0 = "fleet".to_owned()),
            ("no fields", |s| s.fields.clear()),
            ("field twice", |s| s.fields[1] = "velocity".to_owned()),
            ("field like a tag", |s| s.fields[1] = "model".to_owned()),
            ("field time", |s| s.fields[0] = "time".to_owned()),
            ("tag device", |s| s.tags[0].0 = "device".to_owned()),
            ("too many fields", |s| {
                s.fields = (0..1025).map(|i| format!("f{i}")).collect();
            }),
        ];
        for (what, breach) in breaches {
            let mut broken = reading();
            breach(Arc::make_mut(&mut broken.shape));
            broken
                .values
                .resize(broken.shape.fields.len(), Value::Bool(true));
            assert!(broken.check().is_err(), "{what}");
        }
        let mut long = reading();
        long.values[1] = Value::Text("x".repeat(16_385));
        assert!(long.check().is_err());
        let mut missing = reading();
        missing.values.pop();
        assert!(missing.check().is_err());
    }
}
