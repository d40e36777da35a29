//! What a job waits for: every worker has to take a collection in before its past is fetched. What is written after a repository
//! was read comes by its live events then.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::live::Live;
use super::model::{Jobs, JobsError, Stage};
use super::record::Job;
use super::roster::Roster;
use crate::config::CollectionFilter;
use crate::ledger;
use crate::store::StoreError;

/// How often the ledger is looked at.
const LOOK: Duration = Duration::from_secs(1);

impl Roster {
    /// Whether every slot's worker takes in, by its newest fact, what is `wanted`.
    pub async fn workers_follow(
        &self,
        wanted: impl Fn(&CollectionFilter) -> bool,
    ) -> Result<bool, StoreError> {
        let facts = self.tools().store.facts().await?;
        Ok(ledger::all_follow(&facts, wanted))
    }

    /// Whether any of these came while daemons ran, so that some may not follow yet.
    pub(super) fn any_is_new(&self, collections: &[String]) -> bool {
        let settled = self.tools().indexed.settled();
        let is_new = |nsid: &String| !settled.as_ref().is_some_and(|settled| settled.wants(nsid));
        collections.iter().any(is_new)
    }

    /// Waits until all workers take the job's collections in. `false`: it was told to stop.
    pub(super) async fn wait_for_workers(
        &self,
        job: &mut Job,
        live: &Live,
        stop: &CancellationToken,
    ) -> Result<bool, StoreError> {
        let wanted = job.body.request.collections.clone();
        // What is not indexed any more nobody will take in.
        let indexed = &self.tools().indexed;
        let all = |filter: &CollectionFilter| {
            let mut still = wanted.iter().filter(|nsid| indexed.now().wants(nsid));
            still.all(|nsid| filter.wants(nsid))
        };
        while job.body.awaits_workers && !self.workers_follow(all).await? {
            if job.body.stage.replace(Stage::Waiting) != Some(Stage::Waiting) {
                tracing::info!(
                    job = job.id,
                    "a backfill waits until all workers take its collections in"
                );
                live.show(job, job.body.counts.clone());
                self.wake();
            }
            let wait = tokio::time::sleep(LOOK);
            if stop.run_until_cancelled(wait).await.is_none() {
                return Ok(false);
            }
        }
        job.body.awaits_workers = false;
        job.body.stage = None;
        Ok(true)
    }

    /// How many jobs wait for others; they take nobody's place.
    pub(super) fn waiting(&self) -> usize {
        let waits = |live: &&Arc<Live>| live.job().body.stage == Some(Stage::Waiting);
        self.active().values().filter(waits).count()
    }

    /// Cancels the jobs that are for nothing that is indexed any more.
    pub async fn outlive(&self) -> Result<(), JobsError> {
        let indexed = self.tools().indexed.now();
        let jobs: Vec<Job> = self.active().values().map(|live| live.job()).collect();
        for job in jobs {
            if job.outlived(&indexed).is_some() {
                self.cancel(job.id).await?;
            }
        }
        Ok(())
    }
}

impl Job {
    /// A collection that it is for, if none of those it is for is indexed any more.
    pub(super) fn outlived(&self, indexed: &CollectionFilter) -> Option<&str> {
        let mut of = self.body.request.collections.iter();
        match of.clone().any(|nsid| indexed.wants(nsid)) {
            true => None,
            false => of.next().map(String::as_str),
        }
    }
}
