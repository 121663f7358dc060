//! The state in a manifest or a snapshot.

#![no_main]

use libfuzzer_sys::fuzz_target;
use aggregator::state::fuzzing::state;

fuzz_target!(|bytes: &[u8]| state(bytes));
