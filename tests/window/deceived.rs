//! Where a relay's numbers or silence deceive, and nothing may be taken for held that was not.

use std::time::Duration;

use penstock::decode::{Action, DecodeOptions, Decoder, Event};
use penstock::slot::{SlotSet, slot_of};
use penstock::store::{Fact, FactKind, Store};
use penstock_loadtest::{
    ConnectionFaults, RelayOptions, RelayServer, StreamFaults, World, WorldSpec, now_micros,
};

use crate::directed::{DAY, manual, missing, renumbered, spec, time_of, window};
use crate::logs;
use crate::worker::{Stopped, Worker};

/// That slots hold the entries behind one index up to another.
fn fact(
    relay: &RelayServer,
    world: &World,
    run: u64,
    (from, to): (u64, u64),
    slots: SlotSet,
) -> Fact {
    // Of the last frame up to a number that can be read.
    let time = |seq: u64| {
        let before = world
            .log
            .entries()
            .partition_point(|entry| entry.seq <= seq);
        let times = (0..before.max(1)).rev().filter_map(|at| time_of(world, at));
        times.take(1).next().unwrap_or(now_micros() - 3 * DAY)
    };
    Fact {
        relay: relay.url().trim_start_matches("ws://").to_owned(),
        generation: 0,
        run,
        from_seq: from,
        to_seq: to,
        from_time: time(from),
        to_time: time(to),
        slots,
        filter: String::new(),
        kind: FactKind::Live,
    }
}

/// The DID and a record that the entry at an index creates.
fn created(world: &World, at: usize) -> Option<(String, String, String)> {
    let payload = world.log.payloads(at).unwrap().concat();
    let mut decoder = Decoder::new(DecodeOptions::default());
    let Ok(Event::Commit(commit)) = decoder.decode(&payload, now_micros()) else {
        return None;
    };
    let create = commit.ops.iter().find(|op| op.action == Action::Create)?;
    Some((
        commit.repo.to_owned(),
        create.collection.to_owned(),
        create.rkey.to_owned(),
    ))
}

/// Even and odd slots miss parts that end together and begin apart; between the two begins the relay's numbers have a hole, so
/// that the first frame that the odd ones miss is also the first behind a step.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_frame_behind_a_step_is_taken_for_all_that_miss_it() {
    logs();
    let world = World::generate(&WorldSpec {
        faults: StreamFaults {
            gaps: 0.1,
            ..StreamFaults::default()
        },
        ..spec(21)
    });
    let entries = world.log.entries();
    let odd = SlotSet::owned_by(1, 2);
    let (at, (did, collection, rkey)) = (1_000..2_000)
        .filter(|at| entries[*at].seq > entries[at - 1].seq + 1)
        .find_map(|at| {
            Some((at, created(&world, at)?)).filter(|(_, (did, ..))| odd.contains(slot_of(did)))
        })
        .unwrap();
    let (before, first) = (entries[at - 1].seq, entries[at].seq);
    let relay = RelayServer::start(&world, manual(3_000)).unwrap();
    let Some(stopped) = Stopped::empty().await else {
        return;
    };
    let all = SlotSet::ALL;
    let facts = [
        fact(&relay, &world, 1 << 8, (0, before - 10), all),
        fact(&relay, &world, 2 << 8, (before - 10, first - 1), odd),
        fact(&relay, &world, 3 << 8, (first + 20, relay.head()), all),
    ];
    stopped.store.put_facts(&facts).await.unwrap();
    let mut worker = stopped.start(&relay, &window("0")).await;
    worker.until_settled(relay.head()).await;
    let config = worker.config.clone();
    let stopped = worker.stop().await;
    assert_eq!(missing(&stopped, &config).await, []);
    let held = stopped
        .store
        .record(&did, &collection, &rkey)
        .await
        .unwrap();
    assert!(held.is_some(), "{first} is said to be held, but is lost");
}

/// What lies between two times is asked of the other relay, also where the live stream leapt over it at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_live_stream_leapt_over_comes_from_the_other_relay() {
    logs();
    const B: u64 = 1_000_000;
    let end = now_micros() - 10_000_000;
    let (a_world, b_world) = (renumbered(22, 1, end), renumbered(22, B + 1, end));
    let leaps = RelayOptions {
        faults: ConnectionFaults {
            jump_to_live: Some(1_200),
            ..ConnectionFaults::default()
        },
        ..manual(2_500)
    };
    let a = RelayServer::start(&a_world, leaps).unwrap();
    let b = RelayServer::start(&b_world, manual(3_000)).unwrap();
    let Some(stopped) = Stopped::empty().await else {
        return;
    };
    let urls = format!("{},{}", a.url(), b.url());
    let mut worker = stopped.start_at(&urls, &[], 0, 1).await;
    worker.until_seq(1_100).await;
    a.publish(100);
    worker.until_seq(2_600).await;
    a.retain_from(2_501);
    a.publish_all();
    worker.until_settled(a.head()).await;
    let config = worker.config.clone();
    let stopped = worker.stop().await;
    assert_eq!(missing(&stopped, &config).await, []);
    stopped.holds(&a_world.oracle).await;
}

/// Most frames of a short gap are bad, and the lanes find that out when all of it was routed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_frames_at_the_end_of_a_gap_keep_nobody_from_it() {
    logs();
    let world = World::generate(&WorldSpec {
        faults: StreamFaults {
            corrupt: 0.9,
            ..StreamFaults::default()
        },
        ..spec(23)
    });
    let relay = RelayServer::start(&world, manual(3_000)).unwrap();
    let Some(stopped) = Stopped::empty().await else {
        return;
    };
    let facts = [
        fact(&relay, &world, 1 << 8, (0, 1_000), SlotSet::ALL),
        fact(&relay, &world, 2 << 8, (1_150, relay.head()), SlotSet::ALL),
    ];
    stopped.store.put_facts(&facts).await.unwrap();
    let mut set = window("0");
    set.push("faults.pause=100ms");
    let mut worker = stopped.start(&relay, &set).await;
    worker.until_settled(relay.head()).await;
    let config = worker.config.clone();
    let stopped = worker.stop().await;
    // Numbers of frames that lie about them never came.
    for gap in missing(&stopped, &config).await {
        let mut numbers = gap.from_seq.unwrap() + 1..=gap.to_seq.unwrap();
        let bad = &world.summary.corrupt_seqs;
        assert!(numbers.all(|seq| bad.contains(&seq)), "{gap:?}");
    }
}

/// The host has other events under the numbers that were held, and has come further: it is followed at its head, and all that
/// it published since is read by its time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_sequence_under_higher_numbers_is_noticed() {
    logs();
    let old = World::generate(&spec(24));
    let new = World::generate(&WorldSpec {
        seed: 25,
        past: DAY / 4,
        ..spec(25)
    });
    let relay = RelayServer::start(&old, manual(1_500)).unwrap();
    let Some(mut worker) = Worker::start(&relay, &window("0")).await else {
        return;
    };
    let followed = async || relay.open_connections() > 0;
    worker.until(followed, "a connection").await;
    relay.publish(100);
    worker.until_settled(1_600).await;
    let stopped = worker.stop().await;
    let listen = relay.addr;
    drop(relay);
    let options = RelayOptions {
        listen,
        ..manual(2_500)
    };
    let relay = RelayServer::start(&new, options).unwrap();
    let mut worker = stopped.start(&relay, &window("0")).await;
    let followed = async || relay.open_connections() > 0;
    worker.until(followed, "a connection").await;
    relay.publish(100);
    let store = worker.store.clone();
    let anew = async || {
        relay.publish(1);
        let facts = store.facts().await.unwrap();
        facts.iter().any(|fact| fact.generation == 1)
    };
    worker.until(anew, "a new generation").await;
    relay.publish_all();
    let (config, head) = (worker.config.clone(), relay.head());
    let read = async || {
        let facts = store.facts().await.unwrap();
        let wanted = penstock::ledger::Wanted::configured(&config, SlotSet::ALL, now_micros());
        let gaps = penstock::ledger::gaps(&facts, &wanted);
        facts.iter().any(|fact| fact.to_seq == head) && gaps.iter().all(|gap| gap.lost.is_some())
    };
    worker.until(read, "all of the new sequence").await;
    let stopped = worker.stop().await;
    let held = stopped.records().await;
    let lost = new
        .oracle
        .records
        .keys()
        .find(|key| !held.contains_key(*key));
    assert_eq!(lost, None);
}

/// A relay goes away in the middle of what it was read for, and another one has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rest_of_a_window_comes_from_the_relay_that_is_there() {
    logs();
    const B: u64 = 1_000_000;
    let end = now_micros() - 10_000_000;
    let (a_world, b_world) = (renumbered(26, 1, end), renumbered(26, B + 1, end));
    let a = RelayServer::start(&a_world, manual(2_900)).unwrap();
    let b = RelayServer::start(&b_world, manual(2_900)).unwrap();
    let Some(stopped) = Stopped::empty().await else {
        return;
    };
    let urls = format!("{},{}", a.url(), b.url());
    let mut set = window("10");
    set.push("backfill.max_events_per_second=500");
    let mut worker = stopped.start_at(&urls, &set, 0, 1).await;
    let store = worker.store.clone();
    let begun = async || {
        let facts = store.facts().await.unwrap();
        let mut replayed = facts.iter().filter(|fact| fact.kind == FactKind::Replay);
        replayed.any(|fact| fact.to_seq > 300)
    };
    worker.until(begun, "some of the past").await;
    drop(a);
    let at_b = async || b.open_connections() > 0;
    worker.until(at_b, "a connection to the other relay").await;
    b.publish_all();
    let held = async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let lost = worker_lacks(&store, &b_world).await;
        lost == 0
    };
    worker.until(held, "all of the window").await;
    let stopped = worker.stop().await;
    stopped.holds(&b_world.oracle).await;
}

/// How many of a world's records a store lacks.
async fn worker_lacks(store: &std::sync::Arc<dyn Store>, world: &World) -> usize {
    let mut lacks = 0;
    for (did, collection, rkey) in world.oracle.records.keys() {
        let held = store.record(did, collection, rkey).await.unwrap();
        lacks += usize::from(held.is_none());
    }
    lacks
}
