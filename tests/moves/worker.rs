//! The store of a worker moves while the stream goes on: the new one goes on where the old one ended, and in the end it holds
//! what was published.

use std::fs;

use penstock::ledger;
use penstock::slot::SlotSet;
use penstock::store::Fact;
use penstock_loadtest::{Pace, RelayOptions, RelayServer, StreamFaults, World, WorldSpec};
use serde_json::Value;

use super::content::{lines, sealed};
use super::installed::Installation;
use super::installed::truth::Truth;

fn world(faults: StreamFaults) -> World {
    World::generate(&WorldSpec {
        seed: 77,
        repos: 40,
        events: 3_000,
        prefill: 100,
        faults,
        ..WorldSpec::default()
    })
}

/// The first whole frame at or before this place of the log that can be read.
fn good_seq(world: &World, at: usize) -> u64 {
    let corrupt = &world.summary.corrupt_seqs;
    let seqs = world.log.entries()[..at].iter().map(|entry| entry.seq);
    seqs.rev()
        .find(|seq| !corrupt.contains(seq))
        .expect("a good frame")
}

fn facts(dump: &[u8]) -> Vec<Fact> {
    let lines = dump
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let lines = lines.map(|line| serde_json::from_slice::<Value>(line).expect("JSON"));
    let facts = lines.filter(|line| line["type"] == "fact");
    facts
        .map(|line| serde_json::from_value(line).expect("a fact"))
        .collect()
}

/// The dump with a gap in the middle of its only fact, as one by the relay would have left it.
fn with_gap(dump: &[u8]) -> Vec<u8> {
    let fact = facts(dump).swap_remove(0);
    let between = |part: u64| {
        let at = |from: u64, to: u64| from + (to - from) * part / 4;
        (
            at(fact.from_seq, fact.to_seq),
            at(fact.from_time, fact.to_time),
        )
    };
    let (mut before, mut behind) = (fact.clone(), fact.clone());
    (before.to_seq, before.to_time) = between(1);
    (behind.from_seq, behind.from_time) = between(2);
    let line = |fact: &Fact| {
        let fact = serde_json::to_string(fact).expect("JSON");
        format!(
            "{{\"type\":\"fact\",{},\"check\":\"\"}}\n",
            &fact[1..fact.len() - 1]
        )
        .into_bytes()
    };
    let mut lines = lines(dump);
    lines.splice(1..2, [line(&before), line(&behind)]);
    let end = String::from_utf8(lines.pop().expect("an end")).expect("UTF-8");
    lines.push(end.replace("\"facts\":1", "\"facts\":2").into_bytes());
    sealed(&lines)
}

async fn moves_midway(world: &World, with_gap: bool) {
    let truth = Truth::of(world);
    let options = RelayOptions {
        pace: Pace::Manual,
        published: 1_500,
        ..RelayOptions::default()
    };
    let relay = RelayServer::start(world, options).expect("a relay");
    let (old, new) = (Installation::new(&relay), Installation::new(&relay));
    let mut daemon = old.start();
    daemon.until_durable(good_seq(world, 1_500)).await;
    let ended = old.run(&["dump", "--full"]).await;
    assert_eq!(ended.code, Some(75), "{}", ended.words);
    daemon.stop().await;

    let mut dump = old.prints(&["dump", "--full"]).await;
    if with_gap {
        dump = self::with_gap(&dump);
    }
    let file = old.data().with_file_name("full.jsonl");
    fs::write(&file, &dump).expect("the dump is written");
    let imported = new.run(&["import", file.to_str().expect("UTF-8")]).await;
    assert_eq!(imported.code, Some(0), "{}", imported.words);
    for list in [&["dump"][..], &["repos"], &["quarantine", "list"]] {
        assert_eq!(new.prints(list).await, old.prints(list).await, "{list:?}");
    }
    let claimed = facts(&new.prints(&["dump", "--full"]).await);
    let tail = |facts: &[Fact]| {
        let relay = &facts.first().expect("a fact").relay;
        ledger::resume(facts, relay, SlotSet::ALL, 0)
            .expect("a tail")
            .seq
    };
    assert_eq!(claimed[..], facts(&dump)[..1], "nothing behind a gap");
    assert_eq!(
        imported.words.contains("not claimed of"),
        with_gap,
        "{}",
        imported.words
    );

    relay.publish_all();
    let mut daemon = new.start();
    daemon.until_durable(truth.last_seq()).await;
    daemon.stop().await;
    let asked = relay.cursors().last().copied().flatten();
    assert!(
        asked == Some(tail(&claimed) - 1) || asked == Some(tail(&claimed)),
        "{asked:?}"
    );
    truth.is_held_in_the_end(&new).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_goes_on_with_its_moved_store() {
    moves_midway(&world(StreamFaults::default()), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_goes_on_with_a_store_that_has_a_quarantine() {
    let faults = StreamFaults {
        corrupt: 0.01,
        duplicates: 0.02,
        renumbered: 0.02,
        reordered: 0.05,
        ..StreamFaults::default()
    };
    moves_midway(&world(faults), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_reads_again_from_a_young_gap_on() {
    moves_midway(&world(StreamFaults::default()), true).await;
}
