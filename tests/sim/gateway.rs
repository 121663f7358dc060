//! The agent's core as it ships, without its threads and sockets: batcher, buffer, window and the
//! journal on a disk that loses power. `session` talks to the cluster for it.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use edge_agent::batcher::{BatchOptions, Batcher, Linger, WaiterId};
use edge_agent::buffer::{
    Buffer, BufferOptions, Classes, DiskWork, Place, Recovery, RunToLoad, Settled, Source,
    payload_to_batch, sums_up,
};
use edge_agent::handed::Kind;
use edge_agent::window::{Hours, Outcome, Window, WindowOptions};
use journal::{Journal, JournalError, Options, SimStorage, Writer, WriterHandle};
use shared::batch::GapReason;
use shared::id::{Epoch, Lane, TimeNs};
use shared::reading::{Reading, SeriesShape, Value};
use shared::verdict::Verdict;
use tests::history::{Readings, Stream};

use crate::arena::Arena;
use crate::world::BEGIN_NS;

const FILES: Options = Options {
    file_bytes: 256 << 10,
    files_max: 256,
};
/// More than a run brings: nothing is dropped for want of room.
const BUFFER_BYTES_MAX: u64 = 60 << 20;
const BATCH: BatchOptions = BatchOptions {
    rows_max: 10_000,
    bytes_max: 1 << 20,
    linger: Linger::of_all(Duration::ZERO),
};

type Results = Arc<Mutex<VecDeque<Result<Vec<journal::Position>, JournalError>>>>;

/// One run of the agent's process.
pub(crate) struct Core {
    arena: Rc<Arena>,
    name: String,
    batcher: Batcher,
    pub(crate) buffer: Buffer,
    pub(crate) window: Window,
    writer: Writer,
    handle: WriterHandle,
    results: Results,
    /// What waiters wait for.
    waiting: BTreeMap<u64, Vec<Readings>>,
    waiter_next: u64,
    /// The disk failed, or its power went: the process ends.
    pub(crate) ends: bool,
}

impl Core {
    pub(crate) fn open(arena: &Rc<Arena>, name: &str, disk: &SimStorage, epoch: u64) -> Core {
        let plan = &arena.plan;
        let mut recovery = Recovery::default();
        let mut visit = |position, head, payload: &[u8]| recovery.visit(position, head, payload);
        let opened = Journal::open_skipping(disk.as_storage(), FILES, sums_up, &mut visit);
        let (journal, damaged) = opened.expect("an agent's journal opens after a power cut");
        if !damaged.is_empty() {
            arena.finding(format!("{name}: its journal is damaged: {damaged:?}"));
        }
        recovery.settle(&journal.reader());
        let (writer, handle) = Writer::new(journal);
        let options = BufferOptions {
            dir: PathBuf::new(),
            bytes_max: BUFFER_BYTES_MAX,
            ram_bytes_max: 64 << 10,
            max_unsafe: Duration::from_secs(2),
            classes: Classes::default(),
            entries_near: plan.window_batches,
        };
        let window = WindowOptions {
            batches_max: plan.window_batches,
            bytes_max: plan.window_bytes,
            backlog_share_percent: 25,
            bytes_per_second_max: 0,
            backlog_hours: Hours::ALWAYS,
        };
        let (now, wall) = times(arena);
        let mut core = Core {
            arena: Rc::clone(arena),
            name: name.to_owned(),
            batcher: Batcher::new(BATCH),
            buffer: Buffer::new(options, recovery, Epoch(epoch), now, wall),
            window: Window::new(window),
            writer,
            handle,
            results: Results::default(),
            waiting: BTreeMap::new(),
            waiter_next: 0,
            ends: false,
        };
        core.sync(false);
        core
    }

    pub(crate) fn stream(&self, epoch: Epoch, lane: Lane) -> Stream {
        (self.name.clone(), epoch.0, lane as u8)
    }

    pub(crate) fn now(&self) -> Duration {
        times(&self.arena).0
    }

    /// The next readings of some devices become one batch.
    pub(crate) fn hand_over(&mut self, parts: &[(String, usize)]) {
        let (now, wall) = times(&self.arena);
        let waiter = self.waiter_next;
        self.waiter_next += 1;
        let mut handed = Vec::new();
        for (device, count) in parts {
            let (seqs, content) = {
                let mut history = self.arena.history.borrow_mut();
                (history.hand_over(device, *count), history.content())
            };
            let shape = Arc::new(SeriesShape {
                table: "sim".to_owned(),
                device: device.clone(),
                tags: Vec::new(),
                fields: vec!["seq".to_owned(), "v".to_owned()],
            });
            for seq in seqs.clone() {
                let reading = Reading {
                    shape: Arc::clone(&shape),
                    time: TimeNs(content.time_ns(seq)),
                    values: vec![Value::Int(seq), Value::Int(content.value(seq))],
                };
                self.batcher
                    .push(now, reading, Kind::default(), Some(WaiterId(waiter)));
            }
            handed.push((device.clone(), seqs));
        }
        let collected = self.batcher.take(Kind::default()).expect("just pushed");
        let epoch = self.buffer.epoch();
        let before = [Lane::Live, Lane::Backlog].map(|lane| self.buffer.sealed(epoch, lane).last);
        let batches_max = self.arena.plan.window_batches;
        let sealed = self.buffer.seal(collected, batches_max, now, now, wall);
        sealed.expect("a batch within the limits");
        for (lane, before) in [Lane::Live, Lane::Backlog].into_iter().zip(before) {
            let number = self.buffer.sealed(epoch, lane).last;
            if number != before {
                let mut history = self.arena.history.borrow_mut();
                history.sealed(self.stream(epoch, lane), number.0, handed.clone());
            }
        }
        self.waiting.insert(waiter, handed);
        let settled = self.buffer.make_room(wall);
        self.settle(&settled);
        self.load_wanted();
    }

    fn settle(&mut self, settled: &Settled) {
        for id in &settled.kept {
            for readings in self.waiting.remove(&id.0).unwrap_or_default() {
                self.arena.history.borrow_mut().kept(&readings);
            }
        }
        if settled.readings_lost > 0 && !self.buffer.disk_failed() {
            let lost = settled.readings_lost;
            let name = &self.name;
            self.arena.finding(format!(
                "{name}: {lost} readings dropped from a buffer with room"
            ));
        }
    }

    fn load(&mut self, run: RunToLoad) {
        let loaded = run.read(self.handle.reader());
        let settled = self.buffer.loaded(loaded, times(&self.arena).1);
        self.settle(&settled);
    }

    fn load_wanted(&mut self) {
        while let Some(run) = self.buffer.wanted() {
            self.load(run);
        }
    }

    pub(crate) fn load_at(
        &mut self,
        epoch: Epoch,
        lane: Lane,
        position: shared::verdict::Position,
    ) {
        if let Some(run) = self.buffer.run_around(epoch, lane, position.last) {
            self.load(run);
        }
    }

    fn submit(&mut self, work: DiskWork) {
        let records = match work.into_records(self.handle.reader()) {
            Ok(records) => records,
            Err(unreadable) => {
                let settled = self
                    .buffer
                    .not_carried(&unreadable.places, times(&self.arena).1);
                return self.settle(&settled);
            }
        };
        let results = Arc::clone(&self.results);
        let done = Box::new(move |result| {
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.push_back(result);
        });
        self.ends |= self.handle.append(records, done).is_err();
        self.writer.step();
        let results: Vec<_> = {
            let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
            results.drain(..).collect()
        };
        for result in results {
            let settled = self.buffer.synced(result);
            self.settle(&settled);
        }
        self.ends |= self.buffer.disk_failed();
    }

    /// Writes what is due, or all that is not on disk.
    pub(crate) fn sync(&mut self, all: bool) {
        while !self.ends {
            let Some(work) = self.buffer.next_sync(self.now(), all) else {
                break;
            };
            self.submit(work);
        }
        if self.ends {
            return;
        }
        if let Some(before) = self.buffer.release() {
            self.ends |= self.handle.release(before).is_err();
            self.writer.step();
        }
        let work = self.buffer.carry(self.handle.usage());
        self.load_wanted();
        if let Some(work) = work {
            self.submit(work);
        }
    }

    /// The bytes of a batch; `None` if they cannot be read back.
    pub(crate) fn bytes(&self, place: Place) -> Option<Bytes> {
        match self.buffer.source(place)? {
            Source::Ram(bytes) => Some(bytes),
            Source::Disk(position) => {
                let payload = self.handle.reader().read(position).ok()?;
                payload_to_batch(&payload)
            }
        }
    }

    /// What is to be sent next.
    pub(crate) fn next(&mut self) -> Option<edge_agent::window::Ticket> {
        loop {
            let (now, wall) = times(&self.arena);
            let ticket = self.window.next(now, wall, &mut self.buffer);
            match self.window.unloaded() {
                Some(run) => self.load(run),
                None => return ticket,
            }
        }
    }

    pub(crate) fn answered(&mut self, id: u64, verdict: Verdict) {
        if let Verdict::Have(position) | Verdict::Gap(position) = verdict
            && let Some((epoch, lane)) = self.window.stream_of(id)
        {
            self.load_at(epoch, lane, position);
        }
        let (now, wall) = times(&self.arena);
        let outcome = self
            .window
            .answered(now, wall, id, verdict, &mut self.buffer);
        self.outcome(&outcome);
    }

    pub(crate) fn outcome(&mut self, outcome: &Outcome) {
        self.settle(&outcome.settled);
        let name = self.name.clone();
        if let Some(alarm) = outcome.alarm {
            self.arena.finding(format!("{name}: {alarm:?}"));
        }
        if let Some(place) = outcome.refused {
            self.arena.finding(format!("{name}: refused {place:?}"));
            let (now, wall) = times(&self.arena);
            let reason = GapReason::Refused;
            let outcome = self
                .window
                .give_up(now, wall, place, reason, &mut self.buffer);
            self.settle(&outcome.settled);
        }
    }
}

/// Of an agent: since the run began, and of the day.
fn times(arena: &Arena) -> (Duration, TimeNs) {
    let now_ns = arena.now_ns();
    let wall = BEGIN_NS + i64::try_from(now_ns).expect("a run takes no centuries");
    (Duration::from_nanos(now_ns), TimeNs(wall))
}
