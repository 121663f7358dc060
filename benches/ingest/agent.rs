//! A real agent process that is fed as fast as it takes lines.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tests::agent::{Agent, Options};
use tests::cluster::Cluster;
use tests::process::{Process, cpu_seconds};
use tests::{loopback, wait};

use crate::Failed;
use crate::lines::Set;

const LIMIT: Duration = Duration::from_secs(60);
/// Enough for all of a row, and a sync each second at least.
const BUFFER: &str = "bytes_max = 1073741824\nmax_unsafe_ms = 1000";

/// What an agent did with the lines it was given.
pub(crate) struct Sustained {
    pub(crate) values: f64,
    /// From the first byte until all were taken; the agent tells with half a second's delay.
    pub(crate) seconds: f64,
    pub(crate) agent_cpu_seconds: f64,
    pub(crate) own_cpu_seconds: f64,
    pub(crate) journal_bytes: f64,
    /// From then until all was synced.
    pub(crate) behind_seconds: f64,
    /// Readings refused, dropped or lost.
    pub(crate) dropped: u64,
}

/// Feeds an agent of its own for so long.
pub(crate) fn run(cluster: &Cluster, set: &Set, length: Duration) -> Result<Sustained, Failed> {
    let name = format!("ingest-{}", set.name);
    let socket = cluster.folder().join(format!("{name}.sock"));
    let agent = prepare(cluster, &name, &socket)?;
    let mut command = Command::new(&cluster.binaries().agent);
    command
        .arg("run")
        .arg(&agent.config)
        .env("RUST_LOG", "error");
    let mut process = Process::spawn(&name, &mut command, agent.log())?;
    wait::until("the agent answers", LIMIT, || agent.status().ok())?;
    let mut stream = UnixStream::connect(&socket)?;
    let cpu = || -> Result<(f64, f64), Failed> {
        let both = cpu_seconds(process.id()).zip(cpu_seconds(std::process::id()));
        Ok(both.ok_or("the agent is gone")?)
    };
    let (agent_cpu, own_cpu) = cpu()?;
    let start = Instant::now();
    let mut rounds = 0_usize;
    while start.elapsed() < length {
        stream.write_all(set.text.as_bytes())?;
        rounds += 1;
    }
    drop(stream);
    let lines = (rounds * set.lines().len()) as u64;
    let number = |name: &str| agent.status().ok()?[name].as_u64();
    wait::until("all lines are taken", LIMIT, || {
        number("readings_total").filter(|taken| *taken >= lines)
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let (agent_cpu_after, own_cpu_after) = cpu()?;
    wait::until("all readings are on disk", LIMIT, || {
        number("unsafe_readings").filter(|readings| *readings == 0)
    })?;
    let behind_seconds = start.elapsed().as_secs_f64() - seconds;
    let status = agent.status()?;
    let intake = &status["intakes"][0];
    let dropped = [
        &status["not_kept_total"],
        &status["readings_lost_total"],
        &intake["refused_total"],
        &intake["dropped_total"],
    ];
    let dropped = dropped.map(|number| number.as_u64().unwrap_or(u64::MAX));
    let journal_bytes = status["journal_bytes_written_total"].as_f64();
    process.stop(LIMIT)?;
    Ok(Sustained {
        values: rounds as f64 * set.values as f64,
        seconds,
        agent_cpu_seconds: agent_cpu_after - agent_cpu,
        own_cpu_seconds: own_cpu_after - own_cpu,
        journal_bytes: journal_bytes.unwrap_or(f64::NAN),
        behind_seconds,
        dropped: dropped.into_iter().fold(0, u64::saturating_add),
    })
}

/// Its certificate and configuration: nobody listens where it connects to.
fn prepare(cluster: &Cluster, name: &str, socket: &Path) -> Result<Agent, Failed> {
    let options = Options {
        servers: vec![loopback::free_port(cluster.address())?],
        line: false,
        linger: Duration::from_secs(1),
        buffer: BUFFER.to_owned(),
        ..Options::for_cluster(name, cluster)
    };
    let agent = Agent::prepare(cluster, &options)?;
    let mut config = OpenOptions::new().append(true).open(&agent.config)?;
    let listen = socket.display();
    writeln!(config, "\n[[intake.line]]\nlisten = \"unix://{listen}\"")?;
    Ok(agent)
}
