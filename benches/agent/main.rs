//! What an agent costs its gateway: memory, CPU, bytes on flash, time to start, time to drain.
//!
//! `cargo run --release -p benches --bin agent [-- [--agent FILE] [--seconds N] [PART ..]]` runs one
//! agent process against three nodes on this machine and prints figures with their conditions. The
//! parts are steady, disk, disk-commit, start and drain; all of them if none is named. `--agent`
//! measures another build of the program, such as one of the `gateway` profile. The disks are file
//! systems of their own on loop devices, which needs root; what their journals cost shows only over
//! several times `commit`: half an hour.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench reads the clock and prints"
)]

mod device;
mod feed;
mod part;
mod process;

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use tests::binaries::Binaries;
use tests::cluster::{Cluster, Options};

const PARTS: [&str; 5] = ["steady", "disk", "disk-commit", "start", "drain"];

struct Asked {
    agent: Option<PathBuf>,
    length: Duration,
    parts: Vec<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let asked = asked()?;
    let mut binaries = Binaries::build()?;
    if let Some(agent) = asked.agent {
        binaries.agent = agent;
    }
    let folder = tempfile::tempdir()?;
    let mut cluster = Cluster::prepare(&binaries, folder.path(), Options::to_measure())?;
    cluster.start(&mut |step| println!("  {step}"))?;
    println!(
        "conditions: one agent, 3 nodes and the feeder on {} cores, loopback, mutual TLS 1.3, folder {}; \
         a reading is one value; {} s a row\nprogram: {}, {} bytes as built",
        std::thread::available_parallelism()?,
        folder.path().display(),
        asked.length.as_secs(),
        binaries.agent.display(),
        std::fs::metadata(&binaries.agent)?.len(),
    );
    for part in &asked.parts {
        println!("\n{part}");
        match part.as_str() {
            "steady" => part::steady(&cluster, asked.length)?,
            name @ ("disk" | "disk-commit") => part::disk(&mut cluster, name, asked.length)?,
            "start" => part::start(&mut cluster)?,
            "drain" => part::drain(&mut cluster)?,
            other => return Err(format!("no part {other:?}; there are {PARTS:?}").into()),
        }
    }
    Ok(())
}

fn asked() -> Result<Asked, Box<dyn Error>> {
    let mut asked = Asked {
        agent: None,
        length: Duration::from_secs(60),
        parts: Vec::new(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--agent" => asked.agent = Some(words.next().ok_or("--agent needs a file")?.into()),
            "--seconds" => {
                let seconds = words.next().ok_or("--seconds needs a number")?;
                asked.length = Duration::from_secs(seconds.parse()?);
            }
            _ => asked.parts.push(word),
        }
    }
    if asked.parts.is_empty() {
        asked.parts = PARTS.map(str::to_owned).to_vec();
    }
    Ok(asked)
}
