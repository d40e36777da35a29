//! Jobs, what failed of them, and choices: small rows that the writer takes one after the other.
//!
//! ```text
//! jobs          !id(8)                  -> epoch(8) body
//! job_failures  job(8) DID 0 collection -> body
//! choices       kind 0 name             -> body
//! ```

use std::ops::Bound;

use fjall::{Keyspace, Readable};

use super::engine::Engine;
use super::keys::{push_inverted, take_inverted};
use super::reader::View;
use super::rows::pds_key;
use crate::clock::{Clock, SystemClock};
use crate::store::filling::Filling;
use crate::store::{Choice, ChoiceKind, JobFailure, JobRow, Page, StoreError};

/// What is written.
pub(super) enum Keep {
    /// With the epoch that it replaces.
    Job(JobRow, Option<u64>),
    Failures(Vec<JobFailure>),
    ClearFailures(Vec<JobFailure>),
    Choice(Choice),
    RemoveChoice(ChoiceKind, String),
    /// DID, host.
    Pds(String, String),
}

impl Engine {
    /// Writes it; `false` where another job was there than the one to be replaced. The writer calls it, so nothing comes
    /// between its look and its write.
    pub(super) fn keep(&self, keep: &Keep) -> Result<bool, StoreError> {
        let mut batch = self.db.batch();
        match keep {
            Keep::Job(job, replaces) => {
                if View::of(self).job(job.id)?.map(|held| held.epoch) != *replaces {
                    return Ok(false);
                }
                let value = [&job.epoch.to_be_bytes(), job.body.as_slice()].concat();
                batch.insert(&self.jobs, job_key(job.id), value);
            }
            Keep::Failures(failures) => {
                for failure in failures {
                    let key = failure_key(failure.job, &failure.did, &failure.collection);
                    batch.insert(&self.failures, key, failure.body.as_slice());
                }
            }
            Keep::ClearFailures(failures) => {
                for failure in failures {
                    let key = failure_key(failure.job, &failure.did, &failure.collection);
                    batch.remove(&self.failures, key);
                }
            }
            Keep::Choice(choice) => {
                let key = choice_key(choice.kind, &choice.name);
                batch.insert(&self.choices, key, choice.body.as_slice());
            }
            Keep::RemoveChoice(kind, name) => {
                batch.remove(&self.choices, choice_key(*kind, name));
            }
            Keep::Pds(did, pds) => {
                let held = View::of(self).pds(did)?;
                if held.as_ref().is_some_and(|(_, held)| held == pds) {
                    return Ok(true);
                }
                // What is said last counts, also where the clock was set back.
                let after = held.map_or(0, |(time, _)| time.saturating_add(1));
                let time = SystemClock.now_micros().max(after);
                batch.insert(&self.repos, pds_key(did, time, pds), []);
            }
        }
        batch.commit().map_err(|error| self.error(error))?;
        Ok(true)
    }
}

impl View<'_> {
    /// One job.
    pub(super) fn job(&self, id: u64) -> Result<Option<JobRow>, StoreError> {
        let key = job_key(id);
        let value = self.get(&self.engine.jobs, &key)?;
        let job = value.map(|value| read_job(&key, &value));
        job.map(|job| job.ok_or_else(|| self.engine.corrupt("jobs")))
            .transpose()
    }

    /// A page of jobs, newest first.
    pub(super) fn jobs(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<JobRow>, StoreError> {
        let from = match cursor.map(str::parse) {
            None => Bound::Unbounded,
            Some(Ok(id)) => Bound::Excluded(job_key(id)),
            Some(Err(_)) => return Err(bad_cursor(cursor, "jobs")),
        };
        let mut filling = Filling::new(limit);
        self.each(&self.engine.jobs, from, |key, value| {
            let job = read_job(key, value)?;
            Some(filling.take(job, value.len()))
        })?;
        Ok(filling.page(|last| last.id.to_string()))
    }

    /// One failure.
    pub(super) fn failure(
        &self,
        job: u64,
        did: &str,
        collection: &str,
    ) -> Result<Option<JobFailure>, StoreError> {
        let key = failure_key(job, did, collection);
        let body = self.get(&self.engine.failures, &key)?;
        Ok(body.map(|body| JobFailure {
            job,
            did: did.to_owned(),
            collection: collection.to_owned(),
            body,
        }))
    }

    /// A page of a job's failures.
    pub(super) fn failures(
        &self,
        job: u64,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<JobFailure>, StoreError> {
        // A collection has no slash, whatever a DID has.
        let from = match cursor.map(|cursor| cursor.rsplit_once('/')) {
            None => Bound::Included(job.to_be_bytes().to_vec()),
            Some(Some((did, collection))) => Bound::Excluded(failure_key(job, did, collection)),
            Some(None) => return Err(bad_cursor(cursor, "failures")),
        };
        let mut filling = Filling::new(limit);
        self.each(&self.engine.failures, from, |key, value| {
            let failure = read_failure(key, value)?;
            Some(failure.job == job && filling.take(failure, value.len()))
        })?;
        Ok(filling.page(|last| format!("{}/{}", last.did, last.collection)))
    }

    /// A page of a list.
    pub(super) fn choices(
        &self,
        kind: ChoiceKind,
        prefix: &str,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Choice>, StoreError> {
        let from = match cursor {
            Some(name) if name >= prefix => Bound::Excluded(choice_key(kind, name)),
            _ => Bound::Included(choice_key(kind, prefix)),
        };
        let all = choice_key(kind, "");
        let mut filling = Filling::new(limit);
        self.each(&self.engine.choices, from, |key, value| {
            let Some(name) = key.strip_prefix(all.as_slice()) else {
                return Some(false);
            };
            let name = std::str::from_utf8(name).ok()?;
            let choice = Choice {
                kind,
                name: name.to_owned(),
                body: value.to_vec(),
            };
            Some(name.starts_with(prefix) && filling.take(choice, value.len()))
        })?;
        Ok(filling.page(|last| last.name.clone()))
    }

    fn get(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.snapshot.get(keyspace, key);
        let value = value.map_err(|error| self.engine.error(error))?;
        Ok(value.map(|value| value.to_vec()))
    }

    /// Shows the rows of a keyspace from a key on, until `take` wants no more; `None` of it: a row that can't be read.
    fn each(
        &self,
        keyspace: &Keyspace,
        from: Bound<Vec<u8>>,
        mut take: impl FnMut(&[u8], &[u8]) -> Option<bool>,
    ) -> Result<(), StoreError> {
        for row in self.snapshot.range(keyspace, (from, Bound::Unbounded)) {
            let row = row.into_inner();
            let (key, value) = row.map_err(|error| self.engine.error(error))?;
            let more = take(&key, &value);
            if !more.ok_or_else(|| self.engine.corrupt(keyspace.name()))? {
                break;
            }
        }
        Ok(())
    }
}

fn job_key(id: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(8);
    push_inverted(&mut key, id);
    key
}

fn read_job(key: &[u8], value: &[u8]) -> Option<JobRow> {
    let (id, _) = take_inverted(key)?;
    let (epoch, body) = value.split_first_chunk::<8>()?;
    Some(JobRow {
        id,
        epoch: u64::from_be_bytes(*epoch),
        body: body.to_vec(),
    })
}

fn failure_key(job: u64, did: &str, collection: &str) -> Vec<u8> {
    [
        job.to_be_bytes().as_slice(),
        did.as_bytes(),
        &[0],
        collection.as_bytes(),
    ]
    .concat()
}

fn read_failure(key: &[u8], value: &[u8]) -> Option<JobFailure> {
    let (job, rest) = key.split_first_chunk::<8>()?;
    let (did, collection) = std::str::from_utf8(rest).ok()?.split_once('\0')?;
    Some(JobFailure {
        job: u64::from_be_bytes(*job),
        did: did.to_owned(),
        collection: collection.to_owned(),
        body: value.to_vec(),
    })
}

fn choice_key(kind: ChoiceKind, name: &str) -> Vec<u8> {
    [kind.as_str().as_bytes(), &[0], name.as_bytes()].concat()
}

fn bad_cursor(cursor: Option<&str>, of: &str) -> StoreError {
    let cursor = cursor.unwrap_or_default();
    StoreError::Query(format!("{cursor:?} is no cursor of {of}"))
}
