//! The time that a stream has come to: a running median of the frames' `time`, which is neither monotonic nor to be trusted.

use std::collections::VecDeque;

/// Samples of the median that the ledger's times are.
const LEDGER_SAMPLES: usize = 15;
/// After such a pause in what comes (microseconds) the median begins anew: on a quiet stream it would lag by hours.
const PAUSE: u64 = 60_000_000;
/// Microseconds between two samples, most often, where frames are rare.
const SPARSE: u64 = 10_000_000;
/// Samples of the median that our clock is compared with.
pub(crate) const CLOCK_SAMPLES: usize = 100;

/// The latest times of a stream.
#[derive(Debug, Default)]
pub(crate) struct Times {
    latest: VecDeque<u64>,
    reached: u64,
    /// The latest of the last few.
    newest: u64,
    sparse: bool,
    /// When the last one came (microseconds), and how many came without a pause.
    came: (u64, usize),
}

impl Times {
    /// Notes the time of a frame that came at `now` (both in microseconds).
    pub fn sample(&mut self, time: u64, now: u64) {
        if self.latest.len() >= CLOCK_SAMPLES {
            self.latest.pop_front();
        }
        self.latest.push_back(time);
        let together = match now.saturating_sub(self.came.0) > PAUSE {
            true => 1,
            false => self.came.1 + 1,
        };
        self.came = (now, together);
        let recent = self
            .latest
            .len()
            .saturating_sub(together.min(LEDGER_SAMPLES));
        let recent = || self.latest.iter().skip(recent);
        let steps: Vec<u64> = recent()
            .zip(recent().skip(1))
            .map(|(a, b)| a.abs_diff(*b))
            .collect();
        self.sparse = steps.is_empty() || median(steps.iter()) > SPARSE;
        self.newest = recent().copied().max().unwrap_or_default().min(now);
        self.reached = match self.sparse {
            true => self.newest,
            false => median(recent()).min(now),
        };
    }

    /// Begins anew with the times of frames that came at `now`, which may be far from those before.
    pub fn begin_anew(&mut self, times: impl Iterator<Item = u64>, now: u64) {
        let mut is_first = true;
        for time in times {
            if std::mem::take(&mut is_first) {
                self.came = (0, 0);
            }
            self.sample(time, now);
        }
    }

    /// Up to when the stream was read, never later than the receipt of the frames: the running median; where frames are rare,
    /// and it would lag by hours, the latest of the last few.
    pub fn reached(&self) -> u64 {
        self.reached
    }

    /// The latest time of the last few samples, never later than their receipt.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether enough frames came together that a few that lie do not move it.
    pub fn is_sure(&self) -> bool {
        !self.sparse && self.came.1 >= LEDGER_SAMPLES
    }

    /// Whether frames are so rare that each one counts, as in the past of a small host.
    pub fn sparse(&self) -> bool {
        self.sparse
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
            (1090..=1100).contains(&times.reached()),
            "{}",
            times.reached()
        );
        assert_eq!(times.ahead_of(2000, 0, CLOCK_SAMPLES), None);
    }

    #[test]
    fn behind_a_jump_the_median_begins_anew() {
        let mut times = Times::default();
        (0..100).for_each(|n| times.sample(1_000 + n, 9_000_000));
        times.begin_anew(std::iter::empty(), 9_000_000);
        assert!(times.reached() < 1_100, "nothing is known of it");
        times.begin_anew([5_000_000, 5_000_010].into_iter(), 9_000_000);
        assert_eq!(times.reached(), 5_000_010);
        times.sample(5_000_020, 9_000_000);
        assert_eq!(times.reached(), 5_000_010);
    }

    #[test]
    fn where_frames_are_rare_the_last_one_counts() {
        const HOUR: u64 = 3_600_000_000;
        let mut times = Times::default();
        for n in 1..50 {
            times.sample(n * HOUR, 100 * HOUR);
            assert_eq!(times.reached(), n * HOUR);
        }
        assert!(times.sparse());
        times.sample(7 * HOUR, 100 * HOUR);
        assert!(
            (40 * HOUR..=49 * HOUR).contains(&times.reached()),
            "an old one moves nothing"
        );
        for n in 0..20 {
            times.sample(60 * HOUR + n, 100 * HOUR);
        }
        assert!(!times.sparse());
        times.sample(90 * HOUR, 100 * HOUR);
        assert!(
            times.reached() < 61 * HOUR,
            "a liar among many moves nothing"
        );
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
        assert_eq!(times.reached(), 0, "never later than the receipt");
    }
}
