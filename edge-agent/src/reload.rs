//! Follows the files that an agent was started with, its configuration and its certificates, while
//! it runs. By difference: what did not change is not touched. What cannot be taken over whole is
//! refused whole, told, and leaves what was in force.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use shared::id::AgentId;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::clock::Stamper;
use crate::config::{Config, Uplink};
use crate::credentials::Credentials;
use crate::difference::{needs_restart, settings};
use crate::health::{Health, Told};
use crate::keeper::Settings;
use crate::sources::{Bound, Sources};
use crate::status::{Setup, Status};
use crate::watch::{Stamps, Watched, stamps};

/// Where changes go.
pub(crate) struct Ways {
    pub(crate) tls: watch::Sender<Arc<ClientConfig>>,
    pub(crate) changes: watch::Sender<Option<Settings>>,
    pub(crate) setup: watch::Sender<Setup>,
    /// Of the keeper, for the page that is told anew.
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) clock: Stamper,
}

pub(crate) struct Reload {
    file: PathBuf,
    config: Config,
    credentials: Credentials,
    sources: Sources,
    ways: Ways,
    health: JoinSet<()>,
    config_seen: Watched,
    certificates_seen: Watched,
    expiry_told: bool,
}

impl Reload {
    /// `config` and `credentials` are in force, `sources` run.
    pub(crate) fn new(
        file: PathBuf,
        config: Config,
        credentials: Credentials,
        sources: Sources,
        ways: Ways,
    ) -> Reload {
        Reload {
            file,
            config,
            credentials,
            sources,
            ways,
            health: JoinSet::new(),
            config_seen: Watched::default(),
            certificates_seen: Watched::default(),
            expiry_told: false,
        }
    }

    pub(crate) fn agent(&self) -> &AgentId {
        &self.config.agent
    }

    /// The intakes, and the page, which is told until it is dropped.
    pub(crate) fn into_parts(self) -> (Sources, JoinSet<()>) {
        (self.sources, self.health)
    }

    /// Gives the account on this address, and on no other.
    pub(crate) fn tell_on(&mut self, health: Option<Health>) {
        self.health = JoinSet::new();
        if let Some(health) = health {
            self.health.spawn(health.run(Told {
                agent: self.config.agent.to_string(),
                status: self.ways.status.clone(),
                setup: self.ways.setup.subscribe(),
                intakes: self.sources.accounts(),
                clock: self.ways.clock.clone(),
            }));
        }
    }

    /// Reads all files now.
    pub(crate) async fn now(&mut self) {
        self.config_seen.take(self.config_stamps());
        self.read_config().await;
        self.certificates_seen.take(self.certificate_stamps());
        self.read_certificates();
        tracing::info!("the files were read again as asked for");
    }

    /// Reads what has changed.
    pub(crate) async fn look(&mut self) {
        let stamps = self.config_stamps();
        if self.config_seen.look(stamps) {
            self.read_config().await;
        }
        let stamps = self.certificate_stamps();
        if self.certificates_seen.look(stamps) {
            self.read_certificates();
        }
        self.tell_of_expiry();
        let missing = self.ways.setup.borrow().intake_missing.is_some();
        if missing {
            self.follow(Bound::default()).await;
        }
    }

    fn config_stamps(&self) -> Stamps {
        stamps([self.file.as_path()])
    }

    fn certificate_stamps(&self) -> Stamps {
        stamps(files(&self.config.uplink).map(PathBuf::as_path))
    }

    async fn read_config(&mut self) {
        match self.take_config().await {
            Ok(is_new) => {
                self.ways.setup.send_modify(|setup| {
                    setup.config_reloads_total += u64::from(is_new);
                    setup.config_refused = None;
                });
                if is_new {
                    tracing::info!("{} has changed and is in force", self.file.display());
                }
            }
            Err(why) => {
                tracing::error!(
                    "the configuration has changed and is not used; the agent runs on as before: \
                     {why}"
                );
                self.ways.setup.send_modify(|setup| {
                    setup.config_reloads_refused_total += 1;
                    setup.config_refused = Some(why);
                });
            }
        }
    }

    /// Whether there was anything new.
    async fn take_config(&mut self) -> Result<bool, String> {
        let new = Config::load(&self.file).map_err(|error| error.to_string())?;
        if new == self.config {
            return Ok(false);
        }
        if let Some(why) = needs_restart(&self.config, &new) {
            return Err(format!("{}: {why}", self.file.display()));
        }
        let credentials = if files(&new.uplink) == files(&self.config.uplink) {
            None
        } else {
            let loaded = Credentials::load(&new.agent, &new.uplink, &self.ways.clock);
            Some(loaded.map_err(|error| error.to_string())?)
        };
        let bound = Bound::take(&new.lines, &new.agent, Some(&self.sources));
        let bound = bound.await.map_err(|error| error.to_string())?;
        let page_moves = new.health != self.config.health;
        let page = match &new.health {
            Some(listen) if page_moves => {
                let page = Health::bind(listen).await;
                Some(page.map_err(|error| error.to_string())?)
            }
            Some(_) | None => None,
        };

        // From here on nothing is refused.
        if settings(&new) != settings(&self.config) {
            self.ways.changes.send_replace(Some(settings(&new)));
        }
        self.config = new;
        if let Some(credentials) = credentials {
            self.use_credentials(credentials);
        }
        if page_moves {
            self.tell_on(page);
        }
        self.follow(bound).await;
        Ok(true)
    }

    /// Makes the configured intakes run; one that cannot is tried again at each look.
    async fn follow(&mut self, bound: Bound) {
        let followed = self.sources.follow(&self.config, bound).await;
        let missing = followed.err().map(|error| error.to_string());
        self.ways.setup.send_if_modified(|setup| {
            let is_news = setup.intake_missing != missing;
            if is_news && let Some(why) = &missing {
                tracing::error!("an intake does not run, it is tried again: {why}");
            }
            setup.intake_missing = missing;
            is_news
        });
    }

    fn read_certificates(&mut self) {
        let loaded = Credentials::load(&self.config.agent, &self.config.uplink, &self.ways.clock);
        let checked = loaded.map_err(|error| error.to_string()).and_then(|new| {
            if new.is_same(&self.credentials) {
                return Ok(None);
            }
            let now_seconds = self.now_seconds();
            // With a clock that is wrong, both are.
            if new.is_expired(now_seconds) && !self.credentials.is_expired(now_seconds) {
                let file = self.config.uplink.cert.display();
                return Err(format!("{file} has expired; the one in use has not"));
            }
            Ok(Some(new))
        });
        match checked {
            Ok(Some(new)) => self.use_credentials(new),
            Ok(None) => self
                .ways
                .setup
                .send_modify(|setup| setup.certificate_refused = None),
            Err(why) => {
                tracing::error!(
                    "certificate, key or authorities have changed and are not used; the old ones \
                     stay in use: {why}"
                );
                self.ways.setup.send_modify(|setup| {
                    setup.certificate_reloads_refused_total += 1;
                    setup.certificate_refused = Some(why);
                });
            }
        }
    }

    fn use_credentials(&mut self, new: Credentials) {
        self.ways.tls.send_replace(Arc::clone(&new.client));
        self.ways.setup.send_modify(|setup| {
            setup.certificate_reloads_total += 1;
            setup.certificate_refused = None;
            setup.certificate_expiry.clone_from(&new.expiry);
        });
        tracing::info!(
            expires = new.expiry.as_ref().map(|expiry| expiry.day.as_str()),
            "the certificate files have changed and are in use from the next connection on"
        );
        self.credentials = new;
    }

    /// In the log, once for each certificate.
    fn tell_of_expiry(&mut self) {
        let expired = self.credentials.is_expired(self.now_seconds());
        if expired && !self.expiry_told {
            let expiry = self.credentials.expiry.as_ref();
            let day = expiry.map_or("a day unknown", |expiry| expiry.day.as_str());
            tracing::error!(
                "certificate expired on {day}: no node takes it, readings stay in the buffer. Put a \
                 new one in its place: it is used without a restart"
            );
        }
        self.expiry_told = expired;
    }

    /// Since 1970, as far as the agent knows.
    fn now_seconds(&self) -> i64 {
        self.ways.clock.day().0.div_euclid(1_000_000_000)
    }
}

fn files(uplink: &Uplink) -> [&PathBuf; 3] {
    [&uplink.cert, &uplink.key, &uplink.ca]
}
