//! T6 and T8: links that lose answers, die without a word, or are hardly there. What a cut makes the
//! agent send again is bounded, a dead link is found in time, and on a slow one nearly every byte
//! brings something forward.

use std::time::Duration;

use tests::agent::{AgentUnderTest, Options, RESENT_BATCHES};
use tests::bulk::Bulk;
use tests::cluster::ClusterUnderTest;
use tests::ledger::Fate;
use tests::long;
use tests::proxy::Proxy;
use tests::source::Source;
use tests::wait;

use crate::fire::{await_kept, finish};

const LIMIT: Duration = Duration::from_secs(60);
/// Batches without an answer, as the configuration has it by default.
const WINDOW_BATCHES: f64 = 16.0;
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Of 1.5 times the keep alive: the account and this test look a few times a second, on a machine
/// that does much else. All together it is less than two.
const LOOK: Duration = Duration::from_secs(3);

/// The node has the batches and says so; the answers never arrive.
#[test]
fn lost_answers_cost_at_most_a_window_each() {
    let cuts: u32 = long::or(8, 50);
    let mut cluster = ClusterUnderTest::start(3);
    let (link, agent) = agent_behind_a_link(&cluster, Options::for_cluster("gw1", &cluster));
    let sources = vec![Source::start(agent.line, "d1", 300)];
    for cut in 0..cuts {
        await_kept(&sources, 50);
        let swallowed = link.swallowed_bytes();
        link.swallow_answers(true);
        wait::until("an answer is swallowed", LIMIT, || {
            (link.swallowed_bytes() > swallowed).then_some(())
        })
        .unwrap_or_else(|late| panic!("cut {cut}: {late}"));
        let before = link.connections();
        link.cut();
        link.swallow_answers(false);
        wait::until("the agent comes again", LIMIT, || {
            (link.connections() > before).then_some(())
        })
        .unwrap_or_else(|late| panic!("cut {cut}: {late}\n{}", agent.tail()));
    }
    await_kept(&sources, 50);
    await_connected(&agent);
    let resent = agent.number(RESENT_BATCHES).unwrap();
    eprintln!("{resent} batches were sent again after {cuts} cuts");
    assert!(resent <= f64::from(cuts) * WINDOW_BATCHES);
    finish("answers lost", &mut cluster, &[agent], sources);
}

/// With nothing to send there is no answer to miss: only the keep alive can tell.
#[test]
fn a_link_that_dies_idle_is_found_within_one_and_a_half_keep_alives() {
    let cluster = ClusterUnderTest::start(1);
    let options = Options {
        keep_alive: KEEP_ALIVE,
        ..Options::for_cluster("gw1", &cluster)
    };
    let (link, agent) = agent_behind_a_link(&cluster, options);
    await_connected(&agent);
    agent.wait_drained(LIMIT).unwrap();
    let took = found_dead(&link, &agent);
    eprintln!("idle: found dead after {took:?}");
    assert!(took <= KEEP_ALIVE.mul_f64(1.5) + LOOK, "{took:?}");
}

#[test]
fn a_link_that_dies_busy_is_found_within_one_and_a_half_keep_alives() {
    let mut cluster = ClusterUnderTest::start(1);
    let options = Options {
        keep_alive: KEEP_ALIVE,
        ..Options::for_cluster("gw1", &cluster)
    };
    let (link, agent) = agent_behind_a_link(&cluster, options);
    let sources = vec![Source::start(agent.line, "d1", 100)];
    await_kept(&sources, 100);
    await_connected(&agent);
    let took = found_dead(&link, &agent);
    eprintln!("busy: found dead after {took:?}");
    assert!(took <= KEEP_ALIVE.mul_f64(1.5) + LOOK, "{took:?}");
    link.cut();
    link.black_hole(false);
    await_kept(&sources, 100);
    finish("a dead link", &mut cluster, &[agent], sources);
}

/// 2 KB a second each way, a second there and back, and in the long run a reset now and then.
#[test]
fn nearly_every_byte_on_a_slow_link_brings_something_forward() {
    const BYTES_PER_SECOND: u64 = 2_048;
    const GOODPUT_MIN: f64 = 0.8;
    let cluster = ClusterUnderTest::start(1);
    let options = Options {
        batch_bytes_max: 4 << 10,
        ..Options::for_cluster("gw1", &cluster)
    };
    let (link, agent) = agent_behind_a_link(&cluster, options);
    await_connected(&agent);
    agent.wait_drained(LIMIT).unwrap();
    link.refuse(true);
    link.cut();
    let bulk = Bulk {
        device: "far".to_owned(),
        count: long::or(40, 600),
        start_ns: 1_767_225_600_000_000_000,
        step_ns: 1_000_000_000,
        pad_bytes: 1_000,
    };
    let ledger = bulk.hand_over(agent.line).unwrap();
    assert_eq!(ledger.count(Fate::Unknown) + ledger.count(Fate::Refused), 0);
    let held_bytes = wait::until("the account of what is held", LIMIT, || {
        let pending = agent.number("pending_readings").ok()?;
        let held = agent.number("buffer_bytes").ok()?;
        (pending >= bulk.count as f64).then_some(held)
    })
    .unwrap();

    link.shape(Some(BYTES_PER_SECOND), Duration::from_millis(500));
    let sent_before = link.request_bytes();
    let start = wait::now();
    link.refuse(false);
    let link_time = Duration::from_secs_f64(held_bytes / BYTES_PER_SECOND as f64);
    let mut resets = 0;
    wait::until("all is there", link_time * 3 + LIMIT, || {
        // One in the time of about twenty batches: 5 %.
        if long::is_asked() && start.elapsed() > link_time / 7 * (resets + 1) && resets < 5 {
            resets += 1;
            link.cut();
        }
        (agent.number("pending_readings") == Ok(0.0)).then_some(())
    })
    .unwrap_or_else(|late| panic!("{late}; {:?}\n{}", agent.status(), agent.tail()));
    let took = start.elapsed();
    let sent = link.request_bytes() - sent_before;
    let goodput = held_bytes / sent as f64;
    eprintln!(
        "{held_bytes} bytes of batches took {sent} bytes and {took:?} ({resets} resets): \
         goodput {goodput:.2}"
    );
    assert!(goodput >= GOODPUT_MIN, "{goodput}");
    assert_eq!(bulk.stored(&cluster.client(0)).unwrap(), bulk.whole());
}

/// An agent that reaches the first leader, or the only node, through one proxy.
pub(crate) fn agent_behind_a_link(
    cluster: &ClusterUnderTest,
    options: Options,
) -> (Proxy, AgentUnderTest) {
    let node = cluster.wait_leader().unwrap();
    let link = Proxy::start(cluster.address(), cluster.nodes()[node].mqtt).unwrap();
    let options = Options {
        servers: vec![link.address()],
        ..options
    };
    let agent = AgentUnderTest::start_with(cluster, &options);
    (link, agent)
}

pub(crate) fn await_connected(agent: &AgentUnderTest) {
    wait::until("a session", LIMIT, || connected(agent).filter(|up| *up)).unwrap();
}

pub(crate) fn connected(agent: &AgentUnderTest) -> Option<bool> {
    agent.status().ok()?["connected"].as_bool()
}

/// The link dies; how long until the agent says so.
fn found_dead(link: &Proxy, agent: &AgentUnderTest) -> Duration {
    let attempts = link.attempts();
    let start = wait::now();
    link.black_hole(true);
    wait::until("the dead link is found", LIMIT, || {
        let gone = connected(agent) == Some(false) || link.attempts() > attempts;
        gone.then_some(())
    })
    .unwrap_or_else(|late| panic!("{late}\n{}", agent.tail()));
    start.elapsed()
}
