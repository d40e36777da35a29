//! Where each relay's stream goes on: tails, cursors, spans, generations.

use std::sync::Arc;

use super::{Reader, Stop};
use crate::ledger::continuity::{Continuity, Step};
use crate::ledger::{self, Resume};
use crate::pipeline::{Origin, Point, Source, Stream};
use crate::store::{Fact, FactKind};
use crate::telemetry::repeated;

/// Times that a relay may say that our cursor is ahead of it, before it is asked for all that it has: it counts anew.
const FUTURE_CURSORS: u32 = 3;

/// The relay that is being read.
pub(super) struct Current {
    pub relay: String,
    pub generation: u32,
    pub continuity: Continuity,
    pub source: Arc<Source>,
    pub run: u64,
    /// Time of the frame behind which it went on, microseconds.
    since: u64,
}

impl Reader {
    /// The cursor to ask a relay for; `None` is its live head.
    pub(super) fn cursor(&self, relay: &str) -> Option<u64> {
        let here = self.current.as_ref().filter(|here| here.relay == relay);
        let here = here.and_then(|here| here.tail(self.times.reached()));
        let tail = here.as_ref().or_else(|| self.tails.get(relay));
        let refused = self.future_cursors.get(relay).copied().unwrap_or_default();
        if tail.is_some() && refused >= FUTURE_CURSORS {
            return Some(0);
        }
        if tail.is_some_and(|tail| self.is_too_old(tail)) {
            return None;
        }
        match tail {
            Some(tail) => Some(cursor(tail)),
            None => self.parts.from_oldest.then_some(0),
        }
    }

    /// Whether the live stream is better begun at the head: what lies between is a gap, and replayed beside it.
    fn is_too_old(&self, tail: &Resume) -> bool {
        self.passing.is_none()
            && !self.head_is_quiet
            && tail.time > 0
            && tail.time < self.oldest_tail()
    }

    fn oldest_tail(&self) -> u64 {
        let within = u64::try_from(self.parts.resume_within.as_micros()).unwrap_or(u64::MAX);
        self.parts.clock.now_micros().saturating_sub(within)
    }

    /// The current relay says that our cursor is ahead of its numbers.
    pub(super) fn cursor_refused(&mut self) {
        if let Some(current) = &self.current {
            *self
                .future_cursors
                .entry(current.relay.clone())
                .or_default() += 1;
        }
    }

    /// Makes the relay the current one.
    pub(super) fn enter(&mut self, relay: &str) {
        let time = self.times.reached();
        if let Some(current) = self.current.as_mut()
            && current.relay == relay
        {
            current.continuity.reconnected(self.times.newest());
            self.note_head_start(relay);
            return;
        }
        if let Some(left) = self.current.take()
            && let Some(tail) = left.tail(time)
        {
            self.tails.insert(left.relay, tail);
        }
        let tail = self.tails.get(relay);
        let known = self.generations.get(relay).copied();
        let generation = tail.map_or(known.unwrap_or_default(), |tail| tail.generation);
        let run = self.new_run();
        let mut current = Current {
            relay: relay.to_owned(),
            generation,
            continuity: Continuity::start(),
            source: Arc::new(Source {
                relay: relay.to_owned(),
                generation,
                collections: self.collections.clone(),
            }),
            run,
            since: tail.map_or(0, |tail| tail.time),
        };
        if let Some(tail) = tail {
            // Where a pass begins was looked at just now: what comes first is believed whatever its time.
            let time = self.passing.as_ref().map_or(tail.time, |_| u64::MAX);
            current.continuity = Continuity::resumed(tail.seq, time).anchored(tail.anchored);
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
        self.note_head_start(relay);
    }

    /// Says so where the stream begins at the head although something is held.
    fn note_head_start(&mut self, relay: &str) {
        let here = self.current.as_ref();
        let tail = here.and_then(|here| here.tail(self.times.reached()));
        let tail = tail.or_else(|| self.tails.get(relay).cloned());
        if let Some(passing) = &self.passing {
            // A pass may begin where no frame was seen: what is skipped there is no fault either.
            self.head_start = tail.is_some_and(|tail| passing.begins_at(&tail));
            return;
        }
        self.head_start = tail.is_some_and(|tail| self.is_too_old(&tail));
        if self.head_start {
            let within = self.parts.resume_within;
            tracing::info!(
                relay,
                ?within,
                "what is held ends longer ago: the live stream begins at the head, and worker 0 \
                 replays what lies between"
            );
        }
    }

    /// Begins a new span where the stream does not go on where it was.
    pub(super) async fn follow(&mut self, step: Step) -> Result<(), Stop> {
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
        let run = self.new_run();
        let Some(current) = self.current.as_mut() else {
            return Ok(());
        };
        if generation > 0 && self.passing.is_some() {
            // What the ledger knows under these numbers is something else: the live stream notices, too.
            return Err(Stop::Passed);
        }
        if generation > 0 {
            current.generation += 1;
            current.run = run;
            let (relay, generation) = (current.relay.clone(), current.generation);
            tracing::warn!(%relay, generation, seq = from + 1, "the relay counts anew: a new generation begins");
            current.source = Arc::new(Source {
                relay,
                generation,
                collections: self.collections.clone(),
            });
        }
        let from = Point {
            seq: from,
            time: self.times.reached(),
        };
        let Some(current) = self.current.as_ref() else {
            return Ok(());
        };
        self.progress.begin(self.origin(current), from);
        self.parts.router.advance(from);
        self.parts.changed.notify_one();
        Ok(())
    }

    /// The relay is known to count anew although its numbers seem to go on: what comes from here on is of a new generation.
    pub(super) async fn count_anew(&mut self) -> Result<(), Stop> {
        let known = self.parts.counts_anew.borrow_and_update().clone();
        let is_current = |current: &&Current| {
            known == Some((current.relay.clone(), current.generation))
                && !current.continuity.resuming()
        };
        match self.current.as_ref().filter(is_current) {
            Some(current) => {
                let from = current.continuity.routed();
                self.follow(Step::Restarted { from }).await
            }
            None => Ok(()),
        }
    }

    /// Takes up what is indexed now. A chunk and a span are of the same collections, so what is open goes first; and as long as
    /// it is not known how the stream goes on, what was routed may yet be claimed by a later span. A pass ends instead, so that
    /// nothing of it is on its way any more once the next one begins.
    pub(super) async fn follow_choices(&mut self) -> Result<(), Stop> {
        let now = self.parts.indexed.now();
        if Arc::ptr_eq(&now, &self.collections) {
            return Ok(());
        }
        if self.passing.is_some() {
            return Err(Stop::OtherCollections);
        }
        let is_sure = |current: &&Current| current.continuity.is_sure();
        if !self
            .current
            .as_ref()
            .is_some_and(|current| is_sure(&current))
        {
            return Ok(());
        }
        self.flush().await;
        self.collections = now;
        if let Some(current) = self.current.as_mut() {
            current.source = Arc::new(Source {
                collections: self.collections.clone(),
                ..(*current.source).clone()
            });
        }
        let from = self.parts.router.routed();
        if let Some(current) = &self.current {
            self.progress.begin(self.origin(current), from);
        }
        Ok(())
    }

    fn jumped(&mut self, from: u64, to: u64) {
        if std::mem::take(&mut self.head_start) {
            return;
        }
        let relay = self
            .current
            .as_ref()
            .map(|current| current.relay.as_str())
            .unwrap_or_default();
        self.metrics.jump(relay);
        if let Some(held_back) = repeated("jump", relay) {
            tracing::warn!(
                relay,
                from_seq = from,
                to_seq = to,
                missing = to - from,
                held_back,
                "the relay skipped numbers: the gap stays open in the ledger"
            );
        }
    }

    /// Goes on behind these facts at each relay.
    pub(super) fn go_on_behind(&mut self, facts: &[Fact]) {
        self.tails.clear();
        self.generations.clear();
        let (slots, since) = (self.parts.slots, self.oldest_tail());
        for relay in facts.iter().map(|fact| &fact.relay) {
            let Some(newest) = ledger::newest_generation(facts, relay) else {
                continue;
            };
            if self.generations.insert(relay.clone(), newest).is_none()
                && let Some(tail) = ledger::resume(facts, relay, slots, since)
            {
                self.tails.insert(relay.clone(), tail);
            }
        }
    }

    /// The microsecond of now, but for the last 8 bits, which are the worker's: workers that begin at the same time write
    /// facts of different runs.
    fn new_run(&self) -> u64 {
        let worker = self.parts.slots.iter().next().unwrap_or_default();
        self.parts.clock.now_micros() & !0xff | u64::from(worker)
    }

    pub(super) fn origin(&self, current: &Current) -> Arc<Origin> {
        Arc::new(Origin {
            relay: current.relay.clone(),
            generation: current.generation,
            run: current.run,
            slots: self.parts.slots,
            filter: self.collections.to_string(),
            kind: match self.parts.stream {
                Stream::Live => FactKind::Live,
                Stream::Replay => FactKind::Replay,
            },
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
            // Before the first frame nothing newer is known.
            time: if time == 0 { self.since } else { time },
            anchored,
        })
    }
}

/// The cursor to ask for. Behind a frame that was seen, that frame is asked for again: a relay that still has it skips
/// nothing behind it.
pub(super) fn cursor(tail: &Resume) -> u64 {
    tail.seq.saturating_sub(u64::from(tail.anchored))
}
