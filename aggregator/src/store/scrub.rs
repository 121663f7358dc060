//! Looks for damage before a query meets it: every file of every segment is read whole once a period,
//! a little at a time. `Rounds` decides which file is due, `Pass` reads one, the thread below drives.
//!
//! Nothing is written and no lock is held while the disk is read, so it needs no room and is in
//! nobody's way, but that of the page cache. A file keeps its place in the period, whatever else comes or goes: nothing has to be
//! remembered over a restart.

use std::io;
use std::ops::Range;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use journal::StorageFile;
use shared::id::{Digest, TimeNs};

use super::block;
use super::damage::{self, Place};
use super::error::StoreError;
use super::metrics::StoreMetrics;
use super::reader::{View, Views};
use super::segment::{FOOTER_BYTES, PIECE_BYTES, SegmentHandle, digest_on};
use crate::state::machine::DAY_NS;

/// Bytes read a second at most. Ten terabytes a week: a tenth of what a slow disk gives.
const BYTES_A_SECOND_MAX: u64 = 16 << 20;
/// Bytes of one step, but for a block that is larger: so long the file of a dropped segment stays.
const STEP_BYTES: u64 = 256 << 10;
/// How often it is looked which files are due.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// What was due so long before a start is done after it.
const CATCH_UP_NS: i64 = DAY_NS;

/// How a node scrubs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubOptions {
    /// In which every file is read once; `None`: never.
    pub period: Option<Duration>,
    /// The node's name: replicas read their copies of a file at different times.
    pub node: String,
}

/// Which files are due: each at its own moment of the period, which follows from its digest.
#[derive(Debug)]
struct Rounds {
    period_ns: i64,
    node: String,
    /// All that was due since the first time and up to the second was read.
    done: Option<(i64, i64)>,
}

impl Rounds {
    fn new(period: Duration, node: String) -> Rounds {
        Rounds {
            period_ns: i64::try_from(period.as_nanos()).unwrap_or(i64::MAX),
            node,
            done: None,
        }
    }

    /// Places of the files that are due, in order of their moments. Whoever asks again has read them, or keeps them in mind.
    fn due(&mut self, now: TimeNs, files: impl Iterator<Item = Digest>) -> Vec<usize> {
        let start = now.0.saturating_sub(CATCH_UP_NS);
        let (began, upto) = self.done.unwrap_or((start, start));
        if now.0 <= upto {
            return Vec::new();
        }
        // After a jump of the clock none is due twice.
        let from = upto.max(now.0.saturating_sub(self.period_ns));
        let since = |file: Digest| {
            self.moment(file)
                .wrapping_sub(from)
                .rem_euclid(self.period_ns)
        };
        let mut due: Vec<(i64, usize)> = files
            .enumerate()
            .map(|(at, file)| (since(file), at))
            .filter(|(since, _)| *since < now.0 - from)
            .collect();
        due.sort_unstable();
        self.done = Some((began, now.0));
        due.into_iter().map(|(_, at)| at).collect()
    }

    /// Nanoseconds after the start of the period.
    fn moment(&self, file: Digest) -> i64 {
        let mixed = shared::batch::digest(file, self.node.as_bytes());
        let period = u64::try_from(self.period_ns).expect("a duration");
        i64::try_from(u64::from_be_bytes(mixed.0) % period).expect("below the period")
    }

    /// The time before which, within a period, every file was read.
    fn whole_at(&self) -> Option<TimeNs> {
        let (began, upto) = self.done?;
        (upto.saturating_sub(began) >= self.period_ns).then_some(TimeNs(upto))
    }
}

/// What a step has read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) bytes: u64,
    pub(super) blocks: u64,
}

/// Reading one file from its first byte to its last, and all that is found on the way.
pub(super) struct Pass {
    segment: Weak<SegmentHandle>,
    /// Blocks in the order in which they lie in the file, and which is next.
    blocks: Vec<usize>,
    next: usize,
    at: u64,
    /// Of all before `pending`; `None`: part of it could not be read.
    digest: Option<Digest>,
    pending: Vec<u8>,
    found: Vec<(Place, StoreError)>,
    /// Something that was damaged is not.
    cleared: bool,
}

impl Pass {
    pub(super) fn new(segment: &Arc<SegmentHandle>) -> Pass {
        let mut blocks: Vec<usize> = (0..segment.blocks.len()).collect();
        blocks.sort_by_key(|at| segment.blocks[*at].offset);
        Pass {
            segment: Arc::downgrade(segment),
            blocks,
            next: 0,
            at: 0,
            digest: Some(Digest::ZERO),
            pending: Vec::new(),
            found: Vec::new(),
            cleared: false,
        }
    }

    /// Reads what comes next, and says what is known once all was read. `None`: all was, or nobody
    /// needs the file any more. `Err`: it cannot be opened now, which says nothing about it but what
    /// was found until then; it has to be read again.
    pub(super) fn step(&mut self, views: &Views) -> Result<Option<Step>, StoreError> {
        let needed = self.segment.upgrade().filter(|one| !one.is_doomed());
        let Some(segment) = needed else {
            return Ok(None);
        };
        let mut step = Step::default();
        let footer_at = segment.file.len.saturating_sub(FOOTER_BYTES as u64);
        if self.at >= footer_at {
            return Ok(None);
        }
        let content = segment.file.open(segment.storage());
        let checked = content.and_then(|content| {
            segment.file.check_length(&*content)?;
            Ok(content)
        });
        match checked {
            Ok(content) => {
                while self.at < footer_at && step.bytes < STEP_BYTES {
                    self.part(&segment, &*content, footer_at, &mut step);
                }
                if self.at >= footer_at {
                    self.end(&segment, &*content);
                }
            }
            Err(error @ StoreError::Damaged { .. }) => {
                self.found.push((Place::File, error));
                self.at = footer_at;
            }
            Err(other) => {
                self.tell(&segment, &views.latest());
                return Err(other);
            }
        }
        if self.at >= footer_at {
            // Nobody else says of a file as a whole that it is damaged.
            let is_whole = self.found.iter().all(|(place, _)| *place != Place::File);
            self.cleared |= is_whole && segment.faults.clear(Place::File);
            self.tell(&segment, &views.latest());
        }
        Ok(Some(step))
    }

    /// The next block with what stands before it; behind the last one pieces of the index.
    fn part(
        &mut self,
        segment: &SegmentHandle,
        content: &dyn StorageFile,
        footer_at: u64,
        step: &mut Step,
    ) {
        let name = &segment.file.name;
        let Some(place) = self.blocks.get(self.next).copied() else {
            let end = footer_at.min(self.at + STEP_BYTES);
            if let Err(error) = self.take(content, self.at..end, name) {
                self.found.push((Place::File, error));
            }
            step.bytes += end - self.at;
            self.at = end;
            return;
        };
        self.next += 1;
        let meta = &segment.blocks[place];
        let (from, end) = (
            self.at.min(meta.offset),
            meta.offset + u64::from(meta.bytes),
        );
        let skipped = meta.offset - from;
        let read = self.take(content, from..end, name).and_then(|bytes| {
            let bytes = &bytes[usize::try_from(skipped).expect("in memory")..];
            let decoded = block::decode(bytes, meta, &|_| true);
            decoded.map_err(|fault| StoreError::damaged(name, meta.offset, fault.to_string()))
        });
        if from < self.at {
            // It lies over another one: no writer makes such a file.
            self.digest = None;
            self.found.push((
                Place::File,
                StoreError::damaged(name, meta.offset, "the index names bytes twice"),
            ));
        }
        match read {
            Err(error) => self.found.push((Place::Block(place), error)),
            // Now: a query may find it damaged before the file's end is reached.
            Ok(_) => self.cleared |= segment.faults.clear(Place::Block(place)),
        }
        step.bytes += end - from;
        step.blocks += 1;
        self.at = end;
    }

    /// Bytes of the file, which the digest takes along.
    fn take(
        &mut self,
        content: &dyn StorageFile,
        range: Range<u64>,
        name: &str,
    ) -> Result<Vec<u8>, StoreError> {
        let len = usize::try_from(range.end - range.start).expect("inside the file's index");
        let mut bytes = vec![0; len];
        if let Err(error) = content.read_at(range.start, &mut bytes) {
            self.digest = None;
            let what = format!("it cannot be read: {error}");
            return Err(StoreError::damaged(name, range.start, what));
        }
        self.pending.extend_from_slice(&bytes);
        let whole = self.pending.len() / PIECE_BYTES * PIECE_BYTES;
        let rest = self.pending.split_off(whole);
        self.fold();
        self.pending = rest;
        Ok(bytes)
    }

    fn fold(&mut self) {
        self.digest = self.digest.map(|digest| digest_on(digest, &self.pending));
    }

    /// Header, index and footer, and the digest of all.
    fn end(&mut self, segment: &SegmentHandle, content: &dyn StorageFile) {
        let name = &segment.file.name;
        self.fold();
        let same = |(head, blocks)| head == segment.head && blocks == segment.blocks;
        let what = match segment.file.read_parts(content).map(same) {
            Err(error) => return self.found.push((Place::File, error)),
            Ok(_) if !segment.is_known() => {
                "header and index can be read again: restart the node to use them"
            }
            Ok(false) => "header or index is another than when it was opened",
            Ok(true)
                if self
                    .digest
                    .is_some_and(|digest| digest != segment.file.digest) =>
            {
                "the digest does not match"
            }
            Ok(true) => return,
        };
        // A block that is damaged explains the digest.
        if self.found.is_empty() {
            self.found
                .push((Place::File, StoreError::damaged(name, 0, what)));
        }
    }

    /// Tells what was found, and that nothing is any more.
    fn tell(&mut self, segment: &SegmentHandle, view: &View) {
        for (place, error) in self.found.drain(..) {
            damage::report(segment, place, &error, view.state());
        }
        if self.cleared && !segment.is_spoilt() {
            let file = &segment.file.name;
            tracing::warn!(file, "what was damaged in this file can be read again");
        }
    }
}

/// The thread that scrubs; it ends when this is dropped, at most one step later.
pub struct Scrubber {
    lives: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Scrubber {
    /// Starts the thread. It counts what is damaged also where nothing is scrubbed.
    pub fn start(
        views: Views,
        options: ScrubOptions,
        metrics: Arc<StoreMetrics>,
    ) -> io::Result<Scrubber> {
        // Nothing is sent: the thread hears that it is gone.
        let (lives, ended) = sync_channel(0);
        let mut scrub = Scrub::new(views, options, metrics, ended);
        let thread = std::thread::Builder::new()
            .name("scrub".to_owned())
            .spawn(move || while scrub.look() && scrub.pause(LOOK_EVERY) {})?;
        Ok(Scrubber {
            lives: Some(lives),
            thread: Some(thread),
        })
    }
}

impl Drop for Scrubber {
    fn drop(&mut self) {
        self.lives = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that scrubs panicked: please report this");
        }
    }
}

/// The inside of that thread.
pub(super) struct Scrub {
    views: Views,
    metrics: Arc<StoreMetrics>,
    ended: Receiver<()>,
    /// `None`: nothing is scrubbed.
    rounds: Option<Rounds>,
    /// What was due and could not be opened.
    again: Vec<Weak<SegmentHandle>>,
}

impl Scrub {
    pub(super) fn new(
        views: Views,
        options: ScrubOptions,
        metrics: Arc<StoreMetrics>,
        ended: Receiver<()>,
    ) -> Scrub {
        let ScrubOptions { period, node } = options;
        Scrub {
            views,
            metrics,
            ended,
            rounds: period.map(|period| Rounds::new(period, node)),
            again: Vec::new(),
        }
    }

    /// Reads what is due. False: the node stops.
    pub(super) fn look(&mut self) -> bool {
        self.count_damage();
        let mut due = std::mem::take(&mut self.again);
        let told = due.len();
        let mut new = self.due();
        new.retain(|new| !due.iter().any(|one| one.ptr_eq(new)));
        due.append(&mut new);
        for (nth, segment) in due.into_iter().enumerate() {
            match self.pass(&segment) {
                Ok(true) => {}
                Ok(false) => return false,
                Err(error) => {
                    if nth >= told {
                        tracing::warn!(%error, "a file is not scrubbed yet: it cannot be opened");
                    }
                    self.again.push(segment);
                }
            }
            self.count_damage();
        }
        if self.again.is_empty() {
            let whole = self.rounds.as_ref().and_then(Rounds::whole_at);
            self.metrics.whole(whole);
        }
        true
    }

    fn count_damage(&self) {
        self.metrics.damaged(self.views.latest().damage_count());
    }

    /// Passes that are due, which keep nothing alive.
    fn due(&mut self) -> Vec<Weak<SegmentHandle>> {
        let Some(rounds) = &mut self.rounds else {
            return Vec::new();
        };
        let view = self.views.latest();
        let all: Vec<&Arc<SegmentHandle>> = view.files().collect();
        let files = all.iter().map(|segment| segment.file.digest);
        let now = view.state().now();
        // Not before the cluster knows the time.
        let due = if now.0 > 0 {
            rounds.due(now, files)
        } else {
            Vec::new()
        };
        let weak = |at: usize| Arc::downgrade(all[at]);
        due.into_iter().map(weak).collect()
    }

    /// Reads one file. False: the node stops.
    fn pass(&self, segment: &Weak<SegmentHandle>) -> Result<bool, StoreError> {
        let Some(mut pass) = segment.upgrade().map(|segment| Pass::new(&segment)) else {
            return Ok(true);
        };
        while let Some(step) = pass.step(&self.views)? {
            self.metrics.scrubbed(step);
            let nanos = step.bytes * 1_000_000_000 / BYTES_A_SECOND_MAX;
            if !self.pause(Duration::from_nanos(nanos)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn pause(&self, pause: Duration) -> bool {
        self.ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = CATCH_UP_NS;
    const WEEK: i64 = 7 * DAY;
    const START: TimeNs = TimeNs(20_000 * DAY + 12_345);

    fn files() -> Vec<Digest> {
        (0..1_000_u64)
            .map(|n| shared::batch::digest(Digest::ZERO, &n.to_le_bytes()))
            .collect()
    }

    fn rounds(node: &str) -> Rounds {
        Rounds::new(Duration::from_secs(7 * 86_400), node.to_owned())
    }

    fn due(rounds: &mut Rounds, after: i64) -> Vec<usize> {
        rounds.due(TimeNs(START.0 + after), files().into_iter())
    }

    #[test]
    fn every_file_is_due_once_a_period_and_a_seventh_of_them_each_day() {
        let mut rounds = rounds("a");
        due(&mut rounds, 0);
        let mut times = vec![0; files().len()];
        for day in 1..=14 {
            let mut of_day = 0;
            for hour in 1..=24 {
                let some = due(&mut rounds, (day - 1) * DAY + hour * (DAY / 24));
                of_day += some.len();
                some.into_iter().for_each(|at| times[at] += 1);
            }
            assert!((100..190).contains(&of_day), "day {day}: {of_day}");
        }
        assert!(times.iter().all(|times| *times == 2), "{times:?}");
        assert!(due(&mut rounds, 14 * DAY).is_empty(), "no time has passed");
    }

    #[test]
    fn a_restart_goes_on_where_the_period_is() {
        let mut times = vec![0; files().len()];
        for day in 0..7 {
            // It runs for an hour a day.
            let mut rounds = rounds("a");
            for after in [0, DAY / 24] {
                due(&mut rounds, day * DAY + after)
                    .into_iter()
                    .for_each(|at| times[at] += 1);
            }
        }
        assert!(
            times.iter().all(|times| (1..=2).contains(times)),
            "{times:?}"
        );
    }

    #[test]
    fn a_jump_of_the_clock_makes_nothing_due_twice() {
        let mut rounds = rounds("a");
        due(&mut rounds, 0);
        assert_eq!(due(&mut rounds, 100 * WEEK).len(), files().len());
        assert!(due(&mut rounds, WEEK).is_empty(), "it went back");
    }

    #[test]
    fn replicas_read_a_file_at_different_times() {
        let (mut a, mut b) = (rounds("a"), rounds("b"));
        let (of_a, of_b) = (due(&mut a, 0), due(&mut b, 0));
        let both = of_a.iter().filter(|at| of_b.contains(at)).count();
        assert!(both * 3 < of_a.len(), "{both} of {}", of_a.len());
    }

    #[test]
    fn a_round_is_whole_after_a_period() {
        let mut rounds = rounds("a");
        assert_eq!(rounds.whole_at(), None);
        due(&mut rounds, 0);
        due(&mut rounds, 6 * DAY - 1);
        assert_eq!(rounds.whole_at(), None);
        due(&mut rounds, 6 * DAY);
        assert_eq!(rounds.whole_at(), Some(TimeNs(START.0 + 6 * DAY)));
    }
}
