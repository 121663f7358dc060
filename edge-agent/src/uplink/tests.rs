use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;

const KEEP_ALIVE: Duration = Duration::from_secs(20);

fn uplink(servers: Vec<String>) -> Uplink {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    Uplink::new(UplinkOptions {
        agent: AgentId::parse("gw1").unwrap(),
        servers,
        tls: Arc::new(tls),
        in_flight_max: 4,
    })
}

/// An uplink in a session without a network, and what stands in for its task.
fn in_session() -> (Uplink, mpsc::Sender<Told>, EventLoop) {
    let mut uplink = uplink(vec!["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()]);
    let options = uplink.mqtt_options(KEEP_ALIVE, Vec::new());
    let built = AsyncClient::builder(options).capacity(4).try_build();
    let (client, event_loop) = built.unwrap();
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    uplink.due = None;
    uplink.session = Some(Session {
        client,
        events,
        queued: VecDeque::new(),
        ids: HashMap::new(),
        keep_alive: KEEP_ALIVE,
        connected_at: None,
        quiet_until: None,
        _task: JoinSet::new(),
    });
    (uplink, sender, event_loop)
}

#[tokio::test(start_paused = true)]
async fn a_server_that_accepts_and_says_nothing_is_left_for_the_next() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let mut uplink = uplink(vec![address.clone(), "127.0.0.1:1".to_owned()]);
    assert!(matches!(uplink.event().await, UplinkEvent::Due));
    assert_eq!(uplink.server(), address);
    let began = Instant::now();
    uplink.connect(KEEP_ALIVE, std::iter::empty());
    let (_held, event) = tokio::join!(silent.accept(), uplink.event());
    assert!(matches!(event, UplinkEvent::Ended(_)), "{event:?}");
    let took = began.elapsed();
    assert!(took <= CONNECT_LIMIT + Duration::from_secs(1), "{took:?}");
    assert_eq!(uplink.server(), "127.0.0.1:1");
    assert!(matches!(uplink.event().await, UplinkEvent::Due));
}

#[tokio::test(start_paused = true)]
async fn a_ping_without_an_answer_ends_an_idle_session() {
    let (mut uplink, task, _event_loop) = in_session();
    let began = Instant::now();
    task.send(Told::Pinged).await.unwrap();
    task.send(Told::Ponged).await.unwrap();
    let quiet = timeout(KEEP_ALIVE, uplink.event()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    task.send(Told::Pinged).await.unwrap();
    let event = uplink.event().await;
    assert!(matches!(event, UplinkEvent::Ended(_)), "{event:?}");
    assert!(began.elapsed() < KEEP_ALIVE * 3 / 2 + Duration::from_secs(1));
    assert_eq!(uplink.server(), "127.0.0.1:2");
}

#[tokio::test(start_paused = true)]
async fn a_ping_behind_batches_is_waited_for_as_these_are() {
    let (mut uplink, task, _event_loop) = in_session();
    assert!(uplink.publish(7, Lane::Live, Bytes::from_static(b"batch")));
    task.send(Told::Sent(1)).await.unwrap();
    task.send(Told::Pinged).await.unwrap();
    let quiet = timeout(KEEP_ALIVE * 10, uplink.event()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_over_a_packets_size_says_so() {
    let (mut uplink, task, _event_loop) = in_session();
    let over_size = closed(DisconnectReasonCode::PacketTooLarge, None);
    task.send(over_size).await.unwrap();
    let event = uplink.event().await;
    assert!(matches!(event, UplinkEvent::TooLarge(_)), "{event:?}");
    let busy = Some("later".to_owned());
    let Told::Ended(why) = closed(DisconnectReasonCode::ServerBusy, busy) else {
        panic!("only the size of a packet is told apart");
    };
    assert_eq!(why, "the server closed: ServerBusy, later");
}
