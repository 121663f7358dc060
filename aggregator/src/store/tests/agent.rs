//! A publisher that seals batches as an agent does, and can be told to misbehave.

use std::collections::BTreeMap;

use bytes::Bytes;
use shared::batch::{
    Body, Column, Data, Gap, GapReason, Group, Header, Hello, LastEpoch, SeriesColumns,
    SeriesDefinition, Values, digest, encode,
};
use shared::id::{AgentId, BatchNumber, Digest, Epoch, Lane, LocalSeriesId, TimeNs};
use shared::reading::FieldType;

use super::Random;

/// Something sealed: a batch, or a gap record that stands for several.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) bytes: Bytes,
    pub(super) after: Digest,
    pub(super) header: Header,
    pub(super) body: Body,
}

pub(super) struct Agent {
    pub(super) id: AgentId,
    pub(super) epoch: Epoch,
    pub(super) lanes: [Vec<Link>; 3],
    pub(super) definitions: Vec<SeriesDefinition>,
    pub(super) older: Vec<Epoch>,
}

impl Agent {
    pub(super) fn new(name: &str, epoch: u64) -> Self {
        let mut agent = Self {
            id: AgentId::parse(name).unwrap(),
            epoch: Epoch(epoch),
            lanes: [vec![], vec![], vec![]],
            definitions: Vec::new(),
            older: Vec::new(),
        };
        agent.hello(None);
        agent
    }

    fn hello(&mut self, last: Option<LastEpoch>) {
        let older_epochs = self.older.clone();
        let hello = Hello {
            older_epochs,
            last,
            max_unsafe_ms: 10_000,
        };
        self.seal(Lane::Names, Body::Hello(hello));
    }

    pub(super) fn restart(&mut self, epoch: u64, keep: bool, clean: bool) {
        if keep {
            self.older.push(self.epoch);
        } else {
            self.older.clear();
        }
        let last = LastEpoch {
            epoch: self.epoch,
            ended_cleanly: clean,
        };
        self.epoch = Epoch(epoch);
        self.lanes = [vec![], vec![], vec![]];
        self.definitions.clear();
        self.hello(Some(last));
    }

    pub(super) fn last(&self, lane: Lane) -> (u64, Digest) {
        self.lanes[lane as usize]
            .last()
            .map_or((0, Digest::ZERO), |link| (link.to, link.after))
    }

    pub(super) fn header(&self, lane: Lane, number: u64, previous: Digest) -> Header {
        let names_needed = if lane == Lane::Names {
            0
        } else {
            self.last(Lane::Names).0
        };
        Header {
            epoch: self.epoch,
            lane,
            number: BatchNumber(number),
            previous,
            names_needed: BatchNumber(names_needed),
            sealed_at: TimeNs(5),
            complete_below: TimeNs(4),
            boot_relative: false,
        }
    }

    pub(super) fn seal(&mut self, lane: Lane, body: Body) -> Link {
        self.seal_with(lane, body, false)
    }

    /// Live data of an agent that does not know the time of day.
    pub(super) fn seal_since_boot(&mut self, data: Data) -> Link {
        self.seal_with(Lane::Live, Body::Data(data), true)
    }

    fn seal_with(&mut self, lane: Lane, body: Body, boot_relative: bool) -> Link {
        let (last, before) = self.last(lane);
        let header = Header {
            boot_relative,
            ..self.header(lane, last + 1, before)
        };
        let bytes = Bytes::from(encode(&header, &body).unwrap());
        let after = digest(before, &bytes);
        let link = Link {
            from: last + 1,
            to: last + 1,
            bytes,
            after,
            header,
            body,
        };
        self.lanes[lane as usize].push(link.clone());
        link
    }

    /// Puts a gap record in the place of the links from `at` on, and of `more` that never were.
    pub(super) fn seal_gap(&mut self, lane: Lane, at: usize, more: u64, random: &mut Random) {
        let gone = self.lanes[lane as usize].split_off(at);
        let (last, before) = self.last(lane);
        let to = gone.last().map_or(last, |link| link.to) + more;
        if to == last {
            self.lanes[lane as usize].extend(gone);
            return;
        }
        let after = match gone.last() {
            Some(link) if more == 0 => link.after,
            _ => Digest(random.next().to_be_bytes()),
        };
        let gap = Gap {
            from: BatchNumber(last + 1),
            readings: 10,
            reason: GapReason::Overflow,
            digest_to: after,
        };
        let header = self.header(lane, to, before);
        let body = Body::Gap(gap);
        let bytes = Bytes::from(encode(&header, &body).unwrap());
        let link = Link {
            from: last + 1,
            to,
            bytes,
            after,
            header,
            body,
        };
        self.lanes[lane as usize].push(link);
    }

    pub(super) fn define(&mut self, definitions: Vec<SeriesDefinition>) -> Link {
        self.definitions.extend(definitions.iter().cloned());
        self.seal(Lane::Names, Body::Names(definitions))
    }

    pub(super) fn random_definitions(&self, random: &mut Random) -> Vec<SeriesDefinition> {
        let mut definitions: BTreeMap<u32, SeriesDefinition> = BTreeMap::new();
        for _ in 0..=random.below(2) {
            // Ids come again now and then: the second meaning spoils them.
            let id = if random.chance(90) {
                (self.definitions.len() + definitions.len()) as u32
            } else {
                random.below(4) as u32
            };
            let table = ["truck", "pump", "agents", "truck"][random.below(4)].to_owned();
            let device = format!("d{}", random.below(3));
            let tags = match random.below(5) {
                0 => vec![("line".to_owned(), "3".to_owned())],
                1 => vec![("f1".to_owned(), "x".to_owned())],
                _ => vec![],
            };
            let count = 1 + random.below(3);
            let mut fields: Vec<(String, FieldType)> = Vec::new();
            for _ in 0..count {
                let name = ["f0", "f1", "f2", "line"][random.below(4)].to_owned();
                if fields.iter().all(|(known, _)| *known != name)
                    && tags.iter().all(|(tag, _)| *tag != name)
                {
                    fields.push((name, FieldType::Float));
                }
            }
            if fields.is_empty() {
                fields.push(("f9".to_owned(), FieldType::Float));
            }
            let local = LocalSeriesId(id);
            definitions.insert(
                id,
                SeriesDefinition {
                    id: local,
                    table,
                    device,
                    tags,
                    fields,
                },
            );
        }
        definitions.into_values().collect()
    }

    /// Readings of some of the defined series, and now and then of one that is not.
    pub(super) fn random_data(&self, random: &mut Random, now: i64) -> Option<Data> {
        const HOUR: i64 = 3_600_000_000_000;
        let mut ids: Vec<u32> = (0..=random.below(2))
            .map(|_| random.below(self.definitions.len() + 1) as u32)
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let rows = 1 + random.below(4);
        let times: Vec<i64> = (0..rows)
            .map(|_| match random.below(12) {
                0 => now + 100 * 24 * HOUR,
                1 => 5,
                // Few: rows of one series come with the same time, in one batch and in many.
                back => now - back as i64 * 5 * HOUR + random.below(3) as i64,
            })
            .collect();
        let mut series = Vec::new();
        for id in ids {
            let known = self.definitions.iter().find(|d| d.id.0 == id);
            let fields = known.map_or(1, |definition| definition.fields.len());
            let columns: Vec<Column> = (0..fields)
                .map(|field| random_column(random, field as u16, rows))
                .collect();
            let filled = (0..rows).all(|row| {
                columns
                    .iter()
                    .any(|c| c.present.as_ref().is_none_or(|flags| flags[row]))
            });
            if filled {
                series.push(SeriesColumns {
                    id: LocalSeriesId(id),
                    columns,
                });
            }
        }
        (!series.is_empty()).then_some(Data {
            groups: vec![Group { times, series }],
        })
    }
}

fn random_column(random: &mut Random, field: u16, rows: usize) -> Column {
    let mut present: Option<Vec<bool>> = random
        .chance(30)
        .then(|| (0..rows).map(|_| random.chance(60)).collect());
    if present
        .as_ref()
        .is_some_and(|flags| !flags.contains(&true) || !flags.contains(&false))
    {
        present = None;
    }
    let count = present
        .as_ref()
        .map_or(rows, |flags| flags.iter().filter(|f| **f).count());
    let values = match random.below(8) {
        // Their sums do not depend on the order.
        0..4 => Values::Float((0..count).map(|_| random.below(100) as f64 / 4.0).collect()),
        4..6 => Values::Int((0..count).map(|_| random.below(1000) as i64).collect()),
        6 => Values::Int(
            (0..count)
                .map(|_| (1 << 53) + random.below(3) as i64 - 1)
                .collect(),
        ),
        _ if random.chance(50) => Values::Bool(vec![true; count]),
        _ => Values::Text(vec!["hot".to_owned(); count]),
    };
    Column {
        field,
        present,
        values,
    }
}
