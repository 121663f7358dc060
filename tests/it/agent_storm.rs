//! T9: every node goes away and comes back at once, in front of a fleet. The agents spread out while
//! they wait, all of them come back, and what they read meanwhile arrives once.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tests::agent::{Agent, Options};
use tests::bulk::Bulk;
use tests::cluster::ClusterUnderTest;
use tests::long;
use tests::proxy::Proxy;
use tests::wait;

use crate::agent_kill_storm::links;

const LIMIT: Duration = Duration::from_secs(240);
const BACK_WITHIN: Duration = Duration::from_secs(180);
const LIVE_AGAIN_WITHIN: Duration = Duration::from_secs(210);
/// A reading is live if its batch is acknowledged within so long of its coming.
const LIVE_MS_MAX: f64 = 5_000.0;
const STEP_NS: i64 = 100_000_000;

#[test]
fn a_fleet_comes_back_without_a_stampede_and_loses_nothing() {
    let count: u32 = long::or(50, 1_000);
    // Ten a second, through the whole story.
    let readings: i64 = long::or(250, 1_200);
    let outage = Duration::from_secs(long::or(6, 30));
    let mut cluster = ClusterUnderTest::start(3);
    let links = links(&cluster);
    let mut fleet: Vec<Agent> = (0..count)
        .map(|nth| member(&cluster, &links, nth, readings))
        .collect();
    for agent in &mut fleet {
        agent.spawn().unwrap();
    }
    for agent in &mut fleet {
        agent.wait_up().unwrap();
    }
    await_all("connected at first", &fleet, LIMIT, is_connected);

    let before = attempts(&links);
    cluster.kill_all();
    if let Err(name) = wait::never(outage, || ended(&mut fleet)) {
        panic!("agent {name} ended by itself");
    }
    let asked = attempts(&links) - before;
    eprintln!("{asked} connections asked for by {count} agents in an outage of {outage:?}");
    // Full jitter below 0.1 s, doubled up to 5 s: about seven in the first six seconds, then one in
    // two and a half.
    let each_max = 10.0 + outage.as_secs_f64() / 2.5 * 1.5;
    assert!(asked as f64 <= each_max * f64::from(count), "a stampede");

    for node in 0..3 {
        cluster.run(node).unwrap();
    }
    cluster.wait_ready().unwrap();
    let start = wait::now();
    await_all("connected again", &fleet, BACK_WITHIN, is_connected);
    let back = start.elapsed();
    let left = LIVE_AGAIN_WITHIN.saturating_sub(back);
    await_all("live again", &fleet, left, |agent| {
        agent
            .number("oldest_unacked_ms")
            .is_ok_and(|ms| ms < LIVE_MS_MAX)
    });
    eprintln!("all back after {back:?}, live after {:?}", start.elapsed());

    await_all("drained, at the end of its file", &fleet, LIMIT, |agent| {
        agent.has_sent_all(readings as f64)
    });
    check(&cluster, count, readings);
}

/// An agent with a file of readings that it gives at the pace at which they were made.
fn member(cluster: &ClusterUnderTest, links: &[Proxy], nth: u32, readings: i64) -> Agent {
    let name = format!("gw{nth}");
    let file = replay_file(cluster, &name, readings);
    // Not all of them ask the same node first.
    let first = usize::try_from(nth).unwrap() % links.len();
    let (behind, ahead) = links.split_at(first);
    let options = Options {
        servers: ahead.iter().chain(behind).map(Proxy::address).collect(),
        line: false,
        linger: Duration::from_secs(1),
        buffer: "bytes_max = 16777216".to_owned(),
        tables: format!(
            "[[intake.replay]]\nfile = \"{}\"\nspeed = 1.0",
            file.display()
        ),
        ..Options::for_cluster(&name, cluster)
    };
    Agent::prepare(cluster, &options).unwrap()
}

fn replay_file(cluster: &ClusterUnderTest, name: &str, readings: i64) -> PathBuf {
    let bulk = Bulk {
        device: name.to_owned(),
        count: readings,
        start_ns: 1_767_225_600_000_000_000,
        step_ns: STEP_NS,
        pad_bytes: 0,
    };
    let file = cluster.folder().join(format!("{name}.lp"));
    let lines: String = (1..=readings).map(|seq| bulk.reading(seq).line()).collect();
    fs::write(&file, lines).unwrap();
    file
}

fn attempts(links: &[Proxy]) -> u64 {
    links.iter().map(Proxy::attempts).sum()
}

fn ended(fleet: &mut [Agent]) -> Option<String> {
    fleet
        .iter_mut()
        .find_map(|agent| agent.ended().map(|_status| agent.name.clone()))
}

fn is_connected(agent: &Agent) -> bool {
    agent
        .status()
        .is_ok_and(|status| status["connected"] == true)
}

/// Waits until each has been seen so once.
fn await_all(what: &str, fleet: &[Agent], limit: Duration, is_so: impl Fn(&Agent) -> bool) {
    let mut waiting: Vec<&Agent> = fleet.iter().collect();
    wait::until(what, limit, || {
        waiting.retain(|agent| !is_so(agent));
        waiting.is_empty().then_some(())
    })
    .unwrap_or_else(|late| {
        let first = waiting.first().map(|agent| (agent.status(), agent.tail()));
        panic!(
            "{late}: {} agents are not, the first: {first:?}",
            waiting.len()
        )
    });
}

fn check(cluster: &ClusterUnderTest, count: u32, readings: i64) {
    let client = cluster.client(0);
    let table = client
        .sql(
            "SELECT device, count(*) AS n, count(DISTINCT seq) AS d FROM fire GROUP BY device \
             ORDER BY device",
        )
        .unwrap();
    assert_eq!(table.rows.len(), usize::try_from(count).unwrap());
    let wanted = readings.to_string();
    for name in ["n", "d"] {
        let column = table.column(name);
        let wrong = column
            .iter()
            .position(|cell| *cell != Some(wanted.as_str()));
        let row = wrong.map(|at| &table.rows[at]);
        assert_eq!(
            row, None,
            "device, readings, different ones; {wanted} were given"
        );
    }
    let gaps = client.sql("SELECT * FROM gaps").unwrap();
    assert!(gaps.rows.is_empty(), "nothing was lost: {:?}", gaps.rows);
}
