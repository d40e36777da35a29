//! What Penstock tells about itself: log lines on standard error, and metrics.

mod bar;
mod logs;
pub mod metrics;
mod repeated;

pub use bar::Bar;
pub use logs::{LogError, Logs, start_logs};
pub use repeated::{Repeated, flush_repeated, repeated};

/// The version with the commit it was built from, as in `0.1.0 (7670129)`.
pub const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("PENSTOCK_COMMIT"),
    ")"
);
