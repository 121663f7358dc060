//! The PostgreSQL protocol, version 3, over TLS only.
//!
//! `start.rs` takes a connection up to its login, `session.rs` answers on it. `message.rs` reads
//! and writes messages, `wire.rs` moves them; `command.rs` and `setting.rs` know what drivers say
//! besides questions, `prepared.rs` what they ask in parts; `encode/` and `parameter.rs` turn values into bytes and back; `cancel.rs`
//! lets one connection stop what another asks.
//!
//! Of the crate pgwire we use the SCRAM handshake. Its decoder panics on short messages, carries
//! bytes from before TLS into it, and gathers the whole answer of an extended query in memory.

mod message;
mod wire;
mod error;
mod cancel;
mod start;
mod command;
mod setting;
mod encode;
mod parameter;
mod rows;
mod session;
mod prepared;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::auth::Admission;
use super::door::{Door, ListenError, stopped};
use super::metrics::ServeMetrics;
use super::service::{Protocol, Service};
use cancel::Cancels;
use session::Session;
use start::Started;

/// What the TLS configuration must offer: clients that begin with TLS ask for it.
pub const ALPN: &[&[u8]] = &[b"postgresql"];

/// From the first byte to the end of the login.
const START_LIMIT: Duration = Duration::from_secs(10);

/// What the listener is made of.
pub struct PostgresOptions {
    /// Of `tls::Material::public_server`, with [`ALPN`].
    pub tls: Arc<rustls::ServerConfig>,
    pub service: Service,
    pub admission: Arc<Admission>,
    pub metrics: Arc<ServeMetrics>,
    pub connections_max: usize,
}

/// The PostgreSQL listener of a node.
pub struct Postgres {
    door: Door,
    shared: Arc<Shared>,
}

struct Shared {
    acceptor: TlsAcceptor,
    options: PostgresOptions,
    cancels: Cancels,
}

impl Postgres {
    /// Takes the port; serves nobody before `run`.
    pub async fn bind(address: &str, options: PostgresOptions) -> Result<Postgres, ListenError> {
        let metrics = Arc::clone(&options.metrics);
        let connections_max = options.connections_max;
        let door = Door::bind(address, Protocol::Postgres, connections_max, metrics).await?;
        let shared = Arc::new(Shared {
            acceptor: TlsAcceptor::from(Arc::clone(&options.tls)),
            options,
            cancels: Cancels::default(),
        });
        Ok(Postgres { door, shared })
    }

    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.door.local_addr()
    }

    /// Serves until `stop` is true or its sender is gone; answers on their way may end first.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        let shared = self.shared;
        self.door
            .run(stop, |socket, address, stop| {
                serve(Arc::clone(&shared), socket, address, stop)
            })
            .await;
    }
}

async fn serve(
    shared: Arc<Shared>,
    socket: TcpStream,
    address: SocketAddr,
    mut stop: watch::Receiver<bool>,
) {
    let started = tokio::select! {
        started = timeout(START_LIMIT, start::begin(&shared, socket)) => started,
        () = stopped(&mut stop) => return,
    };
    let refuse = |label, detail: &str, meaning| {
        let metrics = &shared.options.metrics;
        metrics.refuse(&address.to_string(), label, detail, meaning);
    };
    match started {
        Ok(Started::Login(wire, login)) => match shared.cancels.register() {
            Ok(ticket) => {
                let session = Session::new(&shared, *wire, login, ticket);
                Box::pin(session.run(stop)).await;
            }
            Err(error) => {
                let meaning = "the system has no random numbers; the login was dropped";
                refuse("random", &error.to_string(), meaning);
            }
        },
        Ok(Started::Done) => {}
        Ok(Started::Refused(refused)) => refuse(refused.label, &refused.detail, refused.meaning),
        Err(_) => {
            let meaning = "no login within 10 seconds; is the client waiting for a password?";
            refuse("login_timeout", "", meaning);
        }
    }
}
