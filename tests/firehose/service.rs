//! What the service manager hears of the pipeline: signs of life while it works, and none while it hangs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use penstock::clock::ManualClock;
use penstock::service::Service;
use penstock_loadtest::{Pace, RelayOptions, RelayServer, World, WorldSpec, now_micros};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use crate::pressure::Gated;
use crate::worker::Stopped;

/// The time that the listener waits for a sign of life; it hears a status four times as often.
const WATCHDOG: Duration = Duration::from_secs(1);
/// So many lines of status are waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A listener that keeps what it hears, in order.
struct Listener(UnboundedReceiver<String>);

/// What is said at one look at the pipeline.
struct Look {
    is_alive: bool,
    status: String,
}

impl Listener {
    fn new() -> (Self, Service) {
        let (say, heard) = unbounded_channel();
        let tell = move |states: &[sd_notify::NotifyState<'_>]| {
            for state in states {
                let _ = say.send(state.to_string());
            }
            Ok(())
        };
        (Self(heard), Service::hearing(tell, Some(WATCHDOG)))
    }

    async fn next(&mut self) -> Look {
        let mut is_alive = false;
        loop {
            let heard = timeout(PATIENCE, self.0.recv()).await;
            let state = heard.expect("the daemon says something").unwrap();
            is_alive |= state == "WATCHDOG=1";
            if let Some(status) = state.strip_prefix("STATUS=") {
                let status = status.to_owned();
                return Look { is_alive, status };
            }
        }
    }

    async fn until(&mut self, what: &str, is: impl Fn(&Look) -> bool) -> Look {
        let looking = async {
            loop {
                let look = self.next().await;
                if is(&look) {
                    return look;
                }
            }
        };
        let found = timeout(PATIENCE, looking).await;
        found.unwrap_or_else(|_| panic!("not in {PATIENCE:?}: {what}"))
    }
}

fn world(seed: u64) -> World {
    World::generate(&WorldSpec {
        seed,
        repos: 60,
        events: 4_000,
        prefill: 50,
        ..WorldSpec::default()
    })
}

/// What never ends.
#[derive(Debug, Clone, Copy)]
enum Hang {
    /// The writes of the lanes.
    Writes,
    /// One of them, while others go on.
    OneWrite,
    /// Those of the ledger.
    Facts,
}

impl Hang {
    fn begin(self, store: &Gated) {
        match self {
            Self::Writes => drop(store.open.send_replace(false)),
            Self::OneWrite => store.one_hangs.store(true, Ordering::SeqCst),
            Self::Facts => drop(store.open_facts.send_replace(false)),
        }
    }

    fn end(self, store: &Gated) {
        match self {
            Self::Writes => drop(store.open.send_replace(true)),
            Self::OneWrite => store.released.notify_one(),
            Self::Facts => drop(store.open_facts.send_replace(true)),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_that_hangs_gives_no_sign_of_life() {
    for hang in [Hang::Writes, Hang::OneWrite, Hang::Facts] {
        let world = world(90);
        let options = RelayOptions {
            pace: Pace::Manual,
            published: 1_000,
            ..RelayOptions::default()
        };
        let relay = RelayServer::start(&world, options).unwrap();
        let store = Gated::new(true);
        let (mut listener, service) = Listener::new();
        let stopped = Stopped::over(store.clone()).managed_by(service);
        let mut worker = stopped.start(&relay, &[]).await;
        worker.until_seq(relay.head()).await;
        listener.until("live", |look| look.is_alive).await;

        hang.begin(&store);
        listener
            .until("it hangs", |look| {
                relay.publish(20);
                !look.is_alive
            })
            .await;
        // Longer than the listener has patience, and although all else is well.
        for _ in 0..8 {
            relay.publish(20);
            let look = listener.next().await;
            assert!(!look.is_alive, "{hang:?}");
            assert!(look.status.starts_with("live"), "{}", look.status);
        }

        hang.end(&store);
        listener.until("it works again", |look| look.is_alive).await;
        relay.publish_all();
        worker.until_seq(relay.head()).await;
        worker.stop().await.holds(&world.oracle).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_is_a_reason_to_wait() {
    let world = world(91);
    let relay = RelayServer::start(&world, RelayOptions::default()).unwrap();
    let clock = Arc::new(ManualClock::at(now_micros() - 7_200_000_000));
    let (mut listener, service) = Listener::new();
    // With a store that hangs there is something to do that is not done.
    let set = ["shutdown.timeout=100ms"];
    let worker = Stopped::over(Gated::new(false)).managed_by(service);
    let worker = worker.with_clock(clock.clone());
    let worker = worker.start(&relay, &set).await;
    let paused = |look: &Look| look.status.contains("ingestion pauses");
    listener.until("a pause", paused).await;
    for _ in 0..8 {
        let look = listener.next().await;
        assert!(paused(&look), "{}", look.status);
        assert!(look.is_alive);
    }
    worker.stop_anyhow().await.0.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_writes_wait_is_a_reason_to_wait() {
    let world = world(92);
    let relay = RelayServer::start(&world, RelayOptions::default()).unwrap();
    let store = Gated::new(false);
    store.waits.store(true, Ordering::SeqCst);
    let (mut listener, service) = Listener::new();
    let set = ["shutdown.timeout=100ms"];
    let worker = Stopped::over(store.clone()).managed_by(service);
    let worker = worker.start(&relay, &set).await;
    let live = |look: &Look| look.status.starts_with("live");
    listener.until("it is live", live).await;
    for _ in 0..8 {
        assert!(listener.next().await.is_alive);
    }
    store.waits.store(false, Ordering::SeqCst);
    listener.until("it hangs", |look| !look.is_alive).await;
    worker.stop_anyhow().await.0.unwrap();
}
