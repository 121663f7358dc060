//! T1: the agent is killed at random moments, with and without a cluster, under a steady stream of
//! readings. Nothing that a source was told is kept gets lost or comes twice, no number carries two
//! contents, and a new life sends at once.

use std::fs;
use std::time::Duration;

use tests::agent::{AgentUnderTest, Options};
use tests::cluster::ClusterUnderTest;
use tests::dice::Dice;
use tests::long;
use tests::proxy::Proxy;
use tests::source::Source;
use tests::wait;

use crate::fire::{await_kept, finish};

const SEED: u64 = 1;
/// Four devices together hand over 1,000 readings a second.
const DEVICES: [&str; 4] = ["d1", "d2", "d3", "d4"];
const READINGS_PER_SECOND: u32 = 250;
const FIRST_SEND_LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_storm_of_kills_online_and_offline_loses_and_doubles_nothing() {
    let kills = long::or(14, 500);
    let life_max = Duration::from_millis(long::or(600, 2_000));
    let mut cluster = ClusterUnderTest::start(3);
    let links = links(&cluster);
    let options = Options {
        servers: links.iter().map(Proxy::address).collect(),
        ..Options::for_cluster("gw1", &cluster)
    };
    let mut agent = AgentUnderTest::start_with(&cluster, &options);
    let sources: Vec<_> = DEVICES
        .iter()
        .map(|device| Source::start(agent.line, device, READINGS_PER_SECOND))
        .collect();
    let mut dice = Dice::new(SEED);
    let mut first_sends = Vec::new();
    for kill in 0..kills {
        agent.kill();
        let online = kill % 2 == 0;
        links.iter().for_each(|link| link.refuse(!online));
        let before = sent_bytes(&links);
        let start = wait::now();
        agent.spawn().unwrap();
        if online {
            wait::until("the first send", FIRST_SEND_LIMIT, || {
                (sent_bytes(&links) > before).then_some(())
            })
            .unwrap_or_else(|late| panic!("kill {kill}: {late}\n{}", agent.tail()));
            first_sends.push(start.elapsed());
        }
        if let Err(status) = wait::never(dice.time(life_max), || agent.ended()) {
            panic!(
                "kill {kill}: the agent ended by itself: {status}\n{}",
                agent.tail()
            );
        }
    }
    first_sends.sort_unstable();
    let usual = first_sends[first_sends.len() / 2];
    let slowest = first_sends[first_sends.len() - 1];
    eprintln!("{kills} kills; to the first send usually {usual:?}, at most {slowest:?}");
    // Of the usual run only the order of magnitude counts, and not of each: it shares two cores
    // with a debug build.
    let judged = long::or(usual, slowest);
    assert!(judged <= Duration::from_secs(long::or(5, 1)), "{judged:?}");

    links.iter().for_each(|link| link.refuse(false));
    agent.wait_up().unwrap();
    await_kept(&sources, 20);
    let log = fs::read_to_string(agent.log()).unwrap();
    assert!(
        !log.contains("was also written by another"),
        "a number had two contents"
    );
    finish("kill storm", &mut cluster, &[agent], sources);
}

/// A proxy before each node.
pub(crate) fn links(cluster: &ClusterUnderTest) -> Vec<Proxy> {
    let nodes = cluster.nodes().iter();
    nodes
        .map(|node| Proxy::start(cluster.address(), node.mqtt).unwrap())
        .collect()
}

fn sent_bytes(links: &[Proxy]) -> u64 {
    links.iter().map(Proxy::request_bytes).sum()
}
