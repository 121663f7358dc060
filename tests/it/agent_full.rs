//! T4: the buffer is full, by far. It never takes more of the disk than it was given. By default the
//! oldest readings go, and gap records list exactly as many as are missing; a source that waits for
//! an answer is refused instead, and nothing that it was told is kept gets lost.

use std::thread;
use std::time::Duration;

use tests::agent::{AgentUnderTest, Options};
use tests::bulk::Bulk;
use tests::cluster::ClusterUnderTest;
use tests::ledger::{Fate, Ledger};
use tests::long;
use tests::oracle;
use tests::proxy::Proxy;
use tests::wait;

/// The least that the configuration allows.
const BUFFER_BYTES_MAX: u64 = 16 << 20;
/// Bytes of a reading, nearly all of it text that does not get smaller.
const READING_BYTES: i64 = 8 << 10;
const FILL_LIMIT: Duration = Duration::from_secs(600);
const DRAIN_LIMIT: Duration = Duration::from_secs(180);

#[test]
fn the_oldest_go_and_gap_records_list_exactly_what_is_missing() {
    let (cluster, link) = cluster_behind_a_link();
    let agent = start(&cluster, &link, false);
    let bulk = bulk("sheds", long::or(3, 10));
    let ledger = fill(&agent, &bulk);
    let taken = wait::until("the account of all readings", DRAIN_LIMIT, || {
        let taken = agent.number("readings_total").ok()?;
        (taken >= bulk.count as f64).then_some(taken)
    });
    assert_eq!(taken, Ok(bulk.count as f64));
    assert_eq!(agent.number("not_kept_total"), Ok(0.0));

    link.refuse(false);
    agent.wait_drained(DRAIN_LIMIT).unwrap();
    let lost = listed(&cluster, "reason = 'overflow'");
    assert!(lost > bulk.count / 2, "{lost}: the buffer was never full");
    assert_eq!(lost, listed(&cluster, "TRUE"), "nothing else was lost");
    assert_eq!(agent.number("readings_lost_total"), Ok(lost as f64));
    let stored = check(&cluster, &ledger, lost);
    assert_eq!(stored + lost, bulk.count, "rows and gap records");
    let newest = bulk.stored(&cluster.client(0)).unwrap().last;
    assert_eq!(newest, bulk.count, "the oldest go, not the newest");
}

#[test]
fn a_source_that_waits_is_refused_and_nothing_kept_is_lost() {
    let (cluster, link) = cluster_behind_a_link();
    let agent = start(&cluster, &link, true);
    let bulk = bulk("waits", long::or(2, 10));
    let ledger = fill(&agent, &bulk);
    let [kept, refused, unknown] =
        [Fate::Kept, Fate::Refused, Fate::Unknown].map(|fate| ledger.count(fate));
    eprintln!("{kept} kept, {refused} refused, {unknown} without an answer");
    assert_eq!(unknown, 0, "every line is answered");
    assert!(kept > 100 && refused > 100);

    link.refuse(false);
    agent.wait_drained(DRAIN_LIMIT).unwrap();
    assert_eq!(listed(&cluster, "TRUE"), 0, "no loss to list");
    let stored = check(&cluster, &ledger, 0);
    assert_eq!(usize::try_from(stored), Ok(kept));

    // With room again it takes readings again.
    let more = Bulk {
        device: "after".to_owned(),
        count: 10,
        ..bulk
    };
    let answered = more.hand_over(agent.line).unwrap();
    assert_eq!(answered.count(Fate::Kept), 10);
}

/// One node, and a link to it that refuses.
fn cluster_behind_a_link() -> (ClusterUnderTest, Proxy) {
    let cluster = ClusterUnderTest::start(1);
    let link = Proxy::start(cluster.address(), cluster.nodes()[0].mqtt).unwrap();
    link.refuse(true);
    (cluster, link)
}

fn start(cluster: &ClusterUnderTest, link: &Proxy, line_ack: bool) -> AgentUnderTest {
    let options = Options {
        servers: vec![link.address()],
        line_ack,
        buffer: format!("bytes_max = {BUFFER_BYTES_MAX}\nram_bytes_max = 1048576"),
        ..Options::for_cluster("gw1", cluster)
    };
    AgentUnderTest::start_with(cluster, &options)
}

/// So many times what the buffer may take.
fn bulk(device: &str, times: i64) -> Bulk {
    let bytes = times * i64::try_from(BUFFER_BYTES_MAX).unwrap();
    Bulk {
        device: device.to_owned(),
        count: bytes / READING_BYTES,
        start_ns: 1_767_225_600_000_000_000,
        step_ns: 1_000_000_000,
        pad_bytes: usize::try_from(READING_BYTES).unwrap(),
    }
}

/// Hands all readings over and watches the disk meanwhile.
fn fill(agent: &AgentUnderTest, bulk: &Bulk) -> Ledger {
    let intake = agent.line;
    thread::scope(|scope| {
        let source = scope.spawn(move || bulk.hand_over(intake));
        let mut disk_bytes_max = 0;
        wait::until("all is handed over", FILL_LIMIT, || {
            disk_bytes_max = disk_bytes_max.max(agent.disk_bytes());
            source.is_finished().then_some(())
        })
        .unwrap();
        eprintln!("{disk_bytes_max} bytes of the disk, {BUFFER_BYTES_MAX} are allowed");
        assert!(disk_bytes_max <= BUFFER_BYTES_MAX, "over its bound");
        source.join().expect("a source does not panic").unwrap()
    })
}

/// Readings that gap records list.
fn listed(cluster: &ClusterUnderTest, condition: &str) -> i64 {
    let statement = format!("SELECT coalesce(sum(readings), 0) AS n FROM gaps WHERE {condition}");
    let listed = cluster.client(0).value(&statement).unwrap();
    listed.expect("a sum with a default").parse().unwrap()
}

/// Compares row by row; how many there are.
fn check(cluster: &ClusterUnderTest, ledger: &Ledger, lost: i64) -> i64 {
    let table = cluster.client(0).sql(oracle::ROWS_SQL).unwrap();
    let rows = oracle::rows(&table).unwrap();
    let listed = u64::try_from(lost).unwrap();
    let findings = oracle::check(std::slice::from_ref(ledger), &rows, listed);
    oracle::assert_clean("a full buffer", &findings);
    i64::try_from(rows.len()).unwrap()
}
