//! SQL against a store, beside a naive model.
