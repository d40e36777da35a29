//! The ledger: which intervals of which streams are held, where to resume, and what is missing.
//!
//! Facts only grow. Within a generation of a relay they join by `seq`; what lies between two of them is a gap, and is
//! never forgotten.

pub mod claims;
pub mod continuity;

use std::collections::BTreeMap;

use crate::slot::SlotSet;
use crate::store::{Fact, FactKind};

/// Where a stream goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// The relay's `seq` space.
    pub generation: u32,
    /// All at or below it was taken in, or is a gap that the ledger shows.
    pub seq: u64,
    /// Time at `seq`, microseconds.
    pub time: u64,
    /// Whether a frame with this very `seq` was seen, so that a relay that still has it proves that nothing is skipped.
    pub anchored: bool,
}

/// Where live goes on at a relay: the oldest tail of these slots in its newest generation. `None` where nothing is held.
pub fn resume(facts: &[Fact], relay: &str, slots: SlotSet) -> Option<Resume> {
    let generation = newest_generation(facts, relay)?;
    let of_relay = || {
        facts
            .iter()
            .filter(|fact| fact.relay == relay && fact.generation == generation)
    };
    let tails = slots
        .iter()
        .filter_map(|slot| {
            of_relay()
                .filter(|fact| fact.slots.contains(slot))
                .max_by_key(|fact| fact.to_seq)
        })
        .min_by_key(|fact| fact.to_seq)?;
    Some(Resume {
        generation,
        seq: tails.to_seq,
        time: tails.to_time,
        anchored: tails.kind != FactKind::Passed,
    })
}

/// Whether a relay's newest generation has to be read from its oldest frame: some of these slots have facts of earlier ones and
/// none of it, for their worker was away when the relay counted anew; or, where `all` that a relay has is asked for, some have
/// no fact: their worker ended before its first claim, or never ran.
pub fn is_unread(facts: &[Fact], relay: &str, slots: SlotSet, all: bool) -> bool {
    let newest = newest_generation(facts, relay);
    let of_relay = facts.iter().filter(|fact| fact.relay == relay);
    slots.iter().any(|slot| {
        let of_slot = of_relay.clone().filter(|fact| fact.slots.contains(slot));
        match of_slot.map(|fact| fact.generation).max() {
            None => all,
            known => known < newest,
        }
    })
}

/// The newest generation that anything is known of.
pub fn newest_generation(facts: &[Fact], relay: &str) -> Option<u32> {
    facts
        .iter()
        .filter(|fact| fact.relay == relay)
        .map(|fact| fact.generation)
        .max()
}

/// An interval (from_seq, to_seq] between two held ones that is not held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
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
    /// The slots that miss it.
    pub slots: SlotSet,
}

/// What lies between held intervals, per relay and generation, for these slots.
pub fn gaps(facts: &[Fact], slots: SlotSet) -> Vec<Gap> {
    let mut gaps: BTreeMap<(String, u32, u64, u64), Gap> = BTreeMap::new();
    let mut streams: Vec<(&str, u32)> = facts
        .iter()
        .map(|fact| (fact.relay.as_str(), fact.generation))
        .collect();
    streams.sort_unstable();
    streams.dedup();
    for (relay, generation) in streams {
        for slot in slots.iter() {
            for (from, to) in gaps_of_slot(facts, relay, generation, slot) {
                let key = (relay.to_owned(), generation, from.to_seq, to.from_seq);
                let gap = gaps.entry(key).or_insert_with(|| Gap {
                    relay: relay.to_owned(),
                    generation,
                    from_seq: from.to_seq,
                    to_seq: to.from_seq,
                    from_time: from.to_time,
                    to_time: to.from_time,
                    slots: SlotSet::default(),
                });
                gap.slots.insert(slot);
            }
        }
    }
    gaps.into_values().collect()
}

/// Pairs of neighbouring facts of one slot with something missing between them.
fn gaps_of_slot<'a>(
    facts: &'a [Fact],
    relay: &str,
    generation: u32,
    slot: u8,
) -> Vec<(&'a Fact, &'a Fact)> {
    let mut held: Vec<&Fact> = facts
        .iter()
        .filter(|fact| {
            fact.relay == relay
                && fact.generation == generation
                && fact.kind != FactKind::Passed
                && fact.slots.contains(slot)
        })
        .collect();
    held.sort_by_key(|fact| fact.from_seq);
    let mut gaps = Vec::new();
    let mut furthest: Option<&Fact> = None;
    for fact in held {
        if let Some(before) = furthest
            && fact.from_seq > before.to_seq
        {
            gaps.push((before, fact));
        }
        if furthest.is_none_or(|before| fact.to_seq > before.to_seq) {
            furthest = Some(fact);
        }
    }
    gaps
}

/// Seconds between held intervals that are missing, over all relays.
pub fn missing_seconds(gaps: &[Gap]) -> u64 {
    gaps.iter()
        .map(|gap| gap.to_time.saturating_sub(gap.from_time) / 1_000_000)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(run: u64, from: u64, to: u64, slots: SlotSet, kind: FactKind) -> Fact {
        Fact {
            relay: "r".into(),
            generation: 0,
            run,
            from_seq: from,
            to_seq: to,
            from_time: from * 1_000_000,
            to_time: to * 1_000_000,
            slots,
            filter: String::new(),
            kind,
        }
    }

    #[test]
    fn resumes_at_the_oldest_tail_of_its_slots() {
        let (even, odd) = (SlotSet::owned_by(0, 2), SlotSet::owned_by(1, 2));
        let facts = [
            fact(1, 0, 50, even, FactKind::Live),
            fact(2, 0, 40, odd, FactKind::Live),
            fact(3, 60, 90, odd, FactKind::Live),
        ];
        assert_eq!(resume(&facts, "r", SlotSet::ALL).unwrap().seq, 50);
        assert_eq!(resume(&facts, "r", odd).unwrap().seq, 90);
        assert_eq!(resume(&facts, "other", odd), None);
    }

    #[test]
    fn slots_that_nobody_has_read_are_known() {
        let (even, odd) = (SlotSet::owned_by(0, 2), SlotSet::owned_by(1, 2));
        let mut facts = vec![fact(1, 0, 50, even, FactKind::Live)];
        for (slots, all, unread) in [
            (even, true, false),
            (SlotSet::ALL, true, true),
            (SlotSet::ALL, false, false),
            (odd, false, false),
        ] {
            assert_eq!(
                is_unread(&facts, "r", slots, all),
                unread,
                "{slots:?} {all}"
            );
        }
        assert!(is_unread(&facts, "other", even, true));
        facts.push(fact(2, 0, 40, SlotSet::ALL, FactKind::Live));
        assert!(!is_unread(&facts, "r", SlotSet::ALL, true));
        // The even ones saw that the relay counts anew, the odd ones did not.
        facts[0].generation = 1;
        assert!(!is_unread(&facts, "r", even, false));
        assert!(is_unread(&facts, "r", odd, false));
        assert!(is_unread(&facts, "r", SlotSet::ALL, false));
    }

    #[test]
    fn a_passed_frame_is_no_anchor_and_not_held() {
        let facts = [
            fact(1, 0, 50, SlotSet::ALL, FactKind::Live),
            fact(1, 50, 51, SlotSet::ALL, FactKind::Passed),
        ];
        let at = resume(&facts, "r", SlotSet::ALL).unwrap();
        assert_eq!((at.seq, at.anchored), (51, false));
        let more = [
            facts[0].clone(),
            facts[1].clone(),
            fact(1, 51, 60, SlotSet::ALL, FactKind::Live),
        ];
        let gaps = gaps(&more, SlotSet::ALL);
        assert_eq!((gaps[0].from_seq, gaps[0].to_seq), (50, 51));
    }

    #[test]
    fn gaps_are_what_lies_between_the_union_of_facts() {
        let facts = [
            fact(1, 10, 20, SlotSet::ALL, FactKind::Live),
            fact(2, 5, 12, SlotSet::ALL, FactKind::Live),
            fact(3, 30, 40, SlotSet::ALL, FactKind::Live),
            fact(4, 20, 25, SlotSet::owned_by(0, 2), FactKind::Replay),
        ];
        let gaps = gaps(&facts, SlotSet::ALL);
        let ends: Vec<_> = gaps
            .iter()
            .map(|gap| (gap.from_seq, gap.to_seq, gap.slots.len()))
            .collect();
        assert_eq!(ends, [(20, 30, 128), (25, 30, 128)]);
        assert_eq!(missing_seconds(&gaps), 15);
        assert_eq!(super::gaps(&facts[..2], SlotSet::ALL), []);
    }
}
