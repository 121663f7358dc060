use shared::id::TimeNs;

use super::*;
use crate::buffer::{ClassRule, Overflow};

const SMALL: &str = r#"
[agent]
id = "gw1"
data_dir = "data"

[uplink]
servers = ["10.0.0.1:8883", "[::1]:8883"]
ca = "pki/nodes-ca.pem"
cert = "/keys/gw1.pem"
key = "/keys/gw1.key"
"#;

fn check(more: &str) -> Result<Config, String> {
    check_text(&format!("{SMALL}{more}"))
}

fn check_text(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("/etc/tributary/agent.toml")).map_err(|e| e.to_string())
}

#[test]
fn paths_resolve_against_the_file_and_the_rest_has_defaults() {
    let config = check("").unwrap();
    assert_eq!(config.data_dir, Path::new("/etc/tributary/data"));
    assert_eq!(
        config.uplink.ca,
        Path::new("/etc/tributary/pki/nodes-ca.pem")
    );
    assert_eq!(config.uplink.cert, Path::new("/keys/gw1.pem"));
    assert_eq!(config.batch.linger.of(Class(7)), Duration::from_secs(1));
    assert_eq!(
        (config.health, config.ledger, config.host),
        (None, None, None)
    );
    assert!(config.lines.is_empty() && config.replays.is_empty());
    let uplink = config.uplink;
    let unbound = (uplink.bytes_per_second_max, uplink.backlog_hours);
    assert_eq!(unbound, (0, Hours::ALWAYS));
}

#[test]
fn a_metered_link_has_a_cap_and_hours() {
    let more = "bytes_per_second_max = 2000\nbacklog_hours = [\"22:00-06:00\"]\n";
    let uplink = check(more).unwrap().uplink;
    assert_eq!(uplink.bytes_per_second_max, 2_000);
    let noon = TimeNs(12 * 3_600 * 1_000_000_000);
    assert!(uplink.backlog_hours.contains(TimeNs(0)) && !uplink.backlog_hours.contains(noon));
    for (more, start, part) in [
        (
            "bytes_per_second_max = 3\n",
            ":11: `uplink.bytes_per_second_max`",
            "256",
        ),
        (
            "backlog_hours = [\"22-06\"]\n",
            ":11: `uplink.backlog_hours` = \"22-06\"",
            "UTC",
        ),
    ] {
        let error = check(more).unwrap_err();
        let start = format!("/etc/tributary/agent.toml{start}");
        assert!(error.starts_with(&start), "{start}: {error}");
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[test]
fn every_intake_is_read() {
    let more = r#"
[intake.host]
[[intake.line]]
listen = "tcp://127.0.0.1:8094"
ack = true
[[intake.line]]
listen = "unix://run/lines.sock"
precision = "ms"
[[intake.line]]
listen = "stdin"
[[intake.replay]]
file = "trucks.csv"
speed = 0
tags = ["fleet"]
[[intake.replay]]
file = "recorded.lp"
"#;
    let config = check(more).unwrap();
    assert_eq!(config.host.unwrap().interval, Duration::from_secs(1));
    let listens: Vec<_> = config
        .lines
        .iter()
        .map(|line| line.listen.to_string())
        .collect();
    let socket = "unix:///etc/tributary/run/lines.sock";
    assert_eq!(listens, ["tcp://127.0.0.1:8094", socket, "stdin"]);
    assert!(config.lines[0].ack && !config.lines[1].ack);
    assert_eq!(config.lines[1].precision, Precision::Ms);
    let ReplayFormat::Csv(csv) = &config.replays[0].format else {
        panic!("{:?}", config.replays[0]);
    };
    assert_eq!(
        (csv.table.as_str(), csv.time_column.as_str()),
        ("trucks", "time")
    );
    assert!(matches!(
        config.replays[1].format,
        ReplayFormat::Line { .. }
    ));
}

#[test]
fn classes_are_read_in_order_and_intakes_name_theirs() {
    let more = r#"
[[class]]
name = "alarms"
linger_ms = 0
overflow = "reject"
[[class]]
name = "trend"
overflow = "thin"
[[class]]
name = "debug"
[intake.host]
class = "debug"
[[intake.line]]
listen = "stdin"
[[intake.replay]]
file = "trucks.csv"
class = "trend"
"#;
    let config = check(more).unwrap();
    let rule = |name: &str, overflow| ClassRule {
        name: name.to_owned(),
        overflow,
    };
    let rules = vec![
        rule("alarms", Overflow::Reject),
        rule("trend", Overflow::Thin),
        rule("debug", Overflow::DropOldest),
    ];
    assert_eq!(Some(config.classes), Classes::new(rules));
    assert_eq!(config.batch.linger.of(Class(0)), Duration::ZERO);
    assert_eq!(config.batch.linger.of(Class(1)), Duration::from_secs(1));
    assert_eq!(config.host.unwrap().class, Class(2));
    assert_eq!(config.lines[0].class, Class(0), "the first one by default");
    assert_eq!(config.replays[0].class, Class(1));
    assert_eq!(check("").unwrap().classes, Classes::default());
    let nine: String = (0..9)
        .map(|nth| format!("[[class]]\nname = \"c{nth}\"\n"))
        .collect();
    let error = check(&nine).unwrap_err();
    assert!(error.contains("may be 8 classes"), "{error}");
}

#[test]
fn a_disabled_host_intake_is_none() {
    let config = check("[intake.host]\nenabled = false\ninterval_ms = 1000\n").unwrap();
    assert_eq!(config.host, None);
}

#[test]
fn the_agent_tells_of_itself_unless_told_not_to() {
    let interval = |more: &str| check(more).unwrap().agent_health.map(|own| own.interval);
    assert_eq!(interval(""), Some(Duration::from_secs(10)));
    let quicker = "[intake.health]\ninterval_ms = 500\n";
    assert_eq!(interval(quicker), Some(Duration::from_millis(500)));
    assert_eq!(interval("[intake.health]\nenabled = false\n"), None);
}

#[test]
fn an_unknown_key_names_file_line_key_and_what_exists() {
    let error = check("\n[health]\nlisten = \"127.0.0.1:1\"\nlissen = 1\n").unwrap_err();
    for part in ["/etc/tributary/agent.toml", "line 14", "lissen", "`listen`"] {
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[test]
fn a_bad_value_is_told_with_its_line_and_what_is_allowed() {
    for (more, start, part) in [
        (
            "[health]\nlisten = \"0.0.0.0:80\"\n",
            ":12: `health.listen`",
            "this machine",
        ),
        (
            "[health]\nlisten = \"127.0.0.1\"\n",
            ":12: `health.listen`",
            "127.0.0.1:9100",
        ),
        ("[batch]\nrows_max = 0\n", ":12: `batch.rows_max`", "1 to"),
        (
            "[buffer]\n\nbytes_max = 7\n",
            ":13: `buffer.bytes_max`",
            "allowed",
        ),
        (
            "[[class]]\nname = \"a\"\n[[class]]\nname = \"b\"\nlinger_ms = 600001\n",
            ":15: `class.linger_ms`",
            "0 to 600000",
        ),
        (
            "[batch]\nbytes_max = 900000\n[buffer]\nram_bytes_max = 1048576\n[window]\nbytes_max = 1\n",
            ":16: `window.bytes_max`",
            "1000000",
        ),
        (
            "[[intake.line]]\nlisten = \"stdin\"\n[[intake.line]]\nlisten = \"udp://x:1\"\n",
            ":14: `intake.line.listen`",
            "unix://",
        ),
        (
            "[[intake.line]]\nlisten = \"stdin\"\n[[intake.line]]\nlisten = \"stdin\"\n",
            ":14: `intake.line.listen`",
            "already",
        ),
        (
            "[[intake.replay]]\nfile = \"x.txt\"\n",
            ":11: `intake.replay.format`",
            "csv",
        ),
        (
            "[[intake.replay]]\nfile = \"x.csv\"\nspeed = -1\n",
            ":13: `intake.replay.speed`",
            "as fast",
        ),
        (
            "[[intake.replay]]\nfile = \"x.csv\"\n[[intake.replay]]\nfile = \"y/x.csv\"\n",
            ":14: `intake.replay.file`",
            "own",
        ),
    ] {
        let error = check(more).unwrap_err();
        let start = format!("/etc/tributary/agent.toml{start}");
        assert!(error.starts_with(&start), "{start}: {error}");
        assert!(error.contains(part), "{part} in {error}");
    }
    let error = check_text(&SMALL.replace("gw1\"\ndata", "g w\"\ndata")).unwrap_err();
    assert!(error.contains(":3: `agent.id`"), "{error}");
    let error = check_text(&SMALL.replace("10.0.0.1:8883", "10.0.0.1")).unwrap_err();
    assert!(error.contains(":7: `uplink.servers`"), "{error}");
}

#[test]
fn a_bad_class_is_told_the_same_way() {
    for (more, start, part) in [
        (
            "[[class]]\nname = \"a\"\n[[class]]\nname = \"b\"\noverflow = \"keep\"\n",
            ":15: `class.overflow`",
            "\"reject\"",
        ),
        (
            "[[class]]\nname = \"a\"\n[[class]]\nname = \"a\"\n",
            ":14: `class.name`",
            "already",
        ),
        (
            "[[class]]\nname = \"a\"\n[intake.host]\nclass = \"c\"\n",
            ":14: `intake.host.class`",
            "there are: a",
        ),
    ] {
        let error = check(more).unwrap_err();
        let start = format!("/etc/tributary/agent.toml{start}");
        assert!(error.starts_with(&start), "{start}: {error}");
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[test]
fn the_example_in_the_repository_is_good_and_shows_the_defaults() {
    let text = include_str!("../../../deploy/config/agent.toml");
    let config = check_text(text).unwrap();
    assert!(config.host.is_some() && config.lines[0].ack);

    let is_key = |line: &str| {
        line.starts_with('[')
            || line
                .split_once(" = ")
                .is_some_and(|(key, _)| !key.contains(' '))
    };
    let open = |line: &str| match line.strip_prefix("# ").filter(|line| is_key(line)) {
        Some(line) => format!("{line}\n"),
        None => format!("{line}\n"),
    };
    let opened = check_text(&text.lines().map(open).collect::<String>()).unwrap();
    assert_eq!(opened.uplink, config.uplink);
    assert_eq!(opened.batch, config.batch);
    assert_eq!(opened.buffer, config.buffer);
    assert_eq!(opened.window, config.window);
    assert_eq!(opened.lines, config.lines);
    assert_eq!(opened.agent_health, config.agent_health);
    assert!(opened.health.is_some() && opened.replays.len() == 1);
}
