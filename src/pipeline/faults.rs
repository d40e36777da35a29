//! Faults that hit everyone are ours: when too many frames of many DIDs fail, something is wrong here or at the relay, and
//! quarantining all of them would bury the network. Ingestion pauses once and reads again from the watermark; what fails again
//! is quarantined, so that nobody can stop it with bad frames.
//!
//! A failing frame is first held as a suspect, its chunk unacknowledged, until enough other frames have been judged.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// When failing frames mean that the fault is not theirs.
#[derive(Debug, Clone)]
pub struct FaultLimits {
    /// Frames that are looked at together.
    pub window: usize,
    /// Share of them (0 to 1) that must fail.
    pub share: f64,
    /// DIDs that they must be of, so that one repository can't cause a pause.
    pub min_dids: usize,
    /// How long ingestion pauses. Another pause comes at the earliest six times as long after it.
    pub pause: Duration,
    /// How long a suspect is held at most while nothing more is judged.
    pub hold: Duration,
}

impl Default for FaultLimits {
    fn default() -> Self {
        Self {
            window: 1000,
            share: 0.05,
            min_dids: 10,
            pause: Duration::from_secs(600),
            hold: Duration::from_secs(5),
        }
    }
}

/// What the lanes found lately.
#[derive(Debug)]
pub struct Faults {
    limits: FaultLimits,
    state: Mutex<State>,
    tripped: Notify,
}

#[derive(Debug, Default)]
struct State {
    recent: VecDeque<Judged>,
    frames: usize,
    failed: usize,
    judged: u64,
    tripped: bool,
    /// Until then every failure is quarantined at once: the second reading.
    trusting_until: Option<Instant>,
}

#[derive(Debug)]
struct Judged {
    frames: usize,
    failed: Vec<u64>,
}

/// When a frame became a suspect.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    judged: u64,
    at: Instant,
}

/// What becomes of a suspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not enough was judged since.
    Wait,
    /// The fault is the frame's own: quarantine it.
    Quarantine,
    /// The fault hits everyone: forget it, it is read again.
    Reread,
}

impl Faults {
    /// Nothing found yet.
    pub fn new(limits: FaultLimits) -> Self {
        Self {
            limits,
            state: Mutex::default(),
            tripped: Notify::new(),
        }
    }

    /// The limits.
    pub fn limits(&self) -> &FaultLimits {
        &self.limits
    }

    /// Notes a chunk of `frames` of which those of the DIDs with these hashes failed.
    pub fn judge(&self, frames: usize, failed: Vec<u64>) {
        let mut state = self.lock();
        state.judged += frames as u64;
        state.frames += frames;
        state.failed += failed.len();
        state.recent.push_back(Judged { frames, failed });
        while let Some(oldest) = state.recent.front()
            && state.frames - oldest.frames >= self.limits.window
        {
            let (frames, failed) = (oldest.frames, oldest.failed.len());
            state.recent.pop_front();
            state.frames -= frames;
            state.failed -= failed;
        }
        if !state.tripped && !state.trusting() && self.hits_everyone(&state) {
            state.tripped = true;
            self.tripped.notify_waiters();
        }
    }

    /// Marks the moment at which a frame failed.
    pub fn mark(&self) -> Mark {
        Mark {
            judged: self.lock().judged,
            at: Instant::now(),
        }
    }

    /// What becomes of a frame that failed at `mark`.
    pub fn verdict(&self, mark: Mark) -> Verdict {
        let state = self.lock();
        if state.tripped {
            Verdict::Reread
        } else if state.trusting()
            || state.judged - mark.judged >= self.limits.window as u64
            || mark.at.elapsed() >= self.limits.hold
        {
            Verdict::Quarantine
        } else {
            Verdict::Wait
        }
    }

    /// Whether ingestion has to pause now.
    pub fn tripped(&self) -> bool {
        self.lock().tripped
    }

    /// Resolves when ingestion has to pause.
    pub async fn wait(&self) {
        loop {
            let notified = self.tripped.notified();
            if self.tripped() {
                return;
            }
            notified.await;
        }
    }

    /// The pause is over and the stream is read again. If it was for these faults, what fails now is quarantined.
    pub fn resume(&self, second_reading: bool) {
        let mut state = self.lock();
        let until = second_reading.then(|| Instant::now() + 6 * self.limits.pause);
        let (judged, trusting_until) = (state.judged, until.or(state.trusting_until));
        *state = State {
            judged,
            trusting_until,
            ..State::default()
        };
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of a thousand frames")]
    fn hits_everyone(&self, state: &State) -> bool {
        // So many of a window decide it, whatever its other frames are: no suspect is let go before.
        let looked_at = state.frames.max(self.limits.window);
        if state.failed as f64 <= self.limits.share * looked_at as f64 {
            return false;
        }
        let dids: HashSet<u64> = state
            .recent
            .iter()
            .flat_map(|one| one.failed.clone())
            .collect();
        dids.len() >= self.limits.min_dids
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn trusting(&self) -> bool {
        self.trusting_until
            .is_some_and(|until| Instant::now() < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults() -> Faults {
        Faults::new(FaultLimits {
            hold: Duration::from_secs(3600),
            ..FaultLimits::default()
        })
    }

    #[test]
    fn few_failures_are_quarantined_when_enough_was_judged() {
        let faults = faults();
        faults.judge(64, vec![1]);
        let mark = faults.mark();
        assert_eq!(faults.verdict(mark), Verdict::Wait);
        for _ in 0..16 {
            faults.judge(64, vec![]);
        }
        assert_eq!(faults.verdict(mark), Verdict::Quarantine);
    }

    #[test]
    fn many_failures_of_many_dids_pause_once() {
        let faults = faults();
        let mark = faults.mark();
        for did in 0..20 {
            faults.judge(64, vec![did; 4]);
        }
        assert!(faults.tripped());
        assert_eq!(faults.verdict(mark), Verdict::Reread);
        faults.resume(true);
        for did in 0..40 {
            faults.judge(64, vec![did; 4]);
        }
        assert!(!faults.tripped(), "the second reading goes on");
        assert_eq!(faults.verdict(faults.mark()), Verdict::Quarantine);
    }

    #[test]
    fn a_pause_waits_for_no_more_frames_than_decide_it() {
        let faults = faults();
        faults.judge(50, (0..50).collect());
        assert!(!faults.tripped());
        faults.judge(1, vec![50]);
        assert!(faults.tripped(), "51 of 1000 failed, whatever comes");
    }

    #[test]
    fn one_repository_pauses_nobody() {
        let faults = faults();
        for _ in 0..40 {
            faults.judge(64, vec![7; 32]);
        }
        assert!(!faults.tripped());
    }

    #[test]
    fn a_suspect_is_not_held_for_ever() {
        let faults = Faults::new(FaultLimits {
            hold: Duration::ZERO,
            ..FaultLimits::default()
        });
        assert_eq!(faults.verdict(faults.mark()), Verdict::Quarantine);
    }
}
