//! Handshakes between what `pki` issues and what the listeners ask for.

use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::pki::{Issued, Pki};

struct Site {
    _folder: tempfile::TempDir,
    pki: Pki,
    material: Material,
}

fn site() -> Site {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::init(folder.path(), "demo").unwrap();
    pki.issue(Role::Node, "a", &["127.0.0.1".to_owned()], 1)
        .unwrap();
    let material = Material::load(&config(folder.path(), "a", "node-a")).unwrap();
    Site {
        _folder: folder,
        pki,
        material,
    }
}

fn config(folder: &Path, name: &str, stem: &str) -> Config {
    let text = format!(
        "name = \"{name}\"\ncluster = \"demo\"\ndata_dir = \"d\"\n[listen]\nmqtt = \"h:0\"\n\
         cluster = \"h:0\"\npostgres = \"h:0\"\nhttp = \"h:0\"\n[tls]\ncert = \"{stem}.pem\"\n\
         key = \"{stem}.key\"\nnodes_ca = \"nodes-ca.pem\"\nagents_ca = \"agents-ca.pem\"\n\
         users_ca = \"users-ca.pem\"\nrevoked = \"revoked.toml\"\n"
    );
    Config::parse(&text, &folder.join("a.toml")).unwrap()
}

fn client(pki: &Pki, own: Option<&Issued>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(&pki.ca_path(Role::Node)).unwrap());
    match own {
        None => builder.with_no_client_auth(),
        Some(own) => builder
            .with_client_auth_cert(
                certificates(&own.cert).unwrap(),
                PrivateKeyDer::from_pem_file(&own.key).unwrap(),
            )
            .unwrap(),
    }
}

/// One handshake; the server's view of the peer, or its error.
async fn shake(
    server: Arc<ServerConfig>,
    client: ClientConfig,
    role: Role,
) -> Result<Option<Identity>, String> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let dial = async {
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let mut stream = TlsConnector::from(Arc::new(client))
            .connect(name, far)
            .await
            .ok()?;
        // In TLS 1.3 the client learns of a refused certificate only when it reads.
        stream.read_u8().await.ok()
    };
    let serve = async {
        let mut stream = TlsAcceptor::from(server)
            .accept(near)
            .await
            .map_err(|e| e.to_string())?;
        let presented = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec);
        let identity = match presented {
            None => None,
            Some(certificates) => Some(
                Identity::of_peer(Some(&certificates), "demo", role).map_err(|e| e.to_string())?,
            ),
        };
        stream.write_u8(1).await.map_err(|e| e.to_string())?;
        Ok(identity)
    };
    tokio::join!(serve, dial).0
}

#[tokio::test]
async fn the_mqtt_listener_admits_agents_only() {
    let site = site();
    let server = site.material.mqtt_server().unwrap();
    let agent = site.pki.issue(Role::Agent, "gw1", &[], 1).unwrap();
    let user = site.pki.issue(Role::User, "ops", &[], 1).unwrap();
    let seen = shake(server.clone(), client(&site.pki, Some(&agent)), Role::Agent)
        .await
        .unwrap();
    assert_eq!(seen, Some(agent.identity));
    for stranger in [None, Some(&user)] {
        let refused = shake(server.clone(), client(&site.pki, stranger), Role::Agent).await;
        assert!(refused.is_err(), "{refused:?}");
    }
}

/// A client that would take up its session again is made to show its certificate again.
#[tokio::test]
async fn no_listener_resumes_a_session() {
    let site = site();
    let agent = site.pki.issue(Role::Agent, "gw1", &[], 1).unwrap();
    let user = site.pki.issue(Role::User, "ops", &[], 1).unwrap();
    let node = site
        .pki
        .issue(Role::Node, "b", &["127.0.0.1".to_owned()], 1)
        .unwrap();
    let listeners = [
        (site.material.mqtt_server().unwrap(), agent),
        (site.material.cluster_server().unwrap(), node),
        (site.material.public_server(&[b"http/1.1"]).unwrap(), user),
    ];
    for (server, own) in listeners {
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let builder = ClientConfig::builder_with_provider(provider())
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(roots(&site.pki.ca_path(Role::Node)).unwrap());
            let key = PrivateKeyDer::from_pem_file(&own.key).unwrap();
            let client = builder
                .with_client_auth_cert(certificates(&own.cert).unwrap(), key)
                .unwrap();
            // It remembers sessions by default, in a store that its clones share.
            for _ in 0..2 {
                let (near, far) = tokio::io::duplex(1 << 16);
                let dial = async {
                    let name = ServerName::try_from("127.0.0.1").unwrap();
                    let connector = TlsConnector::from(Arc::new(client.clone()));
                    let mut stream = connector.connect(name, far).await.unwrap();
                    stream.read_u8().await.unwrap();
                    stream.get_ref().1.handshake_kind()
                };
                let serve = async {
                    let acceptor = TlsAcceptor::from(Arc::clone(&server));
                    let mut stream = acceptor.accept(near).await.unwrap();
                    stream.write_u8(1).await.unwrap();
                    stream.flush().await.unwrap();
                    stream
                };
                let (_open, kind) = tokio::join!(serve, dial);
                assert_ne!(kind, Some(rustls::HandshakeKind::Resumed));
            }
        }
    }
}

#[tokio::test]
async fn nodes_admit_nodes_of_their_cluster_only() {
    let site = site();
    let server = site.material.cluster_server().unwrap();
    let own = site.material.cluster_client().unwrap();
    let seen = shake(server.clone(), (*own).clone(), Role::Node)
        .await
        .unwrap();
    assert_eq!(seen.unwrap().id.as_str(), "a");
    let agent = site.pki.issue(Role::Agent, "gw1", &[], 1).unwrap();
    assert!(
        shake(server, client(&site.pki, Some(&agent)), Role::Node)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn readers_may_come_with_a_certificate_or_without() {
    let site = site();
    let server = site.material.public_server(&[b"http/1.1"]).unwrap();
    let user = site.pki.issue(Role::User, "ops", &[], 1).unwrap();
    let agent = site.pki.issue(Role::Agent, "gw1", &[], 1).unwrap();
    assert_eq!(
        shake(server.clone(), client(&site.pki, None), Role::User).await,
        Ok(None)
    );
    let seen = shake(server.clone(), client(&site.pki, Some(&user)), Role::User).await;
    assert_eq!(seen, Ok(Some(user.identity)));
    assert!(
        shake(server, client(&site.pki, Some(&agent)), Role::User)
            .await
            .is_err()
    );
}

#[test]
fn wrong_roles_clusters_and_names_are_refused() {
    let site = site();
    let agent = site.pki.issue(Role::Agent, "gw1", &[], 1).unwrap().identity;
    assert!(matches!(
        agent.clone().require("other", Role::Agent),
        Err(IdentityError::OtherCluster { .. })
    ));
    assert!(matches!(
        agent.require("demo", Role::Node),
        Err(IdentityError::OtherRole {
            wanted: Role::Node,
            ..
        })
    ));
    let folder = site.pki.folder();
    let error = |name, stem| {
        Material::load(&config(folder, name, stem))
            .map(|_| ())
            .unwrap_err()
    };
    assert!(matches!(error("b", "node-a"), TlsError::OtherNode { .. }));
    assert!(matches!(
        error("gw1", "agent-gw1"),
        TlsError::Identity { .. }
    ));
    assert!(matches!(error("b", "node-b"), TlsError::Pem { .. }));
    let ca = std::fs::read(folder.join("nodes-ca.pem")).unwrap();
    std::fs::write(folder.join("node-a.key"), ca).unwrap();
    assert!(matches!(error("a", "node-a"), TlsError::Pem { .. }));
    std::fs::copy(folder.join("nodes-ca.key"), folder.join("node-a.key")).unwrap();
    assert!(matches!(error("a", "node-a"), TlsError::Unusable { .. }));
}

#[tokio::test]
async fn a_revoked_serial_is_told_to_whoever_watches() {
    let site = site();
    let agent = site.pki.issue(Role::Agent, "gw1", &[], 1).unwrap();
    let serial = agent.identity.serial;
    let path = site.pki.revoked_path();
    let (revocations, reloader) = Revocations::load(&path).unwrap();
    let (stop, stopped) = watch::channel(false);
    assert_eq!(revocations.reason(&serial), None);

    let mut session = revocations.clone();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(reloader.run(
        Duration::from_millis(1),
        RevocationMetrics::default(),
        stopped,
    ));
    site.pki.revoke("agent-gw1", "stolen").unwrap();
    assert_eq!(session.revoked(&serial).await, "stolen");
    assert_eq!(revocations.reason(&serial).as_deref(), Some("stolen"));
    stop.send_replace(true);
    tasks.join_next().await.unwrap().unwrap();
}

#[test]
fn a_broken_list_is_not_an_empty_list() {
    let site = site();
    let path = site.pki.revoked_path();
    site.pki.issue(Role::Agent, "gw1", &[], 1).unwrap();
    let entry = site.pki.revoke("agent-gw1", "stolen").unwrap();
    let (revocations, mut reloader) = Revocations::load(&path).unwrap();
    std::fs::write(&path, "[[revoked]]\nserial = \"XYZ\"\n").unwrap();
    assert!(matches!(reloader.look(), Err(RevokedError::Syntax { .. })));
    assert!(
        revocations.reason(&entry.serial).is_some(),
        "the last good list stays"
    );
    assert!(matches!(
        Revocations::load(&path),
        Err(RevokedError::Syntax { .. })
    ));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(
        Revocations::load(&path),
        Err(RevokedError::Read { .. })
    ));
}
