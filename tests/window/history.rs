//! Random histories: a relay that misbehaves and forgets, a daemon that is killed, stopped and started. Once all is settled, what is
//! held and what is said to be lost are, to the frame, what the relay could and could not serve.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use penstock::slot::slot_of;
use penstock_loadtest::{
    ConnectionFaults, Cursors, Future, Outdated, Pace, RelayOptions, RelayServer, Retained,
    StreamFaults, World, WorldSpec,
};
use serde_json::Value;
use tokio::time::{interval, sleep, timeout};

use crate::installed::backend::Backend;
use crate::installed::truth::Truth;
use crate::installed::{Daemon, Installation, get};

const DAY: u64 = 86_400_000_000;
/// Frames that come only in the end, one at a time.
const LAST: usize = 100;

/// Longer than it takes until nothing is left to do.
const SETTLES: Duration = Duration::from_secs(80);

/// How many workers a history has, at most, and what they share. Where there are several, their number changes.
pub struct Setup {
    pub backend: Arc<dyn Backend>,
    pub workers: usize,
}

/// A history of its own.
pub async fn history(seed: u64, setup: Setup) {
    println!("PENSTOCK_TEST_SEED={seed} PENSTOCK_TEST_SCALE=1");
    let mut chance = fastrand::Rng::with_seed(seed);
    let world = world(seed, &mut chance);
    let relay = relay(&world, seed, &mut chance);
    let mut history = History {
        workers: workers(&setup, setup.workers, &relay, &mut chance),
        setup,
        relay,
        frames: world.log.len(),
        oldest: 0,
    };
    for _ in 0..chance.usize(6..=14) {
        history.step(&mut chance).await;
    }
    history.settle(&mut chance).await;
    history.is_known(&world).await;
}

fn world(seed: u64, chance: &mut fastrand::Rng) -> World {
    let events = chance.u64(600..=1_500);
    World::generate(&WorldSpec {
        seed,
        repos: 40,
        events,
        past_events: chance.u64(0..=events),
        past: chance.u64(1..=48) * DAY / 24,
        prefill: 50,
        faults: StreamFaults {
            duplicates: 0.02,
            renumbered: 0.02,
            reordered: 0.05,
            infos: 0.002,
            gaps: if chance.bool() { 0.004 } else { 0.0 },
            ..StreamFaults::default()
        },
        ..WorldSpec::default()
    })
}

fn relay(world: &World, seed: u64, chance: &mut fastrand::Rng) -> RelayServer {
    let sometimes = |chance: &mut fastrand::Rng, range: std::ops::Range<u64>| {
        let value = chance.u64(range);
        chance.bool().then_some(value)
    };
    let faults = ConnectionFaults {
        seed,
        drop_every: sometimes(chance, 30..800),
        stall_every: sometimes(chance, 300..2_000),
        jump_to_live: sometimes(chance, 1..800),
        ..ConnectionFaults::default()
    };
    let options = RelayOptions {
        pace: Pace::Manual,
        published: chance.usize(0..=world.log.len() / 2),
        cursors: cursors(chance),
        too_slow: sometimes(chance, 50..500).map(|frames| frames as usize),
        faults,
        ..RelayOptions::default()
    };
    RelayServer::start(world, options).unwrap()
}

fn cursors(chance: &mut fastrand::Rng) -> Cursors {
    let mut one = |of: u8| chance.u8(0..of);
    Cursors {
        inclusive: one(2) == 0,
        outdated: [Outdated::Info, Outdated::SilentOldest, Outdated::SilentLive][one(3) as usize],
        future: [Future::Error, Future::SilentOldest, Future::SilentLive][one(3) as usize],
        retained: match one(6) {
            0 => Retained::SilentOldest,
            1 => Retained::SilentLive,
            _ => Retained::Served,
        },
    }
}

fn workers(
    setup: &Setup,
    count: usize,
    relay: &RelayServer,
    chance: &mut fastrand::Rng,
) -> Vec<Worker> {
    let within = ["1m", "1h", "72h"][chance.usize(0..3)];
    let pace = ["0", "0", "500"][chance.usize(0..3)];
    let worker = |id: usize| Worker {
        installation: Installation::over(&setup.backend, &relay.url())
            .with("WORKER_ID", &id.to_string())
            .with("WORKER_COUNT", &count.to_string())
            .with("BACKFILL_DAYS", "10")
            .with("RUST_LOG", "info,penstock=debug")
            .with("PENSTOCK_RELAY__START", "head")
            .with("PENSTOCK_RELAY__RESUME_WITHIN", within)
            .with("PENSTOCK_BACKFILL__MAX_EVENTS_PER_SECOND", pace)
            .with("PENSTOCK_BACKFILL__REREAD", "200ms")
            .with("PENSTOCK_RELAY__READ_TIMEOUT", "400ms")
            .with("PENSTOCK_RELAY__PING_INTERVAL", "100ms"),
        daemon: None,
    };
    (0..count).map(worker).collect()
}

struct Worker {
    /// First, for what it said is shown where a test fails.
    daemon: Option<Daemon>,
    installation: Installation,
}

struct History {
    workers: Vec<Worker>,
    setup: Setup,
    relay: RelayServer,
    /// Numbers of the whole stream.
    frames: usize,
    /// The oldest number that the relay still has.
    oldest: u64,
}

impl History {
    async fn step(&mut self, chance: &mut fastrand::Rng) {
        let id = chance.usize(0..self.workers.len());
        let worker = &mut self.workers[id];
        match (chance.u8(0..15), worker.daemon.take()) {
            (0..=3, running) => {
                worker.daemon = running;
                let left = self.frames - self.relay.published();
                let most = left.saturating_sub(LAST).min(300);
                let count = chance.usize(0..=most);
                println!("publish {count}");
                self.relay.publish(count);
            }
            (4, Some(mut daemon)) => {
                println!("stop worker {id}");
                // Where worker 0 has not made the tables yet the others wait for them.
                let serving = daemon.until_says("serving HTTP");
                match timeout(Duration::from_secs(3), serving).await {
                    Ok(_) => daemon.stop().await,
                    Err(_) => daemon.kill().await,
                }
            }
            (5..=6, Some(daemon)) => {
                println!("kill worker {id}");
                daemon.kill().await;
            }
            (4..=8, None) => {
                println!("start worker {id}");
                worker.daemon = Some(worker.installation.start());
            }
            (9, running) => {
                worker.daemon = running;
                self.oldest = chance.u64(self.oldest..=self.relay.head().max(self.oldest));
                println!("forget all before {}", self.oldest);
                self.relay.retain_from(self.oldest);
            }
            (10, running) => {
                worker.daemon = running;
                println!("disconnect");
                self.relay.disconnect_all();
            }
            (11, running) => {
                worker.daemon = running;
                let at = chance.u64(1..=self.relay.head().max(1));
                println!("jump to live at {at}");
                self.relay
                    .change(|relay| relay.faults.jump_to_live = Some(at));
            }
            (12, running) if self.setup.workers > 1 => {
                worker.daemon = running;
                self.change_workers(chance).await;
            }
            (_, running) => {
                worker.daemon = running;
                let wait = Duration::from_millis(chance.u64(0..=2_000));
                println!("wait {wait:?}");
                sleep(wait).await;
            }
        }
    }

    /// All are stopped, also those that were killed, so that no lease is held; then there are others.
    async fn change_workers(&mut self, chance: &mut fastrand::Rng) {
        for worker in &mut self.workers {
            let installation = &worker.installation;
            let mut daemon = worker.daemon.take().unwrap_or_else(|| installation.start());
            daemon.until_says("serving HTTP").await;
            daemon.stop().await;
        }
        let count = chance.usize(1..=self.setup.workers);
        println!("{count} workers");
        self.workers = workers(&self.setup, count, &self.relay, chance);
    }

    /// The relay does all that it should from now on, and new frames go on coming until nothing is left to do.
    async fn settle(&mut self, chance: &mut fastrand::Rng) {
        let inclusive = chance.bool();
        self.relay.change(|relay| {
            relay.faults = ConnectionFaults::default();
            relay.too_slow = None;
            relay.cursors = Cursors {
                inclusive,
                ..Cursors::default()
            };
        });
        let left = self.frames - self.relay.published();
        self.relay.publish(left.saturating_sub(LAST));
        chance.shuffle(&mut self.workers);
        for worker in &mut self.workers {
            worker
                .daemon
                .get_or_insert_with(|| worker.installation.start());
        }
        let relay = &self.relay;
        let mut tick = interval(Duration::from_millis(250));
        let mut ticks = 0;
        for worker in &mut self.workers {
            let socket = worker.installation.socket();
            let settled = async || {
                tick.tick().await;
                ticks += 1;
                let Some((repaired, tail)) = state(&socket).await else {
                    return false;
                };
                let settled = repaired && tail >= relay.head();
                if !settled && ticks % if repaired { 12 } else { 2 } == 0 {
                    relay.publish(1);
                }
                settled
            };
            let daemon = worker.daemon.as_mut().unwrap();
            let waiting = daemon.until("nothing is left to do", settled);
            if timeout(SETTLES, waiting).await.is_err() {
                let gaps = get(&socket, "/admin/gaps").await;
                panic!(
                    "not settled at {} of {}: {gaps:?}",
                    relay.head(),
                    self.oldest
                );
            }
        }
        for worker in &mut self.workers {
            worker.daemon.take().unwrap().stop().await;
        }
    }

    /// Each number that the relay used is held, or lost since the relay forgot it.
    async fn is_known(&self, world: &World) {
        let installation = &self.workers[0].installation;
        let ended = installation.run(&["gaps", "--json"]).await;
        let gaps: Value = serde_json::from_slice(&ended.out).expect(&ended.words);
        let held = Intervals::of(&[&gaps["held"]]);
        let lost = Intervals::of(&[&gaps["missing"]]);
        let used: Vec<u64> = world.log.entries().iter().map(|entry| entry.seq).collect();
        let used = &used[..self.relay.published()];
        for slot in 0..=u8::MAX {
            for seq in used {
                let (held, lost) = (held.has(slot, *seq), lost.has(slot, *seq));
                assert!(
                    held != lost,
                    "{seq} in slot {slot}: held {held}, lost {lost}: {gaps:#}"
                );
                assert!(
                    !lost || *seq < self.oldest,
                    "{seq} can be had, but is lost: {gaps:#}"
                );
            }
        }
        let some_lost = used.iter().filter(|seq| lost.has(0, **seq)).count();
        println!("{} held, {some_lost} lost", used.len() - some_lost);
        let complete = gaps["complete"] == true;
        assert_eq!(ended.code, Some(i32::from(!complete)), "{}", ended.words);
        let head = self.relay.head();
        let is_lost = |did: &str, seq| seq > head || lost.has(slot_of(did), seq);
        Truth::of(world).holds_all_but(installation, is_lost).await;
    }
}

/// Whether nothing is missing that can be had, and up to where all slots hold something.
async fn state(socket: &std::path::Path) -> Option<(bool, u64)> {
    let gaps: Value = serde_json::from_str(&get(socket, "/admin/gaps").await?).unwrap();
    let mut missing = gaps["missing"].as_array().unwrap().iter();
    let repaired = missing.all(|gap| gap["state"] == "lost");
    let tails = gaps["tails"].as_array().unwrap();
    let slots = tails
        .iter()
        .map(|tail| parse_slots(tail["slots"].as_str().unwrap()).len());
    let whole = slots.sum::<usize>() == 256;
    let tail = tails.iter().map(|tail| tail["seq"].as_u64().unwrap()).min();
    Some((repaired && whole, tail.unwrap_or(0)))
}

/// Intervals by slot.
struct Intervals(Vec<(BTreeSet<u8>, u64, u64)>);

impl Intervals {
    fn of(lists: &[&Value]) -> Self {
        let rows = lists.iter().flat_map(|list| list.as_array().unwrap());
        let interval = |row: &Value| {
            assert_eq!(row["generation"], 0, "{row}");
            let slots = parse_slots(row["slots"].as_str().unwrap());
            let from = row["from_seq"].as_u64().unwrap_or(0);
            (slots, from, row["to_seq"].as_u64().unwrap_or(u64::MAX))
        };
        Self(rows.map(interval).collect())
    }

    fn has(&self, slot: u8, seq: u64) -> bool {
        let within = |(slots, from, to): &(BTreeSet<u8>, u64, u64)| {
            *from < seq && seq <= *to && slots.contains(&slot)
        };
        self.0.iter().any(within)
    }
}

/// The slots of `0-2,7,10-20/2`.
fn parse_slots(text: &str) -> BTreeSet<u8> {
    let ranges = text.split(',').flat_map(|range| {
        let (range, step) = range.split_once('/').unwrap_or((range, "1"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let slots = first.parse::<u8>().unwrap()..=last.parse().unwrap();
        slots.step_by(step.parse().unwrap())
    });
    ranges.collect()
}
