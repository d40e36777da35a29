//! Running medians of the frames' `time`, which is neither monotonic nor to be trusted.

use std::collections::VecDeque;

/// Samples of the median that the ledger's times are.
const LEDGER_SAMPLES: usize = 15;
/// Samples of the median that our clock is compared with.
pub(crate) const CLOCK_SAMPLES: usize = 100;

/// The latest times of a stream.
#[derive(Debug, Default)]
pub(crate) struct Times {
    latest: VecDeque<u64>,
    median: u64,
}

impl Times {
    /// Notes the time of a frame that came at `now` (both in microseconds).
    pub fn sample(&mut self, time: u64, now: u64) {
        if self.latest.len() >= CLOCK_SAMPLES {
            self.latest.pop_front();
        }
        self.latest.push_back(time);
        let recent = self.latest.len().saturating_sub(LEDGER_SAMPLES);
        self.median = median(self.latest.iter().skip(recent)).min(now);
    }

    /// The running median, never later than the receipt of the frames.
    pub fn median(&self) -> u64 {
        self.median
    }

    /// Whether there are as many samples as are ever kept.
    pub fn full(&self) -> bool {
        self.latest.len() >= CLOCK_SAMPLES
    }

    /// By how much the median of the last 100 frames (and at least `samples`) is ahead of our clock, if it is more than
    /// `allowed` (microseconds): then it is our clock that is wrong.
    pub fn ahead_of(&self, now: u64, allowed: u64, samples: usize) -> Option<u64> {
        if self.latest.len() < samples {
            return None;
        }
        median(self.latest.iter())
            .checked_sub(now)
            .filter(|ahead| *ahead > allowed)
    }
}

fn median<'a>(times: impl Iterator<Item = &'a u64>) -> u64 {
    let mut times: Vec<u64> = times.copied().collect();
    let middle = times.len() / 2;
    if times.is_empty() {
        return 0;
    }
    *times.select_nth_unstable(middle).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_liar_moves_nothing() {
        let mut times = Times::default();
        for n in 0..100 {
            times.sample(if n % 10 == 0 { u64::MAX } else { 1000 + n }, 5000);
        }
        assert!(
            (1090..=1100).contains(&times.median()),
            "{}",
            times.median()
        );
        assert_eq!(times.ahead_of(2000, 0, CLOCK_SAMPLES), None);
    }

    #[test]
    fn a_clock_behind_everyone_is_noticed() {
        let mut times = Times::default();
        let relay = 600_000_000;
        for n in 0..99 {
            times.sample(relay + n, 0);
            assert_eq!(times.ahead_of(0, 60_000_000, CLOCK_SAMPLES), None);
        }
        times.sample(relay, 0);
        assert!(times.ahead_of(0, 60_000_000, CLOCK_SAMPLES).is_some());
        assert_eq!(times.ahead_of(relay, 60_000_000, CLOCK_SAMPLES), None);
        assert_eq!(times.median(), 0, "never later than the receipt");
    }
}
