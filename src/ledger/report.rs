//! What is wanted, what of it is held, and what is missing.
//!
//! Wanted is, per slot, all that lies between two held intervals, for ever; and the window: the time between its start and the
//! first held interval. Behind the last held one lies what the slot's owner will read next: nothing is wanted there.

use std::collections::BTreeMap;
use std::time::Duration;

use super::aged::Aged;
use super::cover::{self, Hole};
use super::held::{Holding, Interval, Loss, Stream, held, union};
use super::newest_generation;
use crate::config::{BackfillDays, CollectionFilter, Config, RelayUrl};
use crate::slot::SlotSet;
use crate::store::Fact;

/// How far two relays' times of one event may differ, where nothing else is configured (microseconds).
const OVERLAP: u64 = 60_000_000;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The collections that are stored: an interval counts only where its filter covered them.
    pub filter: CollectionFilter,
    /// The slots that are looked at.
    pub slots: SlotSet,
    /// Where the window begins, microseconds: 0 for all that the relay retains, `None` for no window.
    pub since: Option<u64>,
    /// The time of now, microseconds.
    pub now: u64,
    /// How far two relays' times of one event may differ, microseconds.
    pub overlap: u64,
    /// The hosts of the relays that can be asked, the preferred one first.
    pub relays: Vec<String>,
}

impl Wanted {
    /// What this configuration asks for at the time of now (microseconds).
    pub fn configured(config: &Config, slots: SlotSet, now: u64) -> Self {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let since = match config.backfill.days {
            BackfillDays::Off => None,
            BackfillDays::Window(window) => Some(now.saturating_sub(micros(window)).max(1)),
            BackfillDays::All => Some(0),
        };
        Self {
            filter: config.collections.clone(),
            slots,
            since,
            now,
            overlap: micros(config.relay.failover_overlap),
            relays: config.relay.urls.iter().map(RelayUrl::host).collect(),
        }
    }

    /// What lies between held intervals of these slots, of every collection.
    pub fn between(slots: SlotSet) -> Self {
        Self {
            filter: CollectionFilter::ALL,
            slots,
            since: None,
            now: 0,
            overlap: OVERLAP,
            relays: Vec::new(),
        }
    }
}

/// What some slots miss.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gap {
    /// Host of the relay whose stream has to be read.
    pub relay: String,
    /// Its `seq` space.
    pub generation: u32,
    /// Exclusive; `None` where only the time is known.
    pub from_seq: Option<u64>,
    /// Inclusive: the next held interval begins behind it. `None`: up to now, for nothing is held.
    pub to_seq: Option<u64>,
    /// Time at `from_seq`, microseconds.
    pub from_time: u64,
    /// Time at `to_seq`, microseconds.
    pub to_time: u64,
    /// Why it can't be replayed: no relay can serve it, which was tried, or it is too old.
    pub lost: Option<Loss>,
    /// Whether these slots held anything before it, of whatever relay and collections: only then it can have deleted something.
    pub after_held: bool,
    /// The slots that miss it.
    pub slots: SlotSet,
}

/// How much of a window may be older than what a relay retains before that is worth a repair (microseconds).
const NEAR: u64 = 3_600_000_000;

impl Gap {
    /// What slots miss whose `tail` is behind the newest frame that others hold, and that their own worker will read.
    pub fn behind(tail: &Span, newest: u64) -> Self {
        Self {
            relay: tail.relay.clone(),
            generation: tail.generation,
            from_seq: Some(tail.to_seq),
            to_seq: None,
            from_time: tail.to_time,
            to_time: newest,
            lost: None,
            after_held: true,
            slots: tail.slots,
        }
    }

    /// Whether what is lost is to be had from the repositories: not where the window begins shortly before what the relay
    /// retains.
    pub fn is_worth_a_repair(&self, wanted: &Wanted) -> bool {
        let opens = self.from_seq.is_none() && !self.after_held;
        let begins = opens && Some(self.from_time) <= wanted.since;
        let near = begins && self.to_time.saturating_sub(self.from_time) <= NEAR;
        self.lost.is_some() && !near
    }
}

/// An interval of a stream that is the same for some slots.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Host of the relay.
    pub relay: String,
    /// Its `seq` space.
    pub generation: u32,
    /// Exclusive.
    pub from_seq: u64,
    /// Inclusive.
    pub to_seq: u64,
    /// Time at `from_seq`, microseconds.
    pub from_time: u64,
    /// Time at `to_seq`, microseconds.
    pub to_time: u64,
    /// The slots.
    pub slots: SlotSet,
}

/// What is held and what is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What is held, in the order of relay, generation and `seq`.
    pub held: Vec<Span>,
    /// What is not, in the same order.
    pub missing: Vec<Gap>,
    /// Poison frames that were passed unread.
    pub passed: Vec<Span>,
    /// Where what slots hold ends; of slots that hold nothing there is none.
    pub tails: Vec<Span>,
}

impl Report {
    /// Time of the newest frame that any slot holds (microseconds).
    pub fn newest(&self) -> u64 {
        let ends = self.tails.iter().map(|tail| tail.to_time);
        ends.max().unwrap_or_default()
    }

    /// The tails of slots that are behind others by more than `overlap` (microseconds): the relay had frames that they miss, and
    /// that their own worker will read.
    pub fn behind(&self, overlap: u64) -> impl Iterator<Item = &Span> {
        let newest = self.newest();
        let behind = move |tail: &&Span| tail.to_time.saturating_add(overlap) < newest;
        self.tails.iter().filter(behind)
    }
}

/// Intervals, and the slots for which they are the same.
type Spans = BTreeMap<Span, SlotSet>;

/// What of the wanted is missing.
pub fn gaps(facts: &[Fact], wanted: &Wanted) -> Vec<Gap> {
    report(facts, wanted).missing
}

/// What of the wanted is held and what is missing.
pub fn report(facts: &[Fact], wanted: &Wanted) -> Report {
    let mut missing: BTreeMap<Gap, SlotSet> = BTreeMap::new();
    let askable = Askable::of(facts, wanted);
    let aged = Aged::of(facts, wanted.now);
    let (mut held_spans, mut passed, mut tails) = <(Spans, Spans, Spans)>::default();
    for holding in held(facts, &wanted.filter, wanted.slots) {
        let Holding { slots, streams } = &holding;
        for stream in streams {
            let kinds = [
                (&mut held_spans, &stream.held),
                (&mut passed, &stream.passed),
            ];
            for (spans, intervals) in kinds {
                for interval in intervals {
                    add(spans, span(stream, interval), *slots);
                }
            }
        }
        if let Some(tail) = tail(streams) {
            add(&mut tails, tail, *slots);
        }
        let past = Past {
            replayed_from: aged.replayed_from(*slots),
            began: aged.began(*slots),
        };
        for gap in missing_of(streams, wanted, &askable, past) {
            add(&mut missing, gap, *slots);
        }
    }
    let spans = |spans: Spans| {
        let with = |(span, slots)| Span { slots, ..span };
        spans.into_iter().map(with).collect()
    };
    let with = |(gap, slots)| Gap { slots, ..gap };
    Report {
        held: spans(held_spans),
        missing: missing.into_iter().map(with).collect(),
        passed: spans(passed),
        tails: spans(tails),
    }
}

/// Microseconds that these gaps miss, each counted once for all slots and relays. A gap of all that a relay retains begins, in
/// time, where nobody knows: it counts for nothing.
pub fn missing_micros<'a>(gaps: impl Iterator<Item = &'a Gap>) -> u64 {
    let known = gaps.filter(|gap| gap.from_time > 0);
    let mut times: Vec<(u64, u64)> = known.map(|gap| (gap.from_time, gap.to_time)).collect();
    times.sort_unstable();
    let mut reach = 0;
    times.into_iter().fold(0, |sum, (from, to)| {
        let from = from.max(reach);
        reach = reach.max(to);
        sum + to.saturating_sub(from)
    })
}

/// The latest end of what is held.
fn tail(streams: &[Stream<'_>]) -> Option<Span> {
    let ends = streams
        .iter()
        .filter_map(|stream| Some((stream, stream.held.last()?)));
    let last = ends.max_by_key(|(_, last)| last.to_time);
    last.map(|(stream, last)| span(stream, last))
}

fn add<K: Ord>(map: &mut BTreeMap<K, SlotSet>, key: K, slots: SlotSet) {
    let held = map.entry(key).or_default();
    *held = held.union(slots);
}

fn span(stream: &Stream<'_>, interval: &Interval) -> Span {
    Span {
        relay: stream.relay.to_owned(),
        generation: stream.generation,
        from_seq: interval.from_seq,
        to_seq: interval.to_seq,
        from_time: interval.from_time,
        to_time: interval.to_time,
        slots: SlotSet::default(),
    }
}

/// What slots miss that hold this; the gaps come without slots.
fn missing_of(
    streams: &[Stream<'_>],
    wanted: &Wanted,
    askable: &Askable<'_>,
    past: Past,
) -> Vec<Gap> {
    let begin = streams
        .iter()
        .enumerate()
        .filter_map(|(number, stream)| Some((number, stream.held.first()?)))
        .min_by_key(|(_, first)| first.from_time);
    let Some((stream, first)) = begin else {
        return all_of_the_window(streams, wanted, askable, past);
    };
    let before = |since: u64| Hole {
        stream,
        from_seq: None,
        to_seq: first.from_seq,
        from_time: since,
        to_time: first.from_time,
    };
    // Before its first number a relay has nothing.
    let is_wanted = |since: &u64| *since < first.from_time && first.from_seq > 0;
    let window = wanted.since.filter(is_wanted).map(before);
    let pieces = |hole: Hole| {
        let stream = streams.get(hole.stream);
        stream.map_or_else(Vec::new, |stream| pieces(stream, hole))
    };
    let window = window.into_iter().flat_map(pieces);
    let between = cover::holes(streams, wanted.overlap)
        .into_iter()
        .flat_map(pieces);
    let between = between.map(|piece| Gap {
        after_held: true,
        ..askable.gap(streams, piece, past)
    });
    window
        .filter(|piece| !is_no_more(piece, wanted))
        .map(|piece| askable.gap(streams, piece, past))
        .chain(between)
        .collect()
}

/// Of slots that hold nothing all of the window is missing, up to now, at the preferred relay.
fn all_of_the_window(
    streams: &[Stream<'_>],
    wanted: &Wanted,
    askable: &Askable<'_>,
    past: Past,
) -> Vec<Gap> {
    let (Some(since), Some((relay, generation))) = (wanted.since, askable.relays.first().copied())
    else {
        return Vec::new();
    };
    let known = Stream {
        relay,
        generation,
        ..Stream::default()
    };
    let same = |stream: &&Stream<'_>| (stream.relay, stream.generation) == (relay, generation);
    let stream = streams.iter().find(same).unwrap_or(&known);
    let hole = Hole {
        stream: 0,
        from_seq: None,
        to_seq: u64::MAX,
        from_time: since,
        to_time: wanted.now,
    };
    pieces(stream, hole)
        .into_iter()
        .filter(|piece| !is_no_more(piece, wanted))
        .map(|piece| askable.gap(streams, piece, past))
        .collect()
}

/// What is known of the past of some slots, of whatever collections (microseconds).
#[derive(Debug, Clone, Copy)]
struct Past {
    /// From here on they can be replayed.
    replayed_from: u64,
    /// Nothing was held before.
    began: u64,
}

/// A part of a stream that is missing, and whether its relay can't serve it.
type Piece<'s, 'a> = (&'s Stream<'a>, Hole, Option<Loss>);

/// Cuts a hole into what the relay was not asked for yet and what it can't serve.
fn pieces<'s, 'a>(stream: &'s Stream<'a>, hole: Hole) -> Vec<Piece<'s, 'a>> {
    if hole.to_seq == 0 {
        // What came before a relay's first number it never had under these.
        return vec![(stream, hole, Some(Loss::Expired))];
    }
    let mut pieces = Vec::new();
    for (hole, expired) in cover::cut(hole, &stream.expired) {
        if expired {
            pieces.push((stream, hole, Some(Loss::Expired)));
            continue;
        }
        for (hole, skipped) in cover::cut(hole, &stream.skipped) {
            pieces.push((stream, hole, skipped.then_some(Loss::Skipped)));
        }
    }
    pieces.retain(|(_, hole, _)| hole.from_seq != Some(hole.to_seq));
    pieces
}

/// The numberings in which relays can be asked now.
struct Askable<'a> {
    relays: Vec<(&'a str, u32)>,
    overlap: u64,
}

impl<'a> Askable<'a> {
    fn of(facts: &[Fact], wanted: &'a Wanted) -> Self {
        let newest = |relay: &'a String| {
            let generation = newest_generation(facts, relay);
            (relay.as_str(), generation.unwrap_or_default())
        };
        Self {
            relays: wanted.relays.iter().map(newest).collect(),
            overlap: wanted.overlap,
        }
    }

    /// What has to be done about a piece of a stream: what its own relay can't serve is asked of the others, by its time. What is
    /// not to be replayed is asked of nobody: it keeps its own numbers, at which it can be closed.
    fn gap(&self, streams: &[Stream<'_>], (own, hole, lost): Piece<'_, '_>, past: Past) -> Gap {
        let lost = lost.or_else(|| self.left(own).then_some(Loss::Expired));
        let is_stale = |from: u64| from < past.replayed_from;
        // What is asked for by time begins an overlap early.
        let stale = is_stale(hole.from_time.saturating_add(self.overlap));
        let gap = Gap {
            relay: own.relay.to_owned(),
            generation: own.generation,
            from_seq: hole.from_seq,
            to_seq: (hole.to_seq < u64::MAX).then_some(hole.to_seq),
            from_time: hole.from_time,
            to_time: hole.to_time,
            lost: lost.or(stale.then_some(Loss::Stale)),
            after_held: past.began < hole.to_time,
            slots: SlotSet::default(),
        };
        let elsewhere = lost.filter(|_| !is_stale(hole.from_time));
        match elsewhere.and_then(|_| self.another(streams, own, &hole)) {
            Some(((relay, generation), unknown)) => Gap {
                relay: relay.to_owned(),
                generation,
                from_seq: unknown.0,
                to_seq: unknown.1,
                from_time: hole.from_time.saturating_sub(self.overlap),
                to_time: hole.to_time.saturating_add(self.overlap),
                lost: None,
                ..gap
            },
            None => gap,
        }
    }

    /// Whether a relay is no longer one of those that can be asked.
    fn left(&self, own: &Stream<'_>) -> bool {
        !self.relays.is_empty() && self.relays.iter().all(|(relay, _)| *relay != own.relay)
    }

    /// Another numbering of which something is unknown in the time of a hole.
    fn another(
        &self,
        streams: &[Stream<'_>],
        own: &Stream<'_>,
        hole: &Hole,
    ) -> Option<((&'a str, u32), Numbers)> {
        let others = self
            .relays
            .iter()
            .filter(|of| **of != (own.relay, own.generation));
        let mut unknown = others.filter_map(|of| {
            let stream = streams
                .iter()
                .find(|stream| (stream.relay, stream.generation) == *of);
            let unknown = stream.map_or(Some((None, None)), |stream| unknown(stream, hole));
            Some((*of, unknown?))
        });
        unknown.next()
    }
}

/// Behind one number, up to another; `None` where only the time is known.
type Numbers = (Option<u64>, Option<u64>);

/// The first part of a stream in the time of a hole that was neither read nor asked for in vain.
fn unknown(stream: &Stream<'_>, hole: &Hole) -> Option<Numbers> {
    let kinds = [
        &stream.held,
        &stream.passed,
        &stream.expired,
        &stream.skipped,
    ];
    let known = union(kinds.into_iter().flatten().copied().collect());
    let reaches = |interval: &Interval| interval.to_time >= hole.from_time;
    let mut before: Option<Interval> = None;
    for next in known {
        let begins = before.map_or(0, |before| before.to_time);
        let overlaps = begins < hole.to_time && next.from_time > hole.from_time;
        // Before its first number a relay has nothing.
        if overlaps && next.from_seq > 0 {
            let from = before.filter(reaches).map(|before| before.to_seq);
            let to = (next.from_time <= hole.to_time).then_some(next.from_seq);
            return Some((from, to));
        }
        before = Some(next);
    }
    match before {
        Some(last) if last.to_time >= hole.to_time => None,
        last => Some((last.filter(reaches).map(|last| last.to_seq), None)),
    }
}

/// Of all that a relay retains, what it no longer has is no part.
fn is_no_more((_, hole, lost): &Piece<'_, '_>, wanted: &Wanted) -> bool {
    wanted.since == Some(0) && hole.from_seq.is_none() && *lost == Some(Loss::Expired)
}

#[cfg(test)]
mod tests;
