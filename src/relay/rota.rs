//! Which relay is tried next, and when. Pure: the time comes in as an argument.
//!
//! Each address keeps a row of failures of its own, which drives its back-off; only progress ends
//! the row. Strikes count the failures since we came to an address and make us leave it.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::{RelayError, RelayUrl};

/// Failed attempts in a row after which the next address is tried.
const STRIKES: u32 = 3;
/// More doublings than any configured range needs.
const MAX_DOUBLINGS: u32 = 30;

/// A failure as the rota sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failure {
    /// What the relay asked us to wait.
    pub asked: Option<Duration>,
    /// The connection had made progress before: the row starts anew.
    pub after_progress: bool,
    /// It speaks against the relay, and not only against what is at the cursor.
    pub strike: bool,
}

#[derive(Debug)]
struct Entry {
    url: RelayUrl,
    in_a_row: u32,
    strikes: u32,
    not_before: Option<Instant>,
}

impl Entry {
    fn new(url: RelayUrl) -> Self {
        Self {
            url,
            in_a_row: 0,
            strikes: 0,
            not_before: None,
        }
    }

    fn wait(&self, now: Instant) -> Duration {
        self.not_before
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }
}

/// The addresses in their order, turned so that the current one is in front.
#[derive(Debug)]
pub(super) struct Rota {
    current: Entry,
    others: VecDeque<Entry>,
    backoff_min: Duration,
    backoff_max: Duration,
    jitter: fastrand::Rng,
}

impl Rota {
    pub(super) fn new(
        urls: Vec<RelayUrl>,
        backoff_min: Duration,
        backoff_max: Duration,
        jitter: fastrand::Rng,
    ) -> Result<Self, RelayError> {
        let mut entries = urls.into_iter().map(Entry::new);
        Ok(Self {
            current: entries.next().ok_or(RelayError::NoUrl)?,
            others: entries.collect(),
            backoff_min,
            backoff_max: backoff_max.max(backoff_min),
            jitter,
        })
    }

    /// The relay whose turn it is.
    pub(super) fn current(&self) -> &RelayUrl {
        &self.current.url
    }

    /// How long to wait before its turn.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.current.wait(now)
    }

    /// Writes down that the current relay failed, and picks the next one.
    pub(super) fn failed(&mut self, now: Instant, failure: Failure) {
        if failure.after_progress {
            self.current.in_a_row = 0;
            self.current.strikes = 0;
        } else if failure.strike {
            self.current.strikes += 1;
        }
        let wait = self.backoff().max(failure.asked.unwrap_or_default());
        self.current.in_a_row = self.current.in_a_row.saturating_add(1);
        self.current.not_before = now.checked_add(wait);
        if self.current.strikes >= STRIKES || wait > self.backoff_max {
            self.move_on(now);
        }
    }

    /// Goes to the next address that can be tried soon; if there is none, to the one that can be
    /// tried first, which may be the current one.
    pub(super) fn move_on(&mut self, now: Instant) {
        self.current.strikes = 0;
        let soon = self
            .others
            .iter()
            .position(|other| other.wait(now) <= self.backoff_max);
        let turns = soon.map_or_else(|| self.turns_to_shortest_wait(now), |at| at + 1);
        for _ in 0..turns {
            self.turn();
        }
    }

    fn turns_to_shortest_wait(&self, now: Instant) -> usize {
        std::iter::once(&self.current)
            .chain(&self.others)
            .map(|entry| entry.wait(now))
            .enumerate()
            .min_by_key(|(_, wait)| *wait)
            .map_or(0, |(turns, _)| turns)
    }

    fn turn(&mut self) {
        if let Some(next) = self.others.pop_front() {
            self.others
                .push_back(std::mem::replace(&mut self.current, next));
        }
    }

    /// Between half and all of `backoff_min`, doubled for each failure in the row before this one.
    fn backoff(&mut self) -> Duration {
        let doublings = self.current.in_a_row.min(MAX_DOUBLINGS);
        let full = self
            .backoff_min
            .saturating_mul(1 << doublings)
            .min(self.backoff_max);
        full.mul_f64(0.5 + self.jitter.f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_secs(1);
    const MAX: Duration = Duration::from_secs(60);
    const REFUSED: Failure = Failure {
        asked: None,
        after_progress: false,
        strike: true,
    };

    fn rota(urls: &[&str]) -> Rota {
        let urls = urls.iter().map(|url| url.parse().unwrap()).collect();
        Rota::new(urls, MIN, MAX, fastrand::Rng::with_seed(7)).unwrap()
    }

    /// Fails once and returns the wait before the next turn.
    fn fail(rota: &mut Rota, failure: Failure) -> Duration {
        let now = Instant::now();
        rota.failed(now, failure);
        rota.wait(now)
    }

    #[test]
    fn waits_double_up_to_the_limit_with_jitter() {
        let mut rota = rota(&["a"]);
        let mut waits = Vec::new();
        for doublings in 0..40 {
            let full = MIN.saturating_mul(1 << doublings.min(20)).min(MAX);
            let wait = fail(&mut rota, REFUSED);
            assert!(wait >= full / 2 && wait <= full, "{doublings}: {wait:?}");
            waits.push(wait);
        }
        waits.sort_unstable();
        waits.dedup();
        assert!(waits.len() > 35, "no jitter: {waits:?}");
    }

    #[test]
    fn only_progress_starts_the_row_anew() {
        let mut rota = rota(&["a"]);
        for _ in 0..5 {
            fail(&mut rota, REFUSED);
        }
        assert!(fail(&mut rota, REFUSED) > MIN);
        let after_progress = Failure {
            after_progress: true,
            ..REFUSED
        };
        assert!(fail(&mut rota, after_progress) <= MIN);
        assert!(fail(&mut rota, REFUSED) <= MIN * 2);
    }

    #[test]
    fn three_strikes_lead_to_the_next_round_and_round() {
        let mut rota = rota(&["a", "b", "c"]);
        let mut seen = Vec::new();
        for _ in 0..12 {
            seen.push(rota.current().host());
            fail(&mut rota, REFUSED);
        }
        assert_eq!(seen.concat(), "aaabbbcccaaa");
    }

    #[test]
    fn the_first_turn_of_a_fallback_comes_at_once() {
        let mut rota = rota(&["a", "b"]);
        fail(&mut rota, REFUSED);
        fail(&mut rota, REFUSED);
        assert_eq!(fail(&mut rota, REFUSED), Duration::ZERO);
        assert_eq!(rota.current().host(), "b");
    }

    #[test]
    fn progress_and_poison_are_no_strikes() {
        let mut rota = rota(&["a", "b"]);
        let poison = Failure {
            strike: false,
            ..REFUSED
        };
        let after_progress = Failure {
            after_progress: true,
            ..REFUSED
        };
        for failure in [poison, after_progress, REFUSED, REFUSED] {
            for _ in 0..2 {
                fail(&mut rota, failure);
            }
            assert_eq!(rota.current().host(), "a");
            fail(&mut rota, after_progress);
        }
    }

    #[test]
    fn a_long_wait_is_left_at_once_if_another_relay_can_be_tried() {
        let asked = |seconds| Failure {
            asked: Some(Duration::from_secs(seconds)),
            ..REFUSED
        };
        let mut alone = rota(&["a"]);
        assert_eq!(fail(&mut alone, asked(600)), Duration::from_secs(600));

        let mut two = rota(&["a", "b"]);
        assert_eq!(fail(&mut two, asked(600)), Duration::ZERO);
        assert_eq!(two.current().host(), "b");
        // `b` asks for less than `a` has left: it is waited for.
        assert_eq!(fail(&mut two, asked(300)), Duration::from_secs(300));
        assert_eq!(two.current().host(), "b");
        // `b` asks for more.
        assert!(fail(&mut two, asked(601)) <= Duration::from_secs(600));
        assert_eq!(two.current().host(), "a");
    }

    #[test]
    fn what_is_asked_is_a_lower_bound() {
        let mut rota = rota(&["a"]);
        for _ in 0..10 {
            fail(&mut rota, REFUSED);
        }
        let asked = Failure {
            asked: Some(Duration::from_secs(1)),
            ..REFUSED
        };
        assert!(fail(&mut rota, asked) >= MAX / 2);
    }

    #[test]
    fn the_largest_times_do_not_overflow() {
        let urls = vec!["a".parse().unwrap()];
        let day = Duration::from_secs(86_400);
        let mut rota = Rota::new(urls, day, day, fastrand::Rng::with_seed(7)).unwrap();
        for _ in 0..100 {
            assert!(fail(&mut rota, REFUSED) <= day);
        }
    }
}
