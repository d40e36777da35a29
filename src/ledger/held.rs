//! The union of the facts: which intervals of which streams each slot holds.
//!
//! Facts carry sets of slots, and there are few sets. So the intervals are joined once for each set; then the slots are
//! cut into parts that no set divides, and what the sets of a part have is joined once for the part.

use std::collections::{BTreeMap, HashMap};

use crate::config::CollectionFilter;
use crate::slot::SlotSet;
use crate::store::{Fact, FactKind};

/// (from_seq, to_seq] of a stream and the times at its ends, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval {
    /// Exclusive.
    pub from_seq: u64,
    /// Inclusive.
    pub to_seq: u64,
    /// Time at `from_seq`.
    pub from_time: u64,
    /// Time at `to_seq`.
    pub to_time: u64,
}

impl Interval {
    /// What a fact says. A time of 0 is one that nobody knew: then the interval begins, in time, where it ends.
    pub(crate) fn of(fact: &Fact) -> Self {
        Self {
            from_seq: fact.from_seq,
            to_seq: fact.to_seq,
            from_time: match fact.from_time {
                0 => fact.to_time,
                time => time,
            },
            to_time: fact.to_time,
        }
    }
}

/// Why a part of a stream can't be replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Loss {
    /// It is older than what the relay retains.
    Expired,
    /// The relay has what is before and what is behind it, and skips it.
    Skipped,
    /// A replay could bring back what was deleted since.
    Stale,
}

/// What is known of one numbering of one relay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stream<'a> {
    /// Host of the relay.
    pub relay: &'a str,
    /// Its `seq` space.
    pub generation: u32,
    /// What is held; apart from each other, ascending.
    pub held: Vec<Interval>,
    /// What was passed unread; apart from each other, ascending. Not held, and not to be fetched either.
    pub passed: Vec<Interval>,
    /// What the relay was asked for and could not serve; apart from each other, ascending.
    pub expired: Vec<Interval>,
    /// The same, where it skipped it.
    pub skipped: Vec<Interval>,
}

impl Stream<'_> {
    /// What is held together with what was passed beside it: between two of these something is to be fetched.
    pub(crate) fn spans(&self) -> Vec<Interval> {
        if self.passed.is_empty() {
            return self.held.clone();
        }
        let mut spans = union(self.held.iter().chain(&self.passed).copied().collect());
        spans.retain(|span| {
            let at = self
                .held
                .partition_point(|held| held.from_seq < span.from_seq);
            let first = self.held.get(at);
            first.is_some_and(|first| first.to_seq <= span.to_seq)
        });
        spans
    }
}

/// Slots that hold the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding<'a> {
    /// The slots.
    pub slots: SlotSet,
    /// What they hold, by relay and generation.
    pub streams: Vec<Stream<'a>>,
}

/// What a fact says of its interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    Held,
    Passed,
    Expired,
    Skipped,
}

impl Said {
    fn of(kind: FactKind) -> Self {
        match kind {
            FactKind::Live | FactKind::Replay | FactKind::Repos => Self::Held,
            FactKind::Passed => Self::Passed,
            FactKind::Expired => Self::Expired,
            FactKind::Skipped => Self::Skipped,
        }
    }
}

/// A stream and what is said of it.
type Key<'a> = (&'a str, u32, Said);

/// What these slots hold of the collections that are wanted. An interval counts only where its filter covered them all.
/// Every slot is in one of the holdings, also where it holds nothing.
pub fn held<'a>(facts: &'a [Fact], wanted: &CollectionFilter, slots: SlotSet) -> Vec<Holding<'a>> {
    let sets = by_set(facts, wanted);
    let mut holdings: Vec<Holding<'a>> = Vec::new();
    for part in parts(slots, sets.iter().map(|(set, _)| *set)) {
        let streams = streams_of(part, &sets);
        match holdings.iter_mut().find(|held| held.streams == streams) {
            Some(same) => same.slots = same.slots.union(part),
            None => holdings.push(Holding {
                slots: part,
                streams,
            }),
        }
    }
    holdings
}

/// The union of the intervals of each set of slots.
fn by_set<'a>(
    facts: &'a [Fact],
    wanted: &CollectionFilter,
) -> Vec<(SlotSet, BTreeMap<Key<'a>, Vec<Interval>>)> {
    let mut covering: HashMap<&str, bool> = HashMap::new();
    let mut sets: HashMap<SlotSet, BTreeMap<Key<'a>, Vec<Interval>>> = HashMap::new();
    for fact in facts {
        let said = Said::of(fact.kind);
        let covers = || {
            let filter = CollectionFilter::parse(&fact.filter);
            filter.is_ok_and(|filter| filter.covers(wanted))
        };
        // What was passed or lost is so for every collection.
        if said == Said::Held && !*covering.entry(&fact.filter).or_insert_with(covers) {
            continue;
        }
        let key = (fact.relay.as_str(), fact.generation, said);
        let streams = sets.entry(fact.slots).or_default();
        streams.entry(key).or_default().push(Interval::of(fact));
    }
    let mut sets: Vec<_> = sets.into_iter().collect();
    sets.sort_unstable_by_key(|(set, _)| set.to_bytes());
    for (_, streams) in &mut sets {
        for intervals in streams.values_mut() {
            *intervals = union(std::mem::take(intervals));
        }
    }
    sets
}

/// Cuts `slots` until every set has all or nothing of each part.
fn parts(slots: SlotSet, sets: impl Iterator<Item = SlotSet>) -> Vec<SlotSet> {
    let mut parts = vec![slots];
    for set in sets {
        parts = parts
            .into_iter()
            .flat_map(|part| [part.intersection(set), part.difference(set)])
            .filter(|part| !part.is_empty())
            .collect();
    }
    parts
}

fn streams_of<'a>(
    part: SlotSet,
    sets: &[(SlotSet, BTreeMap<Key<'a>, Vec<Interval>>)],
) -> Vec<Stream<'a>> {
    let mut all: BTreeMap<Key<'a>, Vec<Interval>> = BTreeMap::new();
    for (set, streams) in sets {
        if !set.intersection(part).is_empty() {
            for (key, intervals) in streams {
                all.entry(*key).or_default().extend(intervals);
            }
        }
    }
    let mut streams: Vec<Stream<'a>> = Vec::new();
    for ((relay, generation, said), intervals) in all {
        let same = |last: &&mut Stream<'a>| (last.relay, last.generation) == (relay, generation);
        if streams.last_mut().filter(same).is_none() {
            streams.push(Stream {
                relay,
                generation,
                ..Stream::default()
            });
        }
        let Some(stream) = streams.last_mut() else {
            continue;
        };
        let part = match said {
            Said::Held => &mut stream.held,
            Said::Passed => &mut stream.passed,
            Said::Expired => &mut stream.expired,
            Said::Skipped => &mut stream.skipped,
        };
        *part = union(intervals);
    }
    streams
}

/// Joins intervals that touch or overlap. Where several begin or end at the same `seq`, the earliest begin and the latest end
/// in time count, so the order in which they are joined does not matter.
pub(crate) fn union(mut intervals: Vec<Interval>) -> Vec<Interval> {
    intervals.sort_unstable();
    let mut joined: Vec<Interval> = Vec::new();
    for next in intervals {
        match joined.last_mut() {
            Some(last) if next.from_seq <= last.to_seq => {
                if next.from_seq == last.from_seq {
                    last.from_time = last.from_time.min(next.from_time);
                }
                if next.to_seq > last.to_seq {
                    (last.to_seq, last.to_time) = (next.to_seq, next.to_time);
                } else if next.to_seq == last.to_seq {
                    last.to_time = last.to_time.max(next.to_time);
                }
            }
            _ => joined.push(next),
        }
    }
    joined
}
