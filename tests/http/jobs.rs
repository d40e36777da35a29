//! Jobs in memory: they do nothing but what a test says.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use penstock::backfill::jobs::{
    Estimate, FailureView, JobRequest, JobStatus, JobType, JobView, Jobs, JobsError, Started,
};
use penstock::store::{Page, StoreError};

/// What the ledger says where there is nothing to do.
pub const NOT_NEEDED: &str = "Nothing between what is held is missing.";
/// How an estimate of DIDs that are given is made.
const ESTIMATED: &str = "the DIDs that were given; those that are complete already are not subtracted; 250000 bytes a repository, 10 a second of one host";
const TIME: &str = "2026-09-26T15:52:21.000000Z";

/// Jobs 1, 2, 3 and so on, or those after another number.
#[derive(Default)]
pub struct FakeJobs {
    after: u64,
    held: Mutex<Vec<Held>>,
    /// What was asked for, and whether by the ledger.
    asked: Mutex<Vec<(JobRequest, bool)>>,
}

struct Held {
    view: JobView,
    request: JobRequest,
    failures: Vec<FailureView>,
    /// What each look at it moves on to.
    coming: Vec<JobView>,
}

impl FakeJobs {
    /// Jobs whose ids begin behind this one.
    pub fn after(id: u64) -> Self {
        Self {
            after: id,
            ..Self::default()
        }
    }

    /// The last request, and whether the ledger decides.
    pub fn asked(&self) -> (JobRequest, bool) {
        self.asked.lock().unwrap().last().unwrap().clone()
    }

    /// Changes a job.
    pub fn change(&self, id: u64, change: impl FnOnce(&mut JobView)) {
        self.with(id, |held| change(&mut held.view)).unwrap();
    }

    /// The states that a job is seen in from now on, one at each look.
    pub fn will_be(&self, id: u64, states: impl IntoIterator<Item = JobView>) {
        let mut coming: Vec<JobView> = states.into_iter().collect();
        coming.reverse();
        self.with(id, |held| held.coming = coming).unwrap();
    }

    /// Repositories that failed in a job.
    pub fn fail(&self, id: u64, dids: &[&str]) {
        self.with(id, |held| {
            held.failures = dids.iter().map(|did| failure(did)).collect();
            held.view.failed_repos = held.failures.len() as u64;
        })
        .unwrap();
    }

    pub fn view(&self, id: u64) -> JobView {
        self.with(id, |held| held.view.clone()).unwrap()
    }

    fn with<T>(&self, id: u64, action: impl FnOnce(&mut Held) -> T) -> Result<T, JobsError> {
        let mut held = self.held.lock().unwrap();
        let at = id.checked_sub(self.after + 1);
        let found = at.and_then(|at| held.get_mut(usize::try_from(at).unwrap()));
        found.map(action).ok_or(JobsError::NotFound(id))
    }
}

fn failure(did: &str) -> FailureView {
    FailureView {
        did: did.to_owned(),
        collection: None,
        reason: "unreachable".to_owned(),
        message: "pds.test: connection refused".to_owned(),
        host: Some("pds.test".to_owned()),
        attempts: 5,
        failed_at: TIME.to_owned(),
        next_at: None,
    }
}

fn kind(request: &JobRequest) -> JobType {
    match request {
        JobRequest { dids, .. } if !dids.is_empty() => JobType::Repos,
        JobRequest { collections, .. } if !collections.is_empty() => JobType::Collection,
        JobRequest { days: Some(_), .. } => JobType::Window,
        _ => JobType::FullSync,
    }
}

fn view(id: u64, request: &JobRequest) -> JobView {
    let JobRequest {
        collections, dids, ..
    } = request;
    JobView {
        id: id.to_string(),
        r#type: kind(request),
        status: JobStatus::Pending,
        stage: None,
        collection: (!collections.is_empty()).then(|| collections.join(",")),
        did: (dids.len() == 1).then(|| dids[0].clone()),
        dids: (!dids.is_empty()).then_some(dids.len() as u64),
        days: request.days,
        force: request.force,
        origin: request.origin.clone(),
        total_repos: None,
        processed_repos: 0,
        failed_repos: 0,
        skipped_repos: 0,
        inactive_repos: 0,
        failed_hosts: 0,
        host_failures: BTreeMap::new(),
        waiting_repos: 0,
        total_records: 0,
        wanted_from: None,
        covered_from: None,
        error: None,
        created_at: TIME.to_owned(),
        started_at: None,
        completed_at: None,
        updated_at: TIME.to_owned(),
        eta_seconds: None,
        collections: BTreeMap::new(),
    }
}

fn page<T>(rows: Vec<T>, cursor: Option<&str>, limit: usize) -> Result<Page<T>, JobsError> {
    let bad = |_| StoreError::Query("a cursor of another list".to_owned());
    let from: usize = cursor.map_or(Ok(0), |cursor| cursor.parse().map_err(bad))?;
    let to = from.saturating_add(limit);
    let cursor = (to < rows.len()).then(|| to.to_string());
    let items = rows.into_iter().skip(from).take(limit).collect();
    Ok(Page { items, cursor })
}

#[async_trait]
impl Jobs for FakeJobs {
    async fn start(&self, request: JobRequest, by_ledger: bool) -> Result<Started, JobsError> {
        let mut asked = self.asked.lock().unwrap();
        asked.push((request.clone(), by_ledger));
        if by_ledger {
            return Ok(Started::NotNeeded(NOT_NEEDED.to_owned()));
        }
        if request.days == Some(0.125) {
            let message = "0.125 is less than this test takes".to_owned();
            let field = "days";
            return Err(JobsError::Invalid { field, message });
        }
        let mut held = self.held.lock().unwrap();
        let same = held.iter().position(|held| {
            let (ours, theirs) = (&held.request, &request);
            !held.view.status.is_over()
                && (&ours.collections, &ours.dids) == (&theirs.collections, &theirs.dids)
        });
        if let Some(at) = same {
            return Ok(Started::Running(self.after + at as u64 + 1));
        }
        let view = view(self.after + held.len() as u64 + 1, &request);
        held.push(Held {
            view: view.clone(),
            request,
            failures: Vec::new(),
            coming: Vec::new(),
        });
        Ok(Started::Job(Box::new(view)))
    }

    async fn estimate(&self, request: JobRequest) -> Result<Estimate, JobsError> {
        let repos = request.dids.len() as u64;
        self.asked.lock().unwrap().push((request, false));
        Ok(Estimate {
            repos: Some(repos),
            complete: None,
            bytes: Some(repos * 250_000),
            seconds: Some(repos as f64 / 10.0),
            exact: true,
            basis: ESTIMATED.to_owned(),
        })
    }

    async fn did_of(&self, handle: &str) -> Result<String, JobsError> {
        match handle {
            "alice.example.com" => Ok(super::ALICE.to_owned()),
            handle => Err(JobsError::Invalid {
                field: "handle",
                message: format!(
                    "{handle} names no DID: _atproto.{handle}: no TXT record with did= and a DID; \
                     https://{handle}/.well-known/atproto-did: no DID; give the DID itself"
                ),
            }),
        }
    }

    async fn list(&self, cursor: Option<&str>, limit: usize) -> Result<Page<JobView>, JobsError> {
        let held = self.held.lock().unwrap();
        let newest_first = held.iter().rev().map(|held| held.view.clone()).collect();
        page(newest_first, cursor, limit)
    }

    async fn get(&self, id: u64) -> Result<JobView, JobsError> {
        self.with(id, |held| {
            if let Some(next) = held.coming.pop() {
                held.view = next;
            }
            held.view.clone()
        })
    }

    async fn failures(
        &self,
        id: u64,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<FailureView>, JobsError> {
        let failures = self.with(id, |held| held.failures.clone())?;
        page(failures, cursor, limit)
    }

    async fn cancel(&self, id: u64) -> Result<JobView, JobsError> {
        self.with(id, |held| {
            if !held.view.status.is_over() {
                held.view.status = JobStatus::Cancelled;
                held.view.completed_at = Some(TIME.to_owned());
            }
            held.view.clone()
        })
    }

    async fn retry(&self, id: u64) -> Result<JobView, JobsError> {
        self.with(id, |held| {
            if held.view.r#type == JobType::Repairs {
                return Err(JobsError::Conflict(
                    "the standing job never ends".to_owned(),
                ));
            }
            if !std::mem::take(&mut held.failures).is_empty() {
                held.view.status = JobStatus::Pending;
                held.view.completed_at = None;
                held.view.failed_repos = 0;
            }
            Ok(held.view.clone())
        })?
    }
}
