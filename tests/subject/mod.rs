//! A store as a test of every store sees it.
#![allow(dead_code, reason = "each test binary that includes this uses a part")]

pub mod embedded;
pub mod memory;

use std::sync::Arc;

use penstock::store::Store;

/// What may be asked of a store beyond what all have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is this process's own: repositories are listed by DID, the quarantine by arrival, and what it counts is true at once.
    Local,
    /// A database: repositories come in an order of its own (the records of one are ordered all the same), the quarantine is
    /// ordered by day, and what it counts becomes true in a while.
    Database,
}

/// A store under test, empty when a history begins.
pub trait Subject {
    /// What failures call it.
    const NAME: &str;
    /// What more may be asked of it.
    const KIND: Kind;

    /// The store as it is open now.
    fn store(&self) -> Arc<dyn Store>;

    /// The same as another process reads it, where that is not the same.
    fn reader(&self) -> Arc<dyn Store> {
        self.store()
    }

    /// Merges all that it has on disk, where that is worth its time.
    async fn compact(&mut self);

    /// Closes it and opens it again.
    async fn reopen(&mut self);

    /// Sweeps the index of collections and gives the number of rows that are left in it; `None` where the store has no sweep.
    async fn sweep(&mut self) -> Option<usize>;
}
