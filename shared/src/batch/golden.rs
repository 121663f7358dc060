//! Golden files: bytes that were once written and must be read for ever. A change of the encoder
//! may write other bytes from then on; what is in the files stays, new files are added.

use std::fs;
use std::path::PathBuf;

use super::properties::bits_of;
use super::tests::{samples, with_checksum};
use super::*;

fn folder() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/fixtures/batch/v1"
    ))
}

fn files() -> Vec<(&'static str, Vec<u8>)> {
    let read = |name| fs::read(folder().join(format!("{name}.bin"))).unwrap();
    samples()
        .into_iter()
        .map(|(name, _)| (name, read(name)))
        .collect()
}

#[test]
fn golden_files_are_read_as_what_was_written() {
    for ((name, batch), (_, bytes)) in samples().into_iter().zip(files()) {
        let read = decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(bits_of(&read), bits_of(&batch), "{name}");
        assert_eq!(
            read_header(&bytes),
            Ok((batch.header, batch.body.kind())),
            "{name}"
        );
    }
}

/// Run with `--ignored` after adding a sample. It leaves files that are there alone.
#[test]
#[ignore = "writes the golden files of new samples"]
fn write_golden_files() {
    fs::create_dir_all(folder()).unwrap();
    for (name, batch) in samples() {
        let path = folder().join(format!("{name}.bin"));
        if !path.exists() {
            fs::write(path, encode(&batch.header, &batch.body).unwrap()).unwrap();
        }
    }
}

#[test]
fn a_truncated_file_is_refused_at_every_byte() {
    for (name, bytes) in files() {
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{name}, {length} bytes");
            let _ = decode(&with_checksum(bytes[..length].to_vec()));
        }
    }
}

#[test]
fn a_flipped_bit_is_always_found() {
    for (name, bytes) in files() {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped).is_err(), "{name}, bit {bit}");
            assert!(read_header(&flipped).is_err(), "{name}, bit {bit}");
        }
    }
}

#[test]
fn a_forged_checksum_gives_an_error_or_a_batch_that_can_be_written() {
    for (name, bytes) in files() {
        for bit in 0..(bytes.len() - 4) * 8 {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(batch) = decode(&with_checksum(forged)) {
                let again = encode(&batch.header, &batch.body).unwrap();
                assert_eq!(
                    bits_of(&decode(&again).unwrap()),
                    bits_of(&batch),
                    "{name}, bit {bit}"
                );
            }
        }
    }
}
