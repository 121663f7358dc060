//! How long the rows of each table are kept, at one replicated time. A command makes it of what all
//! replicas go by, so what they drop by it is the same.

use shared::id::TimeNs;

use super::machine::DAY_NS;
use super::table_settings::{Rollups, TableSettings};

/// What is kept of each table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    now: TimeNs,
    /// Of tables that have none of their own.
    days: u32,
    tables: TableSettings,
}

impl Retention {
    pub(super) fn new(now: TimeNs, days: u32, tables: TableSettings) -> Self {
        Self { now, days, tables }
    }

    /// Rows of this table that are older go.
    pub fn before(&self, table: &str) -> TimeNs {
        let own = self.tables.retention_days_of(table);
        self.days_before(own.unwrap_or(self.days))
    }

    /// Of a table the widths of rollups that outlive its rows, and what goes of each.
    pub fn outliving(&self, table: &str) -> Vec<(u32, TimeNs)> {
        let rows = self.before(table);
        let rollups = self.tables.rollups_of(table);
        let before = |width| (width, self.before_of_rollup(table, width));
        let widths = rollups.all().iter().map(|one| one.width_seconds());
        let all = widths.map(before);
        all.filter(|(_, before)| *before < rows).collect()
    }

    /// What a rollup says of older rows goes: with them, or later.
    pub fn before_of_rollup(&self, table: &str, width_seconds: u32) -> TimeNs {
        let own = self.tables.rollup_days(table, width_seconds);
        let rows = self.before(table);
        own.map_or(rows, |days| self.days_before(days).min(rows))
    }

    /// Whatever is older goes, of whichever table it is.
    pub fn before_of_any(&self) -> TimeNs {
        let longest = self.tables.retention_days_max();
        self.days_before(longest.map_or(self.days, |longest| longest.max(self.days)))
    }

    /// What no rollup of any table says goes of all of them.
    pub fn before_of_any_rollup(&self) -> TimeNs {
        let longest = self.tables.rollup_days_max();
        let own = longest.map(|days| self.days_before(days));
        own.map_or(self.before_of_any(), |own| own.min(self.before_of_any()))
    }

    /// Whether by this goes all that goes by the other.
    pub fn covers(&self, other: &Self) -> bool {
        let mut named = self.tables.named().chain(other.tables.named());
        let widths = |table| {
            let both = [self, other].map(|one| one.tables.rollups_of(table));
            let widths = |one: &Rollups| -> Vec<u32> {
                one.all().iter().map(|one| one.width_seconds()).collect()
            };
            both.iter().flat_map(widths).collect::<Vec<u32>>()
        };
        let covers_rollup = |table: &str, width| {
            self.before_of_rollup(table, width) >= other.before_of_rollup(table, width)
        };
        self.days_before(self.days) >= other.days_before(other.days)
            && named.all(|table| {
                self.before(table) >= other.before(table)
                    && widths(table)
                        .into_iter()
                        .all(|width| covers_rollup(table, width))
            })
    }

    fn days_before(&self, days: u32) -> TimeNs {
        TimeNs(self.now.0.saturating_sub(i64::from(days) * DAY_NS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::TableWish;

    fn retention(now_days: i64, days: u32, of_tables: &[(&str, u32)]) -> Retention {
        let mut tables = TableSettings::default();
        for (table, days) in of_tables {
            let wish = TableWish {
                retention_days: Some(*days),
                ..TableWish::default()
            };
            tables.agree(table, wish);
        }
        Retention::new(TimeNs(now_days * DAY_NS), days, tables)
    }

    #[test]
    fn a_table_is_kept_by_its_own_retention_or_the_clusters() {
        let all = retention(100, 30, &[("a", 7), ("b", 60)]);
        let days = |time: TimeNs| time.0 / DAY_NS;
        assert_eq!((days(all.before("a")), days(all.before("b"))), (93, 40));
        assert_eq!(days(all.before("c")), 70);
        assert_eq!(days(all.before_of_any()), 40);
        assert_eq!(days(retention(100, 30, &[("a", 7)]).before_of_any()), 70);
    }

    #[test]
    fn a_later_one_covers_those_that_keep_no_less() {
        let one = retention(100, 30, &[("a", 7)]);
        assert!(one.covers(&one) && retention(101, 30, &[("a", 7)]).covers(&one));
        assert!(retention(100, 29, &[("a", 7)]).covers(&one));
        assert!(!retention(100, 30, &[]).covers(&one), "it drops less of a");
        assert!(!retention(100, 30, &[("a", 7), ("b", 31)]).covers(&one));
        assert!(!retention(100, 31, &[("a", 7)]).covers(&one));
        assert!(!one.covers(&retention(101, 30, &[("a", 7)])));
    }
}
