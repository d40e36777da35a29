//! What trails: values that count only once they are old enough.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Values in the order in which they were noted; each is due when it is `lag` old.
#[derive(Debug)]
pub(super) struct Trail<T> {
    lag: Duration,
    waiting: VecDeque<(Instant, T)>,
}

impl<T> Trail<T> {
    /// With no lag a value is due at once.
    pub fn new(lag: Duration) -> Self {
        Self {
            lag,
            waiting: VecDeque::new(),
        }
    }

    /// Notes what is true from now on.
    pub fn note(&mut self, value: T) {
        self.waiting.push_back((Instant::now(), value));
    }

    /// Takes the newest value that is due; the ones before it are forgotten.
    pub fn due(&mut self) -> Option<T> {
        let now = Instant::now();
        let mut newest = None;
        while let Some((noted, _)) = self.waiting.front()
            && now.saturating_duration_since(*noted) >= self.lag
        {
            newest = self.waiting.pop_front().map(|(_, value)| value);
        }
        newest
    }

    /// When the oldest value that is `wanted` is due.
    pub fn due_at(&self, wanted: impl Fn(&T) -> bool) -> Option<Instant> {
        let first = self.waiting.iter().find(|(_, value)| wanted(value));
        first.and_then(|(noted, _)| noted.checked_add(self.lag))
    }

    /// Forgets all that waits.
    pub fn clear(&mut self) {
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_value_is_due_when_it_is_old_enough_and_not_before() {
        let mut trail = Trail::new(3 * SECOND);
        trail.note(1);
        tokio::time::advance(SECOND).await;
        trail.note(2);
        tokio::time::advance(2 * SECOND - Duration::from_millis(1)).await;
        assert_eq!(trail.due(), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(trail.due(), Some(1));
        assert_eq!(trail.due(), None, "it is taken once");
        trail.note(3);
        assert_eq!(
            trail.due_at(|at| *at == 3),
            Some(Instant::now() + 3 * SECOND)
        );
        tokio::time::advance(9 * SECOND).await;
        assert_eq!(trail.due(), Some(3), "the newest of those that are due");
        assert_eq!(trail.due(), None);
    }

    #[test]
    fn without_a_lag_all_is_due_at_once() {
        let mut trail = Trail::new(Duration::ZERO);
        trail.note(1);
        trail.note(2);
        assert_eq!(trail.due(), Some(2));
        assert_eq!(trail.due_at(|_| true), None);
    }
}
