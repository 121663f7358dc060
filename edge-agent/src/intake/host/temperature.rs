//! Sensors under `/sys` to `host_temperature`, in degrees Celsius.

use shared::reading::{Reading, Value};

use super::Row;

/// `name` is where it is or what it measures, `text` thousandths of a degree as the kernel has it.
pub(super) fn reading(row: &Row, name: &str, text: &str) -> Option<Reading> {
    let thousandths: i32 = text.trim().parse().ok()?;
    let celsius = Value::Float(f64::from(thousandths) / 1_000.0);
    row.reading(
        "host_temperature",
        Some(("sensor", name.trim())),
        vec![("celsius", celsius)],
    )
}

#[cfg(test)]
mod tests {
    use super::super::{lines, test_row};
    use super::*;

    #[test]
    fn thousandths_become_degrees() {
        let told = reading(&test_row(), "x86_pkg_temp\n", "-12500\n").unwrap();
        assert_eq!(
            lines(&[told]),
            ["host_temperature,device=gw1,sensor=x86_pkg_temp celsius=-12.5 9"]
        );
        for broken in [("", "1"), ("cpu", ""), ("cpu", "warm")] {
            assert_eq!(reading(&test_row(), broken.0, broken.1), None);
        }
    }
}
