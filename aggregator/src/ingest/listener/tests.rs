//! A foreign MQTT client over mutual TLS on a real port.

use prometheus_client::registry::Registry;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::{ConnAck, Packet, PubAckReason};
use rumqttc::{
    AsyncClient, Event, EventLoop, MqttOptions, PublishOptions, TlsConfiguration, Transport,
};
use shared::id::Lane;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::super::script::{Script, Submitted, applied, batch_bytes};
use super::*;
use crate::config::Config;
use crate::pki::{Issued, Pki};
use crate::state::command::Payload;
use crate::tls::Material;

struct Site {
    pki: Pki,
    port: u16,
    cluster: mpsc::Receiver<Submitted>,
    metrics: Arc<IngestMetrics>,
    stop: watch::Sender<bool>,
    listener: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

async fn site(connections_max: usize) -> Site {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::init(folder.path(), "demo").unwrap();
    pki.issue(Role::Node, "a", &["127.0.0.1".to_owned()], 1)
        .unwrap();
    let text = "name = \"a\"\ncluster = \"demo\"\ndata_dir = \"d\"\n[listen]\n\
                mqtt = \"127.0.0.1:0\"\ncluster = \"h:0\"\npostgres = \"h:0\"\nhttp = \"h:0\"\n\
                [tls]\ncert = \"node-a.pem\"\nkey = \"node-a.key\"\nnodes_ca = \"nodes-ca.pem\"\n\
                agents_ca = \"agents-ca.pem\"\nusers_ca = \"users-ca.pem\"\n\
                revoked = \"revoked.toml\"\n";
    let config = Config::parse(text, &folder.path().join("a.toml")).unwrap();
    let (revocations, _) = Revocations::load(&config.tls.revoked).unwrap();
    let metrics = IngestMetrics::register(&mut Registry::default());
    let (upstream, cluster) = Script::new(true);
    let options = ListenerOptions {
        cluster: config.cluster.clone(),
        limits: Limits {
            connections_max,
            ..config.limits
        },
        tls: Material::load(&config).unwrap().mqtt_server().unwrap(),
        revocations,
        metrics: Arc::clone(&metrics),
    };
    let listener = Listener::bind(&config.listen.mqtt, options, upstream)
        .await
        .unwrap();
    let port = listener.local_addr().unwrap().port();
    let (stop, stopped) = watch::channel(false);
    #[expect(clippy::disallowed_methods, reason = "the test awaits it")]
    let listener = tokio::spawn(listener.run(stopped));
    Site {
        pki,
        port,
        cluster,
        metrics,
        stop,
        listener,
        _folder: folder,
    }
}

fn client(site: &Site, own: &Issued) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new("any", ("127.0.0.1", site.port));
    let tls = TlsConfiguration::Simple {
        ca: std::fs::read(site.pki.ca_path(Role::Node)).unwrap(),
        alpn: None,
        client_auth: Some((
            std::fs::read(&own.cert).unwrap(),
            std::fs::read(&own.key).unwrap(),
        )),
    };
    options.set_transport(Transport::tls_with_config(tls));
    AsyncClient::builder(options).capacity(10).build()
}

async fn incoming(events: &mut EventLoop) -> Result<Packet, String> {
    loop {
        if let Event::Incoming(packet) = events.poll().await.map_err(|e| e.to_string())? {
            return Ok(packet);
        }
    }
}

#[tokio::test]
async fn an_agent_publishes_over_mutual_tls() {
    let mut site = site(4).await;
    let agent = site.pki.issue(Role::Agent, "gw1", &[], 1).unwrap();
    let (client, mut events) = client(&site, &agent);
    let packet = incoming(&mut events).await.unwrap();
    assert!(
        matches!(packet, Packet::ConnAck(ConnAck { .. })),
        "{packet:?}"
    );
    for topic in ["tributary/v1/gw1/live", "tributary/v1/gw2/live"] {
        let options = PublishOptions::new(QoS::AtLeastOnce);
        client
            .publish(topic, batch_bytes(Lane::Live, 1), options)
            .await
            .unwrap();
    }
    let answer = async {
        let submitted = site.cluster.recv().await.unwrap();
        assert_eq!(submitted.agent.as_str(), "gw1");
        assert_eq!(
            submitted.payload,
            Payload::Batch(batch_bytes(Lane::Live, 1).into())
        );
        submitted.answer.send(applied()).unwrap();
    };
    let acks = async {
        let mut reasons = Vec::new();
        while reasons.len() < 2 {
            if let Packet::PubAck(ack) = incoming(&mut events).await.unwrap() {
                reasons.push(ack.reason);
            }
        }
        reasons
    };
    let ((), reasons) = tokio::join!(answer, acks);
    assert_eq!(
        reasons,
        [PubAckReason::Success, PubAckReason::NotAuthorized]
    );
    assert_eq!(site.metrics.connections.get(), 1);
    site.stop.send_replace(true);
    let bye = incoming(&mut events).await;
    assert!(!matches!(bye, Ok(Packet::PubAck(_))), "{bye:?}");
    drop(events);
    site.listener.await.unwrap();
    assert_eq!(site.metrics.connections.get(), 0);
}

#[tokio::test]
async fn strangers_do_not_get_past_tls() {
    let site = site(4).await;
    let user = site.pki.issue(Role::User, "ops", &[], 1).unwrap();
    let (_client, mut events) = client(&site, &user);
    assert!(incoming(&mut events).await.is_err());
    let refused = site
        .metrics
        .refused
        .get_or_create_owned(&[("reason", "handshake")]);
    assert_eq!(refused.get(), 1);
    let other = tempfile::tempdir().unwrap();
    let other = Pki::init(other.path(), "demo")
        .unwrap()
        .issue(Role::Agent, "gw1", &[], 1)
        .unwrap();
    let (_client, mut events) = client(&site, &other);
    assert!(incoming(&mut events).await.is_err());
    assert_eq!(refused.get(), 2);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_hung_up_on() {
    let site = site(1).await;
    let agent = site.pki.issue(Role::Agent, "gw1", &[], 1).unwrap();
    let (_first, mut first) = client(&site, &agent);
    incoming(&mut first).await.unwrap();
    let (_second, mut second) = client(&site, &agent);
    assert!(incoming(&mut second).await.is_err());
    let refused = site
        .metrics
        .refused
        .get_or_create_owned(&[("reason", "connections_max")]);
    assert_eq!(refused.get(), 1);
}
