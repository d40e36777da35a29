//! A pass: one reading of a part of a relay's past, for the slots that miss it.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::times::Times;
use super::{End, Reader, Stop};
use crate::backfill::limits::Limits;
use crate::backfill::plan::Scope;
use crate::ledger::Resume;
use crate::pipeline::Point;
use crate::relay::{FailedAttempt, Lost};
use crate::slot::SlotSet;

/// Losses of the connection, and failures to connect, with nothing read between them, after which a pass is given up.
const PATIENCE: u32 = 5;
/// Once no frame has come for so long, the relay is asked again. If none comes then either, a pass without an end is over: it has
/// come to the head of a quiet relay.
const QUIET: Duration = Duration::from_secs(5);
/// A pass that has an end is given up then.
const STALLED: Duration = Duration::from_secs(60);
/// Frames of so short ago are of the relay's head (microseconds).
const AT_THE_HEAD: u64 = 60_000_000;
/// A pace is not made up for when it was missed for longer than this.
const CATCH_UP: Duration = Duration::from_secs(1);

/// What a pass is for.
#[derive(Debug)]
pub(crate) struct Pass {
    /// Host of the relay.
    pub relay: String,
    /// Where it begins.
    pub start: Resume,
    /// What is read, and for which slots; others may fill some of it meanwhile.
    pub scope: watch::Receiver<Scope>,
    /// What has no end is over once frames are of a later time than this (microseconds).
    pub until: u64,
    /// How fast it may go.
    pub pace: Pace,
}

/// A pass that is being read.
#[derive(Debug)]
pub(super) struct Passing {
    pass: Pass,
    /// What is read, as it was last known.
    scope: Scope,
    /// Losses since something was read, and what was said of the last.
    losses: (u32, String),
    /// Up to where it was read when the connection was last lost.
    read: u64,
    /// Up to where it was read when no frame came any more.
    quiet: Option<u64>,
}

impl From<Pass> for Passing {
    fn from(mut pass: Pass) -> Self {
        let scope = pass.scope.borrow_and_update().clone();
        Self {
            read: pass.start.seq,
            scope,
            losses: (0, String::new()),
            quiet: None,
            pass,
        }
    }
}

impl Passing {
    /// Whether all was routed that it is for; `times` are those of what comes, `now` is the time (microseconds).
    fn is_over(&self, routed: Point, times: &Times, now: impl FnOnce() -> u64) -> bool {
        if routed.seq >= self.scope.end() || (self.is_open() && routed.time > self.pass.until) {
            return true;
        }
        // It has come to the head, which has not come to these numbers, nor will it.
        let reached = times.reached();
        times.is_sure() && reached > self.pass.until && reached + AT_THE_HEAD > now()
    }

    /// Whether some slots miss all up to now.
    fn is_open(&self) -> bool {
        self.scope.end() == u64::MAX
    }

    /// Whether a tail is no more than where the pass begins, unseen.
    pub fn begins_at(&self, tail: &Resume) -> bool {
        tail.seq == self.pass.start.seq && !self.pass.start.anchored
    }

    /// How long no frame may come behind this number.
    pub fn patience(&self, routed: u64) -> Duration {
        match self.is_open() || self.quiet != Some(routed) {
            true => QUIET,
            false => STALLED,
        }
    }

    /// What is done since no frame came for so long behind this number: a relay that broke its playback off and waits for new
    /// frames serves the rest when it is asked again.
    pub fn is_quiet(&mut self, routed: u64) -> Stop {
        match self.quiet.replace(routed) == Some(routed) {
            false => Stop::AskAgain,
            true if self.is_open() => Stop::Passed,
            true => Stop::Stalled,
        }
    }

    /// Learns what others have filled.
    pub fn learn(&mut self) {
        let scope = self.pass.scope.borrow_and_update();
        if *scope != self.scope {
            self.scope = scope.clone();
        }
    }

    /// Counts a failure to connect; whether there were too many.
    pub fn failed(&mut self, attempt: &FailedAttempt) -> bool {
        self.losses = (self.losses.0 + 1, attempt.detail.clone());
        self.losses.0 >= PATIENCE
    }

    pub fn lost(&mut self, lost: &Lost) {
        self.losses = (
            self.losses.0 + 1,
            format!("{}: {}", lost.reason, lost.detail),
        );
    }

    /// What is not claimed is read again.
    pub fn go_back_to(&mut self, claimed: Option<Point>) {
        let start = &mut self.pass.start;
        if let Some(at) = claimed.filter(|at| at.seq > start.seq) {
            (start.seq, start.time, start.anchored) = (at.seq, at.time, true);
        }
    }
}

/// Resolves when others have filled some of what a pass is for.
pub(super) async fn news(passing: Option<&mut Passing>) {
    let changed = match passing {
        Some(passing) => passing.pass.scope.changed().await,
        None => std::future::pending().await,
    };
    if changed.is_err() {
        // Nobody will tell any more.
        std::future::pending().await
    }
}

impl Reader {
    /// Goes on where the pass begins.
    pub(super) fn go_on_with_the_pass(&mut self) {
        let Some(passing) = &self.passing else { return };
        let start = passing.pass.start.clone();
        self.parts.slots = passing.scope.slots_at(start.seq + 1);
        self.parts.router.set_slots(self.parts.slots);
        self.tails.insert(passing.pass.relay.clone(), start);
    }

    /// Takes from now on what is wanted of the frame that was just judged, in a span of its own, and no faster than the pace.
    pub(super) async fn keep_to_the_pass(
        &mut self,
        seq: Option<u64>,
        shutdown: &CancellationToken,
    ) -> Result<(), Stop> {
        let Some(passing) = &mut self.passing else {
            return Ok(());
        };
        let pause = passing.pass.pace.pause();
        // A number that the stream has not come to yet is not believed.
        let Some(current) = &self.current else {
            return Ok(());
        };
        let at = current.continuity.routed();
        let (end, start) = (passing.scope.end(), passing.pass.start.seq);
        if at > end {
            self.come_to(end).await;
            return Err(Stop::Passed);
        }
        let wanted = passing.scope.slots_at(at.max(start + 1));
        // Whether it is the first behind numbers that were skipped shows only later: nobody ahead may lack it then.
        let ahead = match seq.is_none_or(|seq| seq > at) {
            true => passing.scope.slots_behind(at.max(start)),
            false => SlotSet::default(),
        };
        if let Some(pause) = pause {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return Err(Stop::Shutdown),
            }
        }
        if wanted != self.parts.slots {
            self.change_slots(wanted).await;
        }
        self.parts.router.set_slots(wanted.union(ahead));
        Ok(())
    }

    /// The stream has gone on beyond the end of the pass: what was routed is all up to there.
    async fn come_to(&mut self, end: u64) {
        let Some(passing) = &self.passing else { return };
        let wanted = passing.scope.slots_at(end);
        if self.parts.router.routed().seq >= end || wanted.is_empty() {
            return;
        }
        if wanted != self.parts.slots {
            self.change_slots(wanted).await;
        }
        let time = self.times.reached();
        self.parts.router.advance(Point { seq: end, time });
    }

    /// A chunk and a span are for the same slots: what is open goes first.
    async fn change_slots(&mut self, wanted: SlotSet) {
        self.flush().await;
        self.parts.slots = wanted;
        self.parts.router.set_slots(wanted);
        let from = self.parts.router.routed();
        if let Some(current) = &self.current {
            self.progress.begin(self.origin(current), from);
        }
    }

    /// Whether all that the pass is for was routed.
    pub(super) fn pass_is_over(&self) -> bool {
        let routed = self.parts.router.routed();
        let now = || self.parts.clock.now_micros();
        let over = |passing: &super::Passing| passing.is_over(routed, &self.times, now);
        self.passing.as_ref().is_some_and(over)
    }

    /// Why the pass is given up, if it is: the relay ends the connection again and again before anything was read.
    pub(super) fn gives_up(&mut self) -> Option<End> {
        let passing = self.passing.as_mut()?;
        let routed = self.parts.router.routed().seq;
        if routed > passing.read {
            passing.read = routed;
            passing.losses.0 = 0;
        }
        (passing.losses.0 >= PATIENCE).then(|| End::Failed(passing.losses.1.clone()))
    }
}

/// How fast a pass may go.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    limits: Limits,
    /// Frames a second; `None`: as fast as the lanes take them.
    rate: Option<f64>,
    began: Instant,
    taken: f64,
}

impl Pace {
    /// As `backfill.max_events_per_second` says it now and later.
    pub fn new(limits: Limits) -> Self {
        let mut pace = Self {
            rate: None,
            began: Instant::now(),
            taken: 0.0,
            limits,
        };
        pace.keep_to(pace.limits.now().max_events_per_second);
        pace
    }

    /// So many frames a second from now on; 0 is as fast as can be.
    fn keep_to(&mut self, rate: u32) {
        let rate = (rate > 0).then(|| f64::from(rate));
        if self.rate != rate {
            self.rate = rate;
            (self.began, self.taken) = (Instant::now(), 0.0);
        }
    }

    /// Counts a frame; how long to wait before it.
    fn pause(&mut self) -> Option<Duration> {
        if let Some(keys) = self.limits.changed() {
            self.keep_to(keys.max_events_per_second);
        }
        let rate = self.rate?;
        self.taken += 1.0;
        let due = self.began + Duration::from_secs_f64(self.taken / rate);
        let now = Instant::now();
        if now > due + CATCH_UP {
            (self.began, self.taken) = (now, 0.0);
        }
        // Timers are no finer than this.
        let early = due.saturating_duration_since(now);
        (early >= Duration::from_millis(2)).then_some(early)
    }
}
