//! Repairs and facts: small rows that the writer reads before it writes.
//!
//! ```text
//! repairs  slot DID 0 id                        -> JSON
//! facts    relay 0 generation(4) run(8) from(8) -> JSON
//! ```

use std::collections::HashMap;
use std::ops::Bound;

use fjall::{OwnedWriteBatch, Readable};

use super::engine::Engine;
use super::quarantine::json;
use super::reader::View;
use crate::slot::slot_of;
use crate::store::limits::page_limit;
use crate::store::{Fact, Page, REPAIRS_OF, Repair, StoreError};

/// Repairs that a batch adds, and the reasons to count once it is committed.
#[derive(Default)]
pub(super) struct StagedRepairs(HashMap<Vec<u8>, String>);

impl StagedRepairs {
    /// Adds a repair to a batch unless it waits already: it is never overwritten.
    pub(super) fn stage(
        &mut self,
        engine: &Engine,
        batch: &mut OwnedWriteBatch,
        repair: &Repair,
    ) -> Result<(), StoreError> {
        let key = repair_key(&repair.did, &repair.id);
        let held = engine.repairs.contains_key(&key);
        if held.map_err(|error| engine.error(error))? || self.0.contains_key(&key) {
            return Ok(());
        }
        batch.insert(&engine.repairs, key.as_slice(), json(repair)?);
        self.0.insert(key, repair.reason.clone());
        Ok(())
    }

    /// Counts what was committed.
    pub(super) fn committed(self, engine: &Engine) {
        for reason in self.0.values() {
            engine.count_repair(reason, 1);
        }
    }
}

impl Engine {
    /// Deletes exactly these repairs.
    pub(super) fn clear_repairs(&self, repairs: &[Repair]) -> Result<(), StoreError> {
        let mut batch = self.db.batch();
        let mut cleared = HashMap::new();
        for repair in repairs {
            let key = repair_key(&repair.did, &repair.id);
            let held = self.repairs.get(&key).map_err(|error| self.error(error))?;
            let same = held.is_some_and(|held| {
                serde_json::from_slice::<Repair>(&held).is_ok_and(|held| held == *repair)
            });
            if same {
                batch.remove(&self.repairs, key.as_slice());
                cleared.insert(key, repair);
            }
        }
        batch.commit().map_err(|error| self.error(error))?;
        for repair in cleared.values() {
            self.count_repair(&repair.reason, -1);
        }
        Ok(())
    }

    /// Writes facts; one that is held grows, never shrinks.
    pub(super) fn put_facts(&self, facts: &[Fact]) -> Result<(), StoreError> {
        let mut batch = self.db.batch();
        let mut widest: HashMap<Vec<u8>, u64> = HashMap::new();
        for fact in facts {
            let key = fact_key(fact);
            let held = match widest.get(&key) {
                Some(to_seq) => Some(*to_seq),
                None => self.fact_end(&key)?,
            };
            if held.is_none_or(|held| held < fact.to_seq) {
                batch.insert(&self.facts, key.as_slice(), json(fact)?);
                widest.insert(key, fact.to_seq);
            }
        }
        batch.commit().map_err(|error| self.error(error))
    }

    /// Removes facts that have not grown beyond what is given.
    pub(super) fn remove_facts(&self, facts: &[Fact]) -> Result<(), StoreError> {
        let mut batch = self.db.batch();
        for fact in facts {
            let key = fact_key(fact);
            if self.fact_end(&key)?.is_some_and(|held| held <= fact.to_seq) {
                batch.remove(&self.facts, key.as_slice());
            }
        }
        batch.commit().map_err(|error| self.error(error))
    }

    fn fact_end(&self, key: &[u8]) -> Result<Option<u64>, StoreError> {
        let held = self.facts.get(key).map_err(|error| self.error(error))?;
        let read = held.map(|held| serde_json::from_slice::<Fact>(&held));
        let held = read.transpose().map_err(|_| self.corrupt("facts"))?;
        Ok(held.map(|held| held.to_seq))
    }
}

impl View<'_> {
    /// A page of repairs.
    pub(super) fn repairs(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Repair>, StoreError> {
        let limit = page_limit(limit);
        let from = match cursor.map(|cursor| cursor.split_once('/')) {
            None => Bound::Unbounded,
            Some(Some((did, id))) => Bound::Excluded(repair_key(did, id)),
            Some(None) => {
                let cursor = cursor.unwrap_or_default();
                let why = format!("{cursor:?} is no cursor of repairs");
                return Err(StoreError::Query(why));
            }
        };
        let rows = self
            .snapshot
            .range(&self.engine.repairs, (from, Bound::Unbounded));
        let rows = rows.take(limit + 1).map(|row| self.repair(row));
        let mut items = rows.collect::<Result<Vec<_>, _>>()?;
        let more = items.len() > limit;
        items.truncate(limit);
        let last = items.last().filter(|_| more);
        let cursor = last.map(|last| format!("{}/{}", last.did, last.id));
        Ok(Page { items, cursor })
    }

    /// The repairs of one repository.
    pub(super) fn repairs_of(&self, did: &str) -> Result<Vec<Repair>, StoreError> {
        let prefix = repair_key(did, "");
        let rows = self.snapshot.prefix(&self.engine.repairs, prefix);
        rows.take(REPAIRS_OF).map(|row| self.repair(row)).collect()
    }

    fn repair(&self, row: fjall::Guard) -> Result<Repair, StoreError> {
        let value = row.value().map_err(|error| self.engine.error(error))?;
        serde_json::from_slice(&value).map_err(|_| self.engine.corrupt("repairs"))
    }
}

fn repair_key(did: &str, id: &str) -> Vec<u8> {
    [&[slot_of(did)], did.as_bytes(), &[0], id.as_bytes()].concat()
}

fn fact_key(fact: &Fact) -> Vec<u8> {
    let mut key = fact.relay.as_bytes().to_vec();
    key.push(0);
    key.extend_from_slice(&fact.generation.to_be_bytes());
    key.extend_from_slice(&fact.run.to_be_bytes());
    key.extend_from_slice(&fact.from_seq.to_be_bytes());
    key
}
