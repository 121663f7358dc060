//! A PUBACK is never seen before a quorum has synced: with the sync of two of three nodes held
//! back nothing is acknowledged, and once one of them goes on, it is.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tests::cluster::ClusterUnderTest;
use tests::process::{self, Process};
use tests::skip::skip;
use tests::wait;

use crate::mqtt::{Client, Identity};

/// How long no acknowledgement may be seen: many times what one takes.
const SILENCE: Duration = Duration::from_secs(3);
/// Longer than the test: a hold ends when strace is told to let go.
const HOLD_MICROSECONDS: u64 = 120_000_000;
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn no_puback_before_two_of_three_nodes_have_synced() {
    if let Some(reason) = cannot_trace() {
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
        release(&cluster, holds.next().unwrap());
        let answer = answer_or_ask_again(&mut client, &cluster, free, topic, &line);
        assert_eq!(
            answer, 0,
            "round {round}: not acknowledged after the release"
        );
        holds.for_each(|hold| release(&cluster, hold));
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

struct Hold {
    node: usize,
    strace: Process,
}

/// From when this returns, every `fdatasync` and `fsync` of the node waits before it begins.
fn hold(cluster: &ClusterUnderTest, node: usize) -> Hold {
    let id = cluster.process_id(node).unwrap();
    let calls = "fdatasync,fsync,sync_file_range";
    let log = cluster.folder().join(format!("strace-{node}.log"));
    let mut command = Command::new("strace");
    command
        .args(["-f", "-p", &id.to_string(), "-e", &format!("trace={calls}")])
        .args([
            "-e",
            &format!("inject={calls}:delay_enter={HOLD_MICROSECONDS}"),
        ]);
    let strace = Process::spawn(&format!("strace of node {node}"), &mut command, &log).unwrap();
    wait::until("strace holds every thread", LIMIT, || {
        all_traced(id).then_some(())
    })
    .unwrap_or_else(|late| panic!("{late}\n{}", strace.tail()));
    Hold { node, strace }
}

fn release(cluster: &ClusterUnderTest, mut hold: Hold) {
    let id = cluster.process_id(hold.node).unwrap();
    // SIGTERM makes strace let go of its threads; a held call goes on at once.
    hold.strace.stop(LIMIT).unwrap();
    wait::until("the node runs free", LIMIT, || {
        none_traced(id).then_some(())
    })
    .unwrap();
}

fn all_traced(id: u32) -> bool {
    tracers(id).iter().all(|tracer| *tracer != 0)
}

fn none_traced(id: u32) -> bool {
    tracers(id).iter().all(|tracer| *tracer == 0)
}

/// Who traces each thread of a process; 0 is nobody.
fn tracers(id: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).expect("the node runs");
    tasks
        .filter_map(|task| tracer(&task.ok()?.path().join("status")))
        .collect()
}

fn tracer(status: &Path) -> Option<u32> {
    let text = fs::read_to_string(status).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("TracerPid:"))?
        .trim()
        .parse()
        .ok()
}

/// Why processes cannot be traced on this machine, if so.
fn cannot_trace() -> Option<String> {
    let mut probe = Command::new("strace");
    probe.args([
        "-f",
        "-e",
        "trace=none",
        "-e",
        "inject=fsync:delay_enter=1",
        "-o",
        "/dev/null",
    ]);
    match process::run(probe.arg("true")) {
        Ok(_) => None,
        Err(why) => Some(format!(
            "strace cannot hold a sync here ({why}): apt-get install strace"
        )),
    }
}
