//! Keeps a line that repeats to one a second per reason, with a count of those held back.
//!
//! ```
//! use penstock::telemetry::repeated;
//! let reason = "bad_cbor";
//! if let Some(held_back) = repeated("decode", reason) {
//!     tracing::warn!(reason, held_back, "a frame went to the quarantine");
//! }
//! ```

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// At most one line in this time.
const INTERVAL: Duration = Duration::from_secs(1);
/// A reason that was silent for so long is forgotten.
const FORGET: Duration = Duration::from_secs(60);
/// The most reasons of one site. Beyond it they share one count: reasons may come from others.
const MAX_REASONS: usize = 256;
const OTHERS: &str = "others";

/// When lines were last written, by site (a place in the code) and reason.
#[derive(Debug, Default)]
pub struct Repeated {
    sites: Mutex<HashMap<&'static str, HashMap<Box<str>, Seen>>>,
}

#[derive(Debug)]
struct Seen {
    written: Instant,
    held_back: u64,
}

impl Repeated {
    /// Whether a line may be written now: if so, how many like it were held back since the last one.
    pub fn admit(&self, site: &'static str, reason: &str, now: Instant) -> Option<u64> {
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        let reasons = sites.entry(site).or_default();
        let reason = match reasons.contains_key(reason) || reasons.len() < MAX_REASONS {
            true => reason,
            false => OTHERS,
        };
        let Some(seen) = reasons.get_mut(reason) else {
            let seen = Seen {
                written: now,
                held_back: 0,
            };
            reasons.insert(reason.into(), seen);
            return Some(0);
        };
        if now.saturating_duration_since(seen.written) < INTERVAL {
            seen.held_back += 1;
            return None;
        }
        seen.written = now;
        Some(std::mem::take(&mut seen.held_back))
    }

    /// What was held back for a second or longer and not written since: site, reason, count. Counts start anew.
    pub fn take_held_back(&self, now: Instant) -> Vec<(&'static str, String, u64)> {
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        for (site, reasons) in sites.iter_mut() {
            reasons.retain(|reason, seen| {
                let silent = now.saturating_duration_since(seen.written);
                if seen.held_back > 0 && silent >= INTERVAL {
                    let count = std::mem::take(&mut seen.held_back);
                    taken.push((*site, reason.to_string(), count));
                    seen.written = now;
                    return true;
                }
                silent < FORGET
            });
        }
        taken
    }
}

static LINES: LazyLock<Repeated> = LazyLock::new(Repeated::default);

/// Whether a line of this site and reason may be written now; if so, how many like it were held back.
pub fn repeated(site: &'static str, reason: &str) -> Option<u64> {
    LINES.admit(site, reason, Instant::now())
}

/// Writes the counts of lines that were held back and had no later line to carry them. Call it once a second, and at
/// the end.
pub fn flush_repeated() {
    for (site, reason, held_back) in LINES.take_held_back(Instant::now()) {
        tracing::warn!(
            site,
            reason,
            held_back,
            "lines like the last one were held back"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_with_the_count_of_the_others() {
        let lines = Repeated::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(lines.admit("a", "x", at(0)), Some(0));
        assert_eq!(lines.admit("a", "x", at(1)), None);
        assert_eq!(lines.admit("a", "x", at(999)), None);
        assert_eq!(lines.admit("a", "y", at(999)), Some(0));
        assert_eq!(lines.admit("b", "x", at(999)), Some(0));
        assert_eq!(lines.admit("a", "x", at(1000)), Some(2));
        assert_eq!(lines.admit("a", "x", at(2000)), Some(0));
    }

    #[test]
    fn counts_without_a_later_line_are_not_lost() {
        let lines = Repeated::default();
        let start = Instant::now();
        lines.admit("a", "x", start);
        lines.admit("a", "x", start);
        assert_eq!(lines.take_held_back(start), []);
        let later = start + INTERVAL;
        assert_eq!(lines.take_held_back(later), [("a", "x".to_owned(), 1)]);
        assert_eq!(lines.take_held_back(later + INTERVAL), []);
    }

    #[test]
    fn reasons_from_others_do_not_grow_memory() {
        let lines = Repeated::default();
        let now = Instant::now();
        let written = (0..10_000)
            .filter(|n| lines.admit("a", &n.to_string(), now).is_some())
            .count();
        assert_eq!(written, MAX_REASONS + 1);
        assert_eq!(lines.take_held_back(now + FORGET).len(), 1);
        assert_eq!(lines.admit("a", "10000", now + FORGET), Some(0));
    }
}
