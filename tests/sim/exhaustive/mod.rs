//! Every order of events in a world of few batches: numbers, dedup, acknowledgements and epochs.
//!
//! Seeds find what a long run of many parts may bring; this finds all that a few batches can bring,
//! whatever is lost, repeated, late or started anew. The rules are those that ship: the state machine
//! of the cluster, and of the agent its buffer, its recovery and its window. Consensus is taken for
//! granted: what commits, commits in one order, for good.

mod cluster;
mod core;
mod judge;
mod search;
mod stories;
mod world;

use std::hash::Hasher;

use world::Action;

/// Mixes quickly even where nothing is optimised: a state is a thousand words.
#[derive(Default)]
pub(crate) struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        let mut word = [0; 8];
        for chunk in bytes.chunks(8) {
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 29);
    }

    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }
}

/// What must hold in every state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promise {
    /// A reading is stored once.
    Once,
    /// In number order, without a hole that no gap record tells of.
    Order,
    /// Only what is stored is acknowledged.
    Acknowledged,
    /// What an agent takes for acknowledged is what it sealed.
    Unaltered,
    /// Nobody sees a fork where there was one writer.
    OneWriter,
    /// What a source was told is kept comes, or a gap record tells of it.
    Kept,
    /// From everywhere there is a way to all being stored and acknowledged.
    NoDeadEnd,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Breach {
    pub(crate) promise: Promise,
    pub(crate) what: String,
}

impl Breach {
    pub(crate) fn of(promise: Promise, what: String) -> Breach {
        Breach { promise, what }
    }
}

/// What is wrong on purpose, to see that the search finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// The cluster stores what it has.
    StoresAgain,
    /// The cluster takes a batch before which one is missing.
    TakesBehindHoles,
    /// The cluster takes a batch of another chain.
    BelievesAnyChain,
    /// The cluster stores another reading than the batch holds.
    StoresAnother,
    /// A node answers when it proposes.
    AcksTooEarly,
    /// A leader change takes back what was committed last.
    LosesCommitted,
    /// An agent lets a batch go when it sends it.
    LetsGoTooEarly,
    /// An agent tells that a reading is kept before its disk is synced.
    KeepsTooEarly,
    /// An agent keeps no names on its disk.
    ForgetsNames,
    /// After a start an agent seals what is on its disk anew.
    HandsOverAgain,
    /// The cluster says that it has a batch, and not in which chain.
    ForgetsDigests,
}

/// How many faults of a kind may be in one story.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Faults {
    /// Of all kinds together.
    pub(crate) all: u8,
    pub(crate) cuts: u8,
    pub(crate) losses: u8,
    pub(crate) twice: u8,
    pub(crate) overtakes: u8,
    pub(crate) crashes: u8,
    pub(crate) restores: u8,
    pub(crate) clones: u8,
    pub(crate) drops: u8,
}

impl Faults {
    pub(crate) fn may(&self, of_kind: u8) -> bool {
        self.all > 0 && of_kind > 0
    }
}

/// How large the world is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Each is a batch of its own.
    pub(crate) readings: u8,
    /// So many are sealed before anything happens.
    pub(crate) sealed_first: u8,
    /// And stored and acknowledged.
    pub(crate) begun: bool,
    /// Live batches that may wait; others go to the backlog.
    pub(crate) live_max: usize,
    /// The agent uses its disk.
    pub(crate) writes: bool,
    pub(crate) faults: Faults,
}

impl Limits {
    pub(crate) fn left(&self) -> Faults {
        self.faults
    }

    pub(crate) fn without_faults(self) -> Limits {
        Limits {
            faults: Faults::default(),
            ..self
        }
    }

    pub(crate) fn spend(&mut self, action: Action) {
        let faults = &mut self.faults;
        let kind = match action {
            Action::CommitTwice(_) => &mut faults.twice,
            Action::Overtake(_) => &mut faults.overtakes,
            Action::Lose(_) => &mut faults.losses,
            Action::Cut(_) => &mut faults.cuts,
            Action::Crash { .. } => &mut faults.crashes,
            Action::Restore => &mut faults.restores,
            Action::CloneMachine => &mut faults.clones,
            Action::Drop(..) => &mut faults.drops,
            _ => return,
        };
        *kind -= 1;
        faults.all -= 1;
    }
}
