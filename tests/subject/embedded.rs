//! The embedded store.

use std::path::Path;
use std::sync::Arc;

use penstock::store::Store;
use penstock::store::embedded::{EmbeddedOptions, EmbeddedStore};

use super::{Kind, Subject};

/// A store in a folder of its own.
pub struct Embedded {
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
    pub async fn empty() -> Self {
        let dir = memory_dir();
        let store = Some(open(dir.path()));
        Self { dir, store }
    }

    /// The store, also for what only this one has.
    pub fn open(&self) -> &Arc<EmbeddedStore> {
        self.store.as_ref().unwrap()
    }
}

fn open(dir: &Path) -> Arc<EmbeddedStore> {
    let options = EmbeddedOptions {
        min_free: 0,
        ..EmbeddedOptions::new(dir)
    };
    Arc::new(EmbeddedStore::open(options).unwrap())
}

impl Subject for Embedded {
    const NAME: &str = "embedded";
    const KIND: Kind = Kind::Local;

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
