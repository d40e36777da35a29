//! Opens the store that the configuration names: the embedded one, or the CQL store once nodes are set.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::config::{Config, Secret};
use crate::relay;
use crate::slot::SlotSet;
use crate::store::embedded::{EmbeddedOptions, EmbeddedStore};
use crate::store::scylla::{ScyllaOptions, ScyllaStore};
use crate::store::{Store, StoreError};

/// Whether it is the CQL store.
pub(super) fn is_cql(config: &Config) -> bool {
    !config.store.scylla.nodes.is_empty()
}

/// Opens the store, and makes it where there is none. Of several workers, worker 0 makes it.
pub(super) async fn open(config: &Config) -> Result<Arc<dyn Store>, StoreError> {
    if is_cql(config) {
        let options = cql_options(config)?;
        return Ok(Arc::new(ScyllaStore::open(options).await?));
    }
    open_embedded(config).await
}

/// Opens the store; `None` where there is none.
pub(super) async fn open_existing(config: &Config) -> Result<Option<Arc<dyn Store>>, StoreError> {
    if !is_cql(config) && !EmbeddedStore::is_in(&config.store.embedded.dir)? {
        return Ok(None);
    }
    open(config).await.map(Some)
}

async fn open_embedded(config: &Config) -> Result<Arc<dyn Store>, StoreError> {
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

/// What the configuration says of the CQL store. Reads the password's file.
pub(super) fn cql_options(config: &Config) -> Result<ScyllaOptions, StoreError> {
    let keys = &config.store.scylla;
    let user = match (&keys.user, &keys.password_file) {
        (Some(user), Some(file)) => Some((user.clone(), password(file)?)),
        _ => None,
    };
    let tls = || relay::tls_config(config.net.ca_file.as_deref());
    let tls = keys.tls.then(tls).transpose();
    Ok(ScyllaOptions {
        nodes: keys.nodes.clone(),
        keyspace: keys.keyspace.clone(),
        user,
        tls: tls.map_err(|error| StoreError::Denied(error.to_string()))?,
        datacenter: keys.datacenter.clone(),
        replication: keys.replication.clone(),
        consistency: keys.consistency,
        in_flight: keys.in_flight,
        request_timeout: keys.request_timeout,
        connect_timeout: keys.connect_timeout,
        sync_lag: keys.sync_lag,
        cdc: keys.cdc,
        index: config.store.index,
        quarantine_max_bytes: config.quarantine.max_bytes,
        slots: SlotSet::owned_by(config.worker.id, config.worker.count),
        create: config.worker.id == 0,
    })
}

fn password(file: &Path) -> Result<Secret, StoreError> {
    let text = fs::read_to_string(file).map_err(|error| {
        let file = file.display();
        StoreError::Denied(format!("store.scylla.password_file {file}: {error}"))
    })?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Secret::new(line.strip_suffix('\r').unwrap_or(line)))
}
