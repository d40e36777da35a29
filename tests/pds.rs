//! Real input that no one here wrote: a Personal Data Server (the reference implementation, run by Node) on which people post,
//! like, edit, delete, rename, hide and leave. Penstock follows it, and must then hold and say what the PDS does.
//!
//! `tests/pds/install` fetches the PDS at the first run, which needs Node 20 or later, npm and the network; without them the
//! tests say that they are skipped (with `CI=true` they fail). `tests/pds/serve.mjs` runs it; it reaches nothing beyond
//! loopback.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "pds/mod.rs"]
mod pds;

#[tokio::test]
async fn the_pds_serves_what_was_written() {
    if let Some(installation) = pds::installation("the_pds_serves_what_was_written") {
        pds::the_pds_serves_what_was_written(installation).await;
    }
}

#[tokio::test]
async fn penstock_holds_what_the_pds_says() {
    if let Some(installation) = pds::installation("penstock_holds_what_the_pds_says") {
        let embedded = vec![("PENSTOCK_STORE__EMBEDDED__MIN_FREE", "16MiB".to_owned())];
        pds::penstock_holds_what_the_pds_says(installation, embedded).await;
    }
}

#[tokio::test]
async fn the_window_is_whole_after_a_stop() {
    if let Some(installation) = pds::installation("the_window_is_whole_after_a_stop") {
        pds::window::the_window_is_whole_after_a_stop(installation).await;
    }
}

#[tokio::test]
async fn what_the_pds_no_longer_serves_is_said() {
    if let Some(installation) = pds::installation("what_the_pds_no_longer_serves_is_said") {
        pds::window::what_the_pds_no_longer_serves_is_said(installation).await;
    }
}

#[tokio::test]
async fn a_pds_that_counts_anew_is_followed() {
    if let Some(installation) = pds::installation("a_pds_that_counts_anew_is_followed") {
        pds::window::a_pds_that_counts_anew_is_followed(installation).await;
    }
}

#[tokio::test]
async fn jobs_bring_what_two_pdses_hold() {
    if let Some(installation) = pds::installation("jobs_bring_what_two_pdses_hold") {
        pds::jobs::jobs_bring_what_two_pdses_hold(installation).await;
    }
}

#[tokio::test]
async fn days_bring_what_is_newer_and_a_purge_is_undone() {
    if let Some(installation) = pds::installation("days_bring_what_is_newer_and_a_purge_is_undone")
    {
        pds::jobs::days_bring_what_is_newer_and_a_purge_is_undone(installation).await;
    }
}

#[tokio::test]
async fn an_account_moves_and_stays() {
    if let Some(installation) = pds::installation("an_account_moves_and_stays") {
        pds::moved::an_account_moves_and_stays(installation).await;
    }
}
