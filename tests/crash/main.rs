//! `kill -9` at random points, over and over, while everything else goes wrong as well: what is held in the end is what was
//! published, and at no point was anything missing that had been acknowledged.
//!
//! `PENSTOCK_TEST_SCALE` multiplies kills and events (default 1: 50 kills over 12,000 events); `PENSTOCK_TEST_SEED` chooses the
//! world and the moments.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../installed/mod.rs"]
mod installed;
mod kills;

use std::sync::Arc;
use std::time::Duration;

use installed::backend::Embedded;
use kills::Kills;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_however_often_it_is_killed() {
    let often = Kills {
        number: 50,
        slower: 1,
    };
    kills::nothing_is_lost_however_often_it_is_killed(Arc::new(Embedded), often).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_half_made_is_made_anew() {
    let step = Duration::from_millis(2);
    kills::a_store_that_was_half_made_is_made_anew(|| Arc::new(Embedded), 30, step).await;
}
