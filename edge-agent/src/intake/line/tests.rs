use super::*;
use crate::handed::{self, Class, Handed, Handovers, NotKept};
use crate::intake::Account;
use shared::payload::line::Precision;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, ReadBuf};
use tokio::net::TcpStream;

/// A line intake that runs, and the keeper's end.
struct Running {
    address: std::net::SocketAddr,
    handovers: Handovers,
    account: Account,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

fn options(listen: Listen) -> Line {
    Line {
        listen,
        ack: true,
        precision: Precision::Ns,
        device_key: "device".to_owned(),
        connections_max: 2,
        line_bytes_max: 1_000,
        class: Class::default(),
    }
}

fn gw1() -> AgentId {
    AgentId::parse("gw1").unwrap()
}

async fn start(change: impl FnOnce(&mut Line)) -> Running {
    let mut options = options(Listen::Tcp("127.0.0.1:0".to_owned()));
    change(&mut options);
    let intake = LineIntake::bind(options, gw1()).await.unwrap();
    let address = intake.local_address().unwrap();
    let (intakes, handovers) = handed::channel();
    let account = Account::new("tcp");
    let entry = Entry::new(account.clone(), intakes, None);
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(intake.run(entry, stopped));
    Running {
        address,
        handovers,
        account,
        stop,
        tasks,
    }
}

fn settle(handed: Handed, outcome: Result<(), NotKept>) -> usize {
    let waits = handed.kept.expect("the source waits");
    // The source may be gone.
    let _ = waits.send(outcome);
    handed.readings.len()
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn lines_are_answered_once_kept_and_reading_goes_on_meanwhile() {
    let mut running = start(|_| {}).await;
    let stream = TcpStream::connect(running.address).await.unwrap();
    let mut stream = BufReader::new(stream);
    stream
        .get_mut()
        .write_all(b"t f=1 1\nt f=2 2\n")
        .await
        .unwrap();
    let first = running.handovers.receive().await.unwrap();
    assert_eq!(first.readings.len(), 2, "lines of one write go together");
    assert_eq!(first.readings[0].shape.device, "gw1");
    // The second group comes although the first is not kept yet; its answer waits for the first.
    stream
        .get_mut()
        .write_all(b"nonsense\nt f=3 3\n")
        .await
        .unwrap();
    let second = running.handovers.receive().await.unwrap();
    settle(second, Err(NotKept::BufferFull));
    settle(first, Ok(()));
    let mut answers = Vec::new();
    for _ in 0..4 {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        answers.push(line);
    }
    assert_eq!(answers[..2], ["ok 1\n", "ok 2\n"]);
    assert!(answers[2].starts_with("error 3 column "), "{answers:?}");
    assert!(
        answers[3].starts_with("error 4 the agent's buffer is full"),
        "{answers:?}"
    );
    let counters = &running.account.counters;
    assert_eq!(counters.readings.load(Ordering::Relaxed), 3);
    assert_eq!(counters.refused.load(Ordering::Relaxed), 1);
    assert_eq!(counters.not_kept.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_stop_answers_what_was_taken_and_ends() {
    let mut running = start(|_| {}).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(b"t f=1 1\nhalf a li").await.unwrap();
    let handed = running.handovers.receive().await.unwrap();
    running.stop.send(true).unwrap();
    settle(handed, Ok(()));
    assert_eq!(rest(&mut stream).await, "ok 1\n");
    running.tasks.join_next().await.unwrap().unwrap();
    assert!(TcpStream::connect(running.address).await.is_err());
    assert_eq!(
        running.account.counters.connections.load(Ordering::Relaxed),
        0
    );
}

#[tokio::test]
async fn a_keeper_that_ends_without_a_word_has_kept_nothing() {
    let mut running = start(|_| {}).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(b"t f=1 1\n").await.unwrap();
    drop(running.handovers.receive().await.unwrap());
    stream.shutdown().await.unwrap();
    assert!(
        rest(&mut stream)
            .await
            .starts_with("error 1 the agent is stopping")
    );
}

#[tokio::test]
async fn a_last_line_without_an_end_counts_and_without_ack_nothing_is_said() {
    let mut running = start(|options| options.ack = false).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(b"t f=NaN\nt f=1").await.unwrap();
    stream.shutdown().await.unwrap();
    let handed = running.handovers.receive().await.unwrap();
    assert!(handed.kept.is_none() && handed.readings.len() == 1);
    assert_eq!(rest(&mut stream).await, "");
    assert_eq!(running.account.counters.refused.load(Ordering::Relaxed), 1);
}

/// What a peer leaves that was killed with answers unread.
struct Reset;

impl AsyncRead for Reset {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }
}

#[tokio::test]
async fn half_a_line_of_a_connection_that_breaks_is_no_reading() {
    let (intakes, mut handovers) = handed::channel();
    let account = Account::new("tcp");
    let connection = connection::Connection {
        options: Arc::new(options(Listen::Stdin)),
        agent: gw1(),
        entry: Entry::new(account.clone(), intakes, None),
        peer: "a device".to_owned(),
        complaints: Arc::new(LineComplaints::new(Instant::now())),
    };
    // It would have been f=12.5 at 1700000000000000000.
    let stream = b"t f=1 1\nt f=12".chain(Reset);
    let (_stop, stopped) = watch::channel(false);
    let mut answers = Vec::new();
    // The keeper's end goes after the first hand-over: a second one would be answered otherwise.
    tokio::join!(
        connection.serve(stream, &mut answers, stopped),
        async move {
            let handed = handovers.receive().await.unwrap();
            assert_eq!(settle(handed, Ok(())), 1);
        }
    );
    let answers = String::from_utf8(answers).unwrap();
    assert!(
        answers.starts_with("ok 1\nerror 2 the connection broke"),
        "{answers}"
    );
    assert_eq!(account.counters.readings.load(Ordering::Relaxed), 1);
    assert_eq!(account.counters.refused.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn connections_over_the_limit_are_told_so() {
    let running = start(|options| options.connections_max = 1).await;
    let mut first = TcpStream::connect(running.address).await.unwrap();
    first.write_all(b"\n").await.unwrap();
    let mut answer = [0; 5];
    first.read_exact(&mut answer).await.unwrap();
    let mut second = TcpStream::connect(running.address).await.unwrap();
    let told = rest(&mut second).await;
    assert!(told.starts_with("error 0 too many connections"), "{told}");
}

/// Where a test finds what was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_device_that_reconnects_for_every_bad_line_does_not_fill_the_log() {
    const LINES: usize = 20;
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone());
    let _here = tracing::subscriber::set_default(subscriber.finish());
    let running = start(|_| {}).await;
    let begin = Instant::now();
    for _ in 0..LINES {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(b"t f=NaN\n").await.unwrap();
        stream.shutdown().await.unwrap();
        assert!(rest(&mut stream).await.starts_with("error 1 "));
    }
    // One a second, and one more for where seconds begin.
    let said_max = 2 + begin.elapsed().as_secs();
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let said = text.matches("is refused").count() as u64;
    assert!(
        (1..=said_max).contains(&said),
        "{said} of {said_max}: {text}"
    );
    let refused = running.account.counters.refused.load(Ordering::Relaxed);
    assert_eq!(refused, LINES as u64);
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let running = start(|_| {}).await;
    let taken = options(Listen::Tcp(running.address.to_string()));
    let error = LineIntake::bind(taken, gw1())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!("tcp://{}", running.address)),
        "{error}"
    );
    assert!(error.contains("another process"), "{error}");
}

#[tokio::test]
async fn a_socket_file_is_taken_over_from_the_dead_and_from_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a listener leaves its file");
    let options = || options(Listen::Unix(path.clone()));
    let intake = LineIntake::bind(options(), gw1()).await.unwrap();
    let error = LineIntake::bind(options(), gw1())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("lines.sock"), "{error}");

    let (intakes, mut handovers) = handed::channel();
    let entry = Entry::new(Account::new("unix"), intakes, None);
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(intake.run(entry, stopped));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"t f=1\n").await.unwrap();
    assert_eq!(settle(handovers.receive().await.unwrap(), Ok(())), 1);
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"ok 1\n");
    stop.send(true).unwrap();
    tasks.join_next().await.unwrap().unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    std::fs::write(&path, "precious").unwrap();
    let taken = options(Listen::Unix(path.clone()));
    assert!(LineIntake::bind(taken, gw1()).await.is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}
