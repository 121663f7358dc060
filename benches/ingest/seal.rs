//! The way of a line within the agent, without its sockets and disks: read, gathered, encoded.

use std::time::Duration;

use edge_agent::batcher::{BatchOptions, Batcher, Fit, Linger};
use edge_agent::handed::{Class, Kind, Stamp};
use shared::batch::{Body, Header, encode};
use shared::id::{BatchNumber, Digest, Epoch, Lane, TimeNs};
use shared::payload::line::{DEVICE_KEY, LineReader, Precision};

use crate::Failed;

/// One class, times of day.
const KIND: Kind = Kind {
    class: Class(0),
    stamp: Stamp::Wall,
};
/// As an agent is configured by default.
const OPTIONS: BatchOptions = BatchOptions {
    rows_max: 4_000,
    bytes_max: 16 << 10,
    linger: Linger::of_all(Duration::from_secs(1)),
};

pub(crate) struct Sealer {
    reader: LineReader,
    batcher: Batcher,
    number: BatchNumber,
    /// Of sealed batches.
    bytes: usize,
    values: usize,
}

impl Sealer {
    pub(crate) fn new(device: &str) -> Sealer {
        Sealer {
            reader: LineReader::new(Precision::Ns, DEVICE_KEY, device),
            batcher: Batcher::new(OPTIONS),
            number: BatchNumber(1),
            bytes: 0,
            values: 0,
        }
    }

    /// Takes a line; gives its values.
    pub(crate) fn take(&mut self, line: &[u8]) -> Result<usize, Failed> {
        let Some(reading) = self.reader.read(line, TimeNs(0)) else {
            return Ok(0);
        };
        let reading = reading?;
        let values = reading.values.len();
        if self.batcher.fit(&reading, KIND) == Fit::AfterSeal {
            self.seal()?;
        }
        self.batcher.push(Duration::ZERO, reading, KIND, None);
        Ok(values)
    }

    pub(crate) fn bytes_a_value(&self) -> f64 {
        self.bytes as f64 / self.values as f64
    }

    fn seal(&mut self) -> Result<(), Failed> {
        let Some(collected) = self.batcher.take(KIND) else {
            return Ok(());
        };
        for definitions in collected.names {
            self.encode(Lane::Names, &Body::Names(definitions))?;
        }
        self.values += collected.data.values();
        self.encode(Lane::Live, &Body::Data(collected.data))
    }

    fn encode(&mut self, lane: Lane, body: &Body) -> Result<(), Failed> {
        self.number = self.number.next();
        let names_needed = match lane {
            Lane::Names => BatchNumber::NONE,
            Lane::Live | Lane::Backlog => BatchNumber(2),
        };
        let header = Header {
            epoch: Epoch(1),
            lane,
            number: self.number,
            previous: Digest::ZERO,
            names_needed,
            sealed_at: TimeNs(0),
            complete_below: TimeNs(0),
            boot_relative: false,
        };
        self.bytes += encode(&header, body)?.len();
        Ok(())
    }
}
