//! The standing job: works the rows of `repairs` off, slowly and for ever.
//!
//! A pass walks over all rows. What fails is tried again later, each time after a longer while; its attempts are the failures of
//! this job, so that they are seen like those of any other one. What would have to wait for its host is left to the next pass.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::discover::{DiscoverError, Found, Lister, Source};
use super::failure::{self, Failure, FailureBody};
use super::left_alone::LeftAlone;
use super::live::Live;
use super::record::{Counts, Job};
use super::roster::REPAIRS;
use super::run::failure_key;
use super::tools::Tools;
use super::turns::may_take;
use super::unit::{self, Fetched, Outcome, Plan, Target};
use crate::fetch::Condition;
use crate::store::{JobFailure, RepairKind, StoreError};
use crate::telemetry::metrics as names;

/// Repositories that are repaired at once; most of them wait for their hosts or for the store,
const AT_ONCE: usize = 256;
/// and of those, of one host.
const PER_HOST: usize = 8;
/// The same, of one that is asked for identities: the PLC directory, as a rule.
const RESOLVING_PER_HOST: usize = 64;
/// Between two passes.
const PASS_EVERY: Duration = Duration::from_secs(5);
/// The same, while some wait only for others of their host.
const CROWDED_EVERY: Duration = Duration::from_millis(500);
/// DIDs whose host is known, of those that found no place there.
const MAX_HOSTS: usize = 100_000;
/// After the first failure; doubles.
const FIRST_WAIT: u64 = 60_000_000;
/// The longest wait (microseconds).
const LONGEST_WAIT: u64 = 6 * 3_600_000_000;

/// What is done with every row: nothing is skipped.
const PLAN: Plan = Plan {
    from: None,
    windowed: false,
    force: true,
    named: true,
    closes_gaps: None,
    asks_hidden: false,
    collections: Vec::new(),
    scope: Vec::new(),
};

/// Works until the shutdown.
pub(super) async fn run(
    tools: Arc<Tools>,
    live: Arc<Live>,
    shutdown: CancellationToken,
) -> Result<(), StoreError> {
    let mut repairs = Repairs::new(tools.clone(), live.clone(), shutdown.clone());
    while !shutdown.is_cancelled() {
        let began = Instant::now();
        match shutdown.run_until_cancelled(repairs.pass()).await {
            Some(Ok(())) | None => {}
            Some(Err(StoreError::Unavailable(error))) => {
                tracing::warn!(error, "the repairs wait for the store");
                live.read_again(&*tools.store).await?;
                repairs.job = live.job();
            }
            Some(Err(error)) => return Err(error),
        }
        let wait = match repairs.shared.crowded.swap(false, Ordering::Relaxed) {
            true => CROWDED_EVERY,
            false => PASS_EVERY,
        };
        // Many rows take no more than half of the time.
        let wait = tokio::time::sleep(wait.max(began.elapsed()));
        let _ = shutdown.run_until_cancelled(wait).await;
    }
    Ok(())
}

/// A DID and how its repair ended.
type Repaired = (String, Result<Ended, StoreError>);

enum Ended {
    Counted(Counts),
    /// Its host has none, or takes no requests; of those that are asked for identities none is named.
    NoPlace(Option<Arc<str>>),
}

/// The standing job at work.
struct Repairs {
    live: Arc<Live>,
    job: Job,
    shared: Arc<Hosts>,
    working: JoinSet<Repaired>,
    /// DIDs that are being worked on, or were in this pass: its pages may be of before.
    busy: HashSet<String>,
    ended: Vec<String>,
    /// Rows of this pass so far, or of the last one if that had more: nothing is done before it is told of here.
    waiting: u64,
    /// Hosts of DIDs that found no place there.
    hosts: HashMap<String, Arc<str>>,
}

impl Repairs {
    fn new(tools: Arc<Tools>, live: Arc<Live>, shutdown: CancellationToken) -> Self {
        Self {
            job: live.job(),
            live,
            shared: Arc::new(Hosts {
                places: Mutex::default(),
                left_alone: Mutex::new(LeftAlone::new(tools.limits.now().retry_wait)),
                tools,
                crowded: AtomicBool::new(false),
                pace: tokio::sync::Mutex::default(),
                shutdown,
            }),
            working: JoinSet::new(),
            busy: HashSet::new(),
            ended: Vec::new(),
            waiting: 0,
            hosts: HashMap::new(),
        }
    }

    /// One walk over all rows. What was begun in it may end in a later one.
    async fn pass(&mut self) -> Result<(), StoreError> {
        let before = self.job.body.counts.clone();
        for did in self.ended.drain(..) {
            self.busy.remove(&did);
        }
        let retry_wait = self.shared.tools.limits.now().retry_wait;
        self.shared.left_alone().keep_to(retry_wait);
        self.waiting = self.walk().await?;
        while let Some(ended) = self.working.try_join_next() {
            self.count(ended)?;
        }
        self.show();
        match before == self.job.body.counts {
            true => Ok(()),
            false => self.job.save(&*self.shared.tools.store).await,
        }
    }

    /// Begins with what is due; gives how many wait.
    async fn walk(&mut self) -> Result<u64, StoreError> {
        let (tools, shutdown) = (self.shared.tools.clone(), self.shared.shutdown.clone());
        let lister = Lister::new(REPAIRS);
        let mut cursor: Option<String> = None;
        let mut waiting = 0;
        loop {
            let page = lister
                .page(&tools, &Source::Repairs, cursor.as_deref(), &shutdown)
                .await;
            let page = match page {
                Ok(page) => page,
                Err(DiscoverError::Store(error)) => return Err(error),
                Err(error) => return Err(StoreError::Failed(error.to_string())),
            };
            for found in page.repos {
                waiting += 1;
                if waiting > self.waiting {
                    self.waiting = waiting;
                    self.show();
                }
                if !self.busy.contains(&found.did)
                    && self.has_place(&found.did)
                    && let Some(attempts) = due(&tools, &found).await?
                {
                    self.begin(found, attempts).await?;
                }
            }
            cursor = page.next;
            if cursor.is_none() {
                return Ok(waiting);
            }
        }
    }

    fn show(&mut self) {
        let counts = &mut self.job.body.counts;
        counts.found = counts.processed + self.waiting;
        self.live.show(&self.job, self.job.body.counts.clone());
    }

    /// Whether there is a place at its host, as far as that is known.
    fn has_place(&mut self, did: &str) -> bool {
        let tools = &self.shared.tools;
        let known = self.hosts.get(did).map(|host| (host.clone(), PER_HOST));
        let asked = || Some((tools.identities.has_to_ask(did)?, RESOLVING_PER_HOST));
        let Some((host, most)) = known.or_else(asked) else {
            return true;
        };
        let free = !matches!(self.shared.turn(&host, most), Turn::Later);
        if free {
            self.hosts.remove(did);
        }
        free
    }

    async fn begin(&mut self, found: Found, attempts: u32) -> Result<(), StoreError> {
        while self.working.len() >= AT_ONCE
            && let Some(ended) = self.working.join_next().await
        {
            self.count(ended)?;
        }
        self.busy.insert(found.did.clone());
        let shared = self.shared.clone();
        self.working.spawn(async move {
            let repaired = repair(&shared, &found, attempts).await;
            (found.did, repaired)
        });
        Ok(())
    }

    /// Takes what ended. Where the store was not there the row stays, and a later pass takes it.
    fn count(&mut self, ended: Result<Repaired, JoinError>) -> Result<(), StoreError> {
        let (did, ended) =
            ended.map_err(|error| StoreError::Failed(format!("a repair ended: {error}")))?;
        self.ended.push(did.clone());
        match ended {
            Ok(Ended::Counted(counts)) => {
                self.job.body.counts.add(&counts);
                self.job.body.updated = self.shared.tools.clock.now_micros();
                self.show();
                // The next pass tells what is left.
                self.shared.crowded.store(true, Ordering::Relaxed);
            }
            Ok(Ended::NoPlace(None)) => {}
            Ok(Ended::NoPlace(Some(host))) => {
                if self.hosts.len() >= MAX_HOSTS {
                    self.hosts.clear();
                }
                self.hosts.insert(did, host);
            }
            Err(StoreError::Unavailable(error)) => {
                tracing::warn!(did, error, "a repair waits for the store");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// What all repairs share: places at the hosts, so that those that wait for one of them leave room for the others.
struct Hosts {
    tools: Arc<Tools>,
    places: Mutex<Places>,
    left_alone: Mutex<LeftAlone>,
    /// Whether some found no place since the last pass.
    crowded: AtomicBool,
    /// Held for the pause between two repairs.
    pace: tokio::sync::Mutex<()>,
    shutdown: CancellationToken,
}

/// Repairs at all hosts, and at each.
#[derive(Default)]
struct Places {
    taken: usize,
    by_host: HashMap<Arc<str>, usize>,
}

/// What is to be done about a host.
enum Turn<'a> {
    Ask(Place<'a>),
    /// It has no place, or takes no requests for a while.
    Later,
    /// It has failed for so long that it is not waited for.
    GiveUp,
}

/// A place at a host.
struct Place<'a> {
    hosts: &'a Hosts,
    host: Arc<str>,
}

impl Hosts {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be done about a host, of which so many repairs may be at work.
    fn turn(&self, host: &Arc<str>, most: usize) -> Turn<'_> {
        let mut places = self.places();
        let here = places.by_host.get(host).copied().unwrap_or_default();
        match self.tools.fetcher.condition(host) {
            Condition::Ready => {
                self.left_alone().forget(host);
            }
            Condition::Paused(_) => return Turn::Later,
            Condition::Throttled => return Turn::GiveUp,
            // One asks whether it is back.
            Condition::Due if here == 0 => {}
            Condition::Due | Condition::Probed | Condition::LeftAlone(_) => {
                let now = Instant::now();
                return match self.left_alone().end(host, now) <= now {
                    true => Turn::GiveUp,
                    false => Turn::Later,
                };
            }
        }
        if !may_take(here, most, places.taken, AT_ONCE) {
            self.crowded.store(true, Ordering::Relaxed);
            return Turn::Later;
        }
        places.taken += 1;
        places.by_host.insert(host.clone(), here + 1);
        Turn::Ask(Place {
            hosts: self,
            host: host.clone(),
        })
    }

    fn left_alone(&self) -> MutexGuard<'_, LeftAlone> {
        self.left_alone
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut places = self.hosts.places();
        places.taken -= 1;
        match places.by_host.get_mut(&self.host) {
            Some(here) if *here > 1 => *here -= 1,
            _ => {
                places.by_host.remove(&self.host);
            }
        }
    }
}

/// How often a repository was tried, if it is to be tried now.
async fn due(tools: &Tools, found: &Found) -> Result<Option<u32>, StoreError> {
    let failure = tools.store.failure(REPAIRS, &found.did, "").await?;
    let body = failure.and_then(|row| serde_json::from_slice::<FailureBody>(&row.body).ok());
    let now = tools.clock.now_micros();
    Ok(match body {
        None => Some(0),
        Some(body) if body.next.is_none_or(|next| next <= now) => Some(body.attempts),
        Some(_) => None,
    })
}

async fn repair(hosts: &Hosts, found: &Found, attempts: u32) -> Result<Ended, StoreError> {
    let tools = &*hosts.tools;
    let of_content = found
        .repairs
        .iter()
        .any(|repair| repair.kind != RepairKind::Status);
    if of_content && unit::is_opted_out(tools, &found.did).await? {
        let message = "only a job that names it fetches this repository: it opted out";
        let failure = Failure::new("opted_out", message, true);
        let counts = later(tools, found, attempts + 1, failure).await?;
        return Ok(Ended::Counted(counts));
    }
    let outcome = match attempt(hosts, found).await? {
        // Where to, or by what, is known by now.
        Ok(Outcome::Failed(failure)) if matches!(failure.reason, "moved" | "overtaken") => {
            attempt(hosts, found).await?
        }
        outcome => outcome,
    };
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(NoPlace(host)) => return Ok(Ended::NoPlace(host)),
    };
    // What the answer did not satisfy stays, and is asked for again like a failure. What it asks anew has its own turn.
    let left = tools.store.repairs_of(&found.did).await?;
    let unanswered = left.iter().any(|repair| found.repairs.contains(repair));
    let outcome = match outcome {
        Outcome::Done(_) | Outcome::Skipped if unanswered => {
            let message = "the host answered with a state older than what was announced";
            Outcome::Failed(Failure::new("not_there_yet", message, true))
        }
        outcome => outcome,
    };
    let counts = match outcome {
        Outcome::Failed(failure) => later(tools, found, attempts + 1, failure).await?,
        mended => unit::note(tools, REPAIRS, found, attempts, mended, attempts > 0).await?,
    };
    Ok(Ended::Counted(counts))
}

/// A host that has to be asked has no place, or takes no requests for a while.
struct NoPlace(Option<Arc<str>>);

async fn attempt(hosts: &Hosts, found: &Found) -> Result<Result<Outcome, NoPlace>, StoreError> {
    let (tools, patience) = (&*hosts.tools, &hosts.shutdown.clone().into());
    let target = {
        let asked = tools.identities.has_to_ask(&found.did);
        let turn = asked.map(|host| hosts.turn(&host, RESOLVING_PER_HOST));
        if matches!(turn, Some(Turn::Later)) {
            return Ok(Err(NoPlace(None)));
        }
        match unit::resolve(tools, &PLAN, found, patience).await {
            Ok(target) => target,
            // Another one was asking whether it is back.
            Err(Outcome::Failed(failure))
                if failure.reason == "backed_off" && matches!(turn, Some(Turn::Ask(_))) =>
            {
                return Ok(Err(NoPlace(None)));
            }
            Err(outcome) => return Ok(Ok(outcome)),
        }
    };
    let turn = hosts.turn(&target.host, PER_HOST);
    if matches!(turn, Turn::Later) {
        return Ok(Err(NoPlace(Some(target.host))));
    }
    let pause = hosts.pace.lock().await;
    tokio::time::sleep(tools.limits.now().repair_pause).await;
    drop(pause);
    let fetched = match &turn {
        Turn::GiveUp => Err(Failure::left_alone(&target.host)),
        _ => unit::fetch(tools, &PLAN, found, &target, patience).await,
    };
    let fetched = match fetched {
        // Another one was asking whether it is back.
        Err(failure) if failure.is_left_alone(&target.host) && !matches!(turn, Turn::GiveUp) => {
            return Ok(Err(NoPlace(Some(target.host))));
        }
        Err(failure) if failure.elsewhere && found.may_be_copied() => {
            drop(turn);
            match copy(hosts, found, &target, failure).await {
                Ok(copied) => copied,
                Err(no_place) => return Ok(Err(no_place)),
            }
        }
        fetched => fetched,
    };
    Ok(Ok(match fetched {
        Ok(fetched) => unit::finish(tools, &PLAN, found, fetched).await?,
        Err(failure) => Outcome::Failed(failure),
    }))
}

/// Asks the relays that have a place for it for what its own host did not give.
async fn copy(
    hosts: &Hosts,
    found: &Found,
    target: &Target,
    mut failure: Failure,
) -> Result<Result<Fetched, Failure>, NoPlace> {
    let (mut later, patience) = (None, hosts.shutdown.clone().into());
    for relay in &hosts.tools.options.relays {
        let copy = target.at_relay(relay);
        let turn = hosts.turn(&copy.host, RESOLVING_PER_HOST);
        let Turn::Ask(_place) = turn else {
            if matches!(turn, Turn::Later) {
                later = Some(copy.host);
            }
            continue;
        };
        match unit::fetch(&hosts.tools, &PLAN, found, &copy, &patience).await {
            Err(other) => failure = failure.and_at_relay(&other),
            fetched => return Ok(fetched),
        }
    }
    match later {
        // It fails only once all were asked, and nobody is asked again before that one can be.
        Some(host) => Err(NoPlace(Some(host))),
        None => Ok(Err(failure)),
    }
}

/// Writes down when it is tried again.
async fn later(
    tools: &Tools,
    found: &Found,
    attempts: u32,
    failure: Failure,
) -> Result<Counts, StoreError> {
    let now = tools.clock.now_micros();
    let wait = FIRST_WAIT
        .saturating_mul(1 << attempts.saturating_sub(1).min(20))
        .min(LONGEST_WAIT);
    let body = FailureBody::new(failure, attempts, now, Some(now.saturating_add(wait)));
    let row = JobFailure {
        body: serde_json::to_vec(&body).unwrap_or_default(),
        ..failure_key(REPAIRS, &found.did)
    };
    failure::put(&*tools.store, &[row]).await?;
    names::BACKFILL_REPOS.with(["failed"]).increment(1);
    Ok(Counts::default())
}
