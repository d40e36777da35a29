//! What starts a job by itself: a gap that no relay can serve, and collections that the configuration did not have before.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::gaps;
use super::model::{Force, JobRequest, JobStatus, Jobs, JobsError, Started};
use super::roster::Roster;
use crate::config::CollectionFilter;
use crate::store::indexed::choice;
use crate::store::{Choice, ChoiceKind, StoreError};

/// How often the ledger is looked at.
const EVERY: Duration = Duration::from_secs(60);
/// The first look: soon, but after the first facts.
const FIRST: Duration = Duration::from_secs(5);
/// How often, while collections wait until all workers take them in.
const SOON: Duration = Duration::from_secs(2);
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
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = self.due.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
            wait = EVERY;
            match self.look(&mut last).await {
                Ok(true) | Err(JobsError::Store(StoreError::Unavailable(_))) => {}
                Ok(false) => wait = SOON,
                Err(JobsError::Store(error)) => return Err(error),
                Err(error) => tracing::warn!(%error, "a job that is needed can't be started now"),
            }
        }
    }

    /// `last`: the job that was started for the ledger last, and when that was tried. Gives whether nothing waits for the workers.
    async fn look(&self, last: &mut Option<(u64, Instant)>) -> Result<bool, JobsError> {
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

    /// Fetches collections that are indexed since the configuration grew, once every slot's worker writes them; `false`: not yet.
    async fn look_at_collections(&self) -> Result<bool, JobsError> {
        let now = &*self.tools().indexed.configured();
        let before = self.noted().await?;
        let before = before.as_deref().map(CollectionFilter::parse);
        let grown = match &before {
            // What was fetched before the first start is nobody's wish.
            None => false,
            Some(Ok(before)) if before == now => return Ok(true),
            Some(Ok(before)) => !before.covers(now),
            Some(Err(_)) => true,
        };
        if grown {
            let before = before.and_then(Result::ok);
            if !self.workers_follow(|filter| filter.covers(now)).await? {
                // What is left out now has to be fetched again should it come back meanwhile.
                let both = before.as_ref().and_then(|before| before.shared(now));
                if let Some(both) = both.filter(|both| before.as_ref() != Some(both)) {
                    self.note_indexed(&both).await?;
                }
                return Ok(false);
            }
            let added = now.names().unwrap_or_default().into_iter();
            let is_new = |name: &String| !before.as_ref().is_some_and(|before| before.wants(name));
            let added = added.filter(is_new);
            let request = JobRequest {
                collections: added.collect(),
                origin: "configuration".to_owned(),
                ..JobRequest::default()
            };
            self.begin(request).await?;
        }
        self.note_indexed(now).await?;
        Ok(true)
    }

    /// Notes what the configuration says where nothing is noted yet: at the first start, so that whatever comes later is seen.
    pub async fn note_configured(&self) -> Result<(), StoreError> {
        match self.noted().await? {
            Some(_) => Ok(()),
            None => self.note_indexed(&self.tools().indexed.configured()).await,
        }
    }

    /// What was noted last.
    async fn noted(&self) -> Result<Option<String>, StoreError> {
        let mark = choice(&*self.tools().store, ChoiceKind::Mark, INDEXED).await?;
        Ok(mark.and_then(|mark| serde_json::from_slice(&mark.body).ok()))
    }

    /// Notes what is indexed, so that what is beyond it is seen as grown.
    async fn note_indexed(&self, now: &CollectionFilter) -> Result<(), StoreError> {
        let mark = Choice {
            kind: ChoiceKind::Mark,
            name: INDEXED.to_owned(),
            body: serde_json::to_vec(&now.to_string()).unwrap_or_default(),
        };
        self.tools().store.put_choice(&mark).await
    }
}
