//! Influx line protocol: `table,tag=a,other=b field=1.5,count=7i,on=t,state="ok" 1700000000`.
//!
//! The measurement is the table; one tag, `device` unless told otherwise, names the device; the
//! other tags are tags. Escapes, quotes and numbers as InfluxDB reads them; what the format of
//! batches cannot carry is refused line by line, with its place. [`format`] is the inverse.
//! [`LineReader`] reads the same, faster, where lines are like those before.

use std::ops::Range;

use crate::id::TimeNs;
use crate::reading::{Reading, Unfit, Value};

mod plain;
mod reader;
mod write;

pub use reader::LineReader;
pub use write::format;

/// The tag that names the device, unless configured otherwise.
pub const DEVICE_KEY: &str = "device";

/// What the lines leave open.
#[derive(Debug, Clone, Copy)]
pub struct LineOptions<'a> {
    /// The time of a line that has none.
    pub default_time: TimeNs,
    /// The unit of the times that lines have.
    pub precision: Precision,
    /// The tag that names the device.
    pub device_key: &'a str,
    /// The device of a line without that tag.
    pub default_device: &'a str,
}

/// The unit of a line's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    #[default]
    Ns,
    Us,
    Ms,
    S,
}

/// A line that is no reading. The lines after it are read all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct LineError {
    /// Counted from 1.
    pub line: usize,
    /// In bytes, counted from 1.
    pub column: usize,
    pub reason: LineReason,
}

/// Why a line is no reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineReason {
    /// It is not line protocol.
    #[error("{0}")]
    Syntax(&'static str),
    /// It is, but no batch can carry it.
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

impl<'a> LineOptions<'a> {
    /// Nanoseconds, and the device in the tag `device`.
    pub fn new(default_time: TimeNs, default_device: &'a str) -> Self {
        Self {
            default_time,
            precision: Precision::Ns,
            device_key: DEVICE_KEY,
            default_device,
        }
    }
}

impl Precision {
    /// "ns", "us", "ms" or "s".
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "ns" => Some(Self::Ns),
            "us" => Some(Self::Us),
            "ms" => Some(Self::Ms),
            "s" => Some(Self::S),
            _ => None,
        }
    }

    fn unit_ns(self) -> i64 {
        match self {
            Self::Ns => 1,
            Self::Us => 1_000,
            Self::Ms => 1_000_000,
            Self::S => 1_000_000_000,
        }
    }
}

/// Reads lines one after another; blank lines and comments are passed over.
pub fn parse<'a>(bytes: &'a [u8], options: LineOptions<'a>) -> Lines<'a> {
    Lines {
        bytes,
        at: 0,
        line: 1,
        line_start: 0,
        identity: 0..0,
        options,
    }
}

/// The readings of a payload.
#[derive(Debug, Clone)]
pub struct Lines<'a> {
    bytes: &'a [u8],
    /// The next byte to read.
    at: usize,
    /// The number of the line that `at` is in, and where it starts.
    line: usize,
    line_start: usize,
    /// Table and tags of the last line whose fields were begun, with the space behind them.
    identity: Range<usize>,
    options: LineOptions<'a>,
}

impl Iterator for Lines<'_> {
    type Item = Result<Reading, LineError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.skip_to_reading();
        if self.at == self.bytes.len() {
            return None;
        }
        let first_line = self.line;
        Some(self.reading().map_err(|reason| match reason {
            // A text may have led over line ends: the error is where the cursor stands, and what
            // follows it on that line goes with it.
            LineReason::Syntax(_) => {
                let (line, column) = (self.line, self.at - self.line_start + 1);
                self.skip_line();
                LineError {
                    line,
                    column,
                    reason,
                }
            }
            // Found when all of the line was read.
            LineReason::Unfit(_) => LineError {
                line: first_line,
                column: 1,
                reason,
            },
        }))
    }
}

/// Where a name ends, besides at the end of its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    /// At `,` and space; `=` is an ordinary character and `\=` two of them.
    Table,
    /// At `=`, space and `,`.
    Key,
    /// At `,` and space.
    TagValue,
}

impl Name {
    fn ends_at(self, byte: u8) -> bool {
        matches!(byte, b',' | b' ' | b'\n') || (self == Self::Key && byte == b'=')
    }

    fn escapes(self, byte: u8) -> bool {
        matches!(byte, b',' | b' ' | b'\\') || (self != Self::Table && byte == b'=')
    }
}

impl Lines<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Steps over one byte that is known to be there.
    fn step(&mut self) {
        let ends_line = self.peek() == Some(b'\n');
        self.at += 1;
        if ends_line {
            self.line += 1;
            self.line_start = self.at;
        }
    }

    fn skip_to_reading(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => self.step(),
                b'#' => self.skip_line(),
                _ => return,
            }
        }
    }

    /// To behind the next line end.
    fn skip_line(&mut self) {
        let length = self.bytes[self.at..].iter().position(|byte| *byte == b'\n');
        match length {
            None => self.at = self.bytes.len(),
            Some(length) => {
                self.at += length;
                self.step();
            }
        }
    }

    fn skip_spaces(&mut self) {
        while self.peek() == Some(b' ') {
            self.step();
        }
    }

    fn expect(&mut self, byte: u8, or: &'static str) -> Result<(), LineReason> {
        if self.peek() != Some(byte) {
            return Err(LineReason::Syntax(or));
        }
        self.step();
        Ok(())
    }

    fn reading(&mut self) -> Result<Reading, LineReason> {
        let start = self.at;
        let table = self.name(Name::Table)?;
        let (device, tags) = self.tags()?;
        self.expect(b' ', "expected a space and the fields")?;
        self.identity = start..self.at;
        self.skip_spaces();
        let fields = self.fields()?;
        self.skip_spaces();
        let time = self.time()?;
        self.skip_spaces();
        self.line_end()?;
        let reading = Reading::new(table, device, tags, time, fields);
        reading.check()?;
        Ok(reading)
    }

    /// The device, and all other tags, sorted.
    fn tags(&mut self) -> Result<(String, Vec<(String, String)>), LineReason> {
        let mut device = None;
        let mut tags = Vec::new();
        while self.peek() == Some(b',') {
            self.step();
            let key = self.name(Name::Key)?;
            self.expect(b'=', "expected `=` and the tag's value")?;
            let value = self.name(Name::TagValue)?;
            if key != self.options.device_key {
                tags.push((key, value));
            } else if device.replace(value).is_some() {
                return Err(LineReason::Syntax("the tag of the device twice"));
            }
        }
        tags.sort_unstable();
        Ok((
            device.unwrap_or_else(|| self.options.default_device.to_owned()),
            tags,
        ))
    }

    fn fields(&mut self) -> Result<Vec<(String, Value)>, LineReason> {
        let mut fields = Vec::new();
        loop {
            let key = self.name(Name::Key)?;
            self.expect(b'=', "expected `=` and the field's value")?;
            fields.push((key, self.value()?));
            if self.peek() != Some(b',') {
                return Ok(fields);
            }
            self.step();
        }
    }

    fn name(&mut self, kind: Name) -> Result<String, LineReason> {
        let rest = &self.bytes[self.at..];
        let stops = |byte: &u8| kind.ends_at(*byte) || *byte == b'\\';
        let length = rest.iter().position(stops).unwrap_or(rest.len());
        if length == 0 || rest.get(length) == Some(&b'\\') {
            return self.name_by_bytes(kind);
        }
        self.at += length;
        let name = std::str::from_utf8(&rest[..length]);
        name.map(str::to_owned)
            .map_err(|_| LineReason::Syntax("a name that is not UTF-8"))
    }

    /// A name that is empty or has backslashes.
    fn name_by_bytes(&mut self, kind: Name) -> Result<String, LineReason> {
        let mut name = Vec::new();
        while let Some(byte) = self.peek().filter(|byte| !kind.ends_at(*byte)) {
            self.step();
            if byte != b'\\' {
                name.push(byte);
                continue;
            }
            match self.peek() {
                Some(next) if kind.escapes(next) => {
                    name.push(next);
                    self.step();
                }
                // A backslash before any other character stands for itself.
                Some(next) if next != b'\n' => name.push(byte),
                Some(_) | None => return Err(LineReason::Syntax("a backslash ends the line")),
            }
        }
        if name.is_empty() {
            return Err(LineReason::Syntax("expected a name"));
        }
        String::from_utf8(name).map_err(|_| LineReason::Syntax("a name that is not UTF-8"))
    }

    fn value(&mut self) -> Result<Value, LineReason> {
        let rest = &self.bytes[self.at..];
        if let Some((value, length)) = plain::value(rest) {
            self.at += length;
            return Ok(value);
        }
        if self.peek() == Some(b'"') {
            return self.string().map(Value::Text);
        }
        let length = rest.iter().position(|byte| plain::ends_value(*byte));
        let word = &rest[..length.unwrap_or(rest.len())];
        let value = word_value(word).map_err(LineReason::Syntax)?;
        self.at += word.len();
        Ok(value)
    }

    /// A quoted text; it may hold line ends.
    fn string(&mut self) -> Result<String, LineReason> {
        let (start, line, line_start) = (self.at, self.line, self.line_start);
        self.step();
        let mut text = Vec::new();
        while let Some(byte) = self.peek() {
            self.step();
            match (byte, self.peek()) {
                (b'"', _) => {
                    return String::from_utf8(text)
                        .map_err(|_| LineReason::Syntax("a text that is not UTF-8"));
                }
                (b'\\', Some(escaped @ (b'"' | b'\\'))) => {
                    text.push(escaped);
                    self.step();
                }
                _ => text.push(byte),
            }
        }
        // Without its end it swallowed all lines after it: back to where it began.
        (self.at, self.line, self.line_start) = (start, line, line_start);
        Err(LineReason::Syntax("a text without a closing quote"))
    }

    fn time(&mut self) -> Result<TimeNs, LineReason> {
        let rest = &self.bytes[self.at..];
        let digit = |byte: &u8| byte.is_ascii_digit() || *byte == b'-';
        let length = rest
            .iter()
            .position(|byte| !digit(byte))
            .unwrap_or(rest.len());
        if length == 0 {
            return Ok(self.options.default_time);
        }
        let number = parse_text::<i64>(&rest[..length]);
        let time = number.and_then(|n| n.checked_mul(self.options.precision.unit_ns()));
        let time = time.ok_or(LineReason::Syntax("a time outside 64 bits of nanoseconds"))?;
        self.at += length;
        Ok(TimeNs(time))
    }

    fn line_end(&mut self) -> Result<(), LineReason> {
        if self.peek() == Some(b'\r') {
            self.step();
        }
        match self.peek() {
            None => Ok(()),
            Some(_) => self.expect(b'\n', "expected a time or the end of the line"),
        }
    }
}

/// A number that is not plainly written.
fn word_value(word: &[u8]) -> Result<Value, &'static str> {
    if word.is_empty() {
        return Err("expected a value");
    }
    let unsigned = word
        .strip_prefix(b"-")
        .or(word.strip_prefix(b"+"))
        .unwrap_or(word);
    if [&b"nan"[..], b"inf", b"infinity"]
        .iter()
        .any(|name| unsigned.eq_ignore_ascii_case(name))
    {
        return Err("NaN and infinity are no values here: leave the field out");
    }
    match word.split_last() {
        Some((b'i', digits)) if is_digits(digits.strip_prefix(b"-").unwrap_or(digits)) => {
            parse_text(digits)
                .map(Value::Int)
                .ok_or("an integer outside 64 bits")
        }
        Some((b'u', digits)) if is_digits(digits) => parse_text(digits)
            .map(Value::Int)
            .ok_or("an unsigned integer above 2^63 - 1"),
        _ => float_value(word),
    }
}

fn float_value(word: &[u8]) -> Result<Value, &'static str> {
    const NO_VALUE: &str = "expected a number, a boolean or a quoted text";
    let allowed = |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
    if !word.iter().all(allowed) {
        return Err(NO_VALUE);
    }
    match parse_text::<f64>(word) {
        None => Err(NO_VALUE),
        Some(value) if value.is_infinite() => Err("a float beyond what 64 bits hold"),
        Some(value) => Ok(Value::Float(value)),
    }
}

fn is_digits(word: &[u8]) -> bool {
    !word.is_empty() && word.iter().all(u8::is_ascii_digit)
}

fn parse_text<T: std::str::FromStr>(word: &[u8]) -> Option<T> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
