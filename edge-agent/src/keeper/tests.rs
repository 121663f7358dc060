use std::path::Path;

use shared::batch::{Body, decode};
use shared::id::{BatchNumber, Epoch, Lane, TimeNs};
use shared::reading::{Reading, Value};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::batcher::Linger;
use crate::buffer::{Classes, Place};
use crate::handed::{Intakes, Kind, channel};
use crate::window::Hours;

/// A folder of its own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        let name = format!("tributary-keeper-{:016x}", crate::random::bits().unwrap());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A keeper whose servers do not answer.
fn options(folder: &Path, bytes_max: u64) -> KeeperOptions {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    KeeperOptions {
        agent: AgentId::parse("gw1").unwrap(),
        batch: BatchOptions {
            rows_max: 1_000,
            bytes_max: 1 << 17,
            linger: Linger::of_all(Duration::from_millis(5)),
        },
        buffer: BufferOptions {
            dir: folder.to_owned(),
            bytes_max,
            ram_bytes_max: 1 << 20,
            max_unsafe: Duration::from_secs(10),
            classes: Classes::default(),
            entries_near: 16,
        },
        window: WindowOptions {
            batches_max: 16,
            bytes_max: 1 << 20,
            backlog_share_percent: 25,
            bytes_per_second_max: 0,
            backlog_hours: Hours::ALWAYS,
        },
        servers: vec!["127.0.0.1:1".to_owned()],
        keep_alive: Duration::from_secs(5),
        tls: watch::channel(Arc::new(tls)).1,
        changes: watch::channel(None).1,
    }
}

struct Running {
    intakes: Intakes,
    stop: watch::Sender<bool>,
    status: watch::Receiver<Status>,
    run: JoinHandle<Result<(), KeeperError>>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test owns the task and waits for its end"
)]
fn start(folder: &Path, bytes_max: u64) -> Running {
    let (intakes, handovers) = channel();
    let keeper = Keeper::open(options(folder, bytes_max), handovers, Teller::new(None)).unwrap();
    let (stop, stopped) = watch::channel(false);
    let status = keeper.status();
    let run = tokio::spawn(keeper.run(stopped));
    Running {
        intakes,
        stop,
        status,
        run,
    }
}

impl Running {
    async fn hand_over(&self, text_bytes: usize) -> Result<(), NotKept> {
        let reading = |nth: u8| {
            let text = Value::Text(char::from(nth).to_string().repeat(text_bytes));
            Reading::new(
                "t".to_owned(),
                "d".to_owned(),
                Vec::new(),
                TimeNs(1),
                vec![("f".to_owned(), text)],
            )
        };
        let (kept, told) = oneshot::channel();
        let handed = Handed {
            readings: (b'A'..b'A' + 50).map(reading).collect(),
            kind: Kind::default(),
            kept: Some(kept),
        };
        self.intakes.hand_over(handed).await.unwrap();
        told.await.unwrap()
    }

    async fn stop(self) -> Status {
        self.stop.send_replace(true);
        self.run.await.unwrap().unwrap();
        self.status.borrow().clone()
    }
}

#[tokio::test]
async fn without_a_cluster_readings_are_kept_on_disk_over_a_restart() {
    let folder = Scratch::new();
    let running = start(&folder.0, 64 << 20);
    assert_eq!(running.hand_over(10).await, Ok(()));
    assert_eq!(running.hand_over(20).await, Ok(()));
    let status = running.stop().await;
    assert_eq!((status.pending_readings, status.unsafe_readings), (100, 0));
    let running = start(&folder.0, 64 << 20);
    let status = running.stop().await;
    assert_eq!((status.pending_readings, status.readings_total), (100, 0));
    assert!(!status.connected);
    assert!(status.last_error.is_some());
}

#[tokio::test]
async fn a_folder_has_one_keeper() {
    let folder = Scratch::new();
    let running = start(&folder.0, 64 << 20);
    let second = Keeper::open(options(&folder.0, 64 << 20), channel().1, Teller::new(None));
    assert!(matches!(second.err(), Some(KeeperError::Locked { .. })));
    running.stop().await;
}

#[tokio::test]
async fn a_full_buffer_refuses_whoever_can_wait_and_loses_nothing() {
    let folder = Scratch::new();
    let running = start(&folder.0, 8 << 20);
    let mut kept = 0;
    let refused = loop {
        match running.hand_over(16_000).await {
            Ok(()) => kept += 50,
            Err(why) => break why,
        }
        assert!(kept < 100_000, "it has to be full at some time");
    };
    assert_eq!(refused, NotKept::BufferFull);
    let status = running.stop().await;
    assert_eq!(
        (status.pending_readings, status.readings_lost_total),
        (kept, 0)
    );
}

/// Changes a byte in the first batch of data that the journal holds.
fn damage(folder: &Path) {
    let file = folder.join("journal/0000000000000001.journal");
    let mut bytes = std::fs::read(&file).unwrap();
    let starts = bytes.windows(2).enumerate();
    let mut batches = starts.filter(|(_, window)| *window == b"TB");
    // After the hello and the names.
    let (at, _) = batches.nth(2).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).unwrap();
}

/// Leaves a journal of which a whole file is missing.
fn damage_beyond_use(folder: &Path) {
    let journal = folder.join("journal");
    let name = |generation: u64| journal.join(format!("{generation:016x}.journal"));
    std::fs::rename(name(1), name(3)).unwrap();
}

fn hello(keeper: &Keeper) -> shared::batch::Hello {
    let hello = keeper.read(Place {
        epoch: keeper.buffer.epoch(),
        lane: Lane::Names,
        from: BatchNumber(1),
        to: BatchNumber(1),
    });
    let Body::Hello(hello) = decode(&hello.unwrap()).unwrap().body else {
        panic!("the first batch is the hello");
    };
    hello
}

async fn end(keeper: Keeper) {
    let (_stop, stopped) = watch::channel(true);
    keeper.run(stopped).await.unwrap();
}

#[tokio::test]
async fn a_damaged_record_is_put_aside_and_the_cluster_is_told() {
    let folder = Scratch::new();
    let running = start(&folder.0, 64 << 20);
    for _ in 0..3 {
        assert_eq!(running.hand_over(10).await, Ok(()));
    }
    let last = Epoch(running.stop().await.epoch);
    damage(&folder.0);
    let mut put_aside = Vec::new();
    for _ in 0..2 {
        let (_intakes, handovers) = channel();
        let keeper =
            Keeper::open(options(&folder.0, 64 << 20), handovers, Teller::new(None)).unwrap();
        assert!(folder.0.join("journal").is_dir());
        assert_eq!(keeper.buffer.readings_pending(), 100, "one batch of three");
        let trouble = keeper.account.last_error();
        assert!(trouble.contains("damaged in 1 places"), "{trouble}");
        let told = hello(&keeper);
        assert!(told.older_epochs.contains(&last));
        assert!(!told.last.unwrap().ended_cleanly);
        let gaps: Vec<_> = [1, 2, 3, 4]
            .into_iter()
            .filter_map(|number| {
                let held = keeper
                    .buffer
                    .sendable(last, Lane::Live, BatchNumber(number))?;
                let batch = decode(&keeper.read(held.place)?).unwrap();
                matches!(batch.body, Body::Gap(_)).then_some(number)
            })
            .collect();
        assert_eq!(gaps, [1], "the first batch of data");
        let files = std::fs::read_dir(folder.0.join("damaged")).unwrap();
        put_aside.push(files.count());
        Box::pin(end(keeper)).await;
    }
    assert_eq!(put_aside, [1, 1], "once");
}

/// Else the next start would find the sums and what they are of.
#[tokio::test]
async fn a_thinning_that_is_under_way_at_a_stop_is_ended() {
    let folder = Scratch::new();
    let open = || {
        let (_, handovers) = channel();
        Keeper::open(options(&folder.0, 64 << 20), handovers, Teller::new(None)).unwrap()
    };
    let readings = |count: i64| {
        let one = |nth| {
            let values = vec![("f".to_owned(), Value::Int(nth))];
            Reading::new(
                "t".to_owned(),
                "d".to_owned(),
                Vec::new(),
                TimeNs(nth),
                values,
            )
        };
        (0..count).map(one).collect::<Vec<_>>()
    };
    let mut keeper = open();
    let (now, wall, kind) = (keeper.clock.now(), keeper.wall(), Kind::default());
    let whole = keeper.batcher.collect(now, kind, readings(50)).unwrap();
    for one in whole {
        keeper.buffer.seal(one, 16, now, now, wall).unwrap();
    }
    let epoch = keeper.buffer.epoch();
    let first = |keeper: &Keeper, lane| keeper.buffer.sendable(epoch, lane, BatchNumber(1));
    let replaced = vec![first(&keeper, Lane::Live).unwrap().place];
    let rest = keeper.batcher.collect(now, kind, readings(2)).unwrap();
    let sealed = keeper.buffer.seal_thinned(rest, replaced, now, wall);
    assert_eq!(sealed.unwrap(), 1);
    Box::pin(end(keeper)).await;
    let keeper = open();
    let read = |lane| {
        let held = first(&keeper, lane).unwrap();
        decode(&keeper.read(held.place).unwrap()).unwrap().body
    };
    assert!(matches!(read(Lane::Live), Body::Gap(gap) if gap.readings == 50));
    assert!(matches!(read(Lane::Backlog), Body::Data(_)));
}

/// Damages the end of the first file of several, its last batch and the seal behind it, and what
/// would spare a start to read that file. Returns the number of the batch and the count of places.
fn damage_end(folder: &Path) -> (BatchNumber, usize) {
    let journal = folder.join(folder::JOURNAL);
    let storage = journal::DiskStorage::open(&journal).unwrap();
    let files = journal::inspect::files(storage.as_ref()).unwrap();
    let (mut number, mut places) = (BatchNumber::NONE, 1);
    for (generation, name) in files {
        let (mut last, mut summaries) = (None, Vec::new());
        let visit = &mut |record: journal::inspect::RecordInfo, _: &[u8]| {
            if crate::buffer::sums_up(record.head) {
                summaries.push(record.offset + 40);
            } else if !record.is_own() {
                last = Some((record.offset + 40, BatchNumber(record.head.number)));
            }
        };
        let described = journal::inspect::describe(storage.as_ref(), &name, visit).unwrap();
        places += summaries.len();
        if let Some((offset, last)) = last.filter(|_| generation == 1) {
            assert!(described.sealed);
            number = last;
            summaries.extend([offset, described.end - 1]);
        }
        let mut bytes = std::fs::read(journal.join(&name)).unwrap();
        for at in summaries {
            bytes[usize::try_from(at).unwrap()] ^= 1;
        }
        std::fs::write(journal.join(&name), bytes).unwrap();
    }
    (number, places)
}

#[tokio::test]
async fn damage_at_the_end_of_a_file_costs_what_it_hit() {
    let folder = Scratch::new();
    let running = start(&folder.0, 64 << 20);
    for _ in 0..6 {
        assert_eq!(running.hand_over(16_000).await, Ok(()));
    }
    let status = running.stop().await;
    let (last, batches) = (Epoch(status.epoch), status.batches_sealed_total);
    let (number, places) = damage_end(&folder.0);
    assert!(places > 1, "what sums up was there");
    let (_intakes, handovers) = channel();
    let keeper = Keeper::open(options(&folder.0, 64 << 20), handovers, Teller::new(None)).unwrap();
    let trouble = keeper.account.last_error();
    let told = format!("damaged in {places} places");
    assert!(trouble.contains(&told), "{trouble}");
    let files = std::fs::read_dir(folder.0.join("damaged")).unwrap();
    assert_eq!(files.count(), places);
    let pending = keeper.buffer.readings_pending();
    assert!(
        (200..300).contains(&pending),
        "{pending} in {batches} batches"
    );
    let held = [Lane::Live, Lane::Backlog]
        .into_iter()
        .find_map(|lane| keeper.buffer.sendable(last, lane, number));
    let held = held.unwrap();
    assert_eq!(held.place.from, number);
    let batch = decode(&keeper.read(held.place).unwrap()).unwrap();
    assert!(matches!(batch.body, Body::Gap(_)));
    Box::pin(end(keeper)).await;
}

#[tokio::test]
async fn a_buffer_beyond_use_is_moved_aside_and_the_cluster_is_told() {
    let folder = Scratch::new();
    let running = start(&folder.0, 64 << 20);
    for _ in 0..3 {
        assert_eq!(running.hand_over(10).await, Ok(()));
    }
    running.stop().await;
    damage_beyond_use(&folder.0);
    let (_intakes, handovers) = channel();
    let keeper = Keeper::open(options(&folder.0, 64 << 20), handovers, Teller::new(None)).unwrap();
    let epoch = keeper.buffer.epoch();
    let aside = folder.0.join(format!("journal-damaged-{epoch}"));
    assert!(aside.join("0000000000000003.journal").is_file());
    let trouble = keeper.account.last_error();
    assert!(trouble.contains(aside.to_str().unwrap()), "{trouble}");
    let told = hello(&keeper);
    assert!(!told.last.unwrap().ended_cleanly);
    assert_eq!(told.older_epochs, []);
    Box::pin(end(keeper)).await;
    let running = start(&folder.0, 64 << 20);
    assert_eq!(running.hand_over(10).await, Ok(()));
    assert_eq!(running.stop().await.pending_readings, 50);
}

#[tokio::test]
async fn what_keeps_being_damaged_is_not_moved_aside_for_ever() {
    let folder = Scratch::new();
    for nth in 0..4 {
        std::fs::create_dir_all(folder.0.join(format!("journal-damaged-{nth}"))).unwrap();
    }
    let running = start(&folder.0, 64 << 20);
    for _ in 0..3 {
        assert_eq!(running.hand_over(10).await, Ok(()));
    }
    running.stop().await;
    damage_beyond_use(&folder.0);
    let opened = Keeper::open(options(&folder.0, 64 << 20), channel().1, Teller::new(None));
    assert!(matches!(opened.err(), Some(KeeperError::Buffer { .. })));
    assert!(folder.0.join("journal").is_dir());
}

#[tokio::test]
async fn settings_change_while_it_runs_and_a_new_promise_begins_an_epoch() {
    let folder = Scratch::new();
    let (change, changes) = watch::channel(None);
    let options = KeeperOptions {
        changes,
        ..options(&folder.0, 64 << 20)
    };
    let settings = Settings {
        batch: options.batch,
        window: options.window,
        ram_bytes_max: options.buffer.ram_bytes_max,
        max_unsafe: Duration::from_secs(1),
        servers: vec!["127.0.0.2:1".to_owned()],
        keep_alive: options.keep_alive,
    };
    let keeper = Keeper::open(options, channel().1, Teller::new(None)).unwrap();
    let mut status = keeper.status();
    let (stop, stopped) = watch::channel(false);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(keeper.run(stopped));
    let first = status
        .wait_for(|status| status.epoch != 0)
        .await
        .unwrap()
        .epoch;
    change.send_replace(Some(settings));
    let begun = status.wait_for(|status| status.epoch != first).await;
    assert_ne!(begun.unwrap().epoch, first);
    stop.send_replace(true);
    tasks.join_next().await.unwrap().unwrap().unwrap();
}
