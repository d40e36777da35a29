//! Hosts that refuse or fail: how long each is left alone. State machines without sockets, so that tests can turn time.

use std::time::Duration;

use tokio::time::Instant;

use super::FetchError;
use super::patience::MOMENT;

/// Failures in a row that only delay the next request; from this one on a host is left alone.
const PATIENCE: u32 = 3;
/// Longest pause that a host's headers may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// Shortest pause after a refusal.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// Times of back-off.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// Pause after a 429 without headers; doubles.
    pub(super) bare_min: Duration,
    pub(super) bare_max: Duration,
    /// How long a host may answer nothing but 429.
    pub(super) throttled_for: Duration,
    /// Pause after a failure; doubles.
    pub(super) failure_min: Duration,
    pub(super) failure_max: Duration,
}

/// What a host allows just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Allowed {
    /// A request.
    Go,
    /// One request, to see whether the host is back.
    Probe,
    /// Nothing before this time.
    From(Instant),
}

/// How a host does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It may be asked, now or in a moment.
    Ready,
    /// It takes no requests before this time: whoever is in a [hurry](super::Patience) would come back.
    Paused(Instant),
    /// It has taken none for so long that nobody waits for it any more.
    Throttled,
    /// It did nothing but fail, and is left alone until then.
    LeftAlone(Instant),
    /// It was left alone, and may be asked whether it is back,
    Due,
    /// or is being asked.
    Probed,
}

/// Why the host refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// `Retry-After`.
    RetryAfter(Duration),
    /// `RateLimit-Reset`.
    RateLimit(Duration),
    /// It did not say when to come back.
    Bare,
}

impl Refused {
    /// As a label.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::RetryAfter(_) => "retry_after",
            Self::RateLimit(_) => "rate_limit",
            Self::Bare => "bare",
        }
    }
}

/// Refusals and failures in a row.
///
/// Requests that were on their way when the last one was counted belong to it: eight that fail together are one failure.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// Refused since, with no other answer in between.
    refused_since: Option<Instant>,
    refused_last: Option<Instant>,
    refusals: u32,
    paused_until: Option<Instant>,
    failures: u32,
    failed_last: Option<Instant>,
    retry_at: Option<Instant>,
    probing: bool,
}

impl Trouble {
    /// What may be done now; the error for who must not wait.
    pub(super) fn allowed(
        &self,
        host: &str,
        now: Instant,
        times: &Times,
    ) -> Result<Allowed, FetchError> {
        let left_alone = self.failures >= PATIENCE;
        let due = self.retry_at.is_none_or(|at| at <= now);
        if left_alone && (!due || self.probing) {
            return Err(FetchError::BackedOff(host.to_owned()));
        }
        // Who told once to come back later, however much later, was not asked again yet.
        let refused_since = self.refused_since.filter(|_| self.refusals > 1);
        let given_up = refused_since.map(|since| since + times.throttled_for);
        let paused = self.paused_until(now);
        if paused.is_some() && given_up.is_some_and(|at| at <= now) {
            return Err(FetchError::Throttled(host.to_owned()));
        }
        let pause = paused.map(|until| given_up.map_or(until, |at| at.min(until)));
        let delay = self.retry_at.filter(|_| !due);
        match pause.max(delay) {
            Some(when) => Ok(Allowed::From(when)),
            None if left_alone => Ok(Allowed::Probe),
            None => Ok(Allowed::Go),
        }
    }

    /// Whether nobody but a probe may send, or nobody at all.
    pub(super) fn closed(&self, now: Instant) -> bool {
        let waits = |until: Option<Instant>| until.is_some_and(|until| until > now);
        self.failures >= PATIENCE || waits(self.paused_until) || waits(self.retry_at)
    }

    pub(super) fn set_probing(&mut self, probing: bool) {
        self.probing = probing;
    }

    /// The request `sent` then was refused; whether that is news.
    pub(super) fn refused(
        &mut self,
        how: Refused,
        sent: Instant,
        now: Instant,
        times: &Times,
    ) -> bool {
        let news = self.refused_last.is_none_or(|last| sent >= last);
        if news {
            self.refused_last = Some(now);
            self.refusals = self.refusals.saturating_add(1);
        }
        self.refused_since.get_or_insert(now);
        let pause = match how {
            Refused::RetryAfter(pause) | Refused::RateLimit(pause) => {
                pause.clamp(PAUSE_MIN, PAUSE_MAX)
            }
            Refused::Bare => doubled(times.bare_min, times.bare_max, self.refusals),
        };
        self.paused_until = self.paused_until.max(Some(now + pause));
        news
    }

    /// The host answered something else.
    pub(super) fn not_refused(&mut self) {
        self.refused_since = None;
        self.refusals = 0;
    }

    /// The request `sent` then failed.
    pub(super) fn failed(&mut self, sent: Instant, now: Instant, times: &Times) {
        if self.failed_last.is_some_and(|last| sent < last) {
            return;
        }
        self.failed_last = Some(now);
        self.failures = self.failures.saturating_add(1);
        let pause = doubled(times.failure_min, times.failure_max, self.failures);
        self.retry_at = Some(now + pause.mul_f64(0.75 + fastrand::f64() / 2.0));
    }

    /// The host did what was asked.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
        self.retry_at = None;
    }

    /// The same as what is [allowed](Self::allowed), for who has other things to do than to wait.
    pub(super) fn condition(&self, now: Instant, times: &Times) -> Condition {
        match self.allowed("", now, times) {
            Ok(Allowed::Go) => Condition::Ready,
            Ok(Allowed::Probe) => Condition::Due,
            Ok(Allowed::From(when)) if when <= now + MOMENT => Condition::Ready,
            Ok(Allowed::From(when)) => Condition::Paused(when),
            Err(FetchError::Throttled(_)) => Condition::Throttled,
            Err(_) if self.probing => Condition::Probed,
            Err(_) => Condition::LeftAlone(self.retry_at.unwrap_or(now)),
        }
    }

    /// Until when it said, or made us think, that it wants no requests.
    pub(super) fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.paused_until.filter(|until| *until > now)
    }
}

/// `min`, doubled for each time after the first, at most `max`.
fn doubled(min: Duration, max: Duration, times: u32) -> Duration {
    let factor = 2_u32.saturating_pow(times.saturating_sub(1).min(30));
    min.saturating_mul(factor).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times {
        bare_min: Duration::from_secs(10),
        bare_max: Duration::from_secs(300),
        throttled_for: Duration::from_secs(1000),
        failure_min: Duration::from_secs(1),
        failure_max: Duration::from_secs(600),
    };

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn bare_refusals_double_the_pause_until_the_host_is_given_up() {
        let (start, mut trouble) = (Instant::now(), Trouble::default());
        let mut now = start;
        for pause in [10, 20, 40, 80, 160, 300] {
            assert!(trouble.refused(Refused::Bare, now, now, &TIMES));
            // Was on its way at the same time.
            let before = now - seconds(1);
            assert!(!trouble.refused(Refused::Bare, before, now, &TIMES));
            let until = now + seconds(pause);
            let allowed = trouble.allowed("h", now, &TIMES).unwrap();
            assert_eq!(allowed, Allowed::From(until));
            now = until;
            let allowed = trouble.allowed("h", now, &TIMES).unwrap();
            assert_eq!(allowed, Allowed::Go);
        }
        trouble.refused(Refused::Bare, now, now, &TIMES);
        let end = start + seconds(1000);
        let allowed = trouble.allowed("h", now, &TIMES).unwrap();
        assert_eq!(allowed, Allowed::From(now + seconds(300)));
        now += seconds(300);
        trouble.refused(Refused::Bare, now, now, &TIMES);
        let allowed = trouble.allowed("h", now, &TIMES).unwrap();
        assert_eq!(allowed, Allowed::From(end));
        assert_eq!(trouble.condition(now, &TIMES), Condition::Paused(end));
        assert_eq!(trouble.condition(end, &TIMES), Condition::Throttled);
        let given_up = trouble.allowed("h", end, &TIMES);
        assert!(matches!(given_up, Err(FetchError::Throttled(_))));
        trouble.not_refused();
        trouble.refused(
            Refused::Bare,
            now + seconds(500),
            now + seconds(500),
            &TIMES,
        );
        assert!(
            trouble
                .allowed("h", now + seconds(500), &TIMES)
                .is_ok_and(|allowed| allowed == Allowed::From(now + seconds(510)))
        );
    }

    #[test]
    fn a_host_that_says_when_is_believed_within_reason() {
        let now = Instant::now();
        for (said, pause) in [(0, 1), (7, 7), (1 << 40, 3600)] {
            let mut trouble = Trouble::default();
            let times = Times {
                throttled_for: seconds(10_000),
                ..TIMES
            };
            trouble.refused(Refused::RetryAfter(seconds(said)), now, now, &times);
            let allowed = trouble.allowed("h", now, &times).unwrap();
            assert_eq!(allowed, Allowed::From(now + seconds(pause)));
        }
    }

    #[test]
    fn failures_delay_and_then_close_the_host_but_for_one_probe() {
        let (mut now, mut trouble) = (Instant::now(), Trouble::default());
        for _ in 0..2 {
            trouble.failed(now, now, &TIMES);
            let allowed = trouble.allowed("h", now, &TIMES).unwrap();
            let Allowed::From(when) = allowed else {
                panic!("{allowed:?}")
            };
            assert!(when > now && when <= now + seconds(3));
            now = when;
        }
        trouble.failed(now, now, &TIMES);
        let closed = trouble.allowed("h", now, &TIMES);
        assert!(matches!(closed, Err(FetchError::BackedOff(_))));
        let condition = trouble.condition(now, &TIMES);
        assert!(matches!(condition, Condition::LeftAlone(until) if until > now));
        now += seconds(5);
        assert_eq!(trouble.condition(now, &TIMES), Condition::Due);
        assert_eq!(trouble.allowed("h", now, &TIMES).unwrap(), Allowed::Probe);
        trouble.set_probing(true);
        assert!(trouble.allowed("h", now, &TIMES).is_err());
        assert_eq!(trouble.condition(now, &TIMES), Condition::Probed);
        for _ in 0..20 {
            trouble.failed(now, now, &TIMES);
        }
        trouble.set_probing(false);
        assert!(trouble.allowed("h", now + seconds(449), &TIMES).is_err());
        let probe = trouble.allowed("h", now + seconds(751), &TIMES).unwrap();
        assert_eq!(probe, Allowed::Probe);
        trouble.succeeded();
        assert_eq!(trouble.allowed("h", now, &TIMES).unwrap(), Allowed::Go);
    }

    #[test]
    fn requests_that_fail_together_are_one_failure() {
        let (now, mut trouble) = (Instant::now(), Trouble::default());
        for millis in 1..=8 {
            trouble.failed(now, now + Duration::from_millis(millis), &TIMES);
        }
        assert_eq!(trouble.failures, 1);
    }
}
