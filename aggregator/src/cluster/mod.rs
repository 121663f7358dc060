//! Order and durability: one log that a quorum has on disk, and this node's state built from it.
//! The only folder that names openraft.
//!
//! `propose` (with `outbox`) hands submissions to the leader; `log` keeps what replicas agree on;
//! `gate` puts submissions off while the log is nearly full; `link`, `transport`, `wire`,
//! `listener`, `network` and `peer` carry it between nodes, `silence` says who does not answer, `rounds` has one read
//! index serve many; `apply` does it and mints the answers;
//! `snapshot` brings a node that is far behind up; `join`, `identity` and `steward` keep the
//! membership, the clock and the merges going.

pub mod types;
mod runtime;
mod outbox;
mod propose;
pub mod log;
pub mod link;
pub mod wire;
mod silence;
mod transport;
mod listener;
mod network;
mod rounds;
mod gate;
mod peer;
mod answer;
mod apply;
mod snapshot;
mod identity;
mod join;
mod quotas_told;
mod steward;
mod tasks;
mod overview;
mod node;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;

pub use answer::{Answer, Applied};
pub use apply::Progress;
pub use identity::{NodeIdentity, Standing};
pub use join::{BeginError, JoinError, ask_all, begin_log, init};
pub use listener::{ListenError, Listener};
pub use node::{Calls, Cluster, ClusterError, Parts, Seat};
pub use overview::{NodeRow, NotReadable, Overview};
pub use propose::Ticket;
pub use runtime::seed_randomness;
pub use steward::Wishes;

use crate::config::Config;
use node::Node;

/// Folders in a node's data folder.
pub(crate) const LOG_FOLDER: &str = "log";
pub(crate) const STORE_FOLDER: &str = "store";

/// Bytes of one file of the log.
const LOG_FILE_BYTES: u64 = 64 << 20;
/// Bytes of recent entries kept in memory for followers.
const LOG_CACHED_BYTES_MAX: usize = 32 << 20;

/// The log's bounds: what is kept, what merges may bring, room to write what frees files, and what
/// submissions leave free.
fn log_options(config: &Config) -> log::LogOptions {
    let store = &config.store;
    let bytes = store.log_keep_bytes + 4 * store.merge_bytes;
    let file_bytes = LOG_FILE_BYTES.min((bytes / 8).next_power_of_two().max(8 << 20));
    let reserved = gate::reserve_bytes(file_bytes).div_ceil(file_bytes);
    let files = usize::try_from(bytes / file_bytes + reserved).unwrap_or(usize::MAX);
    log::LogOptions {
        journal: journal::Options {
            file_bytes,
            files_max: files.saturating_add(16),
        },
        cached_bytes_max: LOG_CACHED_BYTES_MAX,
        mode: log::Mode::Thread,
    }
}
