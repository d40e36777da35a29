//! What an installation keeps its records in.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use penstock::store::Store;
use penstock::store::embedded::{EmbeddedOptions, EmbeddedStore};

/// A kind of store, as a person chooses and reaches it.
#[async_trait]
pub trait Backend: Send + Sync {
    /// What sets a penstock process to it.
    fn variables(&self) -> Vec<(&'static str, String)>;

    /// Opens it from this process while no daemon runs, to look into it; `None` where none was made yet.
    async fn open(&self, data: &Path) -> Option<Arc<dyn Store>>;
}

/// The embedded store, in the installation's own folder.
pub struct Embedded;

#[async_trait]
impl Backend for Embedded {
    fn variables(&self) -> Vec<(&'static str, String)> {
        vec![("PENSTOCK_STORE__EMBEDDED__MIN_FREE", "16MiB".to_owned())]
    }

    async fn open(&self, data: &Path) -> Option<Arc<dyn Store>> {
        if !EmbeddedStore::is_in(data).expect("a look") {
            return None;
        }
        let options = EmbeddedOptions {
            min_free: 0,
            ..EmbeddedOptions::new(data)
        };
        let store = EmbeddedStore::open(options).unwrap_or_else(|error| panic!("{error}"));
        Some(Arc::new(store))
    }
}
