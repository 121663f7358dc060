//! Real processes on a real disk and real sockets, from the device to the query.
//!
//! Start with `straight_line`: one page. `fire` hurts the same path, `ack_after_sync` proves what
//! an acknowledgement means, `bad_input` what refusals say; `postgres` and `cli` are the two ways
//! to read, `quickstart` the README's first command; `tidy` reads the repository itself.
//! `sealing` waits until a day lies in one file, `damage` hurts such files. The `agent_*` files are
//! the scenarios that an agent has to survive, one group each; `mqtt` is a client without manners,
//! `fake_node` a node that tells a story.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod straight_line;
mod postgres;
mod cli;
mod fire;
mod agent_kill_storm;
mod agent_outage;
mod agent_full;
mod agent_link;
mod agent_poison;
mod agent_storm;
mod agent_revoked;
mod agent_clock;
mod ack_after_sync;
mod bad_input;
mod sealing;
mod damage;
mod agent_reload;
mod quickstart;
mod tidy;
mod seeded;

mod mqtt;
mod fake_node;
