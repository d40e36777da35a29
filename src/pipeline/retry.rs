//! Takes a quarantined frame in after all, once the fault is mended.
//!
//! In two steps, so that many frames wait once for the store's sync: [`take_in`] each, then [`release`] all.

use std::time::Duration;

use super::Source;
use super::writes::{Counts, Writer};
use crate::config::CollectionFilter;
use crate::decode::{DecodeOptions, Decoder};
use crate::store::{Repair, RepairKind, Store, StoreError, WriteBatch};

/// A frame older than this is not taken in any more: what it would write could have been cleaned up since.
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

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
    pub collections: CollectionFilter,
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
    let outcome = if age > MAX_AGE {
        batch.put_repair(repair(entry.did.unwrap_or_default(), id));
        Outcome::Repair
    } else {
        let source = Source {
            relay: entry.source,
            generation: 0,
        };
        let (collections, json) = (&options.collections, options.json);
        let writer = Writer {
            source: &source,
            collections,
            json,
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
