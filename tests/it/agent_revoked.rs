//! T10: an agent whose certificate was taken back is out while it is connected. It keeps what it
//! reads, says that it gets no session, and does not hammer the nodes; let in again, it delivers.

use std::fs;
use std::time::Duration;

use tests::agent::Options;
use tests::cluster::ClusterUnderTest;
use tests::source::Source;
use tests::wait;

use crate::agent_link::{agent_behind_a_link, await_connected, connected};
use crate::fire::{await_kept, finish};

const LIMIT: Duration = Duration::from_secs(60);
const OUT_FOR: Duration = Duration::from_secs(8);
/// With a rest that doubles from 0.1 s to 5 s there are about eight in that time.
const ATTEMPTS_MAX: u64 = 16;

#[test]
fn a_revoked_agent_keeps_its_readings_and_asks_seldom() {
    let mut cluster = ClusterUnderTest::start(1);
    let (link, agent) = agent_behind_a_link(&cluster, Options::for_cluster("gw1", &cluster));
    let sources = vec![Source::start(agent.line, "d1", 50)];
    await_connected(&agent);
    await_kept(&sources, 20);

    let list = cluster.pki_folder().join("revoked.toml");
    let before = fs::read(&list).unwrap();
    cluster
        .pki(&["revoke", "agent-gw1", "--reason", "lost"])
        .unwrap();
    wait::until("the session is closed", LIMIT, || {
        (connected(&agent) == Some(false)).then_some(())
    })
    .unwrap();
    // Its own disk keeps them.
    await_kept(&sources, 20);
    let attempts = link.attempts();
    let let_in = wait::never(OUT_FOR, || connected(&agent).filter(|up| *up));
    assert_eq!(let_in, Ok(()), "a revoked agent was let in");
    let attempts = link.attempts() - attempts;
    let status = agent.status().unwrap();
    eprintln!(
        "{attempts} attempts in {OUT_FOR:?}; {}",
        status["last_error"]
    );
    assert!(
        (1..=ATTEMPTS_MAX).contains(&attempts),
        "{attempts} attempts"
    );
    assert!(status["last_error"].is_string(), "{status}");
    await_kept(&sources, 20);

    fs::write(&list, before).unwrap();
    await_connected(&agent);
    finish("revoked", &mut cluster, &[agent], sources);
}
