//! The driver of the window over MQTT 5: one session at a time, clean start, no memory of its own.
//! What a session did not acknowledge the window sends again, so nothing is ever re-sent here.
//!
//! The client's event loop is polled by a task that does nothing else, because a half-done poll
//! must not be dropped. Sessions go round the servers, with the rests of `back_off.rs` between them.
//!
//! A link that is gone and does not say so: while something is in flight, whoever drives this gives
//! the session up; while nothing is, a ping that is not answered within half a keep alive ends it.

mod back_off;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::mqttbytes::v5::{ConnAck, ConnectReturnCode, DisconnectReasonCode, Packet, PubAck};
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, IncomingPacketSizeLimit, MqttOptions, Outgoing,
    PublishOptions, StateError, TlsConfiguration, TopicAliasPolicy, Transport,
};
use shared::id::{AgentId, Epoch, Lane, TimeNs};
use shared::topic::Topic;
use shared::verdict::{
    Position, STREAM_PROPERTY, TIME_PROPERTY, Verdict, format_stream, parse_stream_position,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use back_off::BackOff;

/// Name, TCP, TLS and CONNACK together: a server that accepts and says nothing holds us no longer.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// What a PUBLISH needs besides the batch: header, topic, packet id, topic alias.
const PUBLISH_BYTES_MAX: usize = 128;
/// CONNACK tells where up to 1,024 streams stand.
const PACKET_IN_BYTES_MAX: u32 = 256 << 10;
/// Streams whose positions are asked for.
const STREAMS_MAX: usize = 1_000;
const EVENTS_MAX: usize = 64;

#[derive(Debug, Clone)]
pub struct UplinkOptions {
    pub agent: AgentId,
    /// `host:port`, tried in rotation.
    pub servers: Vec<String>,
    pub tls: Arc<rustls::ClientConfig>,
    pub in_flight_max: u16,
}

#[derive(Debug)]
pub enum UplinkEvent {
    /// It is time to call [`Uplink::connect`].
    Due,
    Connected(Welcome),
    /// `None`: the answer is no verdict, nothing is known of the batch.
    Answered(u64, Option<Verdict>),
    /// The session ended; `Due` follows.
    Ended(String),
    /// The same, because a packet is above what the server takes.
    TooLarge(String),
}

/// What CONNACK told.
#[derive(Debug, PartialEq, Eq)]
pub struct Welcome {
    pub positions: Vec<(Epoch, Lane, Position)>,
    /// The largest batch that fits the server's packets; `None`: no bound.
    pub batch_bytes_max: Option<usize>,
    /// What time it is for the cluster.
    pub time: Option<TimeNs>,
}

pub struct Uplink {
    options: UplinkOptions,
    session: Option<Session>,
    back_off: BackOff,
    next_server: usize,
    due: Option<Instant>,
}

struct Session {
    client: AsyncClient,
    events: mpsc::Receiver<Told>,
    /// Handed to the client and not given a packet id yet.
    queued: VecDeque<u64>,
    ids: HashMap<u16, u64>,
    keep_alive: Duration,
    connected_at: Option<Instant>,
    /// A ping is on its way: when the link counts as gone unless anything is heard.
    quiet_until: Option<Instant>,
    _task: JoinSet<()>,
}

/// What the task tells of the event loop.
enum Told {
    Connected(Box<ConnAck>),
    Sent(u16),
    Acknowledged(PubAck),
    Pinged,
    Ponged,
    Ended(String),
    TooLarge(String),
}

impl Uplink {
    pub fn new(options: UplinkOptions) -> Self {
        Uplink {
            options,
            session: None,
            back_off: BackOff::default(),
            next_server: 0,
            due: Some(Instant::now()),
        }
    }

    /// The server of this session, or of the next.
    pub fn server(&self) -> &str {
        let count = self.options.servers.len().max(1);
        self.options
            .servers
            .get(self.next_server % count)
            .map_or("", String::as_str)
    }

    /// Certificates for the next session; one that runs goes on with what it began with.
    pub fn use_tls(&mut self, tls: Arc<rustls::ClientConfig>) {
        self.options.tls = tls;
    }

    /// Where the next session goes, and how; one that runs goes on.
    pub fn use_servers(&mut self, servers: Vec<String>, in_flight_max: u16) {
        self.options.servers = servers;
        self.options.in_flight_max = in_flight_max;
    }

    /// Begins a session and asks where these streams stand.
    pub fn connect(&mut self, keep_alive: Duration, streams: impl Iterator<Item = (Epoch, Lane)>) {
        self.due = None;
        let streams: Vec<String> = streams
            .map(|(epoch, lane)| format_stream(epoch, lane))
            .collect();
        let skipped = streams.len().saturating_sub(STREAMS_MAX);
        let streams = streams.into_iter().skip(skipped);
        let properties = streams
            .map(|stream| (STREAM_PROPERTY.to_owned(), stream))
            .collect();
        let options = self.mqtt_options(keep_alive, properties);
        let capacity = usize::from(self.options.in_flight_max) + 1;
        match AsyncClient::builder(options).capacity(capacity).try_build() {
            Ok((client, event_loop)) => {
                let (sender, events) = mpsc::channel(EVENTS_MAX);
                let mut task = JoinSet::new();
                task.spawn(poll(event_loop, sender));
                self.session = Some(Session {
                    client,
                    events,
                    queued: VecDeque::new(),
                    ids: HashMap::new(),
                    keep_alive,
                    connected_at: None,
                    quiet_until: None,
                    _task: task,
                });
            }
            Err(error) => {
                tracing::error!(%error, "the MQTT options are refused; is [uplink] right?");
                self.rest();
            }
        }
    }

    fn mqtt_options(&self, keep_alive: Duration, properties: Vec<(String, String)>) -> MqttOptions {
        let server = self.server();
        let (host, port) = server.rsplit_once(':').unwrap_or((server, ""));
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port: u16 = port.parse().unwrap_or(8883);
        let mut options = MqttOptions::new(self.options.agent.as_str(), (host, port));
        let seconds = keep_alive.as_secs().clamp(1, 600);
        options
            .set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::clone(
                &self.options.tls,
            ))))
            .set_keep_alive(u16::try_from(seconds).expect("at most 600"))
            .set_connect_timeout(CONNECT_LIMIT)
            .set_outgoing_inflight_upper_limit(self.options.in_flight_max)
            .set_incoming_packet_size_limit(IncomingPacketSizeLimit::Bytes(PACKET_IN_BYTES_MAX))
            // A topic is sent once a session, then two bytes stand for it.
            .set_topic_alias_policy(TopicAliasPolicy::Monotonic)
            .set_user_properties(properties);
        let mut network = options.network_options();
        network.set_tcp_nodelay(true);
        options.set_network_options(network);
        options
    }

    /// Hands a batch to the session; `false` if there is none that takes it.
    pub fn publish(&mut self, id: u64, lane: Lane, bytes: Bytes) -> bool {
        let Some(session) = &mut self.session else {
            return false;
        };
        let topic = Topic::Batch {
            agent: self.options.agent.clone(),
            lane,
        };
        let handed =
            session
                .client
                .try_publish(topic.to_string(), bytes, PublishOptions::at_least_once());
        if handed.is_ok() {
            session.queued.push_back(id);
        }
        handed.is_ok()
    }

    /// What happens next. May be dropped at any time without losing anything.
    pub async fn event(&mut self) -> UplinkEvent {
        loop {
            let Some(session) = &mut self.session else {
                match self.due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
                return UplinkEvent::Due;
            };
            let told = match session.quiet_until {
                Some(at) => timeout_at(at, session.events.recv()).await,
                None => Ok(session.events.recv().await),
            };
            let Ok(told) = told else {
                self.fail();
                return UplinkEvent::Ended("a ping was not answered: the link is gone".to_owned());
            };
            if let Some(event) = self.told(told) {
                return event;
            }
        }
    }

    /// What a word of the session's task means for whoever drives this; `None`: nothing.
    fn told(&mut self, told: Option<Told>) -> Option<UplinkEvent> {
        let session = self.session.as_mut()?;
        match told {
            Some(Told::Connected(connack)) => {
                session.connected_at = Some(Instant::now());
                Some(UplinkEvent::Connected(welcome(&connack)))
            }
            Some(Told::Sent(packet_id)) => {
                if let Some(id) = session.queued.pop_front() {
                    session.ids.insert(packet_id, id);
                }
                None
            }
            Some(Told::Acknowledged(puback)) => {
                session.quiet_until = None;
                let id = session.ids.remove(&puback.pkid)?;
                let verdict = verdict(&puback);
                if matches!(verdict, Some(Verdict::Ok | Verdict::Have(_))) {
                    self.back_off.succeeded();
                }
                Some(UplinkEvent::Answered(id, verdict))
            }
            Some(Told::Pinged) => {
                // Behind batches a ping takes as long as these do, and they are waited for already.
                if session.queued.is_empty() && session.ids.is_empty() {
                    session.quiet_until = Some(Instant::now() + session.keep_alive / 2);
                }
                None
            }
            Some(Told::Ponged) => {
                session.quiet_until = None;
                None
            }
            Some(Told::Ended(why)) => {
                self.fail();
                Some(UplinkEvent::Ended(why))
            }
            Some(Told::TooLarge(why)) => {
                self.fail();
                Some(UplinkEvent::TooLarge(why))
            }
            None => {
                self.fail();
                Some(UplinkEvent::Ended("the session's task ended".to_owned()))
            }
        }
    }

    /// Ends the session; the next one goes to the next server, after a rest.
    pub fn fail(&mut self) {
        let connected_at = self.session.take().and_then(|ended| ended.connected_at);
        if let Some(at) = connected_at {
            self.back_off.ended(at.elapsed());
        }
        self.next_server = self.next_server.wrapping_add(1);
        self.rest();
    }

    fn rest(&mut self) {
        let random = crate::random::bits().map_or(u32::MAX, |bits| (bits >> 32) as u32);
        self.due = Some(Instant::now() + self.back_off.delay(random));
    }

    /// Says good-bye if there is a session.
    pub async fn close(&mut self, limit: Duration) {
        self.due = None;
        let Some(mut session) = self.session.take() else {
            return;
        };
        if session.client.try_disconnect_now().is_ok() {
            let ended = async { while session.events.recv().await.is_some() {} };
            let _ = tokio::time::timeout(limit, ended).await;
        }
    }
}

async fn poll(mut event_loop: EventLoop, told: mpsc::Sender<Told>) {
    loop {
        let one = match event_loop.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(connack))) => {
                if connack.code == ConnectReturnCode::Success {
                    Told::Connected(Box::new(connack))
                } else {
                    Told::Ended(format!("the server refused: {:?}", connack.code))
                }
            }
            Ok(Event::Incoming(Packet::PubAck(puback))) => Told::Acknowledged(puback),
            Ok(Event::Incoming(Packet::PingResp)) => Told::Ponged,
            Ok(Event::Incoming(Packet::Disconnect(why))) => closed(why.reason_code, None),
            Ok(Event::Outgoing(Outgoing::Publish(packet_id))) => Told::Sent(packet_id),
            Ok(Event::Outgoing(Outgoing::PingReq)) => Told::Pinged,
            Ok(_) => continue,
            Err(ConnectionError::MqttState(StateError::ServerDisconnect {
                reason_code,
                reason_string,
            })) => closed(reason_code, reason_string),
            Err(error) => Told::Ended(error.to_string()),
        };
        let last = matches!(one, Told::Ended(_) | Told::TooLarge(_));
        if told.send(one).await.is_err() || last {
            return;
        }
    }
}

fn closed(code: DisconnectReasonCode, reason: Option<String>) -> Told {
    let reason = reason.map_or_else(String::new, |reason| format!(", {reason}"));
    let why = format!("the server closed: {code:?}{reason}");
    if code == DisconnectReasonCode::PacketTooLarge {
        Told::TooLarge(why)
    } else {
        Told::Ended(why)
    }
}

fn welcome(connack: &ConnAck) -> Welcome {
    let properties = connack.properties.as_ref();
    let packet_bytes_max = properties.and_then(|all| all.max_packet_size);
    let told = properties.into_iter().flat_map(|all| &all.user_properties);
    let positions = told
        .filter(|(key, _)| key == STREAM_PROPERTY)
        .filter_map(|(_, value)| parse_stream_position(value))
        .collect();
    Welcome {
        positions,
        batch_bytes_max: packet_bytes_max.map(|max| {
            let max = usize::try_from(max).unwrap_or(usize::MAX);
            max.saturating_sub(PUBLISH_BYTES_MAX)
        }),
        time: time(connack),
    }
}

fn time(connack: &ConnAck) -> Option<TimeNs> {
    let properties = connack
        .properties
        .iter()
        .flat_map(|all| &all.user_properties);
    let mut told = properties.filter(|(key, _)| key == TIME_PROPERTY);
    told.find_map(|(_, value)| value.parse().ok().map(TimeNs))
}

fn verdict(puback: &PubAck) -> Option<Verdict> {
    let properties = puback
        .properties
        .iter()
        .flat_map(|all| &all.user_properties);
    Verdict::parse(
        puback.reason as u8,
        properties.map(|(key, value)| (key, value)),
    )
}

#[cfg(test)]
mod tests;
