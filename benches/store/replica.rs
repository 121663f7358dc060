//! One replica without consensus: state and store, driven as the log would drive them.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aggregator::state::{Command, Job, State, Submission};
use aggregator::store::{Store, View};
use bytes::Bytes;
use journal::{DiskStorage, OpenMode};
use shared::id::{Lane, TimeNs};

use crate::feed::Feed;

/// Batches of one command, as a group commit gathers them.
const BATCHES: usize = 32;
/// Of the log, since the last merge: then there is another.
const MERGE_BYTES: u64 = 256 << 20;
/// As by default.
const SEAL_REST: Duration = Duration::from_secs(2 * 3_600);

pub(crate) struct Replica {
    state: State,
    store: Store,
    index: u64,
    log_bytes: u64,
    unmerged_bytes: u64,
    segment_bytes: u64,
    cpu: Cpu,
}

/// Time on a CPU.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cpu {
    pub(crate) apply: Duration,
    merge: Duration,
    seal: Duration,
}

impl Cpu {
    pub(crate) fn all(&self) -> Duration {
        self.apply + self.merge + self.seal
    }
}

impl Replica {
    pub(crate) fn open(folder: &Path) -> Result<Replica, Box<dyn Error>> {
        let storage = DiskStorage::open(folder)?;
        let (store, recovered) = Store::open(&*storage)?;
        Ok(Replica {
            state: recovered.state,
            store,
            index: recovered.index,
            log_bytes: 0,
            unmerged_bytes: 0,
            segment_bytes: 0,
            cpu: Cpu::default(),
        })
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.store.view()
    }

    pub(crate) fn cpu(&self) -> Cpu {
        self.cpu
    }

    pub(crate) fn define(&mut self, feed: &mut Feed) -> Result<(), Box<dyn Error>> {
        self.clock(feed.time(0))?;
        self.submit(feed.names()?)
    }

    /// All rows of a feed, so many a batch, merged and sealed as they become due.
    pub(crate) fn take_all(
        &mut self,
        feed: &mut Feed,
        batch_rows: usize,
        merge_rows: usize,
    ) -> Result<(), Box<dyn Error>> {
        let all: Vec<usize> = (0..feed.rows()).collect();
        let mut unmerged = 0;
        for rows in all.chunks(batch_rows) {
            self.clock(feed.time(rows[rows.len() - 1]))?;
            self.submit(feed.batches(Lane::Live, rows)?)?;
            unmerged += rows.len();
            if unmerged >= merge_rows {
                unmerged = 0;
                self.merge_or_seal()?;
            }
        }
        self.merge_or_seal()
    }

    pub(crate) fn clock(&mut self, now: TimeNs) -> Result<(), Box<dyn Error>> {
        self.command(&Command::Clock { node: 1, now })
    }

    pub(crate) fn submit(&mut self, mut all: Vec<Submission>) -> Result<(), Box<dyn Error>> {
        while !all.is_empty() {
            let rest = all.split_off(all.len().min(BATCHES));
            self.command(&Command::Submissions(std::mem::replace(&mut all, rest)))?;
        }
        if self.unmerged_bytes > MERGE_BYTES {
            self.merge_or_seal()?;
        }
        Ok(())
    }

    /// What is due, as the leader's steward would say.
    pub(crate) fn merge_or_seal(&mut self) -> Result<(), Box<dyn Error>> {
        let windows = self.view().unsealed(self.state.now(), SEAL_REST);
        match windows.first() {
            Some(window) => self.command(&Command::Seal(*window)),
            None => self.command(&Command::Merge),
        }
    }

    /// Also the partitions that go on.
    pub(crate) fn seal_all(&mut self) -> Result<(), Box<dyn Error>> {
        while let Some(window) = self.view().unsealed(TimeNs(i64::MAX), SEAL_REST).first() {
            self.command(&Command::Seal(*window))?;
        }
        Ok(())
    }

    /// What the log would bring.
    pub(crate) fn command(&mut self, command: &Command) -> Result<(), Box<dyn Error>> {
        self.replay(&command.encode())
    }

    /// An entry of the log.
    pub(crate) fn replay(&mut self, bytes: &Bytes) -> Result<(), Box<dyn Error>> {
        self.index += 1;
        self.log_bytes += bytes.len() as u64;
        self.unmerged_bytes += bytes.len() as u64;
        let start = on_cpu()?;
        let command = Command::decode(bytes)?;
        let mut effects = self.state.apply(self.index, &command);
        let rows = std::mem::take(&mut effects.rows);
        self.store.apply(self.index, &self.state, rows);
        self.cpu.apply += on_cpu()?.saturating_sub(start);
        let (index, state) = (self.index, &self.state);
        let start = on_cpu()?;
        let (job, took) = match effects.job {
            Some(Job::Merge) => (
                self.store.begin_merge(index, state, Bytes::new()),
                &mut self.cpu.merge,
            ),
            Some(Job::Seal(window)) => (
                self.store.begin_seal(index, state, Bytes::new(), window),
                &mut self.cpu.seal,
            ),
            Some(Job::Retention(_)) | None => return Ok(()),
        };
        self.unmerged_bytes = 0;
        let merged = job.run()?;
        self.segment_bytes += merged.file_bytes();
        self.store.finish_merge(merged)?;
        *took += on_cpu()?.saturating_sub(start);
        Ok(())
    }

    /// How many files there are, and their bytes.
    pub(crate) fn kept(&self) -> Result<(usize, u64), Box<dyn Error>> {
        self.kept_of(|_| true)
    }

    fn kept_of(&self, counts: fn(&str) -> bool) -> Result<(usize, u64), Box<dyn Error>> {
        let files = self.store.segments();
        let mut names = files.list()?;
        names.retain(|name| counts(name));
        let len = |name: &String| files.open(name, OpenMode::Existing)?.len();
        let bytes = names.iter().map(len).sum::<Result<u64, _>>()?;
        Ok((names.len(), bytes))
    }

    pub(crate) fn report(&self, values: u64, when: &str) -> Result<(), Box<dyn Error>> {
        let (files, kept) = self.kept()?;
        let (rollups, of_rollups) = self.kept_of(is_rollup)?;
        let (segments, of_segments) = self.kept_of(|name| !is_rollup(name))?;
        let each = |bytes: u64| bytes as f64 / values as f64;
        let written = self.log_bytes + self.segment_bytes;
        println!("\n{when}: {files} files");
        println!("  bytes a value kept, indexes included: {:.3}", each(kept));
        println!(
            "    in {segments} segments {:.3}; in {rollups} rollups {:.3}, {:.1} % more",
            each(of_segments),
            each(of_rollups),
            of_rollups as f64 * 100.0 / of_segments as f64
        );
        println!(
            "  bytes a value written: log {:.3}, segments and rollups {:.3}; written over kept {:.2}",
            each(self.log_bytes),
            each(self.segment_bytes),
            written as f64 / kept as f64
        );
        let per_million = |took: Duration| took.as_secs_f64() * 1e6 / values as f64;
        let Cpu { apply, merge, seal } = self.cpu;
        println!(
            "  CPU-s a million values: apply {:.4}, merges {:.4}, sealing {:.4}; all {:.4}",
            per_million(apply),
            per_million(merge),
            per_million(seal),
            per_million(self.cpu.all())
        );
        Ok(())
    }
}

fn is_rollup(name: &str) -> bool {
    name.contains(".roll")
}

/// How long this thread has been on a CPU.
fn on_cpu() -> Result<Duration, Box<dyn Error>> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let ns = text.split(' ').next().ok_or("schedstat is empty")?;
    Ok(Duration::from_nanos(ns.parse()?))
}
