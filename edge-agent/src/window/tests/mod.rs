//! Buffer and window against a cluster that keeps the rule of docs/guarantees.md and a network and
//! a disk that keep nothing.

mod disk;
mod early;
mod overflow;
mod sending;
mod slow;
mod stories;

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use journal::{Journal, JournalError, Options, SimStorage, Writer, WriterHandle};
use shared::batch::{Body, Values, decode, digest};
use shared::reading::{Reading, Value};

use super::*;
use crate::batcher::{BatchOptions, Batcher, Linger, WaiterId};
use crate::buffer::{
    BufferOptions, Classes, DiskWork, Recovery, RunToLoad, Source, payload_to_batch, sums_up,
};
use crate::clock::BootId;
use crate::handed::Kind;

const WALL: TimeNs = TimeNs(1_000_000);
const FILES: Options = Options {
    file_bytes: 16 << 10,
    files_max: 24,
};
const WINDOW: WindowOptions = WindowOptions {
    batches_max: 4,
    bytes_max: 1 << 20,
    backlog_share_percent: 25,
    bytes_per_second_max: 0,
    backlog_hours: Hours::ALWAYS,
};
const BATCH: BatchOptions = BatchOptions {
    rows_max: 100,
    bytes_max: 1 << 16,
    linger: Linger::of_all(Duration::ZERO),
};

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

/// The replicated state's rule, and the rows that took effect.
#[derive(Default)]
struct Cluster {
    streams: HashMap<(Epoch, Lane), Position>,
    rows: Vec<i64>,
    hellos: Vec<shared::batch::Hello>,
    gaps: Vec<(GapReason, u64, u64)>,
    /// Readings that gap records count.
    told_lost: u64,
    clocks: HashMap<Epoch, shared::batch::Clock>,
}

impl Cluster {
    fn at(&self, epoch: Epoch, lane: Lane) -> Position {
        self.streams
            .get(&(epoch, lane))
            .copied()
            .unwrap_or_default()
    }

    fn take(&mut self, bytes: &[u8]) -> Verdict {
        let batch = decode(bytes).expect("the agent sends what decodes");
        let header = &batch.header;
        let stream = (header.epoch, header.lane);
        let at = self.at(header.epoch, header.lane);
        let from = batch.first_number();
        if header.number <= at.last {
            return Verdict::Have(at);
        }
        if from > at.last.next() {
            return Verdict::Gap(at);
        }
        let names = self.at(header.epoch, Lane::Names);
        if header.lane != Lane::Names && header.names_needed > names.last {
            return Verdict::Names(names);
        }
        if header.boot_relative && !self.clocks.contains_key(&header.epoch) {
            return Verdict::Names(names);
        }
        if from == at.last.next() && header.previous != at.digest {
            return Verdict::Fork(at);
        }
        let mut next = digest(header.previous, bytes);
        match batch.body {
            Body::Hello(hello) => self.hellos.push(hello),
            Body::Names(_) => {}
            Body::Clock(clock) => {
                self.clocks.entry(header.epoch).or_insert(clock);
            }
            Body::Data(data) => {
                let series = data.groups.iter().flat_map(|group| &group.series);
                for column in series.flat_map(|series| &series.columns) {
                    let Values::Int(values) = &column.values else {
                        panic!("the test sends integers");
                    };
                    self.rows.extend(values);
                }
            }
            Body::Gap(gap) => {
                let first_new = at.last.next().max(gap.from);
                self.gaps.push((gap.reason, first_new.0, header.number.0));
                self.told_lost += gap.readings;
                next = gap.digest_to;
            }
        }
        self.streams.insert(
            stream,
            Position {
                last: header.number,
                digest: next,
            },
        );
        Verdict::Ok
    }
}

type Results = Arc<Mutex<VecDeque<Result<Vec<journal::Position>, JournalError>>>>;

/// What an agent is made of, without threads.
struct Agent {
    batcher: Batcher,
    buffer: Buffer,
    window: Window,
    writer: Writer,
    handle: WriterHandle,
    results: Results,
    kept: Vec<i64>,
    lost: u64,
    alarms: Vec<Alarm>,
    resent: usize,
    now: Duration,
    wire: VecDeque<(u64, Bytes)>,
    answers: VecDeque<(u64, Verdict)>,
}

impl Agent {
    fn start(disk: &SimStorage, epoch: u64) -> Agent {
        Agent::start_with(disk, epoch, 320 << 10)
    }

    fn start_with(disk: &SimStorage, epoch: u64, bytes_max: u64) -> Agent {
        let mut agent = Agent::open(disk, epoch, bytes_max);
        agent.sync();
        agent
    }

    fn start_with_boot(disk: &SimStorage, epoch: u64, boot: BootId) -> Agent {
        let mut agent = Agent::open(disk, epoch, 320 << 10);
        agent.buffer.begin_boot(boot);
        agent.sync();
        agent
    }

    fn open(disk: &SimStorage, epoch: u64, bytes_max: u64) -> Agent {
        let mut recovery = Recovery::default();
        let mut visit = |position, head, payload: &[u8]| recovery.visit(position, head, payload);
        let opened = Journal::open_skipping(disk.as_storage(), FILES, sums_up, &mut visit);
        let (journal, damaged) = opened.unwrap();
        assert!(damaged.is_empty());
        recovery.settle(&journal.reader());
        let (writer, handle) = Writer::new(journal);
        let options = BufferOptions {
            dir: PathBuf::new(),
            bytes_max,
            ram_bytes_max: 4 << 10,
            max_unsafe: Duration::from_secs(10),
            classes: Classes::default(),
            entries_near: WINDOW.batches_max,
        };
        let now = Duration::ZERO;
        Agent {
            batcher: Batcher::new(BATCH),
            buffer: Buffer::new(options, recovery, Epoch(epoch), now, WALL),
            window: Window::new(WINDOW),
            writer,
            handle,
            results: Results::default(),
            kept: Vec::new(),
            lost: 0,
            alarms: Vec::new(),
            resent: 0,
            now,
            wire: VecDeque::new(),
            answers: VecDeque::new(),
        }
    }

    /// Readings with these values become one batch; `waits`: somebody wants to know.
    fn seal(&mut self, values: std::ops::Range<i64>, waits: bool) {
        self.seal_by(values, waits, Kind::default());
    }

    fn seal_by(&mut self, values: std::ops::Range<i64>, waits: bool, kind: Kind) {
        for value in values {
            let reading = Reading::new(
                "t".to_owned(),
                format!("d{}", value / 50),
                Vec::new(),
                TimeNs(value),
                vec![("v".to_owned(), Value::Int(value))],
            );
            let waiter = waits.then(|| WaiterId(u64::try_from(value).unwrap()));
            self.batcher.push(self.now, reading, kind, waiter);
        }
        self.seal_pushed(kind);
    }

    /// The same with values that do not compress: about eight bytes a reading.
    fn seal_wide(&mut self, values: std::ops::Range<i64>) {
        let kind = Kind::default();
        for value in values {
            let reading = Reading::new(
                "t".to_owned(),
                "wide".to_owned(),
                Vec::new(),
                TimeNs(value),
                vec![("v".to_owned(), Value::Int(wide(value)))],
            );
            self.batcher.push(self.now, reading, kind, None);
        }
        self.seal_pushed(kind);
    }

    fn seal_pushed(&mut self, kind: Kind) {
        let collected = self.batcher.take(kind).unwrap();
        let sealed = self.buffer.seal(
            collected,
            WINDOW.batches_max,
            self.now,
            self.now,
            self.wall(),
        );
        sealed.unwrap();
        self.make_room();
    }

    fn make_room(&mut self) {
        loop {
            let settled = self.buffer.make_room(self.wall());
            self.settle(&settled);
            let Some(run) = self.buffer.wanted() else {
                return;
            };
            self.load(run);
        }
    }

    fn load(&mut self, run: RunToLoad) {
        let loaded = run.read(self.handle.reader());
        let settled = self.buffer.loaded(loaded, self.wall());
        self.settle(&settled);
    }

    fn load_at(&mut self, epoch: Epoch, lane: Lane, position: Position) {
        if let Some(run) = self.buffer.run_around(epoch, lane, position.last) {
            self.load(run);
        }
    }

    fn wall(&self) -> TimeNs {
        TimeNs(WALL.0 + i64::try_from(self.now.as_nanos()).unwrap())
    }

    fn settle(&mut self, settled: &Settled) {
        self.kept
            .extend(settled.kept.iter().map(|id| i64::try_from(id.0).unwrap()));
        self.lost += settled.readings_lost;
    }

    fn begin_sync(&mut self, all: bool) -> bool {
        let work = self.buffer.next_sync(self.now, all);
        work.is_some_and(|work| self.submit(work))
    }

    fn submit(&mut self, work: DiskWork) -> bool {
        let records = match work.into_records(self.handle.reader()) {
            Ok(records) => records,
            Err(unreadable) => {
                let settled = self.buffer.not_carried(&unreadable.places, self.wall());
                self.settle(&settled);
                return false;
            }
        };
        let results = Arc::clone(&self.results);
        let done = Box::new(move |result| results.lock().unwrap().push_back(result));
        self.handle.append(records, done).unwrap();
        true
    }

    fn end_sync(&mut self) {
        self.writer.step();
        let results: Vec<_> = self.results.lock().unwrap().drain(..).collect();
        for result in results {
            let settled = self.buffer.synced(result);
            self.settle(&settled);
        }
        if let Some(before) = self.buffer.release() {
            self.handle.release(before).unwrap();
        }
        let work = loop {
            let work = self.buffer.carry(self.handle.usage());
            match self.buffer.wanted() {
                Some(run) => self.load(run),
                None => break work,
            }
        };
        if let Some(work) = work {
            self.submit(work);
        }
    }

    fn sync(&mut self) {
        self.begin_sync(false);
        self.end_sync();
    }

    fn connect(&mut self, cluster: &Cluster) {
        self.wire.clear();
        self.answers.clear();
        let positions: Vec<_> = self
            .buffer
            .streams()
            .map(|(epoch, lane)| (epoch, lane, cluster.at(epoch, lane)))
            .collect();
        for (epoch, lane, position) in &positions {
            self.load_at(*epoch, *lane, *position);
        }
        let outcome = self
            .window
            .connected(self.now, &positions, None, &mut self.buffer);
        self.outcome(&outcome);
    }

    /// No quorum told in time where the streams stand.
    fn connect_told_nothing(&mut self) {
        self.wire.clear();
        self.answers.clear();
        let outcome = self.window.connected(self.now, &[], None, &mut self.buffer);
        self.outcome(&outcome);
    }

    fn outcome(&mut self, outcome: &Outcome) {
        self.settle(&outcome.settled);
        self.alarms.extend(outcome.alarm);
        if let Some(place) = outcome.refused {
            let reason = GapReason::Refused;
            let outcome =
                self.window
                    .give_up(self.now, self.wall(), place, reason, &mut self.buffer);
            self.outcome(&outcome);
        }
    }

    fn send(&mut self) -> bool {
        let ticket = loop {
            let wall = self.wall();
            let ticket = self.window.next(self.now, wall, &mut self.buffer);
            match self.window.unloaded() {
                Some(run) => self.load(run),
                None => break ticket,
            }
        };
        let Some(ticket) = ticket else {
            return false;
        };
        if ticket.too_large {
            self.answers.push_front((ticket.id, Verdict::Invalid));
            self.hear();
            return true;
        }
        let bytes = match self.buffer.source(ticket.place).unwrap() {
            Source::Ram(bytes) => bytes,
            Source::Disk(position) => {
                let payload = self.handle.reader().read(position).unwrap();
                payload_to_batch(&payload).unwrap()
            }
        };
        self.resent += usize::from(ticket.again);
        self.wire.push_back((ticket.id, bytes));
        true
    }

    fn arrive(&mut self, cluster: &mut Cluster) {
        if let Some((id, bytes)) = self.wire.pop_front() {
            self.answers.push_back((id, cluster.take(&bytes)));
        }
    }

    fn hear(&mut self) {
        if let Some((id, verdict)) = self.answers.pop_front() {
            let outcome =
                self.window
                    .answered(self.now, self.wall(), id, verdict, &mut self.buffer);
            self.outcome(&outcome);
        }
    }

    fn talk(&mut self, cluster: &mut Cluster) {
        for _ in 0..10_000 {
            self.now += Duration::from_millis(10);
            while self.send() {}
            while !self.wire.is_empty() {
                self.arrive(cluster);
                self.hear();
            }
            if self.buffer.readings_pending() == 0 && self.buffer.oldest().is_none() {
                return;
            }
        }
        panic!("not drained: {:?}", self.buffer);
    }
}

/// A number that has nothing in common with its neighbours.
fn wide(value: i64) -> i64 {
    let mixed = value.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)).cast_signed()
}

/// What became of what was sealed: each value at most once, all that is kept, in order.
fn check(cluster: &Cluster, kept: &HashSet<i64>, case: u64) {
    let rows: HashSet<i64> = cluster.rows.iter().copied().collect();
    assert_eq!(
        rows.len(),
        cluster.rows.len(),
        "case {case}: a row is there twice"
    );
    let mut missing: Vec<_> = kept.difference(&rows).collect();
    missing.sort();
    assert!(
        missing.is_empty(),
        "case {case}: kept and not there: {missing:?}"
    );
}

#[test]
fn nothing_kept_is_lost_or_doubled_whatever_breaks() {
    for case in 0..300 {
        let mut dice = Dice(case);
        let disk = SimStorage::new(case);
        let mut cluster = Cluster::default();
        let mut agent = Agent::start(&disk, 1);
        let mut kept = HashSet::new();
        let (mut value, mut epoch) = (0, 1);
        for _ in 0..200 {
            agent.now += Duration::from_millis(dice.roll(3_000));
            match dice.roll(20) {
                0..=4 => {
                    let count = i64::try_from(dice.roll(4)).unwrap() + 1;
                    agent.seal(value..value + count, dice.roll(2) == 0);
                    value += count;
                }
                5 => {
                    agent.begin_sync(false);
                }
                6..=7 => agent.end_sync(),
                8..=11 => {
                    agent.send();
                }
                12..=13 => agent.arrive(&mut cluster),
                14..=15 => agent.hear(),
                16 => agent.connect(&cluster),
                17 => {
                    // Refused for a while, with everything of the lane that is behind it.
                    if let Some((id, _)) = agent.wire.pop_front() {
                        agent
                            .answers
                            .push_back((id, Verdict::Busy { retry_ms: 100 }));
                    }
                }
                18 => agent.talk_a_little(&mut cluster, &mut dice),
                _ => {
                    kept.extend(agent.kept.drain(..));
                    assert_eq!(agent.alarms, [], "case {case}");
                    if dice.roll(3) == 0 {
                        disk.cut_at(dice.roll(4) + 1);
                        agent.begin_sync(true);
                        agent.end_sync();
                        kept.extend(agent.kept.drain(..));
                    }
                    drop(agent);
                    disk.power_cut();
                    epoch += 1;
                    agent = Agent::start(&disk, epoch);
                }
            }
        }
        agent.connect(&cluster);
        agent.talk(&mut cluster);
        kept.extend(agent.kept.drain(..));
        assert_eq!(agent.alarms, [], "case {case}");
        assert_eq!(cluster.gaps, [], "case {case}: nothing was dropped");
        check(&cluster, &kept, case);
    }
}

impl Agent {
    fn talk_a_little(&mut self, cluster: &mut Cluster, dice: &mut Dice) {
        for _ in 0..dice.roll(20) {
            self.send();
            self.arrive(cluster);
            self.hear();
        }
    }
}
