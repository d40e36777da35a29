//! Which rows of the ledger can become one.
//!
//! Each run writes rows of its own, so a ledger that only grew would have one for every restart. Rows that say the same of
//! intervals that touch or overlap are joined: the wide row is written first, and once it is durable the narrow ones go.
//!
//! The wide row is one of the joined rows, grown: it has the key (relay, generation, run, `from_seq`) of the first of them,
//! and the last `to_seq`, and the kind of the first one: how an interval came to be held does not matter any more. A row is
//! removed up to its own `to_seq` only, and only for a row that says strictly more, or the same with an older run. So there is no circle: whatever was written is at any time covered by a row that nobody removes,
//! if a merge is killed, done again, or raced by another one, and in whatever order its writes arrive. A run that grows its
//! row after all writes it again, whole. Two merges at once that know different times of one end may leave either of them.

use std::collections::HashMap;

use super::held::{Interval, union};
use crate::slot::SlotSet;
use crate::store::{Fact, FactKind};

/// What ended so long ago (microseconds, by the frames' times) is no longer written by a live stream.
const SETTLED: u64 = 3_600_000_000;
/// Rows that one merge joins at most.
pub const ROWS: usize = 1_000;

/// Rows that become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    /// The row that says it all.
    pub wide: Fact,
    /// Whether it has to be written; else it is there already.
    pub grows: bool,
    /// The rows that go once it is durable.
    pub narrow: Vec<Fact>,
}

/// Joins the rows whose runs have ended (see [`ended`]); none has more than [`ROWS`] rows to remove. What is left to join
/// behind so many is found by the next call, which needs the facts as they are then.
pub fn merge(facts: &[Fact], ended: impl Fn(&Fact) -> bool) -> Vec<Merge> {
    let mut groups: HashMap<Group<'_>, Vec<&Fact>> = HashMap::new();
    for fact in facts.iter().filter(|fact| ended(fact)) {
        groups.entry(Group::of(fact)).or_default().push(fact);
    }
    let mut merges: Vec<Merge> = groups.into_values().flat_map(joined).collect();
    merges.sort_unstable_by(|a, b| key(&a.wide).cmp(&key(&b.wide)));
    merges
}

/// Tells of each fact whether its run writes it no more, at the time of `now` (microseconds). There is no record of a run's
/// end, so this is careful: the newest row of each (relay, generation, slots, kind) may still grow, and so may what reaches
/// into the last hour. A row that grows all the same loses nothing.
pub fn ended(facts: &[Fact], now: u64) -> impl Fn(&Fact) -> bool {
    let mut newest: HashMap<(&str, u32, SlotSet, FactKind), (u64, u64)> = HashMap::new();
    for fact in facts {
        let last = newest.entry(writer(fact)).or_default();
        *last = (*last).max((fact.run, fact.from_seq));
    }
    let settled = now.saturating_sub(SETTLED);
    move |fact| {
        let last = newest.get(&writer(fact));
        let is_older = last.is_some_and(|last| (fact.run, fact.from_seq) < *last);
        is_older && fact.to_time < settled
    }
}

/// The rows that can go now, of `held` as it was read since the wide rows were written.
pub fn removable(merges: &[Merge], held: &[Fact]) -> Vec<Fact> {
    let held: HashMap<_, _> = held.iter().map(|fact| (key(fact), fact)).collect();
    let mut going = Vec::new();
    for merge in merges {
        if let Some(wide) = held.get(&key(&merge.wide)) {
            let narrow = merge.narrow.iter().filter(|narrow| covers(wide, narrow));
            going.extend(narrow.cloned());
        }
    }
    going
}

/// Facts of one group differ in nothing but their run, their interval, and how it came to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Group<'a> {
    relay: &'a str,
    generation: u32,
    slots: SlotSet,
    filter: &'a str,
    says: FactKind,
}

impl<'a> Group<'a> {
    fn of(fact: &'a Fact) -> Self {
        Self {
            relay: &fact.relay,
            generation: fact.generation,
            slots: fact.slots,
            filter: &fact.filter,
            says: match fact.kind {
                FactKind::Live | FactKind::Replay | FactKind::Repos => FactKind::Live,
                kind @ (FactKind::Passed | FactKind::Expired | FactKind::Skipped) => kind,
            },
        }
    }
}

/// Who writes a row.
fn writer(fact: &Fact) -> (&str, u32, SlotSet, FactKind) {
    (&fact.relay, fact.generation, fact.slots, fact.kind)
}

/// The key of a row.
fn key(fact: &Fact) -> (&str, u32, u64, u64) {
    (&fact.relay, fact.generation, fact.run, fact.from_seq)
}

/// Joins facts of one group that touch or overlap, each to one that begins before it and whose run is not newer: so a row's
/// run tells since when, at the earliest, anything that it says was taken in.
fn joined(mut facts: Vec<&Fact>) -> Vec<Merge> {
    facts.sort_unstable_by_key(|fact| (fact.from_seq, std::cmp::Reverse(fact.to_seq), fact.run));
    let mut merges = Vec::new();
    let mut open: Vec<Chain<'_>> = Vec::new();
    for fact in facts {
        merges.extend(
            open.extract_if(.., |chain| chain.ends_before(fact))
                .filter_map(|chain| one_of(&chain.rows)),
        );
        match open.iter_mut().find(|chain| chain.run() <= fact.run) {
            Some(chain) => chain.push(fact),
            None => open.push(Chain {
                rows: vec![fact],
                reach: fact.to_seq,
            }),
        }
    }
    merges.extend(open.iter().filter_map(|chain| one_of(&chain.rows)));
    merges
}

/// Rows that touch or overlap, the first of which begins first.
struct Chain<'a> {
    rows: Vec<&'a Fact>,
    reach: u64,
}

impl<'a> Chain<'a> {
    fn run(&self) -> u64 {
        self.rows.first().map_or(0, |first| first.run)
    }

    fn push(&mut self, fact: &'a Fact) {
        self.reach = self.reach.max(fact.to_seq);
        self.rows.push(fact);
    }

    fn ends_before(&self, fact: &Fact) -> bool {
        fact.from_seq > self.reach || self.rows.len() > ROWS
    }
}

/// Makes one row of facts that touch or overlap, the first of which begins first. `None` where nothing can go.
fn one_of(rows: &[&Fact]) -> Option<Merge> {
    let (first, others) = rows.split_first()?;
    let mut wide = (*first).clone();
    let all = rows.iter().map(|fact| Interval::of(fact)).collect();
    let all = *union(all).first()?;
    // A row that does not grow can't be changed.
    let grows = all.to_seq > first.to_seq;
    if grows {
        wide.to_seq = all.to_seq;
        wide.from_time = all.from_time;
        wide.to_time = all.to_time;
    }
    let narrow = others.iter().filter(|narrow| covers(&wide, narrow));
    let narrow: Vec<Fact> = narrow.map(|narrow| (*narrow).clone()).collect();
    let is_same = !grows || begins_alike(&wide, first);
    (is_same && !narrow.is_empty()).then_some(Merge {
        wide,
        grows,
        narrow,
    })
}

/// Whether a row says all that another row says, and more; or the same, of an older run.
fn covers(wide: &Fact, narrow: &Fact) -> bool {
    if key(wide) == key(narrow) || Group::of(wide) != Group::of(narrow) {
        return false;
    }
    let (outer, inner) = (Interval::of(wide), Interval::of(narrow));
    let begins = outer.from_seq < inner.from_seq || begins_alike(wide, narrow);
    let ends = outer.to_seq > inner.to_seq
        || outer.to_seq == inner.to_seq && outer.to_time >= inner.to_time;
    let is_same = (outer.from_seq, outer.to_seq) == (inner.from_seq, inner.to_seq);
    begins && ends && (!is_same || wide.run < narrow.run)
}

/// Whether a row begins where another one does, and not later.
fn begins_alike(wide: &Fact, narrow: &Fact) -> bool {
    let (outer, inner) = (Interval::of(wide), Interval::of(narrow));
    outer.from_seq == inner.from_seq && outer.from_time <= inner.from_time
}

#[cfg(test)]
mod tests;
