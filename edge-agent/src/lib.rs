//! From device to wire: intake -> batcher -> buffer -> window -> uplink.
//!
//! `config` is what the operator says, `agent` who owns what and in which order it starts and
//! stops; `sources` are the intakes that run, `watch` and `difference` find what changed in the
//! files and `reload` follows it, `systemd` speaks to the service manager. `health` gives the
//! account, `inspect` shows files to people.

pub mod config;
pub mod tls;
pub mod clock;
pub mod credentials;
pub mod expiry;
mod random;
pub mod handed;
pub mod intake;
pub mod ledger;
pub mod status;
pub mod batcher;
pub mod buffer;
pub mod window;
pub mod uplink;
pub mod keeper;
pub mod health;
mod watch;
mod difference;
mod sources;
mod reload;
mod systemd;
pub mod agent;
pub mod inspect;
