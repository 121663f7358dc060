//! A TCP proxy that passes bytes (TLS too: it reads none of them) until it is told to hurt: cut,
//! slow down, swallow what one side says, or swallow everything.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::wait;

/// Bytes that are read at once, at most.
const PIECE_BYTES: usize = 16 << 10;
/// A limited link passes about so many pieces a second, so that it is slow and does not stutter.
const PIECES_PER_SECOND: u64 = 20;
/// Pieces that one way holds: what is on a link in its latency.
const PIECES_MAX: usize = 256;

/// A proxy that lives until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: Mutex<SocketAddr>,
    /// Both ends of every live connection, to cut them.
    live: Mutex<Vec<TcpStream>>,
    open: AtomicBool,
    refuse: AtomicBool,
    swallow_answers: AtomicBool,
    black_hole: AtomicBool,
    latency_ms: AtomicU64,
    /// Each way of each connection; 0 is no limit.
    bytes_per_second: AtomicU64,
    attempts: AtomicU64,
    connections: AtomicU64,
    swallowed_bytes: AtomicU64,
    request_bytes: AtomicU64,
}

/// Bytes on their way over the link.
struct Piece {
    bytes: Vec<u8>,
    arrives: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Answer,
}

impl Proxy {
    /// Listens on a free port of `address` and passes everything to `upstream`.
    pub fn start(address: IpAddr, upstream: SocketAddr) -> io::Result<Proxy> {
        let listener = TcpListener::bind((address, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream),
            live: Mutex::new(Vec::new()),
            open: AtomicBool::new(true),
            refuse: AtomicBool::new(false),
            swallow_answers: AtomicBool::new(false),
            black_hole: AtomicBool::new(false),
            latency_ms: AtomicU64::new(0),
            bytes_per_second: AtomicU64::new(0),
            attempts: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            swallowed_bytes: AtomicU64::new(0),
            request_bytes: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&shared);
        thread::Builder::new()
            .name("proxy".to_owned())
            .spawn(move || {
                for client in listener.incoming() {
                    if !accepting.open.load(Ordering::Relaxed) {
                        return;
                    }
                    accepting.attempts.fetch_add(1, Ordering::Relaxed);
                    // A client or upstream that is gone is what a proxy is for.
                    let _ = client.and_then(|client| pass(&accepting, client));
                }
            })?;
        Ok(Proxy { address, shared })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where new connections go.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        *lock(&self.shared.upstream) = upstream;
    }

    /// Cuts every connection there is.
    pub fn cut(&self) {
        for stream in lock(&self.shared.live).drain(..) {
            // Already closed is cut as well.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Closes new connections at once, as a dead host does.
    pub fn refuse(&self, refuse: bool) {
        self.shared.refuse.store(refuse, Ordering::Relaxed);
    }

    /// Drops what the upstream says. A TLS connection is broken from then on: cut it to go back.
    pub fn swallow_answers(&self, swallow: bool) {
        self.shared
            .swallow_answers
            .store(swallow, Ordering::Relaxed);
    }

    /// Swallows everything both ways and closes nothing, as a link does that died: both ends think
    /// that they are connected. What was swallowed is gone, so cut it to go back.
    pub fn black_hole(&self, on: bool) {
        self.shared.black_hole.store(on, Ordering::Relaxed);
    }

    /// Makes the link slow: so many bytes a second each way of each connection (`None`: as many as
    /// come), each of which arrives `latency` later. The sockets before it hold some more bytes, as
    /// a modem does.
    pub fn shape(&self, bytes_per_second: Option<u64>, latency: Duration) {
        let ms = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
        self.shared.latency_ms.store(ms, Ordering::Relaxed);
        self.shared
            .bytes_per_second
            .store(bytes_per_second.unwrap_or(0), Ordering::Relaxed);
    }

    /// Connections that were asked for so far, those that were refused included.
    pub fn attempts(&self) -> u64 {
        self.shared.attempts.load(Ordering::Relaxed)
    }

    /// Connections passed so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    pub fn swallowed_bytes(&self) -> u64 {
        self.shared.swallowed_bytes.load(Ordering::Relaxed)
    }

    /// Bytes from clients passed on so far.
    pub fn request_bytes(&self) -> u64 {
        self.shared.request_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.open.store(false, Ordering::Relaxed);
        self.cut();
        // Wakes the accepting thread, so that it sees that it is over.
        let _ = TcpStream::connect(self.address);
    }
}

fn pass(shared: &Arc<Shared>, client: TcpStream) -> io::Result<()> {
    if shared.refuse.load(Ordering::Relaxed) {
        return client.shutdown(Shutdown::Both);
    }
    let upstream = *lock(&shared.upstream);
    let server = TcpStream::connect_timeout(&upstream, Duration::from_secs(5))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    shared.connections.fetch_add(1, Ordering::Relaxed);
    lock(&shared.live).extend([client.try_clone()?, server.try_clone()?]);
    let ways = [
        (Direction::Request, client.try_clone()?, server.try_clone()?),
        (Direction::Answer, server, client),
    ];
    for (direction, from, to) in ways {
        let (sender, receiver) = mpsc::sync_channel(PIECES_MAX);
        let (reading, writing) = (Arc::clone(shared), Arc::clone(shared));
        let source = from.try_clone()?;
        thread::Builder::new()
            .name("proxy reads".to_owned())
            .spawn(move || {
                // Its end, however it comes, is seen by the writer once it has written the rest.
                let _ = read(&reading, direction, &source, &sender);
            })?;
        thread::Builder::new()
            .name("proxy writes".to_owned())
            .spawn(move || {
                let _ = write(&writing, direction, &to, &receiver);
                // Passed on by closing both sides.
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
            })?;
    }
    Ok(())
}

fn read(
    shared: &Shared,
    direction: Direction,
    mut from: &TcpStream,
    link: &SyncSender<Piece>,
) -> io::Result<()> {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let rate = shared.bytes_per_second.load(Ordering::Relaxed);
        let piece_bytes = match rate {
            0 => PIECE_BYTES,
            rate => usize::try_from(rate / PIECES_PER_SECOND)
                .unwrap_or(PIECE_BYTES)
                .clamp(1, PIECE_BYTES),
        };
        let count = from.read(&mut buffer[..piece_bytes])?;
        if count == 0 {
            return Ok(());
        }
        if shared.swallows(direction, count) {
            continue;
        }
        if rate > 0 {
            // So long the link is busy with them.
            thread::sleep(Duration::from_secs_f64(count as f64 / rate as f64));
        }
        let latency = Duration::from_millis(shared.latency_ms.load(Ordering::Relaxed));
        let piece = Piece {
            bytes: buffer[..count].to_vec(),
            arrives: wait::now() + latency,
        };
        if link.send(piece).is_err() {
            return Ok(());
        }
    }
}

fn write(
    shared: &Shared,
    direction: Direction,
    mut to: &TcpStream,
    link: &Receiver<Piece>,
) -> io::Result<()> {
    for piece in link {
        thread::sleep(piece.arrives.saturating_duration_since(wait::now()));
        let count = piece.bytes.len();
        // What was on its way when the link died does not arrive either.
        if shared.swallows(direction, count) {
            continue;
        }
        if direction == Direction::Request {
            shared
                .request_bytes
                .fetch_add(count as u64, Ordering::Relaxed);
        }
        to.write_all(&piece.bytes)?;
    }
    Ok(())
}

impl Shared {
    /// Whether these bytes are lost; then they are counted.
    fn swallows(&self, direction: Direction, count: usize) -> bool {
        let answers = self.swallow_answers.load(Ordering::Relaxed);
        let lost =
            self.black_hole.load(Ordering::Relaxed) || (direction == Direction::Answer && answers);
        if lost {
            self.swallowed_bytes
                .fetch_add(count as u64, Ordering::Relaxed);
        }
        lost
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn echo() -> SocketAddr {
        let listener = TcpListener::bind((LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || io::copy(&mut &stream, &mut &stream));
            }
        });
        address
    }

    const LIMIT: Duration = Duration::from_secs(60);
    /// No answer for so long is none.
    const SILENCE: Duration = Duration::from_millis(300);

    fn ask(stream: &mut TcpStream, text: &[u8], patience: Duration) -> io::Result<Vec<u8>> {
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(text)?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    }

    fn await_swallowed(proxy: &Proxy, bytes: u64) {
        let swallowed = || (proxy.swallowed_bytes() == bytes).then_some(());
        wait::until("what is swallowed", LIMIT, swallowed).unwrap();
    }

    #[test]
    fn passes_swallows_and_cuts() {
        let proxy = Proxy::start(LOCALHOST, echo()).unwrap();
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        assert_eq!(ask(&mut stream, b"one", LIMIT).unwrap(), b"one");

        proxy.swallow_answers(true);
        assert!(ask(&mut stream, b"two", SILENCE).is_err());
        await_swallowed(&proxy, 3);
        assert_eq!(proxy.request_bytes(), 6);

        proxy.cut();
        assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0, "cut");

        proxy.swallow_answers(false);
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        assert_eq!(ask(&mut stream, b"three", LIMIT).unwrap(), b"three");
        assert_eq!(proxy.connections(), 2);

        proxy.refuse(true);
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        assert!(ask(&mut stream, b"four", LIMIT).is_err());
    }

    #[test]
    fn a_dead_link_stays_open_and_says_nothing() {
        let proxy = Proxy::start(LOCALHOST, echo()).unwrap();
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        assert_eq!(ask(&mut stream, b"one", LIMIT).unwrap(), b"one");
        proxy.black_hole(true);
        let error = ask(&mut stream, b"two", SILENCE).unwrap_err();
        assert!(matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
        ));
        await_swallowed(&proxy, 3);
        assert_eq!(proxy.request_bytes(), 3);
        proxy.cut();
        assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0, "cut");
    }

    #[test]
    fn a_slow_link_takes_its_time() {
        let proxy = Proxy::start(LOCALHOST, echo()).unwrap();
        proxy.shape(Some(10_000), Duration::from_millis(50));
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        let start = wait::now();
        stream.write_all(&[7; 2_000]).unwrap();
        stream.read_exact(&mut [0; 2_000]).unwrap();
        // 0.2 s one way, while the other goes on beside it, and the latency twice.
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(290), "{took:?}");
        assert_eq!((proxy.attempts(), proxy.connections()), (1, 1));
    }
}
