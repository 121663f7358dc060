//! Entries of the log, applied: no bytes that one node lets in may stop them all.

#![no_main]

use libfuzzer_sys::fuzz_target;
use aggregator::state::fuzzing::command;

fuzz_target!(|bytes: &[u8]| command(bytes));
