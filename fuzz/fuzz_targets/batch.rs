//! Any bytes as a batch: decoding never panics and stays within its budget, the header read alone
//! is the header of the whole, and what was read can be written and read again as the same.

#![no_main]

use std::alloc::System;

use cap::Cap;
use libfuzzer_sys::fuzz_target;
use shared::batch::{Batch, Body, EncodeError, Values, decode, describe, encode, read_header};
use shared::limits::decoded_bytes_max;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const CHECKSUM_BYTES: usize = 4;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // Else nearly nothing would get past the checksum.
    if let Some(covered) = bytes.len().checked_sub(CHECKSUM_BYTES) {
        let mut forged = bytes[..covered].to_vec();
        forged.extend_from_slice(&crc32c::crc32c(&forged).to_be_bytes());
        check(&forged);
    }
});

fn check(bytes: &[u8]) {
    // The prices of the format are no sizes of Rust types, so it may hold half as much again.
    let ceiling = ALLOCATOR.allocated() + decoded_bytes_max(bytes.len()) / 2 * 3;
    ALLOCATOR
        .set_limit(ceiling)
        .expect("the ceiling is above what is held");
    let decoded = decode(bytes);
    ALLOCATOR.set_limit(usize::MAX).expect("no ceiling");

    let header = read_header(bytes);
    assert!(!describe(bytes).is_empty());
    let batch = match (decoded, header) {
        (Ok(batch), Ok((header, kind))) => {
            assert_eq!(header, batch.header);
            assert_eq!(kind, batch.body.kind());
            batch
        }
        (Ok(_), Err(error)) => panic!("a batch without a header: {error}"),
        (Err(of_all), Err(of_header)) => return assert_eq!(of_all, of_header),
        (Err(_), Ok(_)) => return,
    };
    let written = match encode(&batch.header, &batch.body) {
        Ok(written) => written,
        // Foreign writers may choose shorter codecs than ours, or longer ones that earn them a
        // larger budget, at the edge of the limits.
        Err(EncodeError::Limit("bytes of a batch" | "bytes after decoding")) => return,
        Err(error) => panic!("what was read cannot be written: {error}"),
    };
    let again = decode(&written).expect("what was written can be read");
    assert_eq!(bits_of(&again), bits_of(&batch));
    assert_eq!(encode(&again.header, &again.body), Ok(written));
}

/// The batch with every float as its bits, so that NaN equals NaN and -0.0 differs from 0.0. That
/// the types are the same is seen by comparing the bytes.
fn bits_of(batch: &Batch) -> Batch {
    let mut batch = batch.clone();
    if let Body::Data(data) = &mut batch.body {
        let series = data.groups.iter_mut().flat_map(|group| &mut group.series);
        for column in series.flat_map(|series| &mut series.columns) {
            if let Values::Float(values) = &column.values {
                let bits = |value: &f64| value.to_bits().cast_signed();
                column.values = Values::Int(values.iter().map(bits).collect());
            }
        }
    }
    batch
}
