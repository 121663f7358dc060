//! What the local series ids of one epoch mean. An id that does not fit the bounds stays unknown,
//! so its values go to quarantine. `dedup` keeps a dictionary for every epoch.

use std::collections::BTreeMap;
use std::sync::Arc;

use shared::batch::SeriesDefinition;
use shared::id::AgentId;

use super::catalog::{Catalog, Refusal, SeriesId};

/// Local series ids of one epoch; what comes above is not known.
const LOCAL_SERIES_MAX: usize = 262_144;
/// What the definitions of one epoch may weigh: 256 bytes for each id that there may be, where few
/// need more than 200. Without it one epoch could ask for 80 GB by long tags and lists of fields.
pub(super) const DICTIONARY_BYTES_MAX: usize = 64 << 20;
/// What a local id, a field list and a text weigh beside their characters. Constants and no sizes
/// of types: all nodes must weigh alike.
const SERIES_BYTES: usize = 64;
const LIST_BYTES: usize = 32;
const TEXT_BYTES: usize = 32;
/// Field lists that a new definition is compared with, to share an equal one.
const LISTS_COMPARED: usize = 16;

/// What the local series ids of one epoch mean.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Dictionary {
    pub(super) field_lists: Vec<Arc<[String]>>,
    pub(super) series: BTreeMap<u32, LocalSeries>,
    /// What both weigh, with the texts that only the catalog holds.
    bytes: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct LocalSeries {
    pub(super) target: LocalTarget,
    /// Index into `field_lists`.
    pub(super) fields: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum LocalTarget {
    Series(SeriesId),
    /// All its values go to quarantine.
    Refused(Arc<RefusedSeries>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct RefusedSeries {
    pub(super) reason: Refusal,
    pub(super) table: String,
    pub(super) device: String,
    pub(super) tags: Vec<(String, String)>,
}

/// What a definition weighs in bytes, if it shares its field list with no other.
pub(super) fn weight_bytes(definition: &SeriesDefinition) -> usize {
    let SeriesDefinition {
        table,
        device,
        tags,
        fields,
        ..
    } = definition;
    let names = fields.iter().map(|(name, _)| name.as_str());
    series_bytes(table, device, tags) + list_bytes(names)
}

fn series_bytes(table: &str, device: &str, tags: &[(String, String)]) -> usize {
    let tag = |(key, value): &(String, String)| 2 * TEXT_BYTES + key.len() + value.len();
    let tags: usize = tags.iter().map(tag).sum();
    SERIES_BYTES + table.len() + device.len() + tags
}

fn list_bytes<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    let names: usize = names.map(|name| TEXT_BYTES + name.len()).sum();
    LIST_BYTES + names
}

impl Dictionary {
    /// As it was kept. `None`: it names a series or a field list that is not there.
    pub(super) fn restored(
        field_lists: Vec<Arc<[String]>>,
        series: BTreeMap<u32, LocalSeries>,
        catalog: &Catalog,
    ) -> Option<Self> {
        let lists = field_lists.iter().map(|list| names_bytes(list));
        let mut bytes: usize = lists.sum();
        for local in series.values() {
            field_lists.get(local.fields as usize)?;
            let (table, device, tags) = local.target.declared(catalog)?;
            bytes += series_bytes(table, device, tags);
        }
        Some(Self {
            field_lists,
            series,
            bytes,
        })
    }

    /// What it weighs.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a definition as long as all of them weigh at most `bytes_max`. An id keeps its first
    /// meaning, and a second one that differs spoils it. What is new is made by `agent`.
    pub(super) fn define(
        &mut self,
        definition: &SeriesDefinition,
        bytes_max: usize,
        agent: &AgentId,
        catalog: &mut Arc<Catalog>,
    ) {
        let SeriesDefinition {
            id,
            table,
            device,
            tags,
            fields,
        } = definition;
        if let Some(known) = self.series.get_mut(&id.0) {
            // Nothing is taken over from a second meaning: what is known of the id does not grow.
            let list = &self.field_lists[known.fields as usize];
            let same_fields = list.iter().eq(fields.iter().map(|(name, _)| name));
            if !(same_fields && known.target.is_declared_by(definition, catalog)) {
                known.target.spoil(catalog);
            }
            return;
        }
        let names: Vec<String> = fields.iter().map(|(name, _)| name.clone()).collect();
        let shared = self.shared_list(&names);
        let list = shared.map_or_else(|| names_bytes(&names), |_| 0);
        let bytes = self.bytes + series_bytes(table, device, tags) + list;
        if self.series.len() >= LOCAL_SERIES_MAX || bytes > bytes_max {
            return;
        }
        let target = match Catalog::intern(catalog, agent, table, device, tags) {
            Ok(series) => LocalTarget::Series(series),
            Err(reason) => LocalTarget::Refused(Arc::new(RefusedSeries {
                reason,
                table: table.clone(),
                device: device.clone(),
                tags: tags.clone(),
            })),
        };
        let fields = shared.unwrap_or_else(|| {
            self.field_lists.push(names.into());
            self.field_lists.len() - 1
        });
        let fields = u32::try_from(fields).expect("at most a list for each of LOCAL_SERIES_MAX");
        self.series.insert(id.0, LocalSeries { target, fields });
        self.bytes = bytes;
    }

    fn shared_list(&self, names: &[String]) -> Option<usize> {
        let lists = self.field_lists.iter().enumerate().rev();
        let mut compared = lists.take(LISTS_COMPARED);
        compared.find_map(|(at, list)| (**list == *names).then_some(at))
    }
}

fn names_bytes(names: &[String]) -> usize {
    list_bytes(names.iter().map(String::as_str))
}

impl LocalTarget {
    /// Table, device and tags as they were first declared. `None`: there is no such series.
    fn declared<'a>(
        &'a self,
        catalog: &'a Catalog,
    ) -> Option<(&'a str, &'a str, &'a [(String, String)])> {
        Some(match self {
            Self::Series(series) => {
                let info = catalog.series(*series)?;
                (
                    info.table.as_str(),
                    info.device.as_str(),
                    info.tags.as_slice(),
                )
            }
            Self::Refused(refused) => {
                let RefusedSeries {
                    table,
                    device,
                    tags,
                    ..
                } = &**refused;
                (table.as_str(), device.as_str(), tags.as_slice())
            }
        })
    }

    fn is_declared_by(&self, definition: &SeriesDefinition, catalog: &Catalog) -> bool {
        let SeriesDefinition {
            table,
            device,
            tags,
            ..
        } = definition;
        self.declared(catalog) == Some((table.as_str(), device.as_str(), tags.as_slice()))
    }

    /// From here on all its values are refused, as values of what it first meant.
    fn spoil(&mut self, catalog: &Catalog) {
        if let Self::Refused(refused) = &*self
            && refused.reason == Refusal::SeriesDefinedTwice
        {
            return;
        }
        let (table, device, tags) = self.declared(catalog).expect("a series that was interned");
        *self = Self::Refused(Arc::new(RefusedSeries {
            reason: Refusal::SeriesDefinedTwice,
            table: table.to_owned(),
            device: device.to_owned(),
            tags: tags.to_vec(),
        }));
    }
}

#[cfg(test)]
mod tests {
    use shared::id::LocalSeriesId;
    use shared::reading::FieldType;

    use super::*;

    fn gateway() -> AgentId {
        AgentId::parse("gw").unwrap()
    }

    fn definition(id: u32, device: &str, field: &str) -> SeriesDefinition {
        SeriesDefinition {
            id: LocalSeriesId(id),
            table: "t".to_owned(),
            device: device.to_owned(),
            tags: vec![("line".to_owned(), "3".to_owned())],
            fields: vec![(field.to_owned(), FieldType::Float)],
        }
    }

    fn weight_again(dictionary: &Dictionary, catalog: &Catalog) -> usize {
        let Dictionary {
            field_lists,
            series,
            ..
        } = dictionary.clone();
        let restored = Dictionary::restored(field_lists, series, catalog);
        restored.unwrap().bytes()
    }

    /// Each of them once left its field list behind, for ever.
    #[test]
    fn an_id_that_is_defined_over_and_over_takes_no_room() {
        let mut catalog = Arc::new(Catalog::new());
        let mut dictionary = Dictionary::default();
        dictionary.define(
            &definition(1, "d", "f"),
            usize::MAX,
            &gateway(),
            &mut catalog,
        );
        let before = dictionary.bytes();
        for nth in 0..1_000 {
            let again = definition(1, &format!("d{nth}"), &format!("f{nth}"));
            dictionary.define(&again, usize::MAX, &gateway(), &mut catalog);
        }
        assert_eq!(dictionary.field_lists.len(), 1);
        assert_eq!(dictionary.bytes(), before);
        assert_eq!(weight_again(&dictionary, &catalog), before);
        assert_eq!(catalog.series_count(), 1);
        let LocalTarget::Refused(refused) = &dictionary.series[&1].target else {
            panic!("it is spoiled");
        };
        assert_eq!(refused.reason, Refusal::SeriesDefinedTwice);
        assert_eq!(refused.device, "d");
    }

    #[test]
    fn the_same_definition_again_changes_nothing() {
        let mut catalog = Arc::new(Catalog::new());
        let mut dictionary = Dictionary::default();
        let mut reserved = definition(2, "d", "f");
        reserved.table = "agents".to_owned();
        for definition in [definition(1, "d", "f"), reserved] {
            dictionary.define(&definition, usize::MAX, &gateway(), &mut catalog);
            let before = dictionary.clone();
            dictionary.define(&definition, usize::MAX, &gateway(), &mut catalog);
            assert_eq!(dictionary, before);
        }
    }

    #[test]
    fn definitions_above_the_weight_stay_unknown() {
        let mut catalog = Arc::new(Catalog::new());
        let mut dictionary = Dictionary::default();
        let bytes_max = 10 * weight_bytes(&definition(10, "d10", "f10"));
        for id in 10..40 {
            let one = definition(id, &format!("d{id}"), &format!("f{id}"));
            dictionary.define(&one, bytes_max, &gateway(), &mut catalog);
        }
        assert_eq!(dictionary.series.len(), 10);
        assert_eq!(dictionary.field_lists.len(), 10);
        assert_eq!(catalog.series_count(), 10);
        assert_eq!(dictionary.bytes(), bytes_max);
        assert_eq!(weight_again(&dictionary, &catalog), bytes_max);
    }
}
