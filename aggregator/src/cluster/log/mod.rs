//! The Raft log: openraft's log storage over a journal. `layout` is the bytes, `index` what is
//! there and where, `store` the writing half, `reader` the reading half, `inspect` what records say,
//! for people.
//!
//! What must hold (openraft's contract, and why the pieces are as they are):
//! - Votes and entries reach the disk in the order they were given: one journal, one writer.
//! - An entry is readable when `append` returns, and is acknowledged only after the group sync.
//! - A file is released only once vote, purge mark and commit hint are durable behind it.

mod layout;
mod index;
mod store;
mod reader;
pub(crate) mod inspect;
#[cfg(test)]
mod tests;

pub(super) use layout::{
    Entry, LeaderId, LogId, Vote, decode_entry, decode_vote, encode_entry, encode_vote, put_log_id,
    take_log_id,
};
pub use layout::{Malformed, decode_membership, put_membership};
pub use reader::LogReader;
pub(super) use store::{IN_FLIGHT_BYTES_MAX, Load, LogRoom};
pub use store::{LogError, LogOptions, LogStore, Mode};
