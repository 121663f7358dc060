//! Settings and certificates that change while the keeper runs. What the next batch can follow is
//! followed at once; what belongs to a session waits for another one. A running session is ended
//! gently: nothing more is sent, what is in flight is answered, then it closes.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::sync::watch;

use super::{GOOD_BYE_LIMIT, Keeper, KeeperOptions};
use crate::batcher::BatchOptions;
use crate::window::WindowOptions;

/// How long a session may take to answer what is in flight before another one begins.
const ANSWERS_LIMIT: Duration = Duration::from_secs(5);

/// What may change while an agent runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub batch: BatchOptions,
    pub window: WindowOptions,
    /// Bytes of batches in memory.
    pub ram_bytes_max: usize,
    /// How long a reading that nobody waits for may be neither acked nor on disk.
    pub max_unsafe: Duration,
    /// `host:port`, tried in rotation.
    pub servers: Vec<String>,
    pub keep_alive: Duration,
}

/// What is new, and whether the session has to give way to another.
pub(super) struct Renewal {
    tls: watch::Receiver<Arc<ClientConfig>>,
    changes: watch::Receiver<Option<Settings>>,
    tls_used: Arc<ClientConfig>,
    /// The session ends once nothing is in flight, and then at the latest.
    until: Option<Duration>,
}

/// Batches in flight as MQTT counts them.
pub(super) fn in_flight_max(window: WindowOptions) -> u16 {
    u16::try_from(window.batches_max.max(1)).unwrap_or(u16::MAX)
}

impl Renewal {
    pub(super) fn new(options: &KeeperOptions) -> Renewal {
        let mut tls = options.tls.clone();
        let tls_used = tls.borrow_and_update().clone();
        Renewal {
            tls,
            changes: options.changes.clone(),
            tls_used,
            until: None,
        }
    }

    /// The certificates in use.
    pub(super) fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.tls_used)
    }

    /// Nothing more is sent in this session.
    pub(super) fn is_due(&self) -> bool {
        self.until.is_some()
    }

    /// Returns when something is new; never once nobody is left to say so.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            Ok(()) = self.tls.changed() => {}
            Ok(()) = self.changes.changed() => {}
            else => std::future::pending().await,
        }
    }
}

impl Keeper {
    /// Takes over what is new.
    pub(super) fn change(&mut self) {
        let tls = self.renewal.tls.borrow_and_update().clone();
        let settings = self.renewal.changes.borrow_and_update().clone();
        let mut renew = false;
        if !Arc::ptr_eq(&tls, &self.renewal.tls_used) {
            self.renewal.tls_used = Arc::clone(&tls);
            self.uplink.use_tls(tls);
            renew = true;
        }
        if let Some(settings) = settings {
            renew |= self.use_settings(settings);
        }
        if renew {
            let until = self.clock.now() + ANSWERS_LIMIT;
            self.renewal.until.get_or_insert(until);
        }
    }

    /// Whether they ask for another session.
    fn use_settings(&mut self, new: Settings) -> bool {
        let options = &mut self.options;
        let another = new.servers != options.servers
            || new.keep_alive != options.keep_alive
            || new.window.batches_max != options.window.batches_max;
        let promise_changes = new.max_unsafe != options.buffer.max_unsafe;
        options.batch = new.batch;
        options.window = new.window;
        options.buffer.ram_bytes_max = new.ram_bytes_max;
        options.buffer.max_unsafe = new.max_unsafe;
        options.servers.clone_from(&new.servers);
        options.keep_alive = new.keep_alive;
        self.batcher.use_options(new.batch);
        self.window.use_options(new.window);
        self.buffer.use_bounds(new.ram_bytes_max, new.max_unsafe);
        if promise_changes {
            self.begin_epoch();
        }
        if another {
            let in_flight_max = in_flight_max(new.window);
            self.uplink.use_servers(new.servers, in_flight_max);
        }
        another
    }

    /// Ends the session if another is to begin and the answers are in.
    pub(super) async fn renew(&mut self) {
        let Some(until) = self.renewal.until else {
            return;
        };
        if self.window.in_flight() > 0 && self.clock.now() < until {
            return;
        }
        self.renewal.until = None;
        tracing::info!("the settings of the connection have changed: another session begins");
        self.uplink.close(GOOD_BYE_LIMIT).await;
        self.uplink.fail();
        self.window.disconnected();
        self.account.renewing();
        self.give_account();
    }
}
