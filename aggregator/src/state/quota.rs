//! What one agent may make of that which the cluster keeps for ever: series, tables and fields. There
//! are so many at most for all, and without quotas one agent that names things anew each time could
//! take the place of all others. What exceeds a quota goes to quarantine, acknowledged and counted.
//!
//! Who was first made it. What was there before the quotas came into force counts for nobody, and so
//! nodes that began to count at different times do not disagree. Nothing is given back: series, tables
//! and fields stay as long as the cluster does.

use super::bytes::{ReadFault, Reader, Writer};
use super::catalog::{SERIES_MAX, TABLE_FIELDS_MAX, TABLES_MAX};

/// What an agent may make only so many of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quota {
    Series,
    Tables,
    Fields,
}

/// How many of each one agent may make; `None`: any number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quotas {
    most: [Option<u32>; 3],
}

/// What one agent made since there are quotas, and how often more was refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Made {
    made: [u32; 3],
    refused: [u64; 3],
}

impl Quota {
    pub const ALL: [Self; 3] = [Self::Series, Self::Tables, Self::Fields];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Series => "series",
            Self::Tables => "tables",
            Self::Fields => "fields",
        }
    }

    /// Where it is configured.
    pub fn key(self) -> &'static str {
        match self {
            Self::Series => "agent_series_max",
            Self::Tables => "agent_tables_max",
            Self::Fields => "agent_fields_max",
        }
    }

    /// Where `[quotas]` does not say otherwise. A gateway speaks for thousands of devices of tens of kinds, so this
    /// is above what honest ones make: it takes 40 agents for all series, 32 for all tables. Of the fields
    /// of one table one agent can take a quarter, and four can take all.
    pub fn default_most(self) -> u32 {
        match self {
            Self::Series => 100_000,
            Self::Tables => 128,
            Self::Fields => 1_024,
        }
    }

    /// What the whole cluster may have.
    pub fn total(self) -> u32 {
        let total = match self {
            Self::Series => SERIES_MAX,
            Self::Tables => TABLES_MAX,
            Self::Fields => TABLES_MAX * TABLE_FIELDS_MAX,
        };
        u32::try_from(total).expect("limits of the catalog")
    }
}

impl Quotas {
    /// Of what is out of range the nearest that is not: applying never fails.
    #[must_use]
    pub fn with(mut self, quota: Quota, most: Option<u32>) -> Self {
        self.most[quota as usize] = most.map(|most| most.clamp(1, quota.total()));
        self
    }

    pub fn of(self, quota: Quota) -> Option<u32> {
        self.most[quota as usize]
    }

    /// Where this says nothing, what `other` says.
    #[must_use]
    pub(super) fn or(self, other: Self) -> Self {
        let quotas = Quota::ALL.into_iter();
        quotas.fold(other, |all, quota| {
            all.with(quota, self.of(quota).or(other.of(quota)))
        })
    }

    pub(super) fn is_none(self) -> bool {
        self == Self::default()
    }

    /// 0 stands for nothing.
    pub(super) fn encode(self, out: &mut Writer) {
        self.most
            .into_iter()
            .for_each(|most| out.u32(most.unwrap_or(0)));
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, ReadFault> {
        let mut quotas = Self::default();
        for quota in Quota::ALL {
            let most = from.u32()?;
            quotas = quotas.with(quota, (most > 0).then_some(most));
        }
        Ok(quotas)
    }
}

impl Made {
    pub fn of(self, quota: Quota) -> u32 {
        self.made[quota as usize]
    }

    /// How often the quota was in the way: once for each definition, or for each field in each batch.
    pub fn refused(self, quota: Quota) -> u64 {
        self.refused[quota as usize]
    }

    pub(super) fn add(&mut self, quota: Quota) {
        let made = &mut self.made[quota as usize];
        *made = made.saturating_add(1);
    }

    pub(super) fn refuse(&mut self, quota: Quota) {
        let refused = &mut self.refused[quota as usize];
        *refused = refused.saturating_add(1);
    }

    pub(super) fn encode(self, out: &mut Writer) {
        self.made.into_iter().for_each(|made| out.u32(made));
        self.refused
            .into_iter()
            .for_each(|refused| out.u64(refused));
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, ReadFault> {
        let mut all = Self::default();
        for made in &mut all.made {
            *made = from.u32()?;
        }
        for refused in &mut all.refused {
            *refused = from.u64()?;
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shared::id::AgentId;
    use shared::reading::FieldType;

    use super::*;
    use crate::state::catalog::{Catalog, Refusal};

    fn agent(name: &str) -> AgentId {
        AgentId::parse(name).unwrap()
    }

    fn catalog(series: u32, tables: u32, fields: u32) -> Arc<Catalog> {
        let quotas = Quotas::default()
            .with(Quota::Series, Some(series))
            .with(Quota::Tables, Some(tables))
            .with(Quota::Fields, Some(fields));
        let mut catalog = Arc::new(Catalog::new());
        Catalog::allow(&mut catalog, quotas);
        catalog
    }

    #[test]
    fn what_an_agent_makes_is_bounded_and_what_others_made_is_free() {
        let mut catalog = catalog(3, 2, 1);
        let (one, two) = (agent("one"), agent("two"));
        let mut make = |who: &AgentId, table: &str, device: &str| {
            Catalog::intern(&mut catalog, who, table, device, &[])
        };
        let first = make(&one, "a", "1").unwrap();
        make(&one, "b", "1").unwrap();
        assert_eq!(
            make(&one, "c", "1"),
            Err(Refusal::OverQuota(Quota::Tables, 2))
        );
        make(&one, "a", "2").unwrap();
        assert_eq!(
            make(&one, "a", "3"),
            Err(Refusal::OverQuota(Quota::Series, 3))
        );
        assert_eq!(make(&one, "a", "1"), Ok(first), "it is known");
        make(&two, "a", "3").unwrap();
        make(&one, "a", "3").expect("it is known now");
        let table = catalog.table("a").unwrap().id;
        let mut field = |who: &AgentId, name: &str| {
            Catalog::field_slot(&mut catalog, who, table, name, FieldType::Float, false)
        };
        field(&one, "f").unwrap();
        assert_eq!(field(&one, "g"), Err(Refusal::OverQuota(Quota::Fields, 1)));
        field(&two, "g").unwrap();
        field(&one, "g").expect("it is known now");
        let made: Vec<_> = catalog.made().collect();
        let counts = |at: usize| Quota::ALL.map(|quota| made[at].1.of(quota));
        let refused = Quota::ALL.map(|quota| made[0].1.refused(quota));
        assert_eq!(
            (made[0].0, counts(0), refused),
            (&one, [3, 2, 1], [1, 1, 1])
        );
        assert_eq!((made[1].0, counts(1)), (&two, [1, 0, 1]));
    }

    #[test]
    fn nothing_is_counted_before_there_are_quotas() {
        let mut catalog = Arc::new(Catalog::new());
        let one = agent("one");
        Catalog::intern(&mut catalog, &one, "a", "1", &[]).unwrap();
        assert_eq!(catalog.made().count(), 0);
        Catalog::allow(&mut catalog, Quotas::default().with(Quota::Series, Some(1)));
        Catalog::intern(&mut catalog, &one, "a", "2", &[]).unwrap();
        let over = Catalog::intern(&mut catalog, &one, "a", "3", &[]);
        assert_eq!(over, Err(Refusal::OverQuota(Quota::Series, 1)));
        let text = over.unwrap_err().text();
        assert!(text.contains("agent_series_max = 1:"), "{text}");
        Catalog::allow(&mut catalog, Quotas::default().with(Quota::Series, Some(2)));
        Catalog::intern(&mut catalog, &one, "a", "3", &[]).expect("it was raised");
    }

    #[test]
    fn refusals_have_numbers_for_ever() {
        let over = |quota| Refusal::OverQuota(quota, 7);
        let all = [
            (Refusal::ReservedTable, vec![0]),
            (Refusal::TypeConflict, vec![7]),
            (Refusal::Undecodable, vec![13]),
            (over(Quota::Series), vec![14, 7, 0, 0, 0]),
            (over(Quota::Tables), vec![15, 7, 0, 0, 0]),
            (over(Quota::Fields), vec![16, 7, 0, 0, 0]),
        ];
        for (refusal, bytes) in all {
            let mut out = Writer::default();
            refusal.encode(&mut out);
            assert_eq!(out.out, bytes);
            let mut rest = Reader::new(&bytes[1..]);
            assert_eq!(Refusal::decode(bytes[0], &mut rest), Ok(refusal));
        }
        assert!(Refusal::decode(17, &mut Reader::new(&[0; 4])).is_err());
    }

    #[test]
    fn the_defaults_leave_room_for_others() {
        for quota in Quota::ALL {
            assert!(u64::from(quota.default_most()) * 32 <= u64::from(quota.total()));
        }
        let fields = usize::try_from(Quota::Fields.default_most()).unwrap();
        assert!(fields * 4 <= TABLE_FIELDS_MAX);
    }
}
