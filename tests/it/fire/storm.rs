//! Storms: rounds of faults that a seed draws, then the oracle. The seed is printed with the command
//! that draws the same faults again; how processes race meanwhile is up to the machine.

use std::env;
use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use tests::dice::Dice;
use tests::skip::skip;
use tests::source::wall_clock_ns;
use tests::{disk, wait};

use super::faults::{Fault, Wound};
use super::proof;
use super::stage::{NODES, Stage, Tally};

/// How many rounds are to be run: then a block is added to `docs/proof.md`.
const ROUNDS: &str = "TRIBUTARY_FIRE_ROUNDS";
/// The seed of the first chapter; else it is drawn anew each time.
const SEED: &str = "TRIBUTARY_FIRE_SEED";
/// Rounds on one cluster, with one seed.
const CHAPTER_ROUNDS: u64 = 20;
/// How long all is well before something breaks, at most.
const CALM: Duration = Duration::from_millis(400);
/// How long a fault lasts, at most.
const LASTS: Duration = Duration::from_secs(3);
/// A node that starts is struck again within so long.
const RECOVERY: Duration = Duration::from_millis(1_000);

/// Kills and power cuts of one, some and all, at random moments, also while nodes start.
#[test]
fn kills_and_power_cuts() {
    if let Some(why) = disk::cannot() {
        skip(&why);
        return;
    }
    storm("kills_and_power_cuts", 6, &Stage::set, &mut power_round);
}

/// Every kind of fault alone, at whichever node it hits.
#[test]
fn every_fault_alone() {
    let faults = faults();
    let usual = faults.len() as u64;
    storm(
        "every_fault_alone",
        usual,
        &Stage::set_whole,
        &mut |stage, dice| {
            let nth = usize::try_from(stage.tally.rounds).unwrap();
            round_of(&[faults[nth % faults.len()]], stage, dice);
        },
    );
}

/// Two kinds at once, drawn at random.
#[test]
fn faults_in_pairs() {
    let faults = faults();
    storm(
        "faults_in_pairs",
        4,
        &Stage::set_whole,
        &mut |stage, dice| {
            let pair = [0, 1].map(|_| faults[dice.below(faults.len())]);
            round_of(&pair, stage, dice);
        },
    );
}

/// Those that this machine can do; says what it cannot.
fn faults() -> Vec<Fault> {
    let (can, cannot): (Vec<_>, Vec<_>) = Fault::ALL
        .into_iter()
        .partition(|fault| fault.cannot().is_none());
    for fault in cannot {
        skip(&format!(
            "{}: {}",
            fault.name(),
            fault.cannot().unwrap_or_default()
        ));
    }
    can
}

/// Hurts, lets it last, heals.
fn round_of(faults: &[Fault], stage: &mut Stage, dice: &mut Dice) {
    let names: Vec<_> = faults.iter().map(|fault| fault.name()).collect();
    eprintln!("  {}", names.join(" and "));
    let hurt = |fault: &Fault| fault.hurt(stage, dice);
    let wounds: Vec<Wound> = faults.iter().map(hurt).collect();
    wait::pass(dice.time(LASTS));
    stage.glance();
    if let [wound] = wounds.as_slice() {
        wound.await_stop(stage);
    }
    for node in 0..NODES {
        if let Some(status) = stage.cluster.ended(node) {
            let excused = wounds.iter().any(|wound| wound.excuses(node));
            assert!(
                excused,
                "node {node} ended by itself with {status}\n{}",
                stage.cluster.tails()
            );
            stage.tally.note("node_ended", 1);
        }
    }
    wounds.into_iter().for_each(|wound| wound.heal(stage));
    // One that was away may still think that it leads.
    stage.glance();
}

/// One storm: chapters, each on a cluster of its own, each with the next seed.
fn storm(
    name: &str,
    usual: u64,
    set: &dyn Fn(u64) -> Stage,
    round: &mut dyn FnMut(&mut Stage, &mut Dice),
) {
    let number = |text: String| text.parse::<u64>().expect("a number");
    let asked = env::var(ROUNDS).ok().map(number);
    let seed = env::var(SEED).ok().map(number);
    let usual = if seed.is_some() {
        CHAPTER_ROUNDS
    } else {
        usual
    };
    let (rounds, seed) = (asked.unwrap_or(usual), seed.unwrap_or_else(fresh));
    let began = wait::now();
    let mut sum = Tally::default();
    let mut failed = Vec::new();
    for nth in 0..rounds.div_ceil(CHAPTER_ROUNDS) {
        let seed = seed + nth;
        let rounds = CHAPTER_ROUNDS.min(rounds - nth * CHAPTER_ROUNDS);
        eprintln!(
            "{rounds} rounds, again: {SEED}={seed} cargo test --workspace --test it -- {name} --nocapture"
        );
        let chapter = AssertUnwindSafe(|| chapter(name, (seed, rounds), set, round));
        // One that fails does not keep the others from being run.
        match panic::catch_unwind(chapter) {
            Ok(tally) => {
                eprintln!("{name} {seed}: {}", proof::counts(&tally));
                sum.add(&tally);
            }
            Err(_told_already) => failed.push(seed),
        }
    }
    let block = proof::block(name, seed, &sum, &failed, began.elapsed().as_secs());
    eprintln!("{block}");
    if asked.is_some() {
        proof::append(&block);
    }
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
}

fn chapter(
    name: &str,
    (seed, rounds): (u64, u64),
    set: &dyn Fn(u64) -> Stage,
    round: &mut dyn FnMut(&mut Stage, &mut Dice),
) -> Tally {
    let mut dice = Dice::new(seed);
    let mut stage = set(seed);
    for _ in 0..rounds {
        wait::pass(dice.time(CALM));
        round(&mut stage, &mut dice);
        stage.await_well(&mut dice);
        stage.tally.rounds += 1;
    }
    stage.judge(&format!("{name} {seed}"))
}

/// Strikes one, the leader, two or all, up to four times in a row: the later times while they start.
fn power_round(stage: &mut Stage, dice: &mut Dice) {
    let victims = victims(stage, dice);
    for again in 0..=dice.roll(4) {
        if again > 0 {
            stage.run(&victims);
            wait::pass(dice.time(RECOVERY));
        }
        match dice.roll(3) {
            0 => stage.cut_power(&victims),
            _ => stage.kill(&victims),
        }
    }
    match dice.roll(8) {
        0 => stage.cut_agent_power(0),
        1 => stage.kill_agent(1),
        _ => {}
    }
    stage.run(&victims);
}

fn victims(stage: &Stage, dice: &mut Dice) -> Vec<usize> {
    match dice.roll(4) {
        0 => vec![dice.below(NODES)],
        1 => vec![stage.cluster.wait_leader().unwrap()],
        2 => {
            let spared = dice.below(NODES);
            (0..NODES).filter(|node| *node != spared).collect()
        }
        _ => (0..NODES).collect(),
    }
}

/// What no run before had.
fn fresh() -> u64 {
    u64::try_from(wall_clock_ns() / 1_000_000).unwrap_or(1)
}
