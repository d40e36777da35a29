//! When the relay published what: how far behind a daemon is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::RelayServer;

/// How exact lags are.
const STEP: Duration = Duration::from_millis(5);

/// How many numbers were visible when.
pub(super) struct Publications {
    began: Instant,
    points: Mutex<Vec<(f64, usize)>>,
    over: AtomicBool,
}

impl Publications {
    /// From now on.
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            points: Mutex::default(),
            over: AtomicBool::new(false),
        }
    }

    /// Seconds since the beginning.
    pub fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Notes what the relay publishes, until [`end`](Self::end).
    pub fn follow(&self, relay: &RelayServer) {
        while !self.over.load(Ordering::Relaxed) {
            self.note(self.now(), relay.published());
            std::thread::park_timeout(STEP);
        }
    }

    /// Lets [`follow`](Self::follow) return.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    fn points(&self) -> MutexGuard<'_, Vec<(f64, usize)>> {
        self.points.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, at: f64, published: usize) {
        let mut points = self.points();
        if points.last().is_none_or(|(_, last)| *last < published) {
            points.push((at, published));
        }
    }

    /// How long ago the first was published that comes after these; 0 if there is none yet.
    pub fn lag(&self, now: f64, durable: usize) -> f64 {
        let points = self.points();
        let next = points.partition_point(|(_, published)| *published <= durable);
        points.get(next).map_or(0.0, |(at, _)| (now - at).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_is_the_age_of_what_is_next() {
        let publications = Publications::new();
        for (at, published) in [(0.0, 0), (1.0, 10), (1.5, 10), (2.0, 20)] {
            publications.note(at, published);
        }
        for (durable, lag) in [(0, 4.0), (9, 4.0), (10, 3.0), (19, 3.0), (20, 0.0)] {
            assert_eq!(publications.lag(5.0, durable), lag, "{durable} durable");
        }
    }
}
