//! Bins as states of a table, in which the frequent ones have more places (tabled asymmetric numeral
//! systems: Duda, "Asymmetric numeral systems", 2013), as pco's decoder expects them.

use super::LANES;
use super::bins::{Bin, Choice};

/// Of how many states a table has.
const STATES_LOG: u32 = 8;
const STATES: usize = 1 << STATES_LOG;

/// How the bins of numbers are written.
pub(super) struct States {
    /// Of how many states there are; 0 if there is but one bin.
    pub(super) log: u32,
    /// Of each bin so many states; together they are all.
    pub(super) weights: Vec<u32>,
    steps: [Step; 256],
    nexts: [u32; STATES],
}

/// From any state to one of a bin.
#[derive(Debug, Clone, Copy, Default)]
struct Step {
    /// From this state on one bit more is written.
    cutoff: u32,
    bits: u32,
    /// Where in `nexts` the bin's states begin, less its weight.
    place: u32,
}

impl States {
    /// Bins of so many numbers.
    pub(super) fn new(bins: &[Bin], numbers: usize) -> Self {
        let mut states = Self {
            log: 0,
            weights: vec![1],
            steps: [Step::default(); 256],
            nexts: [0; STATES],
        };
        if bins.len() > 1 {
            states.log = STATES_LOG;
            states.weights = weights(bins, numbers);
            states.spread();
        }
        states
    }

    fn spread(&mut self) {
        let mut owners = [0_u8; STATES];
        let stride = (3 * STATES / 5) | 1;
        let mut place = 0;
        let mut begin = 0_u32;
        for (owner, weight) in (0_u8..).zip(&self.weights) {
            for _ in 0..*weight {
                owners[place] = owner;
                place = (place + stride) % STATES;
            }
            let bits = STATES_LOG - (2 * weight - 1).ilog2();
            self.steps[usize::from(owner)] = Step {
                cutoff: (2 * weight) << bits,
                bits,
                place: begin.wrapping_sub(*weight),
            };
            begin += weight;
        }
        let mut filled = [0_u32; 256];
        for (state, owner) in ((1_u32 << STATES_LOG)..).zip(owners) {
            let owner = usize::from(owner);
            let Step { place, .. } = self.steps[owner];
            let at = place
                .wrapping_add(self.weights[owner])
                .wrapping_add(filled[owner]);
            self.nexts[at as usize % STATES] = state;
            filled[owner] += 1;
        }
    }

    /// Of each number the bits that its bin takes and, above sixteen bits, how many these are; and the places
    /// of the states at which a reader begins. Nothing if there is but one bin.
    pub(super) fn codes(&self, numbers: &[u32], choice: &Choice) -> (Vec<u32>, [u32; LANES]) {
        let mut states = [1_u32 << STATES_LOG; LANES];
        if self.log == 0 {
            return (Vec::new(), [0; LANES]);
        }
        let mut codes = vec![0; numbers.len()];
        // A reader goes from the first to the last, so they are written from the last to the first.
        let mut lane = numbers.len() % LANES;
        for (code, number) in codes.iter_mut().zip(numbers).rev() {
            lane = lane.wrapping_sub(1) % LANES;
            let state = &mut states[lane];
            let step = self.steps[usize::from(choice.bin_of(*number))];
            let bits = step.bits.wrapping_add(u32::from(*state >= step.cutoff));
            let place = step.place.wrapping_add(*state >> bits);
            let low = *state & 1_u32.wrapping_shl(bits).wrapping_sub(1);
            *code = low | (bits << 16);
            *state = self.nexts[place as usize % STATES];
        }
        (codes, states.map(|state| state - (1 << STATES_LOG)))
    }
}

/// Parts of all states by how many numbers bins have, each at least one.
fn weights(bins: &[Bin], numbers: usize) -> Vec<u32> {
    let all = numbers as u64;
    let part = |bin: &Bin| {
        let rounded = (u64::from(bin.count) * STATES as u64 * 2 + all) / (2 * all);
        u32::try_from(rounded.max(1)).expect("no more than all states")
    };
    let mut weights: Vec<u32> = bins.iter().map(part).collect();
    let target = 1 << STATES_LOG;
    let mut sum: u32 = weights.iter().sum();
    // The greatest change least by it.
    while sum != target {
        let greatest = weights.iter_mut().max().expect("there are bins");
        if sum > target {
            *greatest -= 1;
            sum -= 1;
        } else {
            *greatest += 1;
            sum += 1;
        }
    }
    weights
}
