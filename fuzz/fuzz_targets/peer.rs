//! What another node sends: each message is an error, or is written as it was read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use aggregator::cluster::fuzzing::message;

fuzz_target!(|bytes: &[u8]| message(bytes));
