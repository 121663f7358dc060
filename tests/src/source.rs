//! A device: hands numbered readings to an agent's line intake and writes down what it was told.
//!
//! Nothing is handed over twice: a line without an answer is `Unknown` for ever, because a second
//! copy of it would rightly be a second reading.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::ledger::{Fate, Ledger, Reading};
use crate::wait;

/// Lines on their way without an answer, at most.
const UNANSWERED_MAX: usize = 64;
/// A connection without an answer for so long is given up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// A device that sends until it is stopped.
#[derive(Debug)]
pub struct Source {
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    ledger: Arc<Mutex<Ledger>>,
}

impl Source {
    /// Sends readings of `device` to `intake`, about `lines_per_second` of them.
    pub fn start(intake: SocketAddr, device: &str, lines_per_second: u32) -> Source {
        let stop = Arc::new(AtomicBool::new(false));
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let mut sender = Sender {
            intake,
            device: device.to_owned(),
            pause: Duration::from_secs(1) / lines_per_second,
            next_seq: 1,
            connection: 0,
            stop: Arc::clone(&stop),
            ledger: Arc::clone(&ledger),
        };
        let thread = thread::Builder::new()
            .name(format!("source {device}"))
            .spawn(move || sender.run())
            .expect("a thread for a source");
        Source {
            thread: Some(thread),
            stop,
            ledger,
        }
    }

    /// Readings that the agent has said it keeps, so far.
    pub fn kept(&self) -> usize {
        self.ledger
            .lock()
            .expect("no source panics while it writes")
            .count(Fate::Kept)
    }

    /// Stops sending, waits for the answers under way, gives the ledger.
    pub fn stop(mut self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a source does not panic");
        }
        self.ledger
            .lock()
            .expect("no source panics while it writes")
            .clone()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Sender {
    intake: SocketAddr,
    device: String,
    pause: Duration,
    next_seq: i64,
    connection: u32,
    stop: Arc<AtomicBool>,
    ledger: Arc<Mutex<Ledger>>,
}

impl Sender {
    fn run(&mut self) {
        while !self.stopped() {
            if let Ok(stream) = TcpStream::connect_timeout(&self.intake, ANSWER_TIMEOUT) {
                self.connection += 1;
                let mut unanswered = VecDeque::new();
                // However it ends, the next connection goes on.
                let _ = self.talk(stream, &mut unanswered);
                for reading in unanswered {
                    self.note(reading, Fate::Unknown);
                }
            }
            thread::sleep(RECONNECT_PAUSE);
        }
    }

    /// One connection until it breaks or the source is stopped and all answers are in.
    fn talk(
        &mut self,
        mut stream: TcpStream,
        unanswered: &mut VecDeque<Reading>,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        let answers = BufReader::new(stream.try_clone()?);
        let mut answers = Answers {
            answers,
            partial: String::new(),
        };
        let mut last_answer = wait::now();
        loop {
            if self.stopped() && unanswered.is_empty() {
                return Ok(());
            }
            if !self.stopped() && unanswered.len() < UNANSWERED_MAX {
                let reading = Reading::nth(&self.device, self.next_seq, wall_clock_ns());
                self.next_seq += 1;
                let line = reading.line();
                // Before the write: even a failed one may have reached the agent.
                unanswered.push_back(reading);
                stream.write_all(line.as_bytes())?;
            }
            while let Some(fate) = answers.next(self.pause)? {
                last_answer = wait::now();
                let reading = unanswered
                    .pop_front()
                    .ok_or_else(|| io::Error::other("an answer to no line"))?;
                self.note(reading, fate);
            }
            if !unanswered.is_empty() && last_answer.elapsed() > ANSWER_TIMEOUT {
                return Err(io::Error::other("the agent does not answer"));
            }
            if unanswered.is_empty() {
                last_answer = wait::now();
            }
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn note(&self, reading: Reading, fate: Fate) {
        let mut ledger = self
            .ledger
            .lock()
            .expect("no reader panics while it counts");
        ledger.push(reading, fate, self.connection);
    }
}

struct Answers {
    answers: BufReader<TcpStream>,
    /// A line of which the end has not come yet.
    partial: String,
}

impl Answers {
    /// The next answer, or `None` if none comes within `patience`.
    fn next(&mut self, patience: Duration) -> io::Result<Option<Fate>> {
        self.answers
            .get_ref()
            .set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
        match self.answers.read_line(&mut self.partial) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) if self.partial.ends_with('\n') => {
                let fate = fate(&self.partial);
                self.partial.clear();
                Ok(Some(fate))
            }
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }
}

/// `ok <line>` is kept; `error <line> <why>` is not. Answers come in the order of the lines.
pub(crate) fn fate(answer: &str) -> Fate {
    if answer.starts_with("ok ") {
        Fate::Kept
    } else {
        Fate::Refused
    }
}

/// The time of day, in nanoseconds since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "a device stamps its readings with its own clock"
)]
pub fn wall_clock_ns() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn answers_and_their_absence_are_written_down() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let intake = listener.local_addr().unwrap();
        let source = Source::start(intake, "d1", 1_000);

        // The first connection answers two lines and dies with the third.
        let (stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        for answer in ["ok 1\n", "error 2 too large\n"] {
            lines.next().unwrap().unwrap();
            (&stream).write_all(answer.as_bytes()).unwrap();
        }
        assert!(
            lines
                .next()
                .unwrap()
                .unwrap()
                .starts_with("fire,device=d1 seq=3i,value=-999.25 ")
        );
        // Not closed: a reset would take back answers that the source has not read yet.
        stream.shutdown(std::net::Shutdown::Write).unwrap();

        // The second answers all until the source stops.
        let (second, _) = listener.accept().unwrap();
        let answering = thread::spawn(move || {
            let mut writer = second.try_clone().unwrap();
            for line in BufReader::new(second).lines() {
                if line.is_err() || writer.write_all(b"ok 9\n").is_err() {
                    return;
                }
            }
        });
        wait::until("kept", Duration::from_secs(20), || {
            (source.kept() > 3).then_some(())
        })
        .unwrap();
        let ledger = source.stop();
        answering.join().unwrap();

        let seqs: Vec<_> = ledger
            .entries
            .iter()
            .map(|entry| entry.reading.seq)
            .collect();
        assert_eq!(
            seqs,
            (1..=i64::try_from(seqs.len()).unwrap()).collect::<Vec<_>>()
        );
        assert_eq!(ledger.entries[0].fate, Fate::Kept);
        assert_eq!(ledger.entries[1].fate, Fate::Refused);
        let second = ledger
            .entries
            .iter()
            .position(|entry| entry.connection == 2)
            .unwrap();
        assert!(second >= 3);
        assert!(
            ledger.entries[2..second]
                .iter()
                .all(|entry| entry.fate == Fate::Unknown)
        );
        assert!(
            ledger.entries[second..]
                .iter()
                .all(|entry| entry.fate == Fate::Kept)
        );
    }
}
