//! Numbers that lie, start anew, or are not those that were asked for.

use penstock::ledger::{self, Gap, Wanted};
use penstock::slot::SlotSet;
use penstock_loadtest::{
    ConnectionFaults, Corruption, Oracle, Pace, RelayOptions, RelayServer, StreamFaults, World,
    WorldSpec, now_micros,
};

use crate::worker::{Stopped, Worker};

fn spec(seed: u64, events: u64) -> WorldSpec {
    WorldSpec {
        seed,
        repos: 60,
        events,
        prefill: 50,
        ..WorldSpec::default()
    }
}

fn manual(published: usize) -> RelayOptions {
    RelayOptions {
        pace: Pace::Manual,
        published,
        ..RelayOptions::default()
    }
}

/// Ends of the gaps.
async fn gaps(stopped: &Stopped) -> Vec<(u64, u64)> {
    let gaps = ledger::gaps(&stopped.facts().await, &Wanted::between(SlotSet::ALL));
    let ends = |gap: &Gap| (gap.from_seq.unwrap_or(0), gap.to_seq.unwrap_or(u64::MAX));
    gaps.iter().map(ends).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lying_numbers_never_move_the_watermark() {
    let classes = [
        Corruption::LyingSeq,
        Corruption::LyingSeq,
        Corruption::WrongType,
        Corruption::BadDid,
        Corruption::Garbage,
        Corruption::Empty,
    ];
    let world = World::generate(&WorldSpec {
        faults: StreamFaults {
            corrupt: 0.5,
            corrupt_classes: classes.to_vec(),
            ..StreamFaults::default()
        },
        ..spec(40, 4_000)
    });
    let relay = RelayServer::start(&world, manual(0)).unwrap();
    let Some(mut stopped) = Stopped::empty().await else {
        return;
    };
    // Stopped and started again in the middle of the lies, each time where it says that it is.
    while relay.published() < world.log.len() {
        relay.publish(750);
        let mut worker = stopped.start(&relay, &["faults.pause=100ms"]).await;
        let before = stopped.held().await;
        let store = worker.store.clone();
        let moved = async || {
            let facts = store.facts().await.unwrap();
            let held = facts.iter().map(|fact| fact.to_seq).max().unwrap_or(0);
            assert!(held <= relay.head(), "{held} was never sent");
            held > before + 300
        };
        worker.until(moved, "progress").await;
        stopped = worker.stop().await;
    }
    // A good frame behind the last lies proves where they were.
    let mut worker = stopped.start(&relay, &["faults.pause=100ms"]).await;
    let last_good = world.log.entries().iter().rev();
    let last_good = last_good
        .map(|entry| entry.seq)
        .find(|seq| !world.summary.corrupt_seqs.contains(seq));
    worker.until_seq(last_good.unwrap()).await;
    let stopped = worker.stop().await;
    stopped.holds(&world.oracle).await;
    assert!(stopped.held().await <= relay.head());
}

/// A stream, one that counts anew on the same host, and what must be held of both.
fn counted_anew() -> (World, World, Oracle) {
    const MINUTE: u64 = 60_000_000;
    let now = now_micros();
    let old = World::generate(&WorldSpec {
        first_seq: 1_000_000,
        start: Some(now - 70 * MINUTE),
        end: Some(now - 40 * MINUTE),
        ..spec(41, 1_000)
    });
    let new = World::generate(&WorldSpec {
        start: Some(now - 30 * MINUTE),
        end: Some(now - MINUTE),
        ..spec(42, 1_000)
    });
    let mut both = (*old.oracle).clone();
    both.repos.extend(new.oracle.repos.clone());
    both.records.extend(new.oracle.records.clone());
    (old, new, both)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_counts_anew_begins_a_new_generation() {
    use penstock_loadtest::{Cursors, Future};
    let (old, new, both) = counted_anew();
    for future in [Future::Error, Future::SilentOldest, Future::SilentLive] {
        let relay = RelayServer::start(&old, RelayOptions::default()).unwrap();
        let addr = relay.addr;
        let Some(mut worker) = Worker::start(&relay, &[]).await else {
            return;
        };
        worker.until_seq(relay.head()).await;
        drop(relay);
        let relay = RelayServer::start(
            &new,
            RelayOptions {
                listen: addr,
                cursors: Cursors {
                    future,
                    ..Cursors::default()
                },
                ..manual(0)
            },
        )
        .unwrap();
        let connected = async || relay.open_connections() > 0 || relay.connections() > 3;
        worker.until(connected, "a connection").await;
        relay.publish_all();
        let store = worker.store.clone();
        let head = relay.head();
        let reached = async || {
            let facts = store.facts().await.unwrap();
            let mut newer = facts.iter().filter(|fact| fact.generation == 1);
            newer.any(|fact| fact.from_seq == 0 && fact.to_seq == head)
        };
        worker.until(reached, "the new generation").await;
        let stopped = worker.stop().await;
        stopped.holds(&both).await;
        // And a restart goes on in it.
        let mut worker = stopped.start(&relay, &[]).await;
        let asked = async || relay.cursors().contains(&Some(head - 1));
        worker
            .until(asked, "the cursor of the new generation")
            .await;
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_that_is_not_served_leaves_a_gap() {
    use penstock_loadtest::{Cursors, Outdated};
    for outdated in [Outdated::Info, Outdated::SilentOldest, Outdated::SilentLive] {
        let world = World::generate(&spec(43, 3_000));
        let relay = RelayServer::start(&world, manual(1_000)).unwrap();
        let Some(mut worker) = Worker::start(&relay, &[]).await else {
            return;
        };
        worker.until_seq(1_000).await;
        let stopped = worker.stop().await;
        relay.publish(1_000);
        relay.retain_from(1_501);
        relay.change(|options| {
            options.cursors = Cursors {
                outdated,
                ..Cursors::default()
            };
        });
        let mut worker = stopped.start(&relay, &[]).await;
        let connected = async || relay.connections() == 2 && relay.open_connections() == 1;
        worker.until(connected, "the second connection").await;
        relay.publish_all();
        worker.until_seq(relay.head()).await;
        let jumps = format!("penstock_relay_seq_jumps_total{{relay=\"{}\"}}", relay.addr);
        assert_eq!(worker.metric(&jumps).await, 1.0, "{outdated:?}");
        let stopped = worker.stop().await;
        let to = match outdated {
            Outdated::SilentLive => 2_000,
            _ => 1_500,
        };
        assert_eq!(gaps(&stopped).await, [(1_000, to)], "{outdated:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_lags_behind_our_cursor_is_waited_for() {
    let world = World::generate(&spec(44, 2_000));
    let relay = RelayServer::start(&world, manual(1_000)).unwrap();
    let addr = relay.addr;
    let Some(mut worker) = Worker::start(&relay, &[]).await else {
        return;
    };
    worker.until_seq(1_000).await;
    drop(relay);
    let relay = RelayServer::start(
        &world,
        RelayOptions {
            listen: addr,
            ..manual(500)
        },
    )
    .unwrap();
    let asked = async || relay.cursors().contains(&Some(0));
    worker.until(asked, "all that the relay has").await;
    assert!(relay.cursors().len() >= 4, "not at the first refusal");
    relay.publish_all();
    worker.until_seq(relay.head()).await;
    let stopped = worker.stop().await;
    stopped.holds(&world.oracle).await;
    let facts = stopped.facts().await;
    assert!(facts.iter().all(|fact| fact.generation == 0), "{facts:?}");
    assert_eq!(gaps(&stopped).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_is_called_too_slow_comes_back() {
    let world = World::generate(&spec(45, 4_000));
    let options = RelayOptions {
        too_slow: Some(100),
        ..manual(100)
    };
    let relay = RelayServer::start(&world, options).unwrap();
    let Some(mut worker) = Worker::start(&relay, &[]).await else {
        return;
    };
    while relay.published() < world.log.len() {
        worker.until_seq(relay.head()).await;
        relay.publish(1_000);
    }
    worker.until_seq(relay.head()).await;
    let errors = format!(
        "penstock_relay_reconnects_total{{relay=\"{}\",reason=\"error_frame\"}}",
        relay.addr
    );
    assert!(worker.metric(&errors).await >= 1.0);
    let stopped = worker.stop().await;
    stopped.holds(&world.oracle).await;
    assert_eq!(gaps(&stopped).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_messages_pass_no_frame_by() {
    let world = World::generate(&spec(46, 3_000));
    let options = RelayOptions {
        faults: ConnectionFaults {
            text_every: Some(200),
            ..ConnectionFaults::default()
        },
        ..RelayOptions::default()
    };
    let relay = RelayServer::start(&world, options).unwrap();
    let Some(mut worker) = Worker::start(&relay, &[]).await else {
        return;
    };
    worker.until_seq(relay.head()).await;
    assert!(relay.connections() > 5);
    let stopped = worker.stop().await;
    stopped.holds(&world.oracle).await;
    assert_eq!(gaps(&stopped).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_was_away_when_the_relay_counted_anew_reads_it_from_its_start() {
    let (old, new, both) = counted_anew();
    let relay = RelayServer::start(&old, RelayOptions::default()).unwrap();
    let addr = relay.addr;
    let Some(mut first) = Worker::start_one_of(&relay, 0, 2).await else {
        return;
    };
    let mut second = first.beside(&relay, 1, 2).await;
    first.until_seq(relay.head()).await;
    second.until_seq(relay.head()).await;
    second.stop().await;
    drop(relay);
    let options = RelayOptions {
        listen: addr,
        ..manual(0)
    };
    let relay = RelayServer::start(&new, options).unwrap();
    let connected = async || relay.open_connections() > 0;
    first.until(connected, "a connection").await;
    relay.publish_all();
    let (store, head) = (first.store.clone(), relay.head());
    let holds = async |id: u16| {
        let facts = store.facts().await.unwrap();
        let slots = SlotSet::owned_by(id, 2);
        let mut newer = facts.iter().filter(|fact| fact.generation == 1);
        newer.any(|fact| fact.slots == slots && fact.from_seq == 0 && fact.to_seq == head)
    };
    first
        .until(async || holds(0).await, "the first worker")
        .await;
    let mut second = first.beside(&relay, 1, 2).await;
    second
        .until(async || holds(1).await, "the second worker")
        .await;
    second.stop().await;
    first.stop().await.holds(&both).await;
}
