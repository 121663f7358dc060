//! This machine as a device: processor, memory, disks, network, load, temperatures.
//!
//! Each file beside this one turns the text of a kernel's file into readings, without I/O; `files`
//! reads them. What a machine does not have is left out and said once.

mod cpu;
mod disk;
mod files;
mod load;
mod memory;
mod network;
mod temperature;

use std::sync::Arc;

use shared::id::{AgentId, TimeNs};
use shared::reading::{Reading, Value};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::{Complaints, Entry, stopped};
use crate::config::Host;
use crate::handed::HANDED_READINGS_MAX;
use files::Sampler;

/// Reads this machine every interval until told to stop. It cannot wait: without room, what it
/// has read is dropped and counted.
pub async fn run(options: Host, agent: AgentId, entry: Entry, mut stop: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(options.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let complaints = Complaints::new(Instant::now());
    let device: Arc<str> = agent.as_str().into();
    let mut sampler = Sampler::new("/".into());
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            _ = ticks.tick() => {}
        }
        let (time, stamp) = entry.clock().stamp();
        let row = Row {
            device: Arc::clone(&device),
            time,
        };
        // A sensor on a slow bus may take its time: not on the thread that serves everybody.
        let sampled = tokio::task::spawn_blocking(move || {
            let readings = sampler.sample(&row);
            (sampler, readings)
        });
        let Ok((back, mut readings)) = sampled.await else {
            tracing::error!("host: reading this machine failed unexpectedly; it is given up");
            return;
        };
        sampler = back;
        while !readings.is_empty() {
            let rest = readings.split_off(readings.len().min(HANDED_READINGS_MAX));
            let handed = std::mem::replace(&mut readings, rest);
            if entry.try_hand_over(handed, stamp) {
                continue;
            }
            if let Some(unsaid) = complaints.allow(Instant::now()) {
                tracing::warn!(
                    "host: readings are dropped: the agent keeps up with no more ({unsaid} more \
                     unsaid)"
                );
            }
        }
    }
}

/// What all readings of one moment share.
#[derive(Debug, Clone)]
struct Row {
    device: Arc<str>,
    time: TimeNs,
}

impl Row {
    /// A reading; `None` without fields, or with a name that no reading may have.
    fn reading(
        &self,
        table: &str,
        tag: Option<(&str, &str)>,
        fields: Vec<(&str, Value)>,
    ) -> Option<Reading> {
        let tags = tag.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let fields = fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        let reading = Reading::new(
            table.to_owned(),
            self.device.to_string(),
            tags.into_iter().collect(),
            self.time,
            fields.collect(),
        );
        reading.check().is_ok().then_some(reading)
    }
}

/// A count of the kernel; those beyond 63 bits do not occur.
fn count(value: u64) -> Value {
    Value::Int(i64::try_from(value).unwrap_or(i64::MAX))
}

/// A part of a whole in percent, to hundredths: more digits are noise, and cost bytes.
fn percent(part: u64, whole: u64) -> Value {
    let hundredths = part as f64 * 10_000.0 / whole.max(1) as f64;
    Value::Float(hundredths.round() / 100.0)
}

#[cfg(test)]
fn test_row() -> Row {
    Row {
        device: "gw1".into(),
        time: TimeNs(9),
    }
}

/// A reading as one line, for comparison.
#[cfg(test)]
fn lines(readings: &[Reading]) -> Vec<String> {
    readings
        .iter()
        .map(|reading| shared::payload::line::format(reading).unwrap())
        .collect()
}
