//! How often a gap was asked for, and when it is worth asking again.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::ledger::Gap;

/// The wait after the first failure; doubled with each one.
const FIRST_WAIT: Duration = Duration::from_secs(2);
/// The last of the ways in which a gap is asked for, from 0.
const LAST_WAY: u32 = 2;
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Failures in a row after which a relay counts as away.
const AWAY: u32 = 2;

/// Which relays can't be asked: meanwhile the others are.
#[derive(Debug, Default)]
pub(super) struct Away(HashMap<String, (u32, Instant)>);

impl Away {
    /// It could not be asked, or had no answer.
    pub fn failed(&mut self, relay: &str) {
        let until = Instant::now() + LONGEST_WAIT;
        let failed = self.0.entry(relay.to_owned()).or_insert((0, until));
        *failed = (failed.0 + 1, until);
    }

    /// It does not serve what it has.
    pub fn leave(&mut self, relay: &str) {
        (0..AWAY).for_each(|_| self.failed(relay));
    }

    /// It answered.
    pub fn answered(&mut self, relay: &str) {
        self.0.remove(relay);
    }

    /// Those that are not away; all of them if all are.
    pub fn there(&self, relays: Vec<String>) -> Vec<String> {
        let now = Instant::now();
        let is_away = |relay: &String| {
            let failed = self.0.get(relay);
            failed.is_some_and(|(count, until)| *count >= AWAY && *until > now)
        };
        match relays.iter().all(is_away) {
            true => relays,
            false => relays.into_iter().filter(|relay| !is_away(relay)).collect(),
        }
    }
}

/// A gap, but for what of it changes by itself.
type Key = (String, u32, Option<u64>, Option<u64>);

#[derive(Debug, Default)]
struct Attempt {
    /// Readings that left it as it was.
    vain: u32,
    /// Readings that the relay broke off with nothing read.
    broken: u32,
    /// Failures since the last reading.
    failures: u32,
    not_before: Option<Instant>,
}

/// What was tried, by gap; in memory only: a restart tries again.
#[derive(Debug, Default)]
pub(super) struct Attempts(HashMap<Key, Attempt>);

impl Attempts {
    /// How often it was read in vain. What broke off counts half, and never so much that it is given up for it: the relay may only
    /// have been in trouble.
    pub fn of(&self, gap: &Gap) -> u32 {
        let attempt = self.0.get(&key(gap));
        attempt.map_or(0, |attempt| {
            let with_broken = attempt.vain + attempt.broken / 2;
            with_broken.min(LAST_WAY).max(attempt.vain)
        })
    }

    /// Whether it may be asked for now.
    pub fn is_due(&self, gap: &Gap) -> bool {
        let not_before = self.0.get(&key(gap)).and_then(|attempt| attempt.not_before);
        not_before.is_none_or(|time| time <= Instant::now())
    }

    /// How long until some gap is due that is not yet.
    pub fn next_due(&self) -> Option<Duration> {
        let times = self.0.values().filter_map(|attempt| attempt.not_before);
        let now = Instant::now();
        times
            .filter(|time| *time > now)
            .min()
            .map(|time| time - now)
    }

    /// It is being asked for; whatever comes of it, the same gap is not asked for again at once.
    pub fn asked(&mut self, gap: &Gap) {
        let attempt = self.0.entry(key(gap)).or_default();
        attempt.not_before = Some(Instant::now() + FIRST_WAIT);
    }

    /// It could not be asked for, or not be read: the relay is away, or does not know yet.
    pub fn failed(&mut self, gap: &Gap) {
        let attempt = self.0.entry(key(gap)).or_default();
        let wait = FIRST_WAIT.saturating_mul(1 << attempt.failures.min(16));
        attempt.failures += 1;
        attempt.not_before = Some(Instant::now() + wait.min(LONGEST_WAIT));
    }

    /// Its reading broke off, although the relay could be asked for it. What was read of it meanwhile makes another gap of it.
    /// Gives whether it was so often that another relay may do better.
    pub fn broke_off(&mut self, gap: &Gap) -> bool {
        let attempt = self.0.entry(key(gap)).or_default();
        attempt.broken += 1;
        let often = attempt.broken >= 2 * LAST_WAY;
        self.failed(gap);
        often
    }

    /// It was read. Whether that was in vain shows when it is asked for again.
    pub fn read(&mut self, gap: &Gap) {
        let attempt = self.0.entry(key(gap)).or_default();
        attempt.vain += 1;
        attempt.failures = 0;
        // Where nothing has an end yet, or nothing comes, there is no hurry.
        let wait = match gap.to_seq {
            Some(_) => FIRST_WAIT.saturating_mul(1 << (attempt.vain - 1).min(16)),
            None => LONGEST_WAIT,
        };
        attempt.not_before = Some(Instant::now() + wait.min(LONGEST_WAIT));
    }

    /// Forgets the gaps that are no more, or have shrunk.
    pub fn keep(&mut self, gaps: &[Gap]) {
        let known: std::collections::HashSet<Key> = gaps.iter().map(key).collect();
        self.0.retain(|key, _| known.contains(key));
    }
}

fn key(gap: &Gap) -> Key {
    (gap.relay.clone(), gap.generation, gap.from_seq, gap.to_seq)
}
