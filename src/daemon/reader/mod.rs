//! The reader of a stream: from the relay's socket to the lanes, over disconnects, jumps, poison and pauses.
//!
//! The live stream is read for ever; its past in passes, each for what some slots miss. Here is the way of a frame; where streams
//! go on is in `position`, when nothing is read in `pause`, how far a pass goes in `pass`, and what goes wrong with a connection in
//! `trouble`.

mod pass;
mod pause;
mod position;
mod trouble;

pub(crate) use pass::{Pace, Pass};

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::metrics::StreamMetrics;
use super::recorder::Recorder;
use super::status::{Pause, Status};
use super::times::Times;
use crate::clock::Clock;
use crate::config::CollectionFilter;
use crate::decode::{self, Decoder, Event, Kind, Peek};
use crate::ledger::Resume;
use crate::ledger::continuity::Step;
use crate::pipeline::{Faults, Point, Progress, Router, Stream};
use crate::relay::{DisconnectReason, FailedAttempt, Lost, RelayUrl, Signal, Subscription};
use crate::slot::SlotSet;
use crate::store::indexed::Indexed;
use crate::store::{Fact, StoreError};
use crate::telemetry::repeated;
use pass::Passing;
use position::Current;

/// How long a frame may wait for more before its chunk is handed over.
const FLUSH_AFTER: Duration = Duration::from_millis(1);
/// While the socket never runs dry, every so many frames others get their turn.
const TURN: u64 = 256;
/// Every so many frames one `time` is read; all are while frames are rare.
const SAMPLE: u64 = 16;
/// A stream that begins at the head although older frames are missed goes back to them if nothing new comes for so long:
/// there is nothing that they could hold up.
const QUIET_HEAD: Duration = Duration::from_secs(10);
/// How often what was routed is looked at until it is durable.
const DRAIN: Duration = Duration::from_millis(20);

/// What a stream is read with.
pub(crate) struct ReaderParts {
    pub stream: Stream,
    pub subscription: Subscription,
    pub router: Router,
    pub recorder: Arc<Recorder>,
    pub faults: Arc<Faults>,
    pub status: Arc<Status>,
    pub clock: Arc<dyn Clock>,
    pub slots: SlotSet,
    /// The collections that are stored.
    pub indexed: Indexed,
    /// Where nothing is held: begin at the oldest frame that the relay has, not at its head.
    pub from_oldest: bool,
    /// How old may be what the live stream goes on behind; else it begins at the head.
    pub resume_within: Duration,
    /// How far the frames' times may be ahead of our clock.
    pub clock_ahead: Duration,
    /// Is told when a new span began: there may be a gap before it.
    pub changed: Arc<Notify>,
    /// A relay and a generation that its numbers are no longer of, if that was found out elsewhere.
    pub counts_anew: watch::Receiver<Option<(String, u32)>>,
}

/// Reads one stream.
pub(crate) struct Reader {
    parts: ReaderParts,
    /// What the past is read for; `None`: the live stream.
    passing: Option<Passing>,
    /// The collections that are stored of what is routed now.
    collections: Arc<CollectionFilter>,
    progress: Arc<Progress>,
    watched: watch::Sender<Arc<Progress>>,
    /// Where each relay goes on; the current one's is in `continuity`.
    tails: HashMap<String, Resume>,
    /// The newest generation that is known of each relay.
    generations: HashMap<String, u32>,
    current: Option<Current>,
    /// How often each relay said that our cursor is ahead of it, since its stream went on.
    future_cursors: HashMap<String, u32>,
    times: Times,
    /// The time of the last frame that was not believed yet.
    unproven: Option<u64>,
    metrics: StreamMetrics,
    /// Reads the messages that are for the reader: errors and information.
    decoder: Decoder,
    frames: u64,
    flush_at: Option<Instant>,
    strikes: (u64, u32),
    /// The stream was begun at the head: that numbers are skipped is no fault of the relay.
    head_start: bool,
    /// Nothing came at the head: go on where the stream ended, however long ago.
    head_is_quiet: bool,
    /// Since when no frame came.
    quiet_since: Option<Instant>,
}

/// Why reading stopped.
enum Stop {
    /// The connection is gone.
    Lost(Lost),
    /// The process stops.
    Shutdown,
    /// Ingestion pauses.
    Pause(Pause),
    /// The pass has come to its end.
    Passed,
    /// Other collections are stored from now on: what is left of the pass has to be looked at anew.
    OtherCollections,
    /// No frame comes, although the pass is not at its end.
    Stalled,
    /// No frame comes: the relay has to be asked again behind what was read.
    AskAgain,
    /// No frame comes at the head.
    QuietHead,
}

/// How the reading of a stream ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The process stops.
    Shutdown,
    /// The pass came to its end. What it did not get the ledger still misses.
    Read,
    /// It was ended before: what is wanted has changed.
    Cut,
    /// The relay did not serve it.
    Failed(String),
}

impl Reader {
    /// The live stream: it goes on where these facts end. The progress can be watched.
    pub fn live(parts: ReaderParts, facts: &[Fact]) -> (Self, watch::Receiver<Arc<Progress>>) {
        let (mut live, watching) = Self::new(parts, None);
        live.go_on_behind(facts);
        (live, watching)
    }

    /// One pass over a stream's past. The progress can be watched.
    pub fn replay(parts: ReaderParts, pass: Pass) -> (Self, watch::Receiver<Arc<Progress>>) {
        let (mut replay, watching) = Self::new(parts, Some(pass));
        replay.go_on_with_the_pass();
        (replay, watching)
    }

    fn new(parts: ReaderParts, pass: Option<Pass>) -> (Self, watch::Receiver<Arc<Progress>>) {
        let progress = parts.recorder.progress();
        let (watched, watching) = watch::channel(progress.clone());
        let metrics = StreamMetrics::new(parts.stream, parts.subscription.relays());
        let collections = parts.indexed.now();
        let reader = Self {
            parts,
            passing: pass.map(Passing::from),
            collections,
            progress,
            watched,
            tails: HashMap::new(),
            generations: HashMap::new(),
            current: None,
            future_cursors: HashMap::new(),
            times: Times::default(),
            unproven: None,
            metrics,
            decoder: Decoder::new(decode::DecodeOptions::default()),
            frames: 0,
            flush_at: None,
            strikes: (0, 0),
            head_start: false,
            head_is_quiet: false,
            quiet_since: None,
        };
        (reader, watching)
    }

    /// Follows the relay until the shutdown or the end of the pass, then flushes what was read. The router is gone afterwards.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<End, StoreError> {
        let end = loop {
            let Some(end) = self.go_on(&shutdown).await? else {
                continue;
            };
            // However a pass ends, what fails in the lanes then pauses it like others, and is read again.
            match self.drain(&shutdown).await {
                Ok(()) => break end,
                Err(Stop::Pause(pause)) => self.pause(pause, &shutdown).await?,
                Err(_) => break End::Shutdown,
            }
        };
        self.flush().await;
        self.parts.subscription.close().await;
        Ok(end)
    }

    /// Reads over one connection. Gives the end, if it is one.
    async fn go_on(&mut self, shutdown: &CancellationToken) -> Result<Option<End>, StoreError> {
        if let Some(end) = self.gives_up() {
            return Ok(Some(end));
        }
        if let Err(end) = self.connect(shutdown).await {
            return Ok(Some(end));
        }
        match self.read(shutdown).await {
            Stop::Lost(lost) => self.lost(lost).await,
            Stop::Shutdown => return Ok(Some(End::Shutdown)),
            Stop::Pause(pause) => self.pause(pause, shutdown).await?,
            Stop::Passed => return Ok(Some(End::Read)),
            Stop::OtherCollections => return Ok(Some(End::Cut)),
            Stop::Stalled => {
                let why = "no frame came for a minute".to_owned();
                return Ok(Some(End::Failed(why)));
            }
            Stop::AskAgain => self.ask_again().await,
            Stop::QuietHead => self.leave_the_head().await,
        }
        Ok(None)
    }

    /// Connects. The live stream tries for ever; a pass is given up, so that others get their turn.
    async fn connect(&mut self, shutdown: &CancellationToken) -> Result<(), End> {
        // The subscription asks for cursors while it is borrowed: they are worked out before.
        let cursors: HashMap<String, Option<u64>> = self
            .parts
            .subscription
            .relays()
            .map(|relay| (relay.host(), self.cursor(&relay.host())))
            .collect();
        let resume = |url: &RelayUrl| cursors.get(&url.host()).copied().flatten();
        let Self {
            parts,
            metrics,
            passing,
            ..
        } = self;
        let status = parts.status.clone();
        let (gives_up, given_up) = oneshot::channel();
        let mut gives_up = Some(gives_up);
        let failed = |attempt: &FailedAttempt| {
            if let Some(passing) = passing
                && passing.failed(attempt)
                && let Some(gives_up) = gives_up.take()
            {
                let _ = gives_up.send(attempt.detail.clone());
            }
            metrics.reconnect(&attempt.relay.host(), attempt.reason.as_str());
            status.disconnected(format!("{}: {}", attempt.relay, attempt.detail));
            if let Some(held_back) = repeated("connect", attempt.reason.as_str()) {
                tracing::warn!(relay = %attempt.relay, reason = %attempt.reason, detail = %attempt.detail,
                    retry_in = ?attempt.retry_in, next = %attempt.next, held_back, "could not connect");
            }
        };
        let connected = tokio::select! {
            connected = parts.subscription.connect(resume, failed) => connected,
            () = shutdown.cancelled() => return Err(End::Shutdown),
            Ok(why) = given_up => return Err(End::Failed(why)),
        };
        let site = match parts.stream {
            Stream::Live => "connected",
            Stream::Replay => "replay_connected",
        };
        if let Some(held_back) = repeated(site, &connected.relay.host()) {
            let stream = parts.stream.as_str();
            tracing::info!(stream, relay = %connected.relay, cursor = connected.cursor, held_back, "connected");
        }
        self.parts.status.connected(&connected.relay.host());
        self.metrics.connected(&connected.relay.host(), true);
        self.enter(&connected.relay.host());
        self.quiet_since = None;
        Ok(())
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
            if let Err(stop) = self.take(&frame, shutdown).await {
                return stop;
            }
            if self.frames.is_multiple_of(TURN) {
                if let Err(stop) = self.learn().await {
                    return stop;
                }
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
        self.learn().await?;
        if self.pass_is_over() {
            return Err(Stop::Passed);
        }
        if self.flush_at.is_none() && self.parts.router.has_untold() {
            self.flush_at = Some(Instant::now() + FLUSH_AFTER);
        }
        let flush_at = self.flush_at.unwrap_or_else(Instant::now);
        let quiet_at = self.quiet_at();
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(flush_at), if self.flush_at.is_some() => {
                self.flush().await;
                Ok(None)
            }
            signal = self.parts.subscription.next() => Ok(Some(signal)),
            () = tokio::time::sleep_until(quiet_at.unwrap_or(flush_at)), if quiet_at.is_some() => {
                let routed = self.parts.router.routed().seq;
                Err(self.passing.as_mut().map_or(Stop::QuietHead, |passing| passing.is_quiet(routed)))
            }
            () = shutdown.cancelled() => Err(Stop::Shutdown),
            () = self.parts.faults.wait() => Ok(None),
            () = pass::news(self.passing.as_mut()) => Ok(None),
            () = self.parts.indexed.changed() => Ok(None),
        }
    }

    /// Learns what others have found out.
    async fn learn(&mut self) -> Result<(), Stop> {
        if let Some(passing) = &mut self.passing {
            passing.learn();
        }
        self.follow_choices().await?;
        match self.parts.counts_anew.has_changed() {
            Ok(true) => self.count_anew().await,
            // Nobody finds out anything here.
            Ok(false) | Err(_) => Ok(()),
        }
    }

    /// Waits until all that was routed is durable.
    async fn drain(&mut self, shutdown: &CancellationToken) -> Result<(), Stop> {
        self.flush().await;
        loop {
            if let Some(stop) = self.must_stop(shutdown) {
                return Err(stop);
            }
            if self.progress.settled() {
                return Ok(());
            }
            tokio::time::sleep(DRAIN).await;
        }
    }

    /// When it has been quiet for too long.
    fn quiet_at(&mut self) -> Option<Instant> {
        let limit = match &self.passing {
            Some(passing) => passing.patience(self.parts.router.routed().seq),
            None if self.head_start => QUIET_HEAD,
            None => return None,
        };
        let since = *self.quiet_since.get_or_insert_with(Instant::now);
        Some(since + limit)
    }

    /// Goes back to where the stream ended.
    async fn leave_the_head(&mut self) {
        tracing::info!("nothing new comes: the live stream goes on where it ended");
        self.head_is_quiet = true;
        self.ask_again().await;
    }

    /// Connects anew, behind what was read.
    async fn ask_again(&mut self) {
        self.flush().await;
        self.parts.subscription.disconnect(DisconnectReason::Resume);
    }

    fn must_stop(&self, shutdown: &CancellationToken) -> Option<Stop> {
        if shutdown.is_cancelled() {
            return Some(Stop::Shutdown);
        }
        self.must_pause().map(Stop::Pause)
    }

    /// Takes one frame in.
    async fn take(&mut self, frame: &[u8], shutdown: &CancellationToken) -> Result<(), Stop> {
        let peek = decode::peek(frame);
        self.frames += 1;
        self.quiet_since = None;
        self.metrics.frame(frame.len());
        if matches!(peek.kind, Kind::Error | Kind::Info) && self.message(frame)? {
            return Ok(());
        }
        let step = self.judge(frame, &peek);
        self.follow(step).await?;
        self.keep_to_the_pass(peek.seq, shutdown).await?;
        let Some(current) = self.current.as_ref() else {
            return Ok(());
        };
        let route = self
            .parts
            .router
            .route(frame, &peek, &current.source, &self.progress);
        // A full queue must not keep the process from stopping. What was routed so far stays in the router.
        let taken = tokio::select! {
            biased;
            taken = route => taken,
            () = shutdown.cancelled() => return Err(Stop::Shutdown),
        };
        match taken {
            Ok(true) => {}
            Ok(false) => self.metrics.other_slot(),
            Err(_) => return Err(Stop::Shutdown),
        }
        if !matches!(step, Step::Again | Step::Unproven) {
            self.advance();
        }
        match self.pass_is_over() {
            true => Err(Stop::Passed),
            false => Ok(()),
        }
    }

    /// Judges how a frame goes on from the one before.
    fn judge(&mut self, frame: &[u8], peek: &Peek<'_>) -> Step {
        let time = self.sample(peek);
        let own_time = || peek.time.and_then(decode::time::parse_datetime);
        let (decoder, clock) = (&mut self.decoder, &self.parts.clock);
        let sound = || {
            let event = decoder.decode(frame, clock.now_micros());
            event.is_ok_and(|event| !matches!(event, Event::Info(_) | Event::Error { .. }))
        };
        let step = match self.current.as_mut() {
            Some(current) => current.continuity.judge(peek.seq, time, sound),
            None => Step::Unproven,
        };
        match step {
            Step::Unproven => self.unproven = own_time(),
            Step::Starts { .. } | Step::Jump { .. } | Step::Restarted { .. } => {
                // What is behind numbers that were skipped may be of another time than what was before.
                let routed = self.current.as_ref().map(|here| here.continuity.routed());
                let own = own_time().filter(|_| peek.seq <= routed);
                let times = [self.unproven.take(), own];
                self.times
                    .begin_anew(times.into_iter().flatten(), clock.now_micros());
            }
            Step::Follows | Step::Again => {}
        }
        step
    }

    /// Notes up to where the stream was routed.
    fn advance(&mut self) {
        let Some(current) = &self.current else { return };
        let seq = current.continuity.routed();
        self.head_is_quiet = false;
        if !self.future_cursors.is_empty() {
            self.future_cursors.remove(&current.relay);
        }
        let time = self.times.reached();
        self.parts.router.advance(Point { seq, time });
        self.parts.subscription.progressed();
        self.metrics.routed(seq);
    }

    /// Reads the time of some frames, and of all where a decision hangs on it.
    fn sample(&mut self, peek: &Peek<'_>) -> Option<u64> {
        let resuming = self
            .current
            .as_ref()
            .is_some_and(|current| current.continuity.resuming());
        let enough =
            !resuming && self.times.full() && !self.times.sparse() && self.parts.router.has_open();
        if enough && !self.frames.is_multiple_of(SAMPLE) {
            return None;
        }
        let time = peek.time.and_then(decode::time::parse_datetime)?;
        self.times.sample(time, self.parts.clock.now_micros());
        self.parts.status.newest(time);
        self.parts.status.read(self.frames);
        Some(time)
    }

    /// Hands over all that waits.
    async fn flush(&mut self) {
        self.flush_at = None;
        // The lanes only stop after their routers.
        let _ = self.parts.router.flush(&self.progress).await;
    }
}
