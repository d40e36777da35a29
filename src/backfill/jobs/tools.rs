//! What every job works with.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::followed::Followed;
use crate::backfill::limits::Limits;
use crate::backfill::snapshot::Budget;
use crate::clock::Clock;
use crate::config::AccountAction;
use crate::fetch::Fetcher;
use crate::identity::Identities;
use crate::store::Store;
use crate::store::indexed::Indexed;

/// What stays as it was at the start.
#[derive(Debug, Clone)]
pub struct JobOptions {
    /// Whether JSON is stored beside records.
    pub json: bool,
    /// Whether signatures of commits are checked.
    pub signatures: bool,
    /// What happens to records of deleted accounts,
    pub on_deleted: AccountAction,
    /// and to those of accounts that were taken down.
    pub on_takedown: AccountAction,
    /// Origins of the relays, the first one first.
    pub relays: Vec<String>,
    /// DIDs that only jobs that name them fetch.
    pub skip_dids: HashSet<String>,
    /// Where repositories go that don't fit into memory.
    pub temp_dir: PathBuf,
}

/// What every job works with.
pub struct Tools {
    /// Where records go.
    pub store: Arc<dyn Store>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Outbound HTTP.
    pub fetcher: Fetcher,
    /// DID documents.
    pub identities: Identities,
    /// Memory of all fetches together.
    pub budget: Budget,
    /// Snapshots and removals of one DID run one at a time.
    pub locks: DidLocks,
    /// Which collections are wanted: who writes reads it while the DID is locked, so that a removal comes before or after.
    pub indexed: Indexed,
    /// Which of them all workers take in.
    pub followed: Followed,
    /// What stays as it was at the start.
    pub options: JobOptions,
    /// What may change: read it where it is used.
    pub limits: Limits,
}

/// A lock per DID that is being written.
#[derive(Debug, Default)]
pub struct DidLocks(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

/// Held while a repository is written.
pub type DidGuard = tokio::sync::OwnedMutexGuard<()>;

impl DidLocks {
    /// Waits until nobody else writes this repository.
    pub async fn lock(&self, did: &str) -> DidGuard {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if locks.len() > 4096 {
                locks.retain(|_, lock| lock.strong_count() > 0);
            }
            match locks.get(did).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(tokio::sync::Mutex::new(()));
                    locks.insert(did.to_owned(), Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }
}
