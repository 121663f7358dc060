//! Many readings with times of their own, handed to a line intake as fast as it takes them: a day of
//! a device in seconds. `source` is the device that lives in the present.

use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crate::dice::Dice;
use crate::ledger::{Fate, Ledger, Reading};
use crate::source::fate;
use crate::sql::Client;

/// An agent that takes or answers nothing for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// Of a pad: six bits a character, which no coder makes much smaller.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const CHARACTERS_PER_ROLL: usize = 10;

/// The readings 1 to `count` of one device, a step apart.
#[derive(Debug, Clone)]
pub struct Bulk {
    pub device: String,
    pub count: i64,
    /// Time of the first one.
    pub start_ns: i64,
    pub step_ns: i64,
    /// Bytes of random text in each, so that few readings fill a buffer; none if 0.
    pub pad_bytes: usize,
}

/// What SQL says of the readings of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub rows: i64,
    /// Different numbers among them.
    pub distinct: i64,
    pub last: i64,
    /// Rows with another time or value than was sent.
    pub altered: i64,
}

impl Bulk {
    pub fn reading(&self, seq: i64) -> Reading {
        let time_ns = self.start_ns + (seq - 1) * self.step_ns;
        Reading::nth(&self.device, seq, time_ns)
    }

    /// Hands all over and waits until they are answered. From an intake that does not answer there
    /// is nothing to hear: then it returns once all were taken, and the fate of each is unknown.
    pub fn hand_over(&self, intake: SocketAddr) -> io::Result<Ledger> {
        let stream = TcpStream::connect(intake)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        let told = thread::scope(|scope| {
            let writer = scope.spawn(|| self.write(&stream));
            let told = answers(&stream);
            writer.join().expect("a writer does not panic")?;
            told
        })?;
        let mut ledger = Ledger::default();
        let mut told = told.into_iter();
        for seq in 1..=self.count {
            let fate = told.next().unwrap_or(Fate::Unknown);
            ledger.push(self.reading(seq), fate, 1);
        }
        Ok(ledger)
    }

    fn write(&self, stream: &TcpStream) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(64 << 10, stream);
        for seq in 1..=self.count {
            out.write_all(self.line(seq).as_bytes())?;
        }
        out.flush()?;
        // The intake has then all that there is, and closes once it is answered.
        stream.shutdown(Shutdown::Write)
    }

    fn line(&self, seq: i64) -> String {
        let reading = self.reading(seq);
        if self.pad_bytes == 0 {
            return reading.line();
        }
        let Reading {
            device,
            seq,
            value,
            time_ns,
        } = reading;
        let pad = pad(seq, self.pad_bytes);
        format!("fire,device={device} seq={seq}i,value={value:?},pad=\"{pad}\" {time_ns}\n")
    }

    /// What a node has of them.
    pub fn stored(&self, client: &Client) -> Result<Stored, String> {
        let Bulk {
            device,
            start_ns,
            step_ns,
            ..
        } = self;
        let statement = format!(
            "SELECT count(*) AS n, count(DISTINCT seq) AS d, max(seq) AS hi, \
             count(*) FILTER (WHERE value <> CAST(seq AS DOUBLE) / 4.0 - 1000.0 \
             OR CAST(time AS BIGINT) <> {start_ns} + (seq - 1) * {step_ns}) AS bad \
             FROM fire WHERE device = '{device}'"
        );
        let table = client.sql(&statement).map_err(|e| e.to_string())?;
        let number = |name: &str| -> Result<i64, String> {
            let cell = table.column(name).first().copied().flatten();
            let text = cell.ok_or_else(|| format!("no {name} in {table:?}"))?;
            text.parse::<i64>().map_err(|e| format!("{name}: {e}"))
        };
        Ok(Stored {
            rows: number("n")?,
            distinct: number("d")?,
            last: number("hi")?,
            altered: number("bad")?,
        })
    }

    /// All of them, once each, as they were sent.
    pub fn whole(&self) -> Stored {
        Stored {
            rows: self.count,
            distinct: self.count,
            last: self.count,
            altered: 0,
        }
    }

    /// How many pieces without a hole the numbers make that a node shows now. Each lane of a stream
    /// becomes visible in order, so while they arrive there are at most as many as lanes.
    pub fn pieces(&self, client: &Client) -> Result<i64, String> {
        let statement = format!(
            "SELECT count(*) AS n FROM (SELECT seq, lag(seq) OVER (ORDER BY seq) AS prev \
             FROM fire WHERE device = '{}') AS numbers WHERE prev IS NULL OR seq <> prev + 1",
            self.device
        );
        let text = client.value(&statement).map_err(|e| e.to_string())?;
        let text = text.ok_or("a count is never NULL")?;
        text.parse::<i64>().map_err(|e| format!("{text}: {e}"))
    }
}

fn answers(stream: &TcpStream) -> io::Result<Vec<Fate>> {
    let lines = BufReader::new(stream).lines();
    lines.map(|line| line.map(|line| fate(&line))).collect()
}

/// Text that is another one for each reading, and the same every time.
fn pad(seq: i64, bytes: usize) -> String {
    let mut dice = Dice::new(seq.unsigned_abs());
    let mut text = String::with_capacity(bytes + CHARACTERS_PER_ROLL);
    while text.len() < bytes {
        let mut bits = dice.roll(u64::MAX);
        for _ in 0..CHARACTERS_PER_ROLL {
            let at = usize::try_from(bits % 64).expect("below 64");
            text.push(char::from(ALPHABET[at]));
            bits /= 64;
        }
    }
    text.truncate(bytes);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn bulk(pad_bytes: usize) -> Bulk {
        Bulk {
            device: "d1".to_owned(),
            count: 3,
            start_ns: 1_000,
            step_ns: 10,
            pad_bytes,
        }
    }

    #[test]
    fn lines_have_their_own_times_and_pads() {
        assert_eq!(bulk(0).line(2), "fire,device=d1 seq=2i,value=-999.5 1010\n");
        let padded = bulk(25).line(2);
        let (start, rest) = padded.split_once("pad=\"").unwrap();
        assert_eq!(start, "fire,device=d1 seq=2i,value=-999.5,");
        assert_eq!(rest.find('"'), Some(25));
        assert_ne!(pad(1, 25), pad(2, 25));
    }

    #[test]
    fn answers_are_written_down_and_their_absence_is_unknown() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let intake = listener.local_addr().unwrap();
        let agent = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines().count();
            (&stream).write_all(b"ok 1\nerror 2 full\n").unwrap();
            lines
        });
        let ledger = bulk(0).hand_over(intake).unwrap();
        assert_eq!(agent.join().unwrap(), 3);
        let fates: Vec<_> = ledger.entries.iter().map(|entry| entry.fate).collect();
        assert_eq!(fates, [Fate::Kept, Fate::Refused, Fate::Unknown]);
        assert_eq!(ledger.entries[2].reading, bulk(0).reading(3));
    }
}
