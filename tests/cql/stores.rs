//! The store that the workers of this binary write to: one in a keyspace of its own.

use std::any::Any;
use std::sync::Arc;

use penstock::store::Store;

use crate::keyspaces::Keyspace;

/// What must live as long as a store.
pub type Home = Arc<dyn Any + Send + Sync>;

/// Repositories of a network with every fault, where the jobs are in this process.
pub const MANY: usize = 300;

/// An empty store and its home; `None`, and a word on it, where there can't be one.
pub async fn empty() -> Option<(Arc<dyn Store>, Home)> {
    let keyspace = Keyspace::fresh().await?;
    Some((keyspace.open().await, Arc::new(keyspace)))
}

/// The same of one that outlives a process.
pub async fn lasting() -> Option<(Arc<dyn Store>, Home)> {
    empty().await
}
