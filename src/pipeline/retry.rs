//! Takes a quarantined frame in after all, once the fault is mended.

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
    /// It was decoded and is stored; its row is gone.
    TakenIn,
    /// It still fails.
    StillBad {
        /// Why.
        reason: String,
    },
    /// It is too old, or its bytes are gone: a repair of its repository waits instead. The row stays.
    Repair {
        /// Why.
        reason: String,
    },
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

/// Decodes a quarantined frame again and stores what it says. Safe to repeat: writes commute.
pub async fn retry(
    store: &dyn Store,
    options: &RetryOptions,
    id: &str,
    now: u64,
) -> Result<Outcome, StoreError> {
    let Some((entry, raw)) = store.quarantined(id).await? else {
        return Ok(Outcome::NotFound);
    };
    let age = Duration::from_micros(now.saturating_sub(entry.received));
    let source = Source {
        relay: entry.source.clone(),
        generation: 0,
    };
    let mut batch = WriteBatch::new();
    let hopeless = if entry.evicted {
        Some("its bytes were dropped to keep the quarantine within quarantine.max_bytes")
    } else if age > MAX_AGE {
        Some("it is older than 7 days")
    } else {
        None
    };
    if let Some(reason) = hopeless {
        batch.put_repair(Repair {
            did: entry.did.unwrap_or_default(),
            id: format!("quarantine/{id}"),
            kind: RepairKind::Content,
            reason: "quarantined".to_owned(),
            version: 0,
        });
        store.apply(batch).await?;
        return Ok(Outcome::Repair {
            reason: reason.to_owned(),
        });
    }
    let writer = Writer {
        source: &source,
        collections: &options.collections,
        json: options.json,
        now,
    };
    if let Err(reason) = decode_into(&writer, options, &raw, &mut batch) {
        return Ok(Outcome::StillBad { reason });
    }
    store.apply(batch).await?;
    store.release_quarantined(id).await?;
    Ok(Outcome::TakenIn)
}

fn decode_into(
    writer: &Writer<'_>,
    options: &RetryOptions,
    raw: &[u8],
    batch: &mut WriteBatch,
) -> Result<(), String> {
    let mut decoder = Decoder::new(options.decode.clone());
    let event = decoder
        .decode(raw, writer.now)
        .map_err(|error| format!("{}: {}", error.reason.as_str(), error.detail))?;
    writer.event(&event, &mut Vec::new(), batch, &mut Counts::default());
    Ok(())
}
