//! Takes a quarantined frame in after all, once the fault is mended.
//!
//! In two steps, so that many frames wait once for the store's sync: [`take_in`] each, then [`release`] all.

use std::sync::Arc;
use std::time::Duration;

use super::Source;
use super::writes::{Counts, Writer};
use crate::config::CollectionFilter;
use crate::decode::{DecodeOptions, Decoder};
use crate::store::{Repair, RepairKind, STORE_REFUSED, Store, StoreError, WriteBatch};

/// A frame older than this is not taken in any more: what it would write could have been cleaned up since.
const MAX_AGE: Duration = crate::store::LONGEST_REPLAY;

/// What became of a quarantined frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was decoded and is stored; its row goes by [`release`].
    Applied,
    /// It still fails; its row stays.
    Refused {
        /// The label.
        reason: &'static str,
        /// What exactly is wrong.
        detail: String,
    },
    /// It is too old to be taken in: a repair of its repository waits instead; its row goes by [`release`].
    Repair,
    /// Its bytes were dropped to keep the quarantine within its bound; its repair stands.
    Evicted,
    /// There is no such row.
    NotFound,
}

/// How frames are taken in.
#[derive(Debug, Clone)]
pub struct RetryOptions {
    /// How frames are checked.
    pub decode: DecodeOptions,
    /// Which collections are stored.
    pub collections: Arc<CollectionFilter>,
    /// Whether the JSON of a record is stored beside it.
    pub json: bool,
}

/// Decodes a quarantined frame again and stores what it says. Safe to repeat: writes commute, and the row stays until it is
/// released.
pub async fn take_in(
    store: &dyn Store,
    options: &RetryOptions,
    id: &str,
    now: u64,
) -> Result<Outcome, StoreError> {
    let Some((entry, raw)) = store.quarantined(id).await? else {
        return Ok(Outcome::NotFound);
    };
    if entry.evicted {
        return Ok(Outcome::Evicted);
    }
    let age = Duration::from_micros(now.saturating_sub(entry.received));
    let mut batch = WriteBatch::new();
    // What the store refused is a record, not a frame.
    let is_frame = entry.reason != STORE_REFUSED;
    let outcome = if age > MAX_AGE || !is_frame {
        batch.put_repair(repair(entry.did.unwrap_or_default(), id));
        Outcome::Repair
    } else {
        let source = Source {
            relay: entry.source,
            generation: 0,
            collections: options.collections.clone(),
        };
        let writer = Writer {
            source: &source,
            json: options.json,
            now,
        };
        let mut decoder = Decoder::new(options.decode);
        match decoder.decode(&raw, now) {
            Ok(event) => {
                writer.event(&event, &mut Vec::new(), &mut batch, &mut Counts::default());
                Outcome::Applied
            }
            Err(error) => {
                let (reason, detail) = (error.reason.as_str(), error.detail.into_owned());
                return Ok(Outcome::Refused { reason, detail });
            }
        }
    };
    store.apply(batch).await?;
    Ok(outcome)
}

/// Removes the rows of frames that were taken in, as soon as what they became can't be lost any more.
pub async fn release(store: &dyn Store, ids: &[String]) -> Result<(), StoreError> {
    if ids.is_empty() {
        return Ok(());
    }
    tokio::time::sleep(store.sync_lag()).await;
    for id in ids {
        store.release_quarantined(id).await?;
    }
    Ok(())
}

fn repair(did: String, id: &str) -> Repair {
    Repair {
        did,
        id: format!("quarantine~{id}"),
        kind: RepairKind::Content,
        reason: "quarantined".to_owned(),
        version: 0,
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::store::Quarantined;
    use crate::store::memory::MemoryStore;

    const LAG: Duration = Duration::from_secs(15);

    #[tokio::test]
    async fn a_record_that_the_store_refused_is_fetched_instead() {
        let store = MemoryStore::new();
        let mut batch = WriteBatch::new();
        batch.put_quarantined(Quarantined {
            id: "id".to_owned(),
            received: 1,
            reason: STORE_REFUSED.to_owned(),
            detail: String::new(),
            source: "store".to_owned(),
            seq: None,
            did: Some("did:web:example.com".to_owned()),
            raw: vec![0xa0],
            evicted: None,
        });
        store.apply(batch).await.unwrap();
        let options = RetryOptions {
            decode: DecodeOptions::default(),
            collections: Arc::default(),
            json: false,
        };
        let outcome = take_in(&store, &options, "id", 2).await.unwrap();
        assert_eq!(outcome, Outcome::Repair);
        assert_eq!(store.repairs(None, 10).await.unwrap().items.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn many_rows_wait_for_the_sync_once_and_go_last() {
        let store = MemoryStore::new().with_sync_lag(LAG);
        let mut batch = WriteBatch::new();
        let ids: Vec<String> = (0..50).map(|id| format!("id{id}")).collect();
        for id in &ids {
            batch.put_quarantined(Quarantined {
                id: id.clone(),
                received: 1,
                reason: "truncated".to_owned(),
                detail: String::new(),
                source: "relay.test".to_owned(),
                seq: None,
                did: None,
                raw: vec![1],
                evicted: None,
            });
        }
        store.apply(batch).await.unwrap();
        let options = RetryOptions {
            decode: DecodeOptions::default(),
            collections: Arc::default(),
            json: false,
        };
        // All are too old: each becomes a repair.
        let now = 2 * u64::try_from(MAX_AGE.as_micros()).unwrap();
        for id in &ids {
            let outcome = take_in(&store, &options, id, now).await.unwrap();
            assert_eq!(outcome, Outcome::Repair);
        }
        assert_eq!(store.quarantine(None, 100).await.unwrap().items.len(), 50);
        let began = Instant::now();
        tokio::time::timeout(LAG - Duration::from_millis(1), release(&store, &ids))
            .await
            .expect_err("what they became may still be lost");
        assert_eq!(store.quarantine(None, 100).await.unwrap().items.len(), 50);
        release(&store, &ids).await.unwrap();
        assert!(began.elapsed() < 3 * LAG, "{:?}", began.elapsed());
        assert_eq!(store.quarantine(None, 100).await.unwrap().items, []);
        assert_eq!(store.repairs(None, 100).await.unwrap().items.len(), 50);
    }
}
