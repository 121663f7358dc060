//! The text of every answer: HTTP, JSON, Prometheus. Pure: the time is an argument.

use std::fmt::{Display, Write as _};
use std::sync::atomic::Ordering;

use super::{Told, alarms, html};
use crate::buffer::ClassAccount;
use crate::intake::{Account, Counters};
use crate::status::{Setup, Status};

pub(super) const CANNOT_FAIL: &str = "writing to a string cannot fail";

/// A number's name, where it is found, and what it means. Names that end in `_total` only grow.
pub(super) type Number<T> = (&'static str, fn(&T) -> u64, &'static str);

/// Of the keeper.
pub(super) const NUMBERS: &[Number<Status>] = &[
    (
        "pending_readings",
        |status| status.pending_readings,
        "Readings handed over and not acknowledged by the cluster",
    ),
    (
        "in_flight_batches",
        |status| status.in_flight_batches,
        "Batches sent and not answered",
    ),
    (
        "oldest_unacked_ms",
        |status| status.oldest_unacked_ms,
        "Age of the oldest reading that is not acknowledged",
    ),
    (
        "readings_total",
        |status| status.readings_total,
        "Readings taken",
    ),
    (
        "batches_sealed_total",
        |status| status.batches_sealed_total,
        "Batches sealed",
    ),
    (
        "batches_acked_total",
        |status| status.batches_acked_total,
        "Batches acknowledged",
    ),
    (
        "batches_resent_total",
        |status| status.batches_resent_total,
        "Batches sent again",
    ),
    (
        "readings_acked_total",
        |status| status.readings_acked_total,
        "Readings acknowledged",
    ),
    (
        "buffer_bytes",
        |status| status.buffer_bytes,
        "Bytes of what the buffer holds, in memory or on disk",
    ),
    (
        "buffer_ram_bytes",
        |status| status.buffer_ram_bytes,
        "Bytes of batches in memory",
    ),
    (
        "buffer_bytes_max",
        |status| status.buffer_bytes_max,
        "Bytes that the buffer may take",
    ),
    (
        "buffer_bytes_reserved",
        |status| status.buffer_bytes_reserved,
        "Bytes that stand on the disk for the buffer, used or not",
    ),
    (
        "journal_bytes_written_total",
        |status| status.journal_bytes_written_total,
        "Bytes written to the buffer",
    ),
    (
        "unsafe_readings",
        |status| status.unsafe_readings,
        "Readings neither on disk nor acknowledged",
    ),
    (
        "gap_records_total",
        |status| status.gap_records_total,
        "Records of batches that will never come",
    ),
    (
        "readings_lost_total",
        |status| status.readings_lost_total,
        "Readings lost",
    ),
    (
        "readings_thinned_total",
        |status| status.readings_thinned_total,
        "Readings of which only the sums of their minutes stayed",
    ),
    (
        "not_kept_total",
        |status| status.not_kept_total,
        "Readings refused by the agent",
    ),
    (
        "dead_letters_total",
        |status| status.dead_letters_total,
        "Batches that the cluster refused for ever",
    ),
    (
        "dead_letters_removed_total",
        |status| status.dead_letters_removed_total,
        "Refused batches removed to make room for newer ones",
    ),
    (
        "reconnects_total",
        |status| status.reconnects_total,
        "Connections made after the first",
    ),
    (
        "ack_ms_last",
        |status| status.ack_ms_last,
        "From sending to acknowledgement, of the last batch",
    ),
    (
        "ack_ms_p50",
        |status| status.ack_ms_p50,
        "From sending to acknowledgement, median",
    ),
    (
        "ack_ms_p99",
        |status| status.ack_ms_p99,
        "From sending to acknowledgement, 99th percentile",
    ),
    (
        "wire_bytes_total",
        |status| status.wire_bytes_total,
        "Bytes of batches sent",
    ),
    (
        "clock_quality",
        |status| status.clock_quality,
        "Time of day: 0 not known, 1 by the machine's synchronised clock, 2 by the cluster",
    ),
    (
        "clock_steps_total",
        |status| status.clock_steps_total,
        "Steps of the machine's clock that were not followed",
    ),
];

/// Of what the agent runs with.
const SETUP_NUMBERS: &[Number<Setup>] = &[
    (
        "config_reloads_total",
        |setup| setup.config_reloads_total,
        "Configurations taken over while running",
    ),
    (
        "config_reloads_refused_total",
        |setup| setup.config_reloads_refused_total,
        "Configurations not taken over: bad ones, or such that need a restart",
    ),
    (
        "certificate_reloads_total",
        |setup| setup.certificate_reloads_total,
        "Certificates taken over while running",
    ),
    (
        "certificate_reloads_refused_total",
        |setup| setup.certificate_reloads_refused_total,
        "Certificates not taken over",
    ),
];

/// Of one intake.
pub(super) const INTAKE_NUMBERS: &[Number<Counters>] = &[
    (
        "readings_total",
        |counters| counters.readings.load(Ordering::Relaxed),
        "Readings handed over by an intake",
    ),
    (
        "refused_total",
        |counters| counters.refused.load(Ordering::Relaxed),
        "Lines that are no readings",
    ),
    (
        "dropped_total",
        |counters| counters.dropped.load(Ordering::Relaxed),
        "Readings given up by a source that cannot wait",
    ),
    (
        "not_kept_total",
        |counters| counters.not_kept.load(Ordering::Relaxed),
        "Readings whose source was told that they are not kept",
    ),
    (
        "connections",
        |counters| counters.connections.load(Ordering::Relaxed),
        "Open connections",
    ),
];

/// Of one class.
const CLASS_NUMBERS: [Number<ClassAccount>; 4] = [
    (
        "buffer_bytes",
        |class| class.bytes,
        "Bytes of batches of a class in the buffer",
    ),
    (
        "dropped_total",
        |class| class.readings_dropped,
        "Readings of a class that went because there was no room",
    ),
    (
        "thinned_total",
        |class| class.readings_thinned,
        "Readings of a class of which only the sums of their minutes stayed",
    ),
    (
        "refused_total",
        |class| class.readings_refused,
        "Readings of a class that were not taken because there was no room",
    ),
];

/// The whole HTTP answer to a request that begins with this line.
///
/// `now_seconds` since 1970.
pub(super) fn answer(request_line: &str, told: &Told, now_seconds: i64) -> String {
    let mut words = request_line.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let path = path.split('?').next().unwrap_or_default();
    let view = View::of(told, now_seconds);
    let (code, kind, body) = match (method, path) {
        ("GET" | "HEAD", "/") => ("200 OK", "text/html; charset=utf-8", html::page(&view)),
        ("GET" | "HEAD", "/status") => ("200 OK", "application/json", status(&view)),
        ("GET" | "HEAD", "/metrics") => ("200 OK", "text/plain; version=0.0.4", metrics(&view)),
        ("GET" | "HEAD", _) => {
            let body = "there are / for people, /status and /metrics\n".to_owned();
            ("404 Not Found", "text/plain", body)
        }
        _ => {
            let body = "only GET and HEAD\n".to_owned();
            ("405 Method Not Allowed", "text/plain", body)
        }
    };
    let head = format!(
        "HTTP/1.1 {code}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    if method == "HEAD" { head } else { head + &body }
}

/// What there is to tell at one moment.
pub(super) struct View {
    pub(super) agent: String,
    pub(super) status: Status,
    pub(super) setup: Setup,
    pub(super) intakes: Vec<Account>,
    pub(super) alarms: Vec<String>,
    /// Of the certificate; negative once it has expired.
    pub(super) expires_seconds: Option<i64>,
}

impl View {
    fn of(told: &Told, now_seconds: i64) -> View {
        let (status, setup) = (told.status.borrow().clone(), told.setup.borrow().clone());
        View {
            agent: told.agent.clone(),
            alarms: alarms(&status, &setup, now_seconds),
            expires_seconds: setup
                .certificate_expiry
                .as_ref()
                .map(|expiry| expiry.left(now_seconds)),
            status,
            setup,
            intakes: told.intakes.borrow().clone(),
        }
    }
}

/// One JSON object.
fn status(view: &View) -> String {
    let status = &view.status;
    let last_error = status.last_error.as_deref();
    let alarms: Vec<String> = view.alarms.iter().map(|alarm| quoted(alarm)).collect();
    let expires = view.expires_seconds.map(|seconds| seconds.to_string());
    let mut json = format!(
        "{{\"agent\":{},\"version\":{},\"connected\":{},\"server\":{},\"epoch\":\"{:016x}\",\
         \"alarms\":[{}],\"last_error\":{},\"certificate_expires_seconds\":{}",
        quoted(&view.agent),
        quoted(env!("CARGO_PKG_VERSION")),
        status.connected,
        quoted(&status.server),
        status.epoch,
        alarms.join(","),
        last_error.map_or("null".to_owned(), quoted),
        expires.as_deref().unwrap_or("null"),
    );
    for &(name, value, _) in NUMBERS {
        write!(json, ",\"{name}\":{}", value(status)).expect(CANNOT_FAIL);
    }
    for &(name, value, _) in SETUP_NUMBERS {
        write!(json, ",\"{name}\":{}", value(&view.setup)).expect(CANNOT_FAIL);
    }
    json.push_str(",\"intakes\":[");
    for (at, account) in view.intakes.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        write!(json, "{comma}{{\"name\":{}", quoted(&account.name)).expect(CANNOT_FAIL);
        for &(name, value, _) in INTAKE_NUMBERS {
            write!(json, ",\"{name}\":{}", value(&account.counters)).expect(CANNOT_FAIL);
        }
        json.push('}');
    }
    json.push_str("],\"classes\":[");
    for (at, class) in status.classes.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        write!(json, "{comma}{{\"name\":{}", quoted(&class.name)).expect(CANNOT_FAIL);
        for (name, value, _) in CLASS_NUMBERS {
            write!(json, ",\"{name}\":{}", value(class)).expect(CANNOT_FAIL);
        }
        json.push('}');
    }
    json.push_str("]}\n");
    json
}

/// Prometheus text format.
fn metrics(view: &View) -> String {
    let mut text = String::new();
    let connected = i64::from(view.status.connected);
    let alarms = i64::try_from(view.alarms.len()).unwrap_or(i64::MAX);
    sample(&mut text, "connected", "1 while a node answers", connected);
    let help = "What somebody should look at now; /status says it in words";
    sample(&mut text, "alarms", help, alarms);
    if let Some(seconds) = view.expires_seconds {
        let help = "Seconds until the certificate expires; below 0 it has";
        sample(&mut text, "certificate_expires_seconds", help, seconds);
    }
    for &(name, value, help) in NUMBERS {
        sample(&mut text, name, help, value(&view.status));
    }
    for &(name, value, help) in SETUP_NUMBERS {
        sample(&mut text, name, help, value(&view.setup));
    }
    for &(name, value, help) in INTAKE_NUMBERS {
        let name = format!("intake_{name}");
        head(&mut text, &name, help);
        for account in &view.intakes {
            let (intake, value) = (label(&account.name), value(&account.counters));
            writeln!(
                text,
                "tributary_agent_{name}{{intake=\"{intake}\"}} {value}"
            )
            .expect(CANNOT_FAIL);
        }
    }
    for (name, value, help) in CLASS_NUMBERS {
        let name = format!("class_{name}");
        head(&mut text, &name, help);
        for class in &view.status.classes {
            let (label, value) = (label(&class.name), value(class));
            writeln!(text, "tributary_agent_{name}{{class=\"{label}\"}} {value}")
                .expect(CANNOT_FAIL);
        }
    }
    text
}

fn sample(text: &mut String, name: &str, help: &str, value: impl Display) {
    head(text, name, help);
    writeln!(text, "tributary_agent_{name} {value}").expect(CANNOT_FAIL);
}

fn head(text: &mut String, name: &str, help: &str) {
    let kind = if name.ends_with("_total") {
        "counter"
    } else {
        "gauge"
    };
    writeln!(
        text,
        "# HELP tributary_agent_{name} {help}.\n# TYPE tributary_agent_{name} {kind}"
    )
    .expect(CANNOT_FAIL);
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut json = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => json.extend(['\\', character]),
            control if u32::from(control) < 0x20 => {
                write!(json, "\\u{:04x}", u32::from(control)).expect(CANNOT_FAIL);
            }
            other => json.push(other),
        }
    }
    json.push('"');
    json
}

/// The value of a Prometheus label, without its quotes.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expiry::Expiry;
    use tokio::sync::watch;

    fn told() -> Told {
        let status = Status {
            connected: true,
            server: "10.0.0.1:8883".to_owned(),
            pending_readings: 7,
            last_error: Some("a \"bad\"\nday".to_owned()),
            classes: vec![ClassAccount {
                name: "alarms".to_owned(),
                bytes: 5,
                readings_dropped: 0,
                readings_thinned: 0,
                readings_refused: 2,
            }],
            ..Status::default()
        };
        let setup = Setup {
            certificate_expiry: Some(Expiry {
                at: 1_100 + 90 * 86_400,
                day: "1970-04-01".to_owned(),
            }),
            config_refused: Some("agent.toml:3: <bad>".to_owned()),
            ..Setup::default()
        };
        let account = Account::new("tcp://127.0.0.1:8094");
        account.counters.refused.store(3, Ordering::Relaxed);
        Told {
            agent: "gw1".to_owned(),
            status: watch::channel(status).1,
            setup: watch::channel(setup).1,
            intakes: watch::channel(vec![Account::new("host"), account]).1,
            clock: crate::clock::Stamper::of_this_machine(),
        }
    }

    #[test]
    fn status_is_one_json_object() {
        let answer = answer("GET /status HTTP/1.1", &told(), 1_100);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(
            head.contains(&format!("Content-Length: {}\r\n", body.len())),
            "{head}"
        );
        assert!(body.starts_with("{\"agent\":\"gw1\","), "{body}");
        for part in [
            "\"connected\":true,\"server\":\"10.0.0.1:8883\"",
            "\"pending_readings\":7,",
            "\"alarms\":[\"the new configuration is not used",
            "\"certificate_expires_seconds\":7776000,",
            "\"last_error\":\"a \\\"bad\\\"\\u000aday\"",
            "{\"name\":\"tcp://127.0.0.1:8094\",\"readings_total\":0,\"refused_total\":3,",
        ] {
            assert!(body.contains(part), "{part} in {body}");
        }
        let end = "\"connections\":0}],\"classes\":[{\"name\":\"alarms\",\"buffer_bytes\":5,\
                   \"dropped_total\":0,\"thinned_total\":0,\"refused_total\":2}]}\n";
        assert!(body.ends_with(end), "{body}");
    }

    #[test]
    fn metrics_are_one_sample_a_line_and_each_has_its_type() {
        let answer = answer("GET /metrics?x=1 HTTP/1.1", &told(), 1_100);
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        for part in [
            "# TYPE tributary_agent_readings_total counter\ntributary_agent_readings_total 0\n",
            "# TYPE tributary_agent_pending_readings gauge\ntributary_agent_pending_readings 7\n",
            "tributary_agent_alarms 1\n",
            "tributary_agent_certificate_expires_seconds 7776000\n",
            "tributary_agent_intake_refused_total{intake=\"tcp://127.0.0.1:8094\"} 3\n",
            "tributary_agent_class_refused_total{class=\"alarms\"} 2\n",
        ] {
            assert!(body.contains(part), "{part} in {body}");
        }
        let samples = body.lines().filter(|line| !line.starts_with('#'));
        assert!(
            samples
                .clone()
                .all(|line| line.rsplit(' ').next().unwrap().parse::<u64>().is_ok())
        );
        assert!(samples.count() > 30);
    }

    #[test]
    fn other_requests_are_told_what_there_is() {
        assert!(answer("GET /x HTTP/1.1", &told(), 1_100).contains("404 Not Found"));
        assert!(answer("POST /status HTTP/1.1", &told(), 1_100).contains("405"));
        assert!(answer("", &told(), 1_100).contains("405"));
        let head = answer("HEAD /status HTTP/1.1", &told(), 1_100);
        assert!(head.ends_with("\r\n\r\n"), "{head}");
    }
}
