//! Logs that fill up: what must not fill them, and what happens when something does.

use std::future::Future;

use aggregator::cluster::Answer;

use crate::agent::{Agent, Round};
use crate::world::World;

/// Runs in virtual time, without a seed: nothing here depends on one.
fn virtually<T>(scenario: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime on one thread");
    runtime.block_on(scenario)
}

/// Entries that bring no rows: more of them than the log has bytes for.
#[test]
fn traffic_that_stores_nothing_is_merged_away() {
    virtually(async {
        let mut world = World::new(11);
        world.found().await;
        let agent = Agent::new("gw1", 2);
        let node = world.cluster(0).expect("it runs");
        for _ in 0..60 {
            let mut tickets = Vec::new();
            for _ in 0..100 {
                tickets.push(agent.publish(node, 2).await);
            }
            for ticket in tickets {
                let answer = ticket.await;
                assert!(matches!(answer, Answer::Gap(_)), "{answer:?}");
            }
        }
    });
}

#[test]
fn a_batch_that_is_stored_costs_no_entry_when_it_comes_again() {
    virtually(async {
        let mut world = World::new(12);
        world.found().await;
        let mut agent = Agent::new("gw1", 1);
        let node = world.cluster(0).expect("it runs");
        assert_eq!(agent.round(node).await, Round::Acknowledged { upto: 1 });
        let before = node.overview().applied;
        for _ in 0..1_000 {
            match agent.publish(node, 1).await.await {
                Answer::Applied(applied) => assert!(applied.repeated().is_some()),
                other => panic!("{other:?}"),
            }
        }
        assert!(node.overview().applied < before + 100);
    });
}
