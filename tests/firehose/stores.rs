//! The store that the workers of this binary write to: the one in memory.

use std::sync::Arc;

use penstock::store::Store;
use penstock::store::memory::MemoryStore;

/// An empty store; `None`, and a word on it, where there can't be one.
pub async fn empty() -> Option<Arc<dyn Store>> {
    Some(Arc::new(MemoryStore::new()))
}
