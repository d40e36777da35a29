//! A whole stream, with what goes wrong in it and with its connections.

use penstock::ledger::{self, Wanted};
use penstock::slot::SlotSet;
use penstock::store::FactKind;
use penstock_loadtest::{
    ConnectionFaults, DropKind, Pace, RelayOptions, RelayServer, StreamFaults, World, WorldSpec,
};

use crate::worker::Worker;

fn world(seed: u64, events: u64, faults: StreamFaults) -> World {
    World::generate(&WorldSpec {
        seed,
        repos: 40,
        events,
        prefill: 200,
        faults,
        ..WorldSpec::default()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_stream_is_held() {
    let world = world(1, 4_000, StreamFaults::default());
    let relay = RelayServer::start(&world, RelayOptions::default()).unwrap();
    let Some(mut worker) = Worker::start(&relay, &[]).await else {
        return;
    };
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
    let Some(mut worker) = Worker::start(&relay, &[]).await else {
        return;
    };
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
    assert_eq!(ledger::gaps(&facts, &Wanted::between(SlotSet::ALL)), []);
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
        let Some(mut worker) = Worker::start(&relay, &[]).await else {
            return;
        };
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
    let Some(mut worker) = Worker::start(&relay, &[]).await else {
        return;
    };
    worker.until_seq(relay.head()).await;
    let stopped = worker.stop().await;
    stopped.holds(&world.oracle).await;
    let gaps = ledger::gaps(&stopped.facts().await, &Wanted::between(SlotSet::ALL));
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
    let Some(mut worker) = Worker::start(&relay, &[]).await else {
        return;
    };
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_share_the_stream_by_slot() {
    let world = world(6, 4_000, StreamFaults::default());
    let relay = RelayServer::start(&world, RelayOptions::default()).unwrap();
    let Some(mut first) = Worker::start_one_of(&relay, 0, 2).await else {
        return;
    };
    let mut second = first.beside(&relay, 1, 2).await;
    first.until_seq(relay.head()).await;
    second.until_seq(relay.head()).await;
    second.stop().await;
    first.stop().await.holds(&world.oracle).await;
}

/// Where only frames of other workers come, this one's watermark must not wait for a frame of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_other_workers_move_the_watermark_at_once() {
    let world = world(6, 100, StreamFaults::default());
    let options = RelayOptions {
        pace: Pace::Manual,
        ..RelayOptions::default()
    };
    let relay = RelayServer::start(&world, options).unwrap();
    relay.publish(10);
    let Some(mut worker) = Worker::start_one_of(&relay, 0, 64).await else {
        return;
    };
    for _ in 0..5 {
        worker.until_seq(relay.head()).await;
        relay.publish(1);
    }
    worker.until_seq(relay.head()).await;
    worker.stop().await;
}
