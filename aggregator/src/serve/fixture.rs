//! What the tests of this folder stand on: a cluster that answers as told, and its certificates.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use journal::SimStorage;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use shared::id::{AgentId, TimeNs};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Admission, ServeMetrics, Service, ServiceOptions, Upstream};
use crate::cluster::{NodeRow, NotReadable, Overview};
use crate::config::Config;
use crate::pki::{Issued, Pki};
use crate::query::{Engine, QueryOptions};
use crate::state::{Command, Origin, Payload, Submission};
use crate::store::{Store, View};
use crate::tls::{Material, Reloader, Revocations, Role};
use crate::users::{Roster, Users};

pub(super) const PASSWORD: &str = "correct horse";
const DAY: i64 = 86_400_000_000_000;

/// How linearizable reads are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reads {
    AtOnce,
    Never,
    NoLeader,
}

#[derive(Clone)]
pub(super) struct Fake {
    view: Arc<View>,
    reads: Arc<Mutex<Reads>>,
    /// Of the engine beside it; goes with the last clone.
    spill: Arc<tempfile::TempDir>,
}

impl Fake {
    /// Two rows in the table `fire`.
    pub(super) fn with_rows() -> Fake {
        let lines = format!(
            "fire,device=d1,site=north value=21.5,ok=true,note=\"it's\" {}\n\
             fire,device=d2 value=-1 {}",
            1_000 * DAY + 1_500_000_000,
            1_000 * DAY + 2_000_000_000,
        );
        let disk = SimStorage::new(7).as_storage();
        let (mut store, recovered) = Store::open(&*disk).unwrap();
        let mut state = recovered.state;
        let clock = Command::Clock {
            node: 1,
            now: TimeNs(1_000 * DAY),
        };
        let submission = Submission {
            origin: Origin { boot: 1, ticket: 1 },
            agent: AgentId::parse("gw").unwrap(),
            received: TimeNs(1_000 * DAY),
            payload: Payload::Lines(Bytes::from(lines)),
        };
        for (index, command) in [(1, clock), (2, Command::Submissions(vec![submission]))] {
            let effects = state.apply(index, &command);
            store.apply(index, &state, effects.rows);
        }
        Fake {
            view: store.view(),
            reads: Arc::new(Mutex::new(Reads::AtOnce)),
            spill: Arc::new(tempfile::tempdir().unwrap()),
        }
    }

    pub(super) fn set(&self, reads: Reads) {
        *self.reads.lock().unwrap_or_else(PoisonError::into_inner) = reads;
    }

    pub(super) fn index(&self) -> u64 {
        self.view.index()
    }
}

impl Upstream for Fake {
    fn linearizable(&self, _: Instant) -> BoxFuture<'_, Result<Arc<View>, NotReadable>> {
        let reads = *self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        Box::pin(async move {
            match reads {
                Reads::AtOnce => Ok(Arc::clone(&self.view)),
                Reads::Never => std::future::pending().await,
                Reads::NoLeader => Err(NotReadable::NoLeader),
            }
        })
    }

    fn latest(&self) -> Arc<View> {
        Arc::clone(&self.view)
    }

    fn overview(&self) -> Overview {
        Overview {
            cluster: "demo".into(),
            node: "a".into(),
            id: 1,
            leader: Some(1),
            term: 3,
            applied: 2,
            committed: 2,
            incarnation: 9,
            nodes: Arc::new(vec![NodeRow {
                id: 1,
                name: "a".into(),
                address: "127.0.0.1:1".into(),
                role: "leader",
                applied: Some(2),
                lag: Some(0),
            }]),
        }
    }

    fn ready(&self) -> Result<(), &'static str> {
        match *self.reads.lock().unwrap_or_else(PoisonError::into_inner) {
            Reads::AtOnce => Ok(()),
            Reads::Never | Reads::NoLeader => Err("no leader is known"),
        }
    }
}

/// A service over it; statements wait a fifth of a second for a view.
pub(super) fn service(fake: &Fake) -> Service {
    service_with(fake, &mut crate::metrics::registry()).0
}

pub(super) fn service_with(
    fake: &Fake,
    registry: &mut prometheus_client::registry::Registry,
) -> (Service, Arc<ServeMetrics>) {
    let engine = Engine::new(QueryOptions {
        memory_bytes: 64 << 20,
        query_memory_bytes: 16 << 20,
        spill_dir: fake.spill.path().to_owned(),
        spill_bytes_max: 64 << 20,
        time_max: Duration::from_mins(1),
        queries_max: 4,
        cores: 1,
    });
    let metrics = ServeMetrics::register(registry);
    let service = Service::new(ServiceOptions {
        engine: engine.unwrap(),
        upstream: Arc::new(fake.clone()),
        metrics: Arc::clone(&metrics),
        read_wait_max: Duration::from_millis(200),
    });
    (service, metrics)
}

/// One user, `ada`, and nobody revoked; the folder of both files.
pub(super) fn admission() -> (Admission, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let revoked = folder.path().join("revoked.toml");
    std::fs::write(&revoked, "").unwrap();
    (admission_of(&revoked).0, folder)
}

fn admission_of(revoked: &Path) -> (Admission, Reloader) {
    let mut users = Users::default();
    users.set("ada", PASSWORD).unwrap();
    let path = revoked.with_file_name("users.toml");
    users.save(&path).unwrap();
    let users = Roster::open(&path).unwrap();
    let (revocations, reloader) = Revocations::load(revoked).unwrap();
    (Admission::new("demo", users, revocations), reloader)
}

/// A cluster `demo` with the certificates of a node `a` and of a user `ada`.
pub(super) struct Site {
    _folder: tempfile::TempDir,
    pki: Pki,
    ada: Issued,
    material: Material,
    pub(super) admission: Arc<Admission>,
    reloader: Reloader,
}

impl Site {
    pub(super) fn new() -> Site {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::init(folder.path(), "demo").unwrap();
        pki.issue(Role::Node, "a", &["127.0.0.1".to_owned()], 1)
            .unwrap();
        let ada = pki.issue(Role::User, "ada", &[], 1).unwrap();
        let text = "name = \"a\"\ncluster = \"demo\"\ndata_dir = \"d\"\n[listen]\n\
                    mqtt = \"h:0\"\ncluster = \"h:0\"\npostgres = \"h:0\"\nhttp = \"h:0\"\n\
                    [tls]\ncert = \"node-a.pem\"\nkey = \"node-a.key\"\n\
                    nodes_ca = \"nodes-ca.pem\"\nagents_ca = \"agents-ca.pem\"\n\
                    users_ca = \"users-ca.pem\"\nrevoked = \"revoked.toml\"\n";
        let config = Config::parse(text, &folder.path().join("a.toml")).unwrap();
        let (admission, reloader) = admission_of(&pki.revoked_path());
        Site {
            material: Material::load(&config).unwrap(),
            admission: Arc::new(admission),
            reloader,
            pki,
            ada,
            _folder: folder,
        }
    }

    pub(super) fn server(&self, alpn: &[&[u8]]) -> Arc<ServerConfig> {
        self.material.public_server(alpn).unwrap()
    }

    /// Takes ada's certificate back, as the node's reloader does.
    pub(super) fn revoke(&mut self) {
        self.pki.revoke("user-ada", "lost").unwrap();
        self.reloader.look().unwrap();
    }

    /// A TLS connection, with ada's certificate or without one.
    pub(super) async fn connect<S>(&self, socket: S, certificate: bool) -> TlsStream<S>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut roots = RootCertStore::empty();
        for root in pem(&self.pki.ca_path(Role::Node)) {
            roots.add(root).unwrap();
        }
        let builder = ClientConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = if certificate {
            let key = PrivateKeyDer::from_pem_file(&self.ada.key).unwrap();
            builder
                .with_client_auth_cert(pem(&self.ada.cert), key)
                .unwrap()
        } else {
            builder.with_no_client_auth()
        };
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, socket).await.unwrap()
    }
}

fn pem(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}
