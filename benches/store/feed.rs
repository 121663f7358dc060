//! Readings of trucks, as batches of agents.

use std::error::Error;
use std::ops::Range;

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

/// All that the trucks will ever say, and how far each agent's lanes are.
pub(crate) struct Fleet {
    agents: Vec<Agent>,
    times: Vec<i64>,
    /// Of each truck, the two series.
    series: Vec<[Vec<Values>; 2]>,
}

struct Agent {
    id: AgentId,
    lanes: [(u64, Digest); 3],
}

impl Fleet {
    pub(crate) fn new(trucks: u32, rows: usize) -> Fleet {
        let mut all = data::trucks(trucks, trucks as usize * rows * 10);
        let Group { times, mut series } = all.groups.remove(0);
        let diagnostics = series.split_off(trucks as usize);
        let values = |one: SeriesColumns| one.columns.into_iter().map(|column| column.values);
        let both = series.into_iter().zip(diagnostics);
        let both = both.map(|(a, b)| [values(a).collect(), values(b).collect()]);
        let agent = |nth| Agent {
            id: AgentId::parse(&format!("truck-{nth}")).expect("a good name"),
            lanes: [(0, Digest::ZERO); 3],
        };
        Fleet {
            agents: (0..trucks).map(agent).collect(),
            times,
            series: both.collect(),
        }
    }

    pub(crate) fn trucks(&self) -> usize {
        self.agents.len()
    }

    /// The time of a row.
    pub(crate) fn time(&self, row: usize) -> TimeNs {
        TimeNs(self.times[row])
    }

    /// What a truck says before its first reading.
    pub(crate) fn names(&mut self, truck: usize) -> Result<[Submission; 2], Box<dyn Error>> {
        let definition = |id, table: &str, fields: &[&str]| SeriesDefinition {
            id: LocalSeriesId(id),
            table: table.to_owned(),
            device: format!("truck_{truck}"),
            tags: TAGS
                .iter()
                .map(|tag| ((*tag).to_owned(), format!("{tag}_{}", truck % 7)))
                .collect(),
            fields: fields
                .iter()
                .map(|name| {
                    let is_int = *name == "status";
                    let field_type = if is_int {
                        FieldType::Int
                    } else {
                        FieldType::Float
                    };
                    ((*name).to_owned(), field_type)
                })
                .collect(),
        };
        let body = Body::Names(vec![
            definition(0, "readings", &READINGS),
            definition(1, "diagnostics", &DIAGNOSTICS),
        ]);
        let hello = Body::Hello(Hello {
            older_epochs: Vec::new(),
            last: None,
            max_unsafe_ms: 10_000,
        });
        let now = self.time(0);
        let agent = &mut self.agents[truck];
        Ok([
            agent.seal(Lane::Names, &hello, now)?,
            agent.seal(Lane::Names, &body, now)?,
        ])
    }

    pub(crate) fn batch(
        &mut self,
        truck: usize,
        rows: Range<usize>,
    ) -> Result<Submission, Box<dyn Error>> {
        let cut = |values: &Values| match values {
            Values::Float(all) => Values::Float(all[rows.clone()].to_vec()),
            Values::Int(all) => Values::Int(all[rows.clone()].to_vec()),
            Values::Bool(all) => Values::Bool(all[rows.clone()].to_vec()),
            Values::Text(all) => Values::Text(all[rows.clone()].to_vec()),
        };
        let series = (0..)
            .zip(&self.series[truck])
            .map(|(id, columns)| SeriesColumns {
                id: LocalSeriesId(id),
                columns: (0..)
                    .zip(columns)
                    .map(|(field, values)| Column {
                        field,
                        present: None,
                        values: cut(values),
                    })
                    .collect(),
            });
        let data = Data {
            groups: vec![Group {
                times: self.times[rows.clone()].to_vec(),
                series: series.collect(),
            }],
        };
        let now = self.time(rows.end - 1);
        self.agents[truck].seal(Lane::Live, &Body::Data(data), now)
    }
}

impl Agent {
    fn seal(&mut self, lane: Lane, body: &Body, now: TimeNs) -> Result<Submission, Box<dyn Error>> {
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
