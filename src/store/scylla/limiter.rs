//! How many requests are on their way at once: more while the servers keep up, fewer at once when they don't.
//!
//! The limit grows by a step for every window of answers in which it was nearly reached, and shrinks by a third when the
//! servers say or show that they have too much. A request that began before the last cut says nothing of the new limit,
//! so there is one cut a round trip at most. Waiters are served in their order.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use metrics::Gauge;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::telemetry::metrics as names;

/// The least that the limit falls to.
const LEAST: usize = 4;
/// Windows of answers from the least limit to the greatest.
const STEPS: usize = 64;
/// How long the shortest time of an answer counts.
const MEMORY: Duration = Duration::from_secs(30);
/// How far above its shortest the usual time of an answer may rise, as a factor.
const STRETCH: u64 = 16;
/// And as an addition, in microseconds: garbage collection and large records are no overload.
const SLACK: u64 = 200_000;
/// What one answer weighs in the usual time, as a divisor.
const WEIGHT: u64 = 16;

/// Bounds the requests that are on their way.
pub(super) struct Limiter {
    permits: Semaphore,
    least: usize,
    most: usize,
    step: usize,
    limit: AtomicUsize,
    /// Permits that are still to be taken out of use when they are given back.
    owed: AtomicUsize,
    in_flight: AtomicUsize,
    /// Answers of this window.
    answers: AtomicUsize,
    began: Instant,
    /// When the limit was last cut, in microseconds since the beginning.
    cut: AtomicU64,
    /// When the shortest time of this span of [`MEMORY`] began to be taken.
    span: AtomicU64,
    shortest: AtomicU64,
    /// Of the span before.
    shortest_before: AtomicU64,
    usual: AtomicU64,
    shown: Shown,
}

struct Shown {
    in_flight: Gauge,
    limit: Gauge,
}

/// A request that may be sent; its place is free again when this is dropped.
pub(super) struct Permit<'a> {
    limiter: &'a Limiter,
    /// Microseconds since the limiter's beginning.
    sent: u64,
}

impl Limiter {
    /// Lets at most so many through at once; begins with an eighth of them.
    pub fn new(most: usize) -> Self {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        let least = LEAST.min(most);
        let limit = (most / 8).max(least);
        let shown = Shown {
            in_flight: names::STORE_IN_FLIGHT.with([]),
            limit: names::STORE_IN_FLIGHT_LIMIT.with([]),
        };
        let limiter = Self {
            permits: Semaphore::new(limit),
            least,
            most,
            step: (most / STEPS).max(1),
            limit: AtomicUsize::new(limit),
            owed: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            answers: AtomicUsize::new(0),
            began: Instant::now(),
            cut: AtomicU64::new(0),
            span: AtomicU64::new(0),
            shortest: AtomicU64::new(u64::MAX),
            shortest_before: AtomicU64::new(u64::MAX),
            usual: AtomicU64::new(0),
            shown,
        };
        limiter.show_limit();
        limiter
    }

    /// Waits for a place; `None` once closed.
    pub async fn acquire(&self) -> Option<Permit<'_>> {
        self.permits.acquire().await.ok()?.forget();
        self.in_flight.fetch_add(1, Relaxed);
        self.shown.in_flight.increment(1.0);
        Some(Permit {
            limiter: self,
            sent: self.now(),
        })
    }

    /// Wakes all that wait; none gets a place any more.
    pub fn close(&self) {
        self.permits.close();
    }

    /// The limit of now.
    pub fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn show_limit(&self) {
        let limit = u32::try_from(self.limit()).unwrap_or(u32::MAX);
        self.shown.limit.set(f64::from(limit));
    }

    fn answered(&self, sent: u64) {
        let now = self.now();
        if self.is_slow(now, now.saturating_sub(sent).max(1)) {
            self.cut(now, sent);
            return;
        }
        let limit = self.limit();
        // While there is room, answers don't tell whether there could be more.
        let is_near = self.in_flight.load(Relaxed) >= limit - limit / 4;
        if is_near && self.answers.fetch_add(1, Relaxed) + 1 >= limit {
            self.answers.store(0, Relaxed);
            self.grow();
        }
    }

    /// Takes the time of an answer into account; whether answers usually take far longer than they could.
    fn is_slow(&self, now: u64, took: u64) -> bool {
        let span = self.span.load(Relaxed);
        let memory = u64::try_from(MEMORY.as_micros()).unwrap_or(u64::MAX);
        let is_over = now.saturating_sub(span) >= memory;
        let exchange = |from, to| self.span.compare_exchange(from, to, Relaxed, Relaxed);
        if is_over && exchange(span, now).is_ok() {
            let shortest = self.shortest.swap(took, Relaxed);
            self.shortest_before.store(shortest, Relaxed);
        }
        let shortest = self.shortest.fetch_min(took, Relaxed).min(took);
        let shortest = shortest.min(self.shortest_before.load(Relaxed));
        let before = self.usual.load(Relaxed);
        let usual = match before {
            0 => took,
            usual => usual - usual / WEIGHT + took / WEIGHT,
        };
        // Of two answers at once one may be lost: it is a mean.
        self.usual.store(usual.max(1), Relaxed);
        usual > shortest.saturating_mul(STRETCH).saturating_add(SLACK)
    }

    fn grow(&self) {
        let more = |limit: usize| (limit < self.most).then(|| (limit + self.step).min(self.most));
        let Ok(before) = self.limit.fetch_update(Relaxed, Relaxed, more) else {
            return;
        };
        let mut add = (before + self.step).min(self.most) - before;
        // What is still owed is not taken out of use in the first place.
        let repay = |owed: usize| Some(owed.saturating_sub(add));
        let owed = self
            .owed
            .fetch_update(Relaxed, Relaxed, repay)
            .unwrap_or_default();
        add -= owed.min(add);
        self.permits.add_permits(add);
        self.show_limit();
    }

    /// Cuts the limit, unless it was cut since this request was sent.
    fn cut(&self, now: u64, sent: u64) {
        let last = self.cut.load(Relaxed);
        let is_old = sent < last;
        if is_old
            || self
                .cut
                .compare_exchange(last, now.max(1), Relaxed, Relaxed)
                .is_err()
        {
            return;
        }
        self.answers.store(0, Relaxed);
        let less = |limit: usize| Some((limit - limit.div_ceil(3)).max(self.least));
        let before = self
            .limit
            .fetch_update(Relaxed, Relaxed, less)
            .unwrap_or_default();
        let after = (before - before.div_ceil(3)).max(self.least);
        let away = before.saturating_sub(after);
        let forgotten = self.permits.forget_permits(away);
        self.owed.fetch_add(away - forgotten, Relaxed);
        self.show_limit();
    }

    fn release(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
        self.shown.in_flight.decrement(1.0);
        let pay = |owed: usize| owed.checked_sub(1);
        if self.owed.fetch_update(Relaxed, Relaxed, pay).is_err() {
            self.permits.add_permits(1);
        }
    }
}

impl Permit<'_> {
    /// The server answered.
    pub fn answered(self) {
        self.limiter.answered(self.sent);
    }

    /// The server has too much to do.
    pub fn overloaded(self) {
        self.limiter.cut(self.limiter.now(), self.sent);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.limiter.release();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Takes all places there are.
    async fn fill(limiter: &Limiter) -> Vec<Permit<'_>> {
        let mut taken = Vec::new();
        while let Ok(permit) = timeout(Duration::ZERO, limiter.acquire()).await {
            taken.push(permit.unwrap());
        }
        taken
    }

    /// One round trip of all places.
    async fn round(limiter: &Limiter, took: Duration) {
        let taken = fill(limiter).await;
        assert_eq!(taken.len(), limiter.limit());
        advance(took).await;
        // All are on their way while the answers come.
        for permit in &taken {
            limiter.answered(permit.sent);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn grows_to_the_most_while_answers_come() {
        let limiter = Limiter::new(64);
        assert_eq!(limiter.limit(), 8);
        for _ in 0..200 {
            round(&limiter, MS).await;
        }
        assert_eq!(limiter.limit(), 64);
        assert_eq!(fill(&limiter).await.len(), 64);
    }

    #[tokio::test(start_paused = true)]
    async fn few_requests_are_no_reason_to_grow() {
        let limiter = Limiter::new(64);
        for _ in 0..1000 {
            let permit = limiter.acquire().await.unwrap();
            advance(MS).await;
            permit.answered();
        }
        assert_eq!(limiter.limit(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn many_errors_of_one_round_trip_are_one_cut() {
        let limiter = Limiter::new(800);
        let taken = fill(&limiter).await;
        assert_eq!(taken.len(), 100);
        advance(MS).await;
        taken.into_iter().for_each(Permit::overloaded);
        assert_eq!(limiter.limit(), 66);
        advance(MS).await;
        let taken = fill(&limiter).await;
        assert_eq!(
            taken.len(),
            66,
            "places that were cut are gone when they are given back"
        );
        advance(MS).await;
        taken.into_iter().for_each(Permit::overloaded);
        assert_eq!(limiter.limit(), 44);
        for _ in 0..100 {
            advance(MS).await;
            limiter.acquire().await.unwrap().overloaded();
        }
        assert_eq!(limiter.limit(), LEAST);
        assert_eq!(fill(&limiter).await.len(), LEAST);
    }

    #[tokio::test(start_paused = true)]
    async fn recovers_after_cuts() {
        let limiter = Limiter::new(16);
        for _ in 0..10 {
            advance(MS).await;
            limiter.acquire().await.unwrap().overloaded();
        }
        assert_eq!(limiter.limit(), LEAST);
        for _ in 0..100 {
            round(&limiter, MS).await;
        }
        assert_eq!(limiter.limit(), 16);
        assert_eq!(fill(&limiter).await.len(), 16);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_answers_cut_and_a_lasting_slowness_is_learned() {
        let limiter = Limiter::new(256);
        for _ in 0..300 {
            round(&limiter, MS).await;
        }
        assert_eq!(limiter.limit(), 256);
        for _ in 0..5 {
            round(&limiter, 2000 * MS).await;
        }
        let cut = limiter.limit();
        assert!(cut < 128, "{cut}");
        for _ in 0..1000 {
            round(&limiter, 2000 * MS).await;
        }
        assert_eq!(
            limiter.limit(),
            256,
            "the shortest time of long ago is forgotten"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn closing_wakes_all_that_wait() {
        let limiter = Limiter::new(1);
        let held = limiter.acquire().await.unwrap();
        let (waiting, ()) = tokio::join!(limiter.acquire(), async { limiter.close() });
        assert!(waiting.is_none());
        drop(held);
        assert!(limiter.acquire().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_dropped_gives_its_place_back() {
        let limiter = Limiter::new(1);
        for _ in 0..10 {
            drop(limiter.acquire().await.unwrap());
        }
        assert_eq!(limiter.limit(), 1);
        assert!(limiter.acquire().await.is_some());
    }
}
