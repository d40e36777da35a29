//! Daemons that are killed, over a store of any kind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use penstock_loadtest::{
    ConnectionFaults, Pace, RelayOptions, RelayServer, StreamFaults, World, WorldSpec,
};
use rustix::process::Signal;
use tokio::time::{sleep, timeout};

use crate::installed::backend::Backend;
use crate::installed::truth::Truth;
use crate::installed::{Daemon, Installation, number};

/// Events between two of them.
const EVENTS: u64 = 240;
/// Every so many kills the store is looked into.
const LOOK: u64 = 5;

/// A stream in which much is wrong.
pub fn world(seed: u64, events: u64) -> World {
    World::generate(&WorldSpec {
        seed,
        repos: 60,
        events,
        prefill: 200,
        faults: StreamFaults {
            corrupt: 0.01,
            duplicates: 0.02,
            renumbered: 0.02,
            reordered: 0.05,
            infos: 0.002,
            ..StreamFaults::default()
        },
        ..WorldSpec::default()
    })
}

/// A relay whose connections fail, and that shows what it is told to.
pub fn relay(world: &World, seed: u64) -> RelayServer {
    let faults = ConnectionFaults {
        seed,
        drop_every: Some(400),
        stall_every: Some(1500),
        stall_for: None,
        ..ConnectionFaults::default()
    };
    let options = RelayOptions {
        pace: Pace::Manual,
        faults,
        ..RelayOptions::default()
    };
    RelayServer::start(world, options).expect("a relay")
}

/// How often a daemon is killed, and at what pace.
#[derive(Debug, Clone, Copy)]
pub struct Kills {
    /// At a scale of 1.
    pub number: u64,
    /// How many times as long as with the embedded store a start takes, about.
    pub slower: u32,
}

/// When a daemon is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// So soon that its store may not be open, or not even made.
    Start(Duration),
    /// After so long.
    Time(Duration),
    /// Once it has been sent so many more frames, and a little later.
    Progress(u64, Duration),
    /// A little after it claimed more than was held at the last look.
    Claims(Duration),
    /// So long after SIGTERM.
    Drain(Duration),
}

impl Moment {
    fn choose(chance: &mut fastrand::Rng, kill: u64, slower: u32) -> Self {
        let mut up_to = |millis: u64| Duration::from_micros(chance.u64(0..=millis * 1000)) * slower;
        // The first ones hit the making of the store.
        if kill < 5 {
            return Self::Start(up_to(60));
        }
        let (short, long, start) = (up_to(30), up_to(1_600), up_to(80));
        match kill % 10 {
            0 | 5 => Self::Start(start),
            1 | 4 | 7 => Self::Time(long),
            2 => Self::Drain(short),
            3 => Self::Claims(short),
            // By then it was written.
            8 => Self::Claims(long),
            _ => Self::Progress(chance.u64(1..=2 * EVENTS), short),
        }
    }

    async fn wait(self, daemon: &mut Daemon, relay: &RelayServer, slower: u32, held: u64) {
        match self {
            Self::Start(time) | Self::Time(time) => sleep(time).await,
            Self::Progress(frames, time) => {
                let until = relay.frames_sent() + frames;
                // There may not be so many.
                let sent = daemon.until("frames", async || relay.frames_sent() >= until);
                let _ = timeout(Duration::from_secs(1) * slower, sent).await;
                sleep(time).await;
            }
            Self::Claims(time) => {
                daemon.until_durable(held + 1).await;
                sleep(time).await;
            }
            Self::Drain(time) => {
                sleep(Duration::from_millis(700) * slower).await;
                daemon.signal(Signal::TERM);
                sleep(time).await;
            }
        }
    }
}

/// Killed over and over while the relay misbehaves, with looks into the store between.
pub async fn nothing_is_lost_however_often_it_is_killed(backend: Arc<dyn Backend>, often: Kills) {
    let scale = number("PENSTOCK_TEST_SCALE", 1);
    let seed = number("PENSTOCK_TEST_SEED", 20_261_123);
    println!("PENSTOCK_TEST_SEED={seed} PENSTOCK_TEST_SCALE={scale}");
    let mut chance = fastrand::Rng::with_seed(seed);
    let kills = often.number * scale;
    let world = world(seed, kills * EVENTS);
    let truth = Truth::of(&world);
    let relay = relay(&world, seed);
    let installation = Installation::over(&backend, &relay.url())
        .with("PENSTOCK_RELAY__READ_TIMEOUT", "400ms")
        .with("PENSTOCK_RELAY__PING_INTERVAL", "100ms");

    let mut watermarks = vec![0];
    for kill in 0..kills {
        let moment = Moment::choose(&mut chance, kill, often.slower);
        let before = chance.usize(0..=EVENTS as usize);
        relay.publish(before);
        let mut daemon = installation.start();
        relay.publish(EVENTS as usize - before);
        let held = *watermarks.last().expect("at least one");
        moment.wait(&mut daemon, &relay, often.slower, held).await;
        println!("kill {kill} at {moment:?}, {} published", relay.published());
        daemon.kill().await;
        if kill % LOOK == LOOK - 1 {
            let watermark = truth.holds_what_it_acknowledged(&installation).await;
            println!("the watermark is {watermark} of {}", relay.head());
            assert!(
                watermarks.last() <= Some(&watermark),
                "the watermark went back: {watermarks:?}, {watermark}"
            );
            watermarks.push(watermark);
        }
    }
    watermarks.dedup();
    assert!(
        watermarks.len() > 2,
        "the kills came too early to mean anything: {watermarks:?}"
    );

    relay.publish_all();
    let mut daemon = installation.start();
    daemon.until_durable(truth.last_seq()).await;
    daemon.stop().await;
    truth.is_held_in_the_end(&installation).await;
}

/// Killed at any point of its very first start, the next start makes what was not finished.
/// So many rounds, each over a store that `empty` names and `step` later than the one before.
pub async fn a_store_that_was_half_made_is_made_anew(
    empty: impl Fn() -> Arc<dyn Backend>,
    rounds: u32,
    step: Duration,
) {
    let world = world(7, 300);
    let truth = Truth::of(&world);
    let relay = RelayServer::start(&world, RelayOptions::default()).expect("a relay");
    let mut found: BTreeMap<&str, u32> = BTreeMap::new();
    for kill in 0..rounds {
        let mut installation = Installation::over(&empty(), &relay.url());
        // A socket of another name, left in the store's folder, is no hindrance either.
        let socket = installation.data().join("http.sock");
        installation.set("PENSTOCK_HTTP__SOCKET", &socket.display().to_string());
        let daemon = installation.start();
        sleep(step * kill).await;
        daemon.kill().await;
        let left = ["db", "creating", "LOCK"];
        let left = left
            .into_iter()
            .find(|name| installation.data().join(name).exists());
        *found.entry(left.unwrap_or("nothing")).or_default() += 1;
        let mut daemon = installation.start();
        daemon.until_says("serving HTTP").await;
        if kill % 10 == 9 || kill + 1 == rounds {
            daemon.until_durable(truth.last_seq()).await;
            daemon.stop().await;
            truth.is_held_in_the_end(&installation).await;
        } else {
            daemon.kill().await;
        }
    }
    println!("the first starts left: {found:?}");
}
