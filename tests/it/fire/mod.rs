//! Exactly once under fire: whatever is killed, everything that a source was told is kept is
//! stored once, unaltered, in order. Each test hurts, heals, drains, then compares row by row.

mod faults;
mod proof;
mod stage;
mod storm;

use std::collections::HashMap;
use std::time::Duration;

use tests::agent::{AgentUnderTest, Options};
use tests::cluster::{Cluster, ClusterUnderTest};
use tests::ledger::{Fate, Ledger};
use tests::long;
use tests::oracle::{self, Watermarks};
use tests::process::Signal;
use tests::proxy::Proxy;
use tests::source::Source;
use tests::sql::{Client, Refused};
use tests::wait;

const LIMIT: Duration = Duration::from_secs(60);
/// A backlog of a whole run, through a debug build on two busy cores.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);

#[test]
fn leader_killed_again_and_again() {
    let mut cluster = ClusterUnderTest::start(3);
    let agents: Vec<_> = ["gw1", "gw2", "gw3"]
        .map(|name| AgentUnderTest::start(&cluster, name))
        .into();
    let sources: Vec<_> = agents
        .iter()
        .map(|agent| Source::start(agent.line, &agent.name, 100))
        .collect();
    let mut marks = Watermarks::default();
    for round in 0..long::or(20, 50) {
        let leader = cluster.wait_leader().unwrap();
        await_kept(&sources, 20);
        cluster.kill(leader);
        let next = cluster.wait_leader().unwrap();
        assert_ne!(next, leader, "round {round}");
        look(&cluster, next, &mut marks);
        cluster.run(leader).unwrap();
        cluster.wait_node_ready(leader).unwrap();
        look(&cluster, leader, &mut marks);
    }
    finish("leader killed", &mut cluster, &agents, sources);
}

#[test]
fn agent_killed_fifty_times() {
    let mut cluster = ClusterUnderTest::start(3);
    let mut agent = AgentUnderTest::start(&cluster, "gw1");
    let sources = vec![
        Source::start(agent.line, "d1", 400),
        Source::start(agent.line, "d2", 100),
    ];
    for round in 0..50 {
        // Sometimes at once, sometimes after a while: start, replay, steady state.
        await_kept(&sources, [0, 1, 5, 40, 150][round % 5]);
        agent.restart();
    }
    agent.wait_up().unwrap();
    await_kept(&sources, 20);
    finish("agent killed", &mut cluster, &[agent], sources);
}

#[test]
fn all_nodes_killed_at_once() {
    let mut cluster = ClusterUnderTest::start(3);
    let agents: Vec<_> = ["gw1", "gw2"]
        .map(|name| AgentUnderTest::start(&cluster, name))
        .into();
    let sources: Vec<_> = agents
        .iter()
        .map(|agent| Source::start(agent.line, &agent.name, 200))
        .collect();
    let mut marks = Watermarks::default();
    for _round in 0..5 {
        await_kept(&sources, 60);
        look(&cluster, 0, &mut marks);
        cluster.kill_all();
        for node in 0..3 {
            cluster.run(node).unwrap();
        }
        cluster.wait_ready().unwrap();
        look(&cluster, 0, &mut marks);
    }
    finish("all killed", &mut cluster, &agents, sources);
}

/// Batches reach the leader, which cannot commit them yet; their PUBACKs are swallowed with the
/// connection; the agent comes again, and is told where its streams stand only once a quorum can say
/// so: an old position would have it send what commits in the meantime.
#[test]
fn pubacks_swallowed() {
    let mut cluster = ClusterUnderTest::start(3);
    let leader = cluster.wait_leader().unwrap();
    let proxy = Proxy::start(cluster.address(), cluster.nodes()[leader].mqtt).unwrap();
    let options = Options {
        servers: vec![proxy.address()],
        ..Options::for_cluster("gw1", &cluster)
    };
    let agents = vec![AgentUnderTest::start_with(&cluster, &options)];
    let sources = vec![Source::start(agents[0].line, "d1", 200)];
    for round in 0..10 {
        await_kept(&sources, 40);
        let leader = cluster.wait_leader().unwrap();
        proxy.set_upstream(cluster.nodes()[leader].mqtt);
        let followers: Vec<_> = (0..3).filter(|node| *node != leader).collect();
        // Every second round commits at once: only the answers are lost, CONNACK tells the rest.
        let frozen = if round % 2 == 0 {
            followers
        } else {
            Vec::new()
        };

        let swallowed = proxy.swallowed_bytes();
        proxy.swallow_answers(true);
        for node in &frozen {
            cluster.signal(*node, Signal::Stop).unwrap();
        }
        await_sent(&proxy, 4_000);
        if frozen.is_empty() {
            wait::until("an answer is swallowed", LIMIT, || {
                (proxy.swallowed_bytes() > swallowed).then_some(())
            })
            .unwrap();
        }
        proxy.cut();
        let before = proxy.connections();
        proxy.swallow_answers(false);
        let came_again = wait::until("the agent comes again", LIMIT, || {
            (proxy.connections() > before).then_some(())
        });
        if !frozen.is_empty() {
            assert!(!is_connected_within(&agents[0], Duration::from_secs(1)));
        }
        for node in &frozen {
            cluster.signal(*node, Signal::Continue).unwrap();
        }
        came_again.unwrap();
        cluster.wait_ready().unwrap();
    }
    let leader = cluster.wait_leader().unwrap();
    proxy.set_upstream(cluster.nodes()[leader].mqtt);
    proxy.cut();
    await_kept(&sources, 40);
    finish("PUBACKs swallowed", &mut cluster, &agents, sources);
}

/// Waits until each source has been told `more` times that a reading is kept.
pub(crate) fn await_kept(sources: &[Source], more: usize) {
    let goals: Vec<_> = sources.iter().map(|source| source.kept() + more).collect();
    wait::until(
        &format!("{more} more readings kept by each agent"),
        LIMIT,
        || {
            sources
                .iter()
                .zip(&goals)
                .all(|(source, goal)| source.kept() >= *goal)
                .then_some(())
        },
    )
    .unwrap();
}

fn is_connected_within(agent: &AgentUnderTest, limit: Duration) -> bool {
    let connected = || agent.status().ok()?["connected"].as_bool()?.then_some(());
    wait::until("a session", limit, connected).is_ok()
}

/// Waits until so many more bytes went to the cluster; gives up quietly after two seconds, as the
/// agent may have nothing to say while its window is full.
fn await_sent(proxy: &Proxy, more: u64) {
    let goal = proxy.request_bytes() + more;
    let enough = || (proxy.request_bytes() >= goal).then_some(());
    let _ = wait::until("bytes", Duration::from_secs(2), enough);
}

/// Takes one look at every stream's `last`, which may never go back.
fn look(cluster: &Cluster, node: usize, marks: &mut Watermarks) {
    let streams = streams(&cluster.client(node))
        .unwrap_or_else(|refused| panic!("{refused}\n{}", cluster.tails()));
    oracle::assert_clean("streams go forward", &marks.look(streams));
}

/// The `last` of every stream, as a node answers it now.
fn streams(client: &Client) -> Result<HashMap<String, u64>, Refused> {
    let table = client.sql("SELECT agent, epoch, lane, last FROM agents")?;
    let rows = table.records();
    let streams = rows.iter().map(|row| {
        let stream = format!("{}/{}/{}", row["agent"], row["epoch"], row["lane"]);
        (stream, row["last"].parse().unwrap())
    });
    Ok(streams.collect())
}

/// Stops the sources, lets the agents drain, reads every row from every node and compares. Returns
/// how many readings were kept.
pub(crate) fn finish(
    what: &str,
    cluster: &mut ClusterUnderTest,
    agents: &[AgentUnderTest],
    sources: Vec<Source>,
) -> usize {
    let ledgers: Vec<Ledger> = sources.into_iter().map(Source::stop).collect();
    cluster.wait_ready().unwrap();
    for agent in agents {
        agent
            .wait_drained(DRAIN_LIMIT)
            .unwrap_or_else(|late| panic!("{late}\n{}", cluster.tails()));
    }
    let kept: usize = ledgers.iter().map(|ledger| ledger.count(Fate::Kept)).sum();
    assert!(
        kept > 100,
        "{what}: only {kept} readings were kept, that shows nothing"
    );
    for node in 0..cluster.nodes().len() {
        let client = cluster.client(node);
        let listed = listed_lost(&client.sql("SELECT readings FROM gaps").unwrap());
        let table = client.sql(oracle::ROWS_SQL).unwrap();
        let rows = oracle::rows(&table).unwrap();
        let findings = oracle::check(&ledgers, &rows, listed);
        oracle::assert_clean(&format!("{what}, read at node {node}"), &findings);
    }
    kept
}

/// How many readings the gap records list. One of an unclean end cannot know: then any number.
pub(crate) fn listed_lost(gaps: &tests::sql::Table) -> u64 {
    let counts: Vec<u64> = gaps
        .column("readings")
        .iter()
        .map(|count| count.unwrap_or("0").parse().unwrap())
        .collect();
    if counts.contains(&0) {
        u64::MAX
    } else {
        counts.iter().sum()
    }
}
