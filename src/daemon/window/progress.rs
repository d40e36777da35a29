//! How far the replay is, for people and for metrics.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::Instant;

use super::super::status::Status;
use crate::backfill::plan::Task;
use crate::decode::time::format_datetime;
use crate::ledger::{Gap, Resume, missing_micros};
use crate::pipeline::Point;
use crate::telemetry::{Bar, metrics as names};

/// How often people hear of it.
const WORDS: Duration = Duration::from_secs(10);

/// A pass as people see it.
struct Running {
    began: Instant,
    from: Point,
    to_seq: u64,
    to_time: u64,
    at: Point,
    told: (Instant, u64),
    bar: Bar,
}

/// Shows how far the replay is.
pub(super) struct Shown {
    status: Arc<Status>,
    /// What was missing when most was, and what is missing without the pass that runs (microseconds).
    wanted: (u64, u64),
    running: Option<Running>,
}

impl Shown {
    pub fn new(status: Arc<Status>) -> Self {
        Self {
            status,
            wanted: (0, 0),
            running: None,
        }
    }

    /// The ledger was read.
    pub fn missing(&mut self, gaps: &[Gap]) {
        self.left(missing_micros(gaps.iter().filter(|gap| gap.lost.is_none())));
        self.measure(0);
    }

    /// A pass begins.
    pub fn begins(&mut self, task: &Task, start: &Resume, to_seq: u64) {
        let from = Point {
            seq: start.seq,
            time: start.time,
        };
        let now = Instant::now();
        names::WINDOW_TIME.with([]).set(seconds(start.time));
        tracing::info!(
            relay = %task.first.relay,
            from_seq = start.seq,
            to_seq = (to_seq < u64::MAX).then_some(to_seq),
            from = %format_datetime(start.time),
            to = %format_datetime(task.to_time()),
            "replaying what is missing"
        );
        if task.first.from_time == 0 {
            // Only now it is known where all that the relay retains begins.
            self.left(self.wanted.1 + task.to_time().saturating_sub(start.time));
        }
        self.running = Some(Running {
            began: now,
            from,
            to_seq,
            to_time: task.to_time(),
            at: from,
            told: (now, start.seq),
            bar: Bar::new("replay"),
        });
    }

    /// It has come so far.
    pub fn goes_on(&mut self, head: Option<Point>, now: u64) {
        let (Some(running), Some(head)) = (&mut self.running, head) else {
            return;
        };
        if head.seq > running.at.seq {
            running.at = head;
        }
        let done = running.at.time.saturating_sub(running.from.time);
        names::WINDOW_TIME.with([]).set(seconds(running.at.time));
        running.tell(now);
        self.measure(done);
    }

    /// So much of it is durable.
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    pub fn claimed(at: Point) {
        names::WATERMARK_SEQ.with(["replay"]).set(at.seq as f64);
    }

    /// It has ended, and all of it is durable.
    pub fn ends(&mut self, head: Option<Point>) {
        let Some(running) = self.running.take() else {
            return;
        };
        let at = head.unwrap_or(running.at);
        Self::claimed(at);
        tracing::info!(
            to_seq = at.seq,
            to = %format_datetime(at.time),
            events_per_second = rate(at.seq.saturating_sub(running.from.seq), running.began.elapsed()),
            "replayed"
        );
    }

    fn left(&mut self, left: u64) {
        self.wanted = match left {
            0 => (0, 0),
            left => (self.wanted.0.max(left), left),
        };
    }

    fn measure(&self, done: u64) {
        let (all, left) = self.wanted;
        let ratio = match all {
            0 => 1.0,
            all => 1.0 - seconds(left.saturating_sub(done)) / seconds(all).max(1e-6),
        };
        let ratio = ratio.clamp(0.0, 1.0);
        names::WINDOW_PROGRESS.with([]).set(ratio);
        self.status.replayed(ratio);
        let left = seconds(left.saturating_sub(done));
        let runs = self.running.as_ref().map(|running| running.began.elapsed());
        let eta = eta(left, seconds(done), runs);
        names::WINDOW_ETA.with([]).set(eta);
    }
}

impl Running {
    /// Shows how far it is, and now and then says so.
    fn tell(&mut self, now: u64) {
        let elapsed = self.told.0.elapsed();
        let events_per_second = rate(self.at.seq.saturating_sub(self.told.1), elapsed);
        let share = self.share(now);
        let percent = (share * 1_000.0).round() / 10.0;
        let whole = self.began.elapsed().as_secs_f64();
        let eta_seconds = (share > 0.0).then(|| (whole * (1.0 - share) / share).round());
        let at = format_datetime(self.at.time);
        let eta = eta_seconds.map_or_else(|| "?".to_owned(), in_words);
        self.bar.show(
            share,
            format!("{percent:.1}% {events_per_second} events/s, {eta} left, at {at}"),
        );
        if elapsed >= WORDS {
            let seq = self.at.seq;
            tracing::info!(percent, events_per_second, eta_seconds, %at, seq, "replaying");
            self.told = (Instant::now(), seq);
        }
    }

    /// What part of it is done.
    fn share(&self, now: u64) -> f64 {
        let part = |from: u64, at: u64, to: u64| {
            seconds(at.saturating_sub(from)) / seconds(to.saturating_sub(from)).max(1e-6)
        };
        let share = match self.to_seq {
            u64::MAX => part(self.from.time, self.at.time, self.to_time.min(now)),
            to => part(self.from.seq, self.at.seq, to),
        };
        share.clamp(0.0, 1.0)
    }
}

/// Seconds until what is left is replayed, by a pass that has done so much for so long; NaN where that is not known.
fn eta(left: f64, done: f64, runs: Option<Duration>) -> f64 {
    match runs {
        _ if left == 0.0 => 0.0,
        Some(runs) if done > 0.0 => runs.as_secs_f64() * left / done,
        _ => f64::NAN,
    }
}

/// Seconds as people write them.
fn in_words(seconds: f64) -> String {
    let time = SignedDuration::try_from_secs_f64(seconds);
    format!("{:#}", time.unwrap_or(SignedDuration::MAX))
}

/// Whole ones a second.
fn rate(count: u64, time: Duration) -> u64 {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
    count.saturating_mul(1000) / millis
}

#[expect(clippy::cast_precision_loss, reason = "a gauge")]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_takes_as_long_as_what_was_done() {
        let runs = Some(Duration::from_secs(10));
        assert!((eta(3_600.0, 1_800.0, runs) - 20.0).abs() < 1e-9);
        assert!(eta(0.0, 0.0, None) == 0.0);
        assert!(eta(5.0, 0.0, runs).is_nan() && eta(5.0, 1.0, None).is_nan());
    }
}
