//! What a host allows, and what it saw.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How a host tells of its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announce {
    /// `RateLimit-Limit`, `-Remaining`, `-Reset` and `-Policy` with each answer, `Retry-After` with each 429.
    All,
    /// The four `RateLimit` headers.
    RateLimit,
    /// `Retry-After` with a 429 only.
    RetryAfter,
    /// A 429 without any header.
    Nothing,
}

/// So many requests in each window; more are answered 429.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Requests in a window.
    pub requests: u32,
    /// How long a window is, in whole seconds; it begins with the first request in it.
    pub window: Duration,
    /// How it is told.
    pub announce: Announce,
}

/// What a host saw so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostStats {
    /// `ADDRESS:PORT`
    pub host: String,
    /// Its limit.
    pub limit: Option<Limit>,
    /// Requests, refused ones too.
    pub requests: u64,
    /// Requests for CARs of repositories.
    pub repos: u64,
    /// Most requests at once; one counts until its answer's last byte is handed to the socket, or its connection is gone.
    pub most_at_once: u32,
    /// Most requests in any second.
    pub most_in_a_second: u32,
    /// Most requests in any window of its limit, refused ones too.
    pub most_in_a_window: u32,
    /// Requests that were answered 429.
    pub refused: u64,
    /// Of them, those that came more than half a second after an answer had told in a header to wait.
    pub unheeded: u64,
}

#[derive(Default)]
struct Seen {
    stats: HostStats,
    at_once: u32,
    /// The requests of the last second.
    recent: VecDeque<Instant>,
    window: Option<Instant>,
    in_window: u32,
    told: Option<Instant>,
}

/// The door of a host.
pub(super) struct Gate {
    seen: Mutex<Seen>,
}

/// What becomes of a request, and the headers that go with it.
pub(super) struct Verdict {
    pub refused: bool,
    pub headers: Vec<(&'static str, String)>,
}

impl Gate {
    pub(super) fn new(host: String, limit: Option<Limit>) -> Self {
        let mut seen = Seen::default();
        seen.stats.host = host;
        seen.stats.limit = limit;
        Self {
            seen: Mutex::new(seen),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stats(&self) -> HostStats {
        self.seen().stats.clone()
    }

    /// Another limit, whose first window begins with the next request.
    pub(super) fn set_limit(&self, limit: Option<Limit>) {
        let mut seen = self.seen();
        (seen.stats.limit, seen.window) = (limit, None);
    }

    pub(super) fn count_repo(&self) {
        self.seen().stats.repos += 1;
    }

    /// Counts a request; [`leave`](Self::leave) follows.
    pub(super) fn enter(&self) -> Verdict {
        let now = Instant::now();
        let mut seen = self.seen();
        seen.at_once += 1;
        seen.stats.requests += 1;
        seen.stats.most_at_once = seen.stats.most_at_once.max(seen.at_once);
        seen.recent.push_back(now);
        while (seen.recent.front()).is_some_and(|at| now - *at >= Duration::from_secs(1)) {
            seen.recent.pop_front();
        }
        let rate = seen.recent.len() as u32;
        seen.stats.most_in_a_second = seen.stats.most_in_a_second.max(rate);
        match seen.stats.limit {
            Some(limit) => seen.judge(limit, now),
            None => Verdict {
                refused: false,
                headers: Vec::new(),
            },
        }
    }

    pub(super) fn leave(&self) {
        self.seen().at_once -= 1;
    }
}

impl Seen {
    fn judge(&mut self, limit: Limit, now: Instant) -> Verdict {
        let start = match self.window {
            Some(start) if now - start < limit.window => start,
            _ => {
                (self.window, self.in_window, self.told) = (Some(now), 0, None);
                now
            }
        };
        self.in_window += 1;
        self.stats.most_in_a_window = self.stats.most_in_a_window.max(self.in_window);
        let refused = self.in_window > limit.requests;
        let remaining = limit.requests.saturating_sub(self.in_window);
        let left = limit.window - (now - start);
        if refused {
            self.stats.refused += 1;
            let late = |told: Instant| now - told > Duration::from_millis(500);
            self.stats.unheeded += u64::from(self.told.is_some_and(late));
        }
        let headers = limit.headers(refused, remaining, left);
        let tells = refused || remaining == 0 && limit.announce != Announce::RetryAfter;
        if tells && !headers.is_empty() {
            self.told.get_or_insert(now);
        }
        Verdict { refused, headers }
    }
}

impl Limit {
    fn headers(
        &self,
        refused: bool,
        remaining: u32,
        left: Duration,
    ) -> Vec<(&'static str, String)> {
        let mut headers = Vec::new();
        if matches!(self.announce, Announce::All | Announce::RateLimit) {
            let window = self.window.as_secs();
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let reset = (now.unwrap_or_default() + left).as_secs() + 1;
            headers.push(("ratelimit-limit", self.requests.to_string()));
            headers.push(("ratelimit-remaining", remaining.to_string()));
            headers.push(("ratelimit-reset", reset.to_string()));
            headers.push(("ratelimit-policy", format!("{};w={window}", self.requests)));
        }
        if refused && matches!(self.announce, Announce::All | Announce::RetryAfter) {
            headers.push(("retry-after", (left.as_secs() + 1).to_string()));
        }
        headers
    }
}
