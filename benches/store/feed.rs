//! Readings of devices, as batches of agents.

use std::error::Error;
use std::path::Path;

use aggregator::state::{Origin, Payload, Submission};
use bytes::Bytes;
use shared::batch::{
    self, Body, Column, Data, Group, Header, Hello, SeriesColumns, SeriesDefinition, Values,
};
use shared::id::{AgentId, BatchNumber, Digest, Epoch, Lane, LocalSeriesId, TimeNs};
use shared::reading::FieldType;

use crate::data;

pub(crate) const READINGS: [&str; 7] = [
    "latitude",
    "longitude",
    "elevation",
    "velocity",
    "heading",
    "grade",
    "fuel_consumption",
];
const DIAGNOSTICS: [&str; 3] = ["fuel_state", "current_load", "status"];
const TAGS: [&str; 7] = [
    "device_version",
    "driver",
    "fleet",
    "fuel_capacity",
    "load_capacity",
    "model",
    "nominal_fuel_consumption",
];

/// Some agents that have the same number of readings.
pub(crate) struct Feed {
    pub(crate) agents: Vec<Agent>,
}

/// One agent, all that its devices will ever say, and how far its lanes are.
pub(crate) struct Agent {
    pub(crate) id: AgentId,
    pub(crate) series: Vec<SeriesDefinition>,
    /// Of all its series.
    pub(crate) times: Vec<i64>,
    /// Of each series, its columns.
    pub(crate) values: Vec<Vec<Values>>,
    pub(crate) lanes: [(u64, Digest); 3],
}

impl Feed {
    /// One agent a truck; ten values a row, every ten seconds.
    pub(crate) fn trucks(trucks: u32, rows: usize) -> Feed {
        let mut all = data::trucks(trucks, trucks as usize * rows * 10);
        let Group { times, mut series } = all.groups.remove(0);
        let diagnostics = series.split_off(trucks as usize);
        let pairs = series.into_iter().zip(diagnostics);
        let agent = |(nth, (readings, diagnostics))| Agent {
            series: vec![
                truck(0, nth, "readings", &READINGS),
                truck(1, nth, "diagnostics", &DIAGNOSTICS),
            ],
            times: times.clone(),
            values: vec![values_of(readings), values_of(diagnostics)],
            ..Agent::new(&format!("truck-{nth}"))
        };
        Feed {
            agents: (0..).zip(pairs).map(agent).collect(),
        }
    }

    /// One agent that polls twenty devices of ten tags every second.
    pub(crate) fn plc(rows: usize) -> Feed {
        let mut all = data::plc(rows * 200);
        let Group { times, series } = all.groups.remove(0);
        let mut agent = Agent::new("plc");
        for (nth, one) in (0..).zip(series) {
            let fields = one.columns.iter().enumerate();
            let fields = fields.map(|(at, column)| (format!("tag_{at}"), type_of(&column.values)));
            let device = format!("device_{nth}");
            agent
                .series
                .push(definition(nth, "plc", device, fields.collect()));
            agent.values.push(values_of(one));
        }
        agent.times = times;
        Feed {
            agents: vec![agent],
        }
    }

    /// One agent that has a file of comma-separated values.
    pub(crate) fn file(path: &Path, time_at: usize) -> Result<Feed, Box<dyn Error>> {
        let (times, columns) = data::csv(path, time_at)?;
        let fields = (0..columns.len()).map(|at| (format!("value_{at}"), FieldType::Float));
        let mut agent = Agent::new("file");
        agent.series = vec![definition(0, "file", "sensor".into(), fields.collect())];
        agent.times = times;
        agent.values = vec![columns.into_iter().map(Values::Float).collect()];
        Ok(Feed {
            agents: vec![agent],
        })
    }

    pub(crate) fn rows(&self) -> usize {
        self.agents[0].times.len()
    }

    pub(crate) fn values(&self) -> u64 {
        let columns = |agent: &Agent| agent.values.iter().map(Vec::len).sum::<usize>();
        let all = self.agents.iter();
        all.map(|agent| (columns(agent) * agent.times.len()) as u64)
            .sum()
    }

    /// The time of a row.
    pub(crate) fn time(&self, row: usize) -> TimeNs {
        TimeNs(self.agents[0].times[row])
    }

    /// What all say before their first reading.
    pub(crate) fn names(&mut self) -> Result<Vec<Submission>, Box<dyn Error>> {
        let mut all = Vec::new();
        for agent in &mut self.agents {
            all.extend(agent.names()?);
        }
        Ok(all)
    }

    /// These rows of each agent, a batch each.
    pub(crate) fn batches(
        &mut self,
        lane: Lane,
        rows: &[usize],
    ) -> Result<Vec<Submission>, Box<dyn Error>> {
        let agents = self.agents.iter_mut();
        agents.map(|agent| agent.batch(lane, rows)).collect()
    }
}

impl Agent {
    pub(crate) fn new(id: &str) -> Agent {
        Agent {
            id: AgentId::parse(id).expect("a good name"),
            series: Vec::new(),
            times: Vec::new(),
            values: Vec::new(),
            lanes: [(0, Digest::ZERO); 3],
        }
    }

    pub(crate) fn names(&mut self) -> Result<[Submission; 2], Box<dyn Error>> {
        let hello = Body::Hello(Hello {
            older_epochs: Vec::new(),
            last: None,
            max_unsafe_ms: 10_000,
        });
        let body = Body::Names(self.series.clone());
        let now = TimeNs(data::START);
        Ok([
            self.seal(Lane::Names, &hello, now)?,
            self.seal(Lane::Names, &body, now)?,
        ])
    }

    fn batch(&mut self, lane: Lane, rows: &[usize]) -> Result<Submission, Box<dyn Error>> {
        let column = |(field, values): (u16, &Values)| Column {
            field,
            present: None,
            values: pick(values, rows),
        };
        let series = (0..).zip(&self.values).map(|(id, columns)| SeriesColumns {
            id: LocalSeriesId(id),
            columns: (0..).zip(columns).map(column).collect(),
        });
        let times: Vec<i64> = rows.iter().map(|row| self.times[*row]).collect();
        let now = TimeNs(times.last().copied().unwrap_or(data::START));
        let groups = vec![Group {
            times,
            series: series.collect(),
        }];
        self.seal(lane, &Body::Data(Data { groups }), now)
    }

    pub(crate) fn seal(
        &mut self,
        lane: Lane,
        body: &Body,
        now: TimeNs,
    ) -> Result<Submission, Box<dyn Error>> {
        let names = self.lanes[Lane::Names as usize].0;
        let (last, previous) = self.lanes[lane as usize];
        let header = Header {
            epoch: Epoch(1),
            lane,
            number: BatchNumber(last + 1),
            previous,
            names_needed: BatchNumber(if lane == Lane::Names { 0 } else { names }),
            sealed_at: now,
            complete_below: now,
            boot_relative: false,
        };
        let bytes = batch::encode(&header, body)?;
        self.lanes[lane as usize] = (last + 1, batch::digest(previous, &bytes));
        Ok(Submission {
            origin: Origin { boot: 1, ticket: 0 },
            agent: self.id.clone(),
            received: now,
            payload: Payload::Batch(Bytes::from(bytes)),
        })
    }
}

pub(crate) fn definition(
    id: u32,
    table: &str,
    device: String,
    fields: Vec<(String, FieldType)>,
) -> SeriesDefinition {
    SeriesDefinition {
        id: LocalSeriesId(id),
        table: table.to_owned(),
        device,
        tags: Vec::new(),
        fields,
    }
}

fn truck(id: u32, nth: u32, table: &str, fields: &[&str]) -> SeriesDefinition {
    let field = |name: &&str| {
        let is_int = *name == "status";
        let field_type = if is_int {
            FieldType::Int
        } else {
            FieldType::Float
        };
        ((*name).to_owned(), field_type)
    };
    let fields = fields.iter().map(field).collect();
    let tag = |tag: &&str| ((*tag).to_owned(), format!("{tag}_{}", nth % 7));
    SeriesDefinition {
        tags: TAGS.iter().map(tag).collect(),
        ..definition(id, table, format!("truck_{nth}"), fields)
    }
}

fn values_of(one: SeriesColumns) -> Vec<Values> {
    one.columns
        .into_iter()
        .map(|column| column.values)
        .collect()
}

fn type_of(values: &Values) -> FieldType {
    match values {
        Values::Float(_) => FieldType::Float,
        Values::Int(_) => FieldType::Int,
        Values::Bool(_) => FieldType::Bool,
        Values::Text(_) => FieldType::Text,
    }
}

fn pick(values: &Values, rows: &[usize]) -> Values {
    match values {
        Values::Float(all) => Values::Float(rows.iter().map(|row| all[*row]).collect()),
        Values::Int(all) => Values::Int(rows.iter().map(|row| all[*row]).collect()),
        Values::Bool(all) => Values::Bool(rows.iter().map(|row| all[*row]).collect()),
        Values::Text(all) => Values::Text(rows.iter().map(|row| all[*row].clone()).collect()),
    }
}
