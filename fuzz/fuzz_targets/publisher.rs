//! What a publisher sends behind its handshake: the connection ends when it does, and nothing else.

#![no_main]

use libfuzzer_sys::fuzz_target;
use aggregator::ingest::fuzzing::connection;

fuzz_target!(|bytes: &[u8]| connection(bytes));
