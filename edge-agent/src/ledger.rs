//! A file with every reading that the agent keeps, as line protocol: what a proof compares with
//! what the cluster has stored.
//!
//! A reading is written when its fate is known and before its source hears of it, so a line that
//! was answered `ok` is in the ledger. It is handed to the operating system, not synced: it
//! outlives the agent, not the machine. Readings that were stamped before the time of day was known
//! are the exception: they are written once it is, with the times that the cluster gives them.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shared::id::TimeNs;
use shared::payload::line;
use shared::reading::Reading;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::clock::Stamper;
use crate::handed::{HANDED_BYTES_MAX, HANDOVERS_MAX, NotKept, Stamp, Stopped, readings_bytes};
use crate::intake::{Outcome, outcome_of};

/// Readings of which the time of day is not known yet; more, and the ledger is given up.
const UNTIMED_MAX: usize = 100_000;

type Teller = oneshot::Sender<Result<(), NotKept>>;

/// The intakes' side: announces readings that are about to be handed over.
#[derive(Debug, Clone)]
pub struct Ledger {
    sender: mpsc::Sender<Expected>,
    room: Arc<Semaphore>,
}

/// The file, and what is to be written to it.
#[derive(Debug)]
pub struct LedgerWriter {
    receiver: mpsc::Receiver<Expected>,
    file: BufWriter<File>,
    path: PathBuf,
    clock: Stamper,
    /// Kept, and stamped since boot.
    untimed: Vec<Reading>,
    /// Written no more: it would have a hole.
    broken: bool,
}

/// No room for another announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// Readings whose fate is open.
#[derive(Debug)]
struct Expected {
    entry: Written,
    outcome: Outcome,
    teller: Option<Teller>,
    _room: OwnedSemaphorePermit,
}

/// What is to be written of a hand-over.
#[derive(Debug)]
enum Written {
    Lines(String),
    /// Their times count from boot.
    Untimed(Vec<Reading>),
}

impl Written {
    fn new(readings: &[Reading], stamp: Stamp) -> Written {
        match stamp {
            Stamp::Wall => Written::Lines(text(readings)),
            Stamp::Boot => Written::Untimed(readings.to_vec()),
        }
    }

    fn weight(&self) -> u32 {
        let bytes = match self {
            Written::Lines(lines) => lines.len(),
            Written::Untimed(readings) => readings_bytes(readings),
        };
        u32::try_from(bytes.clamp(1, HANDED_BYTES_MAX)).expect("below 4 GiB")
    }
}

/// Opens the file for appending; half a line, which a killed agent may leave, is cut off.
///
/// # Errors
/// The file cannot be opened or cut.
pub fn open(path: &Path, clock: Stamper) -> io::Result<(Ledger, LedgerWriter)> {
    let mut file = OpenOptions::new()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .open(path)?;
    let whole = whole_lines(&mut file)?;
    file.set_len(whole)?;
    file.seek(SeekFrom::End(0))?;
    let (sender, receiver) = mpsc::channel(HANDOVERS_MAX);
    let ledger = Ledger {
        sender,
        room: Arc::new(Semaphore::new(HANDED_BYTES_MAX)),
    };
    let writer = LedgerWriter {
        receiver,
        file: BufWriter::new(file),
        path: path.to_owned(),
        clock,
        untimed: Vec::new(),
        broken: false,
    };
    Ok((ledger, writer))
}

/// Bytes up to and with the last line feed.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    const STEP: u64 = 64 << 10;
    let mut end = file.metadata()?.len();
    while end > 0 {
        let start = end.saturating_sub(STEP);
        let mut tail = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        Read::by_ref(file)
            .take(end - start)
            .read_to_end(&mut tail)?;
        if let Some(at) = tail.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

impl Ledger {
    /// Waits for room; gives what goes with the readings to the keeper. `teller` hears of their
    /// fate after the ledger.
    ///
    /// # Errors
    /// The agent stops.
    pub(crate) async fn expect(
        &self,
        readings: &[Reading],
        stamp: Stamp,
        teller: Option<Teller>,
    ) -> Result<Teller, Stopped> {
        let entry = Written::new(readings, stamp);
        let room = Arc::clone(&self.room).acquire_many_owned(entry.weight());
        let room = room.await.map_err(|_| Stopped)?;
        let (kept, outcome) = oneshot::channel();
        let expected = Expected {
            entry,
            outcome,
            teller,
            _room: room,
        };
        self.sender.send(expected).await.map_err(|_| Stopped)?;
        Ok(kept)
    }

    /// As [`Ledger::expect`], for sources that cannot wait and are not told.
    pub(crate) fn try_expect(&self, readings: &[Reading], stamp: Stamp) -> Result<Teller, Full> {
        let entry = Written::new(readings, stamp);
        let room = Arc::clone(&self.room).try_acquire_many_owned(entry.weight());
        let (kept, outcome) = oneshot::channel();
        let expected = Expected {
            entry,
            outcome,
            teller: None,
            _room: room.map_err(|_| Full)?,
        };
        self.sender.try_send(expected).map_err(|_| Full)?;
        Ok(kept)
    }
}

impl LedgerWriter {
    /// Writes until every intake is gone and the fate of all readings is known.
    pub async fn run(mut self) {
        while let Some(expected) = self.receiver.recv().await {
            // In order: the keeper settles readings about in the order in which it got them.
            let outcome = outcome_of(expected.outcome).await;
            self.write_untimed();
            if outcome.is_ok() {
                match expected.entry {
                    Written::Lines(lines) => self.write(&lines),
                    Written::Untimed(readings) => self.keep_untimed(readings),
                }
            }
            if let Some(teller) = expected.teller {
                // The source may be gone.
                let _ = teller.send(outcome);
            }
        }
        self.write_untimed();
        if !self.untimed.is_empty() {
            tracing::warn!(
                readings = self.untimed.len(),
                "the time of day never got known: these readings are kept, and not in the ledger"
            );
        }
    }

    fn keep_untimed(&mut self, readings: Vec<Reading>) {
        self.untimed.extend(readings);
        self.write_untimed();
        if self.untimed.len() > UNTIMED_MAX {
            self.broken = true;
            self.untimed = Vec::new();
            tracing::error!(
                "the ledger {} is given up: too many readings wait for the time of day. Nothing \
                 more is written to it; readings are kept and sent all the same",
                self.path.display()
            );
        }
    }

    /// Writes what waited for the time of day, if that is known by now.
    fn write_untimed(&mut self) {
        if self.untimed.is_empty() {
            return;
        }
        let Some(first_ns) = self.clock.first_ns() else {
            return;
        };
        let mut readings = std::mem::take(&mut self.untimed);
        for reading in &mut readings {
            reading.time = TimeNs(reading.time.0.saturating_add(first_ns));
        }
        self.write(&text(&readings));
    }

    fn write(&mut self, lines: &str) {
        if self.broken {
            return;
        }
        let written = self.file.write_all(lines.as_bytes());
        if let Err(error) = written.and_then(|()| self.file.flush()) {
            self.broken = true;
            tracing::error!(
                "cannot write the ledger {}: {error}. Nothing more is written to it; readings \
                 are kept and sent all the same",
                self.path.display()
            );
        }
    }
}

fn text(readings: &[Reading]) -> String {
    let mut lines = String::new();
    for reading in readings {
        match line::format(reading) {
            Ok(line) => {
                let _ = writeln!(lines, "{line}");
            }
            Err(why) => tracing::warn!(
                "a reading of table {} cannot stand in the ledger: {why}",
                reading.shape.table
            ),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Teller as ClockTeller;
    use shared::reading::Value;

    fn reading(value: i64) -> Reading {
        Reading::new(
            "t".to_owned(),
            "d".to_owned(),
            Vec::new(),
            TimeNs(value),
            vec![("v".to_owned(), Value::Int(value))],
        )
    }

    #[tokio::test]
    async fn only_kept_readings_are_written_and_before_the_source_hears() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.lp");
        std::fs::write(&path, "t,device=d v=0i 0\nt,dev").unwrap();
        let (ledger, writer) = open(&path, Stamper::of_this_machine()).unwrap();
        let (teller, told) = oneshot::channel();
        let first = ledger
            .expect(&[reading(1)], Stamp::Wall, Some(teller))
            .await
            .unwrap();
        let refused = ledger.try_expect(&[reading(2)], Stamp::Wall).unwrap();
        let lost = ledger.try_expect(&[reading(3)], Stamp::Wall).unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(writer.run());
        first.send(Ok(())).unwrap();
        told.await.unwrap().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "t,device=d v=0i 0\nt,device=d v=1i 1\n");

        refused.send(Err(NotKept::BufferFull)).unwrap();
        drop(lost);
        ledger
            .try_expect(&[reading(4)], Stamp::Wall)
            .unwrap()
            .send(Ok(()))
            .unwrap();
        drop(ledger);
        tasks.join_next().await.unwrap().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "t,device=d v=0i 0\nt,device=d v=1i 1\nt,device=d v=4i 4\n"
        );
    }

    #[tokio::test]
    async fn what_was_stamped_since_boot_is_written_once_the_time_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.lp");
        let mut clock = ClockTeller::new(None);
        let (ledger, mut writer) = open(&path, clock.stamper()).unwrap();
        writer.keep_untimed(vec![reading(1)]);
        let year_2100 = TimeNs(4_102_444_800_000_000_000);
        clock.hear(year_2100);
        let first_ns = clock.stamper().first_ns().unwrap();
        let kept = ledger.try_expect(&[reading(2)], Stamp::Boot).unwrap();
        kept.send(Ok(())).unwrap();
        drop(ledger);
        writer.run().await;
        let text = std::fs::read_to_string(&path).unwrap();
        let line = |value: i64| format!("t,device=d v={value}i {}\n", first_ns + value);
        assert_eq!(text, line(1) + &line(2));
    }

    #[tokio::test]
    async fn announcements_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, _writer) =
            open(&folder.path().join("ledger.lp"), Stamper::of_this_machine()).unwrap();
        let kept: Vec<_> = (0..HANDOVERS_MAX)
            .map(|_| ledger.try_expect(&[reading(1)], Stamp::Wall).unwrap())
            .collect();
        assert_eq!(
            ledger.try_expect(&[reading(1)], Stamp::Wall).unwrap_err(),
            Full
        );
        drop(kept);
    }

    #[test]
    fn a_file_without_a_whole_line_is_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.lp");
        std::fs::write(&path, "x".repeat(200_000)).unwrap();
        drop(open(&path, Stamper::of_this_machine()).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    }
}
