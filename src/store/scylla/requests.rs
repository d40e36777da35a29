//! One request on its way: bounded, retried, told about.
//!
//! What can be tried again is, with growing pauses: writes for ever, for nothing may be lost and the stream waits, and
//! reads for as long as somebody who asked has patience. A pause holds no place among the requests that are on their way.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::Counter;
use scylla::client::session::Session;
use scylla::errors::ExecutionError;
use scylla::response::query_result::QueryResult;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::serialize::row::SerializeRow;
use scylla::statement::batch::Batch;
use scylla::statement::prepared::PreparedStatement;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::errors::{CONNECTION, Failure, KINDS, SCHEMA, UNAVAILABLE, Verdict, classify};
use super::lease::Lease;
use super::limiter::{Limiter, Permit};
use crate::store::StoreError;
use crate::telemetry::metrics as names;

/// The first pause before another attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The table whose rows may be refused for what somebody else wrote into them.
const RECORDS: &str = "records";
/// Records in a row that the servers may refuse: what hits more than these is no fault of the records.
const REFUSALS: usize = 100;
/// For how long a read is tried.
const PATIENCE: Duration = Duration::from_secs(10);

/// How requests are sent.
pub(super) struct RequestOptions {
    /// The most writes that may be on their way; a fourth as many reads beside them, 16 at least.
    pub in_flight: usize,
    /// Nothing is written while it does not hold.
    pub lease: Option<Arc<Lease>>,
}

/// Sends requests.
pub(super) struct Requests {
    session: Arc<Session>,
    limiter: Limiter,
    lease: Option<Arc<Lease>>,
    reads: Semaphore,
    closed: CancellationToken,
    trouble: Trouble,
    /// How often a write found its table missing, or other than it must be.
    losses: AtomicUsize,
    outages: Outages,
    /// Records that were refused since one was taken.
    refusals: AtomicUsize,
    retries: Counter,
}

/// Why writes don't succeed.
#[derive(Debug, Default)]
struct Trouble {
    /// Writes that failed and will be tried again.
    waiting: AtomicUsize,
    /// What the last of them was told; `None` once one succeeded since.
    cause: Mutex<Option<String>>,
}

/// Times in which too few nodes were there.
#[derive(Debug, Default)]
struct Outages {
    count: AtomicU64,
    lasts: AtomicBool,
}

impl Outages {
    fn begin(&self) {
        if !self.lasts.swap(true, SeqCst) {
            self.count.fetch_add(1, SeqCst);
        }
    }

    fn end(&self) {
        // Mostly there is none, and reading is cheaper than writing.
        if self.lasts.load(SeqCst) {
            self.lasts.store(false, SeqCst);
        }
    }
}

/// A write that failed at least once; not counted any more when it is dropped.
#[derive(Default)]
struct Waiting<'a>(Option<&'a Trouble>);

impl Requests {
    /// Sends over this session.
    pub fn new(session: Arc<Session>, options: RequestOptions) -> Self {
        names::STORE_ERRORS.begin(KINDS.map(|kind| [kind]));
        Self {
            session,
            limiter: Limiter::new(options.in_flight),
            lease: options.lease,
            reads: Semaphore::new((options.in_flight / 4).max(16)),
            closed: CancellationToken::new(),
            trouble: Trouble::default(),
            losses: AtomicUsize::new(0),
            outages: Outages::default(),
            refusals: AtomicUsize::new(0),
            retries: names::STORE_RETRIES.with([]),
        }
    }

    /// Whether a write was refused and is sent again until it is taken.
    pub fn waits(&self) -> bool {
        self.trouble.waiting.load(SeqCst) > 0
    }

    /// Why the store takes no writes now; `None` while it does.
    pub fn trouble(&self) -> Option<String> {
        let lease = self.lease.as_ref().and_then(|lease| lease.trouble());
        // What writes were told is also why the lease could not be renewed, mostly.
        let both = [lease, self.trouble.cause()].into_iter().flatten();
        both.reduce(|lease, cause| format!("{lease}; {cause}"))
    }

    /// How often a write found its table missing: once that changes, what was written before may be gone.
    pub fn losses(&self) -> usize {
        self.losses.load(SeqCst)
    }

    /// How often too few nodes were there to take a write.
    pub fn outages(&self) -> u64 {
        self.outages.count.load(SeqCst)
    }

    /// Ends all that is on its way or waits with [`StoreError::Closed`], and all that is asked for from now on.
    pub fn close(&self) {
        self.closed.cancel();
        self.limiter.close();
        self.reads.close();
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Waits, unless it is closed.
    ///
    /// # Errors
    ///
    /// [`StoreError::Closed`].
    pub async fn pause(&self, time: Duration) -> Result<(), StoreError> {
        let slept = self.closed.run_until_cancelled(sleep(time)).await;
        slept.ok_or(StoreError::Closed)
    }

    /// Writes to a table; what can be tried again is, for ever.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] if the servers never take these values, [`StoreError::Lease`] once another process has our
    /// lease, [`StoreError::Closed`].
    pub async fn write(
        &self,
        table: &'static str,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<(), StoreError> {
        let values = &values;
        let send = move || self.session.execute_unpaged(statement, values);
        self.persist(table, send).await.map(drop)
    }

    /// Writes several rows of one partition at once (an unlogged batch, which replicas apply as one mutation). The batch
    /// carries its consistency and is marked idempotent; there is one row of values for each of its statements.
    ///
    /// # Errors
    ///
    /// As for [`Requests::write`].
    pub async fn batch<R: SerializeRow>(
        &self,
        table: &'static str,
        batch: &Batch,
        rows: &[R],
    ) -> Result<(), StoreError> {
        let send = move || self.session.batch(batch, rows);
        self.persist(table, send).await.map(drop)
    }

    /// Reads what a write depends on: for ever, as writes are tried.
    ///
    /// # Errors
    ///
    /// As for [`Requests::write`].
    pub async fn read_to_write(
        &self,
        table: &'static str,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<QueryResult, StoreError> {
        let values = &values;
        let send = move || self.session.execute_unpaged(statement, values);
        self.persist(table, send).await
    }

    /// Writes on a condition until that is answered. Tells also whether it was sent more than once: an earlier attempt, whose
    /// answer was lost, may be why the condition did not hold for the last one.
    ///
    /// # Errors
    ///
    /// As for [`Requests::write`].
    pub async fn transact(
        &self,
        table: &'static str,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<(QueryResult, bool), StoreError> {
        let (values, sent) = (&values, AtomicUsize::new(0));
        let send = || {
            sent.fetch_add(1, SeqCst);
            self.session.execute_unpaged(statement, values)
        };
        let answer = self.persist(table, send).await?;
        Ok((answer, sent.load(SeqCst) > 1))
    }

    /// Reads all rows of a question that has few; tried for at most ten seconds.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] with the last cause, [`StoreError::Refused`] if the servers never answer this question,
    /// [`StoreError::Closed`].
    pub async fn read(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<QueryResult, StoreError> {
        let values = &values;
        let send = move || self.session.execute_unpaged(statement, values);
        self.ask(send).await
    }

    /// Reads a page (of the statement's page size) and tells where the next one starts.
    ///
    /// # Errors
    ///
    /// As for [`Requests::read`].
    pub async fn read_page(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
        from: PagingState,
    ) -> Result<(QueryResult, PagingStateResponse), StoreError> {
        let (values, from) = (&values, &from);
        let send = move || {
            self.session
                .execute_single_page(statement, values, from.clone())
        };
        self.ask(send).await
    }

    /// Sends until it succeeds, is refused or closed.
    async fn persist<T, Sent>(
        &self,
        table: &'static str,
        send: impl Fn() -> Sent,
    ) -> Result<T, StoreError>
    where
        Sent: Future<Output = Result<T, ExecutionError>>,
    {
        let sent = self.persist_open(table, send);
        let sent = self.closed.run_until_cancelled(sent).await;
        sent.unwrap_or(Err(StoreError::Closed))
    }

    async fn persist_open<T, Sent>(
        &self,
        table: &'static str,
        send: impl Fn() -> Sent,
    ) -> Result<T, StoreError>
    where
        Sent: Future<Output = Result<T, ExecutionError>>,
    {
        let mut waiting = Waiting::default();
        let mut pause = FIRST_PAUSE;
        loop {
            let permit = self.permit().await?;
            let failure = match send().await {
                Ok(answer) => {
                    permit.answered();
                    self.trouble.clear();
                    self.outages.end();
                    if table == RECORDS && self.refusals.load(SeqCst) > 0 {
                        self.refusals.store(0, SeqCst);
                    }
                    return Ok(answer);
                }
                Err(error) => note(&error),
            };
            match failure.verdict {
                Verdict::Overload => permit.overloaded(),
                Verdict::Again | Verdict::Never => drop(permit),
            }
            if failure.verdict == Verdict::Never && !self.refuses_everything(table) {
                return Err(StoreError::Refused(failure.words));
            }
            match failure.kind {
                SCHEMA => _ = self.losses.fetch_add(1, SeqCst),
                CONNECTION | UNAVAILABLE => self.outages.begin(),
                _ => {}
            }
            waiting.failed(&self.trouble, table, &failure);
            self.retries.increment(1);
            sleep(jitter(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Counts a refusal. So many records in a row are no fault of theirs: they are tried again, until one is taken.
    fn refuses_everything(&self, table: &str) -> bool {
        table == RECORDS && self.refusals.fetch_add(1, SeqCst) >= REFUSALS
    }

    /// A place among the requests on their way, at a time at which this process may write.
    async fn permit(&self) -> Result<Permit<'_>, StoreError> {
        loop {
            if let Some(lease) = &self.lease {
                lease.gate().await?;
            }
            let permit = self.limiter.acquire().await.ok_or(StoreError::Closed)?;
            if self.lease.as_ref().is_none_or(|lease| lease.valid()) {
                return Ok(permit);
            }
        }
    }

    /// Sends until it succeeds, is refused or closed, or nobody waits for it any more.
    async fn ask<T, Sent>(&self, send: impl Fn() -> Sent) -> Result<T, StoreError>
    where
        Sent: Future<Output = Result<T, ExecutionError>>,
    {
        let asked = self.ask_open(send);
        let asked = self.closed.run_until_cancelled(asked).await;
        asked.unwrap_or(Err(StoreError::Closed))
    }

    async fn ask_open<T, Sent>(&self, send: impl Fn() -> Sent) -> Result<T, StoreError>
    where
        Sent: Future<Output = Result<T, ExecutionError>>,
    {
        let end = Instant::now() + PATIENCE;
        let mut cause = "too many other questions wait".to_owned();
        let mut pause = FIRST_PAUSE;
        loop {
            let attempt = tokio::time::timeout_at(end, self.ask_once(&send)).await;
            let Ok(attempt) = attempt else { break };
            let failure = match attempt? {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            if failure.verdict == Verdict::Never {
                return Err(StoreError::Refused(failure.words));
            }
            cause = failure.words;
            let pause_now = jitter(pause);
            if Instant::now() + pause_now >= end {
                break;
            }
            self.retries.increment(1);
            sleep(pause_now).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        let seconds = PATIENCE.as_secs();
        Err(StoreError::Unavailable(format!(
            "the database gave no answer for {seconds} seconds: {cause}"
        )))
    }

    async fn ask_once<T, Sent>(
        &self,
        send: &impl Fn() -> Sent,
    ) -> Result<Result<T, Failure>, StoreError>
    where
        Sent: Future<Output = Result<T, ExecutionError>>,
    {
        let permit = self.reads.acquire().await;
        let _permit = permit.map_err(|_| StoreError::Closed)?;
        Ok(send().await.map_err(|error| note(&error)))
    }
}

/// Counts an error, and tells what it means.
fn note(error: &ExecutionError) -> Failure {
    let failure = classify(error);
    names::STORE_ERRORS.with([failure.kind]).increment(1);
    failure
}

/// Half of the pause at least, so that those who failed together don't come back together.
fn jitter(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

impl Trouble {
    fn cause(&self) -> Option<String> {
        let cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        cause.clone().filter(|_| self.waiting.load(SeqCst) > 0)
    }

    fn clear(&self) {
        if self.waiting.load(SeqCst) > 0 {
            *self.cause.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

impl<'a> Waiting<'a> {
    fn failed(&mut self, trouble: &'a Trouble, table: &str, failure: &Failure) {
        if self.0.replace(trouble).is_none() {
            trouble.waiting.fetch_add(1, SeqCst);
        }
        let cause = format!("writes to {table} fail: {}", failure.words);
        *trouble.cause.lock().unwrap_or_else(PoisonError::into_inner) = Some(cause);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(trouble) = self.0 {
            trouble.waiting.fetch_sub(1, SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(words: &str) -> Failure {
        Failure {
            verdict: Verdict::Again,
            kind: "server",
            words: words.to_owned(),
        }
    }

    #[test]
    fn trouble_lasts_until_a_success_or_until_nobody_waits() {
        let trouble = Trouble::default();
        let mut first = Waiting::default();
        let mut second = Waiting::default();
        assert_eq!(trouble.cause(), None);
        first.failed(&trouble, "records", &failure("a disk is full"));
        second.failed(&trouble, "repos", &failure("nobody is home"));
        let cause = trouble.cause().unwrap();
        assert_eq!(cause, "writes to repos fail: nobody is home");
        trouble.clear();
        assert_eq!(trouble.cause(), None);
        first.failed(&trouble, "records", &failure("a disk is full"));
        assert!(trouble.cause().is_some());
        drop(second);
        assert!(trouble.cause().is_some());
        drop(first);
        assert_eq!(trouble.cause(), None);
    }

    #[test]
    fn pauses_differ_and_are_not_short() {
        let pauses: Vec<Duration> = (0..100).map(|_| jitter(FIRST_PAUSE)).collect();
        assert!(
            pauses
                .iter()
                .all(|pause| FIRST_PAUSE / 2 <= *pause && *pause <= FIRST_PAUSE)
        );
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
