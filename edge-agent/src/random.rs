//! Random numbers of the operating system, by its system call: a static program in an empty root
//! folder has no `/dev` to read them from.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

/// 64 random bits.
///
/// # Errors
/// The system gives none.
pub(crate) fn bits() -> io::Result<u64> {
    let mut bytes = [0; 8];
    // Up to 256 bytes come whole (getrandom(2)).
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_alike() {
        assert_ne!(bits().unwrap(), bits().unwrap());
    }
}
