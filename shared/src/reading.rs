//! A reading: one row that a device gave.

use crate::id::TimeNs;

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
