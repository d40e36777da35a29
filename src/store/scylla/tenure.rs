//! The time for which this process holds its lease: from opening the store to closing it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use scylla::client::session::Session;
use tokio_util::sync::CancellationToken;

use super::lease::{Holder, Lease, LeaseOptions};
use super::statements::Levels;
use crate::store::StoreError;

/// What a process asks its lease for.
#[derive(Debug, Clone)]
pub struct LeaseTerms {
    /// Which worker it is.
    pub worker_id: u32,
    /// Of how many; or [`super::lease::ALONE`].
    pub count: u32,
    /// How long the lease holds without being renewed: at least 2 s.
    pub ttl: Duration,
    /// Tells this holder from others on the machine; made if it is not there.
    pub data_dir: PathBuf,
}

/// A lease that is renewed until the end.
pub(super) struct Tenure {
    lease: Arc<Lease>,
    over: CancellationToken,
}

impl Tenure {
    /// Takes the lease, and keeps it.
    ///
    /// # Errors
    ///
    /// As [`Lease::take`] and [`Holder::find`].
    pub async fn begin(
        session: Arc<Session>,
        keyspace: &str,
        levels: Levels,
        terms: &LeaseTerms,
    ) -> Result<Self, StoreError> {
        let (consistency, serial) = levels.transaction();
        let options = LeaseOptions {
            worker_id: terms.worker_id,
            count: terms.count,
            ttl: terms.ttl,
            holder: Holder::find(&terms.data_dir, terms.worker_id)?,
            consistency,
            serial,
        };
        let lease = Lease::take(session, keyspace, options).await?;
        let over = CancellationToken::new();
        // Its end is told by the lease itself.
        tokio::spawn(lease.clone().run(over.clone()));
        Ok(Self { lease, over })
    }

    pub fn lease(&self) -> Arc<Lease> {
        self.lease.clone()
    }

    /// Whether the lease holds now.
    pub fn holds(&self) -> bool {
        self.lease.valid()
    }

    /// Resolves with the reason once another process has the lease.
    pub async fn lost(&self) -> StoreError {
        self.lease.ended().await
    }

    /// Gives the lease back, after the last write.
    pub async fn end(&self) {
        self.over.cancel();
        self.lease.release().await;
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        self.over.cancel();
    }
}
