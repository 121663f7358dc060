//! One run: agents send while power is cut and links are cut, then everything is healed and every
//! node is asked for everything.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::agent::{Agent, READINGS, Round};
use crate::world::World;

const AGENTS: [&str; 2] = ["gw1", "gw2"];
const BATCHES: usize = 150;
/// A round without an answer by then is given up; the agent asks another node.
const ROUND_LIMIT: Duration = Duration::from_secs(12);
/// A crash, an isolation and the end of each, four times.
const FAULTS: usize = 8;
/// Virtual time in which a majority must get on with it.
const STUCK_LIMIT: Duration = Duration::from_secs(120);
/// Virtual time in which everything must be acknowledged once all is healed.
const HEAL_LIMIT: Duration = Duration::from_secs(120);

pub(crate) struct Outcome {
    pub(crate) digest: u64,
    pub(crate) events: usize,
    pub(crate) acknowledged: usize,
    pub(crate) findings: Vec<String>,
}

/// What happened, with its virtual time.
struct Trace {
    began: Instant,
    events: Vec<String>,
}

impl Trace {
    fn note(&mut self, event: impl std::fmt::Display) {
        let event = format!("{} ms: {event}", self.began.elapsed().as_millis());
        if std::env::var_os("TRIBUTARY_SIM_TALK").is_some() {
            eprintln!("{event}");
        }
        self.events.push(event);
    }

    /// FNV-1a over all events.
    fn digest(&self) -> u64 {
        let bytes = self.events.iter().flat_map(|event| event.bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325, |digest, byte| {
            (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

/// xorshift64*: the run's own choices.
struct Choice(u64);

impl Choice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    fn node(&mut self) -> usize {
        usize::try_from(self.below(3)).expect("one of three")
    }
}

/// Runs a seed in this process, which must do nothing else.
pub(crate) fn run(seed: u64) -> Outcome {
    aggregator::cluster::seed_randomness(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime on one thread");
    runtime.block_on(simulate(seed))
}

async fn simulate(seed: u64) -> Outcome {
    let mut choice = Choice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut trace = Trace {
        began: Instant::now(),
        events: Vec::new(),
    };
    let mut world = World::new(seed);
    world.found().await;
    trace.note("three nodes");
    let mut agents: Vec<Agent> = AGENTS
        .iter()
        .map(|name| Agent::new(name, BATCHES))
        .collect();
    let mut findings = Vec::new();
    let mut down: Option<usize> = None;
    let mut isolated = false;
    // The faults are spread over the first two thirds of what is to be sent.
    let (mut faults, mut last_fault) = (0, Instant::now());
    let healed_at = loop {
        let sent: usize = agents.iter().map(|agent| agent.acknowledged).sum();
        if sent >= (faults + 1) * BATCHES / 6 {
            faults += 1;
            last_fault = Instant::now();
            fault(
                &mut world,
                &mut choice,
                &mut down,
                &mut isolated,
                &mut trace,
            )
            .await;
        }
        if faults >= FAULTS {
            break Instant::now();
        }
        if last_fault.elapsed() > STUCK_LIMIT {
            findings.push("no progress though two of three nodes can talk".to_owned());
            break Instant::now();
        }
        step(&world, &mut agents, &mut choice, &mut trace, &mut findings).await;
    };
    world.net.heal();
    if let Some(at) = down {
        world.start(at).await;
    }
    trace.note("healed");
    while !agents.iter().all(Agent::is_done) {
        if healed_at.elapsed() > HEAL_LIMIT {
            findings.push("not everything is acknowledged after all was healed".to_owned());
            break;
        }
        step(&world, &mut agents, &mut choice, &mut trace, &mut findings).await;
    }
    judge(&world, &agents, &mut trace, &mut findings).await;
    if !findings.is_empty() {
        findings.extend(trace.events.iter().rev().take(60).rev().cloned());
    }
    Outcome {
        digest: trace.digest(),
        events: trace.events.len(),
        acknowledged: agents.iter().map(|agent| agent.acknowledged).sum(),
        findings,
    }
}

/// A crash, a restart, a partition or its end.
async fn fault(
    world: &mut World,
    choice: &mut Choice,
    down: &mut Option<usize>,
    isolated: &mut bool,
    trace: &mut Trace,
) {
    if let Some(at) = down.take() {
        world.start(at).await;
        trace.note(format_args!("node {at} starts"));
        return;
    }
    if *isolated {
        world.net.heal();
        *isolated = false;
        trace.note("the wires are healed");
        return;
    }
    // Every second time it hits the leader.
    let at = match (choice.below(2), world.leader()) {
        (0, Some(leader)) => leader,
        _ => choice.node(),
    };
    if choice.below(2) == 0 {
        world.cut_power(at).await;
        *down = Some(at);
        trace.note(format_args!("node {at} loses power"));
    } else {
        world.isolate(at);
        *isolated = true;
        trace.note(format_args!("node {at} is isolated"));
    }
}

/// Every agent asks one node; then what is visible is looked at.
async fn step(
    world: &World,
    agents: &mut [Agent],
    choice: &mut Choice,
    trace: &mut Trace,
    findings: &mut Vec<String>,
) {
    for agent in agents.iter_mut().filter(|agent| !agent.is_done()) {
        let at = choice.node();
        let Some(node) = world.cluster(at) else {
            continue;
        };
        let round = timeout(ROUND_LIMIT, agent.round(node)).await;
        trace.note(format_args!("{} at node {at}: {round:?}", agent.name));
        if let Ok(Round::Acknowledged { upto }) = round {
            // The node that answered shows it at once: to the next query, not some later one.
            let visible = world.visible(at, &agent.name);
            let acknowledged = i64::try_from(upto).expect("few") * READINGS;
            if let Some(missing) = (1..=acknowledged).find(|seq| !visible.contains(seq)) {
                findings.push(format!(
                    "{}: {missing} is acknowledged, not visible",
                    agent.name
                ));
            }
            continue;
        }
        sleep(Duration::from_millis(50)).await;
    }
    for at in 0..3 {
        for agent in agents.iter() {
            let mut visible = world.visible(at, &agent.name);
            visible.sort_unstable();
            // A prefix, each once.
            if !visible
                .iter()
                .copied()
                .eq(1..=i64::try_from(visible.len()).expect("few"))
            {
                findings.push(format!("{} at node {at}: holes or doubles", agent.name));
            }
        }
    }
}

/// Every node shows everything that was acknowledged, once.
async fn judge(world: &World, agents: &[Agent], trace: &mut Trace, findings: &mut Vec<String>) {
    for at in 0..3 {
        for agent in agents {
            let mut seen = match world.read(at, &agent.name).await {
                Ok(seen) => seen,
                Err(why) => {
                    findings.push(format!("node {at} does not answer: {why}"));
                    continue;
                }
            };
            seen.sort_unstable();
            let acknowledged = i64::try_from(agent.acknowledged).expect("few") * READINGS;
            let shown = i64::try_from(seen.len()).expect("few");
            if shown < acknowledged || !seen.iter().copied().eq(1..=shown) {
                findings.push(format!(
                    "{} at node {at}: {acknowledged} acknowledged, {shown} shown",
                    agent.name
                ));
            }
            trace.note(format_args!(
                "{} at node {at}: {shown} readings",
                agent.name
            ));
        }
    }
}
