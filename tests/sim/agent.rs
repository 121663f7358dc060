//! An agent in short: numbered batches of one stream, sent again until they are acknowledged. It
//! knows the guarantee's rules and nothing of the cluster's inside.

use aggregator::cluster::{Answer, Cluster};
use aggregator::ingest::Upstream;
use aggregator::state::command::Payload;
use bytes::Bytes;
use shared::batch::{
    Body, Column, Data, Group, Header, Hello, SeriesColumns, SeriesDefinition, Values, digest,
    encode,
};
use shared::id::{AgentId, BatchNumber, Digest, Epoch, Lane, LocalSeriesId, TimeNs};
use shared::reading::FieldType;

/// Readings of one batch.
pub(crate) const READINGS: i64 = 3;
/// Batches on their way.
const WINDOW: usize = 4;
const EPOCH: Epoch = Epoch(0xe0);

pub(crate) struct Agent {
    pub(crate) name: String,
    /// The names lane, then the live lane: bytes by number.
    names: Vec<Bytes>,
    live: Vec<Bytes>,
    /// The last live number that was acknowledged.
    pub(crate) acknowledged: usize,
    introduced: bool,
}

/// What one round came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    Acknowledged {
        upto: usize,
    },
    /// Nothing was taken: the log has no room.
    Busy,
    Again,
}

impl Agent {
    /// Seals everything that it will ever send.
    pub(crate) fn new(name: &str, batches: usize) -> Agent {
        let mut names = Sealer::new(Lane::Names);
        names.seal(
            0,
            &Body::Hello(Hello {
                older_epochs: Vec::new(),
                last: None,
                max_unsafe_ms: 10_000,
            }),
        );
        names.seal(
            0,
            &Body::Names(vec![SeriesDefinition {
                id: LocalSeriesId(1),
                table: "sim".to_owned(),
                device: name.to_owned(),
                tags: Vec::new(),
                fields: vec![("seq".to_owned(), FieldType::Int)],
            }]),
        );
        let mut live = Sealer::new(Lane::Live);
        let mut next = 1;
        for _ in 0..batches {
            let seqs: Vec<i64> = (next..next + READINGS).collect();
            next += READINGS;
            live.seal(2, &Body::Data(data(seqs)));
        }
        Agent {
            name: name.to_owned(),
            names: names.sealed,
            live: live.sealed,
            acknowledged: 0,
            introduced: false,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.acknowledged == self.live.len()
    }

    fn id(&self) -> AgentId {
        AgentId::parse(&self.name).expect("a name of this file")
    }

    /// Sends a window's worth to a node and waits for the answers.
    pub(crate) async fn round(&mut self, node: &Cluster) -> Round {
        if !self.introduced {
            for batch in self.names.clone() {
                if !matches!(self.send(node, batch).await.await, Answer::Applied(_)) {
                    return Round::Again;
                }
            }
            self.introduced = true;
        }
        let window: Vec<Bytes> = self.live[self.acknowledged..]
            .iter()
            .take(WINDOW)
            .cloned()
            .collect();
        let mut tickets = Vec::new();
        for batch in window {
            tickets.push(self.send(node, batch).await);
        }
        let (before, mut busy) = (self.acknowledged, false);
        for ticket in tickets {
            match ticket.await {
                Answer::Applied(_) => self.acknowledged += 1,
                Answer::Busy { .. } => {
                    busy = true;
                    break;
                }
                Answer::Gap(_) | Answer::Names(_) | Answer::Unknown => break,
                Answer::Fork(position) => panic!("{}: a fork at {position:?}", self.name),
            }
        }
        if self.acknowledged > before {
            Round::Acknowledged {
                upto: self.acknowledged,
            }
        } else if busy {
            Round::Busy
        } else {
            Round::Again
        }
    }

    /// Sends one live batch, out of turn.
    pub(crate) async fn publish(
        &self,
        node: &Cluster,
        number: usize,
    ) -> <Cluster as Upstream>::Ticket {
        self.send(node, self.live[number - 1].clone()).await
    }

    async fn send(&self, node: &Cluster, batch: Bytes) -> <Cluster as Upstream>::Ticket {
        node.submit(self.id(), TimeNs(0), Payload::Batch(batch), 0)
            .await
    }
}

fn data(seqs: Vec<i64>) -> Data {
    // The times of this agent's readings are its numbers: plausible to nobody, kept all the same.
    let times = seqs
        .iter()
        .map(|seq| 1_767_225_600_000_000_000 + seq)
        .collect();
    let column = Column {
        field: 0,
        present: None,
        values: Values::Int(seqs),
    };
    let series = SeriesColumns {
        id: LocalSeriesId(1),
        columns: vec![column],
    };
    Data {
        groups: vec![Group {
            times,
            series: vec![series],
        }],
    }
}

/// Seals one lane.
struct Sealer {
    lane: Lane,
    number: BatchNumber,
    digest: Digest,
    sealed: Vec<Bytes>,
}

impl Sealer {
    fn new(lane: Lane) -> Sealer {
        Sealer {
            lane,
            number: BatchNumber::NONE,
            digest: Digest::ZERO,
            sealed: Vec::new(),
        }
    }

    fn seal(&mut self, names_needed: u64, body: &Body) {
        self.number = self.number.next();
        let header = Header {
            epoch: EPOCH,
            lane: self.lane,
            number: self.number,
            previous: self.digest,
            names_needed: BatchNumber(names_needed),
            sealed_at: TimeNs(0),
            complete_below: TimeNs(0),
            boot_relative: false,
        };
        let bytes = encode(&header, body).expect("a batch within the limits");
        self.digest = digest(self.digest, &bytes);
        self.sealed.push(bytes.into());
    }
}
