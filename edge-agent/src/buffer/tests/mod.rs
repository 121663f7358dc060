//! What goes when there is no room: whatever the classes say, each reading arrives, or is told as
//! lost or thinned, or was refused; and the bound holds all the time.

mod damage;
mod overflow;
mod runs;

use std::sync::{Arc, Mutex};

use journal::{Journal, JournalError, Options, SimStorage, Writer, WriterHandle};
use shared::batch::{Batch, Data, GapReason, SeriesColumns, SeriesDefinition, Values, decode};
use shared::id::LocalSeriesId;
use shared::reading::{Reading, Value};

use super::*;
use crate::batcher::{BatchOptions, Batcher, Linger};
use crate::handed::Kind;
use runs::check_starts;

const FILES: Options = Options {
    file_bytes: 32 << 10,
    files_max: 24,
};
const BYTES_MAX: u64 = 512 << 10;
const BATCH: BatchOptions = BatchOptions {
    rows_max: 1_000,
    bytes_max: 1 << 16,
    linger: Linger::of_all(Duration::ZERO),
};
/// Few, so that most of what is on disk is held as runs.
const NEAR: usize = 8;
const MINUTE_NS: i64 = 60_000_000_000;

type Results = Arc<Mutex<Vec<Result<Vec<DiskPosition>, JournalError>>>>;
/// Of a class and minute: least and greatest value, and how many.
type Minutes = BTreeMap<(u8, i64), (i64, i64, i64)>;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

/// What the keeper does, without threads and cluster.
struct Agent {
    batcher: Batcher,
    buffer: Buffer,
    writer: Writer,
    handle: WriterHandle,
    results: Results,
    now: Duration,
    settled: Settled,
    /// Rows that were sealed, those of thinning included.
    sealed: u64,
    /// Of them, those of the thinning under way.
    sums: u64,
    taken: Minutes,
    refused: [u64; CLASSES_MAX],
    /// Runs that were read back.
    loads: u64,
    /// The file of the summary that the start went by; 0 if there was none.
    summed_up_in: u64,
    /// Loses power in the write of the next summary.
    cut_at_summary: Option<SimStorage>,
}

/// What a cluster would get.
#[derive(Default, PartialEq)]
struct Arrived {
    rows: u64,
    minutes: Minutes,
    /// Readings by reason.
    gaps: BTreeMap<GapReason, u64>,
    records: u64,
}

fn classes(rules: &[Overflow]) -> Classes {
    let rule = |(nth, overflow): (usize, &Overflow)| ClassRule {
        name: format!("c{nth}"),
        overflow: *overflow,
    };
    Classes::new(rules.iter().enumerate().map(rule).collect()).unwrap()
}

fn add(minutes: &mut Minutes, class: u8, minute: i64, least: i64, most: i64, count: i64) {
    let known = minutes.entry((class, minute)).or_insert((least, most, 0));
    known.0 = known.0.min(least);
    known.1 = known.1.max(most);
    known.2 += count;
}

impl Agent {
    fn start(disk: &SimStorage, epoch: u64, rules: &[Overflow]) -> Agent {
        Agent::start_with(disk, FILES, epoch, rules)
    }

    fn start_with(disk: &SimStorage, files: Options, epoch: u64, rules: &[Overflow]) -> Agent {
        let mut recovery = Recovery::default();
        let mut visit = |position, head, payload: &[u8]| recovery.visit(position, head, payload);
        let opened = Journal::open_skipping(disk.as_storage(), files, sums_up, &mut visit);
        let (journal, damaged) = opened.unwrap();
        assert!(damaged.is_empty());
        recovery.settle(&journal.reader());
        Agent::with(journal, files, recovery, epoch, rules)
    }

    /// Reads every record there is and believes no summary.
    fn start_reading_all(disk: &SimStorage, epoch: u64, rules: &[Overflow]) -> Agent {
        let mut recovery = Recovery::one_by_one();
        let journal = Journal::open(disk.as_storage(), FILES, &mut |position, head, payload| {
            if sums_up(head) {
                return Ok(());
            }
            recovery.visit(position, head, payload)
        });
        Agent::with(journal.unwrap(), FILES, recovery, epoch, rules)
    }

    fn with(
        journal: Journal,
        files: Options,
        recovery: Recovery,
        epoch: u64,
        rules: &[Overflow],
    ) -> Agent {
        let (writer, handle) = Writer::new(journal);
        let summed_up_in = recovery.summed_up_in();
        let options = BufferOptions {
            dir: PathBuf::new(),
            bytes_max: BYTES_MAX.max(files.file_bytes * files.files_max as u64 / 2),
            ram_bytes_max: 32 << 10,
            max_unsafe: Duration::from_secs(10),
            classes: classes(rules),
            entries_near: if files == FILES { NEAR } else { 128 },
        };
        let now = Duration::ZERO;
        Agent {
            batcher: Batcher::new(BATCH),
            buffer: Buffer::new(options, recovery, Epoch(epoch), now, TimeNs(1)),
            writer,
            handle,
            results: Results::default(),
            now,
            settled: Settled::default(),
            sealed: 0,
            sums: 0,
            taken: Minutes::new(),
            refused: [0; CLASSES_MAX],
            loads: 0,
            summed_up_in,
            cut_at_summary: None,
        }
    }

    fn wall(&self) -> TimeNs {
        TimeNs(i64::try_from(self.now.as_nanos()).unwrap())
    }

    /// One batch of a device: `count` values within a minute, a second apart.
    fn take(&mut self, class: u8, count: i64, dice: &mut Dice) {
        let kind = Kind {
            class: Class(class),
            stamp: Stamp::Wall,
        };
        if self.buffer.refuses(kind.class, false) {
            let count = count.unsigned_abs();
            self.buffer.count_refused(kind.class, count);
            self.refused[usize::from(class)] += count;
            return;
        }
        let start = self.wall().0 / MINUTE_NS;
        let mut values = Vec::new();
        for second in 0..count {
            let value = i64::try_from(dice.roll(1 << 40)).unwrap() - (1 << 39);
            values.push(value);
            let reading = Reading::new(
                "t".to_owned(),
                format!("d{class}"),
                Vec::new(),
                TimeNs(start * MINUTE_NS + second * 1_000_000_000),
                vec![("v".to_owned(), Value::Int(value))],
            );
            self.batcher.push(self.now, reading, kind, None);
        }
        let bytes = self.batcher.sealed_bytes_most(kind);
        if !self.buffer.has_room_for(kind.class, bytes) {
            let (readings, _) = self.batcher.give_up(kind);
            self.buffer.count_refused(kind.class, readings);
            self.refused[usize::from(class)] += readings;
            return;
        }
        for value in values {
            add(&mut self.taken, class, start, value, value, 1);
        }
        let collected = self.batcher.take(kind).unwrap();
        self.sealed += collected.readings;
        let wall = self.wall();
        let sealed = self.buffer.seal(collected, 4, self.now, self.now, wall);
        sealed.unwrap();
        self.make_room();
    }

    /// One batch whose times count from boot.
    fn seal_since_boot(&mut self) {
        let kind = Kind {
            class: Class(0),
            stamp: Stamp::Boot,
        };
        let value = vec![("v".to_owned(), Value::Int(1))];
        let (table, device) = ("t".to_owned(), "d".to_owned());
        let reading = Reading::new(table, device, Vec::new(), TimeNs(7), value);
        self.batcher.push(self.now, reading, kind, None);
        let collected = self.batcher.take(kind).unwrap();
        let (now, wall) = (self.now, self.wall());
        let sealed = self.buffer.seal(collected, 4, now, now, wall);
        sealed.unwrap();
    }

    /// Reads a run back; nothing of it is damaged.
    fn load(&mut self, run: RunToLoad) {
        let loaded = run.read(self.handle.reader());
        assert_eq!(loaded.missing(), 0);
        self.loads += 1;
        let settled = self.buffer.loaded(loaded, self.wall());
        self.settled.add(settled);
    }

    /// Asks for something again once the run that it needs is loaded.
    fn with_runs<T>(&mut self, ask: impl Fn(&mut Buffer) -> Option<T>) -> Option<T> {
        loop {
            let answer = ask(&mut self.buffer);
            match self.buffer.wanted() {
                Some(run) => self.load(run),
                None => return answer,
            }
        }
    }

    fn make_room(&mut self) {
        loop {
            let settled = self.buffer.make_room(self.wall());
            self.settled.add(settled);
            let Some(run) = self.buffer.wanted() else {
                break;
            };
            self.load(run);
        }
        if self.buffer.thinning.is_none() {
            self.sealed -= std::mem::take(&mut self.sums);
        }
        let (bytes, bytes_max) = (self.buffer.bytes(), self.buffer.bytes_max());
        assert!(bytes <= bytes_max, "{bytes} of {bytes_max}");
    }

    fn read(&self, place: Place) -> Batch {
        let bytes = match self.buffer.source(place).unwrap() {
            Source::Ram(bytes) => bytes,
            Source::Disk(position) => {
                payload_to_batch(&self.handle.reader().read(position).unwrap()).unwrap()
            }
        };
        decode(&bytes).unwrap()
    }

    fn finish_thinning(&mut self) {
        let settled = self.buffer.finish_thinning(self.wall());
        if settled.readings_thinned > 0 {
            self.sums = 0;
        } else if self.buffer.thinning.is_none() {
            self.sealed -= std::mem::take(&mut self.sums);
        }
        self.settled.add(settled);
    }

    fn thin(&mut self) {
        self.finish_thinning();
        let Some(plan) = self.with_runs(Buffer::plan_thinning) else {
            return;
        };
        let rest = plan.sum_up(|place| Some(self.read(place).body));
        assert!(rest.unreadable.is_empty());
        let kind = Kind {
            class: plan.class,
            stamp: Stamp::Wall,
        };
        if let Some(readings) = rest.readings {
            self.sums = readings.len() as u64;
            self.sealed += self.sums;
            let collected = self.batcher.collect(self.now, kind, readings).unwrap();
            let wall = self.wall();
            let sealed = self
                .buffer
                .seal_thinned(collected, rest.summed, self.now, wall);
            sealed.unwrap();
        } else {
            self.buffer.keep_whole(&rest.summed);
        }
        self.make_room();
    }

    fn sync(&mut self) {
        self.buffer.see_space(self.handle.usage());
        let gaps_wait = self.buffer.has_unwritten_gaps();
        if let Some(work) = self.buffer.next_sync(self.now, false) {
            if sums_up_any(&work) {
                assert!(!gaps_wait, "what they stand for would be told nowhere");
                if let Some(disk) = &self.cut_at_summary {
                    disk.cut_at(1);
                }
            }
            self.submit(work);
        }
        if let Some(before) = self.buffer.release() {
            self.handle.release(before).unwrap();
        }
        let usage = self.handle.usage();
        if let Some(work) = self.with_runs(|buffer| buffer.carry(usage)) {
            self.submit(work);
        }
    }

    fn submit(&mut self, work: DiskWork) {
        let records = work.into_records(self.handle.reader()).unwrap();
        let results = Arc::clone(&self.results);
        let done = Box::new(move |result| results.lock().unwrap().push(result));
        self.handle.append(records, done).unwrap();
        self.writer.step();
        let results: Vec<_> = self.results.lock().unwrap().drain(..).collect();
        for result in results {
            self.settled.add(self.buffer.synced(result));
        }
    }

    fn sendable(&mut self, epoch: Epoch, lane: Lane, next: BatchNumber) -> Option<Sendable> {
        while let Some(run) = self.buffer.run_at(epoch, lane, next) {
            self.load(run);
        }
        self.buffer.sendable(epoch, lane, next)
    }

    /// Everything that is held, in the order in which it would be sent.
    fn arrived(&mut self) -> Arrived {
        let mut arrived = Arrived::default();
        let epochs: Vec<Epoch> = self.buffer.epochs().collect();
        for epoch in epochs {
            let mut devices = BTreeMap::new();
            for lane in Lane::ALL {
                let (mut next, mut before) = (BatchNumber(1), Digest::ZERO);
                while let Some(held) = self.sendable(epoch, lane, next) {
                    assert_eq!(held.place.from, next, "no hole in {lane:?}");
                    let batch = self.read(held.place);
                    assert_eq!(batch.header.previous, before);
                    (next, before) = (held.place.to.next(), held.digest);
                    match batch.body {
                        Body::Hello(_) | Body::Clock(_) => {}
                        Body::Names(all) => {
                            devices.extend(all.into_iter().map(|one| (one.id, one)));
                        }
                        Body::Gap(gap) => {
                            *arrived.gaps.entry(gap.reason).or_default() += gap.readings;
                            arrived.records += 1;
                        }
                        Body::Data(data) => arrived.take(&data, &devices),
                    }
                }
                assert_eq!(self.buffer.sealed(epoch, lane).last.next(), next);
            }
        }
        arrived
    }

    /// All that was sealed is there, or a gap record tells of it.
    fn check(&mut self, case: u64) -> Arrived {
        let arrived = self.arrived();
        let told = |reason| arrived.gaps.get(&reason).copied().unwrap_or(0);
        let (dropped, thinned) = (told(GapReason::Overflow), told(GapReason::Thinned));
        assert_eq!(
            arrived.rows + dropped + thinned,
            self.sealed,
            "case {case}: {:?}",
            arrived.gaps
        );
        assert_eq!(self.settled.readings_lost, dropped, "case {case}");
        assert_eq!(self.settled.readings_thinned, thinned, "case {case}");
        assert_eq!(self.buffer.readings_pending(), arrived.rows, "case {case}");
        for (account, refused) in self.buffer.classes().zip(self.refused) {
            assert_eq!(account.readings_refused, refused, "case {case}");
        }
        arrived
    }

    /// Of a class that lost nothing, each minute is told with its extremes and its count.
    fn check_minutes(&self, arrived: &Arrived, class: u8, case: u64) {
        let of_class = |minutes: &Minutes| -> Minutes {
            let own = minutes.iter().filter(|((own, _), _)| *own == class);
            own.map(|(key, told)| (*key, *told)).collect()
        };
        let (arrived, taken) = (of_class(&arrived.minutes), of_class(&self.taken));
        for (place, told) in &arrived {
            assert_eq!(Some(told), taken.get(place), "case {case}, {place:?}");
        }
        assert_eq!(arrived.len(), taken.len(), "case {case}, class {class}");
    }
}

impl Arrived {
    fn take(&mut self, data: &Data, devices: &BTreeMap<LocalSeriesId, SeriesDefinition>) {
        self.rows += data.rows() as u64;
        for group in &data.groups {
            for series in &group.series {
                let definition = &devices[&series.id];
                let class: u8 = definition.device[1..].parse().unwrap();
                let ints = |name| ints(definition, series, name);
                let least = ints("v").or_else(|| ints("v_min")).unwrap();
                let most = ints("v").or_else(|| ints("v_max")).unwrap();
                let counts = ints("v_count");
                for (row, time) in group.times.iter().enumerate() {
                    let minute = time.div_euclid(MINUTE_NS);
                    let count = counts.map_or(1, |counts| counts[row]);
                    let (least, most) = (least[row], most[row]);
                    add(&mut self.minutes, class, minute, least, most, count);
                }
            }
        }
    }
}

fn sums_up_any(work: &DiskWork) -> bool {
    let DiskWork::Append(records) = work else {
        return false;
    };
    records.iter().any(|one| sums_up(one.head))
}

fn ints<'a>(
    definition: &SeriesDefinition,
    series: &'a SeriesColumns,
    name: &str,
) -> Option<&'a Vec<i64>> {
    let mut columns = series.columns.iter();
    let column = columns.find(|one| definition.fields[usize::from(one.field)].0 == name)?;
    match &column.values {
        Values::Int(values) => Some(values),
        _ => None,
    }
}

/// So many minutes of batches of random classes, with syncs now and then.
fn run(agent: &mut Agent, minutes: u64, class_count: u64, dice: &mut Dice) {
    for _ in 0..minutes {
        agent.now += Duration::from_secs(60);
        for _ in 0..=dice.roll(3) {
            let class = u8::try_from(dice.roll(class_count)).unwrap();
            let count = 20 + i64::try_from(dice.roll(40)).unwrap();
            agent.take(class, count, dice);
            agent.thin();
        }
        if dice.roll(3) > 0 {
            agent.sync();
            agent.thin();
        }
    }
    for _ in 0..20 {
        agent.sync();
        agent.thin();
    }
    for _ in 0..1_000 {
        if agent.buffer.thinning.is_none() {
            return;
        }
        agent.sync();
        agent.thin();
    }
    panic!("a thinning does not end");
}

/// More was dropped between two syncs than the journal had room for, so that the gap record found
/// none; without it no file could go, and nothing came to disk any more.
#[test]
fn after_a_flood_everything_comes_to_disk_again() {
    let disk = SimStorage::new(5);
    let tight = Options {
        file_bytes: 32 << 10,
        files_max: 16,
    };
    let mut agent = Agent::start_with(&disk, tight, 1, &[Overflow::DropOldest]);
    let mut dice = Dice(5);
    for _ in 0..12 {
        agent.now += Duration::from_secs(60);
        for _ in 0..40 {
            agent.take(0, 1_000, &mut dice);
        }
        agent.sync();
    }
    assert!(agent.settled.readings_lost > 0);
    for _ in 0..40 {
        agent.now += Duration::from_secs(1);
        agent.sync();
    }
    assert_eq!(agent.buffer.readings_unsafe(), 0);
    assert!(!agent.buffer.has_no_room());
    agent.check(0);
}

/// Every second a batch, acknowledged five seconds later: after the start nothing comes to disk.
#[test]
fn an_hour_of_steady_state_writes_nothing() {
    let disk = SimStorage::new(4);
    let mut agent = Agent::start(&disk, 1, &[Overflow::DropOldest]);
    let mut dice = Dice(4);
    agent.sync();
    let before = agent.buffer.journal_bytes_written();
    assert!(before < 1_000, "{before}: the epoch and its hello");
    let operations = disk.operations();
    let mut sent: Vec<[(Lane, Position); 3]> = Vec::new();
    for second in 0..3_600 {
        agent.now += Duration::from_secs(1);
        agent.take(0, 50, &mut dice);
        sent.push(Lane::ALL.map(|lane| (lane, agent.buffer.sealed(Epoch(1), lane))));
        if second >= 5 {
            for (lane, position) in sent[second - 5] {
                let settled = agent.buffer.advance(Epoch(1), lane, position);
                agent.settled.add(settled);
            }
        }
        agent.sync();
    }
    assert_eq!(agent.buffer.journal_bytes_written(), before);
    assert_eq!(disk.operations(), operations, "neither bytes nor names");
    assert_eq!(agent.buffer.readings_pending(), 5 * 50);
    assert_eq!(agent.settled.readings_lost, 0);
}

#[test]
fn the_least_class_goes_first_and_loss_is_what_gap_records_tell() {
    let disk = SimStorage::new(1);
    let mut agent = Agent::start(&disk, 1, &[Overflow::DropOldest, Overflow::DropOldest]);
    let mut dice = Dice(1);
    for _ in 0..1_000 {
        agent.now += Duration::from_secs(60);
        agent.take(0, 20, &mut dice);
        agent.take(1, 55, &mut dice);
        agent.sync();
    }
    let arrived = agent.check(0);
    assert!(arrived.gaps[&GapReason::Overflow] > 10_000);
    agent.check_minutes(&arrived, 0, 0);
    let accounts: Vec<ClassAccount> = agent.buffer.classes().collect();
    assert_eq!(accounts[0].readings_dropped, 0);
    assert_eq!(
        accounts[1].readings_dropped,
        arrived.gaps[&GapReason::Overflow]
    );
}

#[test]
fn what_must_not_go_is_not_dropped_and_new_readings_are_refused() {
    let disk = SimStorage::new(2);
    let mut agent = Agent::start(&disk, 1, &[Overflow::Reject]);
    let mut dice = Dice(2);
    run(&mut agent, 2_000, 1, &mut dice);
    let arrived = agent.check(0);
    assert!(arrived.gaps.is_empty());
    assert!(agent.refused[0] > 1_000);
    assert!(agent.buffer.refuses(Class(0), true));
    agent.check_minutes(&arrived, 0, 0);
}

#[test]
fn thinning_keeps_the_extremes_of_every_minute() {
    let disk = SimStorage::new(3);
    let mut agent = Agent::start(&disk, 1, &[Overflow::Thin]);
    let mut dice = Dice(3);
    run(&mut agent, 1_200, 1, &mut dice);
    let arrived = agent.check(0);
    assert_eq!(agent.settled.readings_lost, 0, "there is room for minutes");
    assert!(arrived.gaps[&GapReason::Thinned] > 10_000);
    agent.check_minutes(&arrived, 0, 0);
}

/// What thinning leaves comes to disk before what it is of goes from there.
#[test]
fn a_power_cut_at_any_step_of_a_thinning_loses_neither() {
    for case in 0..12 {
        let disk = SimStorage::new(case);
        let mut dice = Dice(case);
        let mut agent = Agent::start(&disk, 1, &[Overflow::Thin]);
        let (mut begun, mut ended) = (0, false);
        while !ended {
            agent.now += Duration::from_secs(60);
            agent.take(0, 50, &mut dice);
            let before = agent.settled.readings_thinned;
            agent.thin();
            agent.now += Duration::from_secs(10);
            let under_way = agent.buffer.thinning.is_some();
            begun += u64::from(under_way);
            let replaced = agent.settled.readings_thinned > before;
            // Nothing of it is on disk, the rest is, or the gap records are as well.
            let here = if case % 3 == 0 { under_way } else { replaced };
            ended = here && begun > case / 3;
            if !ended || case % 3 == 2 {
                agent.sync();
            }
        }
        let taken = std::mem::take(&mut agent.taken);
        drop(agent);
        disk.power_cut();
        let mut agent = Agent::start(&disk, 2, &[Overflow::Thin]);
        let arrived = agent.arrived();
        // The last one was not due on disk.
        assert!(arrived.minutes.len() + 1 >= taken.len(), "case {case}");
        for (place, told) in &arrived.minutes {
            let taken = taken[place];
            assert_eq!((told.0, told.1), (taken.0, taken.1), "case {case}");
            assert!(told.2 >= taken.2, "case {case}: some are not told of");
        }
    }
}

#[test]
fn whatever_the_classes_each_reading_arrives_or_is_told_of() {
    let policies = [Overflow::DropOldest, Overflow::Thin, Overflow::Reject];
    let mut loads = 0;
    for case in 0..24 {
        let disk = SimStorage::new(case);
        let mut dice = Dice(case);
        let count = 1 + dice.roll(4);
        let rules: Vec<Overflow> = (0..count)
            .map(|_| policies[usize::try_from(dice.roll(3)).unwrap()])
            .collect();
        let mut agent = Agent::start(&disk, 1, &rules);
        run(&mut agent, 800, count, &mut dice);
        assert!(check_starts(&disk, &rules, case), "case {case}");
        let arrived = agent.check(case);
        loads += agent.loads;
        let accounts: Vec<ClassAccount> = agent.buffer.classes().collect();
        for (class, account) in (0..).zip(&accounts) {
            if account.readings_dropped == 0 {
                agent.check_minutes(&arrived, class, case);
            }
            if rules[usize::from(class)] == Overflow::Reject {
                assert_eq!((account.readings_dropped, account.readings_thinned), (0, 0));
            }
        }
    }
    assert!(loads > 1_000, "{loads} loads of runs show little");
}
