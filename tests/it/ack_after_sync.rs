//! A PUBACK is never seen before a quorum has synced: with the sync of two of three nodes held
//! back nothing is acknowledged, and once one of them goes on, it is.

use std::time::Duration;

use tests::cluster::ClusterUnderTest;
use tests::process;
use tests::skip::skip;
use tests::trace::{self, Trace};
use tests::wait;

use crate::mqtt::{Client, Identity};

/// How long no acknowledgement may be seen: many times what one takes.
const SILENCE: Duration = Duration::from_secs(3);
/// Longer than the test: a hold ends when strace is told to let go.
const HOLD_MICROSECONDS: u64 = 120_000_000;
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn no_puback_before_two_of_three_nodes_have_synced() {
    if let Some(reason) = trace::cannot() {
        skip(&reason);
        return;
    }
    let cluster = ClusterUnderTest::start(3);
    cluster.issue_agent("probe").unwrap();
    let leader = cluster.wait_leader().unwrap();
    let others: Vec<_> = (0..3).filter(|node| *node != leader).collect();

    // Both followers, then the leader and a follower: whoever makes up the majority.
    for (round, held) in [[others[0], others[1]], [leader, others[0]]]
        .into_iter()
        .enumerate()
    {
        let free = (0..3).find(|node| !held.contains(node)).unwrap();
        // The session is at the node that nobody holds.
        let mut client = connect(&cluster, free);
        let topic = "tributary/v1/probe/line";
        let before = format!("probe,device=p seq=1i {}\n", round * 10 + 1);
        client.publish(topic, 2, before.as_bytes()).unwrap();
        let answer = answer_or_ask_again(&mut client, &cluster, free, topic, &before);
        assert_eq!(answer, 0, "without a hold");

        let holds: Vec<_> = held.iter().map(|node| hold(&cluster, *node)).collect();
        let line = format!("probe,device=p seq=2i {}\n", round * 10 + 2);
        client.publish(topic, 2, line.as_bytes()).unwrap();
        let seen = client.receive(SILENCE).unwrap();
        let acknowledged = seen.as_ref().and_then(|packet| packet.puback(2)) == Some(0);
        assert!(
            !acknowledged,
            "round {round}: acknowledged without a quorum of syncs"
        );

        // One of the two goes on: two of three have synced.
        let mut holds = holds.into_iter();
        holds.next().unwrap().release().unwrap();
        let answer = answer_or_ask_again(&mut client, &cluster, free, topic, &line);
        assert_eq!(
            answer, 0,
            "round {round}: not acknowledged after the release"
        );
        holds.for_each(|hold| hold.release().unwrap());
    }

    let rows = cluster
        .client(0)
        .sql("SELECT CAST(time AS BIGINT) AS ns FROM probe")
        .unwrap();
    for time in ["1", "2", "11", "12"] {
        // At least once: a plain publisher that asks again may be stored again.
        assert!(
            rows.column("ns").contains(&Some(time)),
            "{time} is acknowledged and absent"
        );
    }
}

fn connect(cluster: &ClusterUnderTest, node: usize) -> Client {
    let pki = cluster.pki_folder();
    let identity = Identity {
        trust: &pki,
        folder: &pki,
        name: "agent-probe",
    };
    let server = cluster.nodes()[node].mqtt;
    // While no leader is known nobody is let in.
    wait::until("a session", LIMIT, || {
        Client::connect(server, &identity).ok()
    })
    .unwrap()
}

/// The PUBACK of message 2. "Busy" or a closed session mean that its fate is unknown: ask again.
fn answer_or_ask_again(
    client: &mut Client,
    cluster: &ClusterUnderTest,
    node: usize,
    topic: &str,
    line: &str,
) -> u8 {
    const BUSY: u8 = 0x97;
    wait::until("an acknowledgement", LIMIT, || {
        match client.receive(Duration::from_secs(5)) {
            Ok(Some(packet)) if packet.puback(2).is_some_and(|code| code != BUSY) => {
                packet.puback(2)
            }
            Ok(None) => None,
            Ok(Some(_)) | Err(_) => {
                *client = connect(cluster, node);
                client.publish(topic, 2, line.as_bytes()).unwrap();
                None
            }
        }
    })
    .unwrap_or_else(|late| {
        let running = (0..3).filter_map(|node| cluster.process_id(node));
        let threads: Vec<String> = running.map(process::threads).collect();
        panic!("{late}\n{}", threads.join("\n"))
    })
}

/// From when this returns, every sync of the node waits before it begins.
fn hold(cluster: &ClusterUnderTest, node: usize) -> Trace {
    let id = cluster.process_id(node).unwrap();
    let log = cluster.folder().join(format!("strace-{node}.log"));
    let how = format!("delay_enter={HOLD_MICROSECONDS}");
    Trace::inject(id, trace::SYNCS, &how, &log).unwrap()
}
