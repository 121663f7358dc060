//! T3: the cluster is away for a day, then comes back, over a fast link and over a slow one, while
//! new readings go on. The day comes whole and in order, as fast as the link allows; memory stays
//! flat.

use std::time::Duration;

use tests::agent::{AgentUnderTest, Options};
use tests::bulk::Bulk;
use tests::cluster::ClusterUnderTest;
use tests::ledger::Fate;
use tests::long;
use tests::oracle;
use tests::proxy::Proxy;
use tests::source::Source;
use tests::wait;

use crate::agent_kill_storm::links;

/// 2026-01-01, at 100 readings a second.
const START_NS: i64 = 1_767_225_600_000_000_000;
const STEP_NS: i64 = 10_000_000;
const DRAIN_LIMIT: Duration = Duration::from_secs(180);
/// The link is back, the agent may have to rest before it sees that, and the tail is a sync.
const COME_BACK: Duration = Duration::from_secs(30);
/// What memory may grow by with a backlog: batches in RAM, twice, and an allocator's habits.
const RSS_GROWTH_BYTES_MAX: u64 = 48 << 20;
/// Pieces of a series that may be visible before all is: live and backlog become visible in order,
/// each for itself.
const PIECES_MAX: i64 = 2;

#[test]
fn an_outage_comes_back_whole_and_in_order_while_new_readings_go_on() {
    // 24 hours.
    let readings = long::or(40_000, 8_640_000);
    let mut cluster = ClusterUnderTest::start(3);
    let links = links(&cluster);
    let options = Options {
        servers: links.iter().map(Proxy::address).collect(),
        linger: Duration::from_millis(100),
        ..Options::for_cluster("gw1", &cluster)
    };
    let agent = AgentUnderTest::start_with(&cluster, &options);
    let idle_bytes = agent.rss_bytes().unwrap();

    let fast = outage(&agent, &links, "fast", readings);
    links.iter().for_each(|link| link.refuse(false));
    let live = Source::start(agent.line, "live-1", 50);
    let drained = drain(&cluster, &agent, &fast, readings);
    report("unlimited", &agent, &drained, idle_bytes);
    assert!(drained.took <= Duration::from_secs(long::or(120, 15)));
    let first_live = live.stop();

    let slow = outage(&agent, &links, "slow", readings);
    let backlog_bytes = agent.number("buffer_bytes").unwrap();
    // In the long run 1 Mbit/s; in the usual one as slow as makes twenty seconds, and not so slow that
    // the handshake takes longer than a node waits for it.
    let rate = long::or((backlog_bytes / 20.0).max(8_000.0), 125_000.0);
    for link in &links {
        link.shape(Some(whole(rate)), Duration::from_millis(25));
        link.refuse(false);
    }
    let live = Source::start(agent.line, "live-2", 20);
    let drained = drain(&cluster, &agent, &slow, readings);
    report("limited", &agent, &drained, idle_bytes);
    let link_time = Duration::from_secs_f64(backlog_bytes / rate);
    assert!(
        drained.took <= link_time.mul_f64(1.2) + COME_BACK,
        "{:?} for what the link takes {link_time:?} for",
        drained.took
    );
    let ledgers = [first_live, live.stop()];

    agent.wait_drained(DRAIN_LIMIT).unwrap();
    cluster.wait_ready().unwrap();
    for node in 0..3 {
        let client = cluster.client(node);
        for day in [&fast, &slow] {
            assert_eq!(day.stored(&client).unwrap(), day.whole());
        }
        let statement = format!("{} WHERE device LIKE 'live-%'", oracle::ROWS_SQL);
        let rows = oracle::rows(&client.sql(&statement).unwrap()).unwrap();
        let findings = oracle::check(&ledgers, &rows, 0);
        oracle::assert_clean(&format!("live readings, read at node {node}"), &findings);
        let gaps = client.sql("SELECT * FROM gaps").unwrap();
        assert!(gaps.rows.is_empty(), "nothing was lost: {:?}", gaps.rows);
    }
}

/// Cuts all links and hands over a day of readings, each of which is told to be kept.
fn outage(agent: &AgentUnderTest, links: &[Proxy], device: &str, readings: i64) -> Bulk {
    for link in links {
        link.refuse(true);
        link.cut();
    }
    let day = Bulk {
        device: device.to_owned(),
        count: readings,
        start_ns: START_NS,
        step_ns: STEP_NS,
        pad_bytes: 0,
    };
    let ledger = day.hand_over(agent.line).unwrap();
    let kept = i64::try_from(ledger.count(Fate::Kept)).unwrap();
    assert_eq!(kept, readings, "{}", agent.tail());
    wait::until("the account of the outage", COME_BACK, || {
        let pending = agent.number("pending_readings").ok()?;
        (pending >= readings as f64).then_some(())
    })
    .unwrap();
    day
}

struct Drained {
    took: Duration,
    rss_bytes_max: u64,
}

/// Waits until the cluster has the day, and looks at order and memory meanwhile.
fn drain(cluster: &ClusterUnderTest, agent: &AgentUnderTest, day: &Bulk, readings: i64) -> Drained {
    // What new readings leave open at any moment.
    const LIVE_PENDING_MAX: f64 = 500.0;
    let client = cluster.client(0);
    let start = wait::now();
    let mut rss_bytes_max = 0;
    // Each look costs a query over what is there already.
    let mut looks = 0;
    wait::until(&format!("{} is drained", day.device), DRAIN_LIMIT, || {
        rss_bytes_max = rss_bytes_max.max(agent.rss_bytes().unwrap_or(0));
        if looks < 10 && readings < 1_000_000 {
            looks += 1;
            // Before the first row there is no table to ask.
            let pieces = day.pieces(&client).unwrap_or(0);
            assert!(pieces <= PIECES_MAX, "out of order: {pieces} pieces");
        }
        let pending = agent.number("pending_readings").ok()?;
        (pending < LIVE_PENDING_MAX).then_some(())
    })
    .unwrap_or_else(|late| panic!("{late}; {:?}\n{}", agent.status(), agent.tail()));
    Drained {
        took: start.elapsed(),
        rss_bytes_max,
    }
}

fn report(what: &str, agent: &AgentUnderTest, drained: &Drained, idle_bytes: u64) {
    let Drained {
        took,
        rss_bytes_max,
    } = drained;
    let ack_ms_p99 = agent.number("ack_ms_p99");
    eprintln!(
        "{what}: drained in {took:?}, memory {idle_bytes} bytes idle and {rss_bytes_max} at most, \
         acknowledged within {ack_ms_p99:?} ms (p99)"
    );
    assert!(
        *rss_bytes_max <= idle_bytes + RSS_GROWTH_BYTES_MAX,
        "memory grows with the backlog"
    );
}

/// A rate as the proxy takes it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate of a test is a small positive number"
)]
fn whole(rate: f64) -> u64 {
    rate.max(1.0) as u64
}
