//! Several workers in one keyspace, killed in turn, and then one more of them.
//!
//! `PENSTOCK_TEST_SCALE` multiplies kills and events; `PENSTOCK_TEST_SEED` chooses the world and the moments.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use penstock_loadtest::RelayServer;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::installations::empty;
use crate::installed::backend::Backend;
use crate::installed::truth::Truth;
use crate::installed::{Daemon, Installation, number};
use crate::kills;
use crate::window::{Setup, history};

/// Kills of two workers at a scale of 1; as many kills are of three.
const KILLS: u64 = 8;
/// Events between two of them.
const EVENTS: usize = 240;
/// Before every so many kills all workers claim what was published, then all are killed, and the store is looked into.
const LOOK: u64 = 4;

/// How long a worker has to claim what was published: a frame that fails waits 5 s for what the next ones say.
const CLAIMS: Duration = Duration::from_secs(8);

/// All workers of a keyspace.
struct Workers {
    /// First, for what they said is shown where a test fails.
    daemons: Vec<Option<Daemon>>,
    installations: Vec<Installation>,
}

impl Workers {
    /// So many, the one of a number with its data in a folder; none runs yet.
    fn new<'a>(
        backend: &Arc<dyn Backend>,
        relay: &RelayServer,
        count: usize,
        folder: impl Fn(usize) -> &'a Path,
    ) -> Self {
        let worker = |id: usize| {
            Installation::over(backend, &relay.url())
                .in_folder(folder(id))
                .with("WORKER_ID", &id.to_string())
                .with("WORKER_COUNT", &count.to_string())
                .with("PENSTOCK_RELAY__READ_TIMEOUT", "400ms")
                .with("PENSTOCK_RELAY__PING_INTERVAL", "100ms")
        };
        Self {
            installations: (0..count).map(worker).collect(),
            daemons: (0..count).map(|_| None).collect(),
        }
    }

    fn start(&mut self) {
        for (daemon, installation) in self.daemons.iter_mut().zip(&self.installations) {
            daemon.get_or_insert_with(|| installation.start());
        }
    }

    async fn kill(&mut self, id: usize) {
        if let Some(mut daemon) = self.daemons[id].take() {
            let ended = daemon.ended();
            assert!(
                ended.is_none(),
                "worker {id}: {ended:?}, {}",
                daemon.words()
            );
            daemon.kill().await;
        }
    }

    async fn stop(&mut self) {
        for daemon in self.daemons.iter_mut().filter_map(Option::take) {
            daemon.stop().await;
        }
    }

    async fn until_durable(&mut self, seq: u64) {
        for daemon in self.daemons.iter_mut().flatten() {
            daemon.until_durable(seq).await;
        }
    }

    /// Kills one after the other while the relay misbehaves, with looks into the store between.
    async fn are_killed_in_turn(
        &mut self,
        kills: u64,
        relay: &RelayServer,
        truth: &Truth<'_>,
        chance: &mut fastrand::Rng,
    ) -> Vec<u64> {
        let mut watermarks = Vec::new();
        for kill in 0..kills {
            self.start();
            let id = kill as usize % self.daemons.len();
            let before = chance.usize(0..=EVENTS);
            relay.publish(before);
            let look = kill % LOOK == LOOK - 1;
            if look {
                let good = truth.last_good(relay.head()).expect("a good frame");
                self.until_durable(good).await;
            } else {
                self.gets_on(id, relay.head(), chance).await;
            }
            relay.publish(EVENTS - before);
            sleep(Duration::from_millis(chance.u64(0..=500))).await;
            self.kill(id).await;
            println!("killed worker {id}, {} published", relay.published());
            if look {
                for id in 0..self.daemons.len() {
                    self.kill(id).await;
                }
                let watermark = truth
                    .holds_what_it_acknowledged(&self.installations[0])
                    .await;
                println!("the watermark is {watermark} of {}", relay.head());
                watermarks.push(watermark);
            }
        }
        watermarks
    }

    /// Most often a worker is killed once it has claimed what was published, for which it has a few seconds, else while it starts.
    async fn gets_on(&mut self, id: usize, seq: u64, chance: &mut fastrand::Rng) {
        let starts = Duration::from_millis(chance.u64(0..=1_000));
        match &mut self.daemons[id] {
            Some(daemon) if chance.u8(0..3) > 0 => {
                let _ = timeout(CLAIMS, daemon.until_durable(seq)).await;
            }
            _ => sleep(starts).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_are_killed_in_turn_and_become_three() {
    let scale = number("PENSTOCK_TEST_SCALE", 1);
    let seed = number("PENSTOCK_TEST_SEED", 20_261_124);
    println!("PENSTOCK_TEST_SEED={seed} PENSTOCK_TEST_SCALE={scale}");
    let Some(backend) = empty().await else {
        return;
    };
    let mut chance = fastrand::Rng::with_seed(seed);
    let kills = KILLS * scale;
    let world = kills::world(seed, 2 * kills * EVENTS as u64);
    let truth = Truth::of(&world);
    let relay = kills::relay(&world, seed);
    let folder = || TempDir::new().expect("a folder");

    // On one machine, in one folder.
    let shared = folder();
    let mut two = Workers::new(&backend, &relay, 2, |_| shared.path());
    let mut watermarks = two
        .are_killed_in_turn(kills, &relay, &truth, &mut chance)
        .await;
    two.start();
    two.until_durable(1).await;
    two.stop().await;

    // In folders of their own, as if each had a machine.
    let own = [folder(), folder(), folder()];
    let mut three = Workers::new(&backend, &relay, 3, |id| own[id].path());
    watermarks.extend(
        three
            .are_killed_in_turn(kills, &relay, &truth, &mut chance)
            .await,
    );
    assert!(watermarks.is_sorted(), "it went back: {watermarks:?}");
    watermarks.dedup();
    assert!(
        watermarks.len() > 2,
        "the kills came too early to mean anything: {watermarks:?}"
    );

    relay.publish_all();
    three.start();
    three.until_durable(truth.last_seq()).await;
    three.stop().await;
    truth.is_held_in_the_end(&three.installations[0]).await;
}

/// Histories at a scale of 1; each takes about half a minute.
const HISTORIES: u64 = 2;

/// Started in any order, and with a count that changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_and_what_is_lost_are_known_to_the_frame() {
    let scale = number("PENSTOCK_TEST_SCALE", 1);
    let first = number("PENSTOCK_TEST_SEED", 1);
    for seed in first..first + HISTORIES * scale {
        let Some(backend) = empty().await else {
            return;
        };
        let workers = 2 + seed as usize % 2;
        history(seed, Setup { backend, workers }).await;
    }
}
