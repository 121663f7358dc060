//! One replica without consensus: state and store, driven as the log would drive them.

use std::error::Error;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aggregator::state::{Command, Job, State};
use aggregator::store::{Store, View};
use bytes::Bytes;
use journal::DiskStorage;
use shared::id::TimeNs;

use crate::feed::Fleet;

/// Batches of one command, as a group commit gathers them.
const BATCHES: usize = 32;

pub(crate) struct Replica {
    state: State,
    store: Store,
    index: u64,
    log_bytes: u64,
    written: Written,
    apply: Duration,
    merge: Duration,
    seal: Duration,
}

#[derive(Default)]
struct Written {
    merged_bytes: u64,
    sealed_bytes: u64,
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
            written: Written::default(),
            apply: Duration::ZERO,
            merge: Duration::ZERO,
            seal: Duration::ZERO,
        })
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.store.view()
    }

    pub(crate) fn define(&mut self, fleet: &mut Fleet) -> Result<(), Box<dyn Error>> {
        self.clock(fleet.time(0))?;
        let all = 0..fleet.trucks();
        let all: Result<Vec<_>, _> = all.map(|truck| fleet.names(truck)).collect();
        self.command(&Command::Submissions(all?.into_iter().flatten().collect()))
    }

    /// These rows of all trucks.
    pub(crate) fn take(
        &mut self,
        fleet: &mut Fleet,
        rows: Range<usize>,
    ) -> Result<(), Box<dyn Error>> {
        self.clock(fleet.time(rows.end - 1))?;
        let trucks: Vec<usize> = (0..fleet.trucks()).collect();
        for some in trucks.chunks(BATCHES) {
            let all = some.iter().map(|truck| fleet.batch(*truck, rows.clone()));
            let all: Result<Vec<_>, _> = all.collect();
            self.command(&Command::Submissions(all?))?;
        }
        Ok(())
    }

    fn clock(&mut self, now: TimeNs) -> Result<(), Box<dyn Error>> {
        self.command(&Command::Clock { node: 1, now })
    }

    /// What is due, as the leader's steward would say.
    pub(crate) fn merge_or_seal(&mut self) -> Result<(), Box<dyn Error>> {
        let windows = self.view().unsealed(self.state.now());
        match windows.first() {
            Some(window) => self.command(&Command::Seal(*window)),
            None => self.command(&Command::Merge),
        }
    }

    /// Also the partitions that go on.
    pub(crate) fn seal_all(&mut self) -> Result<(), Box<dyn Error>> {
        while let Some(window) = self.view().unsealed(TimeNs(i64::MAX)).first() {
            self.command(&Command::Seal(*window))?;
        }
        Ok(())
    }

    fn command(&mut self, command: &Command) -> Result<(), Box<dyn Error>> {
        let bytes = command.encode();
        self.index += 1;
        self.log_bytes += bytes.len() as u64;
        let start = on_cpu()?;
        let command = Command::decode(&bytes)?;
        let mut effects = self.state.apply(self.index, &command);
        let rows = std::mem::take(&mut effects.rows);
        self.store.apply(self.index, &self.state, rows);
        self.apply += on_cpu()?.saturating_sub(start);
        let start = on_cpu()?;
        let (job, took, written) = match effects.job {
            Some(Job::Merge) => (
                self.store
                    .begin_merge(self.index, &self.state, Bytes::new()),
                &mut self.merge,
                &mut self.written.merged_bytes,
            ),
            Some(Job::Seal(window)) => (
                self.store
                    .begin_seal(self.index, &self.state, Bytes::new(), window),
                &mut self.seal,
                &mut self.written.sealed_bytes,
            ),
            Some(Job::Retention { .. }) | None => return Ok(()),
        };
        let merged = job.run()?;
        *written += merged.file_bytes();
        self.store.finish_merge(merged)?;
        *took += on_cpu()?.saturating_sub(start);
        Ok(())
    }

    pub(crate) fn report(&self, values: u64, when: &str) -> Result<(), Box<dyn Error>> {
        let files = self.store.segments();
        let mut kept = 0;
        let names = files.list()?;
        for name in &names {
            kept += files.open(name, journal::OpenMode::Existing)?.len()?;
        }
        let each = |bytes: u64| bytes as f64 / values as f64;
        let Written {
            merged_bytes,
            sealed_bytes,
        } = self.written;
        let all = self.log_bytes + merged_bytes + sealed_bytes;
        println!("\n{when}: {} files", names.len());
        println!("  bytes a value kept, index included   {:.3}", each(kept));
        println!(
            "  bytes a value written: log {:.3}, merges {:.3}, sealing {:.3}; written over kept {:.2}",
            each(self.log_bytes),
            each(merged_bytes),
            each(sealed_bytes),
            all as f64 / kept as f64
        );
        let per_million = |took: Duration| took.as_secs_f64() * 1e6 / values as f64;
        println!(
            "  CPU-s a million values: apply {:.4}, merges {:.4}, sealing {:.4}; all {:.4}",
            per_million(self.apply),
            per_million(self.merge),
            per_million(self.seal),
            per_million(self.apply + self.merge + self.seal)
        );
        Ok(())
    }
}

/// How long this thread has been on a CPU.
fn on_cpu() -> Result<Duration, Box<dyn Error>> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let ns = text.split(' ').next().ok_or("schedstat is empty")?;
    Ok(Duration::from_nanos(ns.parse()?))
}
