//! Collections in memory.

use std::collections::BTreeSet;
use std::sync::Mutex;

use async_trait::async_trait;
use penstock::api::{CollectionView, Collections, RemoveOutcome};
use penstock::store::{Page, StoreError};

/// What the configuration names.
pub const CONFIGURED: &str = "app.bsky.actor.profile";

/// The job of whatever is added.
pub const JOB: u64 = 1_795_945_745_049_108;

/// Those that were added.
#[derive(Default)]
pub struct FakeCollections {
    added: Mutex<BTreeSet<String>>,
    /// The last one that was removed, and whether with its records.
    pub removed: Mutex<Option<(String, bool)>>,
}

#[async_trait]
impl Collections for FakeCollections {
    async fn list(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<CollectionView>, StoreError> {
        let mut names = self.added.lock().unwrap().clone();
        names.insert(CONFIGURED.to_owned());
        let left: Vec<String> = names
            .into_iter()
            .filter(|name| cursor.is_none_or(|cursor| name.as_str() > cursor))
            .collect();
        let more = left.len() > limit;
        let items: Vec<CollectionView> = left
            .into_iter()
            .take(limit)
            .map(|nsid| CollectionView {
                configured: nsid == CONFIGURED,
                purging: false,
                nsid,
            })
            .collect();
        let cursor = items.last().filter(|_| more).map(|last| last.nsid.clone());
        Ok(Page { items, cursor })
    }

    async fn add(
        &self,
        nsid: &str,
        backfill: bool,
        _origin: &str,
    ) -> Result<Option<u64>, StoreError> {
        let is_new = self.added.lock().unwrap().insert(nsid.to_owned());
        Ok((is_new && backfill).then_some(JOB))
    }

    async fn remove(&self, nsid: &str, purge: bool) -> Result<RemoveOutcome, StoreError> {
        if nsid == CONFIGURED {
            return Ok(RemoveOutcome::Configured);
        }
        self.added.lock().unwrap().remove(nsid);
        *self.removed.lock().unwrap() = Some((nsid.to_owned(), purge));
        Ok(RemoveOutcome::Removed)
    }
}
