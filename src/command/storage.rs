//! Opens the store that the configuration names: the embedded one, or the CQL store once nodes are set.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::config::{Config, Secret};
use crate::relay;
use crate::slot::SlotSet;
use crate::store::embedded::{EmbeddedOptions, EmbeddedStore};
use crate::store::scylla::lease::ALONE;
use crate::store::scylla::{LeaseTerms, ScyllaOptions, ScyllaStore};
use crate::store::{Store, StoreError};

/// Whether it is the CQL store.
pub(super) fn is_cql(config: &Config) -> bool {
    !config.store.scylla.nodes.is_empty()
}

/// What the store is, for people.
pub(super) fn name(config: &Config) -> String {
    let (cql, dir) = (&config.store.scylla, config.store.embedded.dir.display());
    match is_cql(config) {
        true => format!("the keyspace {} of {}", cql.keyspace, cql.nodes.join(",")),
        false => dir.to_string(),
    }
}

/// Opens the store as the worker that is configured, and makes it where there is none. Of several workers, worker 0 makes it.
pub(super) async fn open_for_worker(config: &Config) -> Result<Arc<dyn Store>, StoreError> {
    if !is_cql(config) {
        return open_embedded(config).await;
    }
    let worker = &config.worker;
    let options = ScyllaOptions {
        slots: SlotSet::owned_by(worker.id, worker.count),
        create: worker.id == 0,
        lease: Some(lease(config, worker.id, u32::from(worker.count))),
        ..cql_options(config)?
    };
    Ok(Arc::new(ScyllaStore::open(options).await?))
}

/// Opens the store with nobody beside this process, and makes it where there is none.
pub(super) async fn open_alone(config: &Config) -> Result<Arc<dyn Store>, StoreError> {
    if !is_cql(config) {
        return open_embedded(config).await;
    }
    let options = ScyllaOptions {
        create: true,
        lease: Some(lease(config, 0, ALONE)),
        ..cql_options(config)?
    };
    Ok(Arc::new(ScyllaStore::open(options).await?))
}

/// Opens the store for a command that looks after nothing; `None` where there is none.
pub(super) async fn open_existing(config: &Config) -> Result<Option<Arc<dyn Store>>, StoreError> {
    if is_cql(config) {
        let store = ScyllaStore::open_existing(cql_options(config)?).await?;
        return Ok(store.map(|store| Arc::new(store) as Arc<dyn Store>));
    }
    match EmbeddedStore::is_in(&config.store.embedded.dir)? {
        true => open_embedded(config).await.map(Some),
        false => Ok(None),
    }
}

fn lease(config: &Config, worker_id: u16, count: u32) -> LeaseTerms {
    LeaseTerms {
        worker_id: u32::from(worker_id),
        count,
        ttl: config.store.scylla.lease,
        data_dir: config.store.embedded.dir.clone(),
    }
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

/// What the configuration says of the CQL store, for one that makes nothing and looks after nothing. Reads the password's
/// file.
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
        slots: SlotSet::default(),
        create: false,
        lease: None,
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
