//! The one file that reads the wall clock: what stamps a reading that has no time of its own.

use std::time::{SystemTime, UNIX_EPOCH};

use shared::id::TimeNs;

/// This machine's wall clock. A clock before 1970 reads as 1970, one after 2262 as 2262.
pub(crate) fn now() -> TimeNs {
    #[expect(
        clippy::disallowed_methods,
        reason = "a driver: the intakes stamp with it"
    )]
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = since.map_or(0, |since| since.as_nanos());
    TimeNs(i64::try_from(nanos).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_of_this_century() {
        let year_2024 = 1_704_067_200_000_000_000;
        assert!(now().0 > year_2024);
    }
}
