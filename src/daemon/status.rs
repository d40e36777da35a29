//! What the daemon says of itself to `/readyz`.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::api::DaemonStatus;

/// The rate is that since so many measurements ago.
const MEASUREMENTS: usize = 10;
/// Of less than this many seconds no rate is made.
const SHORTEST: f64 = 0.9;

/// Why ingestion pauses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pause {
    /// Too many frames of many DIDs fail.
    Faults,
    /// Our clock is behind the times of the frames.
    Clock {
        /// By so much.
        ahead_seconds: u64,
    },
    /// The store was away, and what it acknowledged last may be lost.
    Store,
}

impl Pause {
    /// Every label in metrics.
    pub const REASONS: [&'static str; 3] = ["faults", "clock", "store"];

    /// The label in metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Faults => "faults",
            Self::Clock { .. } => "clock",
            Self::Store => "store",
        }
    }
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Faults => f.write_str(
                "too many frames of many repositories can't be read; they are read again after the pause, and what fails \
                 then is quarantined",
            ),
            Self::Store => f.write_str(
                "the database was away, and a power cut may have taken what it acknowledged last; that is read again once it \
                 answers",
            ),
            Self::Clock { ahead_seconds } => write!(
                f,
                "the frames' times are {ahead_seconds} s ahead of this machine's clock: set the clock right"
            ),
        }
    }
}

/// The state of the live stream, as others see it.
#[derive(Debug, Default)]
pub struct Status {
    state: Mutex<State>,
    newest: AtomicU64,
    frames: AtomicU64,
    /// How many frames had come by then, oldest first.
    measured: Mutex<VecDeque<(Instant, u64)>>,
}

#[derive(Debug, Default)]
struct State {
    relay: Option<String>,
    trouble: Option<String>,
    pause: Option<Pause>,
    replayed: Option<f64>,
}

impl Status {
    /// The relay is connected.
    pub fn connected(&self, relay: &str) {
        let mut state = self.lock();
        state.relay = Some(relay.to_owned());
        state.trouble = None;
    }

    /// No relay is connected, for this reason.
    pub fn disconnected(&self, trouble: String) {
        let mut state = self.lock();
        state.relay = None;
        state.trouble = Some(trouble);
    }

    /// Ingestion pauses, or goes on.
    pub fn pause(&self, pause: Option<Pause>) {
        self.lock().pause = pause;
    }

    /// Whether ingestion pauses.
    pub fn is_paused(&self) -> bool {
        self.lock().pause.is_some()
    }

    /// What part of the window that was missing was replayed (0 to 1).
    pub fn replayed(&self, share: f64) {
        self.lock().replayed = Some(share);
    }

    /// What part of the window that was missing was replayed (0 to 1); `None` where that is another worker's matter.
    pub fn replay(&self) -> Option<f64> {
        self.lock().replayed
    }

    /// A frame of this time (microseconds) came.
    pub fn newest(&self, time: u64) {
        self.newest.fetch_max(time, Ordering::Relaxed);
    }

    /// So many frames came so far; may trail by some.
    pub fn read(&self, frames: u64) {
        self.frames.store(frames, Ordering::Relaxed);
    }

    /// How many frames came so far.
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Notes how many frames came by now, for the rate; to be called each second.
    pub fn measure(&self) {
        let measured = self.measured.lock();
        let mut measured = measured.unwrap_or_else(PoisonError::into_inner);
        measured.push_back((Instant::now(), self.frames()));
        while measured.len() > MEASUREMENTS {
            measured.pop_front();
        }
    }

    /// The newest time of a frame, in microseconds; 0 before the first.
    pub fn newest_time(&self) -> u64 {
        self.newest.load(Ordering::Relaxed)
    }

    /// The relay that is connected.
    pub fn relay(&self) -> Option<String> {
        self.lock().relay.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DaemonStatus for Status {
    fn not_ready(&self) -> Vec<String> {
        let state = self.lock();
        let mut reasons = Vec::new();
        if let Some(pause) = &state.pause {
            reasons.push(format!("ingestion pauses: {pause}"));
        }
        if state.relay.is_none() {
            let why = state.trouble.as_deref().unwrap_or("connecting");
            reasons.push(format!("the relay is not connected: {why}"));
        }
        reasons
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn frames_per_second(&self) -> Option<f64> {
        let measured = self.measured.lock();
        let (then, before) = *measured.unwrap_or_else(PoisonError::into_inner).front()?;
        let seconds = then.elapsed().as_secs_f64();
        let frames = self.frames().saturating_sub(before);
        (seconds > SHORTEST).then(|| frames as f64 / seconds)
    }
}
