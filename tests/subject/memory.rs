//! The oracle in memory. It merges as it writes, and nothing outlives it.

use std::sync::Arc;

use penstock::store::Store;
use penstock::store::memory::MemoryStore;

use super::{Kind, Subject};

/// A store in memory.
pub struct Memory(pub Arc<MemoryStore>);

impl Memory {
    pub fn empty() -> Self {
        Self(Arc::new(MemoryStore::new()))
    }
}

impl Subject for Memory {
    const NAME: &str = "memory";
    const KIND: Kind = Kind::Local;

    fn store(&self) -> Arc<dyn Store> {
        self.0.clone()
    }

    async fn compact(&mut self) {}

    async fn reopen(&mut self) {}

    async fn sweep(&mut self) -> Option<usize> {
        None
    }
}
