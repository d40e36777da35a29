//! The replay of worker 0: what of a relay's past it brings, and what it says of the rest.
//!
//! `PENSTOCK_TEST_SEED` chooses one random history, `PENSTOCK_TEST_SCALE` multiplies how many there are.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod deceived;
mod directed;
mod history;
#[path = "../installed/mod.rs"]
mod installed;
#[path = "../firehose/stores.rs"]
mod stores;
#[path = "../firehose/worker.rs"]
mod worker;

use history::{Setup, history};
use installed::backend::Embedded;
use installed::number;

/// Shows the logs of a test that is looked into, by `RUST_LOG`.
fn logs() {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let logs = tracing_subscriber::fmt().with_env_filter(filter);
        let _ = logs.with_writer(std::io::stderr).try_init();
    }
}

/// Random histories at a scale of 1; each takes about 5 s.
const HISTORIES: u64 = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_and_what_is_lost_are_known_to_the_frame() {
    let scale = number("PENSTOCK_TEST_SCALE", 1);
    let first = number("PENSTOCK_TEST_SEED", 1);
    for seed in first..first + HISTORIES * scale {
        let backend = std::sync::Arc::new(Embedded);
        let setup = Setup {
            backend,
            workers: 1,
        };
        history(seed, setup).await;
    }
}
