use super::*;
use crate::config::Csv;
use crate::handed::{self, Class, Handovers, Intakes};
use crate::intake::Account;
use shared::payload::line::Precision;
use tokio::task::JoinSet;

const ROWS: &str = "time,speed\n1,10\n2,nan\n3,30\n4,40\n";

struct Bench {
    folder: tempfile::TempDir,
    account: Account,
    intakes: Intakes,
    handovers: Handovers,
}

fn bench(text: &str) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("truck.csv"), text).unwrap();
    let (intakes, handovers) = handed::channel();
    Bench {
        folder,
        account: Account::new("replay"),
        intakes,
        handovers,
    }
}

impl Bench {
    fn start(&self, speed: f64, stop: &watch::Sender<bool>) -> JoinSet<()> {
        let options = Replay {
            file: self.folder.path().join("truck.csv"),
            format: ReplayFormat::Csv(Csv {
                table: "truck".to_owned(),
                time_column: "time".to_owned(),
                device_column: "device".to_owned(),
                tags: Vec::new(),
                texts: Vec::new(),
            }),
            speed,
            precision: Precision::S,
            class: Class::default(),
        };
        let agent = AgentId::parse("gw1").unwrap();
        let data_dir = self.folder.path().to_owned();
        let entry = Entry::new(self.account.clone(), self.intakes.clone(), None);
        let mut tasks = JoinSet::new();
        tasks.spawn(run(options, agent, data_dir, entry, stop.subscribe()));
        tasks
    }

    fn position(&self) -> Position {
        position::Place::new(self.folder.path(), std::path::Path::new("truck.csv"))
            .load()
            .unwrap()
    }

    /// Takes the next hand-over and keeps it, or not; gives the times in it, in seconds.
    async fn take(&mut self, outcome: Result<(), NotKept>) -> Vec<i64> {
        let handed = self.handovers.receive().await.unwrap();
        handed.kept.unwrap().send(outcome).unwrap();
        let seconds = |reading: &Reading| reading.time.0 / 1_000_000_000;
        handed.readings.iter().map(seconds).collect()
    }
}

#[tokio::test]
async fn a_file_is_replayed_once_and_its_bad_rows_are_counted() {
    let mut bench = bench(ROWS);
    let (stop, _) = watch::channel(false);
    let mut tasks = bench.start(0.0, &stop);
    assert_eq!(bench.take(Ok(())).await, [1, 3, 4]);
    tasks.join_next().await.unwrap().unwrap();
    assert_eq!(bench.account.counters.refused.load(Ordering::Relaxed), 1);
    assert_eq!(bench.position().bytes, ROWS.len() as u64);

    // Again: there is nothing left. Then the file grows.
    let mut tasks = bench.start(0.0, &stop);
    tasks.join_next().await.unwrap().unwrap();
    assert!(bench.handovers.try_receive().is_none());
    let longer = format!("{ROWS}5,50");
    std::fs::write(bench.folder.path().join("truck.csv"), longer).unwrap();
    let mut tasks = bench.start(0.0, &stop);
    assert_eq!(bench.take(Ok(())).await, [5]);
    tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn what_was_not_kept_comes_again_after_a_restart() {
    let mut bench = bench(ROWS);
    let (stop, _) = watch::channel(false);
    let mut tasks = bench.start(0.0, &stop);
    assert_eq!(bench.take(Err(NotKept::Stopping)).await, [1, 3, 4]);
    tasks.join_next().await.unwrap().unwrap();
    assert_eq!(bench.position(), Position::default());
    let mut tasks = bench.start(0.0, &stop);
    assert_eq!(bench.take(Ok(())).await, [1, 3, 4]);
    tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_full_buffer_is_waited_for() {
    let mut bench = bench(ROWS);
    let (stop, _) = watch::channel(false);
    let mut tasks = bench.start(0.0, &stop);
    assert_eq!(bench.take(Err(NotKept::BufferFull)).await, [1, 3, 4]);
    assert_eq!(bench.take(Ok(())).await, [1, 3, 4]);
    tasks.join_next().await.unwrap().unwrap();
    assert_eq!(bench.position().bytes, ROWS.len() as u64);
}

#[tokio::test]
async fn what_the_cluster_refuses_for_ever_does_not_come_again() {
    let mut bench = bench(ROWS);
    let (stop, _) = watch::channel(false);
    let mut tasks = bench.start(0.0, &stop);
    assert_eq!(bench.take(Err(NotKept::Refused)).await, [1, 3, 4]);
    tasks.join_next().await.unwrap().unwrap();
    assert_eq!(bench.position().bytes, ROWS.len() as u64);
    assert!(bench.handovers.try_receive().is_none());
}

#[tokio::test(start_paused = true)]
async fn readings_come_at_their_pace_and_a_stop_goes_back_to_what_is_not_due() {
    let mut bench = bench(ROWS);
    let (stop, _) = watch::channel(false);
    let start = Instant::now();
    let mut tasks = bench.start(0.5, &stop);
    assert_eq!(bench.take(Ok(())).await, [1]);
    assert_eq!(bench.take(Ok(())).await, [3]);
    // Two recorded seconds at half speed.
    let elapsed = start.elapsed();
    assert!((4.0..4.1).contains(&elapsed.as_secs_f64()), "{elapsed:?}");
    stop.send(true).unwrap();
    tasks.join_next().await.unwrap().unwrap();
    let behind_3 = ROWS.find("4,40").unwrap() as u64;
    assert_eq!(bench.position().bytes, behind_3);

    stop.send_replace(false);
    let mut tasks = bench.start(0.5, &stop);
    assert_eq!(bench.take(Ok(())).await, [4]);
    tasks.join_next().await.unwrap().unwrap();
}

#[test]
fn pace_is_by_the_first_reading_and_the_past_is_due() {
    let now = Instant::now();
    let mut pace = Pace {
        speed: 10.0,
        start: None,
    };
    let second = 1_000_000_000;
    assert_eq!(pace.wait(TimeNs(100 * second), now), Duration::ZERO);
    assert_eq!(
        pace.wait(TimeNs(101 * second), now),
        Duration::from_millis(100)
    );
    assert_eq!(pace.wait(TimeNs(99 * second), now), Duration::ZERO);
    let later = now + Duration::from_millis(60);
    assert_eq!(
        pace.wait(TimeNs(101 * second), later),
        Duration::from_millis(40)
    );
    pace.speed = f64::MIN_POSITIVE;
    assert_eq!(pace.wait(TimeNs(i64::MAX), now), Duration::MAX);
}
