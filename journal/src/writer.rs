//! The one owner of a journal: takes records from a bounded queue, syncs them in groups, and tells
//! each submitter in order. A thread of its own in production, `step` inline in a simulation.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::error::JournalError;
use crate::files::{Position, Reader};
use crate::journal::Journal;
use crate::record::RecordHead;

/// Submissions that may wait.
pub const QUEUE_COUNT_MAX: usize = 65_536;
/// Bytes of payload that may wait. One submission larger than this is taken by an empty queue.
pub const QUEUE_BYTES_MAX: usize = 128 << 20;
/// A disk that was full is tried again after so long.
const FULL_PAUSE: Duration = Duration::from_secs(30);

/// One record to append.
#[derive(Debug, Clone)]
pub struct Append {
    pub head: RecordHead,
    pub payload: Bytes,
}

/// Called once, on the writer's thread, in the order of submission: with the positions once the
/// records are durable, or with why that is not known.
pub type Done = Box<dyn FnOnce(Result<Vec<Position>, JournalError>) + Send>;

/// How full the journal is, as of the writer's last step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub bytes_used: u64,
    pub bytes_free: u64,
    pub bytes_max: u64,
    /// What stands on the disk already, used or not.
    pub bytes_reserved: u64,
    /// Of one file: what is let go of is let go of in files, and a record lies in one.
    pub file_bytes: u64,
    /// There was no room for more when it was last tried.
    pub disk_full: bool,
}

enum Work {
    Append {
        records: Vec<Append>,
        durable: bool,
        done: Done,
    },
    Release(Position),
}

#[derive(Default)]
struct Queue {
    work: VecDeque<Work>,
    bytes: usize,
    usage: Usage,
    handles: usize,
    writer_gone: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    arrived: Condvar,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Owns the journal and does its work.
pub struct Writer {
    journal: Journal,
    shared: Arc<Shared>,
    contiguous: bool,
    reserving: bool,
    /// When the disk was found full, or tried since.
    room_sought: Option<Duration>,
    /// Why nothing is appended any more.
    failed: Option<JournalError>,
}

/// Submits work to the writer; any thread. When the last one is dropped the writer ends.
pub struct WriterHandle {
    shared: Arc<Shared>,
    reader: Reader,
}

/// Tells how full a journal is. It submits nothing, so it keeps no writer running.
#[derive(Clone)]
pub struct Gauge {
    shared: Arc<Shared>,
}

impl Gauge {
    pub fn usage(&self) -> Usage {
        self.shared.queue().usage
    }
}

impl Clone for WriterHandle {
    fn clone(&self) -> Self {
        self.shared.queue().handles += 1;
        Self {
            shared: Arc::clone(&self.shared),
            reader: self.reader.clone(),
        }
    }
}

impl Drop for WriterHandle {
    fn drop(&mut self) {
        self.shared.queue().handles -= 1;
        self.shared.arrived.notify_one();
    }
}

impl WriterHandle {
    /// Queues records. `done` is called after the group sync that covers them.
    ///
    /// # Errors
    /// `Queue` when the queue is at its bound or the writer is gone; `done` is then not called.
    pub fn append(&self, records: Vec<Append>, done: Done) -> Result<(), JournalError> {
        self.submit(Work::Append {
            records,
            durable: true,
            done,
        })
    }

    /// Queues records that ask for no sync of their own: they are written, and durable with the
    /// next group. `done` is called once they are written.
    pub fn note(&self, records: Vec<Append>, done: Done) -> Result<(), JournalError> {
        self.submit(Work::Append {
            records,
            durable: false,
            done,
        })
    }

    /// Queues a release: done after everything queued before it is durable.
    pub fn release(&self, before: Position) -> Result<(), JournalError> {
        self.submit(Work::Release(before))
    }

    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    pub fn usage(&self) -> Usage {
        self.shared.queue().usage
    }

    pub fn gauge(&self) -> Gauge {
        Gauge {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Whether something waits for the writer's next step.
    pub fn pending(&self) -> bool {
        !self.shared.queue().work.is_empty()
    }

    fn submit(&self, work: Work) -> Result<(), JournalError> {
        let bytes = payload_bytes(&work);
        let mut queue = self.shared.queue();
        if queue.writer_gone {
            return Err(JournalError::Queue { what: "it ended" });
        }
        let over = queue.bytes + bytes > QUEUE_BYTES_MAX || queue.work.len() >= QUEUE_COUNT_MAX;
        if over && !queue.work.is_empty() {
            return Err(JournalError::Queue {
                what: "its queue is full",
            });
        }
        queue.bytes += bytes;
        queue.work.push_back(work);
        drop(queue);
        self.shared.arrived.notify_one();
        Ok(())
    }
}

fn payload_bytes(work: &Work) -> usize {
    match work {
        Work::Append { records, .. } => records.iter().map(|record| record.payload.len()).sum(),
        Work::Release(_) => 0,
    }
}

/// Submissions appended and not yet synced, with what their appends came to.
type Group = Vec<(Done, Result<Vec<Position>, JournalError>)>;

impl Writer {
    pub fn new(journal: Journal) -> (Writer, WriterHandle) {
        let queue = Queue {
            handles: 1,
            usage: usage(&journal),
            ..Queue::default()
        };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            arrived: Condvar::new(),
        });
        let handle = WriterHandle {
            shared: Arc::clone(&shared),
            reader: journal.reader(),
        };
        let writer = Writer {
            journal,
            shared,
            contiguous: false,
            reserving: false,
            room_sought: None,
            failed: None,
        };
        (writer, handle)
    }

    /// For records that mean nothing without those before them. Once one could not be appended,
    /// all later ones are refused with its error until the journal is opened anew: a small one that
    /// still fits must not follow a large one that did not.
    #[must_use]
    pub fn contiguous(mut self) -> Writer {
        self.contiguous = true;
        self
    }

    /// Makes all files that there may be, one at a time and only while nothing else is to do: a
    /// disk that others fill cannot stop the journal then.
    #[must_use]
    pub fn reserving(mut self) -> Writer {
        self.reserving = true;
        self
    }

    /// `false`: something waits to be done, or no more can be made.
    fn reserve_one(&mut self) -> bool {
        let idle = {
            let queue = self.shared.queue();
            queue.work.is_empty() && queue.handles > 0
        };
        if !(self.reserving && idle) {
            return false;
        }
        // An error has latched the journal and stands in the log: the next append tells it.
        let made = self.journal.reserve_one().unwrap_or(false);
        self.shared.queue().usage = usage(&self.journal);
        made
    }

    /// Sees now and then whether a full disk has room again; between steps, so that nobody who
    /// waits for a sync waits for this. `now`: since any start.
    pub fn seek_room(&mut self, now: Duration) {
        if !self.journal.disk_full() {
            self.room_sought = None;
            return;
        }
        let sought = *self.room_sought.get_or_insert(now);
        if now.saturating_sub(sought) < FULL_PAUSE {
            return;
        }
        self.room_sought = Some(now);
        // An error has latched the journal and stands in the log: the next append tells it.
        let tried = self.journal.seek_room();
        if tried.is_ok() && !self.journal.disk_full() {
            tracing::info!("the disk has room for the journal again");
        }
        self.shared.queue().usage = usage(&self.journal);
    }

    fn append(&mut self, records: &[Append]) -> Result<Vec<Position>, JournalError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let appended: Result<Vec<Position>, JournalError> = records
            .iter()
            .map(|one| self.journal.append(one.head, &one.payload))
            .collect();
        if self.contiguous
            && let Err(error) = &appended
        {
            self.failed = Some(error.clone());
        }
        appended
    }

    /// Does all that is queued: one write, one sync, then the callbacks in order. `false` once every
    /// handle is gone and nothing is left to do.
    pub fn step(&mut self) -> bool {
        let work = {
            let mut queue = self.shared.queue();
            if queue.work.is_empty() && queue.handles == 0 {
                return false;
            }
            queue.bytes = 0;
            std::mem::take(&mut queue.work)
        };
        let mut group = Group::new();
        let mut durable = false;
        for item in work {
            match item {
                Work::Append {
                    records,
                    durable: wanted,
                    done,
                } => {
                    let appended = self.append(&records);
                    group.push((done, appended));
                    durable |= wanted;
                }
                Work::Release(before) => {
                    // What replaces the released records must be on disk before they can go.
                    self.finish(&mut group, true);
                    durable = false;
                    if let Err(error) = self.journal.release(before) {
                        tracing::warn!(%error, "files of the journal are not released");
                    }
                }
            }
        }
        self.finish(&mut group, durable);
        true
    }

    fn finish(&mut self, group: &mut Group, durable: bool) {
        let result = if durable {
            self.journal.sync()
        } else {
            self.journal.flush()
        };
        self.shared.queue().usage = usage(&self.journal);
        for (done, appended) in group.drain(..) {
            done(match &result {
                Ok(()) => appended,
                Err(error) => Err(error.clone()),
            });
        }
    }

    /// Runs on a thread of its own until every handle is dropped.
    #[expect(
        clippy::disallowed_methods,
        reason = "the driver of a writer: it only counts since it began"
    )]
    pub fn spawn(mut self, name: &str) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            let began = Instant::now();
            while self.step() {
                self.seek_room(began.elapsed());
                while self.reserve_one() {}
                self.wait();
            }
        })
    }

    /// Until something is to be done: on a full disk that is also to see if there is room again.
    fn wait(&self) {
        let queue = self.shared.queue();
        let idle = |queue: &mut Queue| queue.work.is_empty() && queue.handles > 0;
        let arrived = &self.shared.arrived;
        if self.journal.disk_full() {
            drop(arrived.wait_timeout_while(queue, FULL_PAUSE, idle));
        } else {
            drop(arrived.wait_while(queue, idle));
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let left = {
            let mut queue = self.shared.queue();
            queue.writer_gone = true;
            std::mem::take(&mut queue.work)
        };
        for work in left {
            if let Work::Append { done, .. } = work {
                done(Err(JournalError::Queue { what: "it ended" }));
            }
        }
    }
}

fn usage(journal: &Journal) -> Usage {
    Usage {
        bytes_used: journal.bytes_used(),
        bytes_free: journal.bytes_free(),
        bytes_max: journal.bytes_max(),
        bytes_reserved: journal.bytes_reserved(),
        file_bytes: journal.file_bytes(),
        disk_full: journal.disk_full(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Options;
    use crate::sim::SimStorage;
    use std::sync::mpsc;

    const OPTIONS: Options = Options {
        file_bytes: 8192,
        files_max: 4,
    };

    fn record(number: u64) -> Append {
        let head = RecordHead {
            group: 0,
            kind: 1,
            number,
        };
        Append {
            head,
            payload: Bytes::from(vec![1; 100]),
        }
    }

    fn journal(sim: &SimStorage) -> Journal {
        Journal::open(sim.as_storage(), OPTIONS, &mut |_, _, _| Ok(())).unwrap()
    }

    #[test]
    fn a_group_is_one_write_and_one_sync_and_answers_in_order() {
        let sim = SimStorage::new(1);
        let (mut writer, handle) = Writer::new(journal(&sim));
        let (sender, answers) = mpsc::sync_channel(100);
        for number in 0..10 {
            let sender = sender.clone();
            let done = Box::new(move |result: Result<Vec<Position>, _>| {
                sender.send((number, result.unwrap()[0])).unwrap();
            });
            handle.append(vec![record(number)], done).unwrap();
        }
        let before = sim.operations();
        assert!(writer.step());
        assert_eq!(sim.operations() - before, 2);
        let answers: Vec<_> = answers.try_iter().collect();
        assert!(answers.iter().map(|answer| answer.0).eq(0..10));
        assert!(answers.is_sorted_by_key(|answer| answer.1));
        assert_eq!(handle.reader().read(answers[3].1).unwrap().len(), 100);
        drop(handle);
        assert!(!writer.step());
    }

    #[test]
    fn after_a_failed_sync_everyone_is_told() {
        let sim = SimStorage::new(2);
        let (mut writer, handle) = Writer::new(journal(&sim));
        let (sender, answers) = mpsc::sync_channel(100);
        let submit = |number| {
            let sender = sender.clone();
            handle.append(
                vec![record(number)],
                Box::new(move |result| sender.send(result).unwrap()),
            )
        };
        submit(1).unwrap();
        submit(2).unwrap();
        sim.fail_sync(1);
        writer.step();
        submit(3).unwrap();
        writer.step();
        let answers: Vec<_> = answers.try_iter().collect();
        assert!(matches!(answers[0], Err(JournalError::Io { .. })));
        assert!(matches!(answers[1], Err(JournalError::Io { .. })));
        assert!(matches!(answers[2], Err(JournalError::Latched)));
    }

    /// The large record needs a file that the disk has no room for; the small one would fit.
    #[test]
    fn nothing_follows_a_record_that_did_not_fit() {
        let sim = SimStorage::new(4);
        sim.fill_up(OPTIONS.file_bytes);
        let (writer, handle) = Writer::new(journal(&sim));
        let mut writer = writer.contiguous();
        let (sender, answers) = mpsc::sync_channel(100);
        let submit = |number, bytes| {
            let (mut one, sender) = (record(number), sender.clone());
            one.payload = Bytes::from(vec![2; bytes]);
            let done = Box::new(move |result: Result<Vec<Position>, _>| {
                sender.send(result.map(|_| ())).unwrap();
            });
            handle.append(vec![one], done).unwrap();
        };
        submit(0, 6_000);
        writer.step();
        submit(1, 6_000);
        submit(2, 100);
        writer.step();
        submit(3, 100);
        writer.step();
        let answers: Vec<_> = answers.try_iter().collect();
        assert_eq!(answers.len(), 4);
        assert!(answers[0].is_ok());
        for refused in &answers[1..] {
            assert!(matches!(refused, Err(JournalError::Full)), "{refused:?}");
        }
        drop((handle, writer));
        let mut numbers = Vec::new();
        Journal::open(sim.as_storage(), OPTIONS, &mut |_, head, _| {
            numbers.push(head.number);
            Ok(())
        })
        .unwrap();
        assert_eq!(numbers, [0]);
    }

    #[test]
    fn space_that_is_reserved_stays_when_others_fill_the_disk() {
        let sim = SimStorage::new(5);
        let (writer, handle) = Writer::new(journal(&sim));
        let mut writer = writer.reserving();
        while writer.reserve_one() {}
        let usage = handle.usage();
        assert_eq!(usage.bytes_reserved, usage.bytes_max);
        sim.fill_up(0);
        let names = || sim.as_storage().list().unwrap().len();
        let files = names();
        let (sender, answers) = mpsc::sync_channel(1);
        for number in 0..1_000 {
            let sender = sender.clone();
            let done = Box::new(move |result: Result<Vec<Position>, _>| {
                sender.send(result.unwrap()[0]).unwrap();
            });
            handle.append(vec![record(number)], done).unwrap();
            writer.step();
            handle.release(answers.recv().unwrap()).unwrap();
            writer.step();
            assert_eq!(names(), files);
        }
        assert!(!handle.usage().disk_full);
    }

    #[test]
    fn a_disk_with_little_room_is_told_and_tried_again() {
        let sim = SimStorage::new(6);
        sim.fill_up(OPTIONS.file_bytes * 2);
        let (writer, handle) = Writer::new(journal(&sim));
        let mut writer = writer.reserving();
        while writer.reserve_one() {}
        let usage = handle.usage();
        assert!(usage.disk_full);
        assert_eq!(usage.bytes_reserved, OPTIONS.file_bytes * 2);
        sim.fill_up(1 << 20);
        writer.seek_room(Duration::ZERO);
        assert!(handle.usage().disk_full, "not at once");
        writer.seek_room(FULL_PAUSE);
        while writer.reserve_one() {}
        let usage = handle.usage();
        assert!(!usage.disk_full);
        assert_eq!(usage.bytes_reserved, usage.bytes_max);
    }

    #[test]
    fn a_full_disk_costs_no_record_a_write_more() {
        let sim = SimStorage::new(6);
        sim.fill_up(OPTIONS.file_bytes * 2);
        let mut journal = journal(&sim);
        journal.keep_ahead(2).unwrap();
        let (mut writer, handle) = Writer::new(journal);
        assert!(handle.usage().disk_full);
        sim.fill_up(0);
        let before = sim.operations();
        let count = 80;
        for number in 0..count {
            let mut one = record(number);
            one.payload = Bytes::from_static(b"1");
            let done = Box::new(|result: Result<Vec<Position>, _>| assert!(result.is_ok()));
            handle.append(vec![one], done).unwrap();
            writer.step();
        }
        assert_eq!(sim.operations() - before, 2 * count, "a write and a sync");
    }

    #[test]
    fn a_disk_that_has_enough_for_the_journal_is_left_to_others() {
        let sim = SimStorage::new(6);
        let (sender, answers) = mpsc::sync_channel(1);
        sim.fill_up(OPTIONS.file_bytes * 2);
        let mut journal = journal(&sim);
        journal.keep_ahead(1).unwrap();
        let (mut writer, handle) = Writer::new(journal);
        let fill = |writer: &mut Writer, bytes| {
            let (mut one, sender) = (record(0), sender.clone());
            one.payload = Bytes::from(vec![2; bytes]);
            let done = Box::new(move |result: Result<Vec<Position>, _>| {
                sender.send(result.unwrap()[0]).unwrap();
            });
            handle.append(vec![one], done).unwrap();
            writer.step();
            answers.recv().unwrap()
        };
        // The second goes to the file that was ready, and there is no room for another.
        fill(&mut writer, 6_000);
        let last = fill(&mut writer, 6_000);
        writer.seek_room(Duration::ZERO);
        assert!(handle.usage().disk_full);
        handle.release(last).unwrap();
        writer.step();
        sim.fill_up(1 << 20);
        let before = sim.operations();
        writer.seek_room(FULL_PAUSE);
        assert!(!handle.usage().disk_full);
        assert_eq!(sim.operations(), before, "nothing was written");
    }

    #[test]
    fn the_thread_ends_with_its_last_handle() {
        let sim = SimStorage::new(3);
        let (writer, handle) = Writer::new(journal(&sim));
        let thread = writer.spawn("journal").unwrap();
        let (sender, answers) = mpsc::sync_channel(1);
        handle
            .append(vec![record(1)], Box::new(move |r| sender.send(r).unwrap()))
            .unwrap();
        answers.recv().unwrap().unwrap();
        drop(handle);
        thread.join().unwrap();
    }
}
