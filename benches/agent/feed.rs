//! Devices: lines for an agent's intake.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const CONNECTIONS: u32 = 5;
const SERIES: u32 = 100;

/// Five devices that go on until dropped.
pub(crate) struct Steady {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Steady {
    /// One hundred series of one field over five connections, each series equally often.
    pub(crate) fn start(
        intake: SocketAddr,
        values_a_second: u32,
    ) -> Result<Steady, Box<dyn Error>> {
        let stop = Arc::new(AtomicBool::new(false));
        let pause = Duration::from_secs(1) / (values_a_second / SERIES).max(1);
        let mut threads = Vec::new();
        for nth in 0..CONNECTIONS {
            let stream = TcpStream::connect(intake)?;
            let stop = Arc::clone(&stop);
            threads.push(thread::spawn(move || {
                let own = SERIES / CONNECTIONS * nth..SERIES / CONNECTIONS * (nth + 1);
                rounds(stream, own, pause, &stop);
            }));
        }
        Ok(Steady { stop, threads })
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A device that failed has said so by readings that are missing.
            let _ = thread.join();
        }
    }
}

fn rounds(mut stream: TcpStream, series: std::ops::Range<u32>, pause: Duration, stop: &AtomicBool) {
    let (start, mut round) = (Instant::now(), 0_u32);
    while !stop.load(Ordering::Relaxed) {
        let mut text = String::new();
        for one in series.clone() {
            let value = 20.0 + f64::from((round * 7 + one) % 100) / 10.0;
            writeln!(text, "bench,device=d{one} v={value:.1}").expect("a string takes all");
        }
        if stream.write_all(text.as_bytes()).is_err() {
            return;
        }
        round += 1;
        thread::sleep((pause * round).saturating_sub(start.elapsed()));
    }
}

/// One device whose every reading is a batch of its own: a hundred a second, until dropped.
pub(crate) struct Urgent {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Urgent {
    pub(crate) fn start(intake: SocketAddr) -> Result<Urgent, Box<dyn Error>> {
        let mut stream = TcpStream::connect(intake)?;
        stream.set_nodelay(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (start, mut round) = (Instant::now(), 0_u32);
            let told = || told.load(Ordering::Relaxed);
            while !told() && stream.write_all(b"urgent,device=d v=1\n").is_ok() {
                round += 1;
                thread::sleep((Duration::from_millis(10) * round).saturating_sub(start.elapsed()));
            }
        });
        Ok(Urgent {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A device that failed has said so by readings that are missing.
            let _ = thread.join();
        }
    }
}

/// What a day of a hundred values a second is made of.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// Fields of one line.
    pub(crate) fields: u32,
    /// Devices that take turns, with a line each.
    pub(crate) devices: u32,
}

/// As many values as 100 a second make in this time, with their own times that end now, as fast as
/// they are taken. Returns in how many lines.
pub(crate) fn history(
    intake: SocketAddr,
    time: Duration,
    shape: Shape,
) -> Result<u64, Box<dyn Error>> {
    let mut stream = TcpStream::connect(intake)?;
    let lines = time.as_secs() * 100 / u64::from(shape.fields);
    // A device's lines lie as far apart as its turns.
    let turn_ms = u64::from(shape.fields * shape.devices) * 10;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let turns = lines / u64::from(shape.devices);
    let first_ms = u64::try_from(now.as_millis())? - turns * turn_ms;
    let mut text = String::new();
    for nth in 0..lines {
        let (turn, device) = (
            nth / u64::from(shape.devices),
            nth % u64::from(shape.devices),
        );
        write!(text, "history{},device=d{device} ", shape.fields)?;
        for field in 0..shape.fields {
            let comma = if field == 0 { "" } else { "," };
            let value = 20.0 + ((turn * 7 + device + u64::from(field) * 13) % 100) as f64 / 10.0;
            write!(text, "{comma}f{field}={value:.1}")?;
        }
        writeln!(text, " {}000000", first_ms + turn * turn_ms)?;
        if text.len() > 1 << 16 || nth + 1 == lines {
            stream.write_all(text.as_bytes())?;
            text.clear();
        }
    }
    Ok(lines)
}

/// Texts that do not compress, until `enough`.
pub(crate) fn ballast(
    intake: SocketAddr,
    mut enough: impl FnMut() -> bool,
) -> Result<(), Box<dyn Error>> {
    let mut stream = TcpStream::connect(intake)?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    while !enough() {
        let mut text = String::new();
        for _ in 0..256 {
            text.push_str("ballast,device=d t=\"");
            for _ in 0..64 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                write!(text, "{state:016x}")?;
            }
            text.push_str("\"\n");
        }
        stream.write_all(text.as_bytes())?;
    }
    Ok(())
}

/// Time from now until a line is answered by an intake that answers, which may not listen yet.
pub(crate) fn first_answer(
    intake: SocketAddr,
    limit: Duration,
) -> Result<Duration, Box<dyn Error>> {
    let start = Instant::now();
    let mut stream = loop {
        match TcpStream::connect(intake) {
            Ok(stream) => break stream,
            Err(error) if start.elapsed() > limit => return Err(error.into()),
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    };
    stream.set_nodelay(true)?;
    stream.write_all(b"first,device=d f=1\n")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    if answer.starts_with("ok") {
        Ok(start.elapsed())
    } else {
        Err(format!("the first line was answered {answer:?}").into())
    }
}
