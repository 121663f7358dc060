//! Collects readings until they are worth a batch. Pure: no I/O, no clock; time is an argument,
//! counted from the keeper's start.
//!
//! Readings share a batch only if they are of one kind, so one batch of each kind may be open; all
//! of them speak one dictionary. `open.rs` is such a batch.
//!
//! It gives every series of the epoch a local id and says which definitions are new, so that the
//! buffer can put them into the names lane before the data that needs them. Series that were read
//! at the same times share one time column. What it gives always fits the limits of the format.

mod dictionary;
mod linger;
mod open;

use std::time::Duration;

use shared::batch::{Data, SeriesDefinition, check};
use shared::limits::{BATCH_DECODED_BYTES_FREE, DEFINITIONS_MAX};
use shared::reading::Reading;

use crate::handed::{CLASSES_MAX, Kind};
use dictionary::Dictionary;
pub use linger::Linger;
use open::{Cost, Open};

/// Series ids of one epoch; when they are used up the agent goes on in a new epoch.
pub const SERIES_MAX: usize = 65_536;
/// Bytes of the definitions of one epoch, unless the buffer is small. They stay in memory and in the
/// buffer as long as the epoch lasts; a cluster takes twice as much.
const NAMES_BYTES_MAX: usize = 32 << 20;
/// Bytes of new definitions that go with one batch: the buffer has to have room for them.
const NEW_NAMES_BYTES_MAX: usize = 2 << 20;
/// Batches that are open at a time: each class by each clock.
const OPEN_MAX: usize = CLASSES_MAX * 2;

/// When a batch is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchOptions {
    pub rows_max: usize,
    /// Bytes of values before they are encoded.
    pub bytes_max: usize,
    /// How long a reading waits for others.
    pub linger: Linger,
}

/// Who waits for readings to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaiterId(pub u64);

/// Whether a reading can join the open batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    Yes,
    /// The open batch has to be sealed first.
    AfterSeal,
    /// A new epoch has to begin first: the ids of this one, or the room for its names, are used up.
    AfterEpoch,
    /// No batch can carry it.
    Never,
}

/// What goes into one batch of data, and the definitions that have to go before it.
#[derive(Debug, Default, PartialEq)]
pub struct Collected {
    pub kind: Kind,
    /// New definitions, in batches that each fit the limits.
    pub names: Vec<Vec<SeriesDefinition>>,
    pub data: Data,
    pub readings: u64,
    /// When the oldest of the readings came.
    pub since: Duration,
    /// Who waits for some of the readings, each once.
    pub waiters: Vec<WaiterId>,
}

#[derive(Debug)]
pub struct Batcher {
    options: BatchOptions,
    /// How long readings that nobody waits for wait for others at least.
    gather: Option<Duration>,
    dictionary: Dictionary,
    names_bytes_max: usize,
    /// One of each kind that ever came; some are empty.
    open: Vec<(Kind, Open)>,
}

impl Batcher {
    pub fn new(options: BatchOptions) -> Self {
        Batcher {
            options,
            gather: None,
            dictionary: Dictionary::default(),
            names_bytes_max: NAMES_BYTES_MAX,
            open: Vec::new(),
        }
    }

    /// For a buffer of so many bytes: names shall take a small part of it, whatever devices send.
    /// Encoded they take about a third of what is counted here.
    #[must_use]
    pub fn with_buffer(mut self, bytes_max: u64) -> Self {
        let half = usize::try_from(bytes_max / 2).unwrap_or(usize::MAX);
        self.names_bytes_max = half.min(NAMES_BYTES_MAX);
        self
    }

    /// From here on, the open batches included.
    pub fn use_options(&mut self, options: BatchOptions) {
        self.options = options;
    }

    /// How long readings wait for others from here on, if nobody waits for them: where they cannot
    /// be sent anyway, longer makes fewer and smaller batches. `None`: as configured.
    pub fn gather(&mut self, at_least: Option<Duration>) {
        self.gather = at_least;
    }

    fn due_at(&self, kind: Kind, open: &Open) -> Option<Duration> {
        let longer = self.gather.filter(|_| !open.is_waited_for());
        let own = self.options.linger.of(kind.class);
        let linger = own.max(longer.unwrap_or_default());
        open.since.map(|since| since + linger)
    }

    /// Readings in the open batches.
    pub fn readings(&self) -> u64 {
        self.open.iter().map(|(_, open)| open.readings()).sum()
    }

    /// When the oldest reading of the open batches came.
    pub fn since(&self) -> Option<Duration> {
        self.open.iter().filter_map(|(_, open)| open.since).min()
    }

    /// When the first of the open batches has waited long enough.
    pub fn due(&self) -> Option<Duration> {
        let open = self.open.iter();
        open.filter_map(|(kind, open)| self.due_at(*kind, open))
            .min()
    }

    /// Whether this reading can be pushed now, and else what has to happen first.
    pub fn fit(&mut self, reading: &Reading, kind: Kind) -> Fit {
        let one = Cost::of(reading);
        if !one.fits(&Cost::default()) {
            return Fit::Never;
        }
        if self.names_are_full() && !self.dictionary.knows(reading) {
            return Fit::AfterEpoch;
        }
        let names_wait = self.dictionary.new_bytes() >= NEW_NAMES_BYTES_MAX;
        match self.of_kind(kind) {
            Some(open) if !open.is_empty() => {
                if names_wait || open.is_full(&self.options) || !one.fits(&open.cost) {
                    Fit::AfterSeal
                } else {
                    Fit::Yes
                }
            }
            _ => Fit::Yes,
        }
    }

    /// Whether the epoch takes no further definition. Those that are not taken yet can become too
    /// many only if the buffer has had no room for them: they are forgotten with the epoch.
    fn names_are_full(&self) -> bool {
        self.dictionary.len() >= SERIES_MAX
            || self.dictionary.bytes() >= self.names_bytes_max
            || self.dictionary.new_bytes() >= 2 * NEW_NAMES_BYTES_MAX
    }

    /// Adds a reading that [`Batcher::fit`] said `Yes` to.
    pub fn push(&mut self, now: Duration, reading: Reading, kind: Kind, waiter: Option<WaiterId>) {
        let cost = Cost::of(&reading);
        let meaning = self.dictionary.meaning(&reading);
        let open = self.of_kind_mut(kind);
        open.begin(now, waiter);
        open.add(&meaning, &cost, reading);
    }

    /// Whether some open batch should be sealed now.
    pub fn is_due(&self, now: Duration) -> bool {
        self.due_kinds(now).next().is_some()
    }

    /// Of which kinds the open batch should be sealed now.
    pub fn due_kinds(&self, now: Duration) -> impl Iterator<Item = Kind> {
        let is_due = move |kind, open: &Open| {
            open.is_full(&self.options) || self.due_at(kind, open).is_some_and(|due| due <= now)
        };
        let open = self.open.iter();
        open.filter(move |(kind, open)| is_due(*kind, open))
            .map(|(kind, _)| *kind)
    }

    /// Of which kinds something is open.
    pub fn open_kinds(&self) -> impl Iterator<Item = Kind> {
        let open = self.open.iter().filter(|(_, open)| !open.is_empty());
        open.map(|(kind, _)| *kind)
    }

    /// Takes what was collected of a kind, with all definitions that are new; `None` if that is
    /// nothing.
    pub fn take(&mut self, kind: Kind) -> Option<Collected> {
        let mut collected = self.of_kind_mut(kind).collect(kind)?;
        collected.names = split_names(self.dictionary.take_new());
        Some(collected)
    }

    /// Puts readings into batches of their own, in order, beside what is open. The first has all
    /// definitions that are new. `None`: some fit in no batch, or the ids or the room for names are
    /// used up.
    pub fn collect(
        &mut self,
        now: Duration,
        kind: Kind,
        readings: Vec<Reading>,
    ) -> Option<Vec<Collected>> {
        let mut batches: Vec<Collected> = Vec::new();
        let mut open = Open::default();
        for reading in readings {
            let cost = Cost::of(&reading);
            let is_new = !self.dictionary.knows(&reading);
            if !cost.fits(&Cost::default()) || (is_new && self.names_are_full()) {
                return None;
            }
            if open.is_full(&self.options) || !cost.fits(&open.cost) {
                batches.extend(open.collect(kind));
            }
            let meaning = self.dictionary.own_meaning(&reading);
            open.begin(now, None);
            open.add(&meaning, &cost, reading);
        }
        batches.extend(open.collect(kind));
        if let Some(first) = batches.first_mut() {
            first.names = split_names(self.dictionary.take_new());
        }
        Some(batches)
    }

    /// At most what the open batch of a kind takes once it is sealed, new definitions included, in
    /// bytes.
    pub fn sealed_bytes_most(&self, kind: Kind) -> u64 {
        let data = self.of_kind(kind).map_or(0, Open::sealed_bytes_most);
        (data + self.dictionary.new_bytes()) as u64
    }

    /// Lets go of the open batch of a kind, of which nothing can be kept: how many readings that
    /// were, and who waits for them. New definitions stay, as others may need them.
    pub fn give_up(&mut self, kind: Kind) -> (u64, Vec<WaiterId>) {
        let given_up = self.of_kind_mut(kind).collect(kind);
        given_up.map_or((0, Vec::new()), |all| (all.readings, all.waiters))
    }

    /// Begins the dictionary of a new epoch. Whatever was open was taken before.
    pub fn new_epoch(&mut self) {
        assert!(
            self.open_kinds().next().is_none(),
            "what is open speaks the old dictionary"
        );
        self.dictionary = Dictionary::default();
    }

    fn of_kind(&self, kind: Kind) -> Option<&Open> {
        let mut open = self.open.iter();
        open.find(|(own, _)| *own == kind).map(|(_, open)| open)
    }

    fn of_kind_mut(&mut self, kind: Kind) -> &mut Open {
        let found = self.open.iter().position(|(own, _)| *own == kind);
        let at = found.unwrap_or_else(|| {
            assert!(self.open.len() < OPEN_MAX, "the configuration bounds kinds");
            self.open.push((kind, Open::default()));
            self.open.len() - 1
        });
        &mut self.open[at].1
    }
}

fn split_names(definitions: Vec<SeriesDefinition>) -> Vec<Vec<SeriesDefinition>> {
    let mut batches: Vec<Vec<SeriesDefinition>> = Vec::new();
    let mut bytes = 0;
    for definition in definitions {
        let own = check::definition_bytes(&definition);
        let room = batches.last().is_some_and(|last| {
            last.len() < DEFINITIONS_MAX && bytes + own <= BATCH_DECODED_BYTES_FREE
        });
        if !room {
            batches.push(Vec::new());
            bytes = 0;
        }
        bytes += own;
        batches.last_mut().expect("one was pushed").push(definition);
    }
    batches
}

#[cfg(test)]
mod tests;
