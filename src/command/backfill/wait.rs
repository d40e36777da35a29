//! Waiting for a job: a bar with the time that is left on a terminal, else a line now and then.

use std::io::{self, IsTerminal};
use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::Instant;

use super::{JOBS, read, say};
use crate::api::client::{Client, ClientError};
use crate::backfill::jobs::{JobStatus, JobType, JobView, Stage};
use crate::command::{Exit, Failure};
use crate::telemetry::Bar;

/// Between two looks.
const STEP: Duration = Duration::from_millis(500);
/// A line is written at least this often.
const LINE: Duration = Duration::from_secs(30);
/// A daemon that is away this long is not waited for: jobs go on where they were after a restart.
const AWAY: Duration = Duration::from_secs(60);

/// The job once it is over.
pub(super) async fn until_over(client: &Client, id: &str) -> Result<JobView, Failure> {
    let mut progress = Progress::new();
    let mut answered = Instant::now();
    loop {
        match client.get(&format!("{JOBS}/{id}"), &[]).await {
            Ok(answer) => {
                let job: JobView = read(&answer)?;
                if job.status.is_over() {
                    return Ok(job);
                }
                if job.r#type == JobType::Repairs {
                    let message = format!("job {id} is the standing one, which never ends");
                    return Err(Failure::new(Exit::Failed, message));
                }
                progress.show(&job);
                answered = Instant::now();
            }
            Err(ClientError::Unreachable(_)) if answered.elapsed() < AWAY => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(STEP).await;
    }
}

fn counted(number: u64, one: &str, many: &str) -> String {
    let noun = if number == 1 { one } else { many };
    format!("{number} {noun}")
}

/// Success only if all that was asked for is there.
pub(super) fn verdict(job: &JobView) -> Result<Exit, Failure> {
    let id = &job.id;
    let status = job.status.as_str();
    let done = job.processed_repos;
    let why = match (job.status, job.failed_repos) {
        (JobStatus::Completed, 0) if job.failed_hosts > 0 => format!(
            "{} did not list repositories; 'penstock backfill retry {id}' asks again",
            counted(job.failed_hosts, "host", "hosts")
        ),
        (JobStatus::Completed, 0) => {
            let records = job.total_records;
            say(&format!(
                "job {id} is {status}: {}, {}",
                counted(done, "repository", "repositories"),
                counted(records, "record", "records")
            ));
            return Ok(Exit::Done);
        }
        (JobStatus::Completed, failed) => format!(
            "{failed} of {done} repositories failed; 'penstock backfill show {id} --errors' lists them, \
             'penstock backfill retry {id}' takes them again"
        ),
        _ => job.error.clone().unwrap_or_else(|| {
            format!(
                "done so far: {}",
                counted(done, "repository", "repositories")
            )
        }),
    };
    Err(Failure::new(
        Exit::Failed,
        format!("job {id} is {status}: {why}"),
    ))
}

struct Progress {
    bar: Option<Bar>,
    /// The last line: when, and of what.
    line: Option<(Instant, JobStatus, Option<Stage>)>,
}

impl Progress {
    fn new() -> Self {
        let looking = io::stderr().is_terminal();
        Self {
            bar: looking.then(|| Bar::new("backfill")),
            line: None,
        }
    }

    fn show(&mut self, job: &JobView) {
        if let Some(bar) = &self.bar {
            bar.show(share(job), words(job));
            return;
        }
        let now = Instant::now();
        let is_news = self.line.is_none_or(|(at, status, stage)| {
            (status, stage) != (job.status, job.stage) || now.duration_since(at) >= LINE
        });
        if is_news {
            self.line = Some((now, job.status, job.stage));
            say(&format!("job {}: {}", job.id, words(job)));
        }
    }
}

/// The part that is done; nothing as long as nobody knows how much there is.
#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn share(job: &JobView) -> f64 {
    match job.total_repos {
        Some(total) if total > 0 => job.processed_repos as f64 / total as f64,
        _ => 0.0,
    }
}

fn words(job: &JobView) -> String {
    let doing = match job.stage {
        Some(Stage::Discovering) => "discovering",
        Some(Stage::Fetching) => "fetching",
        Some(Stage::Replaying) => "replaying",
        Some(Stage::Waiting) => "waiting for all workers",
        None => job.status.as_str(),
    };
    let total = job
        .total_repos
        .map(|total| format!(" of {total}"))
        .unwrap_or_default();
    let mut words = format!(
        "{doing}, {}{total} repositories, {} failed, {} records",
        job.processed_repos, job.failed_repos, job.total_records
    );
    let left = job
        .eta_seconds
        .and_then(|left| SignedDuration::try_from_secs_f64(left.round()).ok());
    if let Some(left) = left {
        words.push_str(&format!(", {left:#} left"));
    }
    words
}
