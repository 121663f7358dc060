//! The worlds that are searched, and the flaws that must be found in them.

use tests::long;

use super::search::explore;
use super::{Faults, Flaw, Limits, Promise};

const NO_FAULTS: Faults = Faults {
    all: 0,
    cuts: 0,
    losses: 0,
    twice: 0,
    overtakes: 0,
    crashes: 0,
    restores: 0,
    clones: 0,
    drops: 0,
};

/// Wires and leaders fail; the agent runs.
const NETWORK: Limits = Limits {
    readings: 3,
    sealed_first: 3,
    begun: false,
    live_max: 4,
    writes: false,
    faults: Faults {
        all: 2,
        cuts: 2,
        losses: 1,
        twice: 1,
        overtakes: 1,
        ..NO_FAULTS
    },
};

/// One batch live, the others in the backlog.
const TWO_LANES: Limits = Limits {
    live_max: 1,
    ..NETWORK
};

/// The agent ends and starts again, from what its disk holds, in a new epoch.
const CRASHES: Limits = Limits {
    readings: 2,
    sealed_first: 1,
    begun: true,
    live_max: 4,
    writes: true,
    faults: Faults {
        all: 2,
        crashes: 2,
        cuts: 1,
        ..NO_FAULTS
    },
};

/// Batches are dropped, on their way or not.
const DROPS: Limits = Limits {
    faults: Faults {
        all: 2,
        drops: 2,
        cuts: 1,
        overtakes: 1,
        ..NO_FAULTS
    },
    ..NETWORK
};

/// The disk of the agent is put back to what it held before.
const RESTORES: Limits = Limits {
    readings: 2,
    sealed_first: 1,
    begun: true,
    live_max: 4,
    writes: true,
    faults: Faults {
        all: 2,
        restores: 1,
        cuts: 1,
        ..NO_FAULTS
    },
};

/// The machine of the agent is copied while it runs.
const CLONES: Limits = Limits {
    readings: 4,
    sealed_first: 1,
    begun: true,
    live_max: 4,
    writes: false,
    faults: Faults {
        all: 1,
        clones: 1,
        ..NO_FAULTS
    },
};

/// The same with one fault more, where there is time for it.
fn sized(limits: Limits) -> Limits {
    let all = limits.faults.all + long::or(0, 1);
    let faults = Faults {
        all,
        ..limits.faults
    };
    Limits { faults, ..limits }
}

fn holds(name: &str, limits: Limits, answers: &[&str]) {
    let found = explore(sized(limits), Flaw::None);
    eprintln!(
        "{name}: {} states, {} transitions, {} ends, {} deep, answers {:?}",
        found.states, found.transitions, found.mended, found.depth, found.answers
    );
    if let Some((breach, story)) = found.broken {
        panic!("{name}: {:?}: {}\n{story:?}", breach.promise, breach.what);
    }
    let mut answers = answers.iter();
    let missing = answers.find(|answer| !found.answers.contains(*answer));
    assert_eq!(missing, None, "{name}: an answer that never comes");
}

#[test]
fn wires_and_leaders_fail() {
    holds("network", NETWORK, &["ok", "have", "gap", "names"]);
}

#[test]
fn two_lanes_share_the_names() {
    holds("two lanes", TWO_LANES, &["ok", "have", "gap", "names"]);
}

#[test]
fn the_agent_crashes() {
    holds("crashes", CRASHES, &["ok", "have"]);
}

#[test]
fn batches_are_dropped() {
    holds("drops", DROPS, &["ok", "have", "gap"]);
}

#[test]
fn an_old_copy_of_the_disk_is_restored() {
    holds("restores", RESTORES, &["ok", "have"]);
}

#[test]
fn the_machine_is_cloned() {
    holds("clones", CLONES, &["ok", "have", "fork"]);
}

/// Each flaw, a world in which it shows, and the promise that it breaks.
const FLAWS: [(Flaw, Limits, Promise); 11] = [
    (Flaw::StoresAgain, NETWORK, Promise::Once),
    (Flaw::TakesBehindHoles, NETWORK, Promise::Order),
    (Flaw::BelievesAnyChain, CLONES, Promise::Acknowledged),
    (Flaw::StoresAnother, NETWORK, Promise::Unaltered),
    (Flaw::AcksTooEarly, NETWORK, Promise::Acknowledged),
    (Flaw::LosesCommitted, NETWORK, Promise::Acknowledged),
    (Flaw::LetsGoTooEarly, NETWORK, Promise::Acknowledged),
    (Flaw::KeepsTooEarly, CRASHES, Promise::Kept),
    (Flaw::ForgetsNames, CRASHES, Promise::NoDeadEnd),
    (Flaw::HandsOverAgain, CRASHES, Promise::Once),
    (Flaw::ForgetsDigests, NETWORK, Promise::OneWriter),
];

#[test]
fn every_flaw_is_found() {
    for (flaw, limits, promise) in FLAWS {
        let found = explore(limits, flaw);
        let broken = found.broken;
        let (breach, story) = broken.unwrap_or_else(|| panic!("{flaw:?} is not found"));
        let what = &breach.what;
        eprintln!("{flaw:?}: {:?}: {what}, after {story:?}", breach.promise);
        assert_eq!(breach.promise, promise, "{flaw:?}: {what}");
    }
}

#[test]
fn the_search_is_the_same_every_time() {
    let small = Limits {
        readings: 1,
        sealed_first: 1,
        ..NETWORK
    };
    let found = explore(small, Flaw::None);
    assert!(found.broken.is_none());
    assert_eq!(found, explore(small, Flaw::None));
}
