//! Where each relay's stream goes on: tails, cursors, spans, generations.

use std::sync::Arc;

use super::{Live, Stop};
use crate::ledger::continuity::{Continuity, Step};
use crate::ledger::{self, Resume};
use crate::pipeline::{Origin, Point, Source};
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
}

impl Live {
    /// The cursor to ask a relay for; `None` is its live head.
    pub(super) fn cursor(&self, relay: &str) -> Option<u64> {
        let here = self.current.as_ref().filter(|here| here.relay == relay);
        let here = here.and_then(|here| here.tail(self.times.median()));
        let tail = here.as_ref().or_else(|| self.tails.get(relay));
        let refused = self.future_cursors.get(relay).copied().unwrap_or_default();
        if tail.is_some() && refused >= FUTURE_CURSORS {
            return Some(0);
        }
        cursor(tail, self.parts.from_oldest || self.unread.contains(relay))
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
            }),
            run,
        };
        if let Some(tail) = tail {
            current.continuity = Continuity::resumed(tail.seq, tail.time).anchored(tail.anchored);
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
        if generation > 0 {
            current.generation += 1;
            current.run = run;
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

    /// Goes on behind these facts at each relay: at its tail, or where its newest generation is unread, at its oldest frame.
    pub(super) fn go_on_behind(&mut self, facts: &[Fact]) {
        self.tails.clear();
        self.unread.clear();
        self.generations.clear();
        for relay in facts.iter().map(|fact| &fact.relay) {
            let Some(newest) = ledger::newest_generation(facts, relay) else {
                continue;
            };
            if self.generations.insert(relay.clone(), newest).is_some() {
                continue;
            }
            if ledger::is_unread(facts, relay, self.parts.slots, self.parts.from_oldest) {
                self.unread.insert(relay.clone());
            } else if let Some(tail) = ledger::resume(facts, relay, self.parts.slots) {
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
