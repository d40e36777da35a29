//! What every store keeps to, over CQL: the same bodies run over the embedded store and the one in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use penstock::store::Store;
use penstock::store::scylla::ScyllaOptions;

use crate::cluster::Cluster;
use crate::keyspaces::{Keyspace, open};
use crate::subject::{Kind, Subject};
use crate::{contract, histories};

/// Histories at a scale of 1.
const HISTORIES: u32 = 8;
/// A merge takes seconds: in histories, each so many times that one is due it happens.
const MERGES: u32 = 6;

/// A store in a keyspace of its own.
struct Cql {
    store: Arc<dyn Store>,
    /// It merges when this is 0, and counts down.
    merge_in: Arc<AtomicU32>,
    merge_every: u32,
    keyspace: Keyspace,
}

impl Cql {
    async fn empty(keyspace: Keyspace, merge_every: u32, merge_in: &Arc<AtomicU32>) -> Self {
        Self {
            store: keyspace.open().await,
            merge_in: merge_in.clone(),
            merge_every,
            keyspace,
        }
    }
}

impl Subject for Cql {
    const NAME: &str = "CQL";
    const KIND: Kind = Kind::Database;

    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn compact(&mut self) {
        match self.merge_in.load(Ordering::Relaxed) {
            0 => {
                self.merge_in.store(self.merge_every - 1, Ordering::Relaxed);
                self.keyspace.merge().await;
            }
            left => self.merge_in.store(left - 1, Ordering::Relaxed),
        }
    }

    async fn reopen(&mut self) {
        self.store.close().await.unwrap();
        self.store = self.keyspace.open().await;
    }

    async fn sweep(&mut self) -> Option<usize> {
        None
    }
}

#[test]
fn any_order_of_any_history_gives_the_same_store() {
    let test = "any_order_of_any_history_gives_the_same_store";
    let Some(cluster) = Cluster::shared_blocking(test) else {
        return;
    };
    let merge_in = Arc::default();
    histories::any_order_of_any_history_gives_the_same_store(HISTORIES, async || {
        Cql::empty(Keyspace::on(cluster), MERGES, &merge_in).await
    });
}

#[tokio::test]
async fn late_writes_stay_hidden() {
    if let Some(keyspace) = Keyspace::fresh().await {
        let subject = Cql::empty(keyspace, 1, &Arc::default()).await;
        contract::late_writes_stay_hidden(subject).await;
    }
}

#[tokio::test]
async fn the_quarantine_keeps_its_bounds() {
    let Some(keyspace) = Keyspace::fresh().await else {
        return;
    };
    let bounded = ScyllaOptions {
        quarantine_max_bytes: 100,
        ..keyspace.options()
    };
    let store = open(bounded).await;
    contract::quarantine_keeps_its_bounds(&*store, Kind::Database).await;
}

#[tokio::test]
async fn repairs_are_not_overwritten_and_facts_grow() {
    let Some(keyspace) = Keyspace::fresh().await else {
        return;
    };
    let store = keyspace.open().await;
    contract::repairs_and_facts(&*store, Kind::Database).await;
    store.close().await.unwrap();
    let store = keyspace.open().await;
    contract::repairs_and_facts_are_kept(&*store, Kind::Database).await;
}

#[tokio::test]
async fn a_reactivation_asks_for_content() {
    if let Some(keyspace) = Keyspace::fresh().await {
        let store = keyspace.open().await;
        contract::accounts::a_reactivation_asks_for_content(&*store, Kind::Database).await;
    }
}

#[tokio::test]
async fn merged_facts_go_and_grown_ones_stay() {
    if let Some(keyspace) = Keyspace::fresh().await {
        contract::merged_facts_go(&*keyspace.open().await).await;
    }
}

#[tokio::test]
async fn merges_of_the_ledger_lose_nothing() {
    if let Some(keyspace) = Keyspace::fresh().await {
        contract::merges::merged_facts_are_one(&*keyspace.open().await).await;
    }
    if let Some(keyspace) = Keyspace::fresh().await {
        contract::merges::merges_lose_nothing(&*keyspace.open().await, 30).await;
    }
}

#[tokio::test]
async fn what_no_key_can_hold_is_refused_and_the_store_goes_on() {
    if let Some(keyspace) = Keyspace::fresh().await {
        contract::bad_keys_are_refused(&*keyspace.open().await).await;
    }
}

#[tokio::test]
async fn pages_end_early_where_values_are_large() {
    if let Some(keyspace) = Keyspace::fresh().await {
        let pages = contract::pages_of_large_values(&*keyspace.open().await).await;
        assert!(pages.len() > 1, "all 24 MiB at once");
    }
}

#[tokio::test]
async fn a_closed_store_says_so() {
    if let Some(keyspace) = Keyspace::fresh().await {
        contract::a_closed_store_says_so(&*keyspace.open().await).await;
    }
}

#[tokio::test]
async fn jobs_are_compared_and_set() {
    if let Some(keyspace) = Keyspace::fresh().await {
        contract::kept::jobs_are_compared_and_set(&*keyspace.open().await).await;
    }
}

#[tokio::test]
async fn jobs_are_listed() {
    if let Some(keyspace) = Keyspace::fresh().await {
        contract::kept::jobs_are_listed(&*keyspace.open().await).await;
    }
}

#[tokio::test]
async fn failures_are_kept_by_job() {
    if let Some(keyspace) = Keyspace::fresh().await {
        contract::kept::failures_are_kept_by_job(&*keyspace.open().await).await;
    }
}

#[tokio::test]
async fn choices_are_kept_by_kind() {
    if let Some(keyspace) = Keyspace::fresh().await {
        contract::kept::choices_are_kept_by_kind(&*keyspace.open().await).await;
    }
}

#[tokio::test]
async fn repairs_are_found_by_repository() {
    if let Some(keyspace) = Keyspace::fresh().await {
        contract::kept::repairs_are_found_by_repository(&*keyspace.open().await).await;
    }
}

#[tokio::test]
async fn hosts_are_noted() {
    if let Some(keyspace) = Keyspace::fresh().await {
        let subject = Cql::empty(keyspace, 1, &Arc::default()).await;
        contract::kept::hosts_are_noted(subject).await;
    }
}

#[tokio::test]
async fn jobs_and_choices_are_kept() {
    if let Some(keyspace) = Keyspace::fresh().await {
        let subject = Cql::empty(keyspace, 1, &Arc::default()).await;
        contract::kept::jobs_and_choices_are_kept(subject).await;
    }
}

#[tokio::test]
async fn large_rows_are_refused() {
    if let Some(keyspace) = Keyspace::fresh().await {
        contract::kept::large_rows_are_refused(&*keyspace.open().await).await;
    }
}
