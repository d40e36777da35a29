//! The [`Store`] trait over the parts.

use std::time::Duration;

use async_trait::async_trait;

use super::ScyllaStore;
use crate::store::{
    Choice, ChoiceKind, Fact, Health, IndexEntry, JobFailure, JobRow, Page, QuarantineEntry,
    Record, RecordsQuery, Removal, Repair, Repo, SnapshotDone, Store, StoreError, WriteBatch,
};

#[async_trait]
impl Store for ScyllaStore {
    fn sync_lag(&self) -> Duration {
        self.sync_lag
    }

    fn outages(&self) -> u64 {
        match self.sync_lag.is_zero() {
            true => 0,
            false => self.requests.outages(),
        }
    }

    async fn apply(&self, mut batch: WriteBatch) -> Result<WriteBatch, StoreError> {
        if self.requests.is_closed() {
            return Err(StoreError::Closed);
        }
        self.writes.apply(&batch).await?;
        batch.clear();
        Ok(batch)
    }

    async fn remove(&self, removal: Removal) -> Result<(), StoreError> {
        self.writes.remove(&removal).await
    }

    async fn complete_snapshot(&self, done: SnapshotDone) -> Result<(), StoreError> {
        self.writes.complete_snapshot(&done).await
    }

    async fn record(
        &self,
        did: &str,
        collection: &str,
        rkey: &str,
    ) -> Result<Option<Record>, StoreError> {
        self.reader.record(did, collection, rkey).await
    }

    async fn records(&self, query: &RecordsQuery) -> Result<Page<Record>, StoreError> {
        self.reader.records(query).await
    }

    async fn newest(
        &self,
        collection: &str,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Page<IndexEntry>, StoreError> {
        self.reader.newest(collection, limit, cursor).await
    }

    async fn repo(&self, did: &str) -> Result<Option<Repo>, StoreError> {
        self.reader.repo(did).await
    }

    async fn repos(&self, cursor: Option<&str>, limit: usize) -> Result<Page<Repo>, StoreError> {
        self.reader.repos(cursor, limit).await
    }

    async fn put_facts(&self, facts: &[Fact]) -> Result<(), StoreError> {
        self.writes.put_facts(facts).await
    }

    async fn remove_facts(&self, facts: &[Fact]) -> Result<(), StoreError> {
        self.writes.remove_facts(facts).await
    }

    async fn facts(&self) -> Result<Vec<Fact>, StoreError> {
        self.reader.facts().await
    }

    async fn repairs(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Repair>, StoreError> {
        self.reader.repairs(cursor, limit).await
    }

    async fn clear_repairs(&self, repairs: &[Repair]) -> Result<(), StoreError> {
        self.writes.clear_repairs(repairs).await
    }

    async fn quarantine(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<QuarantineEntry>, StoreError> {
        self.reader.quarantine(cursor, limit).await
    }

    async fn quarantined(
        &self,
        id: &str,
    ) -> Result<Option<(QuarantineEntry, Vec<u8>)>, StoreError> {
        self.reader.quarantined(id).await
    }

    async fn release_quarantined(&self, id: &str) -> Result<(), StoreError> {
        self.writes.release_quarantined(id).await
    }

    async fn put_job(&self, job: &JobRow, epoch: Option<u64>) -> Result<bool, StoreError> {
        self.writes.put_job(job, epoch).await
    }

    async fn job(&self, id: u64) -> Result<Option<JobRow>, StoreError> {
        self.reader.job(id).await
    }

    async fn jobs(&self, cursor: Option<&str>, limit: usize) -> Result<Page<JobRow>, StoreError> {
        self.reader.jobs(cursor, limit).await
    }

    async fn put_failures(&self, failures: &[JobFailure]) -> Result<(), StoreError> {
        self.writes.put_failures(failures).await
    }

    async fn clear_failures(&self, failures: &[JobFailure]) -> Result<(), StoreError> {
        self.writes.clear_failures(failures).await
    }

    async fn failure(
        &self,
        job: u64,
        did: &str,
        collection: &str,
    ) -> Result<Option<JobFailure>, StoreError> {
        self.reader.failure(job, did, collection).await
    }

    async fn failures(
        &self,
        job: u64,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<JobFailure>, StoreError> {
        self.reader.failures(job, cursor, limit).await
    }

    async fn put_choice(&self, choice: &Choice) -> Result<(), StoreError> {
        self.writes.put_choice(choice).await
    }

    async fn remove_choice(&self, kind: ChoiceKind, name: &str) -> Result<(), StoreError> {
        self.writes.remove_choice(kind, name).await
    }

    async fn choices(
        &self,
        kind: ChoiceKind,
        prefix: &str,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Choice>, StoreError> {
        self.reader.choices(kind, prefix, cursor, limit).await
    }

    async fn repairs_of(&self, did: &str) -> Result<Vec<Repair>, StoreError> {
        self.reader.repairs_of(did).await
    }

    async fn put_pds(&self, did: &str, pds: &str) -> Result<(), StoreError> {
        self.writes.put_pds(did, pds).await
    }

    fn may_write(&self) -> bool {
        self.tenure.as_ref().is_none_or(|tenure| tenure.holds())
    }

    async fn lost(&self) -> StoreError {
        match &self.tenure {
            Some(tenure) => tenure.lost().await,
            None => std::future::pending().await,
        }
    }

    fn waits(&self) -> bool {
        self.requests.waits()
    }

    async fn health(&self) -> Result<Health, StoreError> {
        let trouble = self.requests.trouble();
        // Nothing is asked of a database that does not answer.
        if trouble.is_some() {
            return Ok(Health {
                trouble,
                ..Health::default()
            });
        }
        let (repairs, quarantine_bytes) = self.counts.of(&self.reader).await?;
        Ok(Health {
            trouble,
            repairs,
            quarantine_bytes,
            ..Health::default()
        })
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.upkeep.abort();
        self.requests.close();
        if let Some(tenure) = &self.tenure {
            tenure.end().await;
        }
        Ok(())
    }
}
