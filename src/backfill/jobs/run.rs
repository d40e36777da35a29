//! One job at work: pages of repositories come in, wait by host, are fetched, and are settled.
//!
//! Everything happens in one loop over steps that end; the state between two steps is plain. At most [`MAX_UNITS`] repositories are
//! on their way: while they are, no page is asked for. Each waits in the queue of the host that is to be asked, first for its
//! identity and then for itself, so that a host that is slow or dead holds no place that another one could use; one that wants no
//! requests for a while rests, and who finds it so gives its place back: that is no attempt.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::discover::{DiscoverError, Found, FoundPage, Lister};
use super::failure::Failure;
use super::left_alone::LeftAlone;
use super::live::Live;
use super::pages::{Pages, Progress};
use super::record::{Checkpoint, Counts, Job};
use super::tools::Tools;
use super::turns::Turns;
use super::unit::{self, Fetched, Outcome, Plan};
use crate::fetch::{FetchError, WaitingPlaces};
use crate::identity::Filled;
use crate::store::{JobFailure, JobRow, StoreError};

mod asking;
mod listing;

use asking::Asking;
use listing::Before;

/// Repositories that are found and not settled, of one job.
const MAX_UNITS: usize = 20_000;
/// How often what was done is saved,
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// and where that is much: more than so many repositories behind the checkpoint.
const SAVE_MUCH_EVERY: Duration = Duration::from_secs(5);
const MUCH: usize = 2000;
/// How often one is told that somebody is left alone who has to be asked for it, before it fails with that.
const MAX_REFUSALS: u32 = 10;
/// How often a listing is asked for before the job fails.
const LISTING_ATTEMPTS: u32 = 8;

/// A repository on its way.
#[derive(Debug)]
struct Unit {
    found: Found,
    page: u64,
    attempts: u32,
    /// How often somebody was left alone who had to be asked for it: no attempt of its own.
    refusals: u32,
    /// Relays that were asked for their copy,
    relays: usize,
    /// and why: what its own host said.
    failure: Option<Failure>,
    /// What was written of it while another part failed.
    counts: Counts,
}

impl Unit {
    fn new(found: Found, page: u64) -> Self {
        Self {
            found,
            page,
            attempts: 0,
            refusals: 0,
            relays: 0,
            failure: None,
            counts: Counts::default(),
        }
    }
}

/// What ended.
enum Step {
    Page(Result<FoundPage, DiscoverError>),
    /// Its host, or that nothing has to be fetched.
    Resolved(Unit, Arc<str>, Result<unit::Target, Outcome>),
    /// Its place at the host is free again.
    Fetched(Unit, unit::Target, Result<Fetched, Failure>),
    Finished(Unit, Result<Outcome, StoreError>),
    /// It failed a while ago, or its host wanted no requests; where to go on, if that is known.
    Again(Unit, Option<unit::Target>),
    /// A host may be asked again.
    Rested(Asking, Arc<str>),
    Settled(Unit, Result<Counts, StoreError>),
    /// The identities of the directory's export.
    Filled(Result<Filled, FetchError>),
}

/// How a run ended.
pub(super) enum Ended {
    /// All is done.
    Done,
    /// The listing can't be had.
    Failed(String),
    /// It was told to stop.
    Stopped,
}

pub(super) struct Run {
    tools: Arc<Tools>,
    plan: Arc<Plan>,
    live: Arc<Live>,
    job: Job,
    pages: Pages,
    lister: Arc<Lister>,
    steps: JoinSet<Step>,
    /// Those whose host is not known, by who is to be asked for it; nobody, where it is cached.
    identities: Turns<Unit>,
    repositories: Turns<(Unit, unit::Target)>,
    left_alone: LeftAlone,
    /// Places of those that wait for a host that gave them a part.
    patient: WaitingPlaces,
    units: usize,
    /// Where the next page is; `None` once all are listed.
    next: Option<Checkpoint>,
    asking: bool,
    listing_failures: u32,
    /// DIDs that were listed.
    listed: HashSet<u64>,
    /// What was listed before this run, of which nothing is known but that.
    before: Before,
    /// Whether failures may be there that this run mends.
    mends: bool,
    /// What was done when, until it may be claimed.
    trail: VecDeque<(Instant, Progress)>,
    saved: Instant,
    /// Since when the export of the directory is read, while it is.
    filling: Option<Instant>,
    cancel: CancellationToken,
}

impl Run {
    /// Goes on where the job is. `resumed`: it was at work before. `cancel` ends it within a moment.
    pub fn new(
        tools: Arc<Tools>,
        live: Arc<Live>,
        mut job: Job,
        resumed: bool,
        cancel: CancellationToken,
    ) -> Self {
        let plan = Arc::new(Plan::of(&job));
        let keys = tools.limits.now();
        let body = &mut job.body;
        let checkpoint = body.checkpoint.clone();
        body.listed = checkpoint.source >= body.sources.len();
        Self {
            pages: Pages::at(Progress {
                checkpoint: checkpoint.clone(),
                counts: body.counts.clone(),
                settled: body.settled.clone(),
            }),
            before: Before::of(&body.sources, &checkpoint),
            mends: resumed || body.retrying,
            lister: Arc::new(Lister::new(job.id)),
            next: (!body.listed).then_some(checkpoint),
            identities: Turns::new(asking::RESOLVING_PER_HOST, asking::MAX_RESOLVING),
            repositories: Turns::new(keys.per_host, asking::MAX_FETCHING),
            left_alone: LeftAlone::new(keys.retry_wait),
            patient: WaitingPlaces::new(asking::MAX_PATIENT),
            tools,
            plan,
            live,
            job,
            steps: JoinSet::new(),
            units: 0,
            asking: false,
            listing_failures: 0,
            listed: HashSet::new(),
            trail: VecDeque::new(),
            saved: Instant::now(),
            filling: None,
            cancel,
        }
    }

    /// Works until everything is settled and durable; gives the job as it was saved last.
    pub async fn run(mut self) -> Result<(Job, Ended), StoreError> {
        let mut save = tokio::time::interval(SAVE_EVERY);
        save.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let cancel = self.cancel.clone();
        loop {
            self.start_steps();
            if self.units == 0 && self.next.is_none() && !self.asking {
                break;
            }
            tokio::select! {
                () = cancel.cancelled() => {
                    self.steps.shutdown().await;
                    self.save(false).await?;
                    return Ok((self.job, Ended::Stopped));
                }
                _ = save.tick() => self.tick().await?,
                Some(step) = self.steps.join_next() => {
                    let step = step.map_err(|error| StoreError::Failed(format!("a task of the job ended: {error}")))?;
                    if let Some(failed) = self.take(step)? {
                        self.steps.shutdown().await;
                        self.save(false).await?;
                        return Ok((self.job, Ended::Failed(failed)));
                    }
                }
            }
        }
        self.save(true).await?;
        Ok((self.job, Ended::Done))
    }

    /// Starts all that can be started now.
    fn start_steps(&mut self) {
        if !self.asking
            && self.units < MAX_UNITS
            && let Some(at) = self.before.at.clone().or_else(|| self.next.clone())
        {
            self.ask(at, Duration::ZERO);
        }
        self.fill_identities();
        self.ask_for_identities();
        self.ask_for_repositories();
    }

    /// Has the identities from the directory's export, where they are many.
    fn fill_identities(&mut self) {
        let many = self.pages.found() > self.tools.limits.now().export_above;
        if !many || self.filling.is_some() || !self.tools.identities.is_fill_due() {
            return;
        }
        tracing::info!(
            job = self.job.id,
            "the identities are read from the PLC directory's export"
        );
        self.filling = Some(Instant::now());
        let (identities, cancel) = (self.tools.identities.clone(), self.cancel.clone());
        self.steps
            .spawn(async move { Step::Filled(identities.fill(&cancel).await) });
    }

    fn filled(&mut self, filled: Result<Filled, FetchError>) {
        self.filling = None;
        let job = self.job.id;
        match filled {
            Ok(Filled::All(known)) => tracing::info!(job, known, "the identities were read"),
            Ok(Filled::Full(known)) => {
                tracing::warn!(
                    job,
                    known,
                    "the PLC directory has more DIDs than identity.cache_entries: the others are asked for one by one"
                );
            }
            Ok(Filled::NotDue) => {}
            Err(error) => {
                tracing::warn!(job, %error, "the PLC directory's export can't be read: DIDs are asked for one by one");
            }
        }
    }

    /// Takes what ended; gives why the job can't go on, if it can't.
    fn take(&mut self, step: Step) -> Result<Option<String>, StoreError> {
        match step {
            Step::Page(Err(DiscoverError::Store(error))) => return Err(error),
            Step::Page(page) if self.before.at.is_some() => self.found_before(page),
            Step::Page(Ok(page)) => self.found(page),
            Step::Page(Err(error)) => return Ok(self.not_listed(error)),
            Step::Resolved(unit, host, target) => {
                self.identities.leave(&host);
                if target.is_ok() {
                    self.left_alone.forget(&host);
                }
                match target {
                    Ok(target) => self.wait_for_host(unit, target),
                    Err(Outcome::Failed(failure)) => self.failed(unit, None, failure),
                    Err(outcome) => self.settle(unit, outcome),
                }
            }
            Step::Fetched(unit, target, fetched) => {
                self.repositories.leave(&target.host);
                if !matches!(&fetched, Err(failure) if failure.is_of_host(&target.host)) {
                    self.left_alone.forget(&target.host);
                }
                match fetched {
                    Ok(fetched) => self.finish(unit, fetched),
                    // Another one was asking it whether it is back.
                    Err(failure) if failure.is_left_alone(&target.host) => {
                        self.wait_for_host(unit, target);
                    }
                    Err(failure) => self.failed(unit, Some(target), failure),
                }
            }
            Step::Finished(mut unit, outcome) => match outcome? {
                Outcome::Partly(counts, left, failure) => {
                    unit.counts.add(&counts);
                    unit.found.collections = left;
                    self.failed(unit, None, failure);
                }
                outcome => self.settle(unit, outcome),
            },
            Step::Again(unit, None) => self.find_host(unit),
            Step::Again(unit, Some(target)) => self.wait_for_host(unit, target),
            Step::Rested(Asking::Identity, host) => self.identities.wake(&host),
            Step::Rested(Asking::Repository, host) => self.repositories.wake(&host),
            Step::Filled(filled) => self.filled(filled),
            Step::Settled(unit, counts) => {
                self.units -= 1;
                let mut counts = counts?;
                counts.found = 1;
                let hash = self.hash(&unit.found.did);
                let extra = unit.found.unlisted_only || self.before.seen.contains(&hash);
                if extra && counts.skipped > 0 {
                    // Nobody listed it, or it was counted before, and nothing was to be done.
                    counts = Counts::default();
                }
                self.pages.settle(unit.page, hash, &counts);
            }
        }
        Ok(None)
    }

    fn hash(&self, did: &str) -> u64 {
        hash(self.job.id, did)
    }

    fn finish(&mut self, unit: Unit, fetched: Fetched) {
        let (tools, plan) = (self.tools.clone(), self.plan.clone());
        self.steps.spawn(async move {
            let outcome = unit::finish(&tools, &plan, &unit.found, fetched).await;
            Step::Finished(unit, outcome)
        });
    }

    /// Tries a repository again later, then at the relays, then notes that it failed.
    fn failed(&mut self, mut unit: Unit, target: Option<unit::Target>, failure: Failure) {
        if let Some(until) = failure.paused_until {
            // What is held may be something else by then; only of a relay nobody else would know.
            let target = target.filter(|target| target.relay.is_some());
            self.again_at(until, unit, target);
            return;
        }
        // What its own host said is what is told.
        let failure = match unit.failure.take() {
            Some(first) => first.and_at_relay(&failure),
            None => match self.again(unit, &failure) {
                Some(done) => {
                    unit = done;
                    failure
                }
                None => return,
            },
        };
        if let Some(target) = target
            && failure.elsewhere
            && unit.found.may_be_copied()
            && let Some(relay) = self.tools.options.relays.get(unit.relays)
        {
            let target = target.at_relay(relay);
            unit.relays += 1;
            unit.failure = Some(failure);
            self.wait_for_host(unit, target);
            return;
        }
        self.settle(unit, Outcome::Failed(failure));
    }

    /// Lets it wait for another try; gives it back if there is none.
    fn again(&mut self, mut unit: Unit, failure: &Failure) -> Option<Unit> {
        if !failure.again {
            return Some(unit);
        }
        let keys = self.tools.limits.now();
        let tried = match failure.reason {
            "backed_off" => &mut unit.refusals,
            _ => &mut unit.attempts,
        };
        *tried += 1;
        let wait = keys.retry_wait * 2u32.saturating_pow((*tried - 1).min(6));
        if unit.attempts >= keys.attempts || unit.refusals >= MAX_REFUSALS {
            return Some(unit);
        }
        self.again_at(Instant::now() + wait, unit, None);
        None
    }

    fn again_at(&mut self, when: Instant, unit: Unit, target: Option<unit::Target>) {
        self.steps.spawn(async move {
            tokio::time::sleep_until(when).await;
            Step::Again(unit, target)
        });
    }

    /// Notes what became of a repository.
    fn settle(&mut self, unit: Unit, outcome: Outcome) {
        let mends = self.mends;
        let (tools, job) = (self.tools.clone(), self.job.id);
        self.steps.spawn(async move {
            let attempts = unit.attempts.max(1);
            let counts = unit::note(&tools, job, &unit.found, attempts, outcome, mends).await;
            let counts = counts.map(|mut counts| {
                counts.add(&unit.counts);
                counts
            });
            Step::Settled(unit, counts)
        });
    }

    /// Shows how far it is, and saves that unless it is much and was saved just now.
    async fn tick(&mut self) -> Result<(), StoreError> {
        self.live.show(&self.job, self.pages.counts());
        let keys = self.tools.limits.now();
        self.repositories.resize(keys.per_host);
        self.left_alone.keep_to(keys.retry_wait);
        let pause = match self.pages.settled() > MUCH {
            true => SAVE_MUCH_EVERY,
            false => SAVE_EVERY,
        };
        if self.saved.elapsed() + SAVE_EVERY / 2 < pause {
            return Ok(());
        }
        let listed = self.job.body.listed;
        self.save(false).await?;
        self.job.body.listed |= listed;
        Ok(())
    }

    /// Saves what may be claimed; at the end waits until all may.
    async fn save(&mut self, all: bool) -> Result<(), StoreError> {
        let now = Instant::now();
        self.saved = now;
        let progress = self.pages.progress();
        let last = self.trail.back();
        if last.is_none_or(|(_, last)| *last != progress) {
            self.trail.push_back((now, progress));
        }
        let lag = self.tools.store.sync_lag();
        if all {
            tokio::time::sleep(lag).await;
        }
        let due = |(when, _): &(Instant, Progress)| all || *when + lag <= now;
        let body = &mut self.job.body;
        while self.trail.front().is_some_and(due)
            && let Some((_, progress)) = self.trail.pop_front()
        {
            body.checkpoint = progress.checkpoint;
            body.counts = progress.counts;
            body.settled = progress.settled;
        }
        body.updated = self.tools.clock.now_micros();
        // What is stored is of what is settled: of the rest nobody could say later how much it is.
        body.listed = body.checkpoint.source >= body.sources.len();
        self.job.save(&*self.tools.store).await
    }
}

impl Job {
    /// Writes the job over the epoch that was read.
    pub(super) async fn save(&mut self, store: &dyn crate::store::Store) -> Result<(), StoreError> {
        let before = self.epoch;
        let row = JobRow {
            epoch: before + 1,
            ..self.row()?
        };
        if !store.put_job(&row, Some(before)).await? {
            // Who holds the lease is alone: it was a write of its own that was on its way when the process before it was killed.
            let message = format!(
                "the job {} was changed meanwhile, and is read again",
                self.id
            );
            return Err(StoreError::Unavailable(message));
        }
        self.epoch = row.epoch;
        Ok(())
    }
}

/// By the job, so that nobody can make DIDs that are taken for others.
fn hash(job: u64, did: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(did.as_bytes(), job)
}

/// The rows of the collections of a repository that failed; of none: that of the repository.
pub(super) fn failure_keys(
    job: u64,
    did: &str,
    collections: &[String],
) -> impl Iterator<Item = JobFailure> {
    let whole = collections.is_empty().then(|| failure_key(job, did));
    let each = collections.iter().map(move |collection| JobFailure {
        collection: collection.clone(),
        ..failure_key(job, did)
    });
    whole.into_iter().chain(each)
}

/// The row of a failure that is to be cleared.
pub(super) fn failure_key(job: u64, did: &str) -> JobFailure {
    JobFailure {
        job,
        did: did.to_owned(),
        collection: String::new(),
        body: Vec::new(),
    }
}
