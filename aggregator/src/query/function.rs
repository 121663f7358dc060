//! The functions that statements may call, beyond those that `rewrite` turns into others.

use std::sync::Arc;

use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::ScalarUDF;

/// They make values as long as a number says, outside of every memory pool.
const UNBOUNDED: [&str; 7] = [
    "repeat",
    "lpad",
    "rpad",
    "array_repeat",
    "array_resize",
    "range",
    "generate_series",
];

/// DataFusion's, without those that could take all memory.
pub(super) fn scalar() -> Vec<Arc<ScalarUDF>> {
    let mut functions = SessionStateDefaults::default_scalar_functions();
    functions.retain(|function| !UNBOUNDED.contains(&function.name()));
    functions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_all_memory_is_left_out_under_every_name() {
        let all = SessionStateDefaults::default_scalar_functions().len();
        let left = scalar();
        assert_eq!(
            all - left.len(),
            UNBOUNDED.len(),
            "a name of the list is gone or new"
        );
        for function in left {
            let names = function
                .aliases()
                .iter()
                .map(String::as_str)
                .chain([function.name()]);
            for name in names {
                assert!(!UNBOUNDED.contains(&name), "{name}");
            }
        }
    }
}
