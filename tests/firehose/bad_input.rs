//! Frames that can't be taken in: counted, kept with their bytes, never in the way of the good ones.

use std::collections::BTreeSet;

use penstock::store::{QuarantineEntry, Repair, Store};
use penstock_loadtest::{Pace, RelayOptions, RelayServer, StreamFaults, World, WorldSpec};

use crate::worker::{Stopped, Worker};

fn world(seed: u64, events: u64, corrupt: f64) -> World {
    World::generate(&WorldSpec {
        seed,
        repos: 200,
        events,
        prefill: 50,
        faults: StreamFaults {
            corrupt,
            ..StreamFaults::default()
        },
        ..WorldSpec::default()
    })
}

async fn quarantine(store: &dyn Store) -> Vec<QuarantineEntry> {
    let (mut rows, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.quarantine(cursor.as_deref(), 10_000).await.unwrap();
        rows.extend(page.items);
        cursor = page.cursor;
        if cursor.is_none() {
            return rows;
        }
    }
}

async fn repairs(store: &dyn Store) -> Vec<Repair> {
    let (mut rows, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.repairs(cursor.as_deref(), 10_000).await.unwrap();
        rows.extend(page.items);
        cursor = page.cursor;
        if cursor.is_none() {
            return rows;
        }
    }
}

/// Waits until all was read. The last good frames may not be claimed yet: behind a frame whose number lies, one is believed only
/// when another follows.
async fn until_all_is_judged(worker: &mut Worker, world: &World) {
    let near_the_end = world.summary.last_seq - 100;
    worker.until_seq(near_the_end).await;
    let (store, wanted) = (worker.store.clone(), bad_frames(world).len());
    let all = async || quarantine(store.as_ref()).await.len() >= wanted;
    worker.until(all, "all bad frames in the quarantine").await;
}

/// Every bad frame that was sent; some are equal.
fn bad_frames(world: &World) -> BTreeSet<Vec<u8>> {
    let seqs = world.summary.corrupt_seqs.iter();
    let raw = seqs.map(|seq| world.log.payloads(world.log.position(*seq)).unwrap());
    raw.map(|raw| raw[0].to_vec()).collect()
}

/// Every bad frame has a row with its very bytes and a repair; no other frame has one.
async fn all_are_quarantined(stopped: &Stopped, world: &World) {
    let store = stopped.store.as_ref();
    let wanted = bad_frames(world);
    let repairs: BTreeSet<_> = repairs(store)
        .await
        .into_iter()
        .filter(|repair| repair.reason == "quarantined")
        .map(|repair| (repair.did, repair.id))
        .collect();
    let rows = quarantine(store).await;
    assert_eq!(
        rows.len(),
        wanted.len(),
        "frames of equal bytes share a row"
    );
    for row in rows {
        let (_, raw) = store.quarantined(&row.id).await.unwrap().unwrap();
        assert!(wanted.contains(&raw), "{row:?} was not sent like this");
        let did = row.did.clone().unwrap_or_default();
        let asked = repairs.iter().any(|(of, id)| {
            *of == did
                && match row.seq {
                    Some(seq) => id.contains(&format!("~{seq}~content")),
                    None => id.contains("~x"),
                }
        });
        assert!(asked, "no repair for {row:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_bad_frames_keep_nobody_from_the_good_ones() {
    let world = world(20, 14_000, 0.8);
    assert!(world.summary.corrupt_total >= 10_000, "{:?}", world.summary);
    assert!(
        world.summary.corrupt.len() == penstock_loadtest::Corruption::ALL.len(),
        "every class is there"
    );
    let relay = RelayServer::start(&world, RelayOptions::default()).unwrap();
    let Some(mut worker) = Worker::start(&relay, &["faults.pause=200ms"]).await else {
        return;
    };
    until_all_is_judged(&mut worker, &world).await;
    let stopped = worker.stop().await;
    stopped.holds(&world.oracle).await;
    all_are_quarantined(&stopped, &world).await;
    assert!(relay.connections() > 1, "so many bad frames pause it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_few_bad_frames_pause_nothing() {
    let world = world(21, 6_000, 0.02);
    assert!(world.summary.corrupt_total > 50);
    let relay = RelayServer::start(&world, RelayOptions::default()).unwrap();
    let Some(mut worker) = Worker::start(&relay, &["faults.pause=1h"]).await else {
        return;
    };
    until_all_is_judged(&mut worker, &world).await;
    // The metrics are those of all workers in this process.
    let ready = worker.get("/readyz").await;
    assert!(!ready.contains("ingestion pauses"), "{ready}");
    let stopped = worker.stop().await;
    let from_the_start = relay
        .cursors()
        .iter()
        .filter(|cursor| **cursor == Some(0))
        .count();
    assert_eq!(from_the_start, 1, "{:?}", relay.cursors());
    stopped.holds(&world.oracle).await;
    all_are_quarantined(&stopped, &world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_quarantined_before_the_pause_for_it() {
    let world = world(22, 3_000, 1.0);
    let relay = RelayServer::start(&world, RelayOptions::default()).unwrap();
    let Some(mut worker) = Worker::start(&relay, &["faults.pause=1h"]).await else {
        return;
    };
    worker
        .until_unready("ingestion pauses: too many frames")
        .await;
    assert_eq!(quarantine(worker.store.as_ref()).await, []);
    let stopped = worker.stop().await;
    assert_eq!(quarantine(stopped.store.as_ref()).await, []);
    let mut worker = stopped.start(&relay, &["faults.pause=100ms"]).await;
    until_all_is_judged(&mut worker, &world).await;
    let stopped = worker.stop().await;
    stopped.holds(&world.oracle).await;
    all_are_quarantined(&stopped, &world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_before_anything_is_held_goes_back_to_where_it_began() {
    let world = world(23, 3_000, 1.0);
    let options = RelayOptions {
        pace: Pace::Manual,
        ..RelayOptions::default()
    };
    let relay = RelayServer::start(&world, options).unwrap();
    let set = ["faults.pause=1s", "relay.start=head"];
    let Some(mut worker) = Worker::start(&relay, &set).await else {
        return;
    };
    let connected = async || relay.open_connections() == 1;
    worker.until(connected, "a connection").await;
    // At the live head; all that comes from here on is wanted.
    relay.publish_all();
    worker.until_unready("ingestion pauses").await;
    until_all_is_judged(&mut worker, &world).await;
    assert_eq!(relay.cursors()[0], None);
    let stopped = worker.stop().await;
    stopped.holds(&world.oracle).await;
    all_are_quarantined(&stopped, &world).await;
}
