//! A clock that is behind: nobody's fault but ours.

use std::sync::Arc;

use penstock::clock::ManualClock;
use penstock::ledger::{self, Wanted};
use penstock::slot::SlotSet;
use penstock_loadtest::{
    Pace, RelayOptions, RelayServer, StreamFaults, World, WorldSpec, now_micros,
};

use crate::worker::Stopped;

const MINUTE: u64 = 60_000_000;

fn world(seed: u64) -> World {
    World::generate(&WorldSpec {
        seed,
        repos: 100,
        events: 4_000,
        prefill: 50,
        faults: StreamFaults::default(),
        ..WorldSpec::default()
    })
}

/// Behind by less and by more than a `rev` may be ahead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_clock_pauses_until_it_is_right() {
    for behind in [3 * MINUTE, 120 * MINUTE] {
        let world = world(30);
        let start = world.spec.start.unwrap();
        let relay = RelayServer::start(&world, RelayOptions::default()).unwrap();
        let clock = Arc::new(ManualClock::at(start - behind));
        let Some(worker) = Stopped::empty().await else {
            return;
        };
        let worker = worker.with_clock(clock.clone());
        let mut worker = worker.start(&relay, &["faults.pause=1h"]).await;
        worker.until_unready("ahead of this machine's clock").await;
        let quarantined = worker.store.quarantine(None, 10).await.unwrap();
        assert_eq!(quarantined.items, []);
        clock.set(now_micros());
        worker.until_seq(relay.head()).await;
        let stopped = worker.stop().await;
        let quarantined = stopped.store.quarantine(None, 10).await.unwrap();
        assert_eq!(quarantined.items, []);
        stopped.holds(&world.oracle).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_falls_behind_in_the_middle_loses_nothing() {
    let world = world(31);
    let options = RelayOptions {
        pace: Pace::Manual,
        published: 2_000,
        ..RelayOptions::default()
    };
    let relay = RelayServer::start(&world, options).unwrap();
    let clock = Arc::new(ManualClock::at(now_micros()));
    let Some(worker) = Stopped::empty().await else {
        return;
    };
    let worker = worker.with_clock(clock.clone());
    let mut worker = worker.start(&relay, &["faults.pause=1h"]).await;
    worker.until_seq(relay.head()).await;
    clock.set(now_micros() - 240 * MINUTE);
    relay.publish_all();
    worker.until_unready("ahead of this machine's clock").await;
    clock.set(now_micros());
    worker.until_seq(relay.head()).await;
    let stopped = worker.stop().await;
    let quarantined = stopped.store.quarantine(None, 10).await.unwrap();
    assert_eq!(quarantined.items, []);
    stopped.holds(&world.oracle).await;
    let gaps = ledger::gaps(&stopped.facts().await, &Wanted::between(SlotSet::ALL));
    assert_eq!(gaps, []);
}
