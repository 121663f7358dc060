//! Storms: rounds of faults that a seed draws, then the oracle. The seed is printed with the command
//! that draws the same faults again; how processes race meanwhile is up to the machine.

use std::env;
use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use tests::dice::Dice;
use tests::skip::skip;
use tests::source::wall_clock_ns;
use tests::{disk, wait};

use super::proof;
use super::stage::{NODES, Stage, Tally};

/// How many rounds are to be run: then a block is added to `docs/proof.md`.
const ROUNDS: &str = "TRIBUTARY_FIRE_ROUNDS";
/// The seed of the first chapter; else it is drawn anew each time.
const SEED: &str = "TRIBUTARY_FIRE_SEED";
/// Rounds on one cluster, with one seed.
const CHAPTER_ROUNDS: u64 = 20;
/// Rounds of a run that everyone waits for.
const USUAL_ROUNDS: u64 = 6;
/// How long all is well before something breaks, at most.
const CALM: Duration = Duration::from_millis(400);
/// A node that starts is struck again within so long.
const RECOVERY: Duration = Duration::from_millis(1_000);

/// Kills and power cuts of one, some and all, at random moments, also while nodes start.
#[test]
fn kills_and_power_cuts() {
    if let Some(why) = disk::cannot() {
        skip(&why);
        return;
    }
    storm("kills_and_power_cuts", &power_round);
}

/// One storm: chapters, each on a cluster of its own, each with the next seed.
fn storm(name: &str, round: &dyn Fn(&mut Stage, &mut Dice)) {
    let number = |text: String| text.parse::<u64>().expect("a number");
    let asked = env::var(ROUNDS).ok().map(number);
    let seed = env::var(SEED).ok().map(number);
    let usual = if seed.is_some() {
        CHAPTER_ROUNDS
    } else {
        USUAL_ROUNDS
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
        let chapter = AssertUnwindSafe(|| chapter(name, seed, rounds, round));
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

fn chapter(name: &str, seed: u64, rounds: u64, round: &dyn Fn(&mut Stage, &mut Dice)) -> Tally {
    let mut dice = Dice::new(seed);
    let mut stage = Stage::set(seed);
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
