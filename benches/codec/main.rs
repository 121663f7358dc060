//! What a batch takes on the wire and in CPU, beside other encodings of the same readings.
//!
//! `cargo run --release -p benches --bin codec [FOLDER]` prints bytes a value at 100, 1,000 and
//! 10,000 values a batch (payload, and with every layer of MQTT 5, TLS 1.3, TCP and IPv4 including
//! the acknowledgement), then million values a second on one core, without and with zstd around
//! the batch. FOLDER holds the public data sets, by default `$TRIBUTARY_DATA`.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench reads the clock and prints"
)]

mod data;
mod rivals;

use std::error::Error;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use data::{START, Set};
use shared::batch::{self, Body, Data, Header};
use shared::id::{BatchNumber, Digest, Epoch, Lane, TimeNs};
use zstd::bulk::{Compressor, Decompressor};

const MEASURE: Duration = Duration::from_millis(300);
const SIZES: [usize; 3] = [100, 1_000, 10_000];
/// In the properties: the number that stands for the topic, which is empty.
const ALIAS_BYTES: usize = 3;
const SEGMENT_BYTES: usize = 1_448;
const ZSTD_LEVEL: i32 = 1;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args()
        .nth(1)
        .or_else(|| std::env::var("TRIBUTARY_DATA").ok());
    println!(
        "conditions: one core; sizes in bytes a value, payload and (all layers: MQTT 5 QoS 1 with a \
         topic alias, a TLS 1.3 record of 22 B, 52 B a segment of {SEGMENT_BYTES} B, PUBACK in a record and \
         segment of its own, its ACK); gzip level 6; zstd level {ZSTD_LEVEL} over the whole batch, where \
         that is shorter"
    );
    let head = SIZES.map(|size| format!("{size} values")).join("   ");
    println!("{:<14} {:<22} {head}", "set", "encoding");
    let sets = sets(folder.map(PathBuf::from))?;
    for set in &sets {
        sizes(set);
    }
    println!(
        "\nspeed: M values/s, the batch alone; with zstd level {ZSTD_LEVEL} whether it pays or not"
    );
    println!(
        "{:<14} {:>8} {:>8} {:>8} {:>12} {:>12}",
        "set", "values", "encode", "decode", "encode+zstd", "zstd+decode"
    );
    for set in &sets {
        for size in SIZES {
            speed(set, size);
        }
    }
    Ok(())
}

fn sets(folder: Option<PathBuf>) -> Result<Vec<Set>, Box<dyn Error>> {
    let mut sets = vec![
        Set {
            name: "1 truck",
            batch: Box::new(|values| data::trucks(1, values)),
        },
        Set {
            name: "10 trucks",
            batch: Box::new(|values| data::trucks(10, values)),
        },
        Set {
            name: "PLC",
            batch: Box::new(data::plc),
        },
    ];
    let Some(folder) = folder else {
        println!("no folder with data sets: set TRIBUTARY_DATA; only generated sets are measured");
        return Ok(sets);
    };
    for (name, file, time_at) in data::FILES {
        let file = data::csv(&folder.join(file), time_at)?;
        sets.push(Set {
            name,
            batch: Box::new(move |values| data::rows(&file, values)),
        });
    }
    Ok(sets)
}

fn sizes(set: &Set) {
    let row = |name: &str, bytes: &dyn Fn(&Data) -> usize| {
        let cells = SIZES.map(|size| {
            let data = (set.batch)(size);
            let (payload, values) = (bytes(&data), data.values() as f64);
            let all = all_layers(payload) as f64 / values;
            format!("{:>6.2} ({all:>5.2})", payload as f64 / values)
        });
        println!("{:<14} {name:<22} {}", set.name, cells.join("  "));
    };
    row("tributary", &|data| encode(data).len());
    row("tributary + zstd", &|data| {
        rivals::zstd(&encode(data), ZSTD_LEVEL)
    });
    row("line protocol", &|data| rivals::line_protocol(data).len());
    row("line protocol + gzip", &|data| {
        rivals::gzip(&rivals::line_protocol(data))
    });
    row("sparkplug-like", &|data| rivals::sparkplug(data).len());
    row("sparkplug-like + gzip", &|data| {
        rivals::gzip(&rivals::sparkplug(data))
    });
    row("JSON", &|data| rivals::json(data).len());
}

/// Bytes on the network of one PUBLISH of QoS 1 and what answers it.
fn all_layers(payload: usize) -> usize {
    let variable = 2 + 2 + 1 + ALIAS_BYTES + payload;
    let length_bytes = if variable < 128 {
        1
    } else if variable < 16_384 {
        2
    } else {
        3
    };
    let record = 1 + length_bytes + variable;
    // A record holds 16 KiB.
    let sent = record + 22 * record.div_ceil(16_384);
    let puback = 4 + 22 + 52;
    sent + 52 * sent.div_ceil(SEGMENT_BYTES) + puback + 52
}

fn encode(data: &Data) -> Vec<u8> {
    let times = &data.groups[0].times;
    let sealed_at = times.last().copied().unwrap_or(START) / 1_000_000 * 1_000_000;
    let header = Header {
        epoch: Epoch(0x9e37_79b9_7f4a_7c15),
        lane: Lane::Live,
        number: BatchNumber(4_321),
        previous: Digest([7; 8]),
        names_needed: BatchNumber(2),
        sealed_at: TimeNs(sealed_at),
        complete_below: TimeNs(sealed_at - 1_000_000_000),
        boot_relative: false,
    };
    batch::encode(&header, &Body::Data(data.clone())).expect("a batch within the limits")
}

fn speed(set: &Set, size: usize) {
    let data = (set.batch)(size);
    let values = data.values();
    let bytes = encode(&data);
    let header = batch::decode(&bytes).expect("it was just written").header;
    let body = Body::Data(data);
    let rate = |call: &mut dyn FnMut()| {
        let (start, mut calls) = (Instant::now(), 0u32);
        while start.elapsed() < MEASURE {
            call();
            calls += 1;
        }
        f64::from(calls) * values as f64 / start.elapsed().as_secs_f64() / 1e6
    };
    let encode = rate(&mut || drop(black_box(batch::encode(&header, black_box(&body)))));
    let decode = rate(&mut || drop(black_box(batch::decode(black_box(&bytes)))));
    let mut compressor = Compressor::new(ZSTD_LEVEL).expect("zstd has this level");
    let mut decompressor = Decompressor::new().expect("memory takes it");
    let compressed = compressor.compress(&bytes).expect("memory takes it");
    let encode_zstd = rate(&mut || {
        let bytes = batch::encode(&header, black_box(&body)).expect("it was written before");
        drop(black_box(compressor.compress(&bytes)));
    });
    let decode_zstd = rate(&mut || {
        let whole = decompressor.decompress(black_box(&compressed), bytes.len());
        drop(black_box(batch::decode(&whole.expect("it was compressed"))));
    });
    println!(
        "{:<14} {values:>8} {encode:>8.0} {decode:>8.0} {encode_zstd:>12.0} {decode_zstd:>12.0}",
        set.name
    );
}
