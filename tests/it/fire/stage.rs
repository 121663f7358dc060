//! What a storm rages on: three nodes and two agents, each on a disk of its own, and devices that
//! write down what they were told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use tests::agent::{self, AgentUnderTest};
use tests::cluster::{self, ClusterUnderTest};
use tests::dice::Dice;
use tests::disk::Disk;
use tests::oracle::Watermarks;
use tests::process;
use tests::source::Source;

use super::{finish, look};

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
    pub counts: BTreeMap<&'static str, u64>,
}

impl Tally {
    pub(crate) fn note(&mut self, what: &'static str, times: usize) {
        *self.counts.entry(what).or_default() += times as u64;
    }

    pub(crate) fn add(&mut self, other: &Tally) {
        self.rounds += other.rounds;
        self.kept += other.kept;
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
    agents: Vec<AgentUnderTest>,
    sources: Vec<Source>,
    node_disks: Vec<Disk>,
    agent_disks: Vec<Disk>,
    marks: Watermarks,
    seed: u64,
}

impl Stage {
    pub(crate) fn set(seed: u64) -> Stage {
        let options = cluster::Options {
            nodes: NODES,
            // Often, so that rare paths run all the time.
            merge_seconds: 2,
            ..cluster::Options::default()
        };
        let cluster = ClusterUnderTest::prepare(options);
        let mut stage = Stage {
            cluster,
            tally: Tally::default(),
            agents: Vec::new(),
            sources: Vec::new(),
            node_disks: Vec::new(),
            agent_disks: Vec::new(),
            marks: Watermarks::default(),
            seed,
        };
        for at in 0..NODES {
            let folder = format!("data-{}", stage.cluster.nodes()[at].name);
            let disk = make_disk(stage.cluster.folder(), &folder);
            stage.node_disks.push(disk);
        }
        let started = stage.cluster.start(&mut |_step| {});
        started.unwrap_or_else(|why| panic!("{why}"));
        for name in AGENTS {
            let disk = make_disk(stage.cluster.folder(), &format!("data-agent-{name}"));
            stage.agent_disks.push(disk);
            let options = agent::Options::for_cluster(name, &stage.cluster);
            let agent = AgentUnderTest::start_with(&stage.cluster, &options);
            let source = Source::start(agent.line, name, LINES_PER_SECOND);
            stage.sources.push(source);
            stage.agents.push(agent);
        }
        stage
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

    pub(crate) fn kill_agent(&mut self, at: usize) {
        self.tally.note("agent_kill", 1);
        self.agents[at].restart();
    }

    pub(crate) fn cut_agent_power(&mut self, at: usize) {
        self.tally.note("agent_power_cut", 1);
        let agent = &mut self.agents[at];
        agent.freeze().unwrap();
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
