//! The newest jobs, as the page shows them to whoever has a token.

use super::words::{count, duration, short};
use crate::backfill::jobs::{JobType, JobView};

/// What there is of jobs.
pub(super) enum Jobs {
    /// They are another worker's; a sentence says whose.
    Elsewhere(String),
    /// They can't be had now; a sentence says why.
    Unknown(String),
    /// The newest first.
    Here(Vec<JobRow>),
}

/// A job.
pub(super) struct JobRow {
    pub(super) id: String,
    pub(super) over: String,
    pub(super) status: &'static str,
    pub(super) state: String,
    pub(super) repos: String,
    pub(super) records: String,
    pub(super) begun: String,
    pub(super) can_stop: bool,
}

impl JobRow {
    pub(super) fn of(job: &JobView) -> Self {
        Self {
            id: job.id.clone(),
            over: over(job),
            status: job.status.as_str(),
            state: state(job),
            repos: repos(job),
            records: exact(job.total_records),
            begun: short(job.started_at.as_ref().unwrap_or(&job.created_at)),
            can_stop: !job.status.is_over() && job.r#type != JobType::Repairs,
        }
    }
}

fn over(job: &JobView) -> String {
    let what = match (&job.did, job.dids, &job.collection) {
        (Some(did), _, None) => did.clone(),
        (Some(did), _, Some(names)) => format!("{names} of {did}"),
        (None, Some(dids), None) => format!("{} repositories", exact(dids)),
        (None, Some(dids), Some(names)) => format!("{names} of {} repositories", exact(dids)),
        (None, None, Some(names)) => names.clone(),
        (None, None, None) => kind(job.r#type).to_owned(),
    };
    match job.days {
        Some(days) => format!("{what}, {days} days"),
        None => what,
    }
}

/// What a job without any scope is for.
fn kind(of: JobType) -> &'static str {
    match of {
        JobType::Window => "the window",
        JobType::CatchUp => "gaps of the ledger",
        JobType::FullSync | JobType::Collection | JobType::Repos => "all that is indexed",
        JobType::Repairs => "repairs (always at work)",
    }
}

fn state(job: &JobView) -> String {
    let mut state = job.status.as_str().to_owned();
    if let Some(stage) = job.stage.filter(|_| !job.status.is_over()) {
        state = format!("{state}, {}", stage.as_str());
    }
    if let Some(seconds) = job.eta_seconds.filter(|_| !job.status.is_over()) {
        state = format!("{state}, {} left", duration(seconds));
    }
    match &job.error {
        Some(error) => format!("{state}: {error}"),
        None => state,
    }
}

fn repos(job: &JobView) -> String {
    let mut repos = match job.total_repos {
        Some(total) => format!("{} of {}", exact(job.processed_repos), exact(total)),
        None => exact(job.processed_repos),
    };
    let told = [
        (job.failed_repos, "failed"),
        (job.skipped_repos, "complete already"),
        (job.inactive_repos, "inactive"),
    ];
    for (number, what) in told.into_iter().filter(|(number, _)| *number > 0) {
        repos = format!("{repos}, {} {what}", exact(number));
    }
    repos
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn exact(number: u64) -> String {
    count(number as f64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(changes: serde_json::Value) -> JobRow {
        let mut job = json!({
            "id": "7", "type": "repos", "status": "running", "stage": null, "collection": null, "did": null, "dids": null,
            "days": null, "force": null, "origin": "api", "total_repos": null, "processed_repos": 0, "failed_repos": 0,
            "skipped_repos": 0, "inactive_repos": 0, "waiting_repos": 0, "total_records": 0, "wanted_from": null,
            "covered_from": null, "error": null, "created_at": "2026-09-26T15:52:21.000000Z", "started_at": null,
            "completed_at": null, "updated_at": "", "eta_seconds": null, "collections": {},
        });
        for (name, value) in changes.as_object().unwrap() {
            job[name] = value.clone();
        }
        JobRow::of(&serde_json::from_value(job).unwrap())
    }

    #[test]
    fn a_job_is_told_in_words() {
        let one = job(json!({
            "did": "did:plc:a", "dids": 1, "days": 1.5, "stage": "fetching", "total_repos": 1200, "processed_repos": 300,
            "failed_repos": 2, "eta_seconds": 90.0, "total_records": 12345,
        }));
        assert_eq!(one.over, "did:plc:a, 1.5 days");
        assert_eq!(one.state, "running, fetching, 1 min 30 s left");
        assert_eq!(one.repos, "300 of 1,200, 2 failed");
        assert_eq!(
            (one.records.as_str(), one.begun.as_str()),
            ("12,345", "2026-09-26 15:52:21")
        );
        assert!(one.can_stop);
        let failed = job(
            json!({"type": "full_sync", "status": "failed", "stage": "fetching", "error": "no relay lists"}),
        );
        assert_eq!(failed.over, "all that is indexed");
        assert_eq!(failed.state, "failed: no relay lists");
        assert!(!failed.can_stop);
        assert!(!job(json!({"type": "repairs"})).can_stop, "it never ends");
    }
}
