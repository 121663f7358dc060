//! The catalog: tables, their fields and tag keys, and every series, numbered in apply order and
//! therefore alike on all replicas. Shared with readers copy on write.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shared::id::AgentId;
use shared::reading::FieldType;

use super::bytes::{ReadFault, Reader, Writer};
use super::cow::{CowList, CowMap};
use super::quota::{Made, Quota, Quotas};
use super::settings::SameTime;

/// Tables a cluster keeps.
pub const TABLES_MAX: usize = 4_096;
/// Fields of one table.
pub const TABLE_FIELDS_MAX: usize = 4_096;
/// Tag keys of one table.
pub const TABLE_TAGS_MAX: usize = 256;
/// Series a cluster keeps; `quarantine` has room of its own.
pub const SERIES_MAX: usize = 4_000_000;
/// Series of the table `quarantine`; all further devices share one.
pub const QUARANTINE_SERIES_MAX: u32 = 65_536;
/// Tables that wait for their first row to merge rows of the same time.
pub const DECLARED_TABLES_MAX: usize = 1_024;
/// Integers up to this size are exact as floats.
pub const EXACT_INT_MAX: u64 = 1 << 53;

/// Where values go that cannot be stored as declared.
pub const QUARANTINE: &str = "quarantine";
/// Tables that are views of the state; no publisher may fill them.
pub const RESERVED_TABLES: [&str; 4] = [QUARANTINE, "agents", "gaps", "nodes"];
/// Columns that every table has.
const RESERVED_COLUMNS: [&str; 2] = ["time", "device"];
/// The fields of `quarantine`, all text, in this order.
pub const QUARANTINE_FIELDS: [&str; 6] = ["agent", "table", "tags", "field", "value", "reason"];

/// Number of a table, in order of first use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub u32);

/// Number of a series, in order of first use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesId(pub u32);

/// One table.
#[derive(Debug, Clone)]
pub struct TableInfo {
    pub id: TableId,
    pub name: String,
    /// Union of the tag keys of all its series, sorted.
    pub tag_keys: Vec<String>,
    /// As it was agreed on before the first row; from then on it stays.
    pub same_time: SameTime,
    /// In order of first use; a column of rows names its field by the index in here. None without rows.
    pub fields: Vec<(String, FieldType)>,
    /// Parallel to `fields`: an int is stored that is not exact as a float, so the field is not widened.
    pub(super) inexact: Vec<bool>,
    pub(super) series: CowList<SeriesId>,
    slots: BTreeMap<String, u16>,
}

/// One series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesInfo {
    pub id: SeriesId,
    pub table_id: TableId,
    pub table: String,
    pub device: String,
    /// Sorted by key.
    pub tags: Vec<(String, String)>,
}

/// Why something cannot be stored as declared. The texts are shown in `quarantine.reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    ReservedTable,
    TooManyTables,
    TooManySeries,
    TooManyTags,
    TagIsColumn,
    TooManyFields,
    FieldIsColumn,
    TypeConflict,
    IntNotExact,
    UnknownSeries,
    SeriesDefinedTwice,
    UnknownField,
    FieldTwice,
    Undecodable,
    /// The agent made so many already.
    OverQuota(Quota, u32),
}

/// Tables and series.
#[derive(Debug, Clone)]
pub struct Catalog {
    tables: Vec<Arc<TableInfo>>,
    names: BTreeMap<String, TableId>,
    series: CowList<Arc<SeriesInfo>>,
    keys: CowMap<Box<[u8]>, SeriesId>,
    quarantine_series: u32,
    /// Tables without rows that will merge those of the same time.
    declared: Arc<BTreeSet<String>>,
    /// What one agent may make, and what each did since there are quotas.
    quotas: Quotas,
    made: CowMap<AgentId, Made>,
}

impl Catalog {
    pub(super) fn new() -> Self {
        Self {
            tables: Vec::new(),
            names: BTreeMap::new(),
            series: CowList::new(),
            keys: CowMap::new(),
            quarantine_series: 0,
            declared: Arc::default(),
            quotas: Quotas::default(),
            made: CowMap::new(),
        }
    }

    /// All tables, sorted by name.
    pub fn tables(&self) -> impl Iterator<Item = &TableInfo> {
        self.names
            .values()
            .map(|id| self.table_by_id(*id).expect("names lead to tables"))
    }

    pub fn table(&self, name: &str) -> Option<&TableInfo> {
        self.table_by_id(*self.names.get(name)?)
    }

    pub fn table_by_id(&self, id: TableId) -> Option<&TableInfo> {
        self.tables
            .get(usize::try_from(id.0).ok()?)
            .map(|table| &**table)
    }

    pub fn series(&self, id: SeriesId) -> Option<&Arc<SeriesInfo>> {
        self.series.get(usize::try_from(id.0).ok()?)
    }

    pub fn series_count(&self) -> usize {
        self.series.len()
    }

    /// What holds of a table, or will with its first row.
    pub fn same_time(&self, table: &str) -> SameTime {
        match self.table(table).filter(|info| info.has_rows()) {
            Some(info) => info.same_time,
            None if self.declared.contains(table) => SameTime::Merge,
            None => SameTime::Keep,
        }
    }

    /// Whether rows of a series that have the same time are one.
    pub(crate) fn merges_same_time(&self, series: SeriesId) -> bool {
        let table = self.series(series).map(|info| info.table_id);
        let table = table.and_then(|id| self.table_by_id(id));
        table.is_some_and(|table| table.same_time == SameTime::Merge)
    }

    /// Takes over what the cluster agreed on. Nothing changes for a table that has rows.
    pub(super) fn declare(this: &mut Arc<Self>, table: &str, same_time: SameTime) {
        let has_rows = this.table(table).is_some_and(TableInfo::has_rows);
        let has_room = this.declared.len() < DECLARED_TABLES_MAX;
        match same_time {
            SameTime::Merge if has_room && !has_rows && !this.declared.contains(table) => {
                Arc::make_mut(&mut Arc::make_mut(this).declared).insert(table.to_owned());
            }
            SameTime::Keep if this.declared.contains(table) => {
                Arc::make_mut(&mut Arc::make_mut(this).declared).remove(table);
            }
            _ => {}
        }
    }

    /// What each agent made since there are quotas, by agent.
    pub fn made(&self) -> impl Iterator<Item = (&AgentId, &Made)> {
        self.made.sorted().into_iter()
    }

    /// What one agent may make from here on.
    pub(super) fn allow(this: &mut Arc<Self>, quotas: Quotas) {
        if this.quotas != quotas {
            Arc::make_mut(this).quotas = quotas;
        }
    }

    /// Whether `agent` may make one more; counts it if not.
    fn within_quota(this: &mut Arc<Self>, agent: &AgentId, quota: Quota) -> Result<(), Refusal> {
        let Some(most) = this.quotas.of(quota) else {
            return Ok(());
        };
        let made = this.made.get(agent).map_or(0, |made| made.of(quota));
        if made < most {
            return Ok(());
        }
        Arc::make_mut(this).made_by(agent).refuse(quota);
        Err(Refusal::OverQuota(quota, most))
    }

    fn count_made(&mut self, agent: &AgentId, quota: Quota) {
        if !self.quotas.is_none() {
            self.made_by(agent).add(quota);
        }
    }

    fn made_by(&mut self, agent: &AgentId) -> &mut Made {
        self.made.entry_or(agent, Made::default)
    }

    pub(super) fn declared(&self) -> &BTreeSet<String> {
        &self.declared
    }

    pub(super) fn all_tables(&self) -> &[Arc<TableInfo>] {
        &self.tables
    }

    pub(super) fn all_series(&self) -> impl Iterator<Item = &Arc<SeriesInfo>> {
        self.series.iter()
    }

    /// The id of a publisher's series; made at first use, by `agent`.
    pub(super) fn intern(
        this: &mut Arc<Self>,
        agent: &AgentId,
        table: &str,
        device: &str,
        tags: &[(String, String)],
    ) -> Result<SeriesId, Refusal> {
        if RESERVED_TABLES.contains(&table) {
            return Err(Refusal::ReservedTable);
        }
        let key = series_key(table, device, tags);
        if let Some(id) = this.keys.get(&key) {
            return Ok(*id);
        }
        if this.series.len() >= SERIES_MAX {
            return Err(Refusal::TooManySeries);
        }
        this.tags_fit(table, tags)?;
        let known = this.names.get(table).copied();
        if known.is_none() {
            Self::within_quota(this, agent, Quota::Tables)?;
        }
        Self::within_quota(this, agent, Quota::Series)?;
        let catalog = Arc::make_mut(this);
        let table_id = known.unwrap_or_else(|| {
            catalog.count_made(agent, Quota::Tables);
            catalog.add_table(table)
        });
        catalog.count_made(agent, Quota::Series);
        Ok(catalog.add_series(key, table_id, device, tags))
    }

    /// The quarantine series of a device; makes the table at first use.
    pub(super) fn intern_quarantine(this: &mut Arc<Self>, device: &str) -> SeriesId {
        let full = this.quarantine_series >= QUARANTINE_SERIES_MAX;
        let key = series_key(QUARANTINE, device, &[]);
        match this.keys.get(&key) {
            Some(id) => return *id,
            None if full && device != OTHER_DEVICES => {
                return Self::intern_quarantine(this, OTHER_DEVICES);
            }
            None => {}
        }
        let catalog = Arc::make_mut(this);
        let table_id = match catalog.names.get(QUARANTINE) {
            Some(id) => *id,
            None => catalog.add_quarantine(),
        };
        catalog.quarantine_series += 1;
        catalog.add_series(key, table_id, device, &[])
    }

    /// The slot of a field of a table, for a value of this type; made or widened where the rules allow.
    /// `inexact`: among the values is an int that is not exact as a float. A new one is made by `agent`.
    pub(super) fn field_slot(
        this: &mut Arc<Self>,
        agent: &AgentId,
        table_id: TableId,
        name: &str,
        found: FieldType,
        inexact: bool,
    ) -> Result<(u16, FieldType), Refusal> {
        let table = this.table_by_id(table_id).expect("series lead to tables");
        let Some(slot) = table.slots.get(name).copied() else {
            this.has_room_for_field(table_id, name)?;
            Self::within_quota(this, agent, Quota::Fields)?;
            let catalog = Arc::make_mut(this);
            catalog.count_made(agent, Quota::Fields);
            return Ok((catalog.add_field(table_id, name, found, inexact), found));
        };
        let at = usize::from(slot);
        let (have, have_inexact) = (table.fields[at].1, table.inexact[at]);
        match (have, found) {
            (FieldType::Int, FieldType::Int) => {
                if inexact && !have_inexact {
                    Arc::make_mut(this).table_mut(table_id).inexact[at] = true;
                }
                Ok((slot, have))
            }
            (FieldType::Int, FieldType::Float) if !have_inexact => {
                Arc::make_mut(this).table_mut(table_id).fields[at].1 = FieldType::Float;
                Ok((slot, FieldType::Float))
            }
            (FieldType::Float, FieldType::Int) => Ok((slot, FieldType::Float)),
            (have, found) if have == found => Ok((slot, have)),
            _ => Err(Refusal::TypeConflict),
        }
    }

    fn tags_fit(&self, table: &str, tags: &[(String, String)]) -> Result<(), Refusal> {
        if tags
            .iter()
            .any(|(key, _)| RESERVED_COLUMNS.contains(&key.as_str()))
        {
            return Err(Refusal::TagIsColumn);
        }
        let Some(info) = self.table(table) else {
            return if self.tables.len() < TABLES_MAX && tags.len() <= TABLE_TAGS_MAX {
                Ok(())
            } else {
                Err(Refusal::TooManyTables)
            };
        };
        if tags.iter().any(|(key, _)| info.slots.contains_key(key)) {
            return Err(Refusal::TagIsColumn);
        }
        let new = tags
            .iter()
            .filter(|(key, _)| info.tag_keys.binary_search(key).is_err())
            .count();
        if info.tag_keys.len() + new > TABLE_TAGS_MAX {
            return Err(Refusal::TooManyTags);
        }
        Ok(())
    }

    /// Decoding rebuilds a catalog with the same steps that made it.
    pub(super) fn add_table(&mut self, name: &str) -> TableId {
        let id = TableId(u32::try_from(self.tables.len()).expect("TABLES_MAX"));
        self.names.insert(name.to_owned(), id);
        self.tables.push(Arc::new(TableInfo {
            id,
            name: name.to_owned(),
            tag_keys: Vec::new(),
            same_time: SameTime::Keep,
            fields: Vec::new(),
            inexact: Vec::new(),
            series: CowList::new(),
            slots: BTreeMap::new(),
        }));
        id
    }

    pub(super) fn add_series(
        &mut self,
        key: Box<[u8]>,
        table_id: TableId,
        device: &str,
        tags: &[(String, String)],
    ) -> SeriesId {
        let id = SeriesId(u32::try_from(self.series.len()).expect("SERIES_MAX"));
        let table = self.table_mut(table_id);
        for (tag, _) in tags {
            if let Err(at) = table.tag_keys.binary_search(tag) {
                table.tag_keys.insert(at, tag.clone());
            }
        }
        table.series.push(id);
        let table = table.name.clone();
        self.keys.insert(key, id);
        self.series.push(Arc::new(SeriesInfo {
            id,
            table_id,
            table,
            device: device.to_owned(),
            tags: tags.to_vec(),
        }));
        id
    }

    pub(super) fn push_field(
        &mut self,
        table_id: TableId,
        name: &str,
        field_type: FieldType,
        inexact: bool,
    ) -> u16 {
        let table = self.table_mut(table_id);
        let slot = u16::try_from(table.fields.len()).expect("TABLE_FIELDS_MAX");
        table.fields.push((name.to_owned(), field_type));
        table.inexact.push(inexact);
        table.slots.insert(name.to_owned(), slot);
        slot
    }

    pub(super) fn restore_same_time(&mut self, table: TableId, same_time: SameTime) {
        self.table_mut(table).same_time = same_time;
    }

    pub(super) fn restore_quotas(&mut self, quotas: Quotas) {
        self.quotas = quotas;
    }

    pub(super) fn restore_made(&mut self, agent: AgentId, made: Made) {
        self.made.insert(agent, made);
    }

    pub(super) fn restore_declared(&mut self, declared: BTreeSet<String>) {
        self.declared = Arc::new(declared);
    }

    pub(super) fn count_quarantine(&mut self) {
        let Some(table) = self.table(QUARANTINE) else {
            return;
        };
        let count = u32::try_from(table.series.len()).expect("QUARANTINE_SERIES_MAX");
        self.quarantine_series = count;
    }

    fn add_quarantine(&mut self) -> TableId {
        let id = self.add_table(QUARANTINE);
        for field in QUARANTINE_FIELDS {
            self.push_field(id, field, FieldType::Text, false);
        }
        id
    }

    fn has_room_for_field(&self, table_id: TableId, name: &str) -> Result<(), Refusal> {
        let table = self.table_by_id(table_id).expect("series lead to tables");
        let is_tag = table
            .tag_keys
            .binary_search_by(|key| key.as_str().cmp(name))
            .is_ok();
        if is_tag || RESERVED_COLUMNS.contains(&name) {
            return Err(Refusal::FieldIsColumn);
        }
        if table.fields.len() >= TABLE_FIELDS_MAX {
            return Err(Refusal::TooManyFields);
        }
        Ok(())
    }

    fn add_field(&mut self, table_id: TableId, name: &str, found: FieldType, inexact: bool) -> u16 {
        let declared = Arc::clone(&self.declared);
        let table = self.table_mut(table_id);
        if !table.has_rows() && declared.contains(&table.name) {
            table.same_time = SameTime::Merge;
            let name = table.name.clone();
            Arc::make_mut(&mut self.declared).remove(&name);
        }
        self.push_field(table_id, name, found, inexact)
    }

    fn table_mut(&mut self, id: TableId) -> &mut TableInfo {
        let at = usize::try_from(id.0).expect("TABLES_MAX");
        Arc::make_mut(&mut self.tables[at])
    }
}

/// The device that stands for all others once `quarantine` has enough series.
const OTHER_DEVICES: &str = "(other)";

impl TableInfo {
    pub fn series(&self) -> impl Iterator<Item = SeriesId> {
        self.series.iter().copied()
    }

    /// The index of a field.
    pub fn slot(&self, field: &str) -> Option<u16> {
        self.slots.get(field).copied()
    }

    pub fn series_count(&self) -> usize {
        self.series.len()
    }

    /// Its first field comes with its first row.
    pub fn has_rows(&self) -> bool {
        !self.fields.is_empty()
    }
}

impl Refusal {
    /// In the order of their numbers. Behind them come those of quotas.
    const ALL: [Self; 14] = [
        Self::ReservedTable,
        Self::TooManyTables,
        Self::TooManySeries,
        Self::TooManyTags,
        Self::TagIsColumn,
        Self::TooManyFields,
        Self::FieldIsColumn,
        Self::TypeConflict,
        Self::IntNotExact,
        Self::UnknownSeries,
        Self::SeriesDefinedTwice,
        Self::UnknownField,
        Self::FieldTwice,
        Self::Undecodable,
    ];

    /// Of a quota its number is followed by how many it allows.
    pub(super) fn encode(self, out: &mut Writer) {
        let place = match self {
            Self::OverQuota(quota, _) => Self::ALL.len() + quota as usize,
            plain => {
                let place = Self::ALL.iter().position(|one| *one == plain);
                place.expect("all but quotas are listed")
            }
        };
        out.u8(u8::try_from(place).expect("they are few"));
        if let Self::OverQuota(_, most) = self {
            out.u32(most);
        }
    }

    /// Behind its number.
    pub(super) fn decode(number: u8, from: &mut Reader<'_>) -> Result<Self, ReadFault> {
        let place = usize::from(number);
        if let Some(plain) = Self::ALL.get(place) {
            return Ok(*plain);
        }
        let quota = Quota::ALL.get(place - Self::ALL.len());
        let quota = quota.ok_or(ReadFault::Invalid("refusal"))?;
        Ok(Self::OverQuota(*quota, from.u32()?))
    }

    /// As it stands in `quarantine.reason`.
    pub fn text(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::OverQuota(quota, most) => {
                let (what, key) = (quota.as_str(), quota.key());
                return Cow::Owned(format!(
                    "the agent has made as many {what} as it may, quotas.{key} = {most}: let it name \
                     fewer, or raise the quota on every node and restart the agent"
                ));
            }
            Self::ReservedTable => "the table name is reserved",
            Self::TooManyTables => "too many tables",
            Self::TooManySeries => "too many series",
            Self::TooManyTags => "too many tag keys in this table",
            Self::TagIsColumn => "a tag has the name of another column",
            Self::TooManyFields => "too many fields in this table",
            Self::FieldIsColumn => "the field has the name of another column",
            Self::TypeConflict => "the field has another type",
            Self::IntNotExact => "the field is a float and this int is not exact as one",
            Self::UnknownSeries => "no definition of this series id",
            Self::SeriesDefinedTwice => "the series id was defined twice, differently",
            Self::UnknownField => "no such field in the definition of the series",
            Self::FieldTwice => "the field comes twice in one row",
            Self::Undecodable => "the payload could not be decoded",
        })
    }
}

/// Lengths before texts, so that no two series share a key.
pub(super) fn series_key(table: &str, device: &str, tags: &[(String, String)]) -> Box<[u8]> {
    let mut key = Writer::default();
    key.text(table);
    key.text(device);
    key.pairs(tags);
    key.out.into_boxed_slice()
}
