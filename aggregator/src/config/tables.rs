//! `[tables.NAME]`: what the cluster is to agree on for single tables.

use std::collections::BTreeMap;

use serde::Deserialize;
use shared::limits::NAME_BYTES_MAX;

use super::file::{Located, bad};
use crate::state::catalog::{QUARANTINE, RESERVED_TABLES};
use crate::state::settings::{RETENTION_DAYS_MAX, TABLE_WISHES_MAX};
use crate::state::{Rollup, Rollups, SameTime, TableWish};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TableTable {
    same_time: Option<String>,
    retention_days: Option<u64>,
    rollups: Option<Vec<RollupEntry>>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a rollup is a width like \"1h\", or { every = \"1h\", retention_days = 1825 }"
)]
enum RollupEntry {
    Width(String),
    Kept(RollupTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RollupTable {
    every: String,
    retention_days: Option<u64>,
}

/// What is said of each table. `partition_hours`: what the same file says of all.
pub(super) fn resolve(
    all: BTreeMap<String, TableTable>,
    partition_hours: Option<u32>,
) -> Result<BTreeMap<String, TableWish>, Located> {
    if all.len() > TABLE_WISHES_MAX {
        let allowed = format!("at most {TABLE_WISHES_MAX} tables");
        return Err(bad("tables", "tables", &all.len(), allowed));
    }
    let each = all.into_iter().map(|(name, said)| {
        let wish = said.resolve(&name, partition_hours)?;
        Ok((name, wish))
    });
    each.collect()
}

impl TableTable {
    fn resolve(self, name: &str, partition_hours: Option<u32>) -> Result<TableWish, Located> {
        let table = format!("tables.{name}");
        self.check_name(name, &table)?;
        let days = self.retention_days;
        let days = days.map(|days| retention_days(&table, "retention_days", days));
        let days = days.transpose()?;
        if let (Some(days), Some(hours)) = (days, partition_hours)
            && hours > days * 24
        {
            let allowed = format!("at least store.partition_hours, which is {hours}");
            return Err(bad(&table, "retention_days", &days, allowed));
        }
        let same_time = self.same_time.map(|how| same_time(&table, &how));
        let rollups = self.rollups.map(|all| rollups(&table, all));
        Ok(TableWish {
            same_time: same_time.transpose()?,
            retention_days: days,
            rollups: rollups.transpose()?,
        })
    }

    /// The cluster itself fills some tables. Only one of them has rows that are kept for a time.
    fn check_name(&self, name: &str, table: &str) -> Result<(), Located> {
        let keys = [
            ("same_time", self.same_time.is_some()),
            ("rollups", self.rollups.is_some()),
            ("retention_days", self.retention_days.is_some()),
        ];
        let mut said = keys.into_iter().filter(|(_, is_said)| *is_said);
        let Some((key, _)) = said.next() else {
            let allowed = "say same_time, retention_days or rollups of it";
            return Err(bad(table, "tables", &format!("{name:?}"), allowed));
        };
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            let allowed = format!("a table has a name of 1 to {NAME_BYTES_MAX} bytes");
            return Err(bad(table, key, &format!("{name:?}"), allowed));
        }
        let may = name == QUARANTINE && key == "retention_days";
        if RESERVED_TABLES.contains(&name) && !may {
            let allowed = "this table is filled by the cluster itself";
            return Err(bad(table, key, &format!("{name:?}"), allowed));
        }
        Ok(())
    }
}

fn same_time(table: &str, text: &str) -> Result<SameTime, Located> {
    let mut known = [SameTime::Keep, SameTime::Merge].into_iter();
    let how = known.find(|one| one.as_str() == text);
    let allowed = "\"keep\" or \"merge\"";
    how.ok_or_else(|| bad(table, "same_time", &format!("{text:?}"), allowed))
}

fn retention_days(table: &str, key: &'static str, days: u64) -> Result<u32, Located> {
    let fits = u32::try_from(days).ok();
    let fits = fits.filter(|days| (1..=RETENTION_DAYS_MAX).contains(days));
    fits.ok_or_else(|| {
        bad(
            table,
            key,
            &days,
            format!("allowed are 1 to {RETENTION_DAYS_MAX}"),
        )
    })
}

fn rollups(table: &str, all: Vec<RollupEntry>) -> Result<Rollups, Located> {
    let mut rollups = Vec::with_capacity(all.len());
    for entry in all {
        let (every, days) = match entry {
            RollupEntry::Width(every) => (every, None),
            RollupEntry::Kept(RollupTable {
                every,
                retention_days,
            }) => (every, retention_days),
        };
        let days = days.map(|days| retention_days(table, "rollups", days));
        let days = days.transpose()?;
        let rollup = width_seconds(&every).and_then(|width| Rollup::new(width, days).ok());
        let allowed = "a width like \"1s\", \"15m\", \"1h\" or \"1d\" that divides a day";
        rollups.push(rollup.ok_or_else(|| bad(table, "rollups", &format!("{every:?}"), allowed))?);
    }
    let count = rollups.len();
    Rollups::new(rollups).map_err(|fault| {
        bad(
            table,
            "rollups",
            &format!("{count} widths"),
            fault.to_string(),
        )
    })
}

/// A number and its unit.
fn width_seconds(text: &str) -> Option<u32> {
    let units = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];
    let (count, seconds) = units.into_iter().find_map(|(unit, seconds)| {
        let count = text.strip_suffix(unit)?;
        let is_number = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then_some((count, seconds))
    })?;
    count.parse::<u32>().ok()?.checked_mul(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<BTreeMap<String, TableWish>, String> {
        let all = toml::from_str(text).map_err(|error| error.to_string())?;
        let told =
            |bad: Located| format!("{}.{} {}: {}", bad.table, bad.key, bad.value, bad.allowed);
        resolve(all, Some(48)).map_err(told)
    }

    fn rollup(width_seconds: u32, days: Option<u32>) -> Rollup {
        Rollup::new(width_seconds, days).unwrap()
    }

    #[test]
    fn tables_say_how_long_they_are_kept_and_what_is_made_of_them() {
        let all = check(
            "[a]\nretention_days = 30\n\
             [b]\nrollups = [\"1d\", { every = \"15m\", retention_days = 1825 }, { every = \"90s\" }]\n\
             [c]\nrollups = []\n[quarantine]\nretention_days = 2\n[d]\nsame_time = \"merge\"",
        );
        let all = all.unwrap();
        let rollups = |all: Vec<Rollup>| Some(Rollups::new(all).unwrap());
        let three = vec![
            rollup(90, None),
            rollup(900, Some(1_825)),
            rollup(86_400, None),
        ];
        assert_eq!(all["a"].retention_days, Some(30));
        assert_eq!((all["a"].same_time, &all["a"].rollups), (None, &None));
        assert_eq!(all["b"].rollups, rollups(three));
        assert_eq!(all["c"].rollups, rollups(vec![]));
        assert_eq!(all["quarantine"].retention_days, Some(2));
        assert_eq!(all["d"], SameTime::Merge.into());
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_place() {
        for (text, part) in [
            ("[a]", "a.tables \"a\": say same_time"),
            (
                "[a]\nretention_days = 0",
                "a.retention_days 0: allowed are 1 to 36500",
            ),
            ("[a]\nretention_days = 36501", "36501: allowed"),
            (
                "[a]\nretention_days = 1",
                "at least store.partition_hours, which is 48",
            ),
            ("[a]\nrollups = [\"7m\"]", "a.rollups \"7m\": a width"),
            ("[a]\nrollups = [\"0s\"]", "\"0s\": a width"),
            ("[a]\nrollups = [\"m\"]", "\"m\": a width"),
            ("[a]\nrollups = [\"+1m\"]", "\"+1m\": a width"),
            ("[a]\nrollups = [\"99999999d\"]", "a width"),
            (
                "[a]\nrollups = [\"60s\", \"1m\"]",
                "a.rollups 2 widths: each width once",
            ),
            (
                "[a]\nrollups = [\"1s\", \"2s\", \"3s\", \"4s\", \"5s\"]",
                "at most 4",
            ),
            (
                "[a]\nrollups = [{ every = \"1h\", retention_days = 0 }]",
                "0: allowed",
            ),
            ("[a]\nrollups = [5]", "a rollup is a width like"),
            ("[gaps]\nretention_days = 9", "itself"),
            ("[quarantine]\nrollups = []", "itself"),
            ("[a]\nretention = 9", "unknown field"),
        ] {
            let error = check(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
