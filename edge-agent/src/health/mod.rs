//! The agent's account of itself over HTTP, on a loopback address: `/` for people, `/status` for
//! programs, `/metrics` for Prometheus.
//!
//! By hand, because three pages of numbers need no framework: one request a connection, bounded in
//! bytes, time and connections. `page` writes what is answered, `html` the one for people; `alarm`
//! says what somebody should look at.

mod alarm;
mod html;
mod page;

pub(crate) use alarm::alarms;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::clock::Stamper;
use crate::intake::Account;
use crate::status::{Setup, Status};

/// Bytes of a request.
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// A request and its answer take no longer.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
const CONNECTIONS_MAX: usize = 16;
/// After a failed accept: the usual reason, too many open files, does not go at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener that answers nobody yet.
#[derive(Debug)]
pub struct Health {
    listener: TcpListener,
}

/// Why there is no account. Who must act: the operator.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {listen} (health.listen): {source}; stop who has this address, or configure another one"
)]
pub struct HealthError {
    listen: String,
    source: io::Error,
}

/// What the account is about.
#[derive(Debug, Clone)]
pub struct Told {
    pub agent: String,
    pub status: watch::Receiver<Status>,
    pub setup: watch::Receiver<Setup>,
    pub intakes: watch::Receiver<Vec<Account>>,
    pub clock: Stamper,
}

impl Health {
    /// Takes the address.
    ///
    /// # Errors
    /// Another process has it, or it is none of this machine.
    pub async fn bind(listen: &str) -> Result<Health, HealthError> {
        let listener = TcpListener::bind(listen).await;
        let listener = listener.map_err(|source| HealthError {
            listen: listen.to_owned(),
            source,
        })?;
        Ok(Health { listener })
    }

    /// Answers for ever; dropping it ends it.
    pub async fn run(self, told: Told) {
        let told = Arc::new(told);
        let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let Ok(one) = Arc::clone(&free).acquire_owned().await else {
                return;
            };
            while connections.try_join_next().is_some() {}
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let told = Arc::clone(&told);
            connections.spawn(async move {
                // Who asks too slowly, or goes, gets no answer.
                let _ = tokio::time::timeout(REQUEST_LIMIT, answer(stream, &told)).await;
                drop(one);
            });
        }
    }
}

async fn answer(mut stream: TcpStream, told: &Told) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < REQUEST_BYTES_MAX {
        if stream.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    let line = request
        .split(|byte| *byte == b'\r')
        .next()
        .unwrap_or_default();
    let now_seconds = told.clock.day().0.div_euclid(1_000_000_000);
    let text = page::answer(&String::from_utf8_lossy(line), told, now_seconds);
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_is_answered_and_the_connection_closed() {
        let health = Health::bind("127.0.0.1:0").await.unwrap();
        let address = health.listener.local_addr().unwrap();
        let taken = Health::bind(&address.to_string())
            .await
            .unwrap_err()
            .to_string();
        assert!(taken.contains(&address.to_string()) && taken.contains("health.listen"));

        let (_sender, status) = watch::channel(Status::default());
        let told = Told {
            agent: "gw1".to_owned(),
            status,
            setup: watch::channel(Setup::default()).1,
            intakes: watch::channel(vec![Account::new("host")]).1,
            clock: Stamper::of_this_machine(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(health.run(told));
        for (path, code) in [
            ("/", "200"),
            ("/status", "200"),
            ("/metrics", "200"),
            ("/x", "404"),
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            assert_eq!(text.split(' ').nth(1), Some(code), "{text}");
        }
    }
}
