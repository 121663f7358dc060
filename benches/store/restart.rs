//! A start after a stop: segments that are opened, and a log whose tail is applied again.

use std::error::Error;
use std::fs;
use std::time::Instant;

use aggregator::state::Command;
use bytes::Bytes;
use journal::{DiskStorage, Journal, JournalError, Options, RecordHead};
use shared::batch::{Body, Column, Data, Group, SeriesColumns, Values};
use shared::id::{Lane, LocalSeriesId, TimeNs};
use shared::reading::FieldType;

use crate::Args;
use crate::data::START;
use crate::feed::{Agent, Feed, definition};
use crate::memory;
use crate::replica::Replica;

const AGENTS: u32 = 32;
const FIELDS: u16 = 7;
/// Rows of one batch: they fill a block.
const ROWS: u16 = 8_192;
const STEP_NS: i64 = 1_000_000_000;
const LOG_BYTES: u64 = 256 << 20;
const LOG: Options = Options {
    file_bytes: 64 << 20,
    files_max: 16,
};

pub(crate) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut raw = Raw::new();
    let mut replica = Replica::open(&args.folder)?;
    replica.define(&mut raw.feed)?;
    let mut stored = 0;
    while stored < args.gigabytes * 1_000_000_000 {
        replica.clock(raw.now())?;
        for command in raw.commands()? {
            stored += command.encode().len() as u64;
            replica.command(&command)?;
        }
        // Each about as large as a merge is.
        replica.merge_or_seal()?;
    }
    let (files, bytes) = replica.kept()?;
    drop(replica);
    write_log(args, &mut raw)?;
    drop(raw);
    println!(
        "restart: {files} segments of {:.1} GB of random bits",
        bytes as f64 / 1e9
    );
    for caches in ["dropped", "warm"] {
        if caches == "dropped" && fs::write("/proc/sys/vm/drop_caches", "3").is_err() {
            println!("  caches are not dropped: that needs root");
            continue;
        }
        start(args, caches)?;
    }
    Ok(())
}

fn start(args: &Args, caches: &str) -> Result<(), Box<dyn Error>> {
    let before = memory::now()?;
    let begun = Instant::now();
    let mut replica = Replica::open(&args.folder)?;
    let opened = begun.elapsed();
    let held = memory::now()?.saturating_sub(before);
    let log = DiskStorage::open(args.folder.join("tail"))?;
    let (mut entries, mut bytes) = (0, 0);
    Journal::open(log, LOG, &mut |_, _, entry| {
        entries += 1;
        bytes += entry.len();
        let applied = replica.replay(&Bytes::copy_from_slice(entry));
        applied.map_err(|_| JournalError::Misuse {
            what: "an entry that does not apply",
        })
    })?;
    println!(
        "  caches {caches}: {:.2?} to an open store ({} MiB of memory), {:.2?} more for a log of {} MiB in {entries} entries",
        opened,
        held >> 20,
        begun.elapsed().saturating_sub(opened),
        bytes >> 20
    );
    Ok(())
}

fn write_log(args: &Args, raw: &mut Raw) -> Result<(), Box<dyn Error>> {
    let log = DiskStorage::open(args.folder.join("tail"))?;
    let mut log = Journal::open(log, LOG, &mut |_, _, _| Ok(()))?;
    let (mut bytes, mut number) = (0, 0);
    while bytes < LOG_BYTES {
        for command in raw.commands()? {
            let entry = command.encode();
            bytes += entry.len() as u64;
            number += 1;
            let head = RecordHead {
                kind: 1,
                group: 0,
                number,
            };
            log.append(head, &entry)?;
        }
    }
    Ok(log.sync()?)
}

/// Agents whose readings no coder makes shorter.
struct Raw {
    feed: Feed,
    noise: u64,
    row: i64,
}

impl Raw {
    fn new() -> Raw {
        let fields = (0..FIELDS).map(|at| (format!("field_{at}"), FieldType::Float));
        let fields: Vec<_> = fields.collect();
        let agent = |nth| Agent {
            series: vec![definition(
                0,
                "raw",
                format!("device_{nth}"),
                fields.clone(),
            )],
            times: vec![START],
            ..Agent::new(&format!("agent-{nth}"))
        };
        Raw {
            feed: Feed {
                agents: (0..AGENTS).map(agent).collect(),
            },
            noise: 1,
            row: 0,
        }
    }

    fn now(&self) -> TimeNs {
        TimeNs(START + self.row * STEP_NS)
    }

    /// A batch of each agent, a command each.
    fn commands(&mut self) -> Result<Vec<Command>, Box<dyn Error>> {
        let times: Vec<i64> = (self.row..)
            .map(|row| START + row * STEP_NS)
            .take(ROWS.into())
            .collect();
        self.row += i64::from(ROWS);
        let now = self.now();
        let noise = &mut self.noise;
        // Marsaglia, "Xorshift RNGs", 2003.
        let mut next = || {
            *noise ^= *noise << 13;
            *noise ^= *noise >> 7;
            *noise ^= *noise << 17;
            f64::from_bits(*noise)
        };
        let mut all = Vec::new();
        for agent in &mut self.feed.agents {
            let column = |field| Column {
                field,
                present: None,
                values: Values::Float((0..ROWS).map(|_| next()).collect()),
            };
            let series = vec![SeriesColumns {
                id: LocalSeriesId(0),
                columns: (0..FIELDS).map(column).collect(),
            }];
            let groups = vec![Group {
                times: times.clone(),
                series,
            }];
            let batch = agent.seal(Lane::Live, &Body::Data(Data { groups }), now)?;
            all.push(Command::Submissions(vec![batch]));
        }
        Ok(all)
    }
}
