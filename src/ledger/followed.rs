//! Which collections the workers take in now, as their newest facts say it.

use std::collections::BTreeSet;

use crate::config::CollectionFilter;
use crate::slot::SlotSet;
use crate::store::{Fact, FactKind};

/// The different filters of each slot's newest live fact; `None` while the owner of a slot has written none that can be read.
pub fn newest_filters(facts: &[Fact]) -> Option<Vec<CollectionFilter>> {
    let live = facts.iter().filter(|fact| fact.kind == FactKind::Live);
    let newest = |slot| {
        let of_slot = live.clone().filter(|fact| fact.slots.contains(slot));
        let fact = of_slot.max_by_key(|fact| (fact.to_time, fact.run, fact.from_seq));
        fact.map(|fact| &*fact.filter)
    };
    let filters: Option<BTreeSet<&str>> = SlotSet::ALL.iter().map(newest).collect();
    let filters = filters?.into_iter().map(CollectionFilter::parse);
    filters.collect::<Result<_, _>>().ok()
}

/// Whether the owner of every slot has written a live fact of such a filter, and none of another one since.
pub fn all_follow(facts: &[Fact], wanted: impl Fn(&CollectionFilter) -> bool) -> bool {
    newest_filters(facts).is_some_and(|filters| filters.iter().all(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(worker: u16, (from, to): (u64, u64), filter: &str, kind: FactKind) -> Fact {
        Fact {
            relay: "r".into(),
            generation: 0,
            run: u64::from(worker),
            from_seq: from,
            to_seq: to,
            from_time: from,
            to_time: to,
            slots: SlotSet::owned_by(worker, 2),
            filter: filter.into(),
            kind,
        }
    }

    #[test]
    fn all_follow_once_every_owner_has_said_so_last() {
        let wants = |facts: &[Fact]| all_follow(facts, |filter| filter.wants("a.b.d"));
        let (live, replay) = (FactKind::Live, FactKind::Replay);
        let mut facts = vec![
            fact(0, (0, 10), "a.b.c", live),
            fact(0, (10, 20), "a.b.c,a.b.d", live),
        ];
        assert!(!wants(&facts), "one owner has said nothing");
        facts.push(fact(1, (0, 15), "a.b.c", live));
        facts.push(fact(1, (15, 30), "a.b.c,a.b.d", replay));
        assert!(
            !wants(&facts),
            "what is replayed says nothing of what comes"
        );
        facts.push(fact(1, (15, 16), "a.b.c,a.b.d", live));
        assert!(wants(&facts));
        facts.push(fact(0, (20, 21), "a.b.c", live));
        assert!(!wants(&facts), "it has said otherwise since");
        assert!(!all_follow(&facts, |filter| !filter.wants("a.b.d")));
        facts.push(fact(1, (16, 21), "a.b.c", live));
        assert!(all_follow(&facts, |filter| !filter.wants("a.b.d")));
    }
}
