//! From device to wire: intake -> batcher -> buffer -> window -> uplink.

pub mod handed;
pub mod status;
