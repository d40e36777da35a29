//! The live stream: from the relay's socket to the lanes, over disconnects, jumps, poison and pauses.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::metrics::StreamMetrics;
use super::recorder::Recorder;
use super::status::{Pause, Status};
use super::times::Times;
use crate::clock::Clock;
use crate::decode::{self, Decoder, Event, Kind, Peek};
use crate::ledger::continuity::{Continuity, Step};
use crate::ledger::{self, Resume};
use crate::pipeline::{Faults, Origin, Point, Progress, Router, Source};
use crate::relay::{DisconnectReason, FailedAttempt, Lost, RelayUrl, Signal, Subscription};
use crate::slot::SlotSet;
use crate::store::{Fact, FactKind, StoreError};
use crate::telemetry::repeated;

/// How long a frame may wait for more before its chunk is handed over.
const FLUSH_AFTER: Duration = Duration::from_millis(1);
/// While the socket never runs dry, every so many frames others get their turn.
const TURN: u64 = 256;
/// Every so many frames one `time` is read; all are while frames are rare.
const SAMPLE: u64 = 16;
/// Breaks at one cursor after which the frame behind it is passed.
const STRIKES: u32 = 3;
/// How often a wrong clock is looked at again.
const CLOCK_CHECK: Duration = Duration::from_secs(10);

/// What the live stream is made of.
pub(crate) struct LiveParts {
    pub subscription: Subscription,
    pub router: Router,
    pub recorder: Arc<Recorder>,
    pub faults: Arc<Faults>,
    pub status: Arc<Status>,
    pub clock: Arc<dyn Clock>,
    pub slots: SlotSet,
    /// The collections that are stored, as the configuration spells them.
    pub filter: String,
    /// Where nothing is held: begin at the oldest frame that the relay has, not at its head.
    pub from_oldest: bool,
    /// How far the frames' times may be ahead of our clock.
    pub clock_ahead: Duration,
}

/// The live stream of this worker.
pub(crate) struct Live {
    parts: LiveParts,
    progress: Arc<Progress>,
    watched: watch::Sender<Arc<Progress>>,
    /// Where each relay goes on; the current one's is in `continuity`.
    tails: HashMap<String, Resume>,
    current: Option<Current>,
    times: Times,
    metrics: StreamMetrics,
    /// Reads the messages that are for the reader: errors and information.
    decoder: Decoder,
    frames: u64,
    flush_at: Option<Instant>,
    strikes: (u64, u32),
}

/// The relay that is being read.
struct Current {
    relay: String,
    generation: u32,
    continuity: Continuity,
    source: Arc<Source>,
    run: u64,
}

/// Why reading stopped.
enum Stop {
    /// The connection is gone.
    Lost(Lost),
    /// The process stops.
    Shutdown,
    /// Ingestion pauses.
    Pause(Pause),
}

impl Live {
    /// A stream that goes on where these facts end. The progress can be watched.
    pub fn new(parts: LiveParts, facts: &[Fact]) -> (Self, watch::Receiver<Arc<Progress>>) {
        let progress = Arc::new(Progress::default());
        let (watched, watching) = watch::channel(progress.clone());
        let mut live = Self {
            parts,
            progress,
            watched,
            tails: HashMap::new(),
            current: None,
            times: Times::default(),
            metrics: StreamMetrics::new("live"),
            decoder: Decoder::new(decode::DecodeOptions::default()),
            frames: 0,
            flush_at: None,
            strikes: (0, 0),
        };
        live.go_on_behind(facts);
        (live, watching)
    }

    /// Follows the relay until the shutdown, then flushes what was read. The router is gone afterwards.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), StoreError> {
        while let Some(()) = self.connect(&shutdown).await {
            match self.read(&shutdown).await {
                Stop::Lost(lost) => self.lost(lost).await,
                Stop::Shutdown => break,
                Stop::Pause(pause) => self.pause(pause, &shutdown).await?,
            }
        }
        self.flush().await;
        self.parts.subscription.close().await;
        Ok(())
    }

    /// Connects; `None` at the shutdown.
    async fn connect(&mut self, shutdown: &CancellationToken) -> Option<()> {
        let Self {
            parts,
            tails,
            current,
            metrics,
            times,
            ..
        } = self;
        let (from_oldest, time) = (parts.from_oldest, times.median());
        let resume = |url: &RelayUrl| {
            let here = current
                .as_ref()
                .filter(|current| current.relay == url.host());
            let here = here.and_then(|current| current.tail(time));
            cursor(
                here.as_ref().or_else(|| tails.get(&url.host())),
                from_oldest,
            )
        };
        let status = parts.status.clone();
        let failed = |attempt: &FailedAttempt| {
            metrics.reconnect(&attempt.relay.host(), attempt.reason.as_str());
            status.disconnected(format!("{}: {}", attempt.relay, attempt.detail));
            if let Some(held_back) = repeated("connect", attempt.reason.as_str()) {
                tracing::warn!(relay = %attempt.relay, reason = %attempt.reason, detail = %attempt.detail,
                    retry_in = ?attempt.retry_in, next = %attempt.next, held_back, "could not connect");
            }
        };
        let connected = tokio::select! {
            connected = parts.subscription.connect(resume, failed) => connected,
            () = shutdown.cancelled() => return None,
        };
        if let Some(held_back) = repeated("connected", &connected.relay.host()) {
            tracing::info!(relay = %connected.relay, cursor = connected.cursor, held_back, "connected");
        }
        self.parts.status.connected(&connected.relay.host());
        self.metrics.connected(&connected.relay.host(), true);
        self.enter(&connected.relay.host());
        Some(())
    }

    /// Makes the relay the current one.
    fn enter(&mut self, relay: &str) {
        let time = self.times.median();
        if let Some(current) = self.current.as_mut()
            && current.relay == relay
        {
            current.continuity.reconnected(time);
            return;
        }
        if let Some(left) = self.current.take()
            && let Some(tail) = left.tail(time)
        {
            self.tails.insert(left.relay, tail);
        }
        let tail = self.tails.get(relay);
        let generation = tail.map_or(0, |tail| tail.generation);
        let run = self.parts.clock.now_micros();
        let mut current = Current {
            relay: relay.to_owned(),
            generation,
            continuity: Continuity::start(),
            source: Arc::new(Source {
                relay: relay.to_owned(),
                generation,
            }),
            run,
        };
        if let Some(tail) = tail {
            current.continuity = Continuity::resumed(tail.seq, tail.time);
            let from = Point {
                seq: tail.seq,
                time: tail.time,
            };
            self.progress.begin(self.origin(&current), from);
            self.parts.router.advance(from);
        } else {
            self.parts.router.advance(Point::default());
        }
        self.current = Some(current);
    }

    /// Reads until the connection ends or something stops it.
    async fn read(&mut self, shutdown: &CancellationToken) -> Stop {
        loop {
            let signal = match self.parts.subscription.next_ready() {
                Some(signal) => signal,
                None => match self.wait(shutdown).await {
                    Ok(Some(signal)) => signal,
                    Ok(None) => continue,
                    Err(stop) => return stop,
                },
            };
            let frame = match signal {
                Signal::Frame(frame) => frame,
                Signal::Lost(lost) => return Stop::Lost(lost),
            };
            if let Err(stop) = self.take(&frame).await {
                return stop;
            }
            if self.frames.is_multiple_of(TURN) {
                if let Some(stop) = self.must_stop(shutdown) {
                    return stop;
                }
                tokio::task::yield_now().await;
            }
        }
    }

    /// The socket is dry: hands over what waited long enough, and waits for more. `None`: look again.
    async fn wait(&mut self, shutdown: &CancellationToken) -> Result<Option<Signal>, Stop> {
        if let Some(stop) = self.must_stop(shutdown) {
            return Err(stop);
        }
        if self.flush_at.is_none() && self.parts.router.has_open() {
            self.flush_at = Some(Instant::now() + FLUSH_AFTER);
        }
        let flush_at = self.flush_at.unwrap_or_else(Instant::now);
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(flush_at), if self.flush_at.is_some() => {
                self.flush().await;
                Ok(None)
            }
            signal = self.parts.subscription.next() => Ok(Some(signal)),
            () = shutdown.cancelled() => Err(Stop::Shutdown),
            () = self.parts.faults.wait() => Err(Stop::Pause(Pause::Faults)),
        }
    }

    fn must_stop(&self, shutdown: &CancellationToken) -> Option<Stop> {
        if shutdown.is_cancelled() {
            return Some(Stop::Shutdown);
        }
        if self.parts.faults.tripped() {
            return Some(Stop::Pause(Pause::Faults));
        }
        let ahead = self.clock_is_behind(self.parts.clock.now_micros())?;
        Some(Stop::Pause(Pause::Clock {
            ahead_seconds: ahead / 1_000_000,
        }))
    }

    /// By how much the frames' times are ahead of our clock, if it is too much (microseconds).
    fn clock_is_behind(&self, now: u64) -> Option<u64> {
        let allowed = u64::try_from(self.parts.clock_ahead.as_micros()).unwrap_or(u64::MAX);
        self.times.ahead_of(now, allowed)
    }

    /// Takes one frame in.
    async fn take(&mut self, frame: &[u8]) -> Result<(), Stop> {
        let peek = decode::peek(frame);
        self.frames += 1;
        self.metrics.frame(frame.len());
        if matches!(peek.kind, Kind::Error | Kind::Info) {
            return self.message(frame);
        }
        let time = self.sample(&peek);
        let Some(current) = self.current.as_mut() else {
            return Ok(());
        };
        let step = current.continuity.judge(peek.seq, time);
        self.follow(step).await?;
        let Some(current) = self.current.as_ref() else {
            return Ok(());
        };
        let taken = self
            .parts
            .router
            .route(frame, &peek, &current.source, &self.progress)
            .await;
        match taken {
            Ok(true) => {}
            Ok(false) => self.metrics.other_slot(),
            Err(_) => return Err(Stop::Shutdown),
        }
        if matches!(
            step,
            Step::Follows | Step::Jump { .. } | Step::Starts { .. } | Step::Restarted { .. }
        ) {
            let seq = current.continuity.routed();
            self.parts.router.advance(Point {
                seq,
                time: self.times.median(),
            });
            self.parts.subscription.progressed();
            self.metrics.routed(seq);
        }
        Ok(())
    }

    /// Reads the time of some frames, and of all where a decision hangs on it.
    fn sample(&mut self, peek: &Peek<'_>) -> Option<u64> {
        let resuming = self
            .current
            .as_ref()
            .is_some_and(|current| current.continuity.resuming());
        if !resuming && self.parts.router.has_open() && !self.frames.is_multiple_of(SAMPLE) {
            return None;
        }
        let time = peek.time.and_then(decode::time::parse_datetime)?;
        self.times.sample(time, self.parts.clock.now_micros());
        self.parts.status.newest(time);
        self.parts.status.read(self.frames);
        Some(time)
    }

    /// Begins a new span where the stream does not go on where it was.
    async fn follow(&mut self, step: Step) -> Result<(), Stop> {
        let (from, generation) = match step {
            Step::Follows | Step::Again | Step::Unproven => return Ok(()),
            Step::Starts { from } => (from, 0),
            Step::Jump { from, to } => {
                self.jumped(from, to);
                (to, 0)
            }
            Step::Restarted { from } => (from, 1),
        };
        // A chunk belongs to one span: what is open goes first.
        self.flush().await;
        let Some(current) = self.current.as_mut() else {
            return Ok(());
        };
        if generation > 0 {
            current.generation += 1;
            current.run = self.parts.clock.now_micros();
            let (relay, generation) = (current.relay.clone(), current.generation);
            tracing::warn!(%relay, generation, seq = from + 1, "the relay counts anew: a new generation begins");
            current.source = Arc::new(Source { relay, generation });
        }
        let from = Point {
            seq: from,
            time: self.times.median(),
        };
        let Some(current) = self.current.as_ref() else {
            return Ok(());
        };
        self.progress.begin(self.origin(current), from);
        self.parts.router.advance(from);
        Ok(())
    }

    fn jumped(&self, from: u64, to: u64) {
        let relay = self
            .current
            .as_ref()
            .map(|current| current.relay.as_str())
            .unwrap_or_default();
        self.metrics.jump(relay);
        tracing::warn!(
            relay,
            from_seq = from,
            to_seq = to,
            missing = to - from,
            "the relay skipped numbers: the gap stays open in the ledger"
        );
    }

    /// Reads a message that is for the reader.
    fn message(&mut self, frame: &[u8]) -> Result<(), Stop> {
        match self.decoder.decode(frame, self.parts.clock.now_micros()) {
            Ok(Event::Error { error, message }) => {
                tracing::warn!(error, message, "the relay sent an error");
                self.metrics.event("error");
                let (reason, detail) =
                    (DisconnectReason::ErrorFrame, format!("{error}: {message}"));
                self.parts.subscription.disconnect(reason);
                Err(Stop::Lost(Lost {
                    reason,
                    detail,
                    poison: false,
                }))
            }
            Ok(Event::Info(info)) => {
                tracing::warn!(name = info.name, message = info.message, "the relay says");
                self.metrics.event("info");
                Ok(())
            }
            _ => {
                self.metrics.skipped("unreadable_message");
                Ok(())
            }
        }
    }

    /// Hands over all that waits.
    async fn flush(&mut self) {
        self.flush_at = None;
        // The lanes only stop after their routers.
        let _ = self.parts.router.flush(&self.progress).await;
    }

    /// The connection is gone. A frame that breaks it again and again is passed.
    async fn lost(&mut self, lost: Lost) {
        self.flush().await;
        let Some(current) = self.current.as_mut() else {
            return;
        };
        self.metrics.connected(&current.relay, false);
        self.metrics.reconnect(&current.relay, lost.reason.as_str());
        self.parts
            .status
            .disconnected(format!("{}: {}", lost.reason, lost.detail));
        if let Some(held_back) = repeated("connection", lost.reason.as_str()) {
            tracing::warn!(relay = current.relay, reason = %lost.reason, detail = lost.detail, held_back, "connection lost");
        }
        if !lost.poison {
            return;
        }
        let at = current.continuity.routed();
        let strikes = if self.strikes.0 == at {
            self.strikes.1 + 1
        } else {
            1
        };
        self.strikes = (at, strikes);
        if strikes < STRIKES && lost.reason != DisconnectReason::TooLarge {
            return;
        }
        self.strikes = (at + 1, 0);
        current.continuity.pass(at + 1);
        let passed = Point {
            seq: at + 1,
            time: self.times.median(),
        };
        self.progress.pass(passed);
        self.parts.router.advance(passed);
        self.metrics.skipped("poison");
        tracing::error!(
            relay = current.relay,
            seq = at + 1,
            detail = lost.detail,
            "passed a frame that can't be read: the ledger shows it"
        );
    }

    /// Stops reading for a while, forgets what is not durable, and goes on behind the watermark.
    async fn pause(
        &mut self,
        pause: Pause,
        shutdown: &CancellationToken,
    ) -> Result<(), StoreError> {
        tracing::error!(reason = %pause, "ingestion pauses");
        self.parts.subscription.disconnect(DisconnectReason::Resume);
        self.parts.status.pause(Some(pause.clone()));
        self.metrics.paused(pause.as_str(), true);
        self.parts.router.reset();
        self.parts.recorder.save(&self.progress).await?;
        match &pause {
            Pause::Faults => {
                let wait = tokio::time::sleep(self.parts.faults.limits().pause);
                tokio::select! { () = wait => {}, () = shutdown.cancelled() => {} }
            }
            Pause::Clock { .. } => self.wait_for_the_clock(shutdown).await,
        }
        self.parts.faults.resume(matches!(pause, Pause::Faults));
        self.times = Times::default();
        self.current = None;
        self.progress = Arc::new(Progress::default());
        self.watched.send_replace(self.progress.clone());
        self.tails.clear();
        let facts = self.parts.recorder.facts().await?;
        self.go_on_behind(&facts);
        self.parts.status.pause(None);
        self.metrics.paused(pause.as_str(), false);
        tracing::info!("ingestion goes on behind the watermark");
        Ok(())
    }

    /// Waits until our clock is no longer behind the times of the frames, which go on meanwhile.
    async fn wait_for_the_clock(&self, shutdown: &CancellationToken) {
        let began = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(CLOCK_CHECK) => {}
                () = shutdown.cancelled() => return,
            }
            let elapsed = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            let now = self.parts.clock.now_micros().saturating_sub(elapsed);
            if self.clock_is_behind(now).is_none() {
                return;
            }
        }
    }

    fn go_on_behind(&mut self, facts: &[Fact]) {
        let mut relays: Vec<&str> = facts.iter().map(|fact| fact.relay.as_str()).collect();
        relays.sort_unstable();
        relays.dedup();
        for relay in relays {
            if let Some(tail) = ledger::resume(facts, relay, self.parts.slots) {
                self.tails.insert(relay.to_owned(), tail);
            }
        }
    }

    fn origin(&self, current: &Current) -> Arc<Origin> {
        Arc::new(Origin {
            relay: current.relay.clone(),
            generation: current.generation,
            run: current.run,
            slots: self.parts.slots,
            filter: self.parts.filter.clone(),
            kind: FactKind::Live,
        })
    }
}

impl Current {
    /// Where this relay goes on, behind a frame of `time`; `None` where nothing was taken from it.
    fn tail(&self, time: u64) -> Option<Resume> {
        let (seq, anchored) = self.continuity.tail()?;
        Some(Resume {
            generation: self.generation,
            seq,
            time,
            anchored,
        })
    }
}

/// The cursor to ask for. Behind a frame that was seen, that frame is asked for again: a relay that still has it skips
/// nothing behind it.
fn cursor(tail: Option<&Resume>, from_oldest: bool) -> Option<u64> {
    match tail {
        Some(tail) if tail.anchored => Some(tail.seq.saturating_sub(1)),
        Some(tail) => Some(tail.seq),
        None => from_oldest.then_some(0),
    }
}
