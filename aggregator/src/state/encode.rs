//! The state as bytes: what a merge makes durable and a snapshot carries. Version 4, closed by a
//! CRC32C; layout in `docs/formats.md`. Everything in a fixed order, so equal states are equal bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use shared::batch::GapReason;
use shared::id::{AgentId, BatchNumber, Digest, Epoch, Lane, TimeNs};
use shared::reading::{FieldType, Value};
use shared::verdict::Position;

use super::bytes::{ReadFault, Reader, Writer};
use super::catalog::{Catalog, Refusal, SeriesId, TableId, series_key};
use super::clock::Clock;
use super::cow::CowMap;
use super::dedup::{AgentState, EpochState, Folded, GapEntry, GapWhy, LaneState, Standing};
use super::dictionary::{Dictionary, LocalSeries, LocalTarget, RefusedSeries};
use super::last::{LastValue, LastValues};
use super::machine::{Admitted, State};
use super::quota::Made;
use super::settings::{Agreement, Form, SameTime, Settings, Wish};
use super::table_settings::TableSettings;

const MAGIC: &[u8; 8] = b"TRIBSTAT";
const VERSION: u16 = 4;
/// Had of the settings the retention alone.
const VERSION_1: u16 = 1;
/// Knew no settings of single tables.
const VERSION_2: u16 = 2;
/// Knew of tables `same_time` alone. Written where nothing else is said: older nodes read it.
const VERSION_3: u16 = 3;
/// No table: stands for "none" where a number is optional.
const NONE: u8 = 0xff;
/// In place of the time at which an epoch was left out: it was not.
const HELD: i64 = i64::MAX;

/// Why bytes are no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    #[error("version {0} of the state is newer than this node")]
    Version(u16),
    #[error("the state is damaged: {0}")]
    Damaged(&'static str),
}

impl From<ReadFault> for StateError {
    fn from(fault: ReadFault) -> Self {
        match fault {
            ReadFault::Short => Self::Damaged("it ends early"),
            ReadFault::Invalid(what) => Self::Damaged(what),
        }
    }
}

impl State {
    pub fn encode(&self) -> Vec<u8> {
        let Self {
            index,
            settings,
            clock,
            members,
            catalog,
            agents,
            last,
        } = self;
        let mut out = Writer::default();
        out.out.extend_from_slice(MAGIC);
        let form = settings.form().max(Form::SameTime);
        let is_last = form == Form::Tables;
        out.u16(if is_last { VERSION } else { VERSION_3 });
        out.u64(*index);
        encode_settings(settings, form, &mut out);
        encode_clock(clock, &mut out);
        out.count(members.len());
        for (
            name,
            Admitted {
                id,
                address,
                joining,
            },
        ) in members
        {
            out.text(name);
            out.u64(*id);
            out.text(address);
            out.u64(*joining);
        }
        encode_catalog(catalog, &mut out);
        let agents = agents.sorted();
        out.count(agents.len());
        for (agent, known) in agents {
            out.text(agent.as_str());
            encode_agent(known, &mut out);
        }
        for values in last.by_series.iter() {
            encode_last(values, &mut out);
        }
        out.checked()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let mut from = Reader::checked(bytes)?;
        let mut state = Self::decode_as_far_as_tables(&mut from)?;
        let catalog = Arc::clone(&state.catalog);
        for _ in 0..from.count(8)? {
            let agent = AgentId::parse(from.text()?).map_err(|_| ReadFault::Invalid("agent id"))?;
            let known = Arc::new(decode_agent(&mut from, &catalog)?);
            state.agents.insert(agent, known);
        }
        for _ in 0..catalog.series_count() {
            state.last.by_series.push(Arc::new(decode_last(&mut from)?));
        }
        from.end()?;
        Ok(state)
    }

    /// Without agents and last values, which are most of it.
    pub(crate) fn decode_tables(bytes: &[u8]) -> Result<Self, StateError> {
        Self::decode_as_far_as_tables(&mut Reader::checked(bytes)?)
    }

    fn decode_as_far_as_tables(from: &mut Reader<'_>) -> Result<Self, StateError> {
        if from.take(MAGIC.len())? != MAGIC {
            return Err(StateError::Damaged("it does not start like a state"));
        }
        let (version, index) = (from.u16()?, from.u64()?);
        let settings = match version {
            VERSION_1 => retention_alone(from.u32()?),
            VERSION_2 => {
                let in_force = Settings::decode_days_and_hours(from)?;
                decode_settings(from, in_force, Form::DaysAndHours)?
            }
            VERSION_3 | VERSION => {
                let in_force = Settings::decode(from)?;
                let is_last = version == VERSION;
                let form = if is_last {
                    Form::Tables
                } else {
                    Form::SameTime
                };
                decode_settings(from, in_force, form)?
            }
            newer => return Err(StateError::Version(newer)),
        };
        let clock = decode_clock(from)?;
        let mut members = BTreeMap::new();
        for _ in 0..from.count(24)? {
            let name = from.text()?.to_owned();
            let (id, address) = (from.u64()?, from.text()?.to_owned());
            members.insert(
                name,
                Admitted {
                    id,
                    address,
                    joining: from.u64()?,
                },
            );
        }
        let mut catalog = decode_catalog(from, version)?;
        catalog.restore_quotas(settings.in_force.quotas());
        Ok(Self {
            index,
            settings,
            clock,
            members,
            catalog: Arc::new(catalog),
            agents: CowMap::new(),
            last: LastValues::new(),
        })
    }
}

fn encode_settings(settings: &Agreement, form: Form, out: &mut Writer) {
    let Agreement {
        in_force,
        told,
        tables,
    } = settings;
    in_force.encode(out);
    out.count(told.len());
    for (node, wish) in told {
        out.u64(*node);
        wish.encode(form, out);
    }
    if form == Form::Tables {
        tables.encode(out);
    }
}

fn decode_settings(
    from: &mut Reader<'_>,
    in_force: Settings,
    form: Form,
) -> Result<Agreement, ReadFault> {
    let mut told = BTreeMap::new();
    for _ in 0..from.count(16)? {
        told.insert(from.u64()?, Wish::decode(form, from)?);
    }
    let tables = match form {
        Form::Tables => TableSettings::decode(from)?,
        Form::DaysAndHours | Form::SameTime => TableSettings::default(),
    };
    Ok(Agreement {
        in_force,
        told,
        tables,
    })
}

fn retention_alone(days: u32) -> Agreement {
    let hours = Settings::default().partition_hours();
    Agreement {
        in_force: Settings::new(days, hours),
        ..Agreement::default()
    }
}

fn encode_clock(clock: &Clock, out: &mut Writer) {
    let Clock {
        voters,
        round,
        now,
        unconfirmed,
    } = clock;
    out.i64(now.0);
    out.u64(*round);
    out.u8(*unconfirmed);
    out.count(voters.len());
    for (node, (at, told)) in voters {
        out.u64(*node);
        out.i64(at.0);
        out.u64(*told);
    }
}

fn decode_clock(from: &mut Reader<'_>) -> Result<Clock, ReadFault> {
    let (now, round, unconfirmed) = (TimeNs(from.i64()?), from.u64()?, from.u8()?);
    let mut voters = BTreeMap::new();
    for _ in 0..from.count(24)? {
        let (node, at, told) = (from.u64()?, TimeNs(from.i64()?), from.u64()?);
        if told > round {
            return Err(ReadFault::Invalid("a clock of a later round"));
        }
        voters.insert(node, (at, told));
    }
    Ok(Clock {
        voters,
        round,
        now,
        unconfirmed,
    })
}

fn encode_catalog(catalog: &Catalog, out: &mut Writer) {
    out.count(catalog.all_tables().len());
    for table in catalog.all_tables() {
        out.text(&table.name);
        out.u8(table.same_time as u8);
        out.count(table.fields.len());
        for ((name, field_type), inexact) in table.fields.iter().zip(&table.inexact) {
            out.text(name);
            out.u8(*field_type as u8);
            out.u8(u8::from(*inexact));
        }
    }
    out.count(catalog.declared().len());
    catalog.declared().iter().for_each(|table| out.text(table));
    out.count(catalog.made().count());
    for (agent, made) in catalog.made() {
        out.text(agent.as_str());
        made.encode(out);
    }
    out.count(catalog.series_count());
    for series in catalog.all_series() {
        out.u32(series.table_id.0);
        out.text(&series.device);
        out.pairs(&series.tags);
    }
}

fn decode_catalog(from: &mut Reader<'_>, version: u16) -> Result<Catalog, ReadFault> {
    let knows_same_time = version > VERSION_2;
    let mut catalog = Catalog::new();
    for _ in 0..from.count(8)? {
        let table = catalog.add_table(from.text()?);
        if knows_same_time {
            let same_time = SameTime::from_byte(from.u8()?);
            let same_time = same_time.ok_or(ReadFault::Invalid("same_time of a table"))?;
            catalog.restore_same_time(table, same_time);
        }
        for _ in 0..from.count(6)? {
            let (name, field_type, inexact) = (from.text()?, from.u8()?, from.flag()?);
            let field_type = FieldType::from_byte(field_type);
            let field_type = field_type.ok_or(ReadFault::Invalid("type of a field"))?;
            catalog.push_field(table, name, field_type, inexact);
        }
    }
    if knows_same_time {
        let declared = (0..from.count(4)?).map(|_| Ok(from.text()?.to_owned()));
        catalog.restore_declared(declared.collect::<Result<_, ReadFault>>()?);
        for _ in 0..from.count(40)? {
            let agent = AgentId::parse(from.text()?).map_err(|_| ReadFault::Invalid("agent id"))?;
            catalog.restore_made(agent, Made::decode(from)?);
        }
    }
    for _ in 0..from.count(12)? {
        let table = TableId(from.u32()?);
        let (device, tags) = (from.text()?, from.pairs()?);
        let info = catalog
            .table_by_id(table)
            .ok_or(ReadFault::Invalid("table of a series"))?;
        let key = series_key(&info.name, device, &tags);
        catalog.add_series(key, table, device, &tags);
    }
    catalog.count_quarantine();
    Ok(catalog)
}

fn encode_agent(agent: &AgentState, out: &mut Writer) {
    let AgentState {
        current,
        epochs,
        gaps,
        folded,
    } = agent;
    out.u8(u8::from(current.is_some()));
    out.u64(current.map_or(0, |epoch| epoch.0));
    out.count(epochs.len());
    for (
        epoch,
        EpochState {
            lanes,
            standing,
            clock_ns,
            dictionary,
        },
    ) in epochs
    {
        out.u64(epoch.0);
        let (is_older, at) = match standing {
            Standing::Youngest => (0, 0),
            Standing::Held => (1, HELD),
            Standing::LeftOut(at) => (1, at.0),
        };
        out.u8(is_older);
        out.i64(at);
        out.u8(u8::from(clock_ns.is_some()));
        out.i64(clock_ns.unwrap_or(0));
        for LaneState {
            position,
            complete_below,
            last_seen,
        } in lanes
        {
            out.u64(position.last.0);
            out.out.extend_from_slice(&position.digest.0);
            out.i64(complete_below.0);
            out.i64(last_seen.0);
        }
        encode_dictionary(dictionary, out);
    }
    out.count(gaps.len());
    for gap in gaps.iter() {
        encode_gap(gap, out);
    }
    let Folded {
        records,
        readings,
        at,
    } = folded;
    out.u64(*records);
    out.u64(*readings);
    out.i64(at.0);
}

fn decode_agent(from: &mut Reader<'_>, catalog: &Catalog) -> Result<AgentState, ReadFault> {
    let current = from.flag()?;
    let current = Some(Epoch(from.u64()?)).filter(|_| current);
    let mut epochs = BTreeMap::new();
    for _ in 0..from.count(8 + 9 + 9 + 96 + 8)? {
        let epoch = Epoch(from.u64()?);
        let standing = match (from.flag()?, from.i64()?) {
            (false, _) => Standing::Youngest,
            (true, HELD) => Standing::Held,
            (true, at) => Standing::LeftOut(TimeNs(at)),
        };
        let has_clock = from.flag()?;
        let clock_ns = Some(from.i64()?).filter(|_| has_clock);
        let mut lanes = [LaneState::default(); 3];
        for lane in &mut lanes {
            let (last, digest) = (BatchNumber(from.u64()?), Digest(from.digest()?));
            lane.position = Position { last, digest };
            lane.complete_below = TimeNs(from.i64()?);
            lane.last_seen = TimeNs(from.i64()?);
        }
        let dictionary = Arc::new(decode_dictionary(from, catalog)?);
        epochs.insert(
            epoch,
            EpochState {
                lanes,
                standing,
                clock_ns,
                dictionary,
            },
        );
    }
    let gaps = (0..from.count(50)?)
        .map(|_| decode_gap(from))
        .collect::<Result<_, _>>()?;
    let (records, readings, at) = (from.u64()?, from.u64()?, TimeNs(from.i64()?));
    let folded = Folded {
        records,
        readings,
        at,
    };
    Ok(AgentState {
        current,
        epochs,
        gaps: Arc::new(gaps),
        folded,
    })
}

fn encode_dictionary(dictionary: &Dictionary, out: &mut Writer) {
    out.count(dictionary.field_lists.len());
    for list in &dictionary.field_lists {
        out.count(list.len());
        list.iter().for_each(|name| out.text(name));
    }
    out.count(dictionary.series.len());
    for (id, LocalSeries { target, fields }) in &dictionary.series {
        out.u32(*id);
        out.u32(*fields);
        match target {
            LocalTarget::Series(series) => {
                out.u8(NONE);
                out.u32(series.0);
            }
            LocalTarget::Refused(refused) => {
                let RefusedSeries {
                    reason,
                    table,
                    device,
                    tags,
                } = &**refused;
                reason.encode(out);
                out.text(table);
                out.text(device);
                out.pairs(tags);
            }
        }
    }
}

fn decode_dictionary(from: &mut Reader<'_>, catalog: &Catalog) -> Result<Dictionary, ReadFault> {
    let mut field_lists = Vec::new();
    for _ in 0..from.count(4)? {
        let names = (0..from.count(4)?).map(|_| Ok(from.text()?.to_owned()));
        field_lists.push(names.collect::<Result<Vec<_>, ReadFault>>()?.into());
    }
    let mut series = BTreeMap::new();
    for _ in 0..from.count(13)? {
        let (id, fields) = (from.u32()?, from.u32()?);
        let target = match from.u8()? {
            NONE => LocalTarget::Series(SeriesId(from.u32()?)),
            reason => LocalTarget::Refused(Arc::new(RefusedSeries {
                reason: Refusal::decode(reason, from)?,
                table: from.text()?.to_owned(),
                device: from.text()?.to_owned(),
                tags: from.pairs()?,
            })),
        };
        series.insert(id, LocalSeries { target, fields });
    }
    Dictionary::restored(field_lists, series, catalog)
        .ok_or(ReadFault::Invalid("series or field list of a definition"))
}

fn encode_gap(gap: &GapEntry, out: &mut Writer) {
    let GapEntry {
        epoch,
        lane,
        from,
        to,
        readings,
        why,
        at,
    } = gap;
    out.u64(epoch.0);
    out.u8(lane.map_or(NONE, |lane| lane as u8));
    out.u64(*from);
    out.u64(*to);
    out.u64(*readings);
    match why {
        GapWhy::Record(reason) => {
            out.u8(*reason as u8);
            out.u64(0);
        }
        GapWhy::UncleanEnd { max_unsafe_ms } => {
            out.u8(NONE);
            out.u64(*max_unsafe_ms);
        }
    }
    out.i64(at.0);
}

fn decode_gap(reader: &mut Reader<'_>) -> Result<GapEntry, ReadFault> {
    let epoch = Epoch(reader.u64()?);
    let lane = match reader.u8()? {
        NONE => None,
        lane => Some(Lane::from_byte(lane).ok_or(ReadFault::Invalid("lane"))?),
    };
    let (from, to, readings) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let (why, max_unsafe_ms) = (reader.u8()?, reader.u64()?);
    let why = match why {
        NONE => GapWhy::UncleanEnd { max_unsafe_ms },
        why => GapWhy::Record(GapReason::from_byte(why).ok_or(ReadFault::Invalid("reason"))?),
    };
    Ok(GapEntry {
        epoch,
        lane,
        from,
        to,
        readings,
        why,
        at: TimeNs(reader.i64()?),
    })
}

fn encode_last(values: &[LastValue], out: &mut Writer) {
    out.u16(u16::try_from(values.len()).expect("fields of a table are limited"));
    for LastValue { field, time, value } in values {
        out.u16(*field);
        out.i64(time.0);
        encode_value(value, out);
    }
}

fn decode_last(from: &mut Reader<'_>) -> Result<Vec<LastValue>, ReadFault> {
    let count = from.u16()?;
    let mut values: Vec<LastValue> = Vec::new();
    for _ in 0..count {
        let (field, time) = (from.u16()?, TimeNs(from.i64()?));
        if values.last().is_some_and(|before| before.field >= field) {
            return Err(ReadFault::Invalid("order of last values"));
        }
        values.push(LastValue {
            field,
            time,
            value: decode_value(from)?,
        });
    }
    Ok(values)
}

/// A type byte, then the value; also in the statistics of segments.
pub(crate) fn encode_value(value: &Value, out: &mut Writer) {
    out.u8(value.field_type() as u8);
    match value {
        Value::Float(value) => out.u64(value.to_bits()),
        Value::Int(value) => out.i64(*value),
        Value::Bool(value) => out.u8(u8::from(*value)),
        Value::Text(value) => out.text(value),
    }
}

pub(crate) fn decode_value(from: &mut Reader<'_>) -> Result<Value, ReadFault> {
    match FieldType::from_byte(from.u8()?) {
        Some(FieldType::Float) => Ok(Value::Float(f64::from_bits(from.u64()?))),
        Some(FieldType::Int) => Ok(Value::Int(from.i64()?)),
        Some(FieldType::Bool) => Ok(Value::Bool(from.flag()?)),
        Some(FieldType::Text) => Ok(Value::Text(from.text()?.to_owned())),
        None => Err(ReadFault::Invalid("type of a value")),
    }
}
