//! What sources handed over and what reads showed, and when: judges whether every read was allowed.
//!
//! `oracle` compares ledgers with rows once, at the end, of a system whose inside cannot be seen.
//! Here the checker also knows which batch a reading was sealed into, when the cluster acknowledged
//! it, and when each read was asked for and answered, so it can tell a stale read from a slow one.
//! Times are nanoseconds since the run began.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

/// What a reading of a number holds: known beforehand, so that an altered one is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// The time of the reading with the number 0, in nanoseconds.
    pub begin_ns: i64,
    /// Between the times of two readings.
    pub step_ns: i64,
}

impl Content {
    /// Not in the order of the numbers: neighbours change places.
    pub fn time_ns(self, seq: i64) -> i64 {
        self.begin_ns + (seq ^ 5) * self.step_ns
    }

    /// A value that has nothing in common with its neighbours.
    pub fn value(self, seq: i64) -> i64 {
        let mixed = seq.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).cast_signed()
    }
}

/// Rows that a read showed, of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    pub device: String,
    pub seqs: Vec<i64>,
    pub values: Vec<i64>,
    pub times_ns: Vec<i64>,
}

/// (agent, epoch, lane).
pub type Stream = (String, u64, u8);

/// Readings of one device, by their first and last number.
pub type Readings = (String, RangeInclusive<i64>);

/// A read: of which node, when it was asked for and when it was answered.
#[derive(Debug, Clone)]
pub struct Read {
    pub node: String,
    pub asked_ns: u64,
    pub answered_ns: u64,
    /// It promises to show all that was acknowledged before it was asked for.
    pub linearizable: bool,
}

/// What kind of promise was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Kept or acknowledged, and not there in the end.
    Lost,
    /// There more than once.
    Twice,
    /// There, and never handed over.
    Phantom,
    /// There, with another value or time.
    Altered,
    /// A batch is there and one before it of the same stream is not, or only a part of one is.
    Gap,
    /// Acknowledged or shown before the read was asked for, and not shown by it.
    Stale,
    /// A read showed it, and it is not there in the end.
    NotDurable,
}

/// A broken promise: the first reading of a device that it happened to, and how many others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    pub kind: Kind,
    pub node: String,
    pub device: String,
    pub seq: i64,
    pub others: usize,
    /// When it was seen.
    pub at_ns: u64,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.kind {
            Kind::Lost => "LOST",
            Kind::Twice => "TWICE",
            Kind::Phantom => "PHANTOM",
            Kind::Altered => "ALTERED",
            Kind::Gap => "GAP",
            Kind::Stale => "STALE READ",
            Kind::NotDurable => "READ NOT DURABLE",
        };
        let Breach {
            node,
            device,
            seq,
            others,
            at_ns,
            ..
        } = self;
        let at_ms = at_ns / 1_000_000;
        write!(
            f,
            "{name}: reading {seq} of {device} at node {node}, {at_ms} ms"
        )?;
        if *others > 0 {
            write!(f, ", and {others} more of this device")?;
        }
        Ok(())
    }
}

/// What is known of one reading. Not kept: what it came to is not known, and it may be there or not.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    kept: bool,
    acknowledged_ns: Option<u64>,
    /// When the first read that showed it was answered.
    shown_ns: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub struct History {
    content: Content,
    devices: BTreeMap<String, Vec<Known>>,
    streams: BTreeMap<Stream, BTreeMap<u64, Vec<Readings>>>,
}

impl History {
    pub fn new(content: Content) -> History {
        History {
            content,
            devices: BTreeMap::new(),
            streams: BTreeMap::new(),
        }
    }

    pub fn content(&self) -> Content {
        self.content
    }

    /// The next readings of a device are handed over: their numbers.
    pub fn hand_over(&mut self, device: &str, count: usize) -> RangeInclusive<i64> {
        let known = self.devices.entry(device.to_owned()).or_default();
        let first = known.len() + 1;
        known.resize(known.len() + count, Known::default());
        signed(first)..=signed(first + count - 1)
    }

    /// They were sealed into a batch.
    pub fn sealed(&mut self, stream: Stream, number: u64, readings: Vec<Readings>) {
        let batches = self.streams.entry(stream).or_default();
        batches.insert(number, readings);
    }

    /// The source was told that they are kept.
    pub fn kept(&mut self, readings: &Readings) {
        self.each(readings, |known| known.kept = true);
    }

    /// The cluster acknowledged a batch, or said that it has it.
    pub fn acknowledged(&mut self, stream: &Stream, number: u64, at_ns: u64) -> u64 {
        let batch = self.streams.get(stream).and_then(|all| all.get(&number));
        let mut fresh = 0;
        for readings in batch.cloned().unwrap_or_default() {
            self.each(&readings, |known| {
                fresh += u64::from(known.acknowledged_ns.is_none());
                known.kept = true;
                known.acknowledged_ns.get_or_insert(at_ns);
            });
        }
        fresh
    }

    fn each(&mut self, (device, seqs): &Readings, mut act: impl FnMut(&mut Known)) {
        let Some(known) = self.devices.get_mut(device) else {
            return;
        };
        for seq in seqs.clone() {
            let at = usize::try_from(seq - 1).ok();
            if let Some(one) = at.and_then(|at| known.get_mut(at)) {
                act(one);
            }
        }
    }

    /// Judges what a read showed of all devices.
    pub fn read(&mut self, read: &Read, rows: &[Rows]) -> Vec<Breach> {
        let mut breaches = Breaches::of(read);
        let shown = self.shown(rows, &mut breaches);
        for (device, known) in &mut self.devices {
            let counts = shown.get(device.as_str());
            for (at, one) in known.iter_mut().enumerate() {
                let is_shown = counts.is_some_and(|counts| counts[at] > 0);
                let before = |time: Option<u64>| time.is_some_and(|ns| ns < read.asked_ns);
                let must = before(one.acknowledged_ns) || before(one.shown_ns);
                if is_shown {
                    let first = one.shown_ns.unwrap_or(u64::MAX);
                    one.shown_ns = Some(first.min(read.answered_ns));
                } else if must && read.linearizable {
                    breaches.push(Kind::Stale, device, signed(at + 1));
                }
            }
        }
        self.holes(&shown, &mut breaches);
        breaches.found
    }

    /// Judges what a node shows in the end, when nothing more comes.
    pub fn end(&mut self, read: &Read, rows: &[Rows]) -> Vec<Breach> {
        let mut breaches = Breaches::of(read);
        let shown = self.shown(rows, &mut breaches);
        for (device, known) in &self.devices {
            let counts = shown.get(device.as_str());
            for (at, one) in known.iter().enumerate() {
                if counts.is_some_and(|counts| counts[at] > 0) {
                    continue;
                }
                if one.kept {
                    breaches.push(Kind::Lost, device, signed(at + 1));
                } else if one.shown_ns.is_some() {
                    breaches.push(Kind::NotDurable, device, signed(at + 1));
                }
            }
        }
        self.holes(&shown, &mut breaches);
        breaches.found
    }

    /// Whether all of a batch is among these rows.
    pub fn is_shown(&self, stream: &Stream, number: u64, rows: &[Rows]) -> bool {
        let mut read = Breaches {
            read: &Read {
                node: String::new(),
                asked_ns: 0,
                answered_ns: 0,
                linearizable: false,
            },
            found: Vec::new(),
        };
        let shown = self.shown(rows, &mut read);
        let batch = self.streams.get(stream).and_then(|all| all.get(&number));
        batch.into_iter().flatten().all(|(device, seqs)| {
            let counts = shown.get(device);
            counts.is_some_and(|counts| seqs.clone().all(|seq| counts[index(seq)] > 0))
        })
    }

    /// How often each reading is there, by device and number.
    fn shown(&self, rows: &[Rows], breaches: &mut Breaches) -> BTreeMap<String, Vec<u8>> {
        let mut shown: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for part in rows {
            let device = &part.device;
            let known = self.devices.get(device).map_or(0, Vec::len);
            let counts = shown.entry(device.clone()).or_insert(vec![0; known]);
            let columns = part.values.iter().zip(&part.times_ns);
            for (seq, (value, time_ns)) in part.seqs.iter().zip(columns) {
                let count = usize::try_from(*seq - 1).ok();
                let Some(count) = count.and_then(|at| counts.get_mut(at)) else {
                    breaches.push(Kind::Phantom, device, *seq);
                    continue;
                };
                *count = count.saturating_add(1);
                if *count == 2 {
                    breaches.push(Kind::Twice, device, *seq);
                }
                let content = self.content;
                if (content.value(*seq), content.time_ns(*seq)) != (*value, *time_ns) {
                    breaches.push(Kind::Altered, device, *seq);
                }
            }
        }
        shown
    }

    /// Of each stream a prefix is there, each batch whole.
    fn holes(&self, shown: &BTreeMap<String, Vec<u8>>, breaches: &mut Breaches) {
        // A look-up for each part of a batch, not for each of its readings: those are most of a run.
        let counts_of = |(device, seqs): &Readings| {
            let counts = shown.get(device)?;
            counts.get(index(*seqs.start())..=index(*seqs.end()))
        };
        for batches in self.streams.values() {
            let mut missing: Option<(&String, i64)> = None;
            for batch in batches.values() {
                let (mut there, mut absent) = (0, None);
                for readings in batch {
                    let (device, seqs) = readings;
                    let counts = counts_of(readings);
                    for (nth, seq) in seqs.clone().enumerate() {
                        if counts.is_some_and(|counts| counts[nth] > 0) {
                            there += 1;
                            if let Some((device, seq)) = missing.take() {
                                breaches.push(Kind::Gap, device, seq);
                            }
                        } else {
                            absent = absent.or(Some((device, seq)));
                            missing = missing.or(Some((device, seq)));
                        }
                    }
                }
                // A part of a batch is as bad as a hole, even if it is the last one.
                if let (true, Some((device, seq))) = (there > 0, absent) {
                    breaches.push(Kind::Gap, device, seq);
                }
            }
        }
    }

    /// Readings that the cluster acknowledged.
    pub fn acknowledged_count(&self) -> usize {
        let all = self.devices.values().flatten();
        all.filter(|known| known.acknowledged_ns.is_some()).count()
    }

    /// The stream and the number of the batch that a reading was sealed into.
    pub fn batch_of(&self, device: &str, seq: i64) -> Option<(&Stream, u64)> {
        let holds = |readings: &Readings| readings.0 == device && readings.1.contains(&seq);
        self.streams.iter().find_map(|(stream, batches)| {
            let found = batches.iter().find(|(_, batch)| batch.iter().any(holds));
            found.map(|(number, _)| (stream, *number))
        })
    }
}

fn signed(number: usize) -> i64 {
    i64::try_from(number).expect("a test has few readings")
}

fn index(seq: i64) -> usize {
    usize::try_from(seq - 1).expect("numbers begin with 1")
}

/// Those of one read, one a kind and device.
struct Breaches<'a> {
    read: &'a Read,
    found: Vec<Breach>,
}

impl Breaches<'_> {
    fn of(read: &Read) -> Breaches<'_> {
        Breaches {
            read,
            found: Vec::new(),
        }
    }

    fn push(&mut self, kind: Kind, device: &str, seq: i64) {
        let mut found = self.found.iter_mut();
        let known = found.find(|one| one.kind == kind && one.device == device);
        if let Some(known) = known {
            known.others += usize::from(known.seq != seq);
            return;
        }
        self.found.push(Breach {
            kind,
            node: self.read.node.clone(),
            device: device.to_owned(),
            seq,
            others: 0,
            at_ns: self.read.answered_ns,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: Content = Content {
        begin_ns: 1_000,
        step_ns: 10,
    };

    fn stream() -> Stream {
        ("gw1".to_owned(), 7, 1)
    }

    /// Three batches of two readings each; the first one acknowledged at 10, the second one kept.
    fn history() -> History {
        let mut history = History::new(CONTENT);
        for number in 1..=3 {
            let seqs = history.hand_over("d", 2);
            history.sealed(stream(), number, vec![("d".to_owned(), seqs)]);
        }
        assert_eq!(history.acknowledged(&stream(), 1, 10), 2);
        assert_eq!(history.acknowledged(&stream(), 1, 12), 0);
        history.kept(&("d".to_owned(), 3..=4));
        history
    }

    fn rows(seqs: &[i64]) -> Vec<Rows> {
        vec![Rows {
            device: "d".to_owned(),
            seqs: seqs.to_vec(),
            values: seqs.iter().map(|seq| CONTENT.value(*seq)).collect(),
            times_ns: seqs.iter().map(|seq| CONTENT.time_ns(*seq)).collect(),
        }]
    }

    fn read(asked_ns: u64) -> Read {
        Read {
            node: "a".to_owned(),
            asked_ns,
            answered_ns: asked_ns + 1,
            linearizable: true,
        }
    }

    fn kinds(breaches: &[Breach]) -> Vec<(Kind, i64, usize)> {
        let of = |breach: &Breach| (breach.kind, breach.seq, breach.others);
        breaches.iter().map(of).collect()
    }

    #[test]
    fn what_was_acknowledged_and_what_may_be_there_is_clean() {
        let mut history = history();
        for seqs in [&[1, 2][..], &[2, 1, 3, 4], &[1, 2, 3, 4, 5, 6]] {
            assert_eq!(history.read(&read(11), &rows(seqs)), []);
        }
        assert_eq!(history.end(&read(50), &rows(&[1, 2, 3, 4, 5, 6])), []);
        assert_eq!(history.acknowledged_count(), 2);
        assert!(history.is_shown(&stream(), 2, &rows(&[3, 4])));
        assert!(!history.is_shown(&stream(), 2, &rows(&[1, 2, 3])));
        assert_eq!(history.batch_of("d", 4), Some((&stream(), 2)));
    }

    #[test]
    fn a_stale_read_is_found_and_one_that_was_asked_for_earlier_is_not() {
        let mut history = history();
        assert_eq!(history.read(&read(10), &rows(&[])), []);
        let found = history.read(&read(11), &rows(&[]));
        assert_eq!(kinds(&found), [(Kind::Stale, 1, 1)]);
        let local = Read {
            linearizable: false,
            ..read(11)
        };
        assert_eq!(history.read(&local, &rows(&[])), []);
    }

    #[test]
    fn what_a_read_showed_is_shown_by_every_later_one_and_in_the_end() {
        let mut history = history();
        assert_eq!(history.read(&read(20), &rows(&[1, 2, 3, 4, 5, 6])), []);
        assert_eq!(history.read(&read(21), &rows(&[1, 2])), []);
        let found = history.read(&read(22), &rows(&[1, 2, 3, 4]));
        assert_eq!(kinds(&found), [(Kind::Stale, 5, 1)]);
        let found = history.end(&read(99), &rows(&[1, 2, 3, 4]));
        assert_eq!(kinds(&found), [(Kind::NotDurable, 5, 1)]);
    }

    #[test]
    fn lost_is_found_of_what_was_kept_and_of_what_was_acknowledged() {
        let found = history().end(&read(99), &rows(&[1, 2]));
        assert_eq!(kinds(&found), [(Kind::Lost, 3, 1)]);
        let found = history().end(&read(99), &[]);
        assert_eq!(kinds(&found), [(Kind::Lost, 1, 3)]);
    }

    #[test]
    fn twice_phantom_and_altered_are_found() {
        let found = history().read(&read(11), &rows(&[1, 2, 2]));
        assert_eq!(kinds(&found), [(Kind::Twice, 2, 0)]);
        let found = history().read(&read(11), &rows(&[1, 2, 7]));
        assert_eq!(kinds(&found), [(Kind::Phantom, 7, 0)]);
        let mut foreign = rows(&[1, 2]);
        foreign.push(Rows {
            device: "e".to_owned(),
            ..rows(&[1]).remove(0)
        });
        let found = history().read(&read(11), &foreign);
        assert_eq!(kinds(&found), [(Kind::Phantom, 1, 0)]);
        let mut value = rows(&[1, 2]);
        value[0].values[1] += 1;
        let mut time = rows(&[1, 2]);
        time[0].times_ns[1] += 1;
        for altered in [value, time] {
            let found = history().end(&read(99), &altered);
            assert!(kinds(&found).contains(&(Kind::Altered, 2, 0)), "{found:?}");
        }
    }

    #[test]
    fn a_hole_in_a_stream_and_a_part_of_a_batch_are_found() {
        let found = history().read(&read(11), &rows(&[1, 2, 5, 6]));
        assert_eq!(kinds(&found), [(Kind::Gap, 3, 0)]);
        let found = history().read(&read(11), &rows(&[1, 2, 3]));
        assert_eq!(kinds(&found), [(Kind::Gap, 4, 0)]);
    }

    #[test]
    fn a_breach_says_what_where_and_when() {
        let found = history().read(&read(11_000_000), &[]);
        assert_eq!(
            found[0].to_string(),
            "STALE READ: reading 1 of d at node a, 11 ms, and 1 more of this device"
        );
    }
}
