//! What is asked of the jobs: to start, show, cancel and retry them.

use async_trait::async_trait;
use std::sync::Arc;

use super::super::estimate;
use super::super::failure::FailureBody;
use super::super::gaps;
use super::super::live::Live;
use super::super::model::{
    Estimate, FailureView, JobRequest, JobStatus, JobView, Jobs, JobsError, Started,
};
use super::super::record::Job;
use super::{REPAIRS, Roster, STOP};
use crate::decode::syntax;
use crate::decode::time::format_datetime;
use crate::store::{JobRow, Page};

/// So many collections that are not indexed are named.
const NAMED: usize = 10;

impl Roster {
    /// Refuses what can't be done as it was asked for.
    fn check(&self, request: &JobRequest) -> Result<(), JobsError> {
        let indexed = self.tools.indexed.now();
        let names = request.collections.iter().map(String::as_str);
        let strangers: Vec<&str> = names.filter(|name| !indexed.wants(name)).collect();
        if !strangers.is_empty() {
            return Err(JobsError::Invalid {
                field: "collection",
                message: not_indexed(&strangers),
            });
        }
        if let Some(did) = request.dids.iter().find(|did| !syntax::is_did(did)) {
            return Err(JobsError::Invalid {
                field: "did",
                message: format!("{did:?} is no DID"),
            });
        }
        Ok(())
    }

    async fn read(&self, id: u64) -> Result<Job, JobsError> {
        let row: Option<JobRow> = self.tools.store.job(id).await?;
        let row = row.ok_or(JobsError::NotFound(id))?;
        Ok(Job::read(&row)?)
    }
}

/// Says that collections are not indexed: each by name, as far as people read.
fn not_indexed(names: &[&str]) -> String {
    let named: Vec<&str> = names.iter().copied().take(NAMED).collect();
    let more = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let (are, them) = match names.len() {
        1 => ("is", "it"),
        _ => ("are", "them"),
    };
    let named = named.join(", ");
    format!("{named}{more} {are} not indexed: add {them} to 'collections' first")
}

#[async_trait]
impl Jobs for Roster {
    async fn start(&self, mut request: JobRequest, by_ledger: bool) -> Result<Started, JobsError> {
        self.check(&request)?;
        let unscoped =
            request.collections.is_empty() && request.dids.is_empty() && request.days.is_none();
        if by_ledger && unscoped && request.force.is_none() {
            match gaps::decide(&self.ledger, &self.tools).await? {
                Some(force) => request.force = Some(force),
                None => {
                    let message = "Nothing between what is held is missing.";
                    return Ok(Started::NotNeeded(message.to_owned()));
                }
            }
        }
        self.begin(request).await
    }

    async fn estimate(&self, request: JobRequest) -> Result<Estimate, JobsError> {
        self.check(&request)?;
        estimate::estimate(&self.tools, &request).await
    }

    async fn did_of(&self, handle: &str) -> Result<String, JobsError> {
        let did = self.tools.identities.did_of(handle).await;
        did.map_err(|error| JobsError::Invalid {
            field: "handle",
            message: error.to_string(),
        })
    }

    async fn list(&self, cursor: Option<&str>, limit: usize) -> Result<Page<JobView>, JobsError> {
        let page = self.tools.store.jobs(cursor, limit).await?;
        let now = self.tools.clock.now_micros();
        let mut items = Vec::new();
        for row in &page.items {
            items.push(match self.find(row.id) {
                Some(live) => live.view(now),
                None => {
                    let job = Job::read(row)?;
                    job.view(&job.body.counts, now)
                }
            });
        }
        Ok(Page {
            items,
            cursor: page.cursor,
        })
    }

    async fn get(&self, id: u64) -> Result<JobView, JobsError> {
        let now = self.tools.clock.now_micros();
        if let Some(live) = self.find(id) {
            return Ok(live.view(now));
        }
        let job = self.read(id).await?;
        Ok(job.view(&job.body.counts, now))
    }

    async fn failures(
        &self,
        id: u64,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<FailureView>, JobsError> {
        if self.find(id).is_none() {
            self.read(id).await?;
        }
        let page = self.tools.store.failures(id, cursor, limit).await?;
        let items = page.items.into_iter().filter_map(|failure| {
            let body: FailureBody = serde_json::from_slice(&failure.body).ok()?;
            Some(FailureView {
                did: failure.did,
                collection: Some(failure.collection).filter(|name| !name.is_empty()),
                reason: body.reason,
                message: body.message,
                host: body.host,
                attempts: body.attempts,
                failed_at: format_datetime(body.at),
                next_at: body.next.map(format_datetime),
            })
        });
        Ok(Page {
            items: items.collect(),
            cursor: page.cursor,
        })
    }

    async fn cancel(&self, id: u64) -> Result<JobView, JobsError> {
        if id == REPAIRS {
            let message = "the standing job that works repairs off can't be cancelled";
            return Err(JobsError::Conflict(message.to_owned()));
        }
        let Some(live) = self.find(id) else {
            return self.get(id).await;
        };
        live.cancel.cancel();
        self.wake.notify_one();
        let mut over = live.over.subscribe();
        let waiting = tokio::time::timeout(STOP, over.wait_for(|over| *over));
        let _ = waiting.await;
        self.get(id).await
    }

    async fn retry(&self, id: u64) -> Result<JobView, JobsError> {
        let making = self.making.lock().await;
        if self.find(id).is_some() {
            return self.get(id).await;
        }
        let mut job = self.read(id).await?;
        let failures = self.tools.store.failures(id, None, 1).await?;
        let unlisted = job.body.status != JobStatus::Completed;
        let lost = job.body.lost_hosts.count() > 0;
        if failures.items.is_empty() && !unlisted && !lost {
            return self.get(id).await;
        }
        if let Some(running) = self.of_scope(&job.body.scope) {
            let message = format!("the job {running} over the same scope is not over");
            return Err(JobsError::Conflict(message));
        }
        job.again(unlisted);
        job.body.updated = self.tools.clock.now_micros();
        job.save(&*self.tools.store).await?;
        let live = Arc::new(Live::new(job));
        self.active().insert(id, live);
        drop(making);
        self.wake.notify_one();
        self.get(id).await
    }
}
