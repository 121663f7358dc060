//! What a source was told about each reading it handed over. The oracle's one truth.

/// One reading of the tests' only kind: `fire,device=<d> seq=<n>i,value=<f> <time>`.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    pub device: String,
    /// 1, 2, 3 .. per device.
    pub seq: i64,
    pub value: f64,
    pub time_ns: i64,
}

/// The three outcomes of handing a reading over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The agent said that it keeps it.
    Kept,
    /// No answer came: it may be kept, and it may be not.
    Unknown,
    /// The agent said that it does not take it.
    Refused,
}

/// A reading handed over, on which connection, with its fate.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub reading: Reading,
    pub fate: Fate,
    /// Counts the source's connections: readings of one arrived in order or not at all.
    pub connection: u32,
}

/// Entries in the order in which they were handed over.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    pub entries: Vec<Entry>,
}

impl Reading {
    /// The reading that device `device` gives as its `seq`-th: every value differs, and is exact
    /// in the decimal text of any printer.
    pub fn nth(device: &str, seq: i64, time_ns: i64) -> Reading {
        // Quarters are exact in binary and short in decimal; no test sends 2^50 of them.
        let value = seq as f64 / 4.0 - 1_000.0;
        Reading {
            device: device.to_owned(),
            seq,
            value,
            time_ns,
        }
    }

    /// Influx line protocol, with its line feed.
    pub fn line(&self) -> String {
        let Reading {
            device,
            seq,
            value,
            time_ns,
        } = self;
        format!("fire,device={device} seq={seq}i,value={value:?} {time_ns}\n")
    }
}

impl Ledger {
    pub fn push(&mut self, reading: Reading, fate: Fate, connection: u32) {
        self.entries.push(Entry {
            reading,
            fate,
            connection,
        });
    }

    pub fn count(&self, fate: Fate) -> usize {
        self.entries
            .iter()
            .filter(|entry| entry.fate == fate)
            .count()
    }
}
