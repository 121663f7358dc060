//! What this machine can do at best, and the ceiling that implies for Tributary.
//!
//! `cargo run --release -p benches --bin limits [FOLDER]`: primitives one by one (sync, checksum,
//! copy, the batch codec), then the cost a value they add up to over three replicas.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench reads the clock and prints"
)]

use std::fs::OpenOptions;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use shared::batch::{self, Body, Column, Data, Group, Header, SeriesColumns, Values};
use shared::id::{BatchNumber, Digest, Epoch, Lane, LocalSeriesId, TimeNs};

const MEASURE: Duration = Duration::from_millis(800);

fn main() -> std::io::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".into());
    let cores = std::thread::available_parallelism()?;
    println!("machine: {cores} cores; folder for the sync figures: {folder}");
    for bytes in [4 << 10, 64 << 10, 1 << 20] {
        let (rate, p50, p99) = syncs(Path::new(&folder), bytes)?;
        println!(
            "fdatasync after overwriting {:>4} KiB: {rate:>7.0}/s, p50 {p50:>7.0} us, p99 {p99:>7.0} us",
            bytes >> 10
        );
    }
    let block = vec![7u8; 16 << 10];
    let checksum = per_second(|| {
        black_box(crc32c::crc32c(black_box(&block)));
    });
    println!("crc32c: {:.1} GB/s", checksum * block.len() as f64 / 1e9);
    let large = vec![7u8; 16 << 20];
    let copy = per_second(|| drop(black_box(black_box(&large).clone())));
    println!("copy: {:.1} GB/s", copy * large.len() as f64 / 1e9);
    for rows in [14, 142, 1_428] {
        codec(rows);
    }
    Ok(())
}

/// Encode and decode of one truck of seven fields; prints the ceiling that these alone imply.
fn codec(rows: usize) {
    let body = truck(rows);
    let header = Header {
        epoch: Epoch(1),
        lane: Lane::Live,
        number: BatchNumber(1),
        previous: Digest::ZERO,
        names_needed: BatchNumber(1),
        sealed_at: TimeNs(0),
        complete_below: TimeNs(0),
        boot_relative: false,
    };
    let bytes = batch::encode(&header, &body).expect("a batch within the limits");
    let values = (rows * 7) as f64;
    let encode = per_second(|| drop(black_box(batch::encode(&header, black_box(&body)))));
    let decode = per_second(|| drop(black_box(batch::decode(black_box(&bytes)))));
    let (encode_ns, decode_ns) = (1e9 / (encode * values), 1e9 / (decode * values));
    println!(
        "batch of {values:.0} values: {:.2} B/value, encode {:.1} ns/value, decode {:.1} ns/value; \
         ceiling of one encode and three decodes: {:.3} CPU-s per million values",
        bytes.len() as f64 / values,
        encode_ns,
        decode_ns,
        (encode_ns + 3.0 * decode_ns) / 1e3,
    );
}

fn truck(rows: usize) -> Body {
    let walk = |seed: f64| -> Vec<f64> {
        (0..rows)
            .map(|i| ((seed + (i as f64 * 0.37).sin() * 5.0) * 10.0).round() / 10.0)
            .collect()
    };
    let columns = (0..7u16)
        .map(|field| Column {
            field,
            present: None,
            values: Values::Float(walk(f64::from(field) * 11.0)),
        })
        .collect();
    let step = 10_000_000_000;
    let times = (0..i64::try_from(rows).unwrap_or(i64::MAX))
        .map(|i| 1_700_000_000_000_000_000 + i * step)
        .collect();
    let series = vec![SeriesColumns {
        id: LocalSeriesId(1),
        columns,
    }];
    Body::Data(Data {
        groups: vec![Group { times, series }],
    })
}

/// Calls a second, over `MEASURE`.
fn per_second(mut call: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut calls = 0u64;
    while start.elapsed() < MEASURE {
        call();
        calls += 1;
    }
    calls as f64 / start.elapsed().as_secs_f64()
}

/// Rate, p50 and p99 in microseconds of write + fdatasync over a file laid out before.
fn syncs(folder: &Path, bytes: usize) -> std::io::Result<(f64, f64, f64)> {
    let path = folder.join(format!("tributary-limits-{}.tmp", std::process::id()));
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(&path)?;
    let slots = 32;
    let block = vec![1u8; bytes];
    for slot in 0..slots {
        file.write_all_at(&block, (slot * bytes) as u64)?;
    }
    file.sync_all()?;
    let (start, mut took) = (Instant::now(), Vec::new());
    while start.elapsed() < MEASURE {
        let one = Instant::now();
        file.write_all_at(&block, ((took.len() % slots) * bytes) as u64)?;
        file.sync_data()?;
        took.push(one.elapsed().as_secs_f64() * 1e6);
    }
    let rate = took.len() as f64 / start.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    took.sort_by(f64::total_cmp);
    Ok((rate, took[took.len() / 2], took[took.len() * 99 / 100]))
}
