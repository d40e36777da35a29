//! The daemon in this process against the simulated relay: what it holds in the end equals the oracle.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod worker;

use penstock::clock::{Clock, SystemClock};
use penstock::store::FactKind;
use penstock_loadtest::{
    ConnectionFaults, DropKind, Pace, RelayOptions, RelayServer, StreamFaults, World, WorldSpec,
};

use worker::Worker;

fn spec(seed: u64, events: u64, faults: StreamFaults) -> WorldSpec {
    WorldSpec {
        seed,
        repos: 40,
        events,
        prefill: 200,
        faults,
        ..WorldSpec::default()
    }
}

fn world(seed: u64, events: u64, faults: StreamFaults) -> World {
    World::generate(&spec(seed, events, faults))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_stream_is_held() {
    let world = world(1, 4_000, StreamFaults::default());
    let relay = RelayServer::start(&world, RelayOptions::default()).unwrap();
    let mut worker = Worker::start(&relay, &[]).await;
    worker.until_seq(relay.head()).await;
    worker.stop().await.holds(&world.oracle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_goes_on_at_the_watermark() {
    let world = world(2, 4_000, StreamFaults::default());
    let options = RelayOptions {
        pace: Pace::Manual,
        published: 1_500,
        ..RelayOptions::default()
    };
    let relay = RelayServer::start(&world, options).unwrap();
    let mut worker = Worker::start(&relay, &[]).await;
    worker.until_seq(relay.head()).await;
    let at = relay.head();
    let stopped = worker.stop().await;
    relay.publish_all();
    let mut worker = stopped.start(&relay, &[]).await;
    worker.until_seq(relay.head()).await;
    assert_eq!(
        relay.cursors(),
        [Some(0), Some(at - 1)],
        "the frame before is asked for again"
    );
    let stopped = worker.stop().await;
    stopped.holds(&world.oracle).await;
    let facts = stopped.facts().await;
    assert_eq!(
        facts.iter().map(|fact| fact.to_seq).max(),
        Some(relay.head())
    );
    assert_eq!(
        penstock::ledger::gaps(&facts, penstock::slot::SlotSet::ALL),
        []
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_connections_lose_nothing() {
    for kind in [DropKind::Clean, DropKind::Reset, DropKind::MidFrame] {
        let world = world(
            3,
            4_000,
            StreamFaults {
                duplicates: 0.01,
                reordered: 0.05,
                ..StreamFaults::default()
            },
        );
        let faults = ConnectionFaults {
            drop_every: Some(300),
            drop_kind: kind,
            ..ConnectionFaults::default()
        };
        let relay = RelayServer::start(
            &world,
            RelayOptions {
                faults,
                ..RelayOptions::default()
            },
        )
        .unwrap();
        let mut worker = Worker::start(&relay, &[]).await;
        worker.until_seq(relay.head()).await;
        assert!(relay.connections() > 5, "{kind:?}: {}", relay.connections());
        worker.stop().await.holds(&world.oracle).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gaps_in_the_numbering_stay_open_in_the_ledger() {
    let world = world(
        4,
        6_000,
        StreamFaults {
            gaps: 0.001,
            ..StreamFaults::default()
        },
    );
    let relay = RelayServer::start(&world, RelayOptions::default()).unwrap();
    let mut worker = Worker::start(&relay, &[]).await;
    worker.until_seq(relay.head()).await;
    let stopped = worker.stop().await;
    stopped.holds(&world.oracle).await;
    let gaps = penstock::ledger::gaps(&stopped.facts().await, penstock::slot::SlotSet::ALL);
    assert!(!gaps.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_is_passed_and_shown() {
    let world = world(
        5,
        2_000,
        StreamFaults {
            poison: 2,
            oversized: 1,
            ..StreamFaults::default()
        },
    );
    let relay = RelayServer::start(&world, RelayOptions::default()).unwrap();
    let mut worker = Worker::start(&relay, &[]).await;
    worker.until_seq(relay.head()).await;
    let stopped = worker.stop().await;
    stopped.holds(&world.oracle).await;
    let facts = stopped.facts().await;
    let passed = facts
        .iter()
        .filter(|fact| fact.kind == FactKind::Passed)
        .count();
    assert_eq!(passed, 3, "{facts:?}");
}

/// A relay that lost its numbering refuses the old cursor, as the lexicon says, and must not be asked for it for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_counts_anew_is_a_new_generation() {
    const TEN_MINUTES: u64 = 600_000_000;
    let first = World::generate(&WorldSpec {
        end: Some(SystemClock.now_micros() - TEN_MINUTES),
        ..spec(7, 2_000, StreamFaults::default())
    });
    let second = world(8, 500, StreamFaults::default());
    let relay = RelayServer::start(&first, RelayOptions::default()).unwrap();
    let address = relay.url().replace("ws://", "").parse().unwrap();
    let mut worker = Worker::start(&relay, &[]).await;
    worker.until_seq(relay.head()).await;
    let stopped = worker.stop().await;
    drop(relay);

    let options = RelayOptions {
        listen: address,
        ..RelayOptions::default()
    };
    let relay = RelayServer::start(&second, options).unwrap();
    let mut worker = stopped.start(&relay, &[]).await;
    let (store, head) = (stopped.store.clone(), relay.head());
    let reached = async || {
        let facts = store.facts().await.unwrap();
        let anew = |fact: &penstock::store::Fact| fact.generation == 1 && fact.to_seq >= head;
        facts.iter().any(anew)
    };
    worker.until(reached, "a new generation").await;
    let mut both = second.oracle.as_ref().clone();
    both.records.extend(first.oracle.records.clone());
    both.repos.extend(first.oracle.repos.clone());
    worker.stop().await.holds(&both).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_share_the_stream_by_slot() {
    let world = world(6, 4_000, StreamFaults::default());
    let relay = RelayServer::start(&world, RelayOptions::default()).unwrap();
    let mut first = Worker::start_one_of(&relay, 0, 2).await;
    let mut second = first.beside(&relay, 1, 2).await;
    first.until_seq(relay.head()).await;
    second.until_seq(relay.head()).await;
    second.stop().await;
    first.stop().await.holds(&world.oracle).await;
}
