//! One thing at a time.

use penstock::ledger::{self, Gap, Loss, Wanted};
use penstock::slot::SlotSet;
use penstock::store::FactKind;
use penstock_loadtest::{
    ConnectionFaults, Cursors, Pace, RelayOptions, RelayServer, Retained, StreamFaults, World,
    WorldSpec, now_micros,
};

use crate::logs;
use crate::worker::{Stopped, Worker};

pub const DAY: u64 = 86_400_000_000;

/// Two days of history.
pub fn spec(seed: u64) -> WorldSpec {
    WorldSpec {
        seed,
        repos: 60,
        events: 3_000,
        past_events: 2_000,
        past: 2 * DAY,
        prefill: 50,
        ..WorldSpec::default()
    }
}

pub fn manual(published: usize) -> RelayOptions {
    RelayOptions {
        pace: Pace::Manual,
        published,
        ..RelayOptions::default()
    }
}

/// The settings of a worker with a window.
pub fn window(days: &'static str) -> Vec<&'static str> {
    let mut set = vec!["relay.start=head", "backfill.reread=200ms"];
    set.push(match days {
        "0" => "backfill.days=0",
        "1" => "backfill.days=1",
        "0.5" => "backfill.days=0.5",
        "1.5" => "backfill.days=1.5",
        "10" => "backfill.days=10",
        "-1" => "backfill.days=-1",
        other => panic!("{other}"),
    });
    set
}

pub async fn missing(stopped: &Stopped, worker_config: &penstock::config::Config) -> Vec<Gap> {
    let wanted = Wanted::configured(worker_config, SlotSet::ALL, now_micros());
    ledger::gaps(&stopped.facts().await, &wanted)
}

/// The first number that is held, in the stream that goes on.
async fn first_held(stopped: &Stopped) -> u64 {
    let facts = stopped.facts().await;
    let held = facts.iter().filter(|fact| !fact.kind.is_lost());
    held.map(|fact| fact.from_seq).min().unwrap() + 1
}

/// The number of the first frame of at least this time.
fn seq_at(world: &World, time: u64) -> u64 {
    let entries = world.log.entries().iter().enumerate();
    let mut later = entries.filter(|(at, _)| {
        let payload = world.log.payloads(*at).unwrap().concat();
        let stamped = penstock::decode::peek(&payload).time;
        stamped.and_then(penstock::decode::time::parse_datetime) >= Some(time)
    });
    later.next().unwrap().1.seq
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_a_relay_retains_is_replayed_once() {
    logs();
    let world = World::generate(&spec(1));
    let relay = RelayServer::start(&world, manual(2_900)).unwrap();
    let Some(mut worker) = Worker::start(&relay, &window("-1")).await else {
        return;
    };
    worker.until_settled(relay.head()).await;
    relay.publish_all();
    worker.until_settled(relay.head()).await;
    let config = worker.config.clone();
    let stopped = worker.stop().await;
    stopped.holds(&world.oracle).await;
    assert_eq!(missing(&stopped, &config).await, []);

    // Again: there is nothing to do.
    let asked = relay.cursors().len();
    let mut worker = stopped.start(&relay, &window("-1")).await;
    let followed = async || relay.open_connections() > 0;
    worker.until(followed, "a connection").await;
    worker.until_settled(relay.head()).await;
    let stopped = worker.stop().await;
    assert_eq!(relay.cursors()[asked..], [Some(relay.head() - 1)]);
    stopped.holds(&world.oracle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_larger_window_replays_only_the_older_part() {
    logs();
    let world = World::generate(&spec(2));
    let relay = RelayServer::start(&world, manual(3_000)).unwrap();
    let Some(mut stopped) = Stopped::empty().await else {
        return;
    };
    let mut before = (u64::MAX, 0);
    for (days, share) in [("0.5", DAY / 2), ("1", DAY), ("1.5", 3 * DAY / 2)] {
        let mut worker = stopped.start(&relay, &window(days)).await;
        worker.until_settled(relay.head()).await;
        let config = worker.config.clone();
        stopped = worker.stop().await;
        assert_eq!(missing(&stopped, &config).await, [], "{days}");
        let (first, wanted) = (
            first_held(&stopped).await,
            seq_at(&world, now_micros() - share),
        );
        assert!(
            first <= wanted,
            "{days} days: held from {first}, not {wanted}"
        );
        assert!(
            wanted - first < 200,
            "{days} days: from {first}, far before {wanted}"
        );
        let facts = stopped.facts().await;
        let new = facts.iter().filter(|fact| fact.run > before.1);
        let end = new.map(|fact| fact.to_seq).max().unwrap();
        assert!(
            end <= before.0,
            "{days} days: read up to {end}, but {} was held",
            before.0
        );
        before = (first - 1, facts.iter().map(|fact| fact.run).max().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_goes_on_where_it_was_cut_off_and_holds_nobody_up() {
    logs();
    let world = World::generate(&spec(3));
    let relay = RelayServer::start(&world, manual(2_000)).unwrap();
    let Some(mut stopped) = Stopped::empty().await else {
        return;
    };
    let mut slow = window("-1");
    slow.push("backfill.max_events_per_second=100");
    for _ in 0..3 {
        let mut worker = stopped.start(&relay, &slow).await;
        let before = replayed(&stopped).await;
        let store = worker.store.clone();
        let more = async || {
            let facts = store.facts().await.unwrap();
            facts
                .iter()
                .filter(|fact| fact.kind == FactKind::Replay)
                .any(|fact| fact.to_seq > before + 200)
        };
        worker.until(more, "some of the past").await;
        // What is new comes through although the replay goes on.
        relay.publish(300);
        let head = relay.head();
        worker.until_seq(head).await;
        stopped = worker.stop().await;
        assert!(
            replayed(&stopped).await < 1_900,
            "the replay was not at its end"
        );
    }
    relay.publish_all();
    let mut worker = stopped.start(&relay, &window("-1")).await;
    worker.until_settled(relay.head()).await;
    let config = worker.config.clone();
    let stopped = worker.stop().await;
    stopped.holds(&world.oracle).await;
    assert_eq!(missing(&stopped, &config).await, []);
}

/// Up to where the past was read.
async fn replayed(stopped: &Stopped) -> u64 {
    let facts = stopped.facts().await;
    let replays = facts.iter().filter(|fact| fact.kind == FactKind::Replay);
    replays.map(|fact| fact.to_seq).max().unwrap_or(0)
}

/// What a relay does, and what of the stream can't be had then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_relay_does_not_serve_is_found_or_written_down() {
    logs();
    let old =
        |seq: u64, cursors: Cursors, faults: ConnectionFaults, retained: Retained| RelayOptions {
            cursors: Cursors {
                retained,
                ..cursors
            },
            faults,
            oldest_seq: seq,
            ..manual(2_500)
        };
    let jump = ConnectionFaults {
        jump_to_live: Some(1_200),
        ..ConnectionFaults::default()
    };
    let inclusive = Cursors {
        inclusive: true,
        ..Cursors::default()
    };
    let (none, plain) = (ConnectionFaults::default(), Cursors::default());
    let cases = [
        ("plain", old(0, plain, none.clone(), Retained::Served), 0),
        (
            "inclusive",
            old(0, inclusive, none.clone(), Retained::Served),
            0,
        ),
        (
            "retention",
            old(501, plain, none.clone(), Retained::Served),
            500,
        ),
        (
            "oldest",
            old(501, plain, none.clone(), Retained::SilentOldest),
            500,
        ),
        ("jump", old(0, plain, jump, Retained::Served), 0),
    ];
    for (name, options, lost) in cases {
        let world = World::generate(&spec(4));
        let relay = RelayServer::start(&world, options).unwrap();
        let Some(mut worker) = Worker::start(&relay, &window("10")).await else {
            return;
        };
        println!("{name}");
        worker.until_settled(relay.head()).await;
        relay.publish_all();
        worker.until_settled(relay.head()).await;
        let config = worker.config.clone();
        let stopped = worker.stop().await;
        let missing = missing(&stopped, &config).await;
        match lost {
            0 => {
                assert_eq!(missing, [], "{name}");
                stopped.holds(&world.oracle).await;
            }
            lost => {
                let [gap] = &missing[..] else {
                    panic!("{name}: {missing:?}");
                };
                assert_eq!(
                    (gap.to_seq, gap.lost),
                    (Some(lost), Some(Loss::Expired)),
                    "{name}"
                );
                assert_eq!(gap.slots, SlotSet::ALL);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holes_in_the_numbers_are_no_gaps() {
    logs();
    let world = World::generate(&WorldSpec {
        faults: StreamFaults {
            gaps: 0.002,
            ..StreamFaults::default()
        },
        ..spec(5)
    });
    let relay = RelayServer::start(&world, manual(2_500)).unwrap();
    let Some(mut worker) = Worker::start(&relay, &window("-1")).await else {
        return;
    };
    worker.until_settled(relay.head()).await;
    relay.publish_all();
    worker.until_settled(relay.head()).await;
    let config = worker.config.clone();
    let stopped = worker.stop().await;
    assert_eq!(missing(&stopped, &config).await, []);
    stopped.holds(&world.oracle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_filled_from_the_relay_or_said_to_be_lost() {
    logs();
    for forgotten in [0, 1_700, 2_400] {
        let world = World::generate(&spec(6));
        let relay = RelayServer::start(&world, manual(1_500)).unwrap();
        let Some(mut worker) = Worker::start(&relay, &window("0.5")).await else {
            return;
        };
        worker.until_settled(relay.head()).await;
        let stopped = worker.stop().await;
        relay.publish(1_000);
        relay.retain_from(forgotten);
        let mut worker = stopped.start(&relay, &window("0.5")).await;
        let followed = async || relay.open_connections() > 0;
        worker.until(followed, "a connection").await;
        relay.publish_all();
        worker.until_settled(relay.head()).await;
        let config = worker.config.clone();
        let stopped = worker.stop().await;
        let missing = missing(&stopped, &config).await;
        let lost: Vec<_> = missing
            .iter()
            .map(|gap| (gap.from_seq, gap.to_seq, gap.lost))
            .collect();
        match forgotten {
            0 => assert_eq!(lost, []),
            oldest => {
                assert_eq!(lost, [(Some(1_500), Some(oldest - 1), Some(Loss::Expired))]);
            }
        }
    }
}

/// The same events, under other numbers.
pub fn renumbered(seed: u64, first_seq: u64, end: u64) -> World {
    World::generate(&WorldSpec {
        first_seq,
        end: Some(end),
        ..spec(seed)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_takes_over_is_read_from_where_the_other_ended_and_back() {
    logs();
    const B: u64 = 1_000_000;
    let end = now_micros() - 10_000_000;
    let (a_world, b_world) = (renumbered(7, 1, end), renumbered(7, B + 1, end));
    let a = RelayServer::start(&a_world, manual(1_500)).unwrap();
    let b = RelayServer::start(&b_world, manual(1_500)).unwrap();
    let Some(stopped) = Stopped::empty().await else {
        return;
    };
    let urls = format!("{},{}", a.url(), b.url());
    let mut worker = stopped.start_at(&urls, &window("10"), 0, 1).await;
    worker.until_settled(1_500).await;

    // The first one is gone; what came since it was read last comes from the other one.
    let a_listens = a.addr;
    drop(a);
    b.publish(500);
    let at_b = async || b.open_connections() > 0;
    worker.until(at_b, "a connection to the other relay").await;
    b.publish(300);
    worker.until_settled(B + 2_300).await;

    // It comes back, and the other one goes: it fills what it missed.
    let options = RelayOptions {
        listen: a_listens,
        ..manual(2_500)
    };
    let a = RelayServer::start(&a_world, options).unwrap();
    drop(b);
    a.publish(10);
    let at_a = async || a.open_connections() > 0;
    worker.until(at_a, "a connection to the first relay").await;
    a.publish_all();
    worker.until_settled(a.head()).await;
    let config = worker.config.clone();
    let stopped = worker.stop().await;
    assert_eq!(missing(&stopped, &config).await, []);
    stopped.holds(&a_world.oracle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_relay_no_longer_has_comes_from_another() {
    logs();
    const B: u64 = 1_000_000;
    let end = now_micros() - 10_000_000;
    let (a_world, b_world) = (renumbered(8, 1, end), renumbered(8, B + 1, end));
    let a = RelayServer::start(&a_world, manual(1_000)).unwrap();
    let b = RelayServer::start(&b_world, manual(2_600)).unwrap();
    let Some(stopped) = Stopped::empty().await else {
        return;
    };
    let urls = format!("{},{}", a.url(), b.url());
    let mut worker = stopped.start_at(&urls, &window("10"), 0, 1).await;
    worker.until_settled(1_000).await;
    let stopped = worker.stop().await;
    a.publish(1_000);
    a.retain_from(1_501);
    let mut worker = stopped.start_at(&urls, &window("10"), 0, 1).await;
    let at_a = async || a.open_connections() > 0;
    worker.until(at_a, "a connection").await;
    a.publish_all();
    worker.until_settled(a.head()).await;
    let config = worker.config.clone();
    let stopped = worker.stop().await;
    assert_eq!(missing(&stopped, &config).await, []);
    let facts = stopped.facts().await;
    assert!(
        facts
            .iter()
            .any(|fact| fact.kind == FactKind::Expired && fact.to_seq == 1_500)
    );
    assert!(
        facts
            .iter()
            .any(|fact| fact.kind == FactKind::Replay && fact.from_seq > B)
    );
    stopped.holds(&a_world.oracle).await;
}

/// A host that lost its database: its numbers begin anew, below or above those that it used before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_counts_anew_is_followed_and_what_it_forgot_is_said() {
    logs();
    for first_seq in [1, 700] {
        let world = World::generate(&WorldSpec {
            restart: Some(penstock_loadtest::Restart {
                after: 2_500,
                first_seq,
            }),
            ..spec(9)
        });
        let relay = RelayServer::start(&world, manual(2_000)).unwrap();
        let Some(mut worker) = Worker::start(&relay, &window("10")).await else {
            return;
        };
        worker.until_settled(2_000).await;
        let stopped = worker.stop().await;
        // While nobody reads it publishes 500 more, and then counts anew.
        relay.publish(900);
        let mut worker = stopped.start(&relay, &window("10")).await;
        let followed = async || relay.open_connections() > 0;
        worker.until(followed, "a connection").await;
        relay.publish_all();
        let store = worker.store.clone();
        let config = worker.config.clone();
        let settled = async || {
            let facts = store.facts().await.unwrap();
            let wanted = Wanted::configured(&config, SlotSet::ALL, now_micros());
            let gaps = ledger::gaps(&facts, &wanted);
            let newest = facts
                .iter()
                .filter(|fact| fact.generation == 1)
                .map(|fact| fact.to_seq);
            newest.max() == Some(relay.head()) && gaps.iter().all(|gap| gap.lost.is_some())
        };
        worker.until(settled, "the new numbers").await;
        let stopped = worker.stop().await;
        let missing = missing(&stopped, &config).await;
        // From the last frame that was held under the old numbers to the first one under the new ones.
        let [gap] = &missing[..] else {
            panic!("{missing:?}");
        };
        assert_eq!((gap.slots, gap.lost), (SlotSet::ALL, Some(Loss::Expired)));
        let old = seq_time(&world, 1_999);
        let new = seq_time(&world, 2_500);
        assert!(
            gap.from_time <= old && gap.from_time > old - DAY / 4,
            "{gap:?}"
        );
        assert!(gap.to_time >= new, "{gap:?}");
    }
}

/// The time of the entry at an index.
fn seq_time(world: &World, at: usize) -> u64 {
    time_of(world, at).unwrap()
}

/// The time of the entry at an index, if it can be read.
pub fn time_of(world: &World, at: usize) -> Option<u64> {
    let payload = world.log.payloads(at).unwrap().concat();
    let time = penstock::decode::peek(&payload).time;
    time.and_then(penstock::decode::time::parse_datetime)
}
