//! Readings as line protocol.

use std::fmt::Write;

use super::DEVICE_KEY;
use crate::reading::{Reading, Unfit, Value};

/// One line without its line end; [`super::parse`] reads the same reading from it. Refused are
/// readings that no batch can carry and the few that lines cannot express.
pub fn format(reading: &Reading) -> Result<String, Unfit> {
    reading.check()?;
    let shape = &reading.shape;
    if shape.table.starts_with('#') {
        return Err(Unfit::Rule("a line that begins with `#` is a comment"));
    }
    let mut line = String::new();
    push_escaped(&mut line, &shape.table, &[',', ' ', '\\']);
    push_tag(&mut line, DEVICE_KEY, &shape.device);
    for (key, value) in &shape.tags {
        push_tag(&mut line, key, value);
    }
    for (index, (name, value)) in reading.fields().enumerate() {
        line.push(if index == 0 { ' ' } else { ',' });
        push_name(&mut line, name);
        line.push('=');
        push_value(&mut line, value)?;
    }
    write!(line, " {}", reading.time.0).expect("writing to a String cannot fail");
    Ok(line)
}

fn push_tag(line: &mut String, key: &str, value: &str) {
    line.push(',');
    push_name(line, key);
    line.push('=');
    push_name(line, value);
}

fn push_name(line: &mut String, name: &str) {
    push_escaped(line, name, &[',', ' ', '=', '\\']);
}

fn push_value(line: &mut String, value: &Value) -> Result<(), Unfit> {
    const CANNOT_FAIL: &str = "writing to a String cannot fail";
    match value {
        Value::Float(value) if !value.is_finite() => {
            return Err(Unfit::Rule("line protocol has neither NaN nor infinity"));
        }
        Value::Float(value) => write!(line, "{value:?}").expect(CANNOT_FAIL),
        Value::Int(value) => write!(line, "{value}i").expect(CANNOT_FAIL),
        Value::Bool(value) => line.push(if *value { 't' } else { 'f' }),
        Value::Text(text) => {
            line.push('"');
            push_escaped(line, text, &['"', '\\']);
            line.push('"');
        }
    }
    Ok(())
}

fn push_escaped(line: &mut String, text: &str, special: &[char]) {
    for character in text.chars() {
        if special.contains(&character) {
            line.push('\\');
        }
        line.push(character);
    }
}
