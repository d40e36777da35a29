//! All jobs of worker 0: which wait, which are at work, what is asked of them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::gaps::{self, LedgerNow};
use super::live::Live;
use super::model::{JobRequest, JobStatus, JobType, JobView, JobsError, Stage, Started};
use super::record::{Job, JobBody};
use super::run::{Ended, Run};
use super::scope;
use super::tools::Tools;
use crate::store::{Choice, ChoiceKind, StoreError};
use crate::telemetry::metrics as names;

/// The standing job that works the repairs off.
pub(super) const REPAIRS: u64 = 1;
/// DIDs of a row.
const CHUNK: usize = 1000;
/// Jobs read at once at the start.
const PAGE: usize = 200;
/// Between two looks at a store that does not answer.
const STORE_WAIT: Duration = Duration::from_secs(5);
/// Between two words on a job in the log.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How long an answer waits for a job that is told to stop.
const STOP: Duration = Duration::from_secs(5);

/// The jobs.
pub struct Roster {
    tools: Arc<Tools>,
    ledger: LedgerNow,
    live: Mutex<HashMap<u64, Arc<Live>>>,
    /// Held while a job is made, so that of two requests for one scope the second one sees the first.
    making: tokio::sync::Mutex<u64>,
    wake: Notify,
    /// Looks again for what has to be started.
    pub(super) due: Notify,
}

impl Roster {
    /// Reads what was not over when a process ended.
    pub async fn open(tools: Arc<Tools>, ledger: LedgerNow) -> Result<Arc<Self>, StoreError> {
        let mut live = HashMap::new();
        let mut newest = REPAIRS;
        let mut cursor = None;
        loop {
            let page = tools.store.jobs(cursor.as_deref(), PAGE).await?;
            for row in &page.items {
                newest = newest.max(row.id);
                let job = Job::read(row)?;
                if !job.body.status.is_over() {
                    live.insert(job.id, Arc::new(Live::new(job)));
                }
            }
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        let roster = Arc::new(Self {
            tools,
            ledger,
            live: Mutex::new(live),
            making: tokio::sync::Mutex::new(newest),
            wake: Notify::new(),
            due: Notify::new(),
        });
        roster.stand().await?;
        Ok(roster)
    }

    /// Makes the standing job where there is none, and takes it up again whatever is stored of it: it never ends.
    async fn stand(&self) -> Result<(), StoreError> {
        if self.active().contains_key(&REPAIRS) {
            return Ok(());
        }
        let now = self.tools.clock.now_micros();
        if let Some(row) = self.tools.store.job(REPAIRS).await? {
            let mut job = Job::read(&row)?;
            (job.body.status, job.body.completed) = (JobStatus::Running, None);
            job.save(&*self.tools.store).await?;
            self.active().insert(REPAIRS, Arc::new(Live::new(job)));
            return Ok(());
        }
        let request = JobRequest {
            origin: "repairs".to_owned(),
            ..JobRequest::default()
        };
        let mut body = JobBody::new(request, JobType::Repairs, "repairs".to_owned(), now);
        body.status = JobStatus::Running;
        body.started = Some(now);
        body.listed = true;
        let job = Job {
            id: REPAIRS,
            epoch: 1,
            body,
        };
        self.tools.store.put_job(&job.row()?, None).await?;
        self.active().insert(REPAIRS, Arc::new(Live::new(job)));
        Ok(())
    }

    pub(super) fn tools(&self) -> &Tools {
        &self.tools
    }

    pub(super) fn ledger(&self) -> &LedgerNow {
        &self.ledger
    }

    /// The identity of a DID changed: it is asked for anew. A change that nobody tells of, as of another worker's slots, is seen
    /// once the cached one is due, or when the host that it names says that the account is not there.
    pub fn forget_identity(&self, did: &str) {
        self.tools.identities.forget(did);
    }

    pub(super) fn active(&self) -> MutexGuard<'_, HashMap<u64, Arc<Live>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The configuration was read again: other limits hold, and other collections are indexed.
    pub async fn reconsider(&self) -> Result<(), JobsError> {
        self.wake();
        self.due.notify_one();
        self.outlive().await
    }

    /// Looks again for what can be worked on.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    fn find(&self, id: u64) -> Option<Arc<Live>> {
        self.active().get(&id).cloned()
    }

    /// Works until the shutdown. What is at work then goes on after a restart.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) -> Result<(), StoreError> {
        let mut working: JoinSet<Result<u64, StoreError>> = JoinSet::new();
        let mut busy: HashSet<u64> = HashSet::new();
        if let Some(live) = self.find(REPAIRS) {
            let (tools, shutdown) = (self.tools.clone(), shutdown.clone());
            working.spawn(async move {
                super::repairs::run(tools, live, shutdown)
                    .await
                    .map(|()| REPAIRS)
            });
            busy.insert(REPAIRS);
        }
        self.count();
        begin_counters();
        let start = Instant::now() + TELL_EVERY;
        let mut tell = tokio::time::interval_at(start, TELL_EVERY);
        loop {
            while !shutdown.is_cancelled()
                && let Some(live) = self.next(&busy)
            {
                let (roster, shutdown) = (self.clone(), shutdown.clone());
                let id = live.job().id;
                busy.insert(id);
                working.spawn(async move { roster.work(live, shutdown).await.map(|()| id) });
            }
            tokio::select! {
                biased;
                // What ends with it is not taken up again.
                () = shutdown.cancelled() => break,
                () = self.wake.notified() => {}
                _ = tell.tick() => {
                    self.tell();
                    self.count();
                }
                Some(ended) = working.join_next() => {
                    let id = ended.map_err(|error| StoreError::Failed(format!("a job ended: {error}")))??;
                    busy.remove(&id);
                }
            }
        }
        while let Some(ended) = working.join_next().await {
            ended.map_err(|error| StoreError::Failed(format!("a job ended: {error}")))??;
        }
        Ok(())
    }

    /// Shows how many there are, and how far.
    fn count(&self) {
        let active = self.active();
        for status in [JobStatus::Pending, JobStatus::Running] {
            let (mut jobs, mut catch_ups) = (0, 0);
            for live in active.values() {
                let state = live.state();
                let body = &state.0.body;
                if body.status == status {
                    jobs += 1;
                    catch_ups += u32::from(body.kind == JobType::CatchUp);
                }
            }
            let status = [status.as_str()];
            names::BACKFILL_JOBS.with(status).set(f64::from(jobs));
            names::BACKFILL_CATCH_UPS
                .with(status)
                .set(f64::from(catch_ups));
        }
        let now = self.tools.clock.now_micros();
        let asked = active.iter().filter(|(id, _)| **id != REPAIRS);
        let views: Vec<JobView> = asked.map(|(_, live)| live.view(now)).collect();
        let waiting: u64 = views.iter().map(|job| job.waiting_repos).sum();
        names::BACKFILL_WAITING.with([]).set(waiting as f64);
        // What one does not know all don't: the greatest of them, and NaN where there is one.
        let eta = views.iter().map(|job| job.eta_seconds.unwrap_or(f64::NAN));
        let eta = eta.fold(0.0, |most: f64, eta| match most < eta || eta.is_nan() {
            true => eta,
            false => most,
        });
        names::BACKFILL_ETA.with([]).set(eta);
    }

    /// Tells in the log how far each job is.
    fn tell(&self) {
        let now = self.tools.clock.now_micros();
        let active = self.active();
        let running = active.iter().filter(|(id, _)| **id != REPAIRS);
        for job in running.map(|(_, live)| live.view(now)) {
            if job.status == JobStatus::Running {
                tracing::info!(
                    job = job.id,
                    stage = job.stage.map(Stage::as_str),
                    processed = job.processed_repos,
                    of = job.total_repos,
                    failed = job.failed_repos,
                    records = job.total_records,
                    eta_seconds = job.eta_seconds,
                    "fetching repositories"
                );
            }
        }
    }

    /// The oldest job that waits, if there is a place for it; one that was cancelled needs none.
    fn next(&self, busy: &HashSet<u64>) -> Option<Arc<Live>> {
        let full = busy.len() > self.tools.limits.now().max_jobs + self.waiting();
        let active = self.active();
        // The standing one ends only with the process: it is never taken up again.
        let waits = |(id, live): &(&u64, &Arc<Live>)| {
            **id != REPAIRS && !busy.contains(*id) && (!full || live.cancel.is_cancelled())
        };
        let (_, live) = active.iter().filter(waits).min_by_key(|(id, _)| **id)?;
        Some(live.clone())
    }

    /// One job from where it is to its end, or to the shutdown. A store that does not answer now is waited for.
    async fn work(&self, live: Arc<Live>, shutdown: CancellationToken) -> Result<(), StoreError> {
        loop {
            match self.work_once(&live, &shutdown).await {
                Err(StoreError::Unavailable(error)) => {
                    tracing::warn!(job = live.job().id, error, "a backfill waits for the store");
                }
                ended => return ended,
            }
            let wait = tokio::time::sleep(STORE_WAIT);
            if shutdown.run_until_cancelled(wait).await.is_none() {
                return Ok(());
            }
            live.read_again(&*self.tools.store).await?;
        }
    }

    async fn work_once(
        &self,
        live: &Arc<Live>,
        shutdown: &CancellationToken,
    ) -> Result<(), StoreError> {
        let mut job = live.job();
        if live.cancel.is_cancelled() {
            return self.end(live, job, Ended::Stopped).await;
        }
        job.body.status = JobStatus::Running;
        let resumed = job.body.started.is_some();
        job.body
            .started
            .get_or_insert(self.tools.clock.now_micros());
        job.save(&*self.tools.store).await?;
        live.show(&job, job.body.counts.clone());
        self.count();
        tracing::info!(job = job.id, scope = job.body.scope, "a backfill begins");
        let stop = live.cancel.child_token();
        let work = self.fetch(live, job, resumed, stop.clone());
        tokio::pin!(work);
        let (job, ended) = tokio::select! {
            done = &mut work => done?,
            () = shutdown.cancelled() => {
                stop.cancel();
                work.await?
            }
        };
        match ended {
            // A restart goes on.
            Ended::Stopped if !live.cancel.is_cancelled() => Ok(()),
            ended => self.end(live, job, ended).await,
        }
    }

    async fn fetch(
        &self,
        live: &Arc<Live>,
        mut job: Job,
        resumed: bool,
        stop: CancellationToken,
    ) -> Result<(Job, Ended), StoreError> {
        let taken = job.body.retrying || job.body.listed || !job.body.gaps.is_empty();
        if job.body.kind == JobType::CatchUp && !taken {
            let ready =
                gaps::wait_for_replay(&self.ledger, &mut job, live, &self.tools, &stop).await?;
            if !ready {
                return Ok((job, Ended::Stopped));
            }
        }
        if !self.wait_for_workers(&mut job, live, &stop).await? {
            return Ok((job, Ended::Stopped));
        }
        if let Some(nsid) = job.outlived(&self.tools.indexed.now()) {
            let why = format!("{nsid} is not indexed any more");
            return Ok((job, Ended::Failed(why)));
        }
        let run = Run::new(self.tools.clone(), live.clone(), job, resumed, stop);
        let (mut job, ended) = run.run().await?;
        if matches!(ended, Ended::Done) && !job.body.gaps.is_empty() {
            // Of what is there and was not listed nothing can be claimed.
            let lost = job.body.lost_hosts.count();
            if lost > 0 {
                let message = format!("{lost} hosts did not list their repositories");
                return Ok((job, Ended::Failed(message)));
            }
            gaps::close(&self.tools, &job).await?;
            job.body.gaps.clear();
        }
        Ok((job, ended))
    }

    async fn end(&self, live: &Live, mut job: Job, ended: Ended) -> Result<(), StoreError> {
        let now = self.tools.clock.now_micros();
        job.body.completed = Some(now);
        job.body.updated = now;
        (job.body.status, job.body.error) = match ended {
            Ended::Done => (JobStatus::Completed, None),
            Ended::Failed(error) => (JobStatus::Failed, Some(error)),
            Ended::Stopped => (JobStatus::Cancelled, None),
        };
        if job.body.status == JobStatus::Completed {
            // All are settled, and that is saved: what failed is told by its rows.
            self.drop_given(job.id).await?;
        }
        job.save(&*self.tools.store).await?;
        tracing::info!(
            job = job.id,
            status = job.body.status.as_str(),
            processed = job.body.counts.processed,
            failed = job.body.counts.failed,
            records = job.body.counts.records,
            error = job.body.error,
            "a backfill is over"
        );
        let ended = [job.body.kind.as_str(), outcome(&job.body)];
        names::BACKFILL_OVER.with(ended).increment(1);
        live.show(&job, job.body.counts.clone());
        self.active().remove(&job.id);
        self.count();
        live.over.send_replace(true);
        Ok(())
    }

    /// Removes the DIDs that a job was given.
    async fn drop_given(&self, job: u64) -> Result<(), StoreError> {
        let (store, kind) = (&self.tools.store, ChoiceKind::JobDids);
        let mut cursor = None;
        loop {
            let prefix = format!("{job}~");
            let page = store
                .choices(kind, &prefix, cursor.as_deref(), PAGE)
                .await?;
            for chunk in page.items {
                store.remove_choice(kind, &chunk.name).await?;
            }
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    /// Starts a job unless one of its scope is not over.
    pub async fn begin(&self, request: JobRequest) -> Result<Started, JobsError> {
        let kind = scope::kind(&request);
        let of = scope::scope(&request);
        let mut newest = self.making.lock().await;
        if let Some(running) = self.of_scope(&of) {
            return Ok(Started::Running(running));
        }
        let now = self.tools.clock.now_micros();
        let id = now.max(*newest + 1);
        let chunks = request.dids.chunks(CHUNK).enumerate();
        for (number, dids) in chunks {
            let body = serde_json::to_vec(dids).unwrap_or_default();
            let name = format!("{id}~{number:08}");
            let kind = ChoiceKind::JobDids;
            self.tools
                .store
                .put_choice(&Choice { kind, name, body })
                .await?;
        }
        let relays = &self.tools.options.relays;
        let sources = scope::sources(&request, &self.tools.indexed.now(), relays);
        let mut body = JobBody::new(request, kind, of, now);
        body.sources = sources;
        body.awaits_workers = self.any_is_new(&body.request.collections);
        let job = Job { id, epoch: 1, body };
        if !self.tools.store.put_job(&job.row()?, None).await? {
            let message = format!("another process made the job {id} at the same moment");
            return Err(JobsError::Conflict(message));
        }
        *newest = id;
        let live = Arc::new(Live::new(job));
        let view = live.view(now);
        self.active().insert(id, live);
        self.count();
        self.wake.notify_one();
        Ok(Started::Job(Box::new(view)))
    }

    fn of_scope(&self, scope: &str) -> Option<u64> {
        let active = self.active();
        let found = active
            .iter()
            .find(|(_, live)| live.state().0.body.scope == scope && !live.cancel.is_cancelled());
        found.map(|(id, _)| *id)
    }
}

/// Shows all that jobs may ever count.
fn begin_counters() {
    let repos = ["done", "skipped", "inactive", "failed"];
    names::BACKFILL_REPOS.begin(repos.map(|outcome| [outcome]));
    names::BACKFILL_RECORDS.begin([[]]);
    let outcomes = ["complete", "partial", "failed", "cancelled"];
    for kind in [
        JobType::Window,
        JobType::CatchUp,
        JobType::FullSync,
        JobType::Collection,
        JobType::Repos,
    ] {
        let of_kind = outcomes.map(|outcome| [kind.as_str(), outcome]);
        names::BACKFILL_OVER.begin(of_kind);
    }
}

/// How a job ended, as a label: what could not be had of a completed one is told.
fn outcome(body: &JobBody) -> &'static str {
    match body.status {
        JobStatus::Completed if body.counts.failed > 0 || body.lost_hosts.count() > 0 => "partial",
        JobStatus::Completed => "complete",
        status => status.as_str(),
    }
}

mod asked;

#[cfg(test)]
pub(super) mod tests;
