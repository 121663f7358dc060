//! The lines: what devices say, in the order in which they take turns.

use std::fmt::Write as _;

const CANNOT_FAIL: &str = "writing to a string cannot fail";
/// 2026-11-26 12:00 UTC, in nanoseconds.
const START: u64 = 1_795_694_400_000_000_000;
const SECOND: u64 = 1_000_000_000;

/// Lines of one kind.
pub(crate) struct Set {
    pub(crate) name: &'static str,
    pub(crate) text: String,
    /// Values of all lines together.
    pub(crate) values: usize,
}

impl Set {
    pub(crate) fn lines(&self) -> Vec<&[u8]> {
        self.text.lines().map(str::as_bytes).collect()
    }
}

pub(crate) fn sets() -> [Set; 3] {
    [trucks(), controller(), wide()]
}

/// A hundred trucks with seven fields and the tags of the `iot` set of the Time Series Benchmark
/// Suite, in turn.
fn trucks() -> Set {
    const FIELDS: [(&str, usize); 7] = [
        ("latitude", 5),
        ("longitude", 5),
        ("elevation", 0),
        ("velocity", 0),
        ("heading", 0),
        ("grade", 0),
        ("fuel_consumption", 1),
    ];
    let (rows, trucks) = (200, 100);
    let mut text = String::new();
    for row in 0..rows {
        for truck in 0..trucks {
            write!(
                text,
                "readings,device=truck_{truck},fleet=South,driver=Trish,model=H-2,\
                 device_version=v2.3,load_capacity=1500"
            )
            .expect(CANNOT_FAIL);
            for (nth, (name, decimals)) in FIELDS.into_iter().enumerate() {
                let value = walk(row, truck + nth);
                put_field(&mut text, nth, name, value, decimals);
            }
            writeln!(text, " {}", time(row, 10)).expect(CANNOT_FAIL);
        }
    }
    Set {
        name: "truck",
        text,
        values: rows * trucks * FIELDS.len(),
    }
}

/// Two hundred registers that are polled each second, each a table of its own without tags.
fn controller() -> Set {
    let (rows, registers) = (200, 200);
    let mut text = String::new();
    for row in 0..rows {
        for register in 0..registers {
            write!(text, "register_{register}").expect(CANNOT_FAIL);
            put_field(&mut text, 0, "value", walk(row, register), 1);
            writeln!(text, " {}", time(row, 1)).expect(CANNOT_FAIL);
        }
    }
    Set {
        name: "controller",
        text,
        values: rows * registers,
    }
}

/// One machine with a hundred fields.
fn wide() -> Set {
    let (rows, fields) = (1_000, 100);
    let mut text = String::new();
    for row in 0..rows {
        text.push_str("press,device=press_1,hall=H4");
        for field in 0..fields {
            let name = format!("channel_{field}");
            put_field(&mut text, field, &name, walk(row, field), 2);
        }
        writeln!(text, " {}", time(row, 1)).expect(CANNOT_FAIL);
    }
    Set {
        name: "wide",
        text,
        values: rows * fields,
    }
}

/// In nanoseconds; rows are so many seconds apart.
fn time(row: usize, seconds: u64) -> u64 {
    START + row as u64 * seconds * SECOND
}

fn walk(row: usize, from: usize) -> f64 {
    (row as f64 * 0.37 + from as f64).sin() * 50.0
}

fn put_field(text: &mut String, nth: usize, name: &str, value: f64, decimals: usize) {
    let before = if nth == 0 { ' ' } else { ',' };
    write!(text, "{before}{name}={value:.decimals$}").expect(CANNOT_FAIL);
}
