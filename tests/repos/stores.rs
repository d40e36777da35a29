//! The stores that this binary writes to: the one in memory, and the embedded one where a worker is killed.
#![allow(dead_code)]

use std::any::Any;
use std::sync::Arc;

use penstock::store::Store;
use penstock::store::embedded::{EmbeddedOptions, EmbeddedStore};
use penstock::store::memory::MemoryStore;

/// What must live as long as a store.
pub type Home = Arc<dyn Any + Send + Sync>;

/// Repositories of a network with every fault, where the jobs are in this process.
pub const MANY: usize = 2_000;

/// An empty store and its home; `None`, and a word on it, where there can't be one.
pub async fn empty() -> Option<(Arc<dyn Store>, Home)> {
    Some((Arc::new(MemoryStore::new()), Arc::new(())))
}

/// The same of one that outlives a process.
pub async fn lasting() -> Option<(Arc<dyn Store>, Home)> {
    let dir = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions {
        min_free: 1,
        ..EmbeddedOptions::new(dir.path().join("store"))
    };
    let store = EmbeddedStore::open(options).unwrap();
    Some((Arc::new(store), Arc::new(dir)))
}
