//! How long the rows of each table are kept, at one replicated time. A command makes it of what all
//! replicas go by, so what they drop by it is the same.

use shared::id::TimeNs;

use super::machine::DAY_NS;
use super::table_settings::TableSettings;

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

    /// Whatever is older goes, of whichever table it is.
    pub fn before_of_any(&self) -> TimeNs {
        let longest = self.tables.retention_days_max();
        self.days_before(longest.map_or(self.days, |longest| longest.max(self.days)))
    }

    /// Whether by this goes all that goes by the other.
    pub fn covers(&self, other: &Self) -> bool {
        let mut named = self.tables.named().chain(other.tables.named());
        self.days_before(self.days) >= other.days_before(other.days)
            && named.all(|table| self.before(table) >= other.before(table))
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
