//! A file with every reading that the agent keeps, as line protocol: what a proof compares with
//! what the cluster has stored.
//!
//! A reading is written when its fate is known and before its source hears of it, so a line that
//! was answered `ok` is in the ledger. It is handed to the operating system, not synced: it
//! outlives the agent, not the machine.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shared::payload::line;
use shared::reading::Reading;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::handed::{HANDED_BYTES_MAX, HANDOVERS_MAX, NotKept, Stopped};
use crate::intake::{Outcome, outcome_of};

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
    /// Written no more: it would have a hole.
    broken: bool,
}

/// No room for another announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// Readings whose fate is open.
#[derive(Debug)]
struct Expected {
    lines: String,
    outcome: Outcome,
    teller: Option<Teller>,
    _room: OwnedSemaphorePermit,
}

/// Opens the file for appending; half a line, which a killed agent may leave, is cut off.
///
/// # Errors
/// The file cannot be opened or cut.
pub fn open(path: &Path) -> io::Result<(Ledger, LedgerWriter)> {
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
        teller: Option<Teller>,
    ) -> Result<Teller, Stopped> {
        let lines = text(readings);
        let room = Arc::clone(&self.room).acquire_many_owned(weight(&lines));
        let room = room.await.map_err(|_| Stopped)?;
        let (kept, outcome) = oneshot::channel();
        let expected = Expected {
            lines,
            outcome,
            teller,
            _room: room,
        };
        self.sender.send(expected).await.map_err(|_| Stopped)?;
        Ok(kept)
    }

    /// As [`Ledger::expect`], for sources that cannot wait and are not told.
    pub(crate) fn try_expect(&self, readings: &[Reading]) -> Result<Teller, Full> {
        let lines = text(readings);
        let room = Arc::clone(&self.room).try_acquire_many_owned(weight(&lines));
        let (kept, outcome) = oneshot::channel();
        let expected = Expected {
            lines,
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
            if outcome.is_ok() {
                self.write(&expected.lines);
            }
            if let Some(teller) = expected.teller {
                // The source may be gone.
                let _ = teller.send(outcome);
            }
        }
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

fn weight(lines: &str) -> u32 {
    u32::try_from(lines.len().clamp(1, HANDED_BYTES_MAX)).expect("below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::id::TimeNs;
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
        let (ledger, writer) = open(&path).unwrap();
        let (teller, told) = oneshot::channel();
        let first = ledger.expect(&[reading(1)], Some(teller)).await.unwrap();
        let refused = ledger.try_expect(&[reading(2)]).unwrap();
        let lost = ledger.try_expect(&[reading(3)]).unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(writer.run());
        first.send(Ok(())).unwrap();
        told.await.unwrap().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "t,device=d v=0i 0\nt,device=d v=1i 1\n");

        refused.send(Err(NotKept::BufferFull)).unwrap();
        drop(lost);
        ledger
            .try_expect(&[reading(4)])
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
    async fn announcements_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, _writer) = open(&folder.path().join("ledger.lp")).unwrap();
        let kept: Vec<_> = (0..HANDOVERS_MAX)
            .map(|_| ledger.try_expect(&[reading(1)]).unwrap())
            .collect();
        assert_eq!(ledger.try_expect(&[reading(1)]).unwrap_err(), Full);
        drop(kept);
    }

    #[test]
    fn a_file_without_a_whole_line_is_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.lp");
        std::fs::write(&path, "x".repeat(200_000)).unwrap();
        drop(open(&path).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    }
}
