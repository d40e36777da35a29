//! What starts a job by itself: a gap that no relay can serve, and collections that the configuration did not have before.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::gaps;
use super::model::{Force, JobRequest, JobStatus, Jobs, JobsError, Started};
use super::roster::Roster;
use crate::config::CollectionFilter;
use crate::store::{Choice, ChoiceKind, StoreError};

/// How often the ledger is looked at.
const EVERY: Duration = Duration::from_secs(60);
/// The first look: soon, but after the first facts.
const FIRST: Duration = Duration::from_secs(5);
/// Between two jobs for the ledger.
const AGAIN: Duration = Duration::from_secs(600);
/// Under which name the collections that were indexed last are kept.
const INDEXED: &str = "indexed";

impl Roster {
    /// Starts what has to be started, until the shutdown.
    pub async fn watch(self: Arc<Self>, shutdown: CancellationToken) -> Result<(), StoreError> {
        let mut wait = FIRST;
        let mut last = None;
        loop {
            let slept = shutdown.run_until_cancelled(tokio::time::sleep(wait)).await;
            if slept.is_none() {
                return Ok(());
            }
            wait = EVERY;
            match self.look(&mut last).await {
                Ok(()) | Err(JobsError::Store(StoreError::Unavailable(_))) => {}
                Err(JobsError::Store(error)) => return Err(error),
                Err(error) => tracing::warn!(%error, "a job that is needed can't be started now"),
            }
        }
    }

    /// `last`: the job that was started for the ledger last, and when that was tried.
    async fn look(&self, last: &mut Option<(u64, Instant)>) -> Result<(), JobsError> {
        let early = last.is_some_and(|(_, tried)| tried.elapsed() < AGAIN);
        if !early && !gaps::lost(self.ledger(), self.tools()).await?.is_empty() {
            *last = Some((self.repair_gaps(*last).await?, Instant::now()));
        }
        self.look_at_collections().await
    }

    /// Starts a job for what no relay can serve, or the last one again where it failed.
    async fn repair_gaps(&self, last: Option<(u64, Instant)>) -> Result<u64, JobsError> {
        if let Some((id, _)) = last
            && self.get(id).await?.status == JobStatus::Failed
        {
            self.retry(id).await?;
            return Ok(id);
        }
        let request = JobRequest {
            force: Some(Force::CatchUp),
            origin: "ledger".to_owned(),
            ..JobRequest::default()
        };
        match self.begin(request).await? {
            Started::Job(view) => Ok(view.id.parse().unwrap_or_default()),
            Started::Running(id) => Ok(id),
            Started::NotNeeded(_) => Ok(0),
        }
    }

    /// Fetches collections that are indexed since the configuration grew, once every slot's worker writes them.
    async fn look_at_collections(&self) -> Result<(), JobsError> {
        let store = &self.tools().store;
        let now = &self.tools().options.configured;
        let page = store.choices(ChoiceKind::Mark, INDEXED, None, 1).await?;
        let before = page.items.first().filter(|mark| mark.name == INDEXED);
        let before = before.and_then(|mark| serde_json::from_slice::<String>(&mark.body).ok());
        let grown = match before.as_deref().map(CollectionFilter::parse) {
            // What was fetched before the first start is nobody's wish.
            None => false,
            Some(Ok(before)) if before == *now => return Ok(()),
            Some(Ok(before)) => !before.covers(now),
            Some(Err(_)) => true,
        };
        if grown {
            if !self.workers_follow(|filter| filter.covers(now)).await? {
                return Ok(());
            }
            let before = CollectionFilter::parse(before.as_deref().unwrap_or_default());
            let added = now.names().unwrap_or_default().into_iter();
            let added =
                added.filter(|name| !before.as_ref().is_ok_and(|before| before.wants(name)));
            let request = JobRequest {
                collections: added.collect(),
                origin: "configuration".to_owned(),
                ..JobRequest::default()
            };
            self.begin(request).await?;
        }
        let mark = Choice {
            kind: ChoiceKind::Mark,
            name: INDEXED.to_owned(),
            body: serde_json::to_vec(&now.to_string()).unwrap_or_default(),
        };
        Ok(store.put_choice(&mark).await?)
    }
}
