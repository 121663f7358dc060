//! One socket: reads, writes, time limits, and the order of things. What to answer is decided by
//! `session`; this file does what it says and keeps within the budget.
//!
//! Invariants: one content check or hand-over at a time, so the cluster sees publishes in packet
//! order; bytes are charged before they are parsed; nothing is read while a packet waits, so a
//! slow cluster slows the publisher down through TCP.

mod place;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mqtt_protocol_core::mqtt::common::Cursor;
use mqtt_protocol_core::mqtt::connection::{ConnectionOptions, Event, TimerKind};
use mqtt_protocol_core::mqtt::packet::{GenericPacket, GenericPacketTrait};
use mqtt_protocol_core::mqtt::result_code::{DisconnectReasonCode, MqttError};
use mqtt_protocol_core::mqtt::{Connection as Mqtt, Version as MqttVersion, role};
use shared::id::{Epoch, Lane, TimeNs};
use shared::limits::PACKET_BYTES_MAX;
use shared::verdict::Position;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};

use super::agents::Presence;
use super::budget::{Account, Charge};
use super::metrics::IngestMetrics;
use super::packet;
use super::session::{Accept, Action, Close, Packet, RECEIVE_MAXIMUM, Session, Version};
use super::upstream::Upstream;
use super::validate::{self, Checked, INLINE_BYTES_MAX, Invalid};
use crate::state::command::Payload;
use crate::tls::{Identity, Revocations};

/// From the end of the handshake to CONNECT.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// For a packet to come, or at least `PACKET_PART_BYTES` more of it, while we read or wait for the
/// budget to.
const PACKET_LIMIT: Duration = Duration::from_secs(60);
/// A link of 512 bytes a second is slow; one that carries less is as good as none.
const PACKET_PART_BYTES: usize = 30 << 10;
/// For the peer to take what we write.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// For the peer to read our last words and hang up.
const FAREWELL_LIMIT: Duration = Duration::from_millis(500);
const READ_BYTES: usize = 8 << 10;
const FAR: Duration = Duration::from_secs(365 * 86_400);

#[expect(clippy::cast_possible_truncation, reason = "asserted above it")]
const PACKET_BYTES: u32 = {
    assert!(PACKET_BYTES_MAX <= u32::MAX as usize);
    PACKET_BYTES_MAX as u32
};

/// What one connection needs besides its socket.
pub(super) struct Surroundings<U> {
    pub(super) upstream: U,
    pub(super) metrics: Arc<IngestMetrics>,
    pub(super) revocations: Revocations,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) account: Account,
    pub(super) presence: Presence,
}

/// A socket that has shown who it is.
pub(super) struct Connection<S, U: Upstream> {
    stream: S,
    identity: Identity,
    around: Surroundings<U>,
    buffer: Box<[u8]>,
    inner: Inner<U>,
}

/// All but the socket: what happens between two waits.
struct Inner<U: Upstream> {
    mqtt: Mqtt<role::Server>,
    session: Session,
    /// Parsed, not yet given to the session.
    inbox: VecDeque<(Packet, Charge)>,
    /// The check or hand-over in progress.
    step: Option<StepFuture<U::Ticket>>,
    /// A check was made in this turn, so it is over.
    checked: bool,
    /// Handed over, in packet order; the front is answered first.
    tickets: VecDeque<(u64, U::Ticket)>,
    /// When each publish without an answer was complete.
    since: VecDeque<Instant>,
    out: Vec<u8>,
    clock: Clocks,
    closing: bool,
}

/// The time limits in force.
struct Clocks {
    connect: Option<Instant>,
    packet: Option<Instant>,
    /// Of the packet that comes, since its limit was set.
    packet_bytes: usize,
    keep_alive: Option<(Instant, Duration)>,
}

enum Step<T> {
    Checked(u64, Result<Checked, Invalid>),
    Submitted(u64, T),
    /// Where the streams of a CONNECT stand.
    Placed(Accept, Option<Vec<(Epoch, Lane, Position)>>),
}

type StepFuture<T> = Pin<Box<dyn Future<Output = Step<T>> + Send>>;
type PermitFuture = Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>;

/// What the wait brought.
enum Woken<T> {
    Stop,
    Revoked(String),
    CrowdedOut,
    Deadline,
    Answer(crate::cluster::Answer),
    Step(Step<T>),
    Charged(Option<OwnedSemaphorePermit>),
    Read(std::io::Result<usize>),
}

impl<S, U> Connection<S, U>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    U: Upstream,
{
    pub(super) fn new(stream: S, identity: Identity, around: Surroundings<U>) -> Self {
        let options = ConnectionOptions::new().maximum_packet_size_recv(PACKET_BYTES);
        let mut mqtt = Mqtt::with_options(MqttVersion::Undetermined, options);
        mqtt.set_auto_pub_response(false);
        mqtt.set_auto_ping_response(false);
        let inner = Inner {
            mqtt,
            session: Session::new(identity.id.clone()),
            inbox: VecDeque::new(),
            step: None,
            checked: false,
            tickets: VecDeque::new(),
            since: VecDeque::new(),
            out: Vec::new(),
            clock: Clocks {
                connect: Some(Instant::now() + CONNECT_LIMIT),
                packet: None,
                packet_bytes: 0,
                keep_alive: None,
            },
            closing: false,
        };
        let buffer = vec![0; READ_BYTES].into_boxed_slice();
        Connection {
            stream,
            identity,
            around,
            buffer,
            inner,
        }
    }

    /// Serves until either side ends it.
    pub(super) async fn run(mut self) {
        let mut unparsed = 0;
        let mut charging: Option<PermitFuture> = None;
        loop {
            self.inner.advance(&self.identity, &mut self.around);
            if self.write().await.is_err() || self.inner.closing {
                break;
            }
            if self.gave_way().await {
                continue;
            }
            let charges = charging.is_some();
            let reads = !charges && self.may_read();
            let deadline = self
                .inner
                .clock
                .next(reads || charges, self.around.account.has_partial_packet());
            let woken = {
                let Self {
                    stream,
                    buffer,
                    inner,
                    around,
                    identity,
                } = &mut self;
                let Inner { step, tickets, .. } = inner;
                tokio::select! {
                    biased;
                    _ = around.stop.wait_for(|stop| *stop) => Woken::Stop,
                    why = around.revocations.revoked(&identity.serial) => Woken::Revoked(why),
                    () = around.presence.crowded_out() => Woken::CrowdedOut,
                    answer = front(tickets) => Woken::Answer(answer),
                    done = some(step) => Woken::Step(done),
                    permit = some(&mut charging) => Woken::Charged(permit),
                    () = sleep_until(deadline) => Woken::Deadline,
                    read = stream.read(buffer), if reads => Woken::Read(read),
                }
            };
            match woken {
                Woken::Read(Ok(bytes)) if bytes > 0 => {
                    unparsed = bytes;
                    let budget = self.around.account.budget();
                    let count = u32::try_from(bytes).unwrap_or(u32::MAX);
                    charging = Some(Box::pin(budget.take(count)));
                }
                Woken::Charged(Some(permit)) => {
                    charging = None;
                    self.around.account.charge(permit);
                    self.parse(unparsed);
                }
                Woken::Read(_) | Woken::Charged(None) => break,
                Woken::Step(done) => {
                    self.inner.step = None;
                    self.inner.step_done(done, &self.identity, &mut self.around);
                }
                Woken::Answer(answer) => self.answered(answer),
                Woken::Deadline => self.deadline(reads),
                Woken::Stop => self.inner.end(
                    DisconnectReasonCode::ServerShuttingDown,
                    "this node stops; connect to another one",
                ),
                Woken::Revoked(why) => self.revoked(&why),
                Woken::CrowdedOut => self.crowded_out(),
            }
        }
        self.farewell().await;
    }

    fn answered(&mut self, answer: crate::cluster::Answer) {
        let (sequence, _) = self.inner.tickets.pop_front().expect("it answered");
        let mut actions = Vec::new();
        self.inner.session.answered(sequence, answer, &mut actions);
        self.inner
            .perform(actions, &self.identity, &mut self.around);
    }

    /// After a check the other connections of this thread have their turn.
    async fn gave_way(&mut self) -> bool {
        let checked = std::mem::take(&mut self.inner.checked);
        if checked {
            yield_now().await;
        }
        checked
    }

    fn may_read(&self) -> bool {
        let inner = &self.inner;
        inner.step.is_none() && inner.inbox.is_empty() && self.around.account.has_room()
    }

    fn parse(&mut self, bytes: usize) {
        self.around.metrics.bytes.inc_by(bytes as u64);
        self.inner.clock.heard(bytes);
        let mut cursor = Cursor::new(&self.buffer[..bytes]);
        while !self.inner.closing && cursor.position() < bytes as u64 {
            for event in self.inner.mqtt.recv(&mut cursor) {
                if let Event::NotifyPacketReceived(wire) = event {
                    let charge = self.around.account.frame(wire.size());
                    self.inner.inbox.push_back((packet::read(wire), charge));
                    self.inner.clock.packet_complete();
                } else {
                    self.inner
                        .event(event, &self.identity, &self.around.metrics);
                }
            }
        }
    }

    fn deadline(&mut self, reads: bool) {
        let now = Instant::now();
        let clock = &mut self.inner.clock;
        let who = self.identity.id.as_str();
        if clock.connect.is_some_and(|at| at <= now) {
            let meaning = "no CONNECT within 5 seconds; is the client speaking MQTT?";
            self.around
                .metrics
                .refuse(who, "connect_timeout", "", meaning);
            self.inner.closing = true;
        } else if clock.packet.is_some_and(|at| at <= now) {
            let meaning = "less than 30 KiB of a packet came within 60 seconds; the link is too \
                           slow, or limits.in_flight_bytes_max is used up by others";
            self.around
                .metrics
                .refuse(who, "packet_timeout", "", meaning);
            self.inner.closing = true;
        } else if let Some((at, length)) = clock.keep_alive.filter(|(at, _)| *at <= now) {
            if reads {
                let events = self.inner.mqtt.notify_timer_fired(TimerKind::PingreqRecv);
                let meaning = "nothing came within the keep alive time; the link or client is gone";
                self.around.metrics.refuse(who, "keep_alive", "", meaning);
                for event in events {
                    self.inner
                        .event(event, &self.identity, &self.around.metrics);
                }
                self.inner.closing = true;
            } else {
                // We did not listen, so its silence says nothing.
                clock.keep_alive = Some((at + length, length));
            }
        }
    }

    fn revoked(&mut self, why: &str) {
        let meaning = "its certificate was revoked; issue a new one if that was a mistake";
        self.around
            .metrics
            .refuse(self.identity.id.as_str(), "revoked", why, meaning);
        self.inner.end(
            DisconnectReasonCode::NotAuthorized,
            "the certificate was revoked",
        );
    }

    fn crowded_out(&mut self) {
        let meaning = "the agent has more connections than limits.agent_connections_max, and this \
                       was the oldest; do several programs use one certificate?";
        let who = self.identity.id.as_str();
        self.around
            .metrics
            .refuse(who, "agent_connections_max", "", meaning);
        self.inner.end(
            DisconnectReasonCode::QuotaExceeded,
            "a newer connection of this agent took the place of this one",
        );
    }

    async fn write(&mut self) -> std::io::Result<()> {
        if self.inner.out.is_empty() {
            return Ok(());
        }
        let write = async {
            self.stream.write_all(&self.inner.out).await?;
            self.stream.flush().await
        };
        match timeout(WRITE_LIMIT, write).await {
            Ok(result) => result?,
            Err(_) => {
                let who = self.identity.id.as_str();
                let meaning = "the client does not read its acknowledgements";
                self.around
                    .metrics
                    .refuse(who, "write_timeout", "", meaning);
                return Err(std::io::ErrorKind::TimedOut.into());
            }
        }
        self.inner.out.clear();
        // One large burst must not stay allocated for the life of an idle connection.
        self.inner.out.shrink_to(READ_BYTES);
        Ok(())
    }

    /// Hangs up so that the peer can read what we said: closing with unread bytes in the socket
    /// would reset the connection.
    async fn farewell(mut self) {
        let talk = async {
            self.stream.shutdown().await?;
            while self.stream.read(&mut self.buffer).await? > 0 {}
            std::io::Result::Ok(())
        };
        // Whatever comes of it, the connection is over.
        let _ = timeout(FAREWELL_LIMIT, talk).await;
    }
}

impl<U: Upstream> Inner<U> {
    /// Gives packets to the session until it has to wait for something.
    fn advance(&mut self, identity: &Identity, around: &mut Surroundings<U>) {
        let full = usize::from(RECEIVE_MAXIMUM);
        while self.step.is_none() && !self.checked && !self.closing && self.session.pending() < full
        {
            let Some((packet, charge)) = self.inbox.pop_front() else {
                return;
            };
            match &packet {
                Packet::Publish(_) => {
                    around.metrics.publishes.inc();
                    around.account.hold(charge);
                    self.since.push_back(Instant::now());
                }
                Packet::Connect(_) => {
                    self.clock.connect = None;
                    around.account.drop_charge(charge);
                }
                _ => around.account.drop_charge(charge),
            }
            let mut actions = Vec::new();
            self.session
                .packet(packet, around.upstream.ready(), &mut actions);
            self.perform(actions, identity, around);
        }
    }

    fn step_done(
        &mut self,
        done: Step<U::Ticket>,
        identity: &Identity,
        around: &mut Surroundings<U>,
    ) {
        match done {
            Step::Checked(sequence, result) => {
                let mut actions = Vec::new();
                self.session.checked(sequence, result, &mut actions);
                self.perform(actions, identity, around);
            }
            Step::Submitted(sequence, ticket) => self.tickets.push_back((sequence, ticket)),
            Step::Placed(accept, Some(positions)) => {
                self.accept(&accept, positions, identity, around);
            }
            Step::Placed(_, None) => {
                let mut actions = Vec::new();
                self.session.not_placed(&mut actions);
                self.perform(actions, identity, around);
            }
        }
    }

    fn perform(&mut self, actions: Vec<Action>, identity: &Identity, around: &mut Surroundings<U>) {
        let mut work = VecDeque::from(actions);
        while let Some(action) = work.pop_front() {
            match action {
                Action::Check {
                    sequence,
                    kind,
                    payload,
                } if payload.len() < INLINE_BYTES_MAX => {
                    let mut more = Vec::new();
                    self.checked = true;
                    let result = validate::check(kind, &identity.id, payload);
                    self.session.checked(sequence, result, &mut more);
                    work.extend(more);
                }
                Action::Check {
                    sequence,
                    kind,
                    payload,
                } => {
                    let agent = identity.id.clone();
                    let check =
                        tokio::task::spawn_blocking(move || validate::check(kind, &agent, payload));
                    self.step = Some(Box::pin(async move {
                        let result = check.await.unwrap_or_else(|_| {
                            let reason = "its check failed; please report the bytes".to_owned();
                            Err(Invalid {
                                place: None,
                                reason,
                            })
                        });
                        Step::Checked(sequence, result)
                    }));
                }
                Action::Submit {
                    sequence,
                    payload,
                    decoded_bytes,
                } => {
                    let content = (payload, decoded_bytes);
                    work.extend(self.submit(sequence, content, identity, around));
                }
                Action::Accept(accept) => self.place(accept, identity, around),
                Action::Release => {
                    around.account.release();
                    if let Some(since) = self.since.pop_front() {
                        around
                            .metrics
                            .ack_seconds
                            .observe(since.elapsed().as_secs_f64());
                    }
                }
                Action::Report(report) => around.metrics.report(identity.id.as_str(), &report),
                Action::Close(close) => self.close(close),
                answer => self.answer(&answer, around),
            }
        }
    }

    /// Begins to hand a payload over; what is over the quota goes back to the session instead.
    fn submit(
        &mut self,
        sequence: u64,
        (payload, decoded_bytes): (Payload, usize),
        identity: &Identity,
        around: &Surroundings<U>,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        let (Payload::Batch(bytes) | Payload::Lines(bytes)) = &payload;
        if let Err(retry_ms) = around.presence.spend(bytes.len(), Instant::now()) {
            self.session.over_quota(sequence, retry_ms, &mut actions);
            return actions;
        }
        let (upstream, agent) = (around.upstream.clone(), identity.id.clone());
        let received = wall_clock();
        self.step = Some(Box::pin(async move {
            let ticket = upstream
                .submit(agent, received, payload, decoded_bytes)
                .await;
            Step::Submitted(sequence, ticket)
        }));
        actions
    }

    /// Writes the packet of an action that is one.
    fn answer(&mut self, action: &Action, around: &Surroundings<U>) {
        let version = self.version();
        let built = match *action {
            Action::RefuseConnect(refusal) => {
                self.closing = true;
                packet::refuse_connect(version, refusal)
            }
            Action::Acknowledge { packet_id, reply } => {
                if matches!(reply, super::session::Reply::Applied(_)) {
                    around.metrics.acknowledged.inc();
                }
                packet::acknowledge(version, packet_id, reply)
            }
            Action::RefuseSubscribe { packet_id, filters } => {
                packet::refuse_subscribe(version, packet_id, filters)
            }
            Action::AnswerUnsubscribe { packet_id, filters } => {
                packet::answer_unsubscribe(version, packet_id, filters)
            }
            Action::Pong => packet::pong(version),
            Action::Accept(_)
            | Action::Check { .. }
            | Action::Submit { .. }
            | Action::Release
            | Action::Report(_)
            | Action::Close(_) => unreachable!("`perform` did these"),
        };
        self.send(built);
    }

    fn close(&mut self, close: Close) {
        match packet::close_code(close) {
            Some((code, meaning)) => self.end(code, meaning),
            None => self.closing = true,
        }
    }

    /// Says why, where the version can, and ends the connection.
    fn end(&mut self, code: DisconnectReasonCode, meaning: &str) {
        self.closing = true;
        if self.version() == Version::V5 {
            self.send(packet::disconnect(code, meaning));
        }
    }

    fn send(&mut self, built: Result<GenericPacket<u16>, MqttError>) {
        // An answer that cannot be built or sent must not turn into silence: the peer sees the
        // connection end and asks again.
        let Ok(wire) = built else {
            self.closing = true;
            return;
        };
        for event in self.mqtt.send(wire) {
            match event {
                Event::RequestSendPacket { packet, .. } => {
                    self.out.extend_from_slice(&packet.to_continuous_buffer());
                }
                other => self.quiet_event(&other),
            }
        }
    }

    /// An event of the protocol machine other than a packet received.
    fn event(&mut self, event: Event, identity: &Identity, metrics: &IngestMetrics) {
        match event {
            Event::RequestSendPacket { packet, .. } => {
                self.out.extend_from_slice(&packet.to_continuous_buffer());
            }
            Event::NotifyError(error) => {
                self.closing = true;
                let (label, meaning) = match error {
                    MqttError::PacketTooLarge => (
                        "too_large",
                        "the packet is above 1 MiB; send smaller batches",
                    ),
                    _ => (
                        "protocol",
                        "the client breaks the MQTT rules; check its version",
                    ),
                };
                metrics.refuse(identity.id.as_str(), label, &format!("{error:?}"), meaning);
            }
            other => self.quiet_event(&other),
        }
    }

    fn quiet_event(&mut self, event: &Event) {
        match event {
            Event::RequestTimerReset {
                kind: TimerKind::PingreqRecv,
                duration_ms,
            } => {
                let length = Duration::from_millis(*duration_ms);
                self.clock.keep_alive = Some((Instant::now() + length, length));
            }
            Event::RequestTimerCancel(TimerKind::PingreqRecv) => self.clock.keep_alive = None,
            Event::RequestClose | Event::NotifyError(_) => self.closing = true,
            _ => {}
        }
    }

    fn version(&self) -> Version {
        match self.mqtt.get_protocol_version() {
            MqttVersion::V5_0 => Version::V5,
            MqttVersion::V3_1_1 | MqttVersion::Undetermined => Version::V3_1_1,
        }
    }
}

impl Clocks {
    /// Bytes came. A large packet on a slow link is no silence, and has as long as it makes headway.
    fn heard(&mut self, bytes: usize) {
        let now = Instant::now();
        self.keep_alive = self.keep_alive.map(|(_, length)| (now + length, length));
        self.packet_bytes += bytes;
        if self.packet_bytes >= PACKET_PART_BYTES {
            self.packet = self.packet.map(|_| now + PACKET_LIMIT);
            self.packet_bytes = 0;
        }
    }

    fn packet_complete(&mut self) {
        self.packet = None;
        self.packet_bytes = 0;
    }

    /// The next limit to look at. The limit on a packet runs while we read, and while we wait for
    /// the budget: what came of it is charged, and those who each hold a part of the budget and
    /// wait for more would wait for ever.
    fn next(&mut self, reads_or_charges: bool, partial: bool) -> Instant {
        let now = Instant::now();
        self.packet = match self.packet {
            _ if !reads_or_charges || !partial => None,
            running => running.or(Some(now + PACKET_LIMIT)),
        };
        let limits = [self.connect, self.packet, self.keep_alive.map(|(at, _)| at)];
        limits.into_iter().flatten().min().unwrap_or(now + FAR)
    }
}

/// The answer of the first ticket; never, if there is none.
async fn front<T>(tickets: &mut VecDeque<(u64, T)>) -> crate::cluster::Answer
where
    T: Future<Output = crate::cluster::Answer> + Unpin,
{
    match tickets.front_mut() {
        Some((_, ticket)) => ticket.await,
        None => std::future::pending().await,
    }
}

/// The future, if there is one; never, if not.
async fn some<T>(slot: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match slot {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a driver: when a publish came in"
)]
fn wall_clock() -> TimeNs {
    // A clock before 1970 counts as 1970; after 2262 as the last instant that fits.
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    TimeNs(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
