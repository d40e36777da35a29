//! Merges of the ledger, on whatever keeps it: killed, repeated, late, and beside runs that go on.

use fastrand::Rng;
use penstock::config::CollectionFilter;
use penstock::ledger::held::held;
use penstock::ledger::merge::{Merge, merge, removable};
use penstock::slot::SlotSet;
use penstock::store::{Fact, FactKind, Store};

use super::fact;

/// Nothing is lost, whatever a merge was stopped at, and in the end as much is joined as can be.
pub async fn merges_lose_nothing(store: &dyn Store, rounds: u32) {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let random = &mut Rng::with_seed(seed);
    let mut all = some_facts(random);
    store.put_facts(&all).await.unwrap();
    for _ in 0..rounds {
        let facts = store.facts().await.unwrap();
        merge_for_a_while(store, random, &merge(&facts, |_| true)).await;
        claims_all(store, &all).await;
        // What was merged grows after all, and what came before it comes late.
        let late = all[random.usize(..all.len())].clone();
        let at = random.usize(..all.len());
        all[at].to_seq += random.u64(1..5);
        all[at].to_time = all[at].to_seq;
        let grown = all[at].clone();
        store.put_facts(&[grown, late]).await.unwrap();
        claims_all(store, &all).await;
    }
    loop {
        let facts = store.facts().await.unwrap();
        let merges = merge(&facts, |_| true);
        if merges.is_empty() {
            break;
        }
        assert!(do_all(store, &merges).await > 0);
        claims_all(store, &all).await;
    }
}

/// The wide row is written whole, and what goes is gone.
pub async fn merged_facts_are_one(store: &dyn Store) {
    let of_run = |run, from, to| Fact {
        run,
        from_time: from + 1,
        to_time: to + 1,
        ..fact(from, to)
    };
    let replayed = Fact {
        kind: FactKind::Replay,
        ..of_run(9, 10, 20)
    };
    let facts = [of_run(5, 0, 10), replayed.clone(), of_run(7, 18, 30)];
    store.put_facts(&facts).await.unwrap();
    let merges = merge(&store.facts().await.unwrap(), |_| true);
    assert_eq!(do_all(store, &merges).await, 2);
    let wide = of_run(5, 0, 30);
    assert_eq!(store.facts().await.unwrap(), std::slice::from_ref(&wide));
    // Again, as a process does that did not hear that it was done.
    assert_eq!(do_all(store, &merges).await, 2);
    assert_eq!(store.facts().await.unwrap(), std::slice::from_ref(&wide));
    // The run of a row that is gone goes on: it says again all that it said.
    let grown = Fact {
        to_seq: 40,
        to_time: 41,
        ..replayed
    };
    store.put_facts(std::slice::from_ref(&grown)).await.unwrap();
    do_all(store, &merges).await;
    assert_eq!(store.facts().await.unwrap(), [wide, grown]);
    let merges = merge(&store.facts().await.unwrap(), |_| true);
    do_all(store, &merges).await;
    assert_eq!(store.facts().await.unwrap(), [of_run(5, 0, 40)]);
}

fn some_facts(random: &mut Rng) -> Vec<Fact> {
    let kinds = [
        FactKind::Live,
        FactKind::Replay,
        FactKind::Live,
        FactKind::Expired,
    ];
    let one = |run| {
        let from = random.u64(0..40);
        let to = from + random.u64(1..12);
        Fact {
            run,
            from_time: from + 1,
            to_time: to + 1,
            slots: match random.bool() {
                true => SlotSet::ALL,
                false => SlotSet::owned_by(random.u16(..2), 2),
            },
            kind: kinds[random.usize(..kinds.len())],
            ..fact(from, to)
        }
    };
    (1..25).map(one).collect()
}

/// Ends anywhere: before all wide rows are there nothing goes.
async fn merge_for_a_while(store: &dyn Store, random: &mut Rng, merges: &[Merge]) {
    let mut wide = wide(merges);
    random.shuffle(&mut wide);
    let lives = random.u8(..4) > 0;
    if !lives {
        wide.truncate(random.usize(..=wide.len()));
    }
    store.put_facts(&wide).await.unwrap();
    if !lives {
        return;
    }
    let mut going = removable(merges, &store.facts().await.unwrap());
    random.shuffle(&mut going);
    going.truncate(random.usize(..=going.len()));
    for narrow in &going {
        store
            .remove_facts(std::slice::from_ref(narrow))
            .await
            .unwrap();
    }
    store.remove_facts(&going).await.unwrap();
}

async fn do_all(store: &dyn Store, merges: &[Merge]) -> usize {
    store.put_facts(&wide(merges)).await.unwrap();
    let going = removable(merges, &store.facts().await.unwrap());
    store.remove_facts(&going).await.unwrap();
    going.len()
}

fn wide(merges: &[Merge]) -> Vec<Fact> {
    let grown = merges.iter().filter(|merge| merge.grows);
    grown.map(|merge| merge.wide.clone()).collect()
}

/// The store says of every number what all facts together say; times may differ by what a grown row forgets.
async fn claims_all(store: &dyn Store, all: &[Fact]) {
    let facts = untimed(&store.facts().await.unwrap());
    let all = untimed(all);
    let of = |facts| held(facts, &CollectionFilter::ALL, SlotSet::ALL);
    assert_eq!(of(&facts), of(&all));
}

fn untimed(facts: &[Fact]) -> Vec<Fact> {
    let facts = facts.iter().cloned();
    facts
        .map(|fact| Fact {
            from_time: 1,
            to_time: 1,
            ..fact
        })
        .collect()
}
