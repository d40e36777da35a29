//! A store that forgets records and keeps what jobs need to go on.

use async_trait::async_trait;
use penstock::store::memory::MemoryStore;
use penstock::store::{
    Choice, ChoiceKind, Fact, Health, IndexEntry, JobFailure, JobRow, Page, QuarantineEntry,
    Record, RecordsQuery, Removal, Repair, Repo, SnapshotDone, Store, StoreError, WriteBatch,
};

/// Forgets records.
#[derive(Default)]
pub struct Null(MemoryStore);

#[async_trait]
impl Store for Null {
    async fn apply(&self, mut batch: WriteBatch) -> Result<WriteBatch, StoreError> {
        if batch.records().next().is_none() {
            return self.0.apply(batch).await;
        }
        batch.clear();
        Ok(batch)
    }

    async fn remove(&self, removal: Removal) -> Result<(), StoreError> {
        self.0.remove(removal).await
    }

    async fn complete_snapshot(&self, done: SnapshotDone) -> Result<(), StoreError> {
        self.0.complete_snapshot(done).await
    }

    async fn record(&self, did: &str, of: &str, rkey: &str) -> Result<Option<Record>, StoreError> {
        self.0.record(did, of, rkey).await
    }

    async fn records(&self, query: &RecordsQuery) -> Result<Page<Record>, StoreError> {
        self.0.records(query).await
    }

    async fn newest(
        &self,
        collection: &str,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Page<IndexEntry>, StoreError> {
        self.0.newest(collection, limit, cursor).await
    }

    async fn repo(&self, did: &str) -> Result<Option<Repo>, StoreError> {
        self.0.repo(did).await
    }

    async fn repos(&self, cursor: Option<&str>, limit: usize) -> Result<Page<Repo>, StoreError> {
        self.0.repos(cursor, limit).await
    }

    async fn put_facts(&self, facts: &[Fact]) -> Result<(), StoreError> {
        self.0.put_facts(facts).await
    }

    async fn remove_facts(&self, facts: &[Fact]) -> Result<(), StoreError> {
        self.0.remove_facts(facts).await
    }

    async fn facts(&self) -> Result<Vec<Fact>, StoreError> {
        self.0.facts().await
    }

    async fn repairs(&self, from: Option<&str>, limit: usize) -> Result<Page<Repair>, StoreError> {
        self.0.repairs(from, limit).await
    }

    async fn clear_repairs(&self, repairs: &[Repair]) -> Result<(), StoreError> {
        self.0.clear_repairs(repairs).await
    }

    async fn quarantine(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<QuarantineEntry>, StoreError> {
        self.0.quarantine(cursor, limit).await
    }

    async fn quarantined(
        &self,
        id: &str,
    ) -> Result<Option<(QuarantineEntry, Vec<u8>)>, StoreError> {
        self.0.quarantined(id).await
    }

    async fn release_quarantined(&self, id: &str) -> Result<(), StoreError> {
        self.0.release_quarantined(id).await
    }

    async fn put_job(&self, job: &JobRow, epoch: Option<u64>) -> Result<bool, StoreError> {
        self.0.put_job(job, epoch).await
    }

    async fn job(&self, id: u64) -> Result<Option<JobRow>, StoreError> {
        self.0.job(id).await
    }

    async fn jobs(&self, cursor: Option<&str>, limit: usize) -> Result<Page<JobRow>, StoreError> {
        self.0.jobs(cursor, limit).await
    }

    async fn put_failures(&self, failures: &[JobFailure]) -> Result<(), StoreError> {
        self.0.put_failures(failures).await
    }

    async fn clear_failures(&self, failures: &[JobFailure]) -> Result<(), StoreError> {
        self.0.clear_failures(failures).await
    }

    async fn failure(
        &self,
        job: u64,
        did: &str,
        collection: &str,
    ) -> Result<Option<JobFailure>, StoreError> {
        self.0.failure(job, did, collection).await
    }

    async fn failures(
        &self,
        job: u64,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<JobFailure>, StoreError> {
        self.0.failures(job, cursor, limit).await
    }

    async fn put_choice(&self, choice: &Choice) -> Result<(), StoreError> {
        self.0.put_choice(choice).await
    }

    async fn remove_choice(&self, kind: ChoiceKind, name: &str) -> Result<(), StoreError> {
        self.0.remove_choice(kind, name).await
    }

    async fn choices(
        &self,
        kind: ChoiceKind,
        prefix: &str,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<Choice>, StoreError> {
        self.0.choices(kind, prefix, cursor, limit).await
    }

    async fn repairs_of(&self, did: &str) -> Result<Vec<Repair>, StoreError> {
        self.0.repairs_of(did).await
    }

    async fn put_pds(&self, did: &str, pds: &str) -> Result<(), StoreError> {
        self.0.put_pds(did, pds).await
    }

    async fn health(&self) -> Result<Health, StoreError> {
        self.0.health().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.0.close().await
    }
}
