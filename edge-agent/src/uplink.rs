//! The driver of the window over MQTT 5: one session at a time, clean start, no memory of its own.
//! What a session did not acknowledge the window sends again, so nothing is ever re-sent here.
//!
//! The client's event loop is polled by a task that does nothing else, because a half-done poll
//! must not be dropped. Sessions go round the servers, with full jitter between them; one that ends
//! before it acknowledged anything counts as failed even if it got as far as CONNACK.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::mqttbytes::v5::{ConnAck, ConnectReturnCode, Packet, PubAck};
use rumqttc::{
    AsyncClient, Event, EventLoop, IncomingPacketSizeLimit, MqttOptions, Outgoing, PublishOptions,
    TlsConfiguration, TopicAliasPolicy, Transport,
};
use shared::id::{AgentId, Epoch, Lane};
use shared::topic::Topic;
use shared::verdict::{Position, STREAM_PROPERTY, Verdict, format_stream, parse_stream_position};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Between two sessions: at most this after the first failure, doubled with each further one.
const BACK_OFF: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);
/// TCP, TLS and CONNACK.
const CONNECT_SECONDS_MAX: u64 = 5;
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
    pub keep_alive: Duration,
    pub tls: Arc<rustls::ClientConfig>,
    pub in_flight_max: u16,
}

#[derive(Debug)]
pub enum UplinkEvent {
    /// It is time to call [`Uplink::connect`].
    Due,
    Connected(Vec<(Epoch, Lane, Position)>),
    /// `None`: the answer is no verdict, nothing is known of the batch.
    Answered(u64, Option<Verdict>),
    /// The session ended; `Due` follows.
    Ended(String),
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
    _task: JoinSet<()>,
}

/// What the task tells of the event loop.
enum Told {
    Connected(Box<ConnAck>),
    Sent(u16),
    Acknowledged(PubAck),
    Ended(String),
}

/// How long to wait before the next session.
#[derive(Debug, Default)]
struct BackOff {
    failures: u32,
}

impl BackOff {
    /// Anything from nothing to the bound, so that agents that lost the same server spread out.
    fn delay(&mut self, random: u32) -> Duration {
        let bound = BACK_OFF
            .saturating_mul(1 << self.failures.min(10))
            .min(BACK_OFF_MAX);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    fn succeeded(&mut self) {
        self.failures = 0;
    }
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
    pub fn use_servers(&mut self, servers: Vec<String>, keep_alive: Duration, in_flight_max: u16) {
        self.options.servers = servers;
        self.options.keep_alive = keep_alive;
        self.options.in_flight_max = in_flight_max;
    }

    /// Begins a session and asks where these streams stand.
    pub fn connect(&mut self, streams: impl Iterator<Item = (Epoch, Lane)>) {
        self.due = None;
        let streams: Vec<String> = streams
            .map(|(epoch, lane)| format_stream(epoch, lane))
            .collect();
        let skipped = streams.len().saturating_sub(STREAMS_MAX);
        let streams = streams.into_iter().skip(skipped);
        let properties = streams
            .map(|stream| (STREAM_PROPERTY.to_owned(), stream))
            .collect();
        let options = self.mqtt_options(properties);
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
                    _task: task,
                });
            }
            Err(error) => {
                tracing::error!(%error, "the MQTT options are refused; is [uplink] right?");
                self.rest();
            }
        }
    }

    fn mqtt_options(&self, properties: Vec<(String, String)>) -> MqttOptions {
        let server = self.server();
        let (host, port) = server.rsplit_once(':').unwrap_or((server, ""));
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port: u16 = port.parse().unwrap_or(8883);
        let mut options = MqttOptions::new(self.options.agent.as_str(), (host, port));
        let seconds = self.options.keep_alive.as_secs().clamp(1, 600);
        options
            .set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::clone(
                &self.options.tls,
            ))))
            .set_keep_alive(u16::try_from(seconds).expect("at most 600"))
            .set_outgoing_inflight_upper_limit(self.options.in_flight_max)
            .set_incoming_packet_size_limit(IncomingPacketSizeLimit::Bytes(PACKET_IN_BYTES_MAX))
            // A topic is sent once a session, then two bytes stand for it.
            .set_topic_alias_policy(TopicAliasPolicy::Monotonic)
            .set_user_properties(properties);
        let mut network = options.network_options();
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(CONNECT_SECONDS_MAX);
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
            match session.events.recv().await {
                Some(Told::Connected(connack)) => {
                    return UplinkEvent::Connected(positions(&connack));
                }
                Some(Told::Sent(packet_id)) => {
                    if let Some(id) = session.queued.pop_front() {
                        session.ids.insert(packet_id, id);
                    }
                }
                Some(Told::Acknowledged(puback)) => {
                    if let Some(id) = session.ids.remove(&puback.pkid) {
                        let verdict = verdict(&puback);
                        if matches!(verdict, Some(Verdict::Ok | Verdict::Have(_))) {
                            self.back_off.succeeded();
                        }
                        return UplinkEvent::Answered(id, verdict);
                    }
                }
                Some(Told::Ended(why)) => {
                    self.fail();
                    return UplinkEvent::Ended(why);
                }
                None => {
                    self.fail();
                    return UplinkEvent::Ended("the session's task ended".to_owned());
                }
            }
        }
    }

    /// Ends the session; the next one goes to the next server, after a rest.
    pub fn fail(&mut self) {
        self.session = None;
        self.next_server = self.next_server.wrapping_add(1);
        self.rest();
    }

    fn rest(&mut self) {
        let random = getrandom::u32().unwrap_or(u32::MAX);
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
            Ok(Event::Incoming(Packet::Disconnect(why))) => {
                Told::Ended(format!("the server closed: {:?}", why.reason_code))
            }
            Ok(Event::Outgoing(Outgoing::Publish(packet_id))) => Told::Sent(packet_id),
            Ok(_) => continue,
            Err(error) => Told::Ended(error.to_string()),
        };
        let last = matches!(one, Told::Ended(_));
        if told.send(one).await.is_err() || last {
            return;
        }
    }
}

fn positions(connack: &ConnAck) -> Vec<(Epoch, Lane, Position)> {
    let properties = connack
        .properties
        .iter()
        .flat_map(|all| &all.user_properties);
    properties
        .filter(|(key, _)| key == STREAM_PROPERTY)
        .filter_map(|(_, value)| parse_stream_position(value))
        .collect()
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
mod tests {
    use super::*;

    #[test]
    fn the_rest_grows_with_failures_and_is_bounded() {
        let mut back_off = BackOff::default();
        assert_eq!(back_off.delay(0), Duration::ZERO);
        assert_eq!(back_off.delay(u32::MAX), BACK_OFF * 2);
        for _ in 0..100 {
            back_off.delay(u32::MAX);
        }
        assert_eq!(back_off.delay(u32::MAX), BACK_OFF_MAX);
        back_off.succeeded();
        assert_eq!(back_off.delay(u32::MAX), BACK_OFF);
    }
}
