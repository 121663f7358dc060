//! Bytes to a valid batch: the MQTT front door.
//!
//! `listener` accepts and counts connections; `connection` owns one socket and does all that is
//! input, output or time; `session` decides, packet by packet, without any of these; `authorize`
//! says who may publish where, `agents` how much; `validate` checks content; `packet` is the only file that knows
//! the MQTT library's packets. Behind it stands `cluster`, seen through `upstream`.

mod listener;
mod session;
mod lane_gate;
mod connection;
mod budget;
mod agents;
mod authorize;
mod validate;
mod packet;
mod upstream;
mod metrics;
#[cfg(test)]
mod script;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;

pub use listener::{ListenError, Listener, ListenerOptions};
pub use metrics::IngestMetrics;
pub use upstream::Upstream;
