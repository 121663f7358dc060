//! What the readings of `benches/store` take as Parquet: `parquet [FOLDER]`, FOLDER with the public
//! data sets, by default `$TRIBUTARY_DATA`. One file a set, sorted by device and time, one row group,
//! pages under zstd; once as the writer's defaults are, once with the encodings that suit most:
//! differences for whole numbers and times, split bytes for floats.

#[expect(dead_code, reason = "of the data sets it takes some")]
#[path = "../codec/data.rs"]
mod data;
mod parquet_file;

use std::error::Error;
use std::path::PathBuf;

use shared::batch::{Data, Group};

const HOURS: usize = 72;
const TRUCKS: u32 = 100;
const PLC_ROWS: usize = 6 * 3_600;

fn main() -> Result<(), Box<dyn Error>> {
    let mut given = std::env::args().skip(1);
    if given.next().as_deref() != Some("parquet") {
        return Err("say what to compare with: parquet [FOLDER]".into());
    }
    let folder = given
        .next()
        .or_else(|| std::env::var("TRIBUTARY_DATA").ok());
    println!("bytes a value: all columns, times and devices included");
    let mut trucks = data::trucks(TRUCKS, TRUCKS as usize * HOURS * 360 * 10);
    let diagnostics = split_off(&mut trucks, TRUCKS as usize);
    report("trucks", &[trucks, diagnostics])?;
    report("PLC", &[data::plc(PLC_ROWS * 200)])?;
    let Some(folder) = folder.map(PathBuf::from) else {
        println!("no folder with data sets: set TRIBUTARY_DATA");
        return Ok(());
    };
    for (name, file, time_at) in data::FILES {
        let file = data::csv(&folder.join(file), time_at)?;
        report(name, &[data::rows(&file, usize::MAX)])?;
    }
    Ok(())
}

/// The series behind the first so many, which are of another table.
fn split_off(data: &mut Data, first: usize) -> Data {
    let group = &mut data.groups[0];
    let series = group.series.split_off(first);
    let times = group.times.clone();
    Data {
        groups: vec![Group { times, series }],
    }
}

fn report(name: &str, tables: &[Data]) -> Result<(), Box<dyn Error>> {
    let values: usize = tables.iter().map(Data::values).sum();
    print!("{name:<12} {values:>9} values:");
    for (how, tuned) in [("defaults", false), ("tuned", true)] {
        let mut bytes = 0;
        for table in tables {
            bytes += parquet_file::write(table, tuned)?;
        }
        print!("  {how} {:.3}", bytes as f64 / values as f64);
    }
    println!();
    Ok(())
}
