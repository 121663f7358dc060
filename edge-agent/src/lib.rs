//! From device to wire: intake -> batcher -> buffer -> window -> uplink.

pub mod handed;
pub mod status;
pub mod batcher;
pub mod buffer;
pub mod window;
pub mod uplink;
pub mod keeper;
