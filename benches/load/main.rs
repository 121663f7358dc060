//! Load on a real cluster: three aggregator processes on this machine, MQTT 5 over mutual TLS.
//!
//! `cargo run --release -p benches --bin load [-- SECONDS]` prints, for batches of 100 and 1,000
//! values and for plain lines of one value: durable values a second, CPU-seconds of all nodes per
//! million values, acknowledgement latency, and the syncs a message that `strace` counts in a
//! run of its own. The generator shares the machine; its CPU is printed beside.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench reads the clock and prints"
)]

mod agent;
mod mqtt;
mod syncs;

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tests::binaries::Binaries;
use tests::cluster::{Cluster, Options};
use tokio::task::JoinSet;

use agent::{Account, Load, Plan};

const CONNECTIONS: usize = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let seconds = std::env::args().nth(1).map_or(Ok(8), |text| text.parse())?;
    let binaries = Binaries::build()?;
    let folder = tempfile::tempdir()?;
    let mut cluster = Cluster::prepare(&binaries, folder.path(), Options::to_measure())?;
    cluster.start(&mut |step| println!("  {step}"))?;
    println!(
        "conditions: 3 nodes and the generator on {} cores, loopback, TLS 1.3 both ways, folder {}, \
         {CONNECTIONS} connections, {seconds} s a row",
        std::thread::available_parallelism()?,
        folder.path().display(),
    );
    println!(
        "{:<22} {:>9} {:>12} {:>14} {:>12} {:>9} {:>9} {:>13}",
        "load",
        "in flight",
        "values/s",
        "CPU-s/M values",
        "gen CPU-s/M",
        "p50 ms",
        "p99 ms",
        "syncs/message"
    );
    for (name, load) in [
        ("batches of 100", Load::Batches { rows: 14 }),
        ("batches of 1,000", Load::Batches { rows: 142 }),
        ("plain lines", Load::Lines),
    ] {
        for in_flight in [1, 32] {
            let plan = Plan {
                load,
                in_flight,
                length: Duration::from_secs(seconds),
            };
            row(&cluster, name, plan)?;
        }
    }
    Ok(())
}

fn row(cluster: &Cluster, name: &str, plan: Plan) -> Result<(), Box<dyn Error>> {
    let nodes: Vec<u32> = (0..cluster.nodes().len())
        .filter_map(|at| cluster.process_id(at))
        .collect();
    let before = (cpu_seconds(&nodes)?, cpu_seconds(&[std::process::id()])?);
    let start = Instant::now();
    let account = run(cluster, &plan)?;
    let elapsed = start.elapsed().as_secs_f64();
    let (nodes_cpu, own_cpu) = (
        cpu_seconds(&nodes)? - before.0,
        cpu_seconds(&[std::process::id()])? - before.1,
    );
    let millions = account.values as f64 / 1e6;
    let counted = syncs::count(&nodes, || {
        let plan = Plan {
            length: Duration::from_secs(2),
            ..plan
        };
        run(cluster, &plan).map(|account| account.latencies.len())
    })?;
    println!(
        "{:<22} {:>9} {:>12.0} {:>14.3} {:>12.3} {:>9.2} {:>9.2} {:>13}",
        name,
        plan.in_flight,
        account.values as f64 / elapsed,
        nodes_cpu / millions,
        own_cpu / millions,
        account.quantile_ms(0.5),
        account.quantile_ms(0.99),
        counted.map_or("no strace".into(), |per_message| format!(
            "{per_message:.3}"
        )),
    );
    Ok(())
}

/// Every connection its own agent, spread over the nodes; sums their accounts.
fn run(cluster: &Cluster, plan: &Plan) -> Result<Account, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut agents = Vec::new();
    for nth in 0..CONNECTIONS {
        let name = format!("load{nth}");
        if !cluster
            .pki_folder()
            .join(format!("agent-{name}.pem"))
            .exists()
        {
            cluster.issue_agent(&name)?;
        }
        let node = &cluster.nodes()[nth % cluster.nodes().len()];
        agents.push((name, node.mqtt));
    }
    let tls = agents
        .iter()
        .map(|(name, _)| agent::tls(&cluster.pki_folder(), name))
        .collect::<Result<Vec<_>, _>>()?;
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for ((name, address), tls) in agents.into_iter().zip(tls) {
            tasks.spawn(agent::run(name, address, Arc::new(tls), *plan));
        }
        let mut sum = Account::default();
        while let Some(ended) = tasks.join_next().await {
            sum.add(ended?.map_err(|e| e.to_string())?);
        }
        Ok(sum)
    })
}

/// User and system time of these processes so far.
fn cpu_seconds(processes: &[u32]) -> Result<f64, Box<dyn Error>> {
    let times = processes.iter().map(|id| tests::process::cpu_seconds(*id));
    let sum: Option<f64> = times.sum();
    Ok(sum.ok_or("a process is gone")?)
}
