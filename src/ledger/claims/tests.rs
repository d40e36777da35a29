use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const NOW: u64 = 100 * 24 * 3_600_000_000;
const DAY: u64 = 24 * 3_600_000_000;

/// A fact whose times are in days before [`NOW`], so that a `seq` of 100 is now.
fn fact(run: u64, from: u64, to: u64, slots: SlotSet, kind: FactKind) -> Fact {
    Fact {
        relay: "r".into(),
        generation: 0,
        run,
        from_seq: from,
        to_seq: to,
        from_time: from * DAY,
        to_time: to * DAY,
        slots,
        filter: String::new(),
        kind,
    }
}

#[test]
fn what_lies_behind_a_young_gap_is_cut_for_its_slots() {
    let (even, odd) = (SlotSet::owned_by(0, 2), SlotSet::owned_by(1, 2));
    let facts = [
        fact(1, 10, 50, SlotSet::ALL, FactKind::Live),
        // An old gap for all, a young one for the odd slots.
        fact(2, 60, 92, SlotSet::ALL, FactKind::Live),
        fact(3, 92, 95, even, FactKind::Replay),
        fact(4, 95, 99, SlotSet::ALL, FactKind::Live),
    ];
    let (kept, cuts) = before_young_gaps(&facts, NOW);
    assert_eq!(kept[..3], facts[..3]);
    assert_eq!(
        kept[3..],
        [Fact {
            slots: even,
            ..facts[3].clone()
        }]
    );
    let cut = Cut {
        relay: "r".into(),
        generation: 0,
        from_seq: 92,
        to_seq: 99,
        from_time: 92 * DAY,
        to_time: 99 * DAY,
        slots: odd,
    };
    assert_eq!(cuts, [cut]);
    // Ten days later the gap is old.
    let (kept, cuts) = before_young_gaps(&facts, NOW + 3 * DAY);
    assert_eq!((&kept[..], &cuts[..]), (&facts[..], &[][..]));
}

#[test]
fn streams_don_t_mix_and_a_passed_frame_is_no_gap() {
    let mut other = fact(3, 97, 99, SlotSet::ALL, FactKind::Live);
    other.generation = 1;
    let facts = [
        fact(1, 90, 95, SlotSet::ALL, FactKind::Live),
        fact(1, 95, 96, SlotSet::ALL, FactKind::Passed),
        fact(2, 96, 97, SlotSet::ALL, FactKind::Live),
        other,
    ];
    assert_eq!(before_young_gaps(&facts, NOW), (facts.to_vec(), vec![]));
}

#[test]
fn only_what_lies_before_the_own_facts_is_taken() {
    let (even, odd) = (SlotSet::owned_by(0, 2), SlotSet::owned_by(1, 2));
    let facts = [
        fact(1, 10, 50, SlotSet::ALL, FactKind::Live),
        fact(2, 60, 80, SlotSet::ALL, FactKind::Live),
    ];
    assert_eq!(before_held(&facts, &[]), (facts.to_vec(), vec![]));
    assert_eq!(before_held(&facts, &facts).0, [], "held already");
    let own = [
        fact(7, 40, 70, even, FactKind::Live),
        fact(7, 75, 90, odd, FactKind::Live),
    ];
    let (kept, cuts) = before_held(&facts, &own);
    let first = Fact {
        to_seq: 40,
        to_time: 40 * DAY,
        ..facts[0].clone()
    };
    let second = Fact {
        to_seq: 75,
        to_time: 75 * DAY,
        slots: odd,
        ..facts[1].clone()
    };
    assert_eq!(kept, [first, second]);
    let ends: Vec<_> = cuts
        .iter()
        .map(|cut| (cut.from_seq, cut.to_seq, cut.slots))
        .collect();
    assert_eq!(ends, [(40, 80, even), (75, 80, odd)]);

    let mut elsewhere = fact(7, 1, 9, SlotSet::ALL, FactKind::Live);
    elsewhere.relay = "other".into();
    (elsewhere.from_time, elsewhere.to_time) = (55 * DAY, 90 * DAY);
    let (kept, cuts) = before_held(&facts, &[elsewhere]);
    assert_eq!(kept, facts[..1]);
    assert_eq!((cuts[0].from_seq, cuts[0].to_seq), (60, 80));
}

fn facts() -> impl Strategy<Value = Vec<Fact>> {
    let kinds = prop_oneof![
        4 => Just(FactKind::Live),
        1 => Just(FactKind::Replay),
        1 => Just(FactKind::Passed),
    ];
    let one = (0u64..4, 80u64..99, 0u64..8, 0u16..4, 0u32..2, kinds);
    let fact = one.prop_map(|(run, from, len, owner, generation, kind)| {
        let slots = match owner {
            3 => SlotSet::ALL,
            owner => SlotSet::owned_by(owner, 3),
        };
        let mut fact = fact(run, from, from + len, slots, kind);
        fact.generation = generation;
        fact
    });
    proptest::collection::vec(fact, 0..10)
}

/// (generation, slot, seq), for the slots 0 to 2.
fn held(facts: &[Fact], passed: bool) -> BTreeSet<(u32, u8, u64)> {
    let mut held = BTreeSet::new();
    for fact in facts
        .iter()
        .filter(|fact| passed || fact.kind != FactKind::Passed)
    {
        for slot in (0..3).filter(|slot| fact.slots.contains(*slot)) {
            held.extend((fact.from_seq + 1..=fact.to_seq).map(|seq| (fact.generation, slot, seq)));
        }
    }
    held
}

fn key(fact: &Fact) -> (u32, u64, u64) {
    (fact.generation, fact.run, fact.from_seq)
}

proptest! {
    #[test]
    fn nothing_behind_a_young_gap_is_claimed(facts in facts()) {
        let (kept, cuts) = before_young_gaps(&facts, NOW);
        let (before, after) = (held(&facts, true), held(&kept, true));
        prop_assert!(after.is_subset(&before));
        for (generation, slot, seq) in &after {
            // Walking back from a claim, a hole with claims before it began more than ten days ago.
            let earlier = |seq: u64| before.contains(&(*generation, *slot, seq));
            let first = (0..*seq).find(|seq| earlier(*seq)).unwrap_or(*seq);
            for start in (first..*seq).filter(|at| earlier(*at) && !earlier(at + 1)) {
                prop_assert!(start * DAY <= NOW - OLD_GAP, "{seq} behind the gap at {start}");
            }
        }
        // What is cut is said, and nothing else is missing.
        let cut = |(generation, slot, seq): &(u32, u8, u64)| {
            cuts.iter().any(|cut| {
                cut.generation == *generation && cut.slots.contains(*slot)
                    && (cut.from_seq + 1..=cut.to_seq).contains(seq)
            })
        };
        let (before, after) = (held(&facts, false), held(&kept, false));
        prop_assert!(before.difference(&after).all(cut));
        prop_assert!(!after.iter().any(cut));
    }

    #[test]
    fn claims_only_shrink_to_what_lies_before_the_own_facts(facts in facts(), own in facts()) {
        let (kept, _) = before_held(&facts, &own);
        let before: BTreeSet<_> = held(&facts, true);
        prop_assert!(held(&kept, true).is_subset(&before));
        let own = held(&own, false);
        for (generation, slot, seq) in held(&kept, false) {
            let later = own.iter().filter(|(_, of, _)| *of == slot);
            prop_assert!(later.clone().all(|(of, _, at)| *of != generation || *at > seq));
        }
        let names: BTreeSet<_> = facts.iter().map(key).collect();
        prop_assert!(kept.iter().all(|fact| names.contains(&key(fact))));
    }
}
