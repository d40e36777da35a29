//! A token bucket whose pace follows what the host says.

use std::time::Duration;

use tokio::time::Instant;

/// However much a host offers, never more than this many times the pace to start with.
const SPEED_UP: f64 = 5.0;
/// However little, never less than this part of it.
const SLOW_DOWN: f64 = 0.01;
/// What an answer wins back of a pace that was halved, as a part of the whole.
const RECOVERY: f64 = 0.01;
/// Longest wait for a budget: then one more request asks how things are.
const BUDGET_MAX: Duration = Duration::from_secs(300);

/// A request takes a token; tokens grow at the pace.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Tokens a second to start with.
    full: f64,
    /// Tokens a second without headers; less after a 429 without any.
    pace: f64,
    /// By the host's headers, until their reset.
    told: Option<(f64, Instant)>,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(pace: f64, burst: f64) -> Self {
        Self {
            full: pace,
            pace,
            told: None,
            burst: burst.max(1.0),
            tokens: burst.max(1.0),
            at: Instant::now(),
        }
    }

    /// Another pace to start with. What the host said counts on, and so does a part of the pace that it took away.
    pub(super) fn change(&mut self, pace: f64, burst: f64) {
        self.pace = self.pace / self.full * pace;
        self.full = pace;
        self.burst = burst.max(1.0);
    }

    /// Takes a token, or tells when to look again.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        match self.empty_until(now) {
            Some(when) => Err(when),
            None => {
                self.tokens -= 1.0;
                Ok(())
            }
        }
    }

    /// When to look again, if there is no token.
    pub(super) fn empty_until(&mut self, now: Instant) -> Option<Instant> {
        self.told = self.told.filter(|(_, until)| *until > now);
        let pace = self.told.map_or(self.pace, |(pace, _)| pace);
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * pace).min(self.burst);
        self.at = now;
        if self.tokens > 1.0 - 1e-6 {
            return None;
        }
        let wait = Duration::try_from_secs_f64((1.0 - self.tokens) / pace);
        let when = now + wait.unwrap_or(BUDGET_MAX).min(BUDGET_MAX);
        // A timer may not be finer than a millisecond.
        let when = when.max(now + Duration::from_millis(1));
        Some(self.told.map_or(when, |(_, until)| until.min(when)))
    }

    /// Spreads what remains over the time until the reset. Whether nothing does.
    pub(super) fn tell(&mut self, remaining: u64, reset: Duration, now: Instant) -> bool {
        let reset = reset.min(BUDGET_MAX);
        if reset.is_zero() {
            return false;
        }
        let remaining = u32::try_from(remaining).map_or(f64::MAX, f64::from);
        let pace = (remaining / reset.as_secs_f64()).min(self.full * SPEED_UP);
        self.told = Some((pace, now + reset));
        self.tokens = self.tokens.min(remaining);
        remaining < 1.0
    }

    /// The pace of the host's headers, while it holds.
    pub(super) fn told(&self) -> Option<(f64, Instant)> {
        self.told
    }

    /// Lets a pace that others were told count here too, if it is a faster one.
    pub(super) fn share(&mut self, told: (f64, Instant)) {
        if told.0 > self.told.map_or(self.full, |(pace, _)| pace) {
            self.told = Some(told);
        }
    }

    /// Goes at half the pace.
    pub(super) fn slow_down(&mut self) {
        self.pace = (self.pace / 2.0).max(self.full * SLOW_DOWN);
        self.tokens = 0.0;
    }

    /// Wins back a little of the pace.
    pub(super) fn recover(&mut self) {
        self.pace = (self.pace + self.full * RECOVERY).min(self.full);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many tokens can be had in a time.
    fn taken(bucket: &mut Bucket, now: &mut Instant, time: Duration) -> u32 {
        let end = *now + time;
        let mut count = 0;
        while *now < end {
            match bucket.take(*now) {
                Ok(()) => count += 1,
                Err(when) => {
                    assert!(when > *now);
                    *now = when;
                }
            }
        }
        count
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn bursts_then_keeps_the_pace() {
        let (mut bucket, mut now) = (Bucket::new(10.0, 10.0), Instant::now());
        let count = taken(&mut bucket, &mut now, MINUTE);
        assert!((608..=611).contains(&count), "{count}");
    }

    #[test]
    fn spreads_what_remains_until_the_reset() {
        let (mut bucket, mut now) = (Bucket::new(10.0, 10.0), Instant::now());
        assert!(!bucket.tell(120, MINUTE, now));
        let count = taken(&mut bucket, &mut now, MINUTE);
        assert!((119..=131).contains(&count), "{count}");
        assert!(bucket.tell(0, MINUTE, now));
        assert_eq!(bucket.empty_until(now), Some(now + MINUTE));
        assert_eq!(bucket.take(now), Err(now + MINUTE));
        let later = now + MINUTE;
        assert!(bucket.take(later + Duration::from_millis(101)).is_ok());
    }

    #[test]
    fn no_promise_makes_it_rush_and_no_threat_makes_it_wait_for_ever() {
        let (mut bucket, mut now) = (Bucket::new(10.0, 10.0), Instant::now());
        bucket.tell(u64::MAX, MINUTE, now);
        let count = taken(&mut bucket, &mut now, Duration::from_secs(10));
        assert!((500..=511).contains(&count), "{count}");
        bucket.tell(0, Duration::from_secs(u64::MAX), now);
        assert_eq!(bucket.take(now), Err(now + BUDGET_MAX));
    }

    #[test]
    fn halves_its_pace_and_wins_it_back() {
        let (mut bucket, mut now) = (Bucket::new(10.0, 10.0), Instant::now());
        bucket.slow_down();
        let count = taken(&mut bucket, &mut now, MINUTE);
        assert!((299..=301).contains(&count), "{count}");
        (0..100).for_each(|_| bucket.recover());
        let count = taken(&mut bucket, &mut now, MINUTE);
        assert!((599..=611).contains(&count), "{count}");
    }

    #[test]
    fn another_pace_keeps_what_the_host_took_away() {
        let (mut bucket, mut now) = (Bucket::new(10.0, 10.0), Instant::now());
        bucket.slow_down();
        bucket.change(20.0, 20.0);
        let count = taken(&mut bucket, &mut now, MINUTE);
        assert!((599..=601).contains(&count), "{count}");
        bucket.tell(120, MINUTE, now);
        bucket.change(1.0, 1.0);
        let count = taken(&mut bucket, &mut now, MINUTE);
        assert!((119..=121).contains(&count), "{count}");
        let count = taken(&mut bucket, &mut now, MINUTE);
        assert!((29..=32).contains(&count), "{count}");
    }

    #[test]
    fn shares_only_a_faster_pace() {
        let (mut bucket, now) = (Bucket::new(10.0, 10.0), Instant::now());
        bucket.share((3.0, now + MINUTE));
        assert_eq!(bucket.told(), None);
        bucket.share((20.0, now + MINUTE));
        assert_eq!(bucket.told(), Some((20.0, now + MINUTE)));
    }
}
