//! The lease of a worker: a row with a time to live that says who is which worker, of how many.
//!
//! It is taken by a lightweight transaction, and only then all rows are looked at: of two workers that start at the same
//! time with different counts at least one sees the other. The deadline counts from before the request was sent, on a
//! clock that runs while the machine is suspended, so we stop before the row is gone. After any request that failed the
//! row is read back at the serial level: what is there is what counts.
//!
//! Two workers that write the same slots for a moment do no harm, for writes commute; the lease keeps them from doubling
//! work and from claiming what neither of them reads.

mod rows;

pub use super::holder::Holder;
pub use rows::Row;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use scylla::client::session::Session;
use scylla::statement::{Consistency, SerialConsistency};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::holder::{session_name, whereabouts};
use crate::clock::{Clock as _, SystemClock};
use crate::store::StoreError;
use crate::telemetry::repeated;
use rows::Rows;

/// By how much a row outlives our deadline: servers count in whole seconds, and their clocks differ a little.
const MARGIN: Duration = Duration::from_secs(2);
/// Shortest pause after a request that failed.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest one.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Longest that the release at shutdown may take.
const RELEASE: Duration = Duration::from_secs(2);

/// The count of one who must have the keyspace to himself (an import): it agrees with no worker's.
pub const ALONE: u32 = 0;

/// What a lease is asked for.
#[derive(Debug)]
pub struct LeaseOptions {
    /// Which worker we are.
    pub worker_id: u32,
    /// Of how many; or [`ALONE`].
    pub count: u32,
    /// How long it holds without being renewed: at least 2 s.
    pub ttl: Duration,
    /// Who we are on this machine.
    pub holder: Holder,
    /// How many copies must have a row, and answer where all are read: a quorum.
    pub consistency: Consistency,
    /// Over which copies the transactions are decided: local where the workers are all in one datacenter.
    pub serial: SerialConsistency,
}

/// A lease that was taken. Renewed by [`Lease::run`], given back by [`Lease::release`].
pub struct Lease {
    rows: Rows,
    ours: Row,
    ttl: Duration,
    _holder: Holder,
    /// Microseconds of [`since_boot`] at which we stop; 0: not held.
    deadline: AtomicU64,
    state: watch::Sender<State>,
    /// Somebody waits for a lease that ran out.
    wanted: Notify,
}

/// What those who wait at the gate see.
#[derive(Debug, Clone, Default)]
struct State {
    renewed: u64,
    /// Why it never comes back.
    ended: Option<StoreError>,
}

/// What to do about the row as it is.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nobody has it.
    Insert,
    /// It is ours.
    Renew,
    /// It is of an earlier process of the same holder.
    TakeOver,
    /// It is somebody else's.
    Refuse,
}

impl Lease {
    /// Takes the lease: of nobody, or of an earlier process of the same holder.
    ///
    /// # Errors
    ///
    /// [`StoreError::Lease`] if another holder has it, or if another worker counts differently;
    /// [`StoreError::Unavailable`] if the servers did not answer for as long as a lease holds.
    pub async fn take(
        session: Arc<Session>,
        keyspace: &str,
        options: LeaseOptions,
    ) -> Result<Arc<Self>, StoreError> {
        let rows = Rows::prepare(session, keyspace, &options).await?;
        let ours = Row {
            worker_id: options.worker_id,
            count: options.count,
            holder: options.holder.name().to_owned(),
            session: session_name(),
            since: SystemClock.now_micros() / 1000,
        };
        let lease = Self {
            rows,
            ours,
            ttl: options.ttl,
            _holder: options.holder,
            deadline: AtomicU64::new(0),
            state: watch::Sender::new(State::default()),
            wanted: Notify::new(),
        };
        let began = since_boot();
        let mut pause = PAUSE_MIN;
        while let Err(error) = lease.claim(true).await {
            if !matches!(error, StoreError::Unavailable(_))
                || since_boot() >= deadline(began, lease.ttl)
            {
                return Err(error);
            }
            wait(&mut pause).await;
        }
        Ok(Arc::new(lease))
    }

    /// Whether it holds now: cheap enough to ask before each write.
    pub fn valid(&self) -> bool {
        since_boot() < self.deadline.load(Ordering::Acquire)
    }

    /// Waits until it holds. A write that passed is sent at once: what is late by a moment does no harm.
    ///
    /// # Errors
    ///
    /// [`StoreError::Lease`] if somebody else has it, [`StoreError::Closed`] after its release.
    pub async fn gate(&self) -> Result<(), StoreError> {
        if self.valid() {
            return Ok(());
        }
        let mut state = self.state.subscribe();
        loop {
            if let Some(error) = state.borrow_and_update().ended.clone() {
                return Err(error);
            }
            if self.valid() {
                return Ok(());
            }
            self.wanted.notify_one();
            if state.changed().await.is_err() {
                return Err(StoreError::Closed);
            }
        }
    }

    /// Resolves with the reason once it never comes back.
    pub async fn ended(&self) -> StoreError {
        let mut state = self.state.subscribe();
        let ended = state.wait_for(|state| state.ended.is_some()).await;
        let ended = ended.ok().and_then(|state| state.ended.clone());
        ended.unwrap_or(StoreError::Closed)
    }

    /// Why nothing may be written now; `None` while it holds.
    pub fn trouble(&self) -> Option<String> {
        let id = self.ours.worker_id;
        (!self.valid()).then(|| {
            format!("the lease of worker {id} ran out: nothing is written until it is renewed")
        })
    }

    /// Renews it until `stop`, which is to come after the last write. Where it ran out because no server answered, it is taken
    /// again as soon as one does.
    ///
    /// # Errors
    ///
    /// [`StoreError::Lease`] if somebody else has it now: the process must end.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> Result<(), StoreError> {
        tokio::select! {
            error = self.keep() => Err(error),
            () = stop.cancelled() => Ok(()),
        }
    }

    /// Renews it until it is lost.
    async fn keep(&self) -> StoreError {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.ttl / 3) => {}
                () = self.wanted.notified() => {}
            }
            let mut pause = PAUSE_MIN;
            let mut renewed = self.renew().await;
            while let Err(error) = renewed {
                if !matches!(error, StoreError::Unavailable(_)) {
                    self.end(error.clone());
                    return error;
                }
                if let Some(held_back) = repeated("lease", error.kind()) {
                    tracing::warn!(%error, valid = self.valid(), held_back, "could not renew the lease");
                }
                wait(&mut pause).await;
                renewed = self.claim(false).await;
            }
        }
    }

    /// Gives it back, so that another one can take it at once. Nothing passes the gate any more.
    pub async fn release(&self) {
        self.end(StoreError::Closed);
        let released = tokio::time::timeout(RELEASE, self.rows.delete(&self.ours)).await;
        if !matches!(released, Ok(Ok(_))) {
            tracing::warn!("could not release the lease: it ends by itself");
        }
    }

    /// Renews the row that is ours.
    async fn renew(&self) -> Result<(), StoreError> {
        let sent = since_boot();
        match self
            .rows
            .update(&self.ours, &self.ours.session, self.row_ttl())
            .await?
        {
            true => {
                self.hold(sent);
                Ok(())
            }
            false => self.claim(false).await,
        }
    }

    /// Makes the row ours, whatever it is, or says why not; then looks at the other rows where it was not ours before.
    async fn claim(&self, starting: bool) -> Result<(), StoreError> {
        loop {
            let found = self.rows.one(self.ours.worker_id).await?;
            let sent = since_boot();
            let applied = match (step(found.as_ref(), &self.ours, starting), &found) {
                (Step::Insert, _) => self.rows.insert(&self.ours, self.row_ttl()).await?,
                (Step::Renew | Step::TakeOver, Some(found)) => {
                    let written = self.rows.update(&self.ours, &found.session, self.row_ttl());
                    written.await?
                }
                (_, Some(found)) => return Err(StoreError::Lease(held(found, self.ttl))),
                (_, None) => continue,
            };
            if !applied {
                continue;
            }
            if !self.valid() {
                self.compare_counts().await?;
            }
            self.hold(sent);
            return Ok(());
        }
    }

    /// All workers must share the slots in the same way.
    async fn compare_counts(&self) -> Result<(), StoreError> {
        let rows = self.rows.all().await?;
        let other = rows.iter().find(|row| row.count != self.ours.count);
        let Some(other) = other else {
            return Ok(());
        };
        // Ours must not stand in the way of those that agree.
        let _ = self.rows.delete(&self.ours).await;
        Err(StoreError::Lease(counted(other, &self.ours, self.ttl)))
    }

    /// It holds, by a request that was sent then.
    fn hold(&self, sent: u64) {
        self.state.send_modify(|state| {
            // Under the lock of the state: what was released stays so.
            if state.ended.is_some() {
                return;
            }
            let until = deadline(sent, self.ttl);
            let before = self.deadline.fetch_max(until, Ordering::AcqRel);
            if before != 0 && before < sent {
                tracing::info!("the lease holds again");
            }
            state.renewed += 1;
        });
    }

    fn end(&self, error: StoreError) {
        self.state.send_modify(|state| {
            state.ended = Some(error);
            self.deadline.store(0, Ordering::Release);
        });
    }

    /// Seconds that the row lives.
    fn row_ttl(&self) -> i32 {
        row_ttl(self.ttl)
    }
}

/// What to do about the row that is there.
fn step(found: Option<&Row>, ours: &Row, starting: bool) -> Step {
    match found {
        None => Step::Insert,
        Some(found) if found.session == ours.session => Step::Renew,
        // Our own lock says that the process that wrote it is gone. A running one that finds this was itself replaced.
        Some(found) if starting && found.holder == ours.holder => Step::TakeOver,
        Some(_) => Step::Refuse,
    }
}

/// When a lease ends that was asked for at `sent`; microseconds since boot.
fn deadline(sent: u64, ttl: Duration) -> u64 {
    sent.saturating_add(u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX))
}

/// Seconds that a row lives whose lease holds for `ttl`.
fn row_ttl(ttl: Duration) -> i32 {
    let whole = ttl.saturating_add(MARGIN).as_millis().div_ceil(1000);
    i32::try_from(whole).unwrap_or(i32::MAX)
}

/// Why somebody else's lease can't be ours.
fn held(row: &Row, ttl: Duration) -> String {
    let (id, place, ttl) = (row.worker_id, whereabouts(&row.session), row_ttl(ttl));
    let what = if row.count == ALONE {
        " for an import"
    } else {
        ""
    };
    format!(
        "worker {id} is held by {place} ({}){what} since {}: stop that one, or give this one a worker.id (WORKER_ID) of its own; \
         if it is gone for good, its lease ends within {ttl} s",
        row.holder,
        row.since_text()
    )
}

/// Why a worker that counts differently can't run beside us.
fn counted(other: &Row, ours: &Row, ttl: Duration) -> String {
    let (id, count, mine, ttl) = (other.worker_id, other.count, ours.count, row_ttl(ttl));
    let (place, holder, since) = (
        whereabouts(&other.session),
        &other.holder,
        other.since_text(),
    );
    let gone = format!("if that one is gone, its lease ends within {ttl} s");
    if mine == ALONE {
        return format!(
            "nothing may write beside an import, but worker {id}, {place} ({holder}), runs since {since}: stop all workers; {gone}"
        );
    }
    if count == ALONE {
        return format!(
            "an import, {place} ({holder}), runs since {since}: wait for its end; {gone}"
        );
    }
    format!(
        "worker.count (WORKER_COUNT) is {mine} here, but worker {id}, {place} ({holder}), runs since {since} as one of \
         {count}: to change the count, stop all workers, then start all; {gone}"
    )
}

/// Waits a little, longer each time.
async fn wait(pause: &mut Duration) {
    let jitter = pause.mul_f64(fastrand::f64() / 2.0);
    tokio::time::sleep(*pause + jitter).await;
    *pause = pause.saturating_mul(2).min(PAUSE_MAX);
}

/// Microseconds since the machine was started, suspended or not.
fn since_boot() -> u64 {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(clock);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    let seconds = seconds.unwrap_or_default().saturating_mul(1_000_000);
    // Never 0, which says that nothing is held.
    seconds
        .saturating_add(nanos.unwrap_or_default() / 1000)
        .max(1)
}

#[cfg(test)]
mod tests;
