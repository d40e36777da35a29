//! One worker, put together.

mod live;
mod metrics;
mod recorder;
mod status;
mod times;

pub use status::{Pause, Status};
