//! `records_by_collection`: hints at what is new in a collection, and the sweep that removes those which came to nothing.
//!
//! A hint is written with each upsert and names its exact write. It holds only while that write is the newest of its
//! record, not deleted and not covered; readers confirm each. Versions only grow, so a hint that failed once fails for
//! ever and may go, but exactly the hint that was seen: a newer one of the same record has another key. The sweep looks
//! at hints at a low rate; the writer confirms again before it removes, since only then no batch is half visible.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use fjall::Readable;
use tokio::sync::mpsc;

use super::engine::Engine;
use super::keys::{DID, behind, push_newest_rkey, split_collection, take_newest_rkey};
use super::reader::{Newest, View};
use super::rows::did_key;
use super::writer::Job;
use crate::store::limits::page_limit;
use crate::store::{IndexEntry, Page, StoreError};

/// Hints that one question looks at before it gives back what it has.
const LOOKS: usize = 20_000;
/// Hints that one step of the sweep looks at.
const SWEEP_STEP: usize = 256;
/// Time between two steps of the sweep.
const SWEEP_PAUSE: Duration = Duration::from_millis(100);

/// A hint as its key says it.
struct Hint<'a> {
    collection: &'a [u8],
    rkey: String,
    did: String,
    rank: &'a [u8],
}

fn read_hint(key: &[u8]) -> Option<Hint<'_>> {
    let (collection, rest) = split_collection(key)?;
    let (rkey, rest) = take_newest_rkey(rest)?;
    let (did, rank) = DID.split(rest)?;
    Some(Hint {
        collection,
        rkey,
        did: DID.text(did)?,
        rank,
    })
}

impl View<'_> {
    /// The write that a hint names, if it is what the record is now.
    fn confirm(&self, hint: &Hint<'_>) -> Result<Option<Newest>, StoreError> {
        let newest = self.newest_write(&hint.did, hint.collection, &hint.rkey)?;
        let Some(newest) = newest.filter(|newest| newest.tail.starts_with(hint.rank)) else {
            return Ok(None);
        };
        let cover = self.cover(&hint.did, hint.collection)?;
        let covered = cover.is_some_and(|cover| newest.rank.version <= cover);
        Ok((!covered && !newest.rank.delete).then_some(newest))
    }

    /// Whether a hint came to nothing.
    pub(super) fn hint_failed(&self, key: &[u8]) -> Result<bool, StoreError> {
        let hint = read_hint(key).ok_or_else(|| self.engine.corrupt("records_by_collection"))?;
        Ok(self.confirm(&hint)?.is_none())
    }

    /// What is new in a collection.
    pub(super) fn newest(
        &self,
        collection: &str,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Page<IndexEntry>, StoreError> {
        let limit = page_limit(limit);
        let mut items: Vec<IndexEntry> = Vec::new();
        let Some(code) = self.engine.collection(collection) else {
            return Ok(Page {
                items,
                cursor: None,
            });
        };
        let from = start(&code, cursor)?;
        let to = behind(&code).map_or(Bound::Unbounded, Bound::Excluded);
        let mut last_seen: Option<String> = None;
        let hints = self.snapshot.range(&self.engine.hints, (from, to));
        for (looked, row) in hints.enumerate() {
            let key = row.key().map_err(|error| self.engine.error(error))?;
            let hint = read_hint(&key).ok_or_else(|| self.engine.corrupt("hints"))?;
            let at = format!("{}/{}", hint.rkey, hint.did);
            if looked >= LOOKS && last_seen.as_ref().is_some_and(|seen| *seen != at) {
                let cursor = last_seen;
                return Ok(Page { items, cursor });
            }
            last_seen = Some(at);
            if let Some(newest) = self.confirm(&hint)?
                && self.visible(&hint.did)?
            {
                let record = self.shown(&hint.did, collection, &hint.rkey, &newest, None, false)?;
                items.extend(record.map(|record| IndexEntry {
                    did: record.did,
                    rkey: record.rkey,
                    cid: record.cid,
                    rev: record.rev,
                }));
            }
            if items.len() > limit {
                break;
            }
        }
        let more = items.len() > limit;
        items.truncate(limit);
        let last = items.last().filter(|_| more);
        let cursor = last.map(|last| format!("{}/{}", last.rkey, last.did));
        Ok(Page { items, cursor })
    }

    fn visible(&self, did: &str) -> Result<bool, StoreError> {
        Ok(self.status(did)?.is_none_or(|(_, status)| status.active))
    }
}

fn start(code: &[u8], cursor: Option<&str>) -> Result<Bound<Vec<u8>>, StoreError> {
    let mut key = code.to_vec();
    let Some(cursor) = cursor else {
        return Ok(Bound::Included(key));
    };
    let (rkey, did) = cursor
        .split_once('/')
        .ok_or_else(|| StoreError::Query(format!("{cursor:?} is no cursor of an index")))?;
    push_newest_rkey(&mut key, rkey);
    key.extend(did_key(did));
    Ok(behind(&key).map_or(Bound::Excluded(key), Bound::Included))
}

/// Time between two passes over the index.
const PASS_PAUSE: Duration = Duration::from_secs(60);

/// Sweeps until `stop` closes.
pub(super) fn sweep(engine: &Arc<Engine>, jobs: &mpsc::Sender<Job>, stop: &Receiver<()>) {
    let mut from = Bound::Unbounded;
    let mut pause = SWEEP_PAUSE;
    while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(pause) {
        if jobs.capacity() < jobs.max_capacity() {
            continue; // writes come first
        }
        match step(engine, from) {
            Ok((failed, next)) => {
                pause = match next {
                    Bound::Unbounded => PASS_PAUSE,
                    _ => SWEEP_PAUSE,
                };
                from = next;
                if !failed.is_empty() && jobs.blocking_send(Job::DropHints(failed)).is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the sweep of the index stopped");
                return;
            }
        }
    }
}

/// Hints that failed, and where to go on.
type Step = (Vec<Vec<u8>>, Bound<Vec<u8>>);

/// Hints of one step that failed, and where the next step starts.
pub(super) fn step(engine: &Engine, from: Bound<Vec<u8>>) -> Result<Step, StoreError> {
    let view = View::of(engine);
    let mut failed = Vec::new();
    let mut next = Bound::Unbounded;
    let rows = view.snapshot.range(&engine.hints, (from, Bound::Unbounded));
    for (looked, row) in rows.enumerate() {
        let key = row.key().map_err(|error| engine.error(error))?;
        if view.hint_failed(&key)? {
            failed.push(key.to_vec());
        }
        if looked + 1 == SWEEP_STEP {
            next = Bound::Excluded(key.to_vec());
            break;
        }
    }
    Ok((failed, next))
}
