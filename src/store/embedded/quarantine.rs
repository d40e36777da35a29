//! Quarantined frames: rows in the order of receipt, and their bytes beside them within a bound.
//!
//! ```text
//! quarantine      received(8) id -> row, JSON
//! quarantine_raw  received(8) id -> the frame, until it is evicted
//! quarantine_ids  id             -> received(8)
//! meta            quarantine_bytes -> total length of the frames that are held
//! ```
//!
//! The total is written with the rows that change it. Eviction follows in a batch of its own: killed between the two, the
//! next eviction catches up.

use std::collections::HashSet;
use std::ops::Bound;
use std::sync::atomic::Ordering;

use fjall::{OwnedWriteBatch, Readable, UserKey};

use super::engine::Engine;
use super::reader::View;
use crate::store::limits::page_limit;
use crate::store::{Page, QuarantineEntry, Quarantined, StoreError};

impl Engine {
    /// Adds rows to a batch, but for those that are held; gives the total length of frames once it is committed.
    pub(super) fn stage_quarantined(
        &self,
        batch: &mut OwnedWriteBatch,
        rows: &[Quarantined],
    ) -> Result<u64, StoreError> {
        let mut total = self.quarantine_bytes.load(Ordering::Relaxed);
        let mut staged = HashSet::new();
        for row in rows {
            let held = self.quarantine_ids.contains_key(&row.id);
            if held.map_err(|error| self.error(error))? || !staged.insert(row.id.as_str()) {
                continue;
            }
            let key = key(row.received, &row.id);
            let entry = json(&row.entry())?;
            batch.insert(&self.quarantine, key.as_slice(), entry);
            if row.evicted.is_none() {
                batch.insert(&self.quarantine_raw, key.as_slice(), row.raw.as_slice());
            }
            batch.insert(
                &self.quarantine_ids,
                row.id.as_str(),
                row.received.to_be_bytes(),
            );
            total += row.raw.len() as u64;
        }
        self.put_quarantine_bytes(batch, total);
        Ok(total)
    }

    /// Drops the oldest frames until the rest is within the bound. Their rows stay.
    pub(super) fn evict(&self, max_bytes: u64) -> Result<(), StoreError> {
        let mut total = self.quarantine_bytes.load(Ordering::Relaxed);
        if total <= max_bytes {
            return Ok(());
        }
        let mut batch = self.db.batch();
        for row in self.quarantine_raw.iter() {
            if total <= max_bytes {
                break;
            }
            let (key, raw) = row.into_inner().map_err(|error| self.error(error))?;
            let mut entry = self.entry(&key)?;
            entry.evicted = true;
            batch.insert(&self.quarantine, key.clone(), json(&entry)?);
            batch.remove(&self.quarantine_raw, key);
            total = total.saturating_sub(raw.len() as u64);
        }
        self.put_quarantine_bytes(&mut batch, total);
        batch.commit().map_err(|error| self.error(error))?;
        self.quarantine_bytes.store(total, Ordering::Relaxed);
        Ok(())
    }

    /// Removes a row and its frame.
    pub(super) fn release(&self, id: &str) -> Result<(), StoreError> {
        let received = self
            .quarantine_ids
            .get(id)
            .map_err(|error| self.error(error))?;
        let Some(received) = received else {
            return Ok(());
        };
        let key = [&received, id.as_bytes()].concat();
        let raw = self
            .quarantine_raw
            .size_of(&key)
            .map_err(|error| self.error(error))?;
        let total = self.quarantine_bytes.load(Ordering::Relaxed);
        let total = total.saturating_sub(u64::from(raw.unwrap_or_default()));
        let mut batch = self.db.batch();
        batch.remove(&self.quarantine, key.as_slice());
        batch.remove(&self.quarantine_raw, key.as_slice());
        batch.remove(&self.quarantine_ids, id);
        self.put_quarantine_bytes(&mut batch, total);
        batch.commit().map_err(|error| self.error(error))?;
        self.quarantine_bytes.store(total, Ordering::Relaxed);
        Ok(())
    }

    fn entry(&self, key: &UserKey) -> Result<QuarantineEntry, StoreError> {
        let entry = self
            .quarantine
            .get(key)
            .map_err(|error| self.error(error))?;
        let entry = entry.and_then(|entry| serde_json::from_slice(&entry).ok());
        entry.ok_or_else(|| self.corrupt("quarantine"))
    }
}

impl View<'_> {
    /// A page of rows, oldest first.
    pub(super) fn quarantine(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<QuarantineEntry>, StoreError> {
        let limit = page_limit(limit);
        let from = match cursor {
            Some(cursor) => Bound::Excluded(position(cursor)?),
            None => Bound::Unbounded,
        };
        let rows = self
            .snapshot
            .range(&self.engine.quarantine, (from, Bound::Unbounded));
        let mut items = Vec::new();
        for row in rows.take(limit + 1) {
            let value = row.value().map_err(|error| self.engine.error(error))?;
            let entry: QuarantineEntry =
                serde_json::from_slice(&value).map_err(|_| self.engine.corrupt("quarantine"))?;
            items.push(entry);
        }
        let more = items.len() > limit;
        items.truncate(limit);
        let last = items.last().filter(|_| more);
        let cursor = last.map(|last| format!("{}/{}", last.received, last.id));
        Ok(Page { items, cursor })
    }

    /// One row with its frame.
    pub(super) fn quarantined(
        &self,
        id: &str,
    ) -> Result<Option<(QuarantineEntry, Vec<u8>)>, StoreError> {
        let get = |keyspace, key: &[u8]| {
            let value = self.snapshot.get(keyspace, key);
            value.map_err(|error| self.engine.error(error))
        };
        let Some(received) = get(&self.engine.quarantine_ids, id.as_bytes())? else {
            return Ok(None);
        };
        let key = [&received, id.as_bytes()].concat();
        let entry = get(&self.engine.quarantine, &key)?;
        let entry = entry.and_then(|entry| serde_json::from_slice(&entry).ok());
        let entry = entry.ok_or_else(|| self.engine.corrupt("quarantine"))?;
        let raw = get(&self.engine.quarantine_raw, &key)?;
        Ok(Some((
            entry,
            raw.map(|raw| raw.to_vec()).unwrap_or_default(),
        )))
    }
}

fn key(received: u64, id: &str) -> Vec<u8> {
    [&received.to_be_bytes(), id.as_bytes()].concat()
}

fn position(cursor: &str) -> Result<Vec<u8>, StoreError> {
    let read = || {
        let (received, id) = cursor.split_once('/')?;
        Some(key(received.parse().ok()?, id))
    };
    read().ok_or_else(|| StoreError::Query(format!("{cursor:?} is no cursor of the quarantine")))
}

/// A row as JSON.
pub(super) fn json<T: serde::Serialize>(row: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(row).map_err(|error| StoreError::Failed(error.to_string()))
}
