use std::collections::BTreeMap;

use fastrand::Rng;

use super::super::held::{Holding, held};
use super::*;
use crate::config::CollectionFilter;

const SECOND: u64 = 1_000_000;
const HOUR: u64 = 3_600 * SECOND;

fn fact(run: u64, from: u64, to: u64, kind: FactKind) -> Fact {
    Fact {
        relay: "r".into(),
        generation: 0,
        run,
        from_seq: from,
        to_seq: to,
        from_time: (from + 1) * SECOND,
        to_time: (to + 1) * SECOND,
        slots: SlotSet::ALL,
        filter: String::new(),
        kind,
    }
}

fn live(run: u64, from: u64, to: u64) -> Fact {
    fact(run, from, to, FactKind::Live)
}

fn all(facts: &[Fact]) -> Vec<Merge> {
    merge(facts, |_| true)
}

#[test]
fn what_touches_becomes_one_row_with_the_key_of_the_first() {
    let facts = [
        live(5, 0, 10),
        fact(9, 10, 20, FactKind::Replay),
        live(7, 18, 30),
        live(6, 5, 8),
        // A gap before it.
        live(8, 31, 40),
    ];
    let merges = all(&facts);
    let wide = live(5, 0, 30);
    assert_eq!(merges.len(), 1);
    assert_eq!((&merges[0].wide, merges[0].grows), (&wide, true));
    assert_eq!(merges[0].narrow.len(), 3);
    // What was killed before all had gone goes on with the same row.
    let after = [wide.clone(), facts[2].clone(), facts[4].clone()];
    let again = Merge {
        wide: wide.clone(),
        grows: false,
        narrow: vec![facts[2].clone()],
    };
    assert_eq!(all(&after), [again]);
    assert_eq!(all(&[wide, facts[4].clone()]), []);
}

#[test]
fn a_row_holds_nothing_of_older_runs() {
    let facts = [
        fact(5, 0, 10, FactKind::Replay),
        live(1, 10, 500),
        fact(6, 8, 12, FactKind::Replay),
        live(7, 500, 900),
    ];
    let merges = all(&facts);
    let wide: Vec<_> = merges.iter().map(|merge| &merge.wide).collect();
    assert_eq!(wide, [&live(1, 10, 900), &fact(5, 0, 12, FactKind::Replay)]);
}

#[test]
fn only_what_says_the_same_is_joined() {
    let one = live(1, 0, 10);
    let next = live(2, 10, 20);
    let others = [
        Fact {
            relay: "other".into(),
            ..next.clone()
        },
        Fact {
            generation: 1,
            ..next.clone()
        },
        Fact {
            slots: SlotSet::owned_by(0, 2),
            ..next.clone()
        },
        Fact {
            filter: "app.bsky.feed.post".into(),
            ..next.clone()
        },
        fact(2, 10, 20, FactKind::Passed),
        fact(2, 10, 20, FactKind::Expired),
        fact(2, 10, 20, FactKind::Skipped),
    ];
    for other in others {
        assert_eq!(all(&[one.clone(), other.clone()]), [], "{other:?}");
        let alike = Fact {
            run: 3,
            from_seq: 20,
            to_seq: 30,
            ..other.clone()
        };
        assert_eq!(all(&[one.clone(), other, alike]).len(), 1);
    }
    assert_eq!(all(&[one, next]).len(), 1);
}

#[test]
fn of_equal_rows_the_oldest_run_stays_and_no_time_is_lost() {
    let merges = all(&[live(2, 0, 10), live(1, 0, 10)]);
    assert_eq!((&merges[0].wide, merges[0].grows), (&live(1, 0, 10), false));
    assert_eq!(merges[0].narrow, [live(2, 0, 10)]);
    // A row that does not grow can't learn the time of another one.
    let earlier = Fact {
        from_time: 1,
        ..live(2, 5, 10)
    };
    assert_eq!(all(&[earlier.clone(), live(1, 5, 10)]), []);
    let merges = all(&[earlier, live(1, 5, 10), live(3, 10, 11)]);
    assert_eq!((merges[0].wide.run, merges[0].wide.from_time), (1, 1));
}

#[test]
fn a_row_is_removed_only_for_one_that_is_there() {
    let facts = [live(1, 0, 10), live(2, 10, 20)];
    let merges = all(&facts);
    assert_eq!(removable(&merges, &facts), []);
    assert_eq!(removable(&merges, &[]), []);
    let shorter = [live(1, 0, 19), live(2, 10, 20)];
    assert_eq!(removable(&merges, &shorter), []);
    let grown = [live(1, 0, 25), live(2, 10, 20)];
    assert_eq!(removable(&merges, &grown), [live(2, 10, 20)]);
}

#[test]
fn the_newest_row_and_the_last_hour_may_still_grow() {
    let at = |hours: u64| hours * 3_600;
    let facts = [
        live(1, 0, at(1)),
        live(1, at(1), at(2)),
        fact(3, at(2), at(3), FactKind::Replay),
        fact(4, at(3), at(4), FactKind::Replay),
        live(5, at(4), at(9)),
        live(6, at(9), at(9) + 1),
    ];
    let names = |now| {
        let ended = ended(&facts, now);
        let runs = facts.iter().filter(|fact| ended(fact));
        runs.map(|fact| (fact.run, fact.from_seq))
            .collect::<Vec<_>>()
    };
    let old = [(1, 0), (1, at(1)), (3, at(2))];
    assert_eq!(names(10 * HOUR + SECOND), old);
    assert_eq!(
        names(10 * HOUR + SECOND + 1)[..],
        [&old[..], &[(5, at(4))]].concat()
    );
    assert_eq!(names(100 * HOUR).len(), 4);
    assert_eq!(names(0), []);
}

#[test]
fn so_many_rows_are_joined_at_once() {
    let count = ROWS as u64 * 2 + 500;
    let mut facts: Vec<Fact> = (0..count).map(|n| live(n, n, n + 1)).collect();
    let merges = all(&facts);
    let narrow: Vec<usize> = merges.iter().map(|merge| merge.narrow.len()).collect();
    assert_eq!(narrow, [ROWS, ROWS, 500 - 3]);
    while let merges @ [_, ..] = &all(&facts)[..] {
        apply(&mut facts, merges);
    }
    assert_eq!(facts, [live(0, 0, count)]);
}

/// All of it, as if nothing went wrong.
fn apply(facts: &mut Vec<Fact>, merges: &[Merge]) {
    for merge in merges {
        facts.retain(|fact| key(fact) != key(&merge.wide) && !merge.narrow.contains(fact));
        facts.push(merge.wide.clone());
    }
}

/// A store that keeps for each row the write of the greatest `to_seq`; a removal hides what is not greater.
#[derive(Default)]
struct Rows {
    rows: BTreeMap<(String, u32, u64, u64), Fact>,
    /// CQL: up to where a row was removed, for ever. The other stores forget that.
    removed: BTreeMap<(String, u32, u64, u64), u64>,
    forgets: bool,
}

#[derive(Debug, Clone)]
enum Write {
    Put(Fact),
    Remove(Fact),
}

impl Rows {
    fn write(&mut self, write: &Write) {
        let (Write::Put(fact) | Write::Remove(fact)) = write;
        let key = (fact.relay.clone(), fact.generation, fact.run, fact.from_seq);
        let held = self.rows.get(&key).map(|held| held.to_seq);
        match write {
            Write::Put(_) => {
                let hidden = self.removed.get(&key).copied() >= Some(fact.to_seq);
                if !hidden && held < Some(fact.to_seq) {
                    self.rows.insert(key, fact.clone());
                }
            }
            Write::Remove(_) => {
                if held <= Some(fact.to_seq) {
                    self.rows.remove(&key);
                }
                let removed = self.removed.entry(key).or_default();
                *removed = (*removed).max(if self.forgets { 0 } else { fact.to_seq });
            }
        }
    }

    fn facts(&self) -> Vec<Fact> {
        self.rows.values().cloned().collect()
    }
}

fn holds(facts: &[Fact]) -> Vec<Holding<'_>> {
    held(facts, &CollectionFilter::ALL, SlotSet::ALL)
}

fn some_fact(random: &mut Rng, run: u64, times: bool) -> Fact {
    let from = random.u64(0..40);
    let kinds = [
        FactKind::Live,
        FactKind::Live,
        FactKind::Replay,
        FactKind::Repos,
        FactKind::Passed,
        FactKind::Expired,
        FactKind::Skipped,
    ];
    let mut fact = fact(
        run,
        from,
        from + random.u64(1..12),
        kinds[random.usize(..kinds.len())],
    );
    fact.generation = u32::from(random.u8(..5) == 0);
    if random.u8(..3) == 0 {
        fact.slots = SlotSet::owned_by(random.u16(..2), 2);
    }
    if times {
        fact.to_time += random.u64(..3);
        fact.from_time = match random.u8(..4) {
            0 => 0,
            _ => fact.from_time + random.u64(..3),
        };
    }
    fact
}

fn some_facts(random: &mut Rng, times: bool) -> Vec<Fact> {
    (0..random.u64(..30))
        .map(|run| some_fact(random, run, times))
        .collect()
}

/// Does as much of a merge as its process lives for: the wide rows, then, once all are there, the narrow ones; each in any
/// order, some of them twice, some late writes of others between.
fn merge_for_a_while(random: &mut Rng, rows: &mut Rows, sent: &mut Vec<Write>, old: &[Fact]) {
    let merges = all(old);
    let grown = merges.iter().filter(|merge| merge.grows);
    let puts = grown.map(|merge| Write::Put(merge.wide.clone())).collect();
    if !send(random, rows, sent, puts) {
        return;
    }
    let going = removable(&merges, &rows.facts());
    send(
        random,
        rows,
        sent,
        going.into_iter().map(Write::Remove).collect(),
    );
}

/// Whether all arrived.
fn send(random: &mut Rng, rows: &mut Rows, sent: &mut Vec<Write>, mut writes: Vec<Write>) -> bool {
    random.shuffle(&mut writes);
    let lives = random.u8(..3) > 0;
    let live_for = match lives {
        true => writes.len(),
        false => random.usize(..=writes.len()),
    };
    for write in &writes[..live_for] {
        rows.write(write);
        sent.push(write.clone());
        if random.u8(..3) == 0 {
            let late = sent[random.usize(..sent.len())].clone();
            rows.write(&late);
        }
    }
    lives && live_for == writes.len()
}

fn settle(rows: &mut Rows) {
    while let merges @ [_, ..] = &all(&rows.facts())[..] {
        for merge in merges {
            rows.write(&Write::Put(merge.wide.clone()));
        }
        for narrow in removable(merges, &rows.facts()) {
            rows.write(&Write::Remove(narrow));
        }
    }
}

fn seeds() -> impl Iterator<Item = u64> {
    match std::env::var("PENSTOCK_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()].into_iter(),
        Err(_) => {
            let first = fastrand::u64(..1 << 32);
            (first..first + 2_000).collect::<Vec<_>>().into_iter()
        }
    }
}

#[test]
fn a_merge_that_is_killed_anywhere_loses_nothing() {
    for seed in seeds() {
        let random = &mut Rng::with_seed(seed);
        let mut rows = Rows {
            forgets: random.bool(),
            ..Rows::default()
        };
        let mut facts = some_facts(random, true);
        let mut sent: Vec<Write> = facts.iter().cloned().map(Write::Put).collect();
        sent.iter().for_each(|write| rows.write(write));
        for _ in 0..6 {
            let seen = rows.facts();
            merge_for_a_while(random, &mut rows, &mut sent, &seen);
            assert_eq!(holds(&rows.facts()), holds(&facts), "seed {seed}");
            if random.u8(..3) == 0 && !facts.is_empty() {
                // A run that was not at its end.
                let at = random.usize(..facts.len());
                facts[at].to_seq += random.u64(1..5);
                facts[at].to_time = (facts[at].to_seq + 5) * SECOND;
                let grown = Write::Put(facts[at].clone());
                rows.write(&grown);
                sent.push(grown);
                times_apart(&facts, &rows.facts(), seed);
                facts = rows.facts();
            }
        }
        settle(&mut rows);
        assert_eq!(holds(&rows.facts()), holds(&facts), "seed {seed}");
    }
}

/// Nothing but times may differ.
fn times_apart(before: &[Fact], after: &[Fact], seed: u64) {
    let without = |facts: &[Fact]| {
        let fact = |fact: &Fact| Fact {
            from_time: 1,
            to_time: 1,
            ..fact.clone()
        };
        facts.iter().map(fact).collect::<Vec<_>>()
    };
    let (before, after) = (without(before), without(after));
    assert_eq!(holds(&before), holds(&after), "seed {seed}");
}

#[test]
fn two_merges_at_once_lose_nothing() {
    for seed in seeds() {
        let random = &mut Rng::with_seed(seed);
        let mut rows = Rows {
            forgets: random.bool(),
            ..Rows::default()
        };
        let mut facts = some_facts(random, false);
        let mut sent: Vec<Write> = facts.iter().cloned().map(Write::Put).collect();
        sent.iter().for_each(|write| rows.write(write));
        // What each of them read, which may be long ago.
        let mut seen = [rows.facts(), rows.facts(), Vec::new()];
        for run in 100..112 {
            let one = random.usize(..seen.len());
            let old = seen[one].clone();
            merge_for_a_while(random, &mut rows, &mut sent, &old);
            times_apart(&facts, &rows.facts(), seed);
            if random.bool() {
                seen[one] = rows.facts();
            }
            let fact = some_fact(random, run, false);
            let write = Write::Put(fact.clone());
            rows.write(&write);
            sent.push(write);
            facts.push(fact);
        }
        settle(&mut rows);
        times_apart(&facts, &rows.facts(), seed);
        is_merged(&rows.facts(), seed);
    }
}

/// No two rows are left that could be one.
fn is_merged(facts: &[Fact], seed: u64) {
    for one in facts {
        for other in facts.iter().filter(|other| key(other) != key(one)) {
            let apart = one.to_seq < other.from_seq || other.to_seq < one.from_seq;
            let order = |fact: &Fact| (fact.from_seq, std::cmp::Reverse(fact.to_seq), fact.run);
            let is_older = order(one) < order(other) && other.run < one.run;
            let is_before = order(other) < order(one);
            assert!(
                apart || is_older || is_before || Group::of(one) != Group::of(other),
                "seed {seed}: {one:?} and {other:?}"
            );
        }
    }
}
