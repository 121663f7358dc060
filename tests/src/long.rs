//! How much a test does: enough to see that it holds in a run that everyone waits for, or all that
//! is asked for where a machine has the time.

use std::env;

/// `TRIBUTARY_LONG=1`: the figures that are promised, not those that everyone waits for.
pub fn is_asked() -> bool {
    env::var("TRIBUTARY_LONG").as_deref() == Ok("1")
}

/// One figure of a test: of the usual run, and of the long one.
pub fn or<T>(usual: T, long: T) -> T {
    if is_asked() { long } else { usual }
}
