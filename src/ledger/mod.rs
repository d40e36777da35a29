//! The ledger: which intervals of which streams are held, where to resume, and what is missing.
//!
//! Facts only grow. Within a generation of a relay they join by `seq`; what lies between two of them is a gap, and is
//! never forgotten.

mod aged;
pub mod claims;
pub mod continuity;
mod cover;
mod followed;
pub mod held;
pub mod merge;
mod report;

pub use followed::{all_follow, newest_filters};
pub use held::Loss;
pub use report::{Gap, Report, Span, Wanted, gaps, missing_micros, report};

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

/// Where live goes on at a relay: the oldest tail of these slots in its newest generation that is not older than `since`
/// (microseconds); where all are, the newest one. `None` where nothing is held.
pub fn resume(facts: &[Fact], relay: &str, slots: SlotSet, since: u64) -> Option<Resume> {
    let generation = newest_generation(facts, relay)?;
    let of_relay = || {
        facts
            .iter()
            .filter(|fact| fact.relay == relay && fact.generation == generation)
            .filter(|fact| !fact.kind.is_lost())
    };
    let tails: Vec<&Fact> = slots
        .iter()
        .filter_map(|slot| {
            of_relay()
                .filter(|fact| fact.slots.contains(slot))
                .max_by_key(|fact| fact.to_seq)
        })
        .collect();
    let young = tails.iter().filter(|tail| tail.to_time >= since);
    let oldest = young.min_by_key(|tail| tail.to_seq);
    let tail = oldest.or_else(|| tails.iter().max_by_key(|tail| tail.to_seq))?;
    Some(Resume {
        generation,
        seq: tail.to_seq,
        time: tail.to_time,
        anchored: tail.kind != FactKind::Passed,
    })
}

/// A number of the stream of a gap, and its time (microseconds), other than where the gap begins: one that is well before it, if
/// there is any.
pub fn another_place(facts: &[Fact], gap: &Gap) -> Option<(u64, u64)> {
    const WELL_BEFORE: u64 = 1_000;
    let from = gap.from_seq?;
    let of_stream = |fact: &&Fact| {
        fact.kind.is_held() && (&fact.relay, fact.generation) == (&gap.relay, gap.generation)
    };
    // One that repositories closed may begin at a time of which no number is known.
    let begin = |fact: &Fact| {
        let is_read = fact.kind != FactKind::Repos;
        is_read.then_some((fact.from_seq + 1, fact.from_time))
    };
    let ends = |fact: &Fact| {
        let end = (fact.to_seq, fact.to_time);
        begin(fact).into_iter().chain([end]).collect::<Vec<_>>()
    };
    let places = || facts.iter().filter(of_stream).flat_map(ends);
    let before = places().filter(|(seq, time)| *seq < from && *time > 0);
    let well_before = before.clone().filter(|(seq, _)| seq + WELL_BEFORE <= from);
    well_before.max().or_else(|| before.min())
}

/// The newest generation that anything is known of.
pub fn newest_generation(facts: &[Fact], relay: &str) -> Option<u32> {
    facts
        .iter()
        .filter(|fact| fact.relay == relay)
        .map(|fact| fact.generation)
        .max()
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
        assert_eq!(resume(&facts, "r", SlotSet::ALL, 0).unwrap().seq, 50);
        assert_eq!(resume(&facts, "r", odd, 0).unwrap().seq, 90);
        assert_eq!(resume(&facts, "other", odd, 0), None);
        // Slots that are too far behind don't hold the others up.
        let all = SlotSet::ALL;
        assert_eq!(resume(&facts, "r", all, 51_000_000).unwrap().seq, 90);
        assert_eq!(resume(&facts, "r", all, 91_000_000).unwrap().seq, 90);
    }

    #[test]
    fn a_passed_frame_is_no_anchor_and_not_held() {
        let facts = [
            fact(1, 0, 50, SlotSet::ALL, FactKind::Live),
            fact(1, 50, 51, SlotSet::ALL, FactKind::Passed),
        ];
        let at = resume(&facts, "r", SlotSet::ALL, 0).unwrap();
        assert_eq!((at.seq, at.anchored), (51, false));
        let more = [
            facts[0].clone(),
            facts[1].clone(),
            fact(1, 51, 60, SlotSet::ALL, FactKind::Live),
        ];
        let report = report(&more, &Wanted::between(SlotSet::ALL));
        assert_eq!(report.missing, []);
        assert_eq!(
            (report.passed[0].from_seq, report.passed[0].to_seq),
            (50, 51)
        );
    }
}
