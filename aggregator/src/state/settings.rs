//! What an operator chooses for a whole cluster. Each node tells what its own configuration says,
//! through the log; what more than half of all members say is in force, each setting for itself. So
//! one file that was forgotten changes nothing, whoever leads, and the last of a majority that is
//! edited decides. A file that says nothing of a setting is for none, and neither is a node that is
//! gone: rows must not be dropped because of somebody who never said so.

use std::collections::BTreeMap;
use std::sync::Arc;

use shared::limits::NAME_BYTES_MAX;

use super::bytes::{ReadFault, Reader, Writer};
use super::quota::{Quota, Quotas};
use super::table_settings::{TableSettings, TableWish, decode_tables, encode_tables};

pub const RETENTION_DAYS_MAX: u32 = 36_500;
pub const PARTITION_HOURS_MAX: u32 = 24 * 366;
/// Tables of which one node may say something.
pub const TABLE_WISHES_MAX: usize = 256;

/// What becomes of rows of one series that have the same time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum SameTime {
    /// All of them stay.
    #[default]
    Keep = 0,
    /// They become one row: field by field the later in log order, and what only the earlier has.
    Merge = 1,
}

/// What all replicas go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    retention_days: u32,
    partition_hours: u32,
    quotas: Quotas,
}

/// What the configuration of one node says; `None`: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    retention_days: Option<u32>,
    partition_hours: Option<u32>,
    quotas: Quotas,
    /// Shared: every view has a copy.
    tables: Arc<BTreeMap<String, TableWish>>,
}

/// How much of a wish its bytes say. Nodes of before stop at a form that they do not know, so what needs
/// no later one is written in an earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    /// The retention and the hours of a partition.
    DaysAndHours,
    /// Quotas, too, and of tables what happens to rows of the same time.
    SameTime,
    /// All.
    Tables,
}

/// Which settings are in force, and whose wish they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Agreement {
    pub(super) in_force: Settings,
    /// Node id -> what it told last.
    pub(super) told: BTreeMap<u64, Wish>,
    pub(super) tables: TableSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self::new(400, 24)
    }
}

impl Settings {
    /// Of what is out of range the nearest that is not: applying never fails.
    pub fn new(retention_days: u32, partition_hours: u32) -> Self {
        Self {
            retention_days: retention_days.clamp(1, RETENTION_DAYS_MAX),
            partition_hours: partition_hours.clamp(1, PARTITION_HOURS_MAX),
            quotas: Quotas::default(),
        }
    }

    #[must_use]
    pub fn with_quotas(self, quotas: Quotas) -> Self {
        Self { quotas, ..self }
    }

    /// How long rows are kept, by replicated time.
    pub fn retention_days(self) -> u32 {
        self.retention_days
    }

    /// The window of one partition. Segments name their own: it may change.
    pub fn partition_hours(self) -> u32 {
        self.partition_hours
    }

    /// What one agent may make.
    pub fn quotas(self) -> Quotas {
        self.quotas
    }

    pub(super) fn encode(self, out: &mut Writer) {
        out.u32(self.retention_days);
        out.u32(self.partition_hours);
        self.quotas.encode(out);
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, ReadFault> {
        let settings = Self::decode_days_and_hours(from)?;
        Ok(settings.with_quotas(Quotas::decode(from)?))
    }

    pub(super) fn decode_days_and_hours(from: &mut Reader<'_>) -> Result<Self, ReadFault> {
        Ok(Self::new(from.u32()?, from.u32()?))
    }
}

impl SameTime {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Merge => "merge",
        }
    }

    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Keep, Self::Merge]
            .into_iter()
            .find(|one| *one as u8 == byte)
    }
}

impl Wish {
    /// Of what is out of range the nearest that is not: applying never fails.
    pub fn new(retention_days: Option<u32>, partition_hours: Option<u32>) -> Self {
        Self {
            retention_days: retention_days.map(|days| days.clamp(1, RETENTION_DAYS_MAX)),
            partition_hours: partition_hours.map(|hours| hours.clamp(1, PARTITION_HOURS_MAX)),
            quotas: Quotas::default(),
            tables: Arc::default(),
        }
    }

    #[must_use]
    pub fn with_quotas(self, quotas: Quotas) -> Self {
        Self { quotas, ..self }
    }

    /// Of names that are too long, or are more than [`TABLE_WISHES_MAX`], nothing is said.
    #[must_use]
    pub fn with_tables(self, tables: BTreeMap<String, TableWish>) -> Self {
        let fits = |(name, table): &(String, TableWish)| {
            name.len() <= NAME_BYTES_MAX && !table.says_nothing()
        };
        let tables = tables.into_iter().filter(fits).take(TABLE_WISHES_MAX);
        Self {
            tables: Arc::new(tables.collect()),
            ..self
        }
    }

    pub fn retention_days(&self) -> Option<u32> {
        self.retention_days
    }

    pub fn partition_hours(&self) -> Option<u32> {
        self.partition_hours
    }

    /// What one agent may make.
    pub fn quotas(&self) -> Quotas {
        self.quotas
    }

    /// What is said of tables, by name.
    pub fn tables(&self) -> &BTreeMap<String, TableWish> {
        &self.tables
    }

    /// Whether all that is wished of the whole cluster is so.
    pub fn is_met_by(&self, settings: Settings) -> bool {
        let days = self.retention_days.unwrap_or(settings.retention_days);
        let hours = self.partition_hours.unwrap_or(settings.partition_hours);
        let quotas = self.quotas.or(settings.quotas);
        Settings::new(days, hours).with_quotas(quotas) == settings
    }

    /// The earliest that says all of it.
    pub(super) fn form(&self) -> Form {
        if !self.tables.values().all(TableWish::is_same_time) {
            Form::Tables
        } else if self.tables.is_empty() && self.quotas.is_none() {
            Form::DaysAndHours
        } else {
            Form::SameTime
        }
    }

    /// 0 stands for nothing. `form`: not below [`Wish::form`].
    pub(super) fn encode(&self, form: Form, out: &mut Writer) {
        out.u32(self.retention_days.unwrap_or(0));
        out.u32(self.partition_hours.unwrap_or(0));
        if form == Form::DaysAndHours {
            return;
        }
        self.quotas.encode(out);
        if form == Form::Tables {
            return encode_tables(&self.tables, out);
        }
        out.count(self.tables.len());
        for (table, wish) in &*self.tables {
            out.text(table);
            out.u8(wish.same_time.unwrap_or_default() as u8);
        }
    }

    pub(super) fn decode(form: Form, from: &mut Reader<'_>) -> Result<Self, ReadFault> {
        let said = |value: u32| (value > 0).then_some(value);
        let wish = Self::new(said(from.u32()?), said(from.u32()?));
        if form == Form::DaysAndHours {
            return Ok(wish);
        }
        let wish = wish.with_quotas(Quotas::decode(from)?);
        let tables = match form {
            Form::Tables => decode_tables(from, TABLE_WISHES_MAX)?,
            _ => decode_same_times(from)?,
        };
        Ok(wish.with_tables(tables))
    }
}

fn decode_same_times(from: &mut Reader<'_>) -> Result<BTreeMap<String, TableWish>, ReadFault> {
    let count = from.count(5)?;
    if count > TABLE_WISHES_MAX {
        return Err(ReadFault::Invalid("too many tables in the settings"));
    }
    let mut tables = BTreeMap::new();
    for _ in 0..count {
        let table = from.text()?;
        let same_time = SameTime::from_byte(from.u8()?);
        let same_time = same_time.ok_or(ReadFault::Invalid("same_time of a table"))?;
        let known = tables.insert(table.to_owned(), same_time.into());
        if table.len() > NAME_BYTES_MAX || known.is_some() {
            return Err(ReadFault::Invalid("name of a table"));
        }
    }
    Ok(tables)
}

impl Agreement {
    /// The earliest form that says all of it.
    pub(super) fn form(&self) -> Form {
        let forms = self.told.values().map(Wish::form);
        let of_tables = (!self.tables.is_empty()).then_some(Form::Tables);
        forms.chain(of_tables).max().unwrap_or(Form::DaysAndHours)
    }

    /// One of `members` tells what its configuration says. `lives`: those that were heard of lately.
    /// Returns the `same_time` of tables that it names, where that is agreed on now.
    pub(super) fn told(
        &mut self,
        node: u64,
        wish: &Wish,
        members: usize,
        lives: impl Fn(u64) -> bool,
    ) -> Vec<(String, SameTime)> {
        self.told.insert(node, wish.clone());
        let told = self.told.iter();
        let living: Vec<&Wish> = told
            .filter(|(other, _)| **other == node || lives(**other))
            .map(|(_, wish)| wish)
            .collect();
        let agreed = |wished: &dyn Fn(&Wish) -> Option<u32>| {
            let wanted = wished(wish)?;
            let agreeing = living.iter().filter(|one| wished(one) == Some(wanted));
            (agreeing.count() * 2 > members).then_some(wanted)
        };
        let Settings {
            retention_days,
            partition_hours,
            quotas,
        } = self.in_force;
        let all = Quota::ALL.into_iter();
        let quotas = all.fold(quotas, |quotas, quota| {
            let most = agreed(&|wish| wish.quotas.of(quota));
            quotas.with(quota, most.or(quotas.of(quota)))
        });
        self.in_force = Settings::new(
            agreed(&Wish::retention_days).unwrap_or(retention_days),
            agreed(&Wish::partition_hours).unwrap_or(partition_hours),
        )
        .with_quotas(quotas);
        let mut declared = Vec::new();
        for (table, wanted) in &*wish.tables {
            let agreed = wanted.agreed(
                living.iter().filter_map(|one| one.tables.get(table)),
                members,
            );
            declared.extend(agreed.same_time.map(|how| (table.clone(), how)));
            self.tables.agree(table, agreed);
        }
        declared
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Rollup, Rollups};

    #[test]
    fn what_more_than_half_of_the_members_say_is_in_force() {
        let mut agreement = Agreement::default();
        let mut tell = |node, (days, hours), members| {
            agreement.told(node, &Wish::new(Some(days), Some(hours)), members, |_| true);
            let in_force = agreement.in_force;
            (in_force.retention_days(), in_force.partition_hours())
        };
        assert_eq!(tell(1, (30, 24), 1), (30, 24));
        tell(2, (60, 12), 2);
        assert_eq!(tell(3, (90, 1), 3), (30, 24), "each says something else");
        assert_eq!(tell(3, (60, 1), 3), (60, 24), "of one setting");
        assert_eq!(tell(3, (60, 12), 3), (60, 12));
        assert_eq!(
            tell(3, (30, 24), 4),
            (60, 12),
            "two of four are no majority"
        );
    }

    /// Two nodes that joined without a line on it once had a third's ten years dropped.
    #[test]
    fn who_says_nothing_is_for_nothing() {
        let mut agreement = Agreement::default();
        agreement.told(1, &Wish::new(Some(3_650), None), 1, |_| true);
        agreement.told(2, &Wish::default(), 2, |_| true);
        agreement.told(3, &Wish::default(), 3, |_| true);
        assert_eq!(agreement.in_force, Settings::new(3_650, 24));
    }

    /// What they told before they were replaced once was for ever on the side of a stale file.
    #[test]
    fn who_is_gone_is_for_nothing() {
        let mut agreement = Agreement::default();
        let wish = |days| Wish::new(Some(days), None);
        for node in 1..=3 {
            agreement.told(node, &wish(30), 3, |_| true);
        }
        let lives = |node| node != 2 && node != 3;
        for node in [1, 4, 5] {
            agreement.told(node, &wish(400), 5, lives);
        }
        assert_eq!(agreement.in_force.retention_days(), 400);
        agreement.told(5, &wish(30), 5, lives);
        assert_eq!(agreement.in_force.retention_days(), 400);
    }

    #[test]
    fn each_table_is_agreed_on_for_itself() {
        let mut agreement = Agreement::default();
        let mut tell = |node, tables: &[(&str, SameTime)]| {
            let owned = |(name, how): &(&str, SameTime)| ((*name).to_owned(), (*how).into());
            let wish = Wish::default().with_tables(tables.iter().map(owned).collect());
            agreement.told(node, &wish, 3, |_| true)
        };
        let (merge, keep) = (SameTime::Merge, SameTime::Keep);
        assert_eq!(tell(1, &[("a", merge), ("b", merge)]), []);
        assert_eq!(tell(2, &[("a", merge), ("b", keep)]), [("a".into(), merge)]);
        assert_eq!(tell(3, &[("b", keep)]), [("b".into(), keep)]);
        assert_eq!(tell(3, &[]), [], "who says nothing is for nothing");
    }

    #[test]
    fn each_setting_of_a_table_is_agreed_on_for_itself_and_at_any_time() {
        let mut agreement = Agreement::default();
        let rollups = |width| Rollups::new(vec![Rollup::new(width, None).unwrap()]).unwrap();
        let mut tell = |node, days, width: u32| {
            let table = TableWish {
                same_time: None,
                retention_days: Some(days),
                rollups: Some(rollups(width)),
            };
            let wish = Wish::default().with_tables([("a".to_owned(), table)].into());
            agreement.told(node, &wish, 3, |_| true);
            let of = &agreement.tables;
            (of.retention_days_of("a"), of.rollups_of("a"))
        };
        assert_eq!(tell(1, 30, 60), (None, Rollups::default()));
        assert_eq!(tell(2, 30, 3_600), (Some(30), Rollups::default()));
        assert_eq!(tell(3, 60, 3_600), (Some(30), rollups(3_600)));
        assert_eq!(tell(1, 60, 60), (Some(60), rollups(3_600)));
        assert_eq!(agreement.form(), Form::Tables);
        agreement.told(1, &Wish::default(), 3, |_| true);
        agreement.told(2, &Wish::default(), 3, |_| true);
        let days = agreement.tables.retention_days_of("a");
        assert_eq!(days, Some(60), "who says nothing is for nothing");
    }

    #[test]
    fn the_earliest_form_is_written_that_says_all() {
        let with = |table: TableWish| Wish::default().with_tables([("a".to_owned(), table)].into());
        let days = TableWish {
            retention_days: Some(1),
            ..TableWish::default()
        };
        for (wish, form) in [
            (Wish::new(Some(1), Some(2)), Form::DaysAndHours),
            (with(TableWish::default()), Form::DaysAndHours),
            (with(SameTime::Keep.into()), Form::SameTime),
            (with(days), Form::Tables),
        ] {
            assert_eq!(wish.form(), form);
            for form in [Form::DaysAndHours, Form::SameTime, Form::Tables] {
                let mut out = Writer::default();
                wish.encode(form, &mut out);
                let read = Wish::decode(form, &mut Reader::new(&out.out)).unwrap();
                assert_eq!(read == wish, form >= wish.form());
            }
        }
    }

    #[test]
    fn what_is_out_of_range_is_brought_into_it() {
        assert_eq!(Settings::new(0, 0), Settings::new(1, 1));
        let most = Settings::new(u32::MAX, u32::MAX);
        assert_eq!(most, Settings::new(RETENTION_DAYS_MAX, PARTITION_HOURS_MAX));
        let wish = Wish::new(Some(0), Some(u32::MAX));
        assert_eq!(wish, Wish::new(Some(1), Some(PARTITION_HOURS_MAX)));
    }
}
