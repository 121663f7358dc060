//! Other sets of readings: what they take once they are sealed.

use std::error::Error;

use aggregator::state::{Command, Wish};

use crate::Args;
use crate::data::FILES;
use crate::feed::Feed;
use crate::replica::Replica;

/// The widest partition that there is.
const YEAR_HOURS: u32 = 24 * 366;
const PLC_ROWS: usize = 6 * 3_600;

pub(crate) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut sets = vec![("PLC", Feed::plc(PLC_ROWS))];
    match &args.data {
        Some(folder) => {
            for (name, file, time_at) in FILES {
                sets.push((name, Feed::file(&folder.join(file), time_at)?));
            }
        }
        None => println!("no folder with data sets: set TRIBUTARY_DATA"),
    }
    for (name, mut feed) in sets {
        let values = feed.values();
        let mut replica = Replica::open(&args.folder.join(name))?;
        // All of a set in one file: these are few readings for weeks and months.
        replica.command(&Command::Admit {
            name: "bench".to_owned(),
            address: "nowhere".to_owned(),
            joining: 1,
        })?;
        replica.command(&Command::Settings {
            node: 1,
            wish: Wish::new(None, Some(YEAR_HOURS)),
        })?;
        replica.define(&mut feed)?;
        replica.take_all(&mut feed, args.batch_rows, args.merge_minutes * 60)?;
        replica.seal_all()?;
        let what = format!("{name}, {} rows, {values} values, sealed", feed.rows());
        replica.report(values, &what)?;
    }
    Ok(())
}
