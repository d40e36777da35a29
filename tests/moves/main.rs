//! Full dumps and their import: everything arrives, nothing newer is replaced, nothing is claimed that is not held.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod commands;
mod content;
mod damage;
#[path = "../installed/mod.rs"]
mod installed;
mod worker;

use content::*;
use penstock::decode::Tid;
use penstock::ledger::{self, Wanted};
use penstock::slot::SlotSet;
use penstock::store::{ChoiceKind, Scope, Store};

#[tokio::test]
async fn everything_arrives_in_every_store() {
    for from in stores().await {
        fill(&*from.store).await;
        let held = contents(&*from.store).await;
        assert_eq!((held.records.len(), held.repos.len()), (10, 6), "{held:#?}");
        let dump = dump(&from.store).await;
        for to in stores().await {
            let way = format!("{} to {}", from.kind, to.kind);
            // Once, and then again.
            for facts in [held.facts.len(), 0] {
                let imported = take(&to.store, &dump, NOW).await.unwrap();
                assert_eq!(imported.facts, facts, "{way}");
                assert_eq!(contents(&*to.store).await, held, "{way}");
            }
            assert_eq!(bare(&self::dump(&to.store).await), bare(&dump), "{way}");
            late_writes_find_themselves_hidden(&*to.store).await;
            assert_eq!(contents(&*to.store).await, held, "{way}");
        }
    }
}

/// What a replay may bring again changes nothing: floors, snapshots and versions came along.
async fn late_writes_find_themselves_hidden(store: &dyn Store) {
    put(
        store,
        (ALICE, POST, "late"),
        rev(50),
        Some("older than the snapshot"),
    )
    .await;
    put(
        store,
        (ALICE, LIKE, "late"),
        rev(45),
        Some("at or below the floor"),
    )
    .await;
    put(
        store,
        (BOB, POST, "late"),
        rev(5),
        Some("at or below the floor"),
    )
    .await;
    put(
        store,
        (ALICE, POST, "3mwgncrrtze27"),
        rev(59),
        Some("replaced"),
    )
    .await;
    say(store, BOB, rev(2).micros(), true, None).await;
    say(store, ALICE, 4, false, None).await;
    name(store, ALICE, rev(8).micros(), "older.test").await;
}

/// A dump tells what was chosen when it was made, which was before what the store has.
#[tokio::test]
async fn a_choice_of_the_store_is_not_replaced() {
    let from = store().await;
    fill(&*from).await;
    let dump = dump(&from).await;
    for to in stores().await {
        choose(&*to.store, ChoiceKind::OptOut, CAROL, "later").await;
        choose(&*to.store, ChoiceKind::OptOut, BOB, "another").await;
        let imported = take(&to.store, &dump, NOW).await.unwrap();
        assert_eq!(imported.counts.choices, 3);
        let held = contents(&*to.store).await.choices;
        let held: Vec<_> = held
            .iter()
            .map(|choice| (choice.name.as_str(), choice.body.as_slice()))
            .collect();
        let wanted: [(&str, &[u8]); 4] = [
            (POST, b"{}"),
            (CAROL, b"later"),
            (ALICE, b""),
            (BOB, b"another"),
        ];
        assert_eq!(held, wanted, "{}", to.kind);
    }
}

/// Builds before choices counted none.
#[tokio::test]
async fn a_dump_without_choices_is_taken() {
    let from = store().await;
    put(&*from, (ALICE, POST, "1"), rev(1), Some("a")).await;
    let mut lines = lines(&dump(&from).await);
    let end = String::from_utf8(lines.pop().unwrap()).unwrap();
    assert!(end.contains(",\"choices\":0"), "{end}");
    lines.push(end.replace(",\"choices\":0", "").into_bytes());
    let to = store().await;
    take(&to, &sealed(&lines), NOW).await.unwrap();
    assert_eq!(contents(&*to).await, contents(&*from).await);
}

/// More than fits into one batch, or on its way at once; one record is larger than a batch.
#[tokio::test]
async fn many_records_arrive() {
    let from = store().await;
    let text = |n: usize| format!("{n}").repeat(if n == 3_000 { 1_000_000 } else { 50 });
    for n in 0..6_000 {
        let did = format!("did:web:host{}.example", n % 50);
        let rkey = format!("{n}");
        put(&*from, (&did, POST, &rkey), rev(n as u64), Some(&text(n))).await;
    }
    from.put_facts(&[fact(1, 1, 100)]).await.unwrap();
    let (dump, held) = (dump(&from).await, contents(&*from).await);
    for to in stores().await {
        let imported = take(&to.store, &dump, NOW).await.unwrap();
        assert_eq!(imported.counts.records, 6_000);
        assert!(contents(&*to.store).await == held, "{}", to.kind);
    }
}

#[tokio::test]
async fn a_store_that_takes_nothing_is_told() {
    let from = store().await;
    fill(&*from).await;
    let dump = dump(&from).await;
    // In memory it still answers.
    let to = store().await;
    to.close().await.unwrap();
    let refused = take(&to, &dump, NOW).await.unwrap_err().to_string();
    assert!(refused.contains("closed (line"), "{refused}");
    assert_eq!(to.facts().await.unwrap(), []);
}

#[tokio::test]
async fn an_empty_store_moves_too() {
    for to in stores().await {
        let from = store().await;
        let dump = dump(&from).await;
        assert_eq!(lines(&dump).len(), 2);
        take(&to.store, &dump, NOW).await.unwrap();
        assert_eq!(contents(&*to.store).await, contents(&*from).await);
    }
}

#[tokio::test]
async fn an_old_dump_is_taken_into_an_empty_store_only() {
    let from = store().await;
    fill(&*from).await;
    let dump = dump(&from).await;
    for to in stores().await {
        let later = NOW + 8 * DAY;
        take(&to.store, &dump, later).await.unwrap();
        assert_eq!(contents(&*to.store).await, contents(&*from).await);
        let refused = take(&to.store, &dump, later).await.unwrap_err().to_string();
        assert!(
            refused.contains("2026-11-23T") && refused.contains("not empty"),
            "{refused}"
        );
        take(&to.store, &dump, NOW + 7 * DAY).await.unwrap();
    }
    // Whatever it holds, it is not empty.
    for at in 0..4 {
        let to = store().await;
        match at {
            0 => to.put_facts(&[fact(1, 1, 2)]).await.unwrap(),
            1 => say(&*to, BOB, 1, true, None).await,
            2 => put(&*to, (BOB, POST, "1"), rev(1), Some("x")).await,
            _ => remove(&*to, BOB, Scope::Repo, 1).await,
        }
        let before = contents(&*to).await;
        take(&to, &dump, NOW + 8 * DAY).await.unwrap_err();
        assert_eq!(contents(&*to).await, before);
    }
}

#[tokio::test]
async fn a_dump_from_the_future_is_refused() {
    let from = store().await;
    fill(&*from).await;
    let dump = dump(&from).await;
    let to = store().await;
    let refused = take(&to, &dump, NOW - 301 * SECOND)
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("clock"), "{refused}");
    assert_eq!(contents(&*to).await, contents(&*store().await).await);
    take(&to, &dump, NOW - 299 * SECOND).await.unwrap();
}

#[tokio::test]
async fn nothing_newer_is_replaced() {
    let from = store().await;
    fill(&*from).await;
    let dump = dump(&from).await;
    for to in stores().await {
        let to = to.store;
        let now = rev(20 * DAY);
        put(&*to, (CAROL, POST, "self"), now, None).await;
        put(&*to, (ALICE, POST, "3mwgncrrtze27"), now, Some("newest")).await;
        remove(&*to, DAVE, Scope::Repo, now.micros()).await;
        say(&*to, ALICE, now.micros(), false, Some("deactivated")).await;
        name(&*to, ALICE, now.micros(), "new.test").await;
        let own = fact(9, 90, 101);
        to.put_facts(std::slice::from_ref(&own)).await.unwrap();

        let imported = take(&to, &dump, NOW).await.unwrap();
        let after = contents(&*to).await;
        let texts: Vec<(String, Tid)> = after
            .records
            .iter()
            .map(|record| (format!("{} {}", record.did, record.rkey), record.rev))
            .collect();
        assert!(
            !texts.iter().any(|(path, _)| path.ends_with(" self")),
            "deleted since: {texts:?}"
        );
        assert!(
            !texts.iter().any(|(path, _)| path.starts_with(DAVE)),
            "removed since: {texts:?}"
        );
        assert!(
            texts.contains(&(format!("{ALICE} 3mwgncrrtze27"), now)),
            "{texts:?}"
        );
        assert!(
            texts.contains(&(format!("{ALICE} 3mwgncrrtze25"), rev(40))),
            "{texts:?}"
        );
        let alice = to.repo(ALICE).await.unwrap().unwrap();
        assert_eq!((alice.rev, alice.active()), (Some(now), false));
        assert_eq!(alice.handle_text(), Some("new.test"));

        // What the store saw itself is claimed once; what the dump saw later, it saw without the deletes.
        let gaps = ledger::gaps(&after.facts, &Wanted::between(SlotSet::ALL));
        assert_eq!(
            gaps.iter()
                .map(|gap| (gap.from_seq, gap.to_seq))
                .collect::<Vec<_>>(),
            [(Some(80), Some(85))]
        );
        assert!(after.facts.contains(&own) && after.facts.contains(&fact(2, 50, 80)));
        let clipped = after
            .facts
            .iter()
            .filter(|fact| fact.to_seq == 90 && fact.generation == 0);
        assert_eq!(clipped.count(), 2);
        assert!(
            imported
                .cuts
                .iter()
                .any(|cut| (cut.from_seq, cut.to_seq) == (90, 100)),
            "{imported:?}"
        );
    }
}

#[tokio::test]
async fn nothing_behind_a_young_gap_is_claimed() {
    let from = store().await;
    let facts = [fact(1, 10, 50), fact(2, 60, 95), fact(3, 96, 100)];
    from.put_facts(&facts).await.unwrap();
    let dump = dump(&from).await;
    for to in stores().await {
        let imported = take(&to.store, &dump, NOW).await.unwrap();
        assert_eq!(to.store.facts().await.unwrap(), facts[..2]);
        let cut = &imported.cuts[0];
        assert_eq!(
            (cut.from_seq, cut.to_seq, cut.slots),
            (95, 100, SlotSet::ALL)
        );
        let resume = ledger::resume(&facts[..2], "r.example", SlotSet::ALL, 0).unwrap();
        assert_eq!((resume.seq, resume.time), (cut.from_seq, cut.from_time));
    }
}

/// Records of which nobody knows whether they still exist: left by the import of another dump, say.
#[tokio::test]
async fn a_dump_claims_nothing_over_records_of_unknown_origin() {
    let from = store().await;
    fill(&*from).await;
    let dump = dump(&from).await;
    let cut = lines(&dump);
    let cut = cut[..cut.len() - 3].concat();
    for to in stores().await {
        let to = to.store;
        put(&*to, (CAROL, POST, "gone"), rev(2), Some("deleted since")).await;
        for dump in [&cut, &dump] {
            let refused = take(&to, dump, NOW).await.unwrap_err().to_string();
            assert!(refused.contains("nothing is claimed"), "{refused}");
            assert_eq!(to.facts().await.unwrap(), []);
        }
        put(&*to, (CAROL, POST, "gone"), rev(3), None).await;
        take(&to, &dump, NOW).await.unwrap();
        assert_eq!(to.facts().await.unwrap(), from.facts().await.unwrap());
    }
}
