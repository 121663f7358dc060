//! Logs that fill up: what must not fill them, and what happens when something does.

use std::future::Future;
use std::time::Duration;

use aggregator::cluster::Answer;
use tokio::time::sleep;

use crate::agent::{Agent, Round};
use crate::world::{World, stop_clocks};

/// Runs in virtual time, without a seed: nothing here depends on one.
pub(crate) fn virtually<T>(scenario: impl Future<Output = T>) -> T {
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
        let mut world = World::new(11).with_log_files(20);
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

/// Merges are held back until the log is short. Publishers are told to wait, no node ends, and once
/// merges go on everything is taken.
#[test]
fn a_log_without_room_makes_publishers_wait_and_stops_nobody() {
    virtually(async {
        stop_clocks(true);
        // Not the rows in memory: the log is to run short.
        let mut world = World::with_small_log(13, 64 << 20);
        world.found().await;
        let mut agent = Agent::new("gw1", 10_000);
        let node = world.cluster(0).expect("it runs");
        while agent.round(node).await != Round::Busy {
            assert!(!agent.is_done(), "the log was never short");
        }
        for _ in 0..100 {
            assert_eq!(agent.round(node).await, Round::Busy);
            sleep(Duration::from_secs(1)).await;
        }
        let taken = agent.acknowledged;
        stop_clocks(false);
        sleep(Duration::from_secs(120)).await;
        for at in 0..3 {
            let seen = world.read(at, "gw1").await.expect("no node ended");
            assert_eq!(seen.len(), taken * 3);
        }
        assert!(matches!(agent.round(node).await, Round::Acknowledged { upto } if upto > taken));
    });
}

/// It answers, so nobody takes it for dead, and there are always entries on their way to it.
#[test]
fn a_slow_follower_does_not_keep_the_log_from_being_purged() {
    virtually(async {
        let mut world = World::with_small_log(14, 8 << 10);
        world.found().await;
        world.net.slow("c", Duration::from_secs(3));
        let mut agent = Agent::new("gw1", 6_000);
        let node = world.cluster(0).expect("it runs");
        while !agent.is_done() {
            let round = agent.round(node).await;
            assert!(matches!(round, Round::Acknowledged { .. }), "{round:?}");
        }
        world.net.heal();
        let seen = world.read(2, "gw1").await.expect("it catches up");
        assert_eq!(seen.len(), 18_000);
    });
}
