//! Collections that are indexed beside those of the configuration: every worker follows what was chosen, worker 0 changes it.
//!
//! A choice is a row of the store, written before anything follows from it, and it says what is still to be done: the job that
//! fetches the collection's past, or the removal of its records. So a kill between any two steps leaves nothing undone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::trail::Trail;
use crate::api::{CollectionView, Collections, RemoveOutcome};
use crate::backfill::jobs::{self, JobRequest, JobsError, Roster, Started, Tools};
use crate::config::CollectionFilter;
use crate::store::indexed::{Changing, Chosen, Index, note_narrowing};
use crate::store::{ChoiceKind, Page, Store, StoreError};
use crate::telemetry::repeated;

/// How often workers look at the choices: all follow within 10 seconds.
const FOLLOW: Duration = Duration::from_secs(4);
/// How often what is to be done is looked for, unless something was asked for.
const LOOK: Duration = Duration::from_secs(30);
/// The same, while a removal waits for the workers.
const SOON: Duration = Duration::from_secs(1);
/// How often a store that does not answer at the start is asked again.
const STORE_CHECK: Duration = Duration::from_secs(1);

/// Reads what is indexed; waits for a store that does not answer. `None` at the shutdown.
pub(super) async fn index(
    configured: &CollectionFilter,
    store: &dyn Store,
    stop: &CancellationToken,
) -> Result<Option<Arc<Index>>, StoreError> {
    loop {
        match Index::read(configured, store).await {
            Err(error @ StoreError::Unavailable(_)) => {
                tracing::warn!(%error, "what is indexed can't be read yet");
            }
            read => return read.map(Some),
        }
        let wait = tokio::time::sleep(STORE_CHECK);
        if stop.run_until_cancelled(wait).await.is_none() {
            return Ok(None);
        }
    }
}

/// Follows what was chosen, for ever. Whether the store answers is the concern of others.
pub(super) async fn follow(index: Arc<Index>, store: Arc<dyn Store>) {
    loop {
        tokio::time::sleep(FOLLOW).await;
        if let Err(error) = index.refresh(&*store).await
            && let Some(held_back) = repeated("choices", error.kind())
        {
            tracing::warn!(%error, held_back, "what is indexed can't be read now");
        }
    }
}

/// Worker 0's side: what is asked for, and what follows from it.
pub(super) struct Choosing {
    pub store: Arc<dyn Store>,
    pub index: Arc<Index>,
    pub tools: Arc<Tools>,
    pub roster: Arc<Roster>,
    /// What the replay stores; nothing that it routed before is on its way any more.
    pub replayed: watch::Receiver<Arc<CollectionFilter>>,
    pub asked: Notify,
}

impl Choosing {
    /// Does what was asked for, until the shutdown.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) -> Result<(), StoreError> {
        let mut wait = Duration::ZERO;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = self.asked.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
            let done = shutdown.run_until_cancelled(self.work()).await;
            wait = match done {
                None => return Ok(()),
                Some(Ok(true)) => LOOK,
                Some(Ok(false) | Err(StoreError::Unavailable(_))) => SOON,
                Some(Err(error)) => return Err(error),
            };
        }
    }

    /// Makes the jobs that are due, and goes on with each removal. Gives whether nothing is left to do.
    async fn work(&self) -> Result<bool, StoreError> {
        let chosen = Chosen::all(&*self.store).await?;
        for (nsid, chosen) in &chosen {
            if let Chosen::Indexed { due: Some(origin) } = chosen {
                let changing = self.index.lock().await;
                self.make_job(&changing, nsid, origin).await?;
            }
        }
        let mut idle = true;
        for (nsid, chosen) in chosen {
            if let Chosen::Purging { cursor } = chosen {
                idle &= self.purge(&nsid, cursor).await?;
            }
        }
        Ok(idle)
    }

    /// Whether nobody stores a collection any more.
    async fn is_out(&self, nsid: &str) -> Result<bool, StoreError> {
        let out = |filter: &CollectionFilter| !filter.wants(nsid);
        Ok(out(&self.replayed.borrow()) && self.roster.workers_follow(out).await?)
    }

    /// Removes a collection's records from where that is, once nobody stores more; gives whether it is over. It is left as soon as
    /// the collection is indexed again.
    async fn purge(&self, nsid: &str, mut cursor: Option<String>) -> Result<bool, StoreError> {
        if self.index.configured().wants(nsid) {
            self.store
                .remove_choice(ChoiceKind::Collection, nsid)
                .await?;
            return Ok(true);
        }
        if !self.is_out(nsid).await? {
            return Ok(false);
        }
        tracing::info!(
            nsid,
            cursor,
            "the records of a collection are being removed"
        );
        let mut done = Trail::new(self.store.sync_lag());
        loop {
            let changing = self.index.lock().await;
            if !self.is_purging(&changing, nsid).await? {
                return Ok(true);
            }
            cursor = jobs::purge(&self.tools, nsid, cursor.as_deref()).await?;
            if cursor.is_none() {
                break;
            }
            done.note(cursor.clone());
            if let Some(cursor) = done.due() {
                Chosen::Purging { cursor }.put(&*self.store, nsid).await?;
            }
            drop(changing);
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(self.store.sync_lag()).await;
        let changing = self.index.lock().await;
        if self.is_purging(&changing, nsid).await? {
            let kind = ChoiceKind::Collection;
            self.store.remove_choice(kind, nsid).await?;
            tracing::info!(nsid, "the records of a collection are removed");
        }
        Ok(true)
    }

    /// Whether a collection is still to be removed: the configuration may want it again by now.
    async fn is_purging(&self, changing: &Changing<'_>, nsid: &str) -> Result<bool, StoreError> {
        let chosen = changing.chosen(&*self.store, nsid).await?;
        let purging = matches!(chosen, Some(Chosen::Purging { .. }));
        Ok(purging && !self.index.configured().wants(nsid))
    }

    /// Starts the job that fetches a collection's past, and notes that it is made.
    async fn make_job(
        &self,
        changing: &Changing<'_>,
        nsid: &str,
        origin: &str,
    ) -> Result<Option<u64>, StoreError> {
        let due = matches!(
            changing.chosen(&*self.store, nsid).await?,
            Some(Chosen::Indexed { due: Some(_) })
        );
        let configured = self.index.configured().wants(nsid);
        if !due && !configured {
            return Ok(None);
        }
        let request = JobRequest {
            collections: vec![nsid.to_owned()],
            origin: origin.to_owned(),
            ..JobRequest::default()
        };
        let id = match self.roster.begin(request).await.map_err(refused)? {
            Started::Job(view) => view.id.parse().ok(),
            Started::Running(id) => Some(id),
            Started::NotNeeded(_) => None,
        };
        if due {
            let made = Chosen::Indexed { due: None };
            made.put(&*self.store, nsid).await?;
        }
        Ok(id)
    }

    /// Notes that a collection is indexed, with a job that is due or not.
    async fn choose(
        &self,
        changing: &Changing<'_>,
        nsid: &str,
        due: Option<&str>,
    ) -> Result<(), StoreError> {
        let before = changing.chosen(&*self.store, nsid).await?;
        let grown = self.index.indexed().now().with(nsid);
        match grown {
            None => return Err(StoreError::Refused(format!("{nsid} is not an NSID"))),
            Some(grown) if grown.is_full() => {
                let message = "no more collections can be indexed by name";
                return Err(StoreError::Refused(message.to_owned()));
            }
            Some(_) => {}
        }
        let due = match (before, due) {
            (Some(Chosen::Indexed { due }), None) => due,
            (_, due) => due.map(str::to_owned),
        };
        Chosen::Indexed { due }.put(&*self.store, nsid).await?;
        changing.follow(&*self.store).await
    }
}

fn refused(error: JobsError) -> StoreError {
    match error {
        JobsError::Store(error) => error,
        error => StoreError::Failed(error.to_string()),
    }
}

#[async_trait]
impl Collections for Choosing {
    async fn list(
        &self,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<CollectionView>, StoreError> {
        let configured = self.index.configured();
        let all = configured.is_all().then(|| "*".to_owned());
        let entries = configured.entries().into_iter().chain(all);
        let mut views: BTreeMap<String, (bool, bool)> =
            entries.map(|entry| (entry, (true, false))).collect();
        for (nsid, chosen) in Chosen::all(&*self.store).await? {
            let purging = matches!(chosen, Chosen::Purging { .. });
            let configured = configured.wants(&nsid);
            views.insert(nsid, (configured, purging && !configured));
        }
        let mut rest = views
            .into_iter()
            .skip_while(|(nsid, _)| cursor.is_some_and(|cursor| nsid.as_str() <= cursor));
        let views = rest.by_ref().take(limit);
        let items: Vec<CollectionView> = views
            .map(|(nsid, (configured, purging))| CollectionView {
                nsid,
                configured,
                purging,
            })
            .collect();
        let last = items.last().map(|last| last.nsid.clone());
        let cursor = last.filter(|_| rest.next().is_some());
        Ok(Page { items, cursor })
    }

    async fn add(
        &self,
        nsid: &str,
        backfill: bool,
        origin: &str,
    ) -> Result<Option<u64>, StoreError> {
        let changing = self.index.lock().await;
        if !self.index.configured().wants(nsid) {
            let due = backfill.then_some(origin);
            self.choose(&changing, nsid, due).await?;
        }
        match backfill {
            true => self.make_job(&changing, nsid, origin).await,
            false => Ok(None),
        }
    }

    async fn remove(&self, nsid: &str, purge: bool) -> Result<RemoveOutcome, StoreError> {
        if self.index.configured().wants(nsid) {
            return Ok(RemoveOutcome::Configured);
        }
        let changing = self.index.lock().await;
        note_narrowing(&*self.store, self.tools.clock.now_micros()).await?;
        match changing.chosen(&*self.store, nsid).await? {
            // It goes on where it is.
            Some(Chosen::Purging { .. }) => {}
            _ if purge => {
                let purging = Chosen::Purging { cursor: None };
                purging.put(&*self.store, nsid).await?;
            }
            Some(Chosen::Indexed { .. }) => {
                let kind = ChoiceKind::Collection;
                self.store.remove_choice(kind, nsid).await?;
            }
            None => {}
        }
        changing.follow(&*self.store).await?;
        drop(changing);
        self.roster.outlive().await.map_err(refused)?;
        self.asked.notify_one();
        Ok(RemoveOutcome::Removed)
    }
}
