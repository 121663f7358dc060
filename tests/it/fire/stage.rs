//! What a storm rages on: three nodes and two agents, each on a disk of its own, and devices that
//! write down what they were told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use tests::agent::{self, AgentUnderTest};
use tests::clock::{self, Clock};
use tests::cluster::{self, ClusterUnderTest};
use tests::dice::Dice;
use tests::disk::Disk;
use tests::net::{self, Net};
use tests::oracle::{self, Watermarks};
use tests::process;
use tests::source::Source;
use tests::sql::Client;

use super::{finish, look, streams};

pub(crate) const NODES: usize = 3;
const AGENTS: [&str; 2] = ["gw1", "gw2"];
const LINES_PER_SECOND: u32 = 200;
/// Sparse: only what is written takes room.
const DISK_BYTES: u64 = 512 << 20;

/// How often what was done, and how many readings the devices were told are kept.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    pub rounds: u64,
    pub kept: u64,
    /// Answers of nodes in the middle of faults.
    pub answers: u64,
    pub counts: BTreeMap<&'static str, u64>,
}

impl Tally {
    pub(crate) fn note(&mut self, what: &'static str, times: usize) {
        *self.counts.entry(what).or_default() += times as u64;
    }

    pub(crate) fn add(&mut self, other: &Tally) {
        self.rounds += other.rounds;
        self.kept += other.kept;
        self.answers += other.answers;
        for (what, count) in &other.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }
}

/// A running cluster with agents and devices. It leaves no process and no mount behind, whatever
/// happens.
pub(crate) struct Stage {
    pub cluster: ClusterUnderTest,
    pub tally: Tally,
    pub agents: Vec<AgentUnderTest>,
    pub node_disks: Vec<Disk>,
    /// The nodes' clocks, if they are to lie.
    pub clocks: Vec<Clock>,
    net: Option<Net>,
    sources: Vec<Source>,
    agent_disks: Vec<Disk>,
    marks: Watermarks,
    seed: u64,
}

impl Stage {
    /// With real disks on this machine's own network and clock.
    pub(crate) fn set(seed: u64) -> Stage {
        let mut stage = Stage::build(seed, None);
        stage.start();
        stage
    }

    /// With networks and clocks of its own as well, as far as this machine has them.
    pub(crate) fn set_whole(seed: u64) -> Stage {
        let net = match net::cannot() {
            None => Some(Net::make(NODES).unwrap_or_else(|why| panic!("{why}"))),
            Some(_) => None,
        };
        let mut stage = Stage::build(seed, net);
        if let Ok(library) = clock::library() {
            for at in 0..NODES {
                let file = stage.cluster.folder().join(format!("clock-{at}"));
                let clock = Clock::set(file, 0);
                let environment = clock.environment(&library);
                stage.cluster.set_environment(at, environment);
                stage.clocks.push(clock);
            }
        }
        stage.start();
        stage
    }

    fn build(seed: u64, net: Option<Net>) -> Stage {
        let hosts = net.iter().flat_map(|net| {
            let host = |at| cluster::Host {
                address: net.address(at),
                namespace: net.namespace(at),
            };
            (0..net.hosts()).map(host)
        });
        let options = cluster::Options {
            nodes: NODES,
            // Often, so that rare paths run all the time.
            merge_seconds: 2,
            hosts: hosts.collect(),
            ..cluster::Options::default()
        };
        Stage {
            cluster: ClusterUnderTest::prepare(options),
            tally: Tally::default(),
            agents: Vec::new(),
            node_disks: Vec::new(),
            clocks: Vec::new(),
            net,
            sources: Vec::new(),
            agent_disks: Vec::new(),
            marks: Watermarks::default(),
            seed,
        }
    }

    fn start(&mut self) {
        for at in 0..NODES {
            let folder = format!("data-{}", self.cluster.nodes()[at].name);
            let disk = make_disk(self.cluster.folder(), &folder);
            self.node_disks.push(disk);
        }
        let started = self.cluster.start(&mut |_step| {});
        started.unwrap_or_else(|why| panic!("{why}"));
        for name in AGENTS {
            let disk = make_disk(self.cluster.folder(), &format!("data-agent-{name}"));
            self.agent_disks.push(disk);
            let options = agent::Options::for_cluster(name, &self.cluster);
            let agent = AgentUnderTest::start_with(&self.cluster, &options);
            let source = Source::start(agent.line, name, LINES_PER_SECOND);
            self.sources.push(source);
            self.agents.push(agent);
        }
    }

    /// SIGKILL to some nodes at once.
    pub(crate) fn kill(&mut self, nodes: &[usize]) {
        self.tally.note("kill", self.running(nodes).len());
        self.cluster.kill_many(nodes);
    }

    /// Cuts some nodes from power at once. Frozen first: a sync that the kernel says went well while
    /// the disk goes away is one that nobody hears of.
    pub(crate) fn cut_power(&mut self, nodes: &[usize]) {
        self.tally.note("power_cut", nodes.len());
        self.cluster.freeze_many(nodes).unwrap();
        for at in nodes {
            self.node_disks[*at].cut().unwrap();
        }
        self.cluster.kill_many(nodes);
        for at in nodes {
            self.node_disks[*at].restore().unwrap();
        }
    }

    /// Starts those of the nodes that do not run.
    pub(crate) fn run(&mut self, nodes: &[usize]) {
        for at in nodes {
            if self.cluster.process_id(*at).is_none() {
                self.cluster.run(*at).unwrap();
            }
        }
    }

    /// Those that were frozen and still run go on.
    pub(crate) fn go_on(&mut self, nodes: &[usize]) {
        self.cluster.unfreeze_many(nodes).unwrap();
    }

    /// The nodes' own network.
    pub(crate) fn net(&self) -> &Net {
        let net = self.net.as_ref();
        net.expect("a fault of the network is drawn only where there is one")
    }

    pub(crate) fn kill_agent(&mut self, at: usize) {
        self.tally.note("agent_kill", 1);
        self.agents[at].restart();
    }

    pub(crate) fn cut_agent_power(&mut self, at: usize) {
        self.tally.note("agent_power_cut", 1);
        let agent = &mut self.agents[at];
        // One that has ended by itself has no more to say.
        let _ = agent.freeze();
        self.agent_disks[at].cut().unwrap();
        agent.kill();
        self.agent_disks[at].restore().unwrap();
        agent.spawn().unwrap();
    }

    /// Everything is well: every node answers, no stream has gone back, every device is told "kept".
    pub(crate) fn await_well(&mut self, dice: &mut Dice) {
        self.cluster
            .wait_ready()
            .unwrap_or_else(|why| panic!("{why}"));
        for agent in &mut self.agents {
            agent.wait_up().unwrap_or_else(|why| panic!("{why}"));
        }
        let node = dice.below(NODES);
        look(&self.cluster, node, &mut self.marks);
    }

    /// Asks each node that runs, whatever is broken: it may refuse, or not answer at all, but what it
    /// answers is no older than what any node has answered before.
    pub(crate) fn glance(&mut self) {
        for node in self.running(&[0, 1, 2]) {
            let client = Client {
                timeout_seconds: 1,
                ..self.cluster.client(node)
            };
            if let Ok(streams) = streams(&client) {
                let findings = self.marks.look(streams);
                oracle::assert_clean(&format!("an answer of node {node} under faults"), &findings);
                self.tally.answers += 1;
            }
        }
    }

    /// The end: everything is drained, and every reading compared, at every node.
    pub(crate) fn judge(mut self, what: &str) -> Tally {
        let sources = std::mem::take(&mut self.sources);
        let kept = finish(what, &mut self.cluster, &self.agents, sources);
        self.tally.kept = kept as u64;
        self.tally.clone()
    }

    /// Those of the nodes that run.
    pub(crate) fn running(&self, nodes: &[usize]) -> Vec<usize> {
        let runs = |at: &usize| self.cluster.process_id(*at).is_some();
        nodes.iter().copied().filter(runs).collect()
    }

    /// For whoever looks for the cause: logs and disks, as they were.
    fn keep_evidence(&self) {
        let place = env::temp_dir().join(format!("tributary-fire-{}", self.seed));
        let _ = fs::create_dir_all(&place);
        let files = fs::read_dir(self.cluster.folder()).into_iter().flatten();
        let is_kept = |path: &PathBuf| {
            let extension = path.extension().and_then(|extension| extension.to_str());
            matches!(extension, Some("log" | "image"))
        };
        let kept = files.flatten().map(|file| file.path()).filter(is_kept);
        let mut copy = Command::new("cp");
        copy.arg("--sparse=always").args(kept).arg(&place);
        let _ = process::run(&mut copy);
        eprintln!("logs and disks of it are kept in {}", place.display());
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Nobody may hold a file of a disk that is to be unmounted.
        for agent in &mut self.agents {
            agent.kill();
        }
        self.cluster.kill_all();
        self.node_disks.clear();
        self.agent_disks.clear();
        if std::thread::panicking() {
            self.keep_evidence();
        }
    }
}

fn make_disk(folder: &Path, name: &str) -> Disk {
    let image = folder.join(format!("{name}.image"));
    Disk::make(&image, &folder.join(name), DISK_BYTES).unwrap_or_else(|why| panic!("{why}"))
}
