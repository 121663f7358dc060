//! Real processes on a real disk and real sockets, from the device to the query.
//!
//! Start with `straight_line`: one page. `fire` hurts the same path, `ack_after_sync` proves what
//! an acknowledgement means, `bad_input` what refusals say, `agent_reload` what an agent follows
//! while it runs; `postgres` and `cli` are the two ways to read, `quickstart` the README's first
//! command; `tidy` reads the repository itself. `mqtt` is a client without manners.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod straight_line;
mod postgres;
mod cli;
mod fire;
mod ack_after_sync;
mod bad_input;
mod agent_reload;
mod quickstart;
mod tidy;

mod mqtt;
