//! Convergence: the same writes in any order, any number of times, from several workers, give the same store, and the
//! embedded store says the same as the oracle in memory, also after it was closed, opened and compacted.
//!
//! `PENSTOCK_TEST_SCALE` multiplies the number of histories (default 1: 200 of them); `PENSTOCK_TEST_SEED` chooses them.

mod histories;

use std::sync::Arc;

use histories::{Order, Subject};
use penstock::store::Store;
use penstock::store::embedded::{EmbeddedOptions, EmbeddedStore};

/// A store in a folder of its own.
struct Embedded {
    dir: tempfile::TempDir,
    store: Option<Arc<EmbeddedStore>>,
}

/// In memory where there is such a place: syncs are not what is tested here.
fn memory_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

impl Embedded {
    async fn empty() -> Self {
        let dir = memory_dir();
        let store = Some(open(dir.path()));
        Self { dir, store }
    }

    fn open(&self) -> &Arc<EmbeddedStore> {
        self.store.as_ref().unwrap()
    }
}

fn open(dir: &std::path::Path) -> Arc<EmbeddedStore> {
    let options = EmbeddedOptions {
        min_free: 0,
        ..EmbeddedOptions::new(dir)
    };
    Arc::new(EmbeddedStore::open(options).unwrap())
}

impl Subject for Embedded {
    const NAME: &str = "embedded";
    const ORDER: Order = Order::ByDid;

    fn store(&self) -> Arc<dyn Store> {
        self.open().clone()
    }

    async fn compact(&mut self) {
        self.open().compact().unwrap();
    }

    async fn reopen(&mut self) {
        self.open().close().await.unwrap();
        // The folder is free once nobody has the store any more.
        self.store = None;
        self.store = Some(open(self.dir.path()));
    }

    async fn sweep(&mut self) -> Option<usize> {
        self.open().sweep().await.unwrap();
        let (_, hints, _) = self.open().count_rows().unwrap();
        Some(hints)
    }
}

#[test]
fn any_order_of_any_history_gives_the_same_store() {
    histories::any_order_of_any_history_gives_the_same_store(200, Embedded::empty);
}
