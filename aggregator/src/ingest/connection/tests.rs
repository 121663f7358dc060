//! A connection over a pipe: real packets on one side, a cluster that answers on demand behind.

use futures_util::future::join_all;
use mqtt_protocol_core::mqtt::packet::{Property, Qos, UserProperty, v3_1_1, v5_0};
use mqtt_protocol_core::mqtt::result_code::ConnectReasonCode;
use prometheus_client::registry::Registry;
use shared::id::Lane;
use shared::verdict::Verdict;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::agents::{AgentLimits, Agents};
use super::super::budget::Budget;
use super::super::script::{Script, Submitted, UNPLACED, applied, batch_bytes, position};
use super::*;
use crate::cluster::{Answer, Applied};
use crate::pki::Pki;
use crate::tls::{Reloader, Role};

/// The publisher's end, and the hands of the cluster and the operator.
struct Bench {
    client: Mqtt<role::Client>,
    pipe: DuplexStream,
    cluster: mpsc::Receiver<Submitted>,
    metrics: Arc<IngestMetrics>,
    budget: Budget,
    pki: Pki,
    reloader: Reloader,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    _folder: tempfile::TempDir,
}

const BUDGET: usize = 4 << 20;
/// Within this a revoked one is out, however slow the machine.
const REVOKED_LIMIT: Duration = Duration::from_secs(60);

fn bench(version: MqttVersion) -> Bench {
    bench_with(version, true)
}

fn bench_with(version: MqttVersion, ready: bool) -> Bench {
    bench_within(version, ready, Budget::new(BUDGET))
}

/// One of those that share a budget.
fn bench_within(version: MqttVersion, ready: bool, budget: Budget) -> Bench {
    let limits = AgentLimits {
        connections_max: 4,
        bytes_per_second_max: 0,
    };
    bench_among(version, ready, budget, &Agents::new(limits))
}

/// One of those of the same agent.
fn bench_among(version: MqttVersion, ready: bool, budget: Budget, agents: &Agents) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::init(folder.path(), "demo").unwrap();
    let identity = pki.issue(Role::Agent, "gw1", &[], 1).unwrap().identity;
    let (revocations, reloader) = Revocations::load(&pki.revoked_path()).unwrap();
    let metrics = IngestMetrics::register(&mut Registry::default());
    let (upstream, cluster) = Script::new(ready);
    let (stop, stopped) = watch::channel(false);
    let presence = agents.enter(&identity.id, Instant::now());
    let around = Surroundings {
        upstream,
        presence,
        metrics: Arc::clone(&metrics),
        revocations,
        stop: stopped,
        account: budget.account(2 << 20),
    };
    let (pipe, far) = tokio::io::duplex(64 << 10);
    let mut tasks = JoinSet::new();
    tasks.spawn(Connection::new(far, identity, around).run());
    let mut client = Mqtt::new(version);
    client.set_auto_pub_response(false);
    Bench {
        client,
        pipe,
        cluster,
        metrics,
        budget,
        pki,
        reloader,
        stop,
        tasks,
        _folder: folder,
    }
}

impl Bench {
    async fn send(&mut self, packet: GenericPacket<u16>) {
        if let GenericPacket::V5_0Publish(publish) = &packet
            && let Some(id) = publish.packet_id()
        {
            self.client.register_packet_id(id).unwrap();
        }
        let mut sent = false;
        for event in self.client.send(packet) {
            if let Event::RequestSendPacket { packet, .. } = event {
                self.pipe
                    .write_all(&packet.to_continuous_buffer())
                    .await
                    .unwrap();
                sent = true;
            }
        }
        assert!(sent, "the client would not send this");
    }

    /// The next packet from the server; `None` if it hung up.
    async fn receive(&mut self) -> Option<GenericPacket<u16>> {
        let mut byte = [0];
        loop {
            // Byte by byte: no packet is read past its end.
            if self.pipe.read(&mut byte).await.unwrap_or(0) == 0 {
                return None;
            }
            for event in self.client.recv(&mut Cursor::new(&byte[..])) {
                if let Event::NotifyPacketReceived(packet) = event {
                    return Some(packet);
                }
            }
        }
    }

    async fn connect(&mut self, properties: Vec<Property>) -> v5_0::Connack {
        let connect = v5_0::Connect::builder()
            .client_id("any")
            .unwrap()
            .clean_start(true);
        self.send(connect.props(properties).build().unwrap().into())
            .await;
        match self.receive().await {
            Some(GenericPacket::V5_0Connack(connack)) => connack,
            other => panic!("{other:?}"),
        }
    }

    async fn publish(&mut self, packet_id: u16, topic: &str, payload: Vec<u8>) {
        let publish = v5_0::Publish::builder()
            .topic_name(topic)
            .unwrap()
            .payload(payload);
        let publish = publish
            .qos(Qos::AtLeastOnce)
            .packet_id(packet_id)
            .build()
            .unwrap();
        self.send(publish.into()).await;
    }

    async fn verdict(&mut self) -> (u16, Option<Verdict>) {
        let Some(GenericPacket::V5_0Puback(puback)) = self.receive().await else {
            panic!("no PUBACK")
        };
        let properties = puback.props().clone().unwrap_or_default();
        let pairs = user_properties(&properties);
        let code = puback.reason_code().map_or(0, |code| code as u8);
        (puback.packet_id(), Verdict::parse(code, pairs))
    }

    async fn answer_next(&mut self, answer: Answer) {
        self.cluster
            .recv()
            .await
            .unwrap()
            .answer
            .send(answer)
            .unwrap();
    }

    async fn ended(&mut self) {
        self.tasks.join_next().await.unwrap().unwrap();
        assert_eq!(self.budget.free(), BUDGET, "all bytes are given back");
    }
}

fn user_properties(properties: &[Property]) -> Vec<(String, String)> {
    let pairs = properties.iter().filter_map(|property| match property {
        Property::UserProperty(pair) => Some((pair.key().to_owned(), pair.val().to_owned())),
        _ => None,
    });
    pairs.collect()
}

const LIVE: &str = "tributary/v1/gw1/live";

#[tokio::test]
async fn connack_says_where_the_streams_stand() {
    let mut bench = bench(MqttVersion::V5_0);
    let stream = UserProperty::new("stream", "000000000000000e/live").unwrap();
    let connack = bench.connect(vec![stream.into()]).await;
    let told = user_properties(connack.props());
    let wanted = (
        "stream".to_owned(),
        "000000000000000e/live/41/0707070707070707".to_owned(),
    );
    assert!(told.contains(&wanted), "{told:?}");
    assert!(told.contains(&("incarnation".to_owned(), "0000000000000abc".to_owned())));
    assert!(told.iter().any(|(key, _)| key == "time_ns"));
    assert!(
        connack
            .props()
            .iter()
            .any(|p| matches!(p, Property::ReceiveMaximum(m) if m.val() == 64))
    );
    drop(bench.pipe);
    bench.tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_whose_streams_no_quorum_can_place_is_sent_elsewhere() {
    let mut bench = bench(MqttVersion::V5_0);
    let stream = format!("{UNPLACED}/live");
    let stream = UserProperty::new("stream", &stream).unwrap();
    let connack = bench.connect(vec![stream.into()]).await;
    assert_eq!(connack.reason_code(), ConnectReasonCode::ServerUnavailable);
    assert!(
        !user_properties(connack.props())
            .iter()
            .any(|(key, _)| key == "stream")
    );
    bench.ended().await;
}

#[tokio::test]
async fn batches_are_pipelined_and_acked_in_order_from_their_answers() {
    let mut bench = bench(MqttVersion::V5_0);
    bench.connect(Vec::new()).await;
    for number in 1..=3 {
        let id = u16::try_from(number).unwrap();
        bench
            .publish(id, LIVE, batch_bytes(Lane::Live, number))
            .await;
    }
    let mut waiting = Vec::new();
    for number in 1..=3 {
        let submitted = bench.cluster.recv().await.unwrap();
        assert_eq!(
            submitted.payload,
            Payload::Batch(batch_bytes(Lane::Live, number).into())
        );
        waiting.push(submitted.answer);
    }
    let have = Answer::Applied(Applied::sample(1, Some(position(3))));
    for (answer, result) in waiting.into_iter().zip([applied(), have, applied()]).rev() {
        answer.send(result).unwrap();
    }
    assert_eq!(bench.verdict().await, (1, Some(Verdict::Ok)));
    assert_eq!(bench.verdict().await, (2, Some(Verdict::Have(position(3)))));
    assert_eq!(bench.verdict().await, (3, Some(Verdict::Ok)));
    assert_eq!(bench.metrics.acknowledged.get(), 3);
    assert_eq!(bench.budget.free(), BUDGET);
}

#[tokio::test]
async fn refusals_carry_their_verdict_and_the_session_lives() {
    let mut bench = bench(MqttVersion::V5_0);
    bench.connect(Vec::new()).await;
    bench
        .publish(1, "tributary/v1/gw2/live", batch_bytes(Lane::Live, 1))
        .await;
    assert_eq!(bench.verdict().await, (1, Some(Verdict::ForeignTopic)));
    bench.publish(2, "nowhere", Vec::new()).await;
    assert_eq!(bench.verdict().await, (2, Some(Verdict::BadTopic)));
    bench.publish(3, LIVE, b"no batch".to_vec()).await;
    assert_eq!(bench.verdict().await, (3, Some(Verdict::Invalid)));
    bench.publish(4, LIVE, batch_bytes(Lane::Backlog, 1)).await;
    assert_eq!(bench.verdict().await, (4, Some(Verdict::Invalid)));
    let mut damaged = batch_bytes(Lane::Live, 1);
    damaged[20] ^= 1;
    bench.publish(5, LIVE, damaged).await;
    assert_eq!(bench.verdict().await, (5, Some(Verdict::Invalid)));
    bench.publish(6, LIVE, batch_bytes(Lane::Live, 9)).await;
    bench.answer_next(Answer::Gap(position(4))).await;
    assert_eq!(bench.verdict().await, (6, Some(Verdict::Gap(position(4)))));
    bench.publish(7, LIVE, batch_bytes(Lane::Live, 10)).await;
    assert_eq!(
        bench.verdict().await,
        (7, Some(Verdict::Gap(position(4)))),
        "not submitted"
    );
    bench.publish(8, LIVE, batch_bytes(Lane::Live, 5)).await;
    bench.answer_next(applied()).await;
    assert_eq!(bench.verdict().await, (8, Some(Verdict::Ok)));
    let refused = |reason| {
        bench
            .metrics
            .refused
            .get_or_create(&[("reason", reason)])
            .get()
    };
    assert_eq!(
        [
            refused("foreign_topic"),
            refused("bad_topic"),
            refused("invalid")
        ],
        [1, 1, 3]
    );
    assert_eq!(refused("gap"), 2);
}

#[tokio::test]
async fn an_unknown_outcome_ends_the_connection_without_an_ack() {
    let mut bench = bench(MqttVersion::V5_0);
    bench.connect(Vec::new()).await;
    bench.publish(1, LIVE, batch_bytes(Lane::Live, 1)).await;
    bench.answer_next(Answer::Unknown).await;
    let Some(GenericPacket::V5_0Disconnect(bye)) = bench.receive().await else {
        panic!()
    };
    assert_eq!(bye.reason_code(), Some(DisconnectReasonCode::ServerBusy));
    assert!(bench.receive().await.is_none());
    bench.ended().await;
}

#[tokio::test]
async fn mqtt_3_1_1_is_served_and_closed_on_refusal() {
    let mut bench = bench(MqttVersion::V3_1_1);
    let connect = v3_1_1::Connect::builder()
        .client_id("any")
        .unwrap()
        .clean_session(true);
    bench.send(connect.build().unwrap().into()).await;
    assert!(matches!(
        bench.receive().await,
        Some(GenericPacket::V3_1_1Connack(_))
    ));
    for (id, topic) in [(1_u16, LIVE), (2, "tributary/v1/gw2/live")] {
        bench.client.register_packet_id(id).unwrap();
        let publish = v3_1_1::Publish::builder().topic_name(topic).unwrap();
        let publish = publish.qos(Qos::AtLeastOnce).packet_id(id);
        let payload = batch_bytes(Lane::Live, 1);
        bench
            .send(publish.payload(payload).build().unwrap().into())
            .await;
        if id == 1 {
            bench.answer_next(applied()).await;
            assert!(matches!(
                bench.receive().await,
                Some(GenericPacket::V3_1_1Puback(_))
            ));
        }
    }
    assert!(bench.receive().await.is_none());
    bench.ended().await;
}

#[tokio::test]
async fn a_node_that_is_not_ready_says_so() {
    let mut bench = bench_with(MqttVersion::V5_0, false);
    let connack = bench.connect(Vec::new()).await;
    assert_eq!(connack.reason_code() as u8, 0x88);
    assert!(bench.receive().await.is_none());
    bench.ended().await;
}

#[tokio::test]
async fn a_revoked_certificate_ends_the_live_session() {
    let mut bench = bench(MqttVersion::V5_0);
    bench.connect(Vec::new()).await;
    bench.pki.revoke("agent-gw1", "stolen").unwrap();
    assert_eq!(bench.reloader.look().unwrap(), Some(1));
    let told = tokio::time::timeout(REVOKED_LIMIT, bench.receive()).await;
    let Some(GenericPacket::V5_0Disconnect(bye)) = told.expect("it goes on as if nothing were")
    else {
        panic!()
    };
    assert_eq!(bye.reason_code(), Some(DisconnectReasonCode::NotAuthorized));
    bench.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_quota_is_shared_by_the_connections_of_an_agent() {
    let agents = Agents::new(AgentLimits {
        connections_max: 4,
        bytes_per_second_max: 10,
    });
    let connection = || bench_among(MqttVersion::V5_0, true, Budget::new(BUDGET), &agents);
    let (mut first, mut second) = (connection(), connection());
    first.connect(Vec::new()).await;
    second.connect(Vec::new()).await;
    first.publish(1, LIVE, batch_bytes(Lane::Live, 1)).await;
    first.answer_next(applied()).await;
    assert_eq!(first.verdict().await, (1, Some(Verdict::Ok)));
    second.publish(1, LIVE, batch_bytes(Lane::Live, 2)).await;
    let (1, Some(Verdict::Quota { retry_ms })) = second.verdict().await else {
        panic!("it is over the quota of its agent");
    };
    second.publish(2, LIVE, batch_bytes(Lane::Live, 3)).await;
    let (2, Some(Verdict::Busy { .. })) = second.verdict().await else {
        panic!("it stands behind a refused one");
    };
    tokio::time::advance(Duration::from_millis(u64::from(retry_ms))).await;
    second.publish(3, LIVE, batch_bytes(Lane::Live, 2)).await;
    second.answer_next(applied()).await;
    assert_eq!(second.verdict().await, (3, Some(Verdict::Ok)));
    let label = [("reason", "quota")];
    assert_eq!(second.metrics.refused.get_or_create(&label).get(), 1);
}

#[tokio::test]
async fn one_connection_too_many_ends_the_oldest() {
    let agents = Agents::new(AgentLimits {
        connections_max: 1,
        bytes_per_second_max: 0,
    });
    let connection = || bench_among(MqttVersion::V5_0, true, Budget::new(BUDGET), &agents);
    let mut old = connection();
    old.connect(Vec::new()).await;
    let mut new = connection();
    new.connect(Vec::new()).await;
    let Some(GenericPacket::V5_0Disconnect(bye)) = old.receive().await else {
        panic!()
    };
    assert_eq!(bye.reason_code(), Some(DisconnectReasonCode::QuotaExceeded));
    old.ended().await;
    new.publish(1, LIVE, batch_bytes(Lane::Live, 1)).await;
    new.answer_next(applied()).await;
    assert_eq!(new.verdict().await, (1, Some(Verdict::Ok)));
}

/// A batch of 256 KiB at 2 KB/s: longer than a packet once had, and than a keep alive.
#[tokio::test(start_paused = true)]
async fn a_packet_on_a_slow_link_has_as_long_as_it_makes_headway() {
    let mut bench = bench(MqttVersion::V5_0);
    let connect = v5_0::Connect::builder().client_id("any").unwrap();
    let connect = connect.clean_start(true).keep_alive(20).build().unwrap();
    bench.send(connect.into()).await;
    assert!(matches!(
        bench.receive().await,
        Some(GenericPacket::V5_0Connack(_))
    ));
    let mut packet = vec![0x32, 0x80, 0x80, 16];
    packet.extend([0, 7]);
    packet.extend(b"nowhere");
    // Packet id, no properties, and a payload.
    packet.extend([0, 1, 0]);
    packet.resize((16 << 14) + 4, 0);
    for part in packet.chunks(20 << 10) {
        tokio::time::sleep(Duration::from_secs(10)).await;
        bench.pipe.write_all(part).await.unwrap();
    }
    let mut answer = [0];
    bench.pipe.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, [0x40], "a PUBACK");
    let label = [("reason", "bad_topic")];
    assert_eq!(bench.metrics.refused.get_or_create(&label).get(), 1);
}

#[tokio::test]
async fn a_stopping_node_says_good_bye() {
    let mut bench = bench(MqttVersion::V5_0);
    bench.connect(Vec::new()).await;
    bench.stop.send_replace(true);
    let Some(GenericPacket::V5_0Disconnect(bye)) = bench.receive().await else {
        panic!()
    };
    assert_eq!(
        bye.reason_code(),
        Some(DisconnectReasonCode::ServerShuttingDown)
    );
    bench.ended().await;
}

#[tokio::test]
async fn hostile_bytes_cost_a_connection_and_no_memory() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        // A CONNECT that claims 268 MB.
        &[0x10, 0xff, 0xff, 0xff, 0x7f],
        // A PUBLISH before CONNECT.
        &[0x30, 0x03, 0x00, 0x01, b'a'],
        &[0x00; 64],
    ] {
        let mut bench = bench(MqttVersion::V5_0);
        bench.pipe.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        bench.pipe.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty(), "nothing is said before CONNECT");
        bench.ended().await;
    }
    let mut bench = bench(MqttVersion::V5_0);
    bench.connect(Vec::new()).await;
    bench
        .pipe
        .write_all(&[0x32, 0xff, 0xff, 0xff, 0x7f, 0, 1])
        .await
        .unwrap();
    let Some(GenericPacket::V5_0Disconnect(bye)) = bench.receive().await else {
        panic!()
    };
    assert_eq!(
        bye.reason_code(),
        Some(DisconnectReasonCode::PacketTooLarge)
    );
    bench.ended().await;
}

#[tokio::test]
async fn a_slow_cluster_stops_the_reading() {
    let mut bench = bench(MqttVersion::V5_0);
    bench.connect(Vec::new()).await;
    // Larger than the account of the connection, so it cannot all be in flight.
    let mut lines = b"weather t=1\n#".to_vec();
    lines.resize(200 << 10, b'x');
    let sent = async {
        for id in 1..=30 {
            bench
                .publish(id, "tributary/v1/gw1/line", lines.clone())
                .await;
        }
    };
    assert!(
        timeout(Duration::from_millis(300), sent).await.is_err(),
        "all was swallowed"
    );
    assert!(bench.budget.free() >= BUDGET - (2 << 20) - READ_BYTES);
}

#[tokio::test(start_paused = true)]
async fn unfinished_packets_give_the_budget_back() {
    const { assert!(BUDGET == 4 * PACKET_BYTES_MAX) };
    let budget = Budget::new(BUDGET);
    let connection = || bench_within(MqttVersion::V5_0, true, budget.clone());
    let mut good = connection();
    good.connect(Vec::new()).await;
    let mut bad: Vec<Bench> = (0..5).map(|_| connection()).collect();
    for one in &mut bad {
        one.connect(Vec::new()).await;
    }
    // A PUBLISH of nearly the largest size, without its last bytes: five do not fit.
    let mut unfinished = vec![0x32, 0x80, 0x80, 63];
    unfinished.resize(63 << 14, 0);
    let sent = join_all(bad.iter_mut().map(|one| one.pipe.write_all(&unfinished)));
    assert!(
        timeout(Duration::from_secs(1), sent).await.is_err(),
        "all was swallowed"
    );
    let began = Instant::now();
    good.publish(1, LIVE, batch_bytes(Lane::Live, 1)).await;
    good.answer_next(applied()).await;
    assert_eq!(good.verdict().await, (1, Some(Verdict::Ok)));
    assert!(began.elapsed() <= PACKET_LIMIT, "{:?}", began.elapsed());
    for one in &bad {
        let label = [("reason", "packet_timeout")];
        assert_eq!(one.metrics.refused.get_or_create(&label).get(), 1);
    }
}
