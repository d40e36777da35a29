//! The store that the workers of this binary write to: the one in memory.

use std::any::Any;
use std::sync::Arc;

use penstock::store::Store;
use penstock::store::memory::MemoryStore;

/// What must live as long as a store.
pub type Home = Arc<dyn Any + Send + Sync>;

/// An empty store and its home; `None`, and a word on it, where there can't be one.
pub async fn empty() -> Option<(Arc<dyn Store>, Home)> {
    Some((Arc::new(MemoryStore::new()), Arc::new(())))
}
