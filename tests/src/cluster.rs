//! One or three aggregator processes on a loopback address of their own, with throw-away
//! certificates, in one folder; killed when dropped, also by a panic.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::binaries::Binaries;
use crate::loopback;
use crate::net;
use crate::process::{self, Process, Signal};
use crate::sql::Client;
use crate::wait;

/// Name of every test cluster, as its certificates carry it.
pub const CLUSTER: &str = "demo";
/// Who reads by SQL; may log in by password.
pub const USER: &str = "ops";
/// A loaded two-core machine in a debug build takes its time; a hang takes longer.
pub const READY_LIMIT: Duration = Duration::from_secs(60);
const NAMES: [&str; 3] = ["a", "b", "c"];
/// Below the first port that a node has on a host of its own.
const FIRST_PORT: u16 = 7_000;
/// One question to one node, retries not counted.
const ASK_SECONDS: u64 = 30;

/// What may differ between clusters.
#[derive(Debug, Clone)]
pub struct Options {
    /// 1 or 3.
    pub nodes: usize,
    /// Log bytes after which level 0 becomes segments. Small in tests, so that rare paths run all
    /// the time.
    pub merge_bytes: u64,
    /// The same by age.
    pub merge_seconds: u64,
    /// A partition that is over becomes one segment once nothing came for it for so long.
    pub seal_rest_seconds: u64,
    /// Log kept behind a merge for slow followers.
    pub log_keep_bytes: u64,
    /// What the nodes log: `RUST_LOG`.
    pub log: String,
    /// Where each node lives; empty: all on one loopback address.
    pub hosts: Vec<Host>,
}

/// A host of its own for a node.
#[derive(Debug, Clone)]
pub struct Host {
    pub address: IpAddr,
    /// The network namespace that has the address.
    pub namespace: String,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            nodes: 3,
            merge_bytes: 1 << 20,
            merge_seconds: 5,
            seal_rest_seconds: 60,
            log_keep_bytes: 1 << 20,
            log: "info".to_owned(),
            hosts: Vec::new(),
        }
    }
}

impl Options {
    /// For figures: merges as large as in production, and no log but warnings.
    pub fn to_measure() -> Options {
        Options {
            merge_bytes: 64 << 20,
            merge_seconds: 600,
            log_keep_bytes: 64 << 20,
            log: "warn".to_owned(),
            ..Options::default()
        }
    }
}

/// A cluster under test, or under a newcomer's eyes.
#[derive(Debug)]
pub struct Cluster {
    binaries: Binaries,
    folder: PathBuf,
    address: IpAddr,
    password: String,
    nodes: Vec<Node>,
    options: Options,
}

/// One aggregator.
#[derive(Debug)]
pub struct Node {
    pub name: String,
    pub mqtt: SocketAddr,
    pub cluster: SocketAddr,
    pub postgres: SocketAddr,
    pub http: SocketAddr,
    pub config: PathBuf,
    namespace: Option<String>,
    environment: Vec<(String, String)>,
    process: Option<Process>,
}

impl Cluster {
    /// Makes certificates, configurations and node folders in `folder`; starts nothing.
    pub fn prepare(
        binaries: &Binaries,
        folder: &Path,
        options: Options,
    ) -> Result<Cluster, String> {
        let address = loopback::own_address();
        let folder = folder
            .canonicalize()
            .map_err(|e| format!("{}: {e}", folder.display()))?;
        let mut cluster = Cluster {
            binaries: binaries.clone(),
            password: format!("throw-away-{:x}", std::process::id()),
            nodes: Vec::new(),
            folder,
            address,
            options,
        };
        cluster.pki(&["init", "--cluster", CLUSTER])?;
        cluster.pki(&["user", USER])?;
        for (at, name) in NAMES.iter().take(cluster.options.nodes).enumerate() {
            let host = cluster.options.hosts.get(at).cloned();
            let told = host.as_ref().map_or(address, |host| host.address);
            let told = told.to_string();
            cluster.pki(&["node", name, "--host", &told, "--host", "localhost"])?;
            let node = cluster
                .place(name, host)
                .map_err(|e| format!("no free port: {e}"))?;
            cluster.nodes.push(node);
        }
        for node in &cluster.nodes {
            let text = cluster.config_text(node);
            fs::write(&node.config, text).map_err(|e| format!("{}: {e}", node.config.display()))?;
        }
        Ok(cluster)
    }

    /// Initialises the first node, adds the user and runs all nodes. `progress` is told each step.
    pub fn start(&mut self, progress: &mut dyn FnMut(&str)) -> Result<(), String> {
        let first = self.nodes[0].config.clone();
        progress("initialising node a");
        process::run(self.aggregator(&["init"]).arg("--config").arg(&first))?;
        // One file of verifiers serves all three, as one pki folder does.
        process::run(
            self.aggregator(&["user", "add", USER])
                .arg("--config")
                .arg(&first)
                .env("TRIBUTARY_PASSWORD", &self.password),
        )?;
        for at in 0..self.nodes.len() {
            progress(&format!("starting node {}", self.nodes[at].name));
            self.run(at)?;
        }
        progress("waiting until every node answers SQL");
        self.wait_ready()?;
        self.wait_voters()
    }

    /// Waits until every node votes and has the whole log. One that is still a learner answers too,
    /// but stands in for nobody: until it votes, a quorum is one of the others alone.
    fn wait_voters(&self) -> Result<(), String> {
        let votes = |node: &serde_json::Value| {
            let is_voter = matches!(node["role"].as_str(), Some("leader" | "follower"));
            is_voter && node["lag"].as_u64() == Some(0)
        };
        wait::until("every node votes", READY_LIMIT, || {
            let status = self.client(self.leader()?).status().ok()?;
            let nodes = status["nodes"].as_array()?;
            (nodes.len() == self.nodes.len() && nodes.iter().all(votes)).then_some(())
        })
    }

    /// Starts the process of one node; it must not be running.
    pub fn run(&mut self, at: usize) -> Result<(), String> {
        let mut command = match &self.nodes[at].namespace {
            Some(namespace) => net::inside(namespace, &self.binaries.aggregator),
            None => Command::new(&self.binaries.aggregator),
        };
        let environment = self.nodes[at].environment.iter();
        command
            .args(["run", "--config"])
            .arg(&self.nodes[at].config)
            .env("RUST_LOG", &self.options.log)
            .envs(environment.map(|(key, value)| (key, value)));
        let log = self.log(at);
        let node = &mut self.nodes[at];
        assert!(node.process.is_none(), "node {} runs already", node.name);
        let process = Process::spawn(&format!("node {}", node.name), &mut command, &log)
            .map_err(|e| format!("cannot start {command:?}: {e}"))?;
        node.process = Some(process);
        Ok(())
    }

    /// SIGKILL to one node.
    pub fn kill(&mut self, at: usize) {
        if let Some(mut process) = self.nodes[at].process.take() {
            process.kill();
        }
    }

    /// SIGKILL to all, as near to "at once" as signals allow.
    pub fn kill_all(&mut self) {
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        self.kill_many(&all);
    }

    /// SIGKILL to some, as near to "at once" as signals allow.
    pub fn kill_many(&mut self, nodes: &[usize]) {
        // Who is gone already is not missed.
        let _ = self.signal_many(nodes, "KILL");
        for at in nodes {
            self.kill(*at);
        }
    }

    /// Freezes some at once: not one instruction of theirs follows.
    pub fn freeze_many(&self, nodes: &[usize]) -> Result<(), String> {
        self.signal_many(nodes, "STOP")
    }

    /// Those that were frozen go on.
    pub fn unfreeze_many(&self, nodes: &[usize]) -> Result<(), String> {
        self.signal_many(nodes, "CONT")
    }

    /// One shell command: the kernel sees the signals within microseconds.
    fn signal_many(&self, nodes: &[usize], signal: &str) -> Result<(), String> {
        let running = nodes.iter().filter_map(|at| self.process_id(*at));
        let ids: Vec<String> = running.map(|id| id.to_string()).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let script = format!("kill -{signal} {}", ids.join(" "));
        process::run(Command::new("sh").args(["-c", &script])).map(|_told| ())
    }

    /// `Some` once the process of a node has ended by itself; it may be run again then.
    pub fn ended(&mut self, at: usize) -> Option<ExitStatus> {
        let process = &mut self.nodes[at].process;
        let status = process.as_mut().and_then(Process::ended)?;
        *process = None;
        Some(status)
    }

    /// SIGTERM to one node; an error if it does not end by itself.
    pub fn stop(&mut self, at: usize, limit: Duration) -> Result<(), String> {
        match self.nodes[at].process.take() {
            Some(mut process) => process.stop(limit).map(|_status| ()),
            None => Ok(()),
        }
    }

    pub fn signal(&self, at: usize, signal: Signal) -> Result<(), String> {
        let process = self.nodes[at]
            .process
            .as_ref()
            .ok_or("the node is not running")?;
        process.signal(signal).map_err(|e| e.to_string())
    }

    /// What the processes of the nodes go by, from their next start.
    pub fn set_environment(&mut self, at: usize, environment: Vec<(String, String)>) {
        self.nodes[at].environment = environment;
    }

    /// Waits until every running node answers a linearizable question.
    pub fn wait_ready(&mut self) -> Result<(), String> {
        for at in 0..self.nodes.len() {
            if self.nodes[at].process.is_none() {
                continue;
            }
            self.wait_node_ready(at)?;
        }
        Ok(())
    }

    /// Waits until one node answers a linearizable question.
    pub fn wait_node_ready(&mut self, at: usize) -> Result<(), String> {
        let client = self.client(at);
        let mut last = String::new();
        let mut ended = None;
        let what = format!("node {} answers SQL", self.nodes[at].name);
        let ready = wait::until(&what, READY_LIMIT, || {
            let process = self.nodes[at].process.as_mut();
            ended = process.and_then(Process::ended);
            if ended.is_some() {
                return Some(());
            }
            client
                .value("SELECT 1 AS one")
                .map_err(|refused| last = refused.message)
                .ok()?;
            Some(())
        });
        match (ready, ended) {
            (Ok(()), None) => Ok(()),
            (Ok(()), Some(status)) => Err(format!(
                "node {} ended with {status}\n{}",
                self.nodes[at].name,
                self.tail(at)
            )),
            (Err(late), _) => {
                let threads = self.process_id(at).map(process::threads);
                let threads = threads.unwrap_or_default();
                Err(format!(
                    "{late}; it says: {last}\n{threads}{}",
                    self.tail(at)
                ))
            }
        }
    }

    /// The index of the leader as the running nodes see it, if one of them knows.
    pub fn leader(&self) -> Option<usize> {
        let running = (0..self.nodes.len()).filter(|at| self.nodes[*at].process.is_some());
        running.into_iter().find_map(|at| {
            let name = leader_name(&self.client(at).status().ok()?)?;
            let leader = self.nodes.iter().position(|node| node.name == name)?;
            // A node may still name one that was killed.
            self.nodes[leader].process.is_some().then_some(leader)
        })
    }

    /// Waits for a running leader.
    pub fn wait_leader(&self) -> Result<usize, String> {
        wait::until("a leader", READY_LIMIT, || self.leader())
            .map_err(|late| format!("{late}\n{}", self.tails()))
    }

    /// The SQL client of one node.
    pub fn client(&self, at: usize) -> Client {
        Client {
            cli: self.binaries.cli.clone(),
            server: format!("https://{}", self.nodes[at].http),
            ca: self.pki_folder().join("nodes-ca.pem"),
            user: USER.to_owned(),
            password: self.password.clone(),
            timeout_seconds: ASK_SECONDS,
        }
    }

    /// A connection string for `psql`; the password goes by `PGPASSWORD`.
    pub fn psql(&self, at: usize) -> String {
        let Node { postgres, .. } = &self.nodes[at];
        format!(
            "host={} port={} dbname=tributary user={USER} sslmode=verify-full sslrootcert={}",
            postgres.ip(),
            postgres.port(),
            self.pki_folder().join("nodes-ca.pem").display()
        )
    }

    /// Issues the certificate of an agent: its files lie in the pki folder as `agent-<name>.*`.
    pub fn issue_agent(&self, name: &str) -> Result<(), String> {
        self.pki(&["agent", name])
    }

    /// Runs `tributary-aggregator pki ..` on this cluster's folder.
    pub fn pki(&self, arguments: &[&str]) -> Result<(), String> {
        let mut command = self.aggregator(&["pki"]);
        command.args(arguments).arg("--dir").arg(self.pki_folder());
        process::run(&mut command).map(|_told| ())
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    pub fn address(&self) -> IpAddr {
        self.address
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn password(&self) -> &str {
        &self.password
    }

    pub fn pki_folder(&self) -> PathBuf {
        self.folder.join("pki")
    }

    /// The process id of one running node.
    pub fn process_id(&self, at: usize) -> Option<u32> {
        self.nodes[at].process.as_ref().map(Process::id)
    }

    /// The end of every node's log.
    pub fn tails(&self) -> String {
        (0..self.nodes.len())
            .map(|at| self.tail(at))
            .collect::<Vec<_>>()
            .join("\n")
    }

    pub fn log(&self, at: usize) -> PathBuf {
        self.folder
            .join(format!("node-{}.log", self.nodes[at].name))
    }

    fn tail(&self, at: usize) -> String {
        process::tail(&format!("node {}", self.nodes[at].name), &self.log(at))
    }

    fn aggregator(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binaries.aggregator);
        command.args(arguments);
        command
    }

    fn place(&self, name: &str, host: Option<Host>) -> io::Result<Node> {
        // On a host of its own every port is free.
        let mut next = FIRST_PORT;
        let mut port = || match &host {
            Some(host) => {
                next += 1;
                Ok(SocketAddr::new(host.address, next))
            }
            None => loopback::free_port(self.address),
        };
        Ok(Node {
            name: name.to_owned(),
            mqtt: port()?,
            cluster: port()?,
            postgres: port()?,
            http: port()?,
            config: self.folder.join(format!("node-{name}.toml")),
            namespace: host.map(|host| host.namespace),
            environment: Vec::new(),
            process: None,
        })
    }

    fn config_text(&self, node: &Node) -> String {
        let Node {
            name,
            mqtt,
            cluster,
            postgres,
            http,
            ..
        } = node;
        let Options {
            merge_bytes,
            merge_seconds,
            seal_rest_seconds,
            log_keep_bytes,
            ..
        } = self.options;
        let mut text = format!(
            r#"# A throw-away node: certificates and passwords of this folder are good for nothing else.
name = "{name}"
cluster = "{CLUSTER}"
data_dir = "data-{name}"

[listen]
mqtt = "{mqtt}"
cluster = "{cluster}"
postgres = "{postgres}"
http = "{http}"

[tls]
cert = "pki/node-{name}.pem"
key = "pki/node-{name}.key"
nodes_ca = "pki/nodes-ca.pem"
agents_ca = "pki/agents-ca.pem"
users_ca = "pki/users-ca.pem"
revoked = "pki/revoked.toml"
revoked_poll_ms = 100

[timing]
heartbeat_ms = 100
election_ms_min = 400
election_ms_max = 800

[store]
merge_bytes = {merge_bytes}
merge_seconds = {merge_seconds}
seal_rest_seconds = {seal_rest_seconds}
log_keep_bytes = {log_keep_bytes}

[users]
file = "users.toml"
"#
        );
        for peer in self.nodes.iter().filter(|peer| peer.name != *name) {
            let Node { name, cluster, .. } = peer;
            let _ = writeln!(
                text,
                "\n[[peers]]\nname = \"{name}\"\naddress = \"{cluster}\""
            );
        }
        text
    }
}

/// The name of the leader in `/v1/status`: named there, or by its id in the list of nodes.
pub fn leader_name(status: &serde_json::Value) -> Option<String> {
    let leader = &status["leader"];
    if let Some(name) = leader.as_str() {
        return Some(name.to_owned());
    }
    let id = leader.as_u64()?;
    let nodes = status["nodes"].as_array()?;
    let node = nodes.iter().find(|node| node["id"].as_u64() == Some(id))?;
    node["name"].as_str().map(str::to_owned)
}

/// Waits until no other test of this process has a cluster, and keeps others waiting.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A cluster in a folder of its own that exists as long as the test; its logs are printed if the
/// test panics. Tests that hold one run one after another: two clusters on two cores only show
/// that two cores are few.
#[derive(Debug)]
pub struct ClusterUnderTest {
    cluster: Cluster,
    // After the cluster: its processes end before their folder goes.
    _folder: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl ClusterUnderTest {
    /// A running cluster of so many nodes.
    pub fn start(nodes: usize) -> ClusterUnderTest {
        ClusterUnderTest::start_with(Options {
            nodes,
            ..Options::default()
        })
    }

    pub fn start_with(options: Options) -> ClusterUnderTest {
        let mut this = ClusterUnderTest::prepare(options);
        if let Err(why) = this.cluster.start(&mut |_step| {}) {
            panic!("{why}");
        }
        this
    }

    /// Everything but the processes.
    pub fn prepare(options: Options) -> ClusterUnderTest {
        let turn = turn();
        let binaries = Binaries::build().unwrap_or_else(|why| panic!("{why}"));
        let folder = tempfile::Builder::new()
            .prefix("tributary-test-")
            .tempdir()
            .expect("a folder for temporary files");
        let cluster = Cluster::prepare(&binaries, folder.path(), options)
            .unwrap_or_else(|why| panic!("{why}"));
        ClusterUnderTest {
            cluster,
            _folder: folder,
            _turn: turn,
        }
    }

    /// Kills and starts a node again, and waits until it answers.
    pub fn restart(&mut self, at: usize) {
        self.cluster.kill(at);
        self.cluster
            .run(at)
            .and_then(|()| self.cluster.wait_node_ready(at))
            .unwrap_or_else(|why| panic!("node {at} does not come back: {why}"));
    }
}

impl std::ops::Deref for ClusterUnderTest {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl std::ops::DerefMut for ClusterUnderTest {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

impl Drop for ClusterUnderTest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = writeln!(io::stderr(), "{}", self.cluster.tails());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_is_found_by_name_or_by_id() {
        let by_id = serde_json::json!({"leader": 2, "nodes": [{"id": 2, "name": "b"}]});
        assert_eq!(leader_name(&by_id).as_deref(), Some("b"));
        assert_eq!(
            leader_name(&serde_json::json!({"leader": "c"})).as_deref(),
            Some("c")
        );
        assert_eq!(leader_name(&serde_json::json!({"leader": null})), None);
    }
}
