//! HTTP over TLS: SQL as JSON lines, status, metrics, health.
//!
//! `sql.rs` streams answers, `json.rs` writes their rows, `status.rs` tells of the cluster,
//! `login.rs` says who asks, `patient.rs` drops who takes nothing.

mod login;
mod sql;
mod json;
mod status;
mod patient;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router, middleware};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::registry::Registry;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::auth::Admission;
use super::door::{Door, ListenError, stopped};
use super::metrics::ServeMetrics;
use super::service::{Protocol, Service};
use crate::metrics;
use crate::tls::Identity;
use patient::Patient;

/// What the TLS configuration must offer.
pub const ALPN: &[&[u8]] = &[b"http/1.1"];

const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// From one request to the whole head of the next: also ends idle connections.
const HEAD_LIMIT: Duration = Duration::from_mins(1);
/// For the client to take something of an answer.
const WRITE_LIMIT: Duration = Duration::from_mins(1);
/// Of a request's head, and of what is read ahead.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// What the listener is made of.
pub struct HttpOptions {
    /// Of `tls::Material::public_server`, with [`ALPN`].
    pub tls: Arc<rustls::ServerConfig>,
    pub service: Service,
    pub admission: Arc<Admission>,
    /// What `/metrics` shows.
    pub registry: Arc<Registry>,
    pub metrics: Arc<ServeMetrics>,
    pub connections_max: usize,
}

/// The HTTP listener of a node.
pub struct Http {
    door: Door,
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    acceptor: TlsAcceptor,
    options: HttpOptions,
}

/// Who is at the other end, as far as TLS knows.
#[derive(Clone)]
pub(super) struct Peer {
    address: SocketAddr,
    identity: Option<Identity>,
}

impl Http {
    /// Takes the port; serves nobody before `run`.
    pub async fn bind(address: &str, options: HttpOptions) -> Result<Http, ListenError> {
        let metrics = Arc::clone(&options.metrics);
        let door = Door::bind(address, Protocol::Http, options.connections_max, metrics).await?;
        let acceptor = TlsAcceptor::from(Arc::clone(&options.tls));
        let shared = Arc::new(Shared { acceptor, options });
        Ok(Http { door, shared })
    }

    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.door.local_addr()
    }

    /// Serves until `stop` is true or its sender is gone; answers on their way may end first.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        let shared = self.shared;
        let router = router(&shared);
        self.door
            .run(stop, |socket, address, stop| {
                serve(Arc::clone(&shared), router.clone(), socket, address, stop)
            })
            .await;
    }
}

fn router(shared: &Arc<Shared>) -> Router {
    let known = middleware::from_fn_with_state(Arc::clone(shared), login::required);
    Router::new()
        .route("/v1/sql", post(sql::answer))
        .route("/v1/status", get(status::answer))
        .route("/metrics", get(metrics_text))
        .route_layer(known)
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .fallback(async || {
            let paths = "POST /v1/sql, GET /v1/status, /metrics, /healthz and /readyz";
            refusal(StatusCode::NOT_FOUND, "", "there is no such path", paths)
        })
        .with_state(Arc::clone(shared))
}

async fn serve(
    shared: Arc<Shared>,
    router: Router,
    socket: TcpStream,
    address: SocketAddr,
    mut stop: watch::Receiver<bool>,
) {
    let options = &shared.options;
    let refuse = |label, detail: &str, meaning| {
        options
            .metrics
            .refuse(&address.to_string(), label, detail, meaning);
    };
    let handshake = tokio::select! {
        handshake = timeout(HANDSHAKE_LIMIT, shared.acceptor.accept(socket)) => handshake,
        () = stopped(&mut stop) => return,
    };
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let meaning = "the TLS handshake failed; is it https://, and does the client trust \
                           nodes-ca?";
            return refuse("handshake", &error.to_string(), meaning);
        }
        Err(_) => {
            let meaning = "no TLS handshake within 5 seconds; is it https://?";
            return refuse("handshake_timeout", "", meaning);
        }
    };
    let presented = stream.get_ref().1.peer_certificates();
    let identity = match options.admission.certificate(presented) {
        Ok(identity) => identity,
        Err(refusal) => {
            let meaning = "the certificate is not one of a user; issue one with `pki user`";
            return refuse("certificate", &refusal.to_string(), meaning);
        }
    };
    let router = router.layer(Extension(Peer { address, identity }));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(
            TokioIo::new(Patient::new(stream, WRITE_LIMIT)),
            TowerToHyperService::new(router),
        );
    tokio::pin!(connection);
    // Errors are the other side's going away, in the middle of a request or between two.
    tokio::select! {
        _ = &mut connection => {}
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

async fn metrics_text(State(shared): State<Arc<Shared>>) -> Response {
    let kind = HeaderValue::from_static(metrics::CONTENT_TYPE);
    let text = metrics::text(&shared.options.registry);
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    match shared.options.service.upstream().ready() {
        Ok(()) => "ready\n".into_response(),
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("{missing}\n")).into_response(),
    }
}

/// An error as JSON: what happened, its SQLSTATE if it has one, and what to do.
fn refusal(status: StatusCode, code: &str, message: &str, hint: &str) -> Response {
    json(status, &sql::error_json(code, message, hint))
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response {
    let kind = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, kind)], value.to_string()).into_response()
}
