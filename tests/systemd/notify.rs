//! What the daemon says to the service manager. (That a pipeline that hangs is silent: tests/firehose/service.rs.)

use penstock_loadtest::{Pace, Refusal, RelayOptions, RelayServer, World};
use rustix::process::Signal;

use crate::installed::{Daemon, Installation};
use crate::machine::listener::Listener;

/// The daemon with a listener that waits two seconds for each sign of life.
fn start(relay: &RelayServer, listener: &Listener) -> (Installation, Daemon) {
    let address = listener.address();
    let installation = Installation::new(relay)
        .with("NOTIFY_SOCKET", address.to_str().unwrap())
        .with("WATCHDOG_USEC", "2000000");
    let daemon = installation.start();
    (installation, daemon)
}

fn manual(published: usize) -> RelayOptions {
    RelayOptions {
        pace: Pace::Manual,
        published,
        ..RelayOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_ready_only_once_it_is_live() {
    let relay = RelayServer::start(&World::of(80, 20, 400), manual(400)).unwrap();
    relay.change(|options| options.faults.refusals = vec![Refusal::status(503); 100_000]);
    let listener = Listener::new();
    let (_installation, daemon) = start(&relay, &listener);
    let mut heard = listener
        .hears_until("STATUS=not live: the relay is not connected")
        .await;
    // Some more, so that a ready that was said too early is heard.
    for _ in 0..10 {
        heard.extend(listener.hears().await);
    }
    assert!(!heard.contains(&"READY=1".to_owned()), "{heard:?}");
    assert_eq!(heard[0], "STATUS=opening the store");
    relay.change(|options| options.faults.refusals.clear());
    listener.hears_until("READY=1").await;
    let heard = listener.hears_until("STATUS=live").await;
    let status = heard.last().unwrap();
    for part in [", lag ", " s, ", " events/s, replay ", "%"] {
        assert!(status.contains(part), "{status}");
    }
    // Gone again: it says so, and is as ready as before.
    relay.change(|options| options.faults.refusals = vec![Refusal::status(503); 100_000]);
    relay.disconnect_all();
    listener.hears_until("STATUS=not live").await;
    relay.change(|options| options.faults.refusals.clear());
    let heard = listener.hears_until("STATUS=live").await;
    assert!(
        !heard.contains(&"READY=1".to_owned()),
        "said once: {heard:?}"
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_gives_signs_of_life_while_it_works_and_while_it_has_nothing_to_do() {
    let relay = RelayServer::start(&World::of(81, 20, 2_000), manual(100)).unwrap();
    let listener = Listener::new();
    let (_installation, mut daemon) = start(&relay, &listener);
    listener.hears_until("READY=1").await;
    for _ in 0..4 {
        relay.publish(400);
        listener.hears_until("WATCHDOG=1").await;
    }
    daemon.until_durable(relay.head()).await;
    for _ in 0..4 {
        listener.hears_until("WATCHDOG=1").await;
    }
    daemon.signal(Signal::TERM);
    let heard = listener.hears_until("STOPPING=1").await;
    assert_eq!(heard.last().unwrap(), "STATUS=stopping");
    assert!(daemon.wait().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_also_says_that_it_stops_before_it_was_ready() {
    let relay = RelayServer::start(&World::of(82, 10, 100), manual(100)).unwrap();
    relay.change(|options| options.faults.refusals = vec![Refusal::status(503); 100_000]);
    let listener = Listener::new();
    let (_installation, daemon) = start(&relay, &listener);
    listener.hears_until("STATUS=not live").await;
    daemon.stop().await;
    let heard = listener.hears_until("STOPPING=1").await;
    assert!(!heard.contains(&"READY=1".to_owned()), "{heard:?}");
}
