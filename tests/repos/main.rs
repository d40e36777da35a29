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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crawl_of_a_network_holds_all_of_it_whatever_happens() {
    let embedded = std::sync::Arc::new(installed::backend::Embedded);
    crawl::a_crawl_of_a_network_holds_all_of_it_whatever_happens(embedded, stores::MANY).await;
}
