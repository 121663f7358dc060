//! Nodes in places far apart, with the timing that `docs/operations.md` says is for them.

use std::time::Duration;

use aggregator::config::Timing;
use tokio::time::{sleep, timeout};

use crate::agent::{Agent, Round};
use crate::full::virtually;
use crate::world::{World, stop_clocks};

/// One way, and up to 16 ms more.
const FAR: Duration = Duration::from_millis(150);

/// Two round trips, and four and eight times of it.
fn timing() -> Timing {
    let heartbeat = 4 * FAR;
    Timing {
        heartbeat,
        election_min: 4 * heartbeat,
        election_max: 8 * heartbeat,
    }
}

#[test]
fn an_idle_cluster_of_nodes_far_apart_keeps_its_leader_and_takes_writes() {
    virtually(async {
        let mut world = World::new(15).with_timing(timing());
        world.found().await;
        world.net.far(FAR);
        // They tell each other nothing then.
        stop_clocks(true);
        let mut agent = Agent::new("gw1", 40);
        let leader = world.leader().expect("nobody stops it");
        for nth in 0..10 {
            for _ in 0..170 {
                sleep(Duration::from_millis(100)).await;
                assert_eq!(world.leader(), Some(leader));
            }
            let node = world.cluster((leader + nth) % 3).expect("it runs");
            let round = timeout(Duration::from_secs(5), agent.round(node)).await;
            assert!(
                matches!(round, Ok(Round::Acknowledged { .. })),
                "{nth}: {round:?}"
            );
        }
        assert!(agent.is_done());
        stop_clocks(false);
    });
}

#[test]
fn a_leader_far_away_that_is_gone_is_replaced() {
    virtually(async {
        let mut world = World::new(16).with_timing(timing());
        world.found().await;
        world.net.far(FAR);
        sleep(Duration::from_secs(5)).await;
        let leader = world.leader().expect("nobody stops it");
        world.cut_power(leader).await;
        let node = world.cluster((leader + 1) % 3).expect("it runs");
        let mut agent = Agent::new("gw1", 40);
        let drained = async {
            while !agent.is_done() {
                agent.round(node).await;
                sleep(Duration::from_millis(50)).await;
            }
        };
        let drained = timeout(Duration::from_secs(60), drained).await;
        assert!(drained.is_ok(), "two nodes of three go on");
    });
}
