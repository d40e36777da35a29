//! A store as a test of every store sees it.
#![allow(dead_code, reason = "each test binary that includes this uses a part")]

pub mod embedded;
pub mod memory;

use std::sync::Arc;

use penstock::store::Store;

/// In what order a store lists repositories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// By DID.
    ByDid,
    /// In one of its own. The records of a repository are ordered all the same.
    Own,
}

/// A store under test, empty when a history begins.
pub trait Subject {
    /// What failures call it.
    const NAME: &str;
    /// How it lists.
    const ORDER: Order;

    /// The store as it is open now.
    fn store(&self) -> Arc<dyn Store>;

    /// Merges all that it has on disk, where that is worth its time.
    async fn compact(&mut self);

    /// Closes it and opens it again.
    async fn reopen(&mut self);

    /// Sweeps the index of collections and gives the number of rows that are left in it; `None` where the store has no sweep.
    async fn sweep(&mut self) -> Option<usize>;
}
