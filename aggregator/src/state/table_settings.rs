//! What an operator chooses for single tables: how long their rows are kept, and which rollups are made
//! of them. Agreed on as all settings are, each for itself; unlike `same_time`, which a table's first
//! row fixes, they may change at any time.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use shared::limits::NAME_BYTES_MAX;

use super::bytes::{ReadFault, Reader, Writer};
use super::settings::{RETENTION_DAYS_MAX, SameTime};

/// Rollups of one table.
pub const ROLLUPS_MAX: usize = 4;
/// Tables of which something is agreed on; of more nothing can be.
pub const AGREED_TABLES_MAX: usize = 1_024;
const DAY_SECONDS: u32 = 86_400;
/// In place of a byte that says something.
const NOTHING: u8 = 0xff;
/// Bytes of a table without a name.
const TABLE_BYTES_MIN: usize = 4 + 1 + 4 + 1;

/// Rows of one width that are made of a table's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rollup {
    width_seconds: u32,
    /// `None`: as long as the rows that they are made of.
    retention_days: Option<u32>,
}

/// All rollups of one table, the narrowest first. None is a choice, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollups {
    all: Vec<Rollup>,
}

/// Why there are no such rollups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RollupFault {
    #[error("at most {ROLLUPS_MAX} of a table")]
    TooMany,
    #[error("a width is a number of whole seconds that divides a day")]
    Width,
    #[error("each width once")]
    Twice,
}

/// What one configuration says of one table; `None`: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableWish {
    pub same_time: Option<SameTime>,
    pub retention_days: Option<u32>,
    pub rollups: Option<Rollups>,
}

/// What replicas go by, of all tables. A clone is cheap and does not see later changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableSettings {
    /// `same_time` is the catalog's.
    agreed: Arc<BTreeMap<String, TableWish>>,
}

impl Rollup {
    /// Of days that are out of range the nearest that are not.
    ///
    /// # Errors
    /// `Width`.
    pub fn new(width_seconds: u32, retention_days: Option<u32>) -> Result<Self, RollupFault> {
        if width_seconds == 0 || !DAY_SECONDS.is_multiple_of(width_seconds) {
            return Err(RollupFault::Width);
        }
        Ok(Self {
            width_seconds,
            retention_days: retention_days.map(|days| days.clamp(1, RETENTION_DAYS_MAX)),
        })
    }

    /// Divides a day.
    pub fn width_seconds(self) -> u32 {
        self.width_seconds
    }

    /// `None`: as long as the rows that they are made of.
    pub fn retention_days(self) -> Option<u32> {
        self.retention_days
    }

    /// The same, kept as long as the rows.
    #[must_use]
    pub fn width_alone(self) -> Self {
        Self {
            retention_days: None,
            ..self
        }
    }
}

impl Rollups {
    /// In any order.
    ///
    /// # Errors
    /// `TooMany`, `Twice`.
    pub fn new(mut all: Vec<Rollup>) -> Result<Self, RollupFault> {
        if all.len() > ROLLUPS_MAX {
            return Err(RollupFault::TooMany);
        }
        all.sort_unstable();
        let widths = |two: &[Rollup]| (two[0].width_seconds, two[1].width_seconds);
        if all.windows(2).map(widths).any(|(one, next)| one == next) {
            return Err(RollupFault::Twice);
        }
        Ok(Self { all })
    }

    /// The narrowest first.
    pub fn all(&self) -> &[Rollup] {
        &self.all
    }
}

impl Default for Rollups {
    fn default() -> Self {
        let as_the_rows = |width_seconds| Rollup {
            width_seconds,
            retention_days: None,
        };
        Self {
            all: [60, 3_600].map(as_the_rows).into(),
        }
    }
}

impl fmt::Display for Rollup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.width_seconds;
        match seconds {
            _ if seconds.is_multiple_of(3_600) => write!(f, "{}h", seconds / 3_600),
            _ if seconds.is_multiple_of(60) => write!(f, "{}m", seconds / 60),
            _ => write!(f, "{seconds}s"),
        }?;
        let days = self.retention_days;
        days.map_or(Ok(()), |days| write!(f, " for {days} days"))
    }
}

impl fmt::Display for Rollups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.all.is_empty() {
            return f.write_str("none");
        }
        for (at, rollup) in self.all.iter().enumerate() {
            let between = if at > 0 { ", " } else { "" };
            write!(f, "{between}{rollup}")?;
        }
        Ok(())
    }
}

impl From<SameTime> for TableWish {
    fn from(same_time: SameTime) -> Self {
        Self {
            same_time: Some(same_time),
            ..Self::default()
        }
    }
}

impl TableWish {
    pub(super) fn says_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it says what happens to rows of the same time, and nothing else.
    pub(super) fn is_same_time(&self) -> bool {
        self.same_time.map(Self::from).as_ref() == Some(self)
    }

    /// What of it more than half of `members` say, each for itself. `all`: what is said of this table.
    pub(super) fn agreed<'a>(&self, all: impl Iterator<Item = &'a Self>, members: usize) -> Self {
        let all: Vec<&Self> = all.collect();
        let agreed = |says: &dyn Fn(&Self) -> bool| {
            let saying = all.iter().filter(|one| says(one));
            saying.count() * 2 > members
        };
        let same_time = agreed(&|one| one.same_time == self.same_time);
        let retention_days = agreed(&|one| one.retention_days == self.retention_days);
        let rollups = agreed(&|one| one.rollups == self.rollups);
        Self {
            same_time: self.same_time.filter(|_| same_time),
            retention_days: self.retention_days.filter(|_| retention_days),
            rollups: self.rollups.clone().filter(|_| rollups),
        }
    }

    fn encode(&self, out: &mut Writer) {
        out.u8(self.same_time.map_or(NOTHING, |how| how as u8));
        out.u32(self.retention_days.unwrap_or(0));
        let Some(rollups) = &self.rollups else {
            return out.u8(NOTHING);
        };
        out.u8(u8::try_from(rollups.all.len()).expect("ROLLUPS_MAX"));
        for rollup in &rollups.all {
            out.u32(rollup.width_seconds);
            out.u32(rollup.retention_days.unwrap_or(0));
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, ReadFault> {
        let same_time = match from.u8()? {
            NOTHING => None,
            byte => {
                let how = SameTime::from_byte(byte);
                Some(how.ok_or(ReadFault::Invalid("same_time of a table"))?)
            }
        };
        let retention_days = days(from.u32()?);
        let rollups = match from.u8()? {
            NOTHING => None,
            count if usize::from(count) > ROLLUPS_MAX => {
                return Err(ReadFault::Invalid("too many rollups of a table"));
            }
            count => {
                let all = (0..count).map(|_| decode_rollup(from));
                let rollups = Rollups::new(all.collect::<Result<_, _>>()?);
                Some(rollups.map_err(|_| ReadFault::Invalid("rollups of a table"))?)
            }
        };
        Ok(Self {
            same_time,
            retention_days,
            rollups,
        })
    }
}

fn decode_rollup(from: &mut Reader<'_>) -> Result<Rollup, ReadFault> {
    let rollup = Rollup::new(from.u32()?, days(from.u32()?));
    rollup.map_err(|_| ReadFault::Invalid("width of a rollup"))
}

/// 0 stands for nothing.
fn days(days: u32) -> Option<u32> {
    (days > 0).then(|| days.min(RETENTION_DAYS_MAX))
}

pub(super) fn encode_tables(tables: &BTreeMap<String, TableWish>, out: &mut Writer) {
    out.count(tables.len());
    for (name, table) in tables {
        out.text(name);
        table.encode(out);
    }
}

pub(super) fn decode_tables(
    from: &mut Reader<'_>,
    tables_max: usize,
) -> Result<BTreeMap<String, TableWish>, ReadFault> {
    let count = from.count(TABLE_BYTES_MIN)?;
    if count > tables_max {
        return Err(ReadFault::Invalid("too many tables in the settings"));
    }
    let mut tables = BTreeMap::new();
    for _ in 0..count {
        let (name, table) = (from.text()?, TableWish::decode(from)?);
        if table.says_nothing() {
            return Err(ReadFault::Invalid("a table of which nothing is said"));
        }
        if name.len() > NAME_BYTES_MAX || tables.insert(name.to_owned(), table).is_some() {
            return Err(ReadFault::Invalid("name of a table"));
        }
    }
    Ok(tables)
}

impl TableSettings {
    /// `None`: as long as the cluster keeps rows.
    pub fn retention_days_of(&self, table: &str) -> Option<u32> {
        self.agreed.get(table)?.retention_days
    }

    /// The same, by which tables share files; 0: as long as the cluster keeps rows.
    pub fn kept_days(&self, table: &str) -> u32 {
        self.retention_days_of(table).unwrap_or(0)
    }

    /// Of a table of which nothing was agreed on, those of a minute and of an hour.
    pub fn rollups_of(&self, table: &str) -> Rollups {
        let agreed = self.agreed.get(table);
        let rollups = agreed.and_then(|agreed| agreed.rollups.clone());
        rollups.unwrap_or_default()
    }

    /// For how many days a rollup of that width is kept for its own sake; `None`: as long as the rows,
    /// or there is none.
    pub fn rollup_days(&self, table: &str, width_seconds: u32) -> Option<u32> {
        let rollups = self.rollups_of(table);
        let mut all = rollups.all().iter();
        all.find(|one| one.width_seconds == width_seconds)?
            .retention_days
    }

    /// The longest that rows of any table are kept for its own sake.
    pub fn retention_days_max(&self) -> Option<u32> {
        let agreed = self.agreed.values();
        agreed.filter_map(|one| one.retention_days).max()
    }

    /// The longest that a rollup of any table is kept for its own sake.
    pub fn rollup_days_max(&self) -> Option<u32> {
        let rollups = self.agreed.values().filter_map(|one| one.rollups.as_ref());
        let days = rollups.flat_map(|all| all.all().iter().filter_map(|one| one.retention_days));
        days.max()
    }

    /// Tables of which something was agreed on.
    pub(super) fn named(&self) -> impl Iterator<Item = &str> {
        self.agreed.keys().map(String::as_str)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.agreed.is_empty()
    }

    /// Takes over what is said. A table too many stays without.
    pub(super) fn agree(&mut self, table: &str, agreed: TableWish) {
        let has_room = self.agreed.len() < AGREED_TABLES_MAX || self.agreed.contains_key(table);
        let TableWish {
            retention_days,
            rollups,
            ..
        } = agreed;
        if !has_room || (retention_days.is_none() && rollups.is_none()) {
            return;
        }
        let all = Arc::make_mut(&mut self.agreed);
        let known = all.entry(table.to_owned()).or_default();
        known.retention_days = retention_days.or(known.retention_days);
        if rollups.is_some() {
            known.rollups = rollups;
        }
    }

    pub(super) fn encode(&self, out: &mut Writer) {
        encode_tables(&self.agreed, out);
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, ReadFault> {
        let agreed = decode_tables(from, AGREED_TABLES_MAX)?;
        if agreed.values().any(|one| one.same_time.is_some()) {
            return Err(ReadFault::Invalid("same_time among the settings of tables"));
        }
        Ok(Self {
            agreed: Arc::new(agreed),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rollup(width_seconds: u32, days: u32) -> Rollup {
        Rollup::new(width_seconds, (days > 0).then_some(days)).unwrap()
    }

    #[test]
    fn widths_divide_a_day_and_come_once() {
        for width in [0, 7, 86_401, 2 * DAY_SECONDS, u32::MAX] {
            assert_eq!(Rollup::new(width, None), Err(RollupFault::Width), "{width}");
        }
        let new = |widths: &[u32]| Rollups::new(widths.iter().map(|one| rollup(*one, 0)).collect());
        assert_eq!(new(&[3_600, 60]), Ok(Rollups::default()), "in any order");
        assert_eq!(new(&[60, 1, 60]), Err(RollupFault::Twice));
        assert_eq!(new(&[1, 2, 3, 4, 5]), Err(RollupFault::TooMany));
        let days = |days| Rollup::new(60, Some(days)).unwrap().retention_days();
        assert_eq!(
            (days(0), days(u32::MAX)),
            (Some(1), Some(RETENTION_DAYS_MAX))
        );
    }

    #[test]
    fn rollups_are_shown_as_they_are_written() {
        let shown = |all: &[Rollup]| Rollups::new(all.to_vec()).unwrap().to_string();
        assert_eq!(shown(&[]), "none");
        assert_eq!(shown(&[rollup(90, 0), rollup(300, 0)]), "90s, 5m");
        assert_eq!(
            shown(&[rollup(86_400, 1_825), rollup(60, 0)]),
            "1m, 24h for 1825 days"
        );
    }

    #[test]
    fn what_is_agreed_on_stays_until_something_else_is() {
        let mut settings = TableSettings::default();
        let mut agree = |table: &str, days, rollups| {
            let wish = TableWish {
                same_time: Some(SameTime::Merge),
                retention_days: days,
                rollups,
            };
            settings.agree(table, wish);
            (
                settings.retention_days_of(table),
                settings.rollups_of(table),
                settings.retention_days_max(),
            )
        };
        let hours = Rollups::new(vec![rollup(3_600, 9)]).unwrap();
        assert_eq!(agree("a", None, None), (None, Rollups::default(), None));
        let all = (Some(3), Rollups::default(), Some(3));
        assert_eq!(agree("a", Some(3), None), all);
        assert_eq!(
            agree("a", None, Some(hours.clone())),
            (Some(3), hours, Some(3))
        );
        assert_eq!(
            agree("b", Some(2), None),
            (Some(2), Rollups::default(), Some(3))
        );
        let none = Rollups::new(vec![]).unwrap();
        assert_eq!(
            agree("b", Some(4), Some(none.clone())),
            (Some(4), none, Some(4))
        );
    }

    #[test]
    fn tables_are_bounded() {
        let mut settings = TableSettings::default();
        let wish = |days| TableWish {
            retention_days: Some(days),
            ..TableWish::default()
        };
        for at in 0..=AGREED_TABLES_MAX {
            settings.agree(&format!("{at:05}"), wish(1));
        }
        let last = format!("{AGREED_TABLES_MAX:05}");
        assert_eq!(settings.retention_days_of(&last), None);
        settings.agree("00000", wish(2));
        assert_eq!(settings.retention_days_of("00000"), Some(2));
        let mut out = Writer::default();
        settings.encode(&mut out);
        let read = TableSettings::decode(&mut Reader::new(&out.out));
        assert_eq!(read, Ok(settings));
    }

    fn any_table() -> impl Strategy<Value = TableWish> {
        let same_time = prop_oneof![Just(SameTime::Keep), Just(SameTime::Merge)];
        let width = prop::sample::select(vec![1, 60, 300, 3_600, DAY_SECONDS]);
        let days = || prop::option::of(1..=RETENTION_DAYS_MAX);
        let one = (width, days()).prop_map(|(width, days)| Rollup::new(width, days).unwrap());
        let rollups = prop::collection::vec(one, 0..4);
        let rollups = rollups.prop_filter_map("each width once", |all| Rollups::new(all).ok());
        (
            prop::option::of(same_time),
            days(),
            prop::option::of(rollups),
        )
            .prop_map(|(same_time, retention_days, rollups)| TableWish {
                same_time,
                retention_days,
                rollups,
            })
    }

    /// Mostly those that may be in a name's length, or say nothing.
    fn any_byte() -> impl Strategy<Value = u8> {
        prop_oneof![8 => Just(0), 2 => Just(1), 2 => Just(NOTHING), 1 => any::<u8>()]
    }

    proptest! {
        #[test]
        fn what_is_said_comes_back(
            tables in prop::collection::btree_map("[a-z]{0,3}", any_table(), 0..4)
        ) {
            let mut out = Writer::default();
            encode_tables(&tables, &mut out);
            let mut from = Reader::new(&out.out);
            let read = decode_tables(&mut from, 4);
            if tables.values().any(TableWish::says_nothing) {
                prop_assert!(read.is_err());
            } else {
                prop_assert_eq!(read, Ok(tables));
                prop_assert_eq!(from.end(), Ok(()));
            }
        }

        #[test]
        fn any_bytes_are_read_as_what_would_write_them_or_not_at_all(
            mut bytes in prop::collection::vec(any_byte(), 4..64)
        ) {
            let count = bytes[0] % 3;
            bytes[..4].copy_from_slice(&[count, 0, 0, 0]);
            let mut from = Reader::new(&bytes);
            if let Ok(tables) = decode_tables(&mut from, 8) {
                let mut out = Writer::default();
                encode_tables(&tables, &mut out);
                let again = decode_tables(&mut Reader::new(&out.out), 8);
                prop_assert_eq!(again, Ok(tables));
            }
        }
    }
}
