//! Whether the disk has room for a transaction, found by taking it for a moment: who finds out before
//! a long work begins has nothing to do again.

use journal::{OpenMode, Storage};

use super::error::StoreError;

/// Room that a transaction needs beside that of the state, whose pages are up to twice as large.
const TRANSACTION_BYTES: usize = 1 << 18;
/// Bytes of zeros written at a time.
const ZERO_BYTES: usize = 1 << 18;

/// Tries the room for a transaction with so large a state. `name` is of a file that nobody else
/// uses; it is removed at once, or when the store is opened.
pub(super) fn seek(
    segments: &dyn Storage,
    name: &str,
    state_bytes: usize,
) -> Result<(), StoreError> {
    let bytes = 2 * state_bytes + TRANSACTION_BYTES;
    let io = |source| StoreError::io(name, source);
    let file = segments.open(name, OpenMode::Create).map_err(io)?;
    let zeros = vec![0; ZERO_BYTES];
    let tried = (0..bytes)
        .step_by(ZERO_BYTES)
        .try_for_each(|at| file.write_at(at as u64, &zeros[..ZERO_BYTES.min(bytes - at)]));
    let removed = segments.remove(name);
    tried.and(removed).map_err(io)
}
