//! A probe: one short connection to one relay, to see which frames it serves at a cursor and of what time they are.
//!
//! It reads a few frames, as far as the peek goes, and closes the connection with a close handshake. Everything ends: a
//! relay that is quiet gives a probe without frames, one that refuses gives an error once patience is over.

use std::fmt;
use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::connection::Connection;
use super::dial::dial;
use super::printable::printable;
use super::refusal::Refusal;
use super::{DisconnectReason, LONGEST, Lost, RelayOptions, RelayUrl, Signal};
use crate::clock::{Clock, SystemClock};
use crate::decode::time::parse_datetime;
use crate::decode::{self, Kind};

/// Connections that are lost before a frame came, after which the probe ends without one.
const LOSSES: u32 = 3;
/// More doublings than any configured range needs.
const MAX_DOUBLINGS: u32 = 30;

/// How long a probe takes at most. Times are limited to 24 hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeLimits {
    /// Frames that are read, if they come. An odd few make a good median.
    pub frames: usize,
    /// How long the first frame is waited for: a relay that sends none for so long is quiet at the cursor.
    pub first_frame: Duration,
    /// How long the others are waited for after the first.
    pub other_frames: Duration,
    /// Least time between the end of one connection and the start of the next, so that limits on connections are kept.
    pub spacing: Duration,
    /// How long refusals and failed connections are waited out and tried again.
    pub patience: Duration,
}

impl Default for ProbeLimits {
    fn default() -> Self {
        Self {
            frames: 15,
            first_frame: Duration::from_secs(10),
            other_frames: Duration::from_secs(2),
            spacing: Duration::from_millis(250),
            patience: Duration::from_secs(120),
        }
    }
}

impl ProbeLimits {
    fn limited(self) -> Self {
        Self {
            frames: self.frames.max(1),
            first_frame: self.first_frame.min(LONGEST),
            other_frames: self.other_frames.min(LONGEST),
            spacing: self.spacing.min(LONGEST),
            patience: self.patience.min(LONGEST),
        }
    }
}

/// A frame as a probe saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Its number.
    pub seq: u64,
    /// Its `time` in microseconds since the epoch, if it can be read.
    pub time: Option<u64>,
}

/// What a relay says of a cursor instead of, or before, serving it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// `#info` `OutdatedCursor`: it no longer has all that was asked for; what it has follows.
    OutdatedCursor,
    /// Error `FutureCursor`: it has no such number yet.
    FutureCursor,
    /// Another error, made printable.
    Error(String),
}

/// What a probe saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What was asked; `None` is the live head.
    pub cursor: Option<u64>,
    /// The frames whose numbers don't go back, in order; empty if none came.
    pub samples: Vec<Sample>,
    /// Median of their times, never later than their receipt; `None` if there is no time that can be read.
    pub time: Option<u64>,
    /// What the relay said.
    pub notice: Option<Notice>,
    /// Why it ended early, if it did.
    pub lost: Option<Lost>,
}

impl Probe {
    /// Puts together what arrived at `now` (microseconds since the epoch).
    ///
    /// Numbers are read from frames that nobody checked: those that break the order of the most are left out.
    pub fn new(cursor: Option<u64>, arrived: &[Sample], now: u64) -> Self {
        let samples = longest_rise(arrived);
        let mut times: Vec<u64> = samples.iter().filter_map(|sample| sample.time).collect();
        times.sort_unstable();
        // Of two in the middle the later: who takes a time for too late starts too early, which does no harm.
        let median = times.get(times.len() / 2).copied();
        Self {
            cursor,
            samples,
            time: median.map(|time| time.min(now)),
            notice: None,
            lost: None,
        }
    }

    /// The first number.
    pub fn first(&self) -> Option<u64> {
        self.samples.first().map(|sample| sample.seq)
    }

    /// The last number.
    pub fn last(&self) -> Option<u64> {
        self.samples.last().map(|sample| sample.seq)
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first(), self.last()) {
            (Some(first), Some(last)) => write!(f, "frames {first} to {last}")?,
            _ => f.write_str("no frame")?,
        }
        if let Some(time) = self.time {
            write!(f, " of {}", decode::time::format_datetime(time))?;
        }
        match &self.notice {
            Some(Notice::OutdatedCursor) => f.write_str(", OutdatedCursor")?,
            Some(Notice::FutureCursor) => f.write_str(", FutureCursor")?,
            Some(Notice::Error(error)) => write!(f, ", error {error}")?,
            None => {}
        }
        match &self.lost {
            Some(lost) => write!(f, ", lost: {lost}"),
            None => Ok(()),
        }
    }
}

/// The longest part of `arrived` whose numbers don't go back. Quadratic, for a handful.
fn longest_rise(arrived: &[Sample]) -> Vec<Sample> {
    let mut rises: Vec<Vec<Sample>> = Vec::with_capacity(arrived.len());
    for sample in arrived {
        let before = rises
            .iter()
            .filter(|rise| rise.last().is_some_and(|last| last.seq <= sample.seq))
            .max_by_key(|rise| rise.len());
        let mut rise = before.cloned().unwrap_or_default();
        rise.push(*sample);
        rises.push(rise);
    }
    rises
        .into_iter()
        .max_by_key(|rise| rise.len())
        .unwrap_or_default()
}

/// Why a relay could not be probed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{relay} can't be asked: {detail}")]
pub struct ProbeError {
    /// The relay, as in its URL.
    pub relay: String,
    /// One word.
    pub reason: DisconnectReason,
    /// One printable sentence.
    pub detail: String,
    /// The HTTP status, if it answered with one.
    pub status: Option<u16>,
    /// The wait that the relay asked for, or that is due before it is tried again.
    pub retry_in: Duration,
}

/// Probes one relay, one connection at a time.
#[derive(Debug)]
pub struct Prober {
    options: RelayOptions,
    relay: RelayUrl,
    limits: ProbeLimits,
    not_before: Instant,
}

impl Prober {
    /// A prober of `relay`; the addresses in `options` are not looked at.
    pub fn new(mut options: RelayOptions, relay: RelayUrl, limits: ProbeLimits) -> Self {
        options.limit_times();
        Self {
            options,
            relay,
            limits: limits.limited(),
            not_before: Instant::now(),
        }
    }

    /// The relay that is asked.
    pub fn relay(&self) -> &RelayUrl {
        &self.relay
    }

    /// Looks at what the relay serves at `cursor` (`None`: at the live head). Waits out the spacing and, within patience,
    /// refusals. Cancel safe, but then the connection is dropped without a close handshake.
    ///
    /// # Errors
    /// If the relay can't be reached or refuses for longer than patience lasts.
    pub async fn probe(&mut self, cursor: Option<u64>) -> Result<Probe, ProbeError> {
        let deadline = Instant::now() + self.limits.patience;
        let mut failures = 0;
        loop {
            sleep_until(self.not_before).await;
            self.not_before = Instant::now() + self.limits.spacing;
            let attempt = self.attempt(cursor).await;
            let now = Instant::now();
            self.not_before = now + self.limits.spacing;
            let refusal = match attempt {
                Ok(probe) => match probe.lost.as_ref().filter(|_| failures + 1 < LOSSES) {
                    Some(lost) if probe.samples.is_empty() && !lost.poison => {
                        Refusal::new(lost.reason, lost.detail.clone())
                    }
                    _ => return Ok(probe),
                },
                Err(refusal) => refusal,
            };
            let wait = self
                .backoff(failures)
                .max(refusal.asked.unwrap_or_default());
            failures += 1;
            tracing::debug!(
                relay = %self.relay,
                reason = %refusal.reason,
                detail = refusal.detail,
                wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                "a probe failed",
            );
            self.not_before = self.not_before.max(now + wait);
            if now + wait > deadline {
                return Err(self.error(refusal, wait));
            }
        }
    }

    /// Between half and all of `backoff_min`, doubled for each failure before.
    fn backoff(&self, failures: u32) -> Duration {
        let full = self
            .options
            .backoff_min
            .saturating_mul(1 << failures.min(MAX_DOUBLINGS))
            .min(self.options.backoff_max);
        full.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    fn error(&self, refusal: Refusal, retry_in: Duration) -> ProbeError {
        ProbeError {
            relay: self.relay.to_string(),
            reason: refusal.reason,
            detail: refusal.detail,
            status: refusal.status,
            retry_in,
        }
    }

    async fn attempt(&self, cursor: Option<u64>) -> Result<Probe, Refusal> {
        let socket = dial(&self.options, &self.relay, cursor).await?;
        let mut connection = Connection::new(socket, &self.options);
        let mut seen = Seen::default();
        let mut deadline = Instant::now() + self.limits.first_frame;
        while seen.arrived.len() < self.limits.frames && !seen.is_over() {
            let signal = poll_fn(|cx| connection.poll_signal(cx));
            match timeout_at(deadline, signal).await {
                Ok(Signal::Frame(frame)) => {
                    let was_empty = seen.arrived.is_empty();
                    seen.take(&frame);
                    if was_empty && !seen.arrived.is_empty() {
                        deadline = Instant::now() + self.limits.other_frames;
                    }
                }
                Ok(Signal::Lost(lost)) => seen.lost = Some(lost),
                Err(_) => break,
            }
        }
        if seen.lost.is_none() {
            connection.close().await;
        }
        let mut probe = Probe::new(cursor, &seen.arrived, SystemClock.now_micros());
        (probe.notice, probe.lost) = (seen.notice, seen.lost);
        Ok(probe)
    }
}

#[derive(Debug, Default)]
struct Seen {
    arrived: Vec<Sample>,
    notice: Option<Notice>,
    error: bool,
    lost: Option<Lost>,
}

impl Seen {
    fn is_over(&self) -> bool {
        self.error || self.lost.is_some()
    }

    fn take(&mut self, frame: &Bytes) {
        let peek = decode::peek(frame);
        match peek.kind {
            Kind::Info if decode::notice(frame) == Some("OutdatedCursor") => {
                self.notice = Some(Notice::OutdatedCursor);
            }
            Kind::Error => {
                self.error = true;
                self.notice = Some(match decode::notice(frame) {
                    Some("FutureCursor") => Notice::FutureCursor,
                    other => Notice::Error(printable(other.unwrap_or_default())),
                });
            }
            _ => {}
        }
        if let Some(seq) = peek.seq {
            let time = peek.time.and_then(parse_datetime);
            self.arrived.push(Sample { seq, time });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(rows: &[(u64, u64)]) -> Vec<Sample> {
        let sample = |&(seq, time)| Sample {
            seq,
            time: (time > 0).then_some(time),
        };
        rows.iter().map(sample).collect()
    }

    #[test]
    fn a_number_that_lies_does_not_count() {
        let probe = Probe::new(
            Some(99),
            &samples(&[(100, 7), (101, 8), (999_999, 9), (102, 10), (103, 11)]),
            100,
        );
        assert_eq!((probe.first(), probe.last()), (Some(100), Some(103)));
        let first_lies = Probe::new(None, &samples(&[(999_999, 7), (100, 8), (101, 9)]), 100);
        assert_eq!(
            (first_lies.first(), first_lies.last()),
            (Some(100), Some(101))
        );
        // Nothing says which of two lies; a frame that comes twice is no liar.
        assert_eq!(
            Probe::new(None, &samples(&[(5, 1), (5, 1)]), 9)
                .samples
                .len(),
            2
        );
        assert_eq!(Probe::new(None, &[], 9).first(), None);
    }

    #[test]
    fn the_time_is_a_median_and_not_of_the_future() {
        let time = |rows: &[(u64, u64)]| Probe::new(None, &samples(rows), 50).time;
        assert_eq!(time(&[(1, 10), (2, 900), (3, 12)]), Some(12));
        assert_eq!(time(&[(1, 0), (2, 11), (3, 0), (4, 13)]), Some(13));
        assert_eq!(time(&[(1, 60), (2, 61), (3, 62)]), Some(50));
        assert_eq!(time(&[(1, 0)]), None);
    }
}
