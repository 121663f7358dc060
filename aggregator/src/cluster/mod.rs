pub mod types;
pub mod log;
mod answer;
pub use answer::{Answer, Applied};
