//! `/proc/loadavg` and `/proc/uptime` to `host_load`.

use shared::reading::{Reading, Value};

use super::{Row, count};

pub(super) fn readings(row: &Row, loadavg: &str, uptime: Option<&str>) -> Vec<Reading> {
    let mut words = loadavg.split_ascii_whitespace();
    let mut fields = Vec::new();
    for name in ["load_1m", "load_5m", "load_15m"] {
        let load = words.next().and_then(|word| word.parse::<f64>().ok());
        let Some(load) = load.filter(|load| load.is_finite()) else {
            return Vec::new();
        };
        fields.push((name, Value::Float(load)));
    }
    // Runnable and existing: `1/90`.
    let tasks = words.next().and_then(|word| word.split_once('/'));
    let tasks = tasks.and_then(|(running, all)| Some((running.parse().ok()?, all.parse().ok()?)));
    if let Some((running, all)) = tasks {
        fields.extend([("tasks_running", count(running)), ("tasks", count(all))]);
    }
    let seconds = uptime.and_then(|text| text.split(['.', ' ']).next()?.parse().ok());
    fields.extend(seconds.map(|seconds| ("uptime_seconds", count(seconds))));
    row.reading("host_load", None, fields).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::super::{lines, test_row};
    use super::*;

    #[test]
    fn load_tasks_and_uptime_are_told() {
        let told = readings(
            &test_row(),
            "0.16 0.92 0.84 1/90 30800\n",
            Some("3600.25 1.0\n"),
        );
        assert_eq!(
            lines(&told),
            [
                "host_load,device=gw1 load_1m=0.16,load_5m=0.92,load_15m=0.84,tasks_running=1i,\
                 tasks=90i,uptime_seconds=3600i 9"
            ]
        );
        let less = readings(&test_row(), "1 2 3", None);
        assert_eq!(
            lines(&less),
            ["host_load,device=gw1 load_1m=1.0,load_5m=2.0,load_15m=3.0 9"]
        );
        assert!(readings(&test_row(), "1 2", None).is_empty());
    }
}
