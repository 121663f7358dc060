//! One agent process with line intakes, killed when dropped.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use crate::cluster::{Cluster, READY_LIMIT};
use crate::loopback;
use crate::process::{self, Process, Signal};
use crate::wait;

/// What may differ between agents.
#[derive(Debug, Clone)]
pub struct Options {
    pub name: String,
    /// Where it connects: nodes, or proxies before them.
    pub servers: Vec<SocketAddr>,
    /// Host readings of this machine every so often; none if absent.
    pub host_interval: Option<Duration>,
    /// Readings of the agent itself every so often; none if absent, so that a test knows every row.
    pub health_interval: Option<Duration>,
    /// Line protocol over TCP.
    pub line: bool,
    /// Each line is answered once it is kept.
    pub line_ack: bool,
    /// How long a reading waits for others before its batch is sealed.
    pub linger: Duration,
    /// Bytes of values, before they are encoded, after which a batch is sealed.
    pub batch_bytes_max: usize,
    /// After so long without a word the link is asked for a sign of life. Whole seconds.
    pub keep_alive: Duration,
    /// Writes every reading it keeps to this file as line protocol.
    pub ledger: bool,
    /// Keys and values of its table `[buffer]`.
    pub buffer: String,
    /// More of its configuration: whole TOML tables that are not written otherwise.
    pub tables: String,
    /// Of its process, besides the harness's own.
    pub environment: Vec<(String, String)>,
    /// What it logs: `RUST_LOG`.
    pub log: String,
}

/// An agent, running or not; its folder and ports stay the same over restarts.
#[derive(Debug)]
pub struct Agent {
    pub name: String,
    /// Line protocol over TCP, each line answered.
    pub line: SocketAddr,
    /// `GET /status` and `/metrics` over HTTP.
    pub http: SocketAddr,
    pub config: PathBuf,
    /// Where it writes its ledger, if told to.
    pub ledger: PathBuf,
    /// Its own folder: the buffer, and what the cluster refused.
    pub data_dir: PathBuf,
    binary: PathBuf,
    log: PathBuf,
    environment: Vec<(String, String)>,
    process: Option<Process>,
}

impl Options {
    /// An agent for every node of the cluster, with a line intake.
    pub fn for_cluster(name: &str, cluster: &Cluster) -> Options {
        Options {
            name: name.to_owned(),
            servers: cluster.nodes().iter().map(|node| node.mqtt).collect(),
            host_interval: None,
            health_interval: None,
            line: true,
            line_ack: true,
            linger: Duration::from_millis(20),
            batch_bytes_max: 256 << 10,
            keep_alive: Duration::from_secs(20),
            ledger: false,
            buffer: "bytes_max = 33554432".to_owned(),
            tables: String::new(),
            environment: Vec::new(),
            log: "info".to_owned(),
        }
    }
}

impl Agent {
    /// Issues its certificate and writes its configuration; starts nothing.
    pub fn prepare(cluster: &Cluster, options: &Options) -> Result<Agent, String> {
        cluster.issue_agent(&options.name)?;
        let port = || loopback::free_port(cluster.address()).map_err(|e| e.to_string());
        let folder = cluster.folder();
        let mut environment = options.environment.clone();
        environment.push(("RUST_LOG".to_owned(), options.log.clone()));
        let agent = Agent {
            name: options.name.clone(),
            line: port()?,
            http: port()?,
            config: folder.join(format!("agent-{}.toml", options.name)),
            ledger: folder.join(format!("ledger-{}.lp", options.name)),
            data_dir: folder.join(format!("data-agent-{}", options.name)),
            binary: cluster.binaries().agent.clone(),
            log: folder.join(format!("agent-{}.log", options.name)),
            environment,
            process: None,
        };
        let text = agent.config_text(options, &cluster.pki_folder());
        fs::write(&agent.config, text).map_err(|e| format!("{}: {e}", agent.config.display()))?;
        Ok(agent)
    }

    /// Starts the process and waits until it answers.
    pub fn run(&mut self) -> Result<(), String> {
        self.spawn()?;
        self.wait_up()
    }

    /// Starts the process; it must not be running.
    pub fn spawn(&mut self) -> Result<(), String> {
        assert!(self.process.is_none(), "agent {} runs already", self.name);
        let mut command = Command::new(&self.binary);
        command.arg("run").arg(&self.config);
        for (key, value) in &self.environment {
            command.env(key, value);
        }
        let process = Process::spawn(&format!("agent {}", self.name), &mut command, &self.log)
            .map_err(|e| format!("cannot start {command:?}: {e}"))?;
        self.process = Some(process);
        Ok(())
    }

    pub fn wait_up(&mut self) -> Result<(), String> {
        let what = format!("agent {} answers", self.name);
        let mut ended = None;
        let up = wait::until(&what, READY_LIMIT, || {
            ended = self.process.as_mut().and_then(Process::ended);
            (ended.is_some() || self.status().is_ok()).then_some(())
        });
        match ended {
            Some(status) => Err(format!(
                "agent {} ended with {status}\n{}",
                self.name,
                self.tail()
            )),
            None => up.map_err(|late| format!("{late}\n{}", self.tail())),
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGSTOP: not one instruction of it follows.
    pub fn freeze(&self) -> Result<(), String> {
        let process = self.process.as_ref().ok_or("the agent is not running")?;
        process.signal(Signal::Stop).map_err(|e| e.to_string())
    }

    /// SIGCONT.
    pub fn go_on(&self) -> Result<(), String> {
        let process = self.process.as_ref().ok_or("the agent is not running")?;
        process.signal(Signal::Continue).map_err(|e| e.to_string())
    }

    /// SIGHUP: it reads its configuration and its certificates again.
    pub fn reload(&self) -> Result<(), String> {
        let process = self.process.as_ref().ok_or("the agent is not running")?;
        process.signal(Signal::HangUp).map_err(|e| e.to_string())
    }

    /// SIGTERM; an error if it does not end by itself or not well.
    pub fn stop(&mut self, limit: Duration) -> Result<(), String> {
        let Some(mut process) = self.process.take() else {
            return Ok(());
        };
        let status = process.stop(limit)?;
        if status.success() {
            Ok(())
        } else {
            Err(format!(
                "agent {} ended with {status}\n{}",
                self.name,
                self.tail()
            ))
        }
    }

    /// Its own account, as JSON.
    pub fn status(&self) -> Result<serde_json::Value, String> {
        let body = self
            .get("/status")
            .map_err(|e| format!("agent {}: {e}", self.name))?;
        serde_json::from_str(&body).map_err(|e| format!("agent {}: {e}: {body}", self.name))
    }

    /// One number of its account: `buffer.unacked_readings`.
    pub fn number(&self, path: &str) -> Result<f64, String> {
        let status = self.status()?;
        let value = path.split('.').fold(&status, |value, key| &value[key]);
        value
            .as_f64()
            .ok_or_else(|| format!("agent {}: no number {path} in {status}", self.name))
    }

    /// Waits until the cluster has acknowledged everything it holds. Nothing may be handed to it
    /// meanwhile.
    pub fn wait_drained(&self, limit: Duration) -> Result<(), String> {
        let mut empty_since = None;
        wait::until(&format!("agent {} is drained", self.name), limit, || {
            let looked = wait::now();
            if OPEN_WORK
                .iter()
                .any(|number| self.number(number) != Ok(0.0))
            {
                empty_since = None;
                return None;
            }
            // Twice empty, further apart than an account lives: the second one is of now.
            let since = *empty_since.get_or_insert(looked);
            (looked.duration_since(since) > STATUS_AGE_MAX).then_some(())
        })
        .map_err(|late| format!("{late}; status: {:?}\n{}", self.status(), self.tail()))
    }

    /// Whether one account says that so many readings came, and that nothing is open.
    pub fn has_sent_all(&self, readings: f64) -> bool {
        self.status().is_ok_and(|status| {
            let is = |name: &str, number| status[name].as_f64() == Some(number);
            is("readings_total", readings) && OPEN_WORK.iter().all(|name| is(name, 0.0))
        })
    }

    pub fn tail(&self) -> String {
        process::tail(&format!("agent {}", self.name), &self.log)
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// The process id while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// `Some` once a process that was started has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(Process::ended)
    }

    /// Bytes of memory that it holds now, while it runs.
    pub fn rss_bytes(&self) -> Option<u64> {
        process::rss_bytes(self.process.as_ref()?.id())
    }

    /// Bytes of all files in its folder: what it takes of the disk.
    pub fn disk_bytes(&self) -> u64 {
        bytes_below(&self.data_dir)
    }

    /// HTTP/1.0 by hand: the harness needs three lines of it.
    fn get(&self, path: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.http, GET_LIMIT)?;
        stream.set_read_timeout(Some(GET_LIMIT))?;
        write!(
            stream,
            "GET {path} HTTP/1.0\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.http
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .ok_or_else(|| io::Error::other("no HTTP answer"))?;
        if head.split(' ').nth(1) == Some("200") {
            Ok(body.to_owned())
        } else {
            Err(io::Error::other(
                head.lines().next().unwrap_or_default().to_owned(),
            ))
        }
    }

    fn config_text(&self, options: &Options, pki: &Path) -> String {
        let name = &self.name;
        let servers: Vec<_> = options
            .servers
            .iter()
            .map(|server| format!("\"{server}\""))
            .collect();
        let linger_ms = options.linger.as_millis();
        let batch_bytes_max = options.batch_bytes_max;
        let keep_alive_seconds = options.keep_alive.as_secs();
        let buffer = &options.buffer;
        let mut text = format!(
            r#"# A throw-away agent.
[agent]
id = "{name}"
data_dir = "data-agent-{name}"

[uplink]
servers = [{}]
ca = "{pki}/nodes-ca.pem"
cert = "{pki}/agent-{name}.pem"
key = "{pki}/agent-{name}.key"
keep_alive_seconds = {keep_alive_seconds}

[batch]
linger_ms = {linger_ms}
bytes_max = {batch_bytes_max}

[buffer]
{buffer}

[health]
listen = "{}"
"#,
            servers.join(", "),
            self.http,
            pki = pki.display(),
        );
        if options.ledger {
            let _ = writeln!(text, "\n[ledger]\nfile = \"{}\"", self.ledger.display());
        }
        match options.health_interval {
            Some(interval) => {
                let interval_ms = interval.as_millis();
                let _ = writeln!(text, "\n[intake.health]\ninterval_ms = {interval_ms}");
            }
            None => text.push_str("\n[intake.health]\nenabled = false\n"),
        }
        if let Some(interval) = options.host_interval {
            let interval_ms = interval.as_millis();
            let _ = writeln!(
                text,
                "\n[intake.host]\nenabled = true\ninterval_ms = {interval_ms}"
            );
        }
        if options.line {
            let _ = writeln!(
                text,
                "\n[[intake.line]]\nlisten = \"tcp://{}\"\nack = {}",
                self.line, options.line_ack
            );
        }
        if !options.tables.is_empty() {
            let _ = writeln!(text, "\n{}", options.tables);
        }
        text
    }
}

/// A file that goes while it is looked at takes nothing.
fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    bytes.sum()
}

/// Numbers of `/status` that are all zero once the cluster has everything.
const OPEN_WORK: [&str; 3] = ["pending_readings", "in_flight_batches", "oldest_unacked_ms"];
/// Where `/status` tells how often a batch was sent again.
pub const RESENT_BATCHES: &str = "batches_resent_total";
/// The account is taken once a second: an older one may not know the last reading yet.
const STATUS_AGE_MAX: Duration = Duration::from_millis(1_100);
/// For its own pages, on a machine that does much else.
const GET_LIMIT: Duration = Duration::from_secs(20);

/// An agent whose log is printed if the test panics.
#[derive(Debug)]
pub struct AgentUnderTest(Agent);

impl AgentUnderTest {
    /// A running agent for all nodes of a cluster.
    pub fn start(cluster: &Cluster, name: &str) -> AgentUnderTest {
        AgentUnderTest::start_with(cluster, &Options::for_cluster(name, cluster))
    }

    pub fn start_with(cluster: &Cluster, options: &Options) -> AgentUnderTest {
        let mut agent =
            AgentUnderTest(Agent::prepare(cluster, options).unwrap_or_else(|why| panic!("{why}")));
        agent.0.run().unwrap_or_else(|why| panic!("{why}"));
        agent
    }

    /// SIGKILL and start again, without waiting for it to answer.
    pub fn restart(&mut self) {
        self.0.kill();
        self.0.spawn().unwrap_or_else(|why| panic!("{why}"));
    }
}

impl std::ops::Deref for AgentUnderTest {
    type Target = Agent;
    fn deref(&self) -> &Agent {
        &self.0
    }
}

impl std::ops::DerefMut for AgentUnderTest {
    fn deref_mut(&mut self) -> &mut Agent {
        &mut self.0
    }
}

impl Drop for AgentUnderTest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = writeln!(io::stderr(), "{}", self.0.tail());
        }
    }
}
