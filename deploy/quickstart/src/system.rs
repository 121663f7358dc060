//! What runs: three nodes and an agent in one folder, on a loopback address of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::agent::{Agent, Options};
use harness::binaries::Binaries;
use harness::cluster::{self, Cluster};
use harness::sql::Client;
use harness::wait;

use crate::say;

const AGENT: &str = "this-machine";
const STOP_LIMIT: Duration = Duration::from_secs(60);
const FIRST_READING_LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct System {
    // In the order in which they go: the agent before its cluster, processes before their folder.
    pub(crate) agent: Agent,
    pub(crate) cluster: Cluster,
    folder: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl System {
    /// Starts everything, one line of progress a step, and waits for the first reading by SQL.
    pub(crate) fn start(binaries: &Binaries, dir: Option<&Path>) -> Result<System, String> {
        let start = wait::now();
        let mut progress =
            |step: &str| say(&format!("[{:5.1} s] {step}", start.elapsed().as_secs_f64()));
        let (folder, temporary) = folder(dir)?;
        progress(&format!("folder {}", folder.display()));
        progress("making certificates that are good for nothing else");
        let options = cluster::Options {
            merge_bytes: 16 << 20,
            merge_seconds: 60,
            log_keep_bytes: 64 << 20,
            ..cluster::Options::default()
        };
        let mut cluster = Cluster::prepare(binaries, &folder, options)?;
        cluster.start(&mut progress)?;
        progress("starting the agent: CPU, memory, disks, network of this machine, every second");
        let options = Options {
            host_interval: Some(Duration::from_secs(1)),
            ledger: true,
            ..Options::for_cluster(AGENT, &cluster)
        };
        let mut agent = Agent::prepare(&cluster, &options)?;
        agent.run()?;
        let system = System {
            agent,
            cluster,
            folder,
            _temporary: temporary,
        };
        system.first_reading()?;
        progress("the first readings are stored");
        Ok(system)
    }

    /// What to type in another terminal.
    pub(crate) fn invitation(&self) -> String {
        let password = self.cluster.password();
        let client = self.cluster.client(0);
        format!(
            "\nTry in another terminal:\n  \
             PGPASSWORD={password} psql \"{}\"\n  \
             TRIBUTARY_PASSWORD={password} {} sql \"{}\" {}\n  \
             TRIBUTARY_PASSWORD={password} {} status {}\n  \
             echo 'weather,device=roof temperature=21.5' | nc -q1 {} {}\n\
             Logs and configuration: {}\n",
            self.cluster.psql(0),
            client.cli.display(),
            "SELECT * FROM host_load ORDER BY time DESC LIMIT 5",
            client.flags(),
            client.cli.display(),
            client.flags(),
            self.agent.line.ip(),
            self.agent.line.port(),
            self.folder.display()
        )
    }

    /// A client of a node that is up: the given one, else any.
    pub(crate) fn client(&self) -> Client {
        let servers: Vec<_> = self
            .cluster
            .nodes()
            .iter()
            .map(|node| format!("https://{}", node.http))
            .collect();
        self.cluster.client(0).at(servers.join(","))
    }

    pub(crate) fn ledger(&self) -> &Path {
        &self.agent.ledger
    }

    /// Stops the intake and the agent.
    pub(crate) fn stop_agent(&mut self) -> Result<(), String> {
        self.agent.stop(STOP_LIMIT)
    }

    /// Starts the agent without intake until it has handed over what it holds.
    pub(crate) fn drain_agent(&mut self) -> Result<(), String> {
        let config = &self.agent.config;
        let words = |e| format!("{}: {e}", config.display());
        let text = fs::read_to_string(config).map_err(words)?;
        fs::write(config, text.replace("enabled = true", "enabled = false")).map_err(words)?;
        self.agent.run()?;
        self.agent.wait_drained(STOP_LIMIT)?;
        self.agent.stop(STOP_LIMIT)
    }

    /// Stops all, gently; what does not stop is killed and told.
    pub(crate) fn stop(&mut self) -> Result<(), String> {
        let agent = self.agent.stop(STOP_LIMIT);
        for node in 0..self.cluster.nodes().len() {
            self.cluster.stop(node, STOP_LIMIT)?;
        }
        agent
    }

    fn first_reading(&self) -> Result<(), String> {
        let client = self.client();
        wait::until("the first reading by SQL", FIRST_READING_LIMIT, || {
            client
                .value("SELECT count(*) FROM host_load")
                .ok()?
                .filter(|count| count != "0")
        })
        .map(|_count| ())
        .map_err(|late| format!("{late}\n{}\n{}", self.agent.tail(), self.cluster.tails()))
    }
}

fn folder(dir: Option<&Path>) -> Result<(PathBuf, Option<tempfile::TempDir>), String> {
    match dir {
        Some(dir) => {
            // Not reused: certificates and data of two runs do not fit together.
            fs::create_dir(dir).map_err(|e| {
                format!(
                    "cannot make {}: {e}. Name a folder that does not exist",
                    dir.display()
                )
            })?;
            Ok((dir.to_owned(), None))
        }
        None => {
            let temporary = tempfile::Builder::new()
                .prefix("tributary-quickstart-")
                .tempdir()
                .map_err(|e| format!("no temporary folder: {e}"))?;
            Ok((temporary.path().to_owned(), Some(temporary)))
        }
    }
}
