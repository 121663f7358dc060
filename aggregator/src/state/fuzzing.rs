//! Doors for fuzzers: what stands in the log and in the manifest.

use bytes::Bytes;
use shared::id::TimeNs;

use super::bytes::Writer;
use super::{Command, State};

/// Any bytes as a command, as another node might propose it: it is an error, or it is applied, and the
/// state that it makes is read back as it was written.
///
/// # Panics
/// It is not.
pub fn command(bytes: &[u8]) {
    let Ok(command) = Command::decode(&Bytes::copy_from_slice(bytes)) else {
        return;
    };
    // Wishes beyond what may be wished are read as the most: all nodes write the same of them.
    let written = command.encode();
    let again = Command::decode(&written).expect("what was written can be read");
    assert_eq!(again.encode(), written);
    let mut state = State::new();
    let now = TimeNs(1_764_000_000_000_000_000);
    state.apply(1, &Command::Clock { node: 1, now });
    // The second time it is known already.
    for index in 2..4 {
        state.apply(index, &command);
    }
    read_back(&state);
}

/// Any bytes as the state in a manifest or a snapshot, with the checksum that belongs to them.
///
/// # Panics
/// What was read is written otherwise.
pub fn state(bytes: &[u8]) {
    let mut out = Writer::default();
    out.out.extend_from_slice(bytes);
    if let Ok(state) = State::decode(&out.checked()) {
        read_back(&state);
    }
}

fn read_back(state: &State) {
    let written = state.encode();
    let again = State::decode(&written).expect("what was written can be read");
    assert_eq!(again.encode(), written);
}
