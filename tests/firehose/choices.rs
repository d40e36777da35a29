//! What is indexed changes while workers follow the stream.

use std::collections::HashMap;
use std::time::Duration;

use penstock::config::CollectionFilter;
use penstock::decode::{DecodeOptions, Decoder, Event};
use penstock::slot::{SlotSet, slot_of};
use penstock::store::indexed::Chosen;
use penstock::store::{ChoiceKind, Fact, FactKind};
use penstock_loadtest::{
    Pace, RelayOptions, RelayServer, StreamFaults, World, WorldSpec, now_micros,
};
use tokio::time::{Instant, sleep_until};

use crate::worker::{Stopped, Worker};

const POST: &str = "app.bsky.feed.post";
const LIKE: &str = "app.bsky.feed.like";
/// In which all workers follow.
const FOLLOW: Duration = Duration::from_secs(10);

fn has_likes(fact: &Fact) -> bool {
    CollectionFilter::parse(&fact.filter).unwrap().wants(LIKE)
}

/// The number of the frame of each commit.
fn numbers(world: &World) -> HashMap<(String, String), u64> {
    let mut numbers = HashMap::new();
    let mut decoder = Decoder::new(DecodeOptions::default());
    for (at, entry) in world.log.entries().iter().enumerate() {
        for frame in world.log.payloads(at).unwrap() {
            if let Ok(Event::Commit(commit)) = decoder.decode(&frame, now_micros()) {
                numbers.insert((commit.repo.to_owned(), commit.rev.to_string()), entry.seq);
            }
        }
    }
    numbers
}

/// Waits until the newest facts of both workers have likes or not, of a span that began in time.
async fn both_follow(worker: &mut Worker, likes: bool, relay: &RelayServer, asked: Instant) {
    sleep_until(asked + FOLLOW).await;
    let (head, store) = (relay.head(), worker.store.clone());
    let follow = async || {
        let facts = store.facts().await.unwrap();
        (0..2).all(|id| {
            let slots = SlotSet::owned_by(id, 2);
            let own = facts.iter().filter(|fact| fact.slots == slots);
            let newest = own.max_by_key(|fact| fact.from_seq);
            newest.is_some_and(|fact| has_likes(fact) == likes && fact.from_seq <= head)
        })
    };
    worker.until(follow, "both workers follow").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_workers_follow_in_time_and_claim_only_what_they_stored() {
    let world = World::generate(&WorldSpec {
        seed: 11,
        repos: 40,
        events: 20_000,
        prefill: 200,
        faults: StreamFaults::default(),
        ..WorldSpec::default()
    });
    let options = RelayOptions {
        pace: Pace::Rate(200.0),
        ..RelayOptions::default()
    };
    let relay = RelayServer::start(&world, options).unwrap();
    let Some(empty) = Stopped::empty().await else {
        return;
    };
    let set = ["collections=app.bsky.feed.post"];
    let mut first = empty.start_at(&relay.url(), &set, 0, 2).await;
    let second = empty.start_at(&relay.url(), &set, 1, 2).await;
    first.until_seq(100).await;
    let store = first.store.clone();
    for likes in [true, false, true] {
        let asked = Instant::now();
        match likes {
            true => Chosen::Indexed { due: None }.put(&*store, LIKE).await,
            false => store.remove_choice(ChoiceKind::Collection, LIKE).await,
        }
        .unwrap();
        both_follow(&mut first, likes, &relay, asked).await;
    }
    relay.publish_all();
    let (head, all) = (relay.head(), store.clone());
    let reached = async || {
        let facts = all.facts().await.unwrap();
        let reaches = |id| {
            let slots = SlotSet::owned_by(id, 2);
            let mut own = facts.iter().filter(|fact| fact.slots == slots);
            own.any(|fact| fact.to_seq >= head)
        };
        reaches(0) && reaches(1)
    };
    first.until(reached, "both workers reach the head").await;
    second.stop().await;
    let stopped = first.stop().await;

    let (held, facts) = (stopped.records().await, stopped.facts().await);
    let numbers = numbers(&world);
    let (mut claimed, mut left_out) = (0, 0);
    for (key, record) in &world.oracle.records {
        let (did, collection, _) = key;
        let seq = numbers[&(did.clone(), record.rev.clone())];
        let covers = |fact: &&Fact| {
            let live = fact.kind == FactKind::Live && fact.slots.contains(slot_of(did));
            live && fact.from_seq < seq && seq <= fact.to_seq
        };
        let filter = facts.iter().filter(covers).any(has_likes);
        match collection.as_str() {
            POST => assert!(held.contains_key(key), "{key:?}"),
            LIKE if filter => {
                claimed += 1;
                assert!(held.contains_key(key), "{key:?} of {seq}");
            }
            LIKE => left_out += 1,
            _ => assert!(!held.contains_key(key), "{key:?}"),
        }
    }
    assert!(claimed > 100 && left_out > 100, "{claimed} {left_out}");
}
