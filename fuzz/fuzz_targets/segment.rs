//! Segments and rollups, with checksums that match.

#![no_main]

use libfuzzer_sys::fuzz_target;
use aggregator::store::fuzzing::segment;

fuzz_target!(|bytes: &[u8]| segment(bytes));
