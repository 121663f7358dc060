pub mod types;
mod answer;
pub use answer::{Answer, Applied};
