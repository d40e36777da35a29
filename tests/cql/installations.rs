//! Penstock as its users run it, over CQL: the same bodies run over the embedded store.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use penstock::store::Store;

use crate::cluster::Cluster;
use crate::installed::backend::Backend;
use crate::keyspaces::Keyspace;
use crate::kills::{self, Kills};
use crate::{crawl, pds, stores, way};

/// A keyspace of its own.
pub struct Cql(pub Keyspace);

#[async_trait]
impl Backend for Cql {
    fn variables(&self) -> Vec<(&'static str, String)> {
        self.0.variables()
    }

    async fn open(&self, _: &Path) -> Option<Arc<dyn Store>> {
        match self.0.is_there().await {
            true => Some(self.0.open().await),
            false => None,
        }
    }
}

/// One that nobody has made yet.
pub async fn empty() -> Option<Arc<dyn Backend>> {
    let keyspace = Keyspace::fresh().await?;
    Some(Arc::new(Cql(keyspace)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_however_often_it_is_killed() {
    let often = Kills {
        number: 25,
        slower: 3,
    };
    if let Some(backend) = empty().await {
        kills::nothing_is_lost_however_often_it_is_killed(backend, often).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_half_made_is_made_anew() {
    let test = "a_store_that_was_half_made_is_made_anew";
    let Some(cluster) = Cluster::shared(test).await else {
        return;
    };
    let empty = || Arc::new(Cql(Keyspace::on(cluster))) as Arc<dyn Backend>;
    let step = Duration::from_millis(150);
    kills::a_store_that_was_half_made_is_made_anew(empty, 10, step).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_seen_and_a_restart_goes_on() {
    if let Some(backend) = empty().await {
        way::records_are_seen_and_a_restart_goes_on(backend).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once() {
    if let Some(backend) = empty().await {
        way::a_second_signal_ends_it_at_once(backend).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_down_is_waited_for_without_noise() {
    if let Some(backend) = empty().await {
        way::a_relay_that_is_down_is_waited_for_without_noise(backend).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn penstock_holds_what_the_pds_says() {
    let Some(installation) = pds::installation("penstock_holds_what_the_pds_says") else {
        return;
    };
    if let Some(keyspace) = Keyspace::fresh().await {
        pds::penstock_holds_what_the_pds_says(installation, keyspace.variables()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crawl_of_a_network_holds_all_of_it_whatever_happens() {
    if let Some(backend) = empty().await {
        crawl::a_crawl_of_a_network_holds_all_of_it_whatever_happens(backend, stores::MANY).await;
    }
}
