//! Jobs that fetch repositories, against a simulated network of hosts, a directory of DIDs and a relay's lists.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod accounts;
mod counts;
mod crawl;
mod discovery;
mod hosts;
#[path = "../installed/mod.rs"]
mod installed;
mod jobs;
mod sequences;
mod site;
mod stores;
