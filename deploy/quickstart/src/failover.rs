//! Kills the leader and shows how long the next acknowledgement takes.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use harness::sql::Client;
use harness::wait;

use crate::system::System;

const LIMIT: Duration = Duration::from_secs(60);

/// What the agent's streams have reached, all together: it grows with every acknowledged batch.
const PROGRESS_SQL: &str = "SELECT sum(last) FROM agents";

/// Kills the leader, waits for the next acknowledgement, starts the node again. The lines tell it.
pub(crate) fn show(system: &mut System) -> Result<Vec<String>, String> {
    let leader = system.cluster.wait_leader()?;
    let name = system.cluster.nodes()[leader].name.clone();
    let client = survivors(system, leader);
    // The machine's own readings come once a second; these come as often as anyone looks.
    let mut probe = TcpStream::connect(system.agent.line).map_err(|e| format!("the agent: {e}"))?;
    let before = wait::until("the streams before", LIMIT, || progress(&client))?;

    let start = wait::now();
    system.cluster.kill(leader);
    let mut seq = 0;
    wait::until("an acknowledgement after the leader's death", LIMIT, || {
        seq += 1;
        // If the agent is gone, the comparison at the end will say it better.
        let _ = writeln!(probe, "failover,device=probe seq={seq}i");
        progress(&client).filter(|now| *now > before + 1)
    })
    .map_err(|late| format!("{late}\n{}", system.cluster.tails()))?;
    let gap = start.elapsed();

    let next = system.cluster.wait_leader()?;
    let lines = vec![
        format!("killed node {name}, the leader"),
        format!(
            "the next acknowledgement came after {:.2} s; node {} leads; starting node {name} again",
            gap.as_secs_f64(),
            system.cluster.nodes()[next].name
        ),
    ];
    system.cluster.run(leader)?;
    Ok(lines)
}

fn survivors(system: &System, dead: usize) -> Client {
    let nodes = system.cluster.nodes().iter().enumerate();
    let alive = nodes.filter(|(at, _)| *at != dead);
    let servers: Vec<_> = alive
        .map(|(_, node)| format!("https://{}", node.http))
        .collect();
    Client {
        timeout_seconds: 10,
        ..system.cluster.client(dead).at(servers.join(","))
    }
}

fn progress(client: &Client) -> Option<u64> {
    client.value(PROGRESS_SQL).ok()??.parse().ok()
}
