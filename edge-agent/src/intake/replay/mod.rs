//! A file of readings with their own times, handed over at the pace at which they were recorded,
//! faster, or as fast as they are taken.
//!
//! `csv` reads rows, `position` keeps how far the file was taken: written after the readings are
//! kept, so a restart loses nothing, and repeats only what was not confirmed yet.

mod csv;
mod position;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use shared::id::{AgentId, TimeNs};
use shared::limits::LINE_PAYLOAD_BYTES_MAX;
use shared::payload::line::LineReader;
use shared::reading::Reading;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::watch;
use tokio::time::Instant;

use super::frame::Framer;
use super::{Complaints, Entry, Outcome, outcome_of, stopped};
use crate::config::{Replay, ReplayFormat};
use crate::handed::{HANDED_READINGS_MAX, NotKept, Stamp, Stopped};
use csv::Header;
use position::Position;

/// Bytes of one read.
const READ_BYTES: usize = 64 << 10;
/// Hand-overs that wait to be kept.
const GROUPS_MAX: usize = 8;
/// A full buffer is tried again after so long.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Why a replay ends before its file does. Who must act: the operator.
#[derive(Debug, thiserror::Error)]
enum ReplayError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot keep the position in {}: {source}; free some disk", path.display())]
    Position { path: PathBuf, source: io::Error },
    #[error(
        "{} is shorter than what was replayed of it: it is another file. Give it another name, or \
         remove {} to begin at its start",
        file.display(),
        position.display()
    )]
    OtherFile { file: PathBuf, position: PathBuf },
    #[error("the first line of {} is no header: {why}", path.display())]
    Header { path: PathBuf, why: String },
    #[error("readings are not kept: {0}")]
    NotKept(NotKept),
}

/// How it ended otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    OfFile,
    Stopped,
}

/// Replays until the end of the file or until told to stop.
pub async fn run(
    options: Replay,
    agent: AgentId,
    data_dir: PathBuf,
    entry: Entry,
    stop: watch::Receiver<bool>,
) {
    let name = entry.name().to_owned();
    let replayed = async {
        let mut replay = Player::open(options, agent, data_dir, entry, stop).await?;
        replay.play().await
    };
    match replayed.await {
        Ok(End::OfFile) => tracing::info!("{name}: replayed to its end"),
        Ok(End::Stopped) => {}
        Err(error) => tracing::error!("{name}: given up: {error}"),
    }
}

/// One line of the file.
enum OneLine {
    Whole(Vec<u8>),
    TooLong,
}

struct Player {
    options: Replay,
    agent: AgentId,
    entry: Entry,
    stop: watch::Receiver<bool>,
    file: File,
    framer: Framer,
    /// How far the file was cut into lines.
    read: Position,
    /// `None` for CSV, which has a header.
    lines: Option<LineReader>,
    header: Option<Header>,
    pace: Pace,
    group: Vec<Reading>,
    /// Handed over and not kept yet, with the position behind each.
    open: VecDeque<(Outcome, Vec<Reading>, Position)>,
    place: position::Place,
    complaints: Complaints,
}

/// When a reading is due. No clock of its own.
#[derive(Debug, Clone, Copy)]
struct Pace {
    speed: f64,
    /// The first reading's time, and when it was handed over.
    start: Option<(TimeNs, Instant)>,
}

impl Pace {
    /// How long a reading of this time must still wait.
    fn wait(&mut self, time: TimeNs, now: Instant) -> Duration {
        if self.speed == 0.0 {
            return Duration::ZERO;
        }
        let (first, start) = *self.start.get_or_insert((time, now));
        let recorded_ns = time.0.saturating_sub(first.0).max(0);
        let due_seconds = recorded_ns as f64 / 1e9 / self.speed;
        // Beyond what a Duration holds, it is not due in this life.
        let due = Duration::try_from_secs_f64(due_seconds).unwrap_or(Duration::MAX);
        due.saturating_sub(now - start)
    }
}

impl Player {
    async fn open(
        options: Replay,
        agent: AgentId,
        data_dir: PathBuf,
        entry: Entry,
        stop: watch::Receiver<bool>,
    ) -> Result<Player, ReplayError> {
        let path = options.file.clone();
        let unreadable = |source| ReplayError::Read {
            path: path.clone(),
            source,
        };
        let place = position::Place::new(&data_dir, &options.file);
        let read = place.load().map_err(|source| ReplayError::Position {
            path: place.path().to_owned(),
            source,
        })?;
        let file = File::open(&options.file).await.map_err(unreadable)?;
        let length = file.metadata().await.map_err(unreadable)?.len();
        if read.bytes > length {
            return Err(ReplayError::OtherFile {
                file: options.file,
                position: place.path().to_owned(),
            });
        }
        let lines = match &options.format {
            ReplayFormat::Line { device_key } => {
                let device = agent.as_str();
                Some(LineReader::new(options.precision, device_key, device))
            }
            ReplayFormat::Csv(_) => None,
        };
        let mut player = Player {
            pace: Pace {
                speed: options.speed,
                start: None,
            },
            options,
            agent,
            entry,
            stop,
            file,
            framer: Framer::new(LINE_PAYLOAD_BYTES_MAX),
            read: Position::default(),
            lines,
            header: None,
            group: Vec::new(),
            open: VecDeque::new(),
            place,
            complaints: Complaints::new(Instant::now()),
        };
        player.begin_at(read).await?;
        Ok(player)
    }

    /// Reads the header where there is one, then goes to where an earlier run came.
    async fn begin_at(&mut self, position: Position) -> Result<(), ReplayError> {
        if let ReplayFormat::Csv(csv) = self.options.format.clone() {
            let path = self.options.file.clone();
            let first = loop {
                let at_end = !self.read_piece().await?;
                if let Some(line) = next_line(&mut self.framer, &mut self.read, at_end) {
                    break line;
                }
                if at_end {
                    break OneLine::Whole(Vec::new());
                }
            };
            let header = match first {
                OneLine::Whole(line) => Header::parse(&line, csv),
                OneLine::TooLong => Err(format!("it is over {LINE_PAYLOAD_BYTES_MAX} bytes")),
            };
            self.header = Some(header.map_err(|why| ReplayError::Header { path, why })?);
        }
        if position.bytes > self.read.bytes {
            let path = self.options.file.clone();
            let sought = self.file.seek(io::SeekFrom::Start(position.bytes)).await;
            sought.map_err(|source| ReplayError::Read { path, source })?;
            self.framer = Framer::new(LINE_PAYLOAD_BYTES_MAX);
            self.read = position;
            tracing::info!(
                "{}: goes on behind line {}",
                self.entry.name(),
                position.lines
            );
        }
        Ok(())
    }

    async fn play(&mut self) -> Result<End, ReplayError> {
        let mut at_end = false;
        loop {
            let before = self.read;
            while let Some(line) = next_line(&mut self.framer, &mut self.read, at_end) {
                let parsed = match line {
                    OneLine::Whole(line) => self.parse(&line),
                    OneLine::TooLong => Err(format!("it is over {LINE_PAYLOAD_BYTES_MAX} bytes")),
                };
                let reading = match parsed {
                    Ok(Some(reading)) => reading,
                    Ok(None) => continue,
                    Err(why) => {
                        self.refuse(&why);
                        continue;
                    }
                };
                if !self.until_due(reading.time).await? {
                    return self.end_early().await;
                }
                self.group.push(reading);
                if self.group.len() == HANDED_READINGS_MAX && !self.hand_over().await? {
                    return self.end_early().await;
                }
            }
            if at_end {
                self.hand_over().await?;
                self.settle(0).await?;
                self.save(self.read).await?;
                return Ok(End::OfFile);
            }
            // A piece without one whole line: nothing to hand over yet.
            if before != self.read && !self.hand_over().await? {
                return self.end_early().await;
            }
            at_end = !self.read_piece().await?;
        }
    }

    /// Waits for the time of a reading; what is due is handed over before. `false`: stopped.
    async fn until_due(&mut self, time: TimeNs) -> Result<bool, ReplayError> {
        if *self.stop.borrow() {
            return Ok(false);
        }
        let wait = self.pace.wait(time, Instant::now());
        if wait.is_zero() {
            return Ok(true);
        }
        // The position is behind the line that is not due yet: it is handed over with the next.
        let held = std::mem::take(&mut self.group);
        if !self.hand_over_up_to(held, self.read.before_last()).await? {
            return Ok(false);
        }
        self.settle(0).await?;
        let stop = &mut self.stop;
        Ok(tokio::select! {
            () = stopped(stop) => false,
            () = tokio::time::sleep(wait) => true,
        })
    }

    async fn hand_over(&mut self) -> Result<bool, ReplayError> {
        let group = std::mem::take(&mut self.group);
        self.hand_over_up_to(group, self.read).await
    }

    /// `false`: the agent stops.
    async fn hand_over_up_to(
        &mut self,
        group: Vec<Reading>,
        behind: Position,
    ) -> Result<bool, ReplayError> {
        if group.is_empty() {
            return Ok(true);
        }
        self.settle(GROUPS_MAX - 1).await?;
        match self.entry.hand_over(group.clone(), Stamp::Wall, true).await {
            Ok(outcome) => {
                let outcome = outcome.expect("an answer was asked for");
                self.open.push_back((outcome, group, behind));
                Ok(true)
            }
            Err(Stopped) => Ok(false),
        }
    }

    /// Waits until at most so many hand-overs are open; keeps the position behind the rest.
    async fn settle(&mut self, open_max: usize) -> Result<(), ReplayError> {
        let mut behind = None;
        while self.open.len() > open_max {
            let Some((outcome, group, position)) = self.open.pop_front() else {
                break;
            };
            let mut outcome = outcome_of(outcome).await;
            // A file can wait: a full buffer is no reason to leave a hole.
            while outcome == Err(NotKept::BufferFull) {
                outcome = self.again(group.clone()).await;
            }
            // Again they would be refused again. They lie among the dead letters; the file goes on.
            if outcome != Err(NotKept::Refused) {
                outcome.map_err(ReplayError::NotKept)?;
            }
            behind = Some(position);
        }
        match behind {
            Some(position) => self.save(position).await,
            None => Ok(()),
        }
    }

    async fn again(&mut self, group: Vec<Reading>) -> Result<(), NotKept> {
        let counter = &self.entry.counters().not_kept;
        counter.fetch_add(group.len() as u64, Ordering::Relaxed);
        if let Some(unsaid) = self.complaints.allow(Instant::now()) {
            tracing::warn!(
                "{}: waits, the agent's buffer is full ({unsaid} more unsaid)",
                self.entry.name()
            );
        }
        tokio::select! {
            () = stopped(&mut self.stop) => return Err(NotKept::Stopping),
            () = tokio::time::sleep(RETRY_PAUSE) => {}
        }
        match self.entry.hand_over(group, Stamp::Wall, true).await {
            Ok(outcome) => outcome_of(outcome.expect("an answer was asked for")).await,
            Err(Stopped) => Err(NotKept::Stopping),
        }
    }

    /// What was handed over is settled; what was only read is read again next time.
    async fn end_early(&mut self) -> Result<End, ReplayError> {
        match self.settle(0).await {
            Ok(()) | Err(ReplayError::NotKept(NotKept::Stopping)) => Ok(End::Stopped),
            Err(other) => Err(other),
        }
    }

    async fn save(&mut self, position: Position) -> Result<(), ReplayError> {
        let place = self.place.clone();
        let path = place.path().to_owned();
        let saved = tokio::task::spawn_blocking(move || place.save(position)).await;
        saved
            .unwrap_or_else(|ended| Err(io::Error::other(ended)))
            .map_err(|source| ReplayError::Position { path, source })
    }

    /// `false` at the end of the file.
    async fn read_piece(&mut self) -> Result<bool, ReplayError> {
        let mut piece = vec![0; READ_BYTES];
        let length = self.file.read(&mut piece).await;
        let length = length.map_err(|source| ReplayError::Read {
            path: self.options.file.clone(),
            source,
        })?;
        self.framer.push(&piece[..length]);
        Ok(length > 0)
    }

    /// The reading of a line; `None` for a blank one.
    fn parse(&mut self, line: &[u8]) -> Result<Option<Reading>, String> {
        match (&mut self.lines, &self.header) {
            (Some(lines), _) => {
                // A file is of another time anyway: a guess of the day will do.
                let day = self.entry.clock().day();
                let parsed = lines.read(line, day).transpose();
                parsed.map_err(|error| format!("column {}: {}", error.column, error.reason))
            }
            (None, Some(header)) => {
                header.reading(line, self.options.precision, self.agent.as_str())
            }
            (None, None) => Ok(None),
        }
    }

    fn refuse(&mut self, why: &str) {
        self.entry
            .counters()
            .refused
            .fetch_add(1, Ordering::Relaxed);
        if let Some(unsaid) = self.complaints.allow(Instant::now()) {
            tracing::warn!(
                "{}: line {} is refused: {why} ({unsaid} more unsaid)",
                self.entry.name(),
                self.read.lines
            );
        }
    }
}

/// The next line, counted.
fn next_line(framer: &mut Framer, read: &mut Position, at_end: bool) -> Option<OneLine> {
    let frame = match framer.next() {
        Some(frame) => frame,
        None if at_end => framer.last()?,
        None => return None,
    };
    read.step(frame.bytes);
    Some(match frame.line {
        Some(line) => OneLine::Whole(line.to_vec()),
        None => OneLine::TooLong,
    })
}

#[cfg(test)]
mod tests;
