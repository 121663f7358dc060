//! One publisher's conversation: packets in, actions out. No input or output, no clock.
//!
//! `connection` feeds it and does what it says. Invariants: every publish is answered or the
//! connection ends; acknowledgements leave in the order of the publishes (MQTT-4.6.0-2); a
//! positive one leaves only for an `Applied`, which only the cluster mints.
//! In MQTT 3.1.1 a PUBACK can say nothing but yes, so any other verdict closes the connection.

use std::collections::VecDeque;

use bytes::Bytes;
use shared::id::{AgentId, Epoch, Lane};
use shared::verdict::Verdict;

use super::authorize::{Denied, authorize};
use super::lane_gate::{LaneGates, Place};
use super::validate::{Checked, Invalid, Kind};
use crate::cluster::{Answer, Applied};
use crate::state::command::Payload;

/// Publishes of one connection that wait for an answer; announced as receive maximum.
pub(super) const RECEIVE_MAXIMUM: u16 = 64;
/// Streams that a CONNECT may ask for: the current epoch and what is left of older ones.
pub(super) const STREAMS_MAX: usize = 1_024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V3_1_1,
    V5,
}

/// A packet, without the differences between the versions.
#[derive(Debug)]
pub(super) enum Packet {
    Connect(Connect),
    Publish(Publish),
    Subscribe {
        packet_id: u16,
        filters: usize,
    },
    Unsubscribe {
        packet_id: u16,
        filters: usize,
    },
    Ping,
    Disconnect,
    /// One that a publisher has no reason to send.
    Unexpected,
}

#[derive(Debug)]
pub(super) struct Connect {
    pub(super) version: Version,
    pub(super) client_id_empty: bool,
    pub(super) clean_start: bool,
    pub(super) has_will: bool,
    pub(super) keep_alive_seconds: u16,
    /// The `stream` user properties, unparsed.
    pub(super) streams: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Publish {
    /// `None` for QoS 0.
    pub(super) packet_id: Option<u16>,
    pub(super) exactly_once: bool,
    pub(super) retain: bool,
    pub(super) topic: String,
    pub(super) payload: Bytes,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Answer CONNECT with the positions of these streams.
    Accept(Accept),
    RefuseConnect(ConnectRefusal),
    /// Check the content and call `checked`. Nothing else may be fed before that.
    Check {
        sequence: u64,
        kind: Kind,
        payload: Bytes,
    },
    /// Hand it to the cluster; then call `answered`. In the order of these actions. Or call
    /// `over_quota`, and nothing was handed over.
    Submit {
        sequence: u64,
        payload: Payload,
        decoded_bytes: usize,
    },
    Acknowledge {
        packet_id: u16,
        reply: Reply,
    },
    RefuseSubscribe {
        packet_id: u16,
        filters: usize,
    },
    AnswerUnsubscribe {
        packet_id: u16,
        filters: usize,
    },
    Pong,
    /// The publish is over: its bytes no longer count.
    Release,
    /// To be counted and logged.
    Report(Report),
    /// Nothing may be sent behind it.
    Close(Close),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Accept {
    pub(super) assign_client_id: bool,
    pub(super) keep_alive_seconds: u16,
    pub(super) streams: Vec<(Epoch, Lane)>,
}

/// Success carries the proof; a refusal cannot be mistaken for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    Applied(Applied),
    Refused(Verdict),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectRefusal {
    NotReady,
    Will,
    Streams,
    /// 3.1.1 has no way to assign an id to a session that is to be kept.
    ClientId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Close {
    /// The publisher said good-bye.
    Finished,
    Protocol(&'static str),
    QosTwo,
    Retain,
    BatchWithoutAck,
    /// Whether the cluster has a batch is not known; the publisher asks by connecting again.
    Unknown,
    /// 3.1.1 only.
    Refused(Verdict),
}

/// A refusal, for the counter and the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) reason: Reason,
    pub(super) detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Verdict(&'static str),
    Connect(ConnectRefusal),
    Subscribe,
    Closed(Close),
}

#[derive(Debug)]
pub(super) struct Session {
    agent: AgentId,
    state: State,
    /// In packet order; the front is answered first.
    pending: VecDeque<Pending>,
    /// The sequence number of the front of `pending`.
    front: u64,
    gates: LaneGates,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Silent,
    Open(Version),
    Closed,
}

#[derive(Debug)]
struct Pending {
    packet_id: Option<u16>,
    /// Known once the content was checked; `None` for lines.
    place: Option<Place>,
    reply: Option<Reply>,
}

type Actions = Vec<Action>;

impl Session {
    pub(super) fn new(agent: AgentId) -> Session {
        let (pending, gates) = (VecDeque::new(), LaneGates::default());
        Session {
            agent,
            state: State::Silent,
            pending,
            front: 0,
            gates,
        }
    }

    /// Publishes that wait for an answer.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Takes one packet. `ready`: this node may answer publishers now.
    pub(super) fn packet(&mut self, packet: Packet, ready: bool, out: &mut Actions) {
        match (self.state, packet) {
            (State::Closed, _) => {}
            (State::Silent, Packet::Connect(connect)) => self.connect(&connect, ready, out),
            (State::Silent, _) => self.close(Close::Protocol("a packet before CONNECT"), out),
            (State::Open(_), Packet::Connect(_)) => {
                self.close(Close::Protocol("a second CONNECT"), out);
            }
            (State::Open(version), Packet::Publish(publish)) => {
                self.publish(version, publish, out);
            }
            (State::Open(_), Packet::Subscribe { packet_id, filters }) => {
                out.push(Action::RefuseSubscribe { packet_id, filters });
                let detail = format!("{filters} filters");
                out.push(Action::Report(Report {
                    reason: Reason::Subscribe,
                    detail,
                }));
            }
            (State::Open(_), Packet::Unsubscribe { packet_id, filters }) => {
                out.push(Action::AnswerUnsubscribe { packet_id, filters });
            }
            (State::Open(_), Packet::Ping) => out.push(Action::Pong),
            (State::Open(_), Packet::Disconnect) => {
                self.state = State::Closed;
                out.push(Action::Close(Close::Finished));
            }
            (State::Open(_), Packet::Unexpected) => {
                self.close(
                    Close::Protocol("a packet that a publisher does not send"),
                    out,
                );
            }
        }
    }

    fn connect(&mut self, connect: &Connect, ready: bool, out: &mut Actions) {
        let streams: Option<Vec<_>> = connect
            .streams
            .iter()
            .map(|text| shared::verdict::parse_stream(text))
            .collect();
        let streams = streams.filter(|streams| streams.len() <= STREAMS_MAX);
        let v3 = connect.version == Version::V3_1_1;
        let refusal = if !ready {
            Some((ConnectRefusal::NotReady, String::new()))
        } else if connect.has_will {
            Some((ConnectRefusal::Will, String::new()))
        } else if v3 && connect.client_id_empty && !connect.clean_start {
            Some((ConnectRefusal::ClientId, String::new()))
        } else if streams.is_none() {
            let text = connect.streams.first().map_or("", String::as_str);
            let start: String = text.chars().take(40).collect();
            let detail = format!("{} streams, the first {start:?}", connect.streams.len());
            Some((ConnectRefusal::Streams, detail))
        } else {
            None
        };
        if let Some((refusal, detail)) = refusal {
            return self.refuse_connect(refusal, detail, out);
        }
        self.state = State::Open(connect.version);
        out.push(Action::Accept(Accept {
            assign_client_id: connect.client_id_empty,
            keep_alive_seconds: connect.keep_alive_seconds,
            streams: streams.unwrap_or_default(),
        }));
    }

    /// Instead of the answer to an accepted CONNECT: no quorum said where its streams stand.
    pub(super) fn not_placed(&mut self, out: &mut Actions) {
        self.refuse_connect(ConnectRefusal::NotReady, String::new(), out);
    }

    fn refuse_connect(&mut self, refusal: ConnectRefusal, detail: String, out: &mut Actions) {
        self.state = State::Closed;
        out.push(Action::RefuseConnect(refusal));
        let reason = Reason::Connect(refusal);
        out.push(Action::Report(Report { reason, detail }));
    }

    fn publish(&mut self, version: Version, publish: Publish, out: &mut Actions) {
        let Publish {
            packet_id,
            exactly_once,
            retain,
            topic,
            payload,
        } = publish;
        if exactly_once {
            return self.close(Close::QosTwo, out);
        }
        if retain && version == Version::V5 {
            return self.close(Close::Retain, out);
        }
        if packet_id.is_some() && self.pending.iter().any(|p| p.packet_id == packet_id) {
            return self.close(Close::Protocol("a packet id that is still in use"), out);
        }
        let kind = match authorize(&self.agent, &topic) {
            Ok(kind) => kind,
            Err(denied) => {
                let verdict = match denied {
                    Denied::Foreign => Verdict::ForeignTopic,
                    Denied::NoTopic => Verdict::BadTopic,
                };
                let sequence = self.push(packet_id);
                let start: String = topic.chars().take(100).collect();
                report(verdict, format!("topic {start:?}"), out);
                return self.resolve(sequence, Reply::Refused(verdict), out);
            }
        };
        if packet_id.is_none() && kind != Kind::Lines {
            return self.close(Close::BatchWithoutAck, out);
        }
        let sequence = self.push(packet_id);
        out.push(Action::Check {
            sequence,
            kind,
            payload,
        });
    }

    /// Takes the result of `Action::Check`.
    pub(super) fn checked(
        &mut self,
        sequence: u64,
        result: Result<Checked, Invalid>,
        out: &mut Actions,
    ) {
        if self.is_closed() {
            return;
        }
        let checked = match result {
            Ok(checked) => checked,
            Err(Invalid { place, reason }) => {
                self.entry(sequence).place = place;
                report(Verdict::Invalid, reason, out);
                return self.resolve(sequence, Reply::Refused(Verdict::Invalid), out);
            }
        };
        if let Some(place) = checked.place {
            self.entry(sequence).place = Some(place);
            if let Err(verdict) = self.gates.pass(sequence, place) {
                let detail = format!(
                    "{} {} number {} behind a refused one",
                    place.epoch,
                    place.lane.as_str(),
                    place.from.0
                );
                report(verdict, detail, out);
                // Not told to the gate: it is shut already, and for an earlier number.
                self.entry(sequence).reply = Some(Reply::Refused(verdict));
                return self.flush(out);
            }
        }
        out.push(Action::Submit {
            sequence,
            payload: checked.payload,
            decoded_bytes: checked.decoded_bytes,
        });
    }

    /// Takes the answer to `Action::Submit`.
    pub(super) fn answered(&mut self, sequence: u64, answer: Answer, out: &mut Actions) {
        if self.is_closed() {
            return;
        }
        let verdict = match answer {
            Answer::Applied(applied) => {
                return self.resolve(sequence, Reply::Applied(applied), out);
            }
            Answer::Unknown => return self.close(Close::Unknown, out),
            Answer::Gap(position) => Verdict::Gap(position),
            Answer::Names(position) => Verdict::Names(position),
            Answer::Fork(position) => Verdict::Fork(position),
            Answer::Busy { retry_ms } => Verdict::Busy { retry_ms },
        };
        self.refuse(sequence, verdict, out);
    }

    /// `Action::Submit` was not done: the agent is over its quota for so many milliseconds.
    pub(super) fn over_quota(&mut self, sequence: u64, retry_ms: u32, out: &mut Actions) {
        if !self.is_closed() {
            self.refuse(sequence, Verdict::Quota { retry_ms }, out);
        }
    }

    fn refuse(&mut self, sequence: u64, verdict: Verdict, out: &mut Actions) {
        let place = self.entry(sequence).place;
        let detail = place.map_or_else(String::new, |place| {
            format!(
                "{} {} number {}",
                place.epoch,
                place.lane.as_str(),
                place.from.0
            )
        });
        report(verdict, detail, out);
        self.resolve(sequence, Reply::Refused(verdict), out);
    }

    fn push(&mut self, packet_id: Option<u16>) -> u64 {
        self.pending.push_back(Pending {
            packet_id,
            place: None,
            reply: None,
        });
        self.front + self.pending.len() as u64 - 1
    }

    fn entry(&mut self, sequence: u64) -> &mut Pending {
        let at = usize::try_from(sequence - self.front).expect("within the receive maximum");
        &mut self.pending[at]
    }

    fn resolve(&mut self, sequence: u64, reply: Reply, out: &mut Actions) {
        let entry = self.entry(sequence);
        entry.reply = Some(reply);
        if let (Some(place), Reply::Refused(verdict)) = (entry.place, reply) {
            self.gates.refused(sequence, place, verdict);
        }
        self.flush(out);
    }

    /// Answers from the front on, as far as there are replies.
    fn flush(&mut self, out: &mut Actions) {
        let v3 = self.state == State::Open(Version::V3_1_1);
        while let Some(reply) = self.pending.front().and_then(|front| front.reply) {
            if let (true, Reply::Refused(verdict)) = (v3, reply) {
                return self.close(Close::Refused(verdict), out);
            }
            let done = self.pending.pop_front().expect("the loop saw it");
            self.front += 1;
            if let Some(packet_id) = done.packet_id {
                out.push(Action::Acknowledge { packet_id, reply });
            }
            out.push(Action::Release);
        }
    }

    fn close(&mut self, close: Close, out: &mut Actions) {
        self.state = State::Closed;
        let reason = Reason::Closed(close);
        out.push(Action::Report(Report {
            reason,
            detail: String::new(),
        }));
        out.push(Action::Close(close));
    }
}

fn report(verdict: Verdict, detail: String, out: &mut Actions) {
    let reason = Reason::Verdict(verdict.as_str());
    out.push(Action::Report(Report { reason, detail }));
}

#[cfg(test)]
mod tests;
