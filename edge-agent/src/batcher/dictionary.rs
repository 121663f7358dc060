//! The dictionary of one epoch: which local id a reading is of, and what the cluster has to be
//! told of it before. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use shared::batch::{SeriesDefinition, check};
use shared::id::LocalSeriesId;
use shared::limits::FIELDS_MAX;
use shared::reading::{FieldType, Reading, SeriesShape, Value};

/// Shapes that are known by where they are; then all are forgotten and learned anew.
const FAMILIAR_MAX: usize = 4_096;

#[derive(Debug, Default)]
pub(super) struct Dictionary {
    /// By table, device and tags; names hold no control characters, so `\0` separates them.
    series: HashMap<String, Vec<Known>>,
    count: usize,
    /// What all definitions of the epoch take, in bytes.
    bytes: usize,
    new: Vec<SeriesDefinition>,
    new_bytes: usize,
    /// By the address of a shape that readings share. It is held here, so nothing else gets there.
    familiar: HashMap<usize, Familiar>,
    key: String,
}

/// Where the values of a reading go.
#[derive(Debug, Clone)]
pub(super) struct Meaning {
    pub(super) id: LocalSeriesId,
    /// For each of its values the place among the fields of the definition.
    pub(super) places: Arc<[usize]>,
    /// How many fields the definition has.
    pub(super) width: usize,
}

/// One meaning of a series: fields only ever come with these types.
#[derive(Debug)]
struct Known {
    id: LocalSeriesId,
    fields: Vec<(String, FieldType)>,
}

/// Which fields a new definition has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fields {
    /// Those of the reading and those that its series had before: most will come again.
    Widened,
    /// Those of the reading: what comes later shall not have room for them.
    Own,
}

/// What readings of a shape meant the last time.
#[derive(Debug)]
struct Familiar {
    shape: Arc<SeriesShape>,
    types: Vec<FieldType>,
    meaning: Meaning,
}

impl Dictionary {
    /// Ids that were given in this epoch.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// What all definitions of the epoch take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the reading needs no new definition.
    pub(super) fn knows(&mut self, reading: &Reading) -> bool {
        put_key(&mut self.key, &reading.shape);
        let known = self.series.get(self.key.as_str());
        known.is_some_and(|all| all.iter().any(|one| one.has(reading)))
    }

    /// What the reading means; a new definition if nothing known fits.
    pub(super) fn meaning(&mut self, reading: &Reading) -> Meaning {
        let address = Arc::as_ptr(&reading.shape).addr();
        if let Some(familiar) = self.familiar.get(&address)
            && familiar.fits(&reading.values)
        {
            return familiar.meaning.clone();
        }
        let meaning = self.by_name(reading, Fields::Widened);
        // A shape that its source does not keep will not come again.
        if Arc::strong_count(&reading.shape) > 1 {
            if self.familiar.len() == FAMILIAR_MAX {
                self.familiar.clear();
            }
            let familiar = Familiar {
                shape: Arc::clone(&reading.shape),
                types: reading.values.iter().map(Value::field_type).collect(),
                meaning: meaning.clone(),
            };
            self.familiar.insert(address, familiar);
        }
        meaning
    }

    /// The same, but a new definition has room for the fields of this reading alone.
    pub(super) fn own_meaning(&mut self, reading: &Reading) -> Meaning {
        self.by_name(reading, Fields::Own)
    }

    /// What the definitions that were not taken yet take, in bytes.
    pub(super) fn new_bytes(&self) -> usize {
        self.new_bytes
    }

    /// Definitions that came since they were last taken.
    pub(super) fn take_new(&mut self) -> Vec<SeriesDefinition> {
        self.new_bytes = 0;
        std::mem::take(&mut self.new)
    }

    fn by_name(&mut self, reading: &Reading, new: Fields) -> Meaning {
        let shape = &*reading.shape;
        put_key(&mut self.key, shape);
        let known = self.series.get(self.key.as_str());
        let found = known.and_then(|all| all.iter().rev().find(|one| one.has(reading)));
        if let Some(found) = found {
            return found.meaning(shape);
        }
        let before = known.and_then(|all| all.last());
        let before = before.filter(|_| new == Fields::Widened);
        let made = Known {
            id: LocalSeriesId(u32::try_from(self.count).expect("below SERIES_MAX")),
            fields: widened(before, reading),
        };
        if before.is_some() {
            // What comes from here on shall go where all its fields are.
            self.familiar.clear();
        }
        let definition = SeriesDefinition {
            id: made.id,
            table: shape.table.clone(),
            device: shape.device.clone(),
            tags: shape.tags.clone(),
            fields: made.fields.clone(),
        };
        let bytes = check::definition_bytes(&definition);
        self.bytes += bytes;
        self.new_bytes += bytes;
        self.new.push(definition);
        self.count += 1;
        let meaning = made.meaning(shape);
        self.series.entry(self.key.clone()).or_default().push(made);
        meaning
    }
}

impl Familiar {
    fn fits(&self, values: &[Value]) -> bool {
        debug_assert_eq!(self.shape.fields.len(), values.len());
        let types = values.iter().map(Value::field_type);
        types.eq(self.types.iter().copied())
    }
}

impl Known {
    fn has(&self, reading: &Reading) -> bool {
        reading.fields().enumerate().all(|(nth, (name, value))| {
            self.place(nth, name)
                .is_some_and(|at| self.fields[at].1 == value.field_type())
        })
    }

    /// Where a field stands; most devices send theirs in the same order always.
    fn place(&self, nth: usize, name: &str) -> Option<usize> {
        if self.fields.get(nth).is_some_and(|(known, _)| known == name) {
            return Some(nth);
        }
        self.fields.iter().position(|(known, _)| known == name)
    }

    /// Of a shape whose fields it has.
    fn meaning(&self, shape: &SeriesShape) -> Meaning {
        let place = |(nth, name): (usize, &String)| {
            self.place(nth, name).expect("its definition has the field")
        };
        Meaning {
            id: self.id,
            places: shape.fields.iter().enumerate().map(place).collect(),
            width: self.fields.len(),
        }
    }
}

/// The fields that a series had, with those of a reading added or changed in type.
fn widened(before: Option<&Known>, reading: &Reading) -> Vec<(String, FieldType)> {
    let own = || {
        let fields = reading.fields();
        fields.map(|(name, value)| (name.to_owned(), value.field_type()))
    };
    let mut all: Vec<(String, FieldType)> =
        before.map_or_else(Vec::new, |known| known.fields.clone());
    for (name, field_type) in own() {
        match all.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = field_type,
            None => all.push((name, field_type)),
        }
    }
    if all.len() > FIELDS_MAX {
        own().collect()
    } else {
        all
    }
}

fn put_key(key: &mut String, shape: &SeriesShape) {
    key.clear();
    key.push_str(&shape.table);
    key.push('\0');
    key.push_str(&shape.device);
    for part in shape.tags.iter().flat_map(|(name, value)| [name, value]) {
        key.push('\0');
        key.push_str(part);
    }
}
