//! Opens the embedded store that the configuration names.

use std::sync::Arc;

use crate::config::Config;
use crate::store::embedded::{EmbeddedOptions, EmbeddedStore};
use crate::store::{Store, StoreError};

/// Opens the store, and makes it where there is none.
pub(super) async fn open(config: &Config) -> Result<Arc<dyn Store>, StoreError> {
    let keys = &config.store.embedded;
    let options = EmbeddedOptions {
        min_free: keys.min_free,
        index: config.store.index,
        sync_interval: keys.sync_interval,
        cache_bytes: keys.cache,
        write_buffer_bytes: keys.write_buffer,
        quarantine_max_bytes: config.quarantine.max_bytes,
        ..EmbeddedOptions::new(&keys.dir)
    };
    let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(options)).await;
    match opened {
        Ok(store) => Ok(Arc::new(store?)),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Opens the store; `None` where there is none.
pub(super) async fn open_existing(config: &Config) -> Result<Option<Arc<dyn Store>>, StoreError> {
    if !EmbeddedStore::is_in(&config.store.embedded.dir)? {
        return Ok(None);
    }
    open(config).await.map(Some)
}
