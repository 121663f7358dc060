//! The agent itself as a device: its account as readings of the table `agent_health`, through the
//! same pipe as all others. Whoever looks after many agents asks one table.

use shared::id::{AgentId, TimeNs};
use shared::reading::{Reading, Value};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::{Complaints, Entry, stopped};
use crate::config::AgentHealth;
use crate::health::alarms;
use crate::status::{Setup, Status};

const TABLE: &str = "agent_health";

/// Tells of the agent every interval until told to stop. It cannot wait: without room, a reading is
/// dropped and counted.
pub async fn run(
    options: AgentHealth,
    agent: AgentId,
    status: watch::Receiver<Status>,
    setup: watch::Receiver<Setup>,
    entry: Entry,
    mut stop: watch::Receiver<bool>,
) {
    let mut ticks = tokio::time::interval(options.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let complaints = Complaints::new(Instant::now());
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            _ = ticks.tick() => {}
        }
        let (time, stamp) = entry.clock().stamp();
        let day = entry.clock().day();
        let reading = reading(&agent, time, day, &status.borrow(), &setup.borrow());
        if entry.try_hand_over(vec![reading], stamp) {
            continue;
        }
        if let Some(unsaid) = complaints.allow(Instant::now()) {
            tracing::warn!(
                "health: a reading is dropped: the agent keeps up with no more ({unsaid} more \
                 unsaid)"
            );
        }
    }
}

/// Names are those of `/metrics`. Stamped with `time`; `day` is the time of day as far as known.
fn reading(agent: &AgentId, time: TimeNs, day: TimeNs, status: &Status, setup: &Setup) -> Reading {
    let now_seconds = day.0.div_euclid(1_000_000_000);
    let alarms = alarms(status, setup, now_seconds).len() as u64;
    let counts = [
        ("alarms", alarms),
        ("pending_readings", status.pending_readings),
        ("in_flight_batches", status.in_flight_batches),
        ("oldest_unacked_ms", status.oldest_unacked_ms),
        ("unsafe_readings", status.unsafe_readings),
        ("buffer_bytes", status.buffer_bytes),
        ("buffer_bytes_max", status.buffer_bytes_max),
        ("buffer_ram_bytes", status.buffer_ram_bytes),
        (
            "journal_bytes_written_total",
            status.journal_bytes_written_total,
        ),
        ("wire_bytes_total", status.wire_bytes_total),
        ("readings_total", status.readings_total),
        ("readings_lost_total", status.readings_lost_total),
        ("not_kept_total", status.not_kept_total),
        ("gap_records_total", status.gap_records_total),
        ("dead_letters_total", status.dead_letters_total),
        ("reconnects_total", status.reconnects_total),
        ("ack_ms_p99", status.ack_ms_p99),
    ];
    let int = |value: u64| Value::Int(i64::try_from(value).unwrap_or(i64::MAX));
    let mut fields = vec![("connected".to_owned(), Value::Bool(status.connected))];
    fields.extend(counts.map(|(name, value)| (name.to_owned(), int(value))));
    if let Some(expiry) = &setup.certificate_expiry {
        let left = Value::Int(expiry.left(now_seconds));
        fields.push(("certificate_expires_seconds".to_owned(), left));
    }
    let (table, device) = (TABLE.to_owned(), agent.to_string());
    Reading::new(table, device, Vec::new(), time, fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expiry::Expiry;
    use crate::handed::{self, Class};
    use crate::intake::Account;
    use std::time::Duration;
    use tokio::task::JoinSet;

    #[test]
    fn a_reading_is_what_the_metrics_say() {
        let agent = AgentId::parse("gw1").unwrap();
        let status = Status {
            connected: true,
            buffer_bytes: 7,
            ..Status::default()
        };
        let setup = Setup {
            certificate_expiry: Some(Expiry {
                at: 90,
                day: "1970-01-01".to_owned(),
            }),
            ..Setup::default()
        };
        let now = TimeNs(100_000_000_000);
        let reading = reading(&agent, now, now, &status, &setup);
        reading.check().unwrap();
        assert_eq!(
            (reading.shape.table.as_str(), reading.shape.device.as_str()),
            (TABLE, "gw1")
        );
        for (name, value) in [
            ("connected", Value::Bool(true)),
            ("buffer_bytes", Value::Int(7)),
            ("certificate_expires_seconds", Value::Int(-10)),
            ("alarms", Value::Int(1)),
        ] {
            let field = reading.fields().find(|(field, _)| *field == name);
            assert_eq!(field.unwrap().1, &value, "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_comes_every_interval_until_stopped() {
        let (intakes, mut handovers) = handed::channel();
        let account = Account::new("health");
        let entry = Entry::new(account, intakes, None);
        let (stop, stopped) = watch::channel(false);
        let (_status, status) = watch::channel(Status::default());
        let (_setup, setup) = watch::channel(Setup::default());
        let options = AgentHealth {
            interval: Duration::from_secs(10),
            class: Class::default(),
        };
        let agent = AgentId::parse("gw1").unwrap();
        let start = Instant::now();
        let mut tasks = JoinSet::new();
        tasks.spawn(run(options, agent, status, setup, entry, stopped));
        for _ in 0..3 {
            let handed = handovers.receive().await.unwrap();
            assert_eq!(handed.readings.len(), 1);
        }
        let seconds = start.elapsed().as_secs();
        assert_eq!(seconds, 20, "the first at once");
        stop.send_replace(true);
        tasks.join_next().await.unwrap().unwrap();
    }
}
