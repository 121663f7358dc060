//! What others send, as readings.

pub mod line;
