//! One process of the agent: its buffer, recovery and window as they ship. Its journal is a list of
//! records, because what the journal does with files and power is proved elsewhere.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use edge_agent::batcher::{Collected, WaiterId};
use edge_agent::buffer::{
    Buffer, BufferOptions, Classes, Place, Recovery, Settled, Source, payload_to_batch,
};
use edge_agent::handed::Kind;
use edge_agent::window::{Alarm, Hours, Outcome, Ticket, Window, WindowOptions};
use journal::{Journal, Options, Position as DiskPosition, Reader, RecordHead, SimStorage};
use shared::batch::{
    Column, Data, GapReason, Group, LastEpoch, SeriesColumns, SeriesDefinition, Values,
};
use shared::id::{BatchNumber, Epoch, Lane, LocalSeriesId, TimeNs};
use shared::reading::FieldType;
use shared::verdict::{Position, Verdict};

use super::Flaw;
use super::cluster::Stream;

const WALL: TimeNs = TimeNs(1_767_225_600_000_000_000);
/// Longer than any rest that an answer makes a stream take.
const STEP: Duration = Duration::from_secs(3_600);
/// In flight.
const WINDOW: usize = 3;
/// More than a lane holds: none is held as a run.
const ENTRIES_NEAR: usize = 16;
/// A batch's record in the journal, of this lane.
const BATCH_RECORD: u8 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Record {
    at: DiskPosition,
    head: (u32, u8, u64),
    payload: Bytes,
}

impl Record {
    fn is_names(&self) -> bool {
        self.head.0 == Lane::Names as u32 && self.head.1 == BATCH_RECORD
    }

    /// The bytes of a batch or gap record.
    pub(crate) fn batch(&self) -> Option<Bytes> {
        let is_batch = self.head.1 == BATCH_RECORD;
        is_batch.then(|| payload_to_batch(&self.payload)).flatten()
    }
}

#[derive(Clone)]
pub(crate) struct Session {
    window: Window,
    /// In the order of the hand-overs; the front is answered first.
    pub(crate) tickets: VecDeque<(Ticket, Option<Verdict>)>,
    /// Time passes with every answer.
    now: Duration,
}

#[derive(Clone)]
pub(crate) struct Core {
    pub(crate) buffer: Buffer,
    pub(crate) disk: Vec<Record>,
    /// Given to the disk, not known to be synced.
    pub(crate) writing: Vec<Record>,
    pub(crate) session: Option<Session>,
    /// Streams of which it said that another wrote them.
    pub(crate) forked: BTreeSet<Stream>,
    /// What it sealed.
    pub(crate) own: BTreeMap<(Stream, u64), u8>,
    introduced: bool,
}

/// Readings that became safe, as their sources are told.
pub(crate) type Kept = Vec<u8>;

fn reader() -> Reader {
    thread_local! {
        static EMPTY: Journal = Journal::open(
            SimStorage::new(1).as_storage(),
            Options { file_bytes: 64 << 10, files_max: 2 },
            &mut |_, _, _: &[u8]| Ok(()),
        )
        .expect("an empty disk");
    }
    EMPTY.with(Journal::reader)
}

fn kept(settled: &Settled) -> Kept {
    let ids = settled.kept.iter();
    ids.map(|id| u8::try_from(id.0).expect("few readings"))
        .collect()
}

impl Core {
    /// A process starts from its disk, in a new epoch.
    pub(crate) fn start(disk: Vec<Record>, epoch: Epoch) -> Core {
        let mut recovery = Recovery::default();
        for record in &disk {
            let (group, kind, number) = record.head;
            let head = RecordHead {
                group,
                kind,
                number,
            };
            let visited = recovery.visit(record.at, head, &record.payload);
            visited.expect("it reads what it wrote");
        }
        recovery.settle(&reader());
        let options = BufferOptions {
            dir: PathBuf::new(),
            bytes_max: 1 << 20,
            ram_bytes_max: 1 << 20,
            max_unsafe: Duration::from_secs(10),
            classes: Classes::default(),
            entries_near: ENTRIES_NEAR,
        };
        Core {
            buffer: Buffer::new(options, recovery, epoch, Duration::ZERO, WALL),
            disk,
            writing: Vec::new(),
            session: None,
            forked: BTreeSet::new(),
            own: BTreeMap::new(),
            introduced: false,
        }
    }

    /// Seals one reading.
    pub(crate) fn hand_over(&mut self, reading: u8, live_max: usize) {
        let definition = SeriesDefinition {
            id: LocalSeriesId(1),
            table: "t".to_owned(),
            device: "d".to_owned(),
            tags: Vec::new(),
            fields: vec![("seq".to_owned(), FieldType::Int)],
        };
        let column = Column {
            field: 0,
            present: None,
            values: Values::Int(vec![i64::from(reading)]),
        };
        let series = SeriesColumns {
            id: LocalSeriesId(1),
            columns: vec![column],
        };
        let names = (!self.introduced).then(|| vec![definition]);
        let collected = Collected {
            kind: Kind::default(),
            names: names.into_iter().collect(),
            data: Data {
                groups: vec![Group {
                    times: vec![WALL.0 + i64::from(reading)],
                    series: vec![series],
                }],
            },
            readings: 1,
            since: Duration::ZERO,
            waiters: vec![WaiterId(u64::from(reading))],
        };
        self.introduced = true;
        let epoch = self.buffer.epoch();
        let before = [Lane::Live, Lane::Backlog].map(|lane| self.buffer.sealed(epoch, lane).last);
        let zero = Duration::ZERO;
        let sealed = self.buffer.seal(collected, live_max, zero, zero, WALL);
        sealed.expect("one reading fits");
        for (lane, before) in [Lane::Live, Lane::Backlog].into_iter().zip(before) {
            let number = self.buffer.sealed(epoch, lane).last;
            if number != before {
                self.own.insert(((epoch, lane), number.0), reading);
            }
        }
    }

    /// Gives the disk what is not there. False if nothing is to be given.
    pub(crate) fn write(&mut self) -> bool {
        let Some(work) = self.buffer.next_sync(Duration::ZERO, true) else {
            return false;
        };
        let records = work.into_records(&reader()).expect("nothing is carried");
        let record = |append: journal::Append| Record {
            at: place_of(&append.payload),
            head: (append.head.group, append.head.kind, append.head.number),
            payload: append.payload,
        };
        self.writing = records.into_iter().map(record).collect();
        true
    }

    /// What was written is safe.
    pub(crate) fn synced(&mut self, flaw: Flaw) -> Kept {
        let written = std::mem::take(&mut self.writing);
        let places = written.iter().map(|record| record.at).collect();
        let forgets = |record: &Record| flaw == Flaw::ForgetsNames && record.is_names();
        self.disk
            .extend(written.into_iter().filter(|record| !forgets(record)));
        kept(&self.buffer.synced(Ok(places)))
    }

    /// The readings that a start from these records would find.
    pub(crate) fn readings_on(disk: &[Record]) -> BTreeSet<u8> {
        let batches = disk.iter().filter_map(Record::batch);
        let batches = batches.filter_map(|bytes| shared::batch::decode(&bytes).ok());
        batches
            .filter_map(|batch| super::cluster::reading_of(&batch))
            .collect()
    }

    pub(crate) fn connect(&mut self, position: impl Fn(Stream) -> Position, next: Epoch) -> Kept {
        let mut window = Window::new(WindowOptions {
            batches_max: WINDOW,
            bytes_max: 1 << 20,
            backlog_share_percent: 25,
            bytes_per_second_max: 0,
            backlog_hours: Hours::ALWAYS,
        });
        let streams: Vec<Stream> = self.buffer.streams().collect();
        let positions: Vec<_> = streams
            .into_iter()
            .map(|(epoch, lane)| (epoch, lane, position((epoch, lane))))
            .collect();
        let now = Duration::ZERO;
        let outcome = window.connected(now, &positions, None, &mut self.buffer);
        self.session = Some(Session {
            window,
            tickets: VecDeque::new(),
            now,
        });
        self.came_out(&outcome, next)
    }

    /// Publishes the next batch, if one may go.
    pub(crate) fn send(&mut self, flaw: Flaw) -> Option<(Ticket, Bytes)> {
        let session = self.session.as_mut()?;
        let ticket = session.window.next(session.now, WALL, &mut self.buffer)?;
        assert!(session.window.unloaded().is_none(), "there are no runs");
        let bytes = match self.buffer.source(ticket.place)? {
            Source::Ram(bytes) => bytes,
            Source::Disk(at) => {
                let record = self.disk.iter().find(|record| record.at == at);
                record.and_then(Record::batch).expect("it is on disk")
            }
        };
        session.tickets.push_back((ticket, None));
        let Place {
            epoch, lane, to, ..
        } = ticket.place;
        if flaw == Flaw::LetsGoTooEarly
            && let Some(digest) = self.buffer.digest_at(epoch, lane, to)
        {
            let position = Position { last: to, digest };
            self.buffer.advance(epoch, lane, position);
        }
        Some((ticket, bytes))
    }

    pub(crate) fn hears(&self) -> bool {
        let front = self
            .session
            .as_ref()
            .and_then(|session| session.tickets.front());
        front.is_some_and(|(_, verdict)| verdict.is_some())
    }

    /// The first answer arrives, if it is there.
    pub(crate) fn hear(&mut self, next: Epoch) -> Option<(Ticket, Verdict, Kept)> {
        let session = self.session.as_mut()?;
        let (ticket, verdict) = *session.tickets.front()?;
        let verdict = verdict?;
        session.tickets.pop_front();
        session.now += STEP;
        let (now, id) = (session.now, ticket.id);
        let outcome = session
            .window
            .answered(now, WALL, id, verdict, &mut self.buffer);
        let kept = self.came_out(&outcome, next);
        Some((ticket, verdict, kept))
    }

    fn came_out(&mut self, outcome: &Outcome, next: Epoch) -> Kept {
        assert!(outcome.refused.is_none(), "nothing is invalid here");
        if let Some(Alarm::Fork { epoch, lane }) = outcome.alarm {
            self.forked.insert((epoch, lane));
        }
        if self.buffer.is_forked() {
            let last = LastEpoch {
                epoch: self.buffer.epoch(),
                ended_cleanly: true,
            };
            self.introduced = false;
            self.buffer
                .begin_epoch(next, Some(last), Duration::ZERO, WALL);
        }
        kept(&outcome.settled)
    }

    /// Drops a batch as a full buffer does. False if it is not held.
    pub(crate) fn drop_batch(&mut self, (epoch, lane): Stream, number: u64) -> bool {
        let number = BatchNumber(number);
        let place = Place {
            epoch,
            lane,
            from: number,
            to: number,
        };
        let dropped = self.buffer.give_up(place, GapReason::Overflow, WALL);
        dropped.is_some_and(|settled| settled.readings_lost == 1)
    }
}

/// By the content alone: what is the same everywhere stands at the same place.
fn place_of(payload: &[u8]) -> DiskPosition {
    let offset = payload.iter().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    let bytes = u32::try_from(payload.len()).expect("a small batch");
    DiskPosition::at(1, offset, bytes)
}

impl Hash for Core {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.buffer.hash(hasher);
        for record in &self.disk {
            record.at.hash(hasher);
        }
        hasher.write_u8(0);
        for record in &self.writing {
            record.at.hash(hasher);
        }
        self.introduced.hash(hasher);
        self.forked.hash(hasher);
        if let Some(session) = &self.session {
            session.window.hash(hasher);
            session.now.hash(hasher);
            for (ticket, verdict) in &session.tickets {
                (ticket.id, ticket.place, verdict).hash(hasher);
            }
        }
    }
}
