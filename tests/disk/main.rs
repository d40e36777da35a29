//! A disk that fills up: the daemon stops, says which folder needs room, and goes on where it was once there is some.
//!
//! The disk is a tmpfs, which takes root; elsewhere the tests say that they are skipped.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../installed/mod.rs"]
mod installed;
mod tmpfs;

use installed::truth::Truth;
use installed::{Daemon, Installation};
use penstock_loadtest::{Pace, RelayOptions, RelayServer, StreamFaults, World, WorldSpec};
use tmpfs::Disk;

fn world(seed: u64) -> World {
    World::generate(&WorldSpec {
        seed,
        repos: 60,
        events: 12_000,
        prefill: 200,
        faults: StreamFaults {
            corrupt: 0.005,
            ..StreamFaults::default()
        },
        ..WorldSpec::default()
    })
}

fn follow(disk: &Disk, relay: &RelayServer, min_free: &str) -> Installation {
    Installation::new(relay)
        .in_folder(&disk.path().join("data"))
        .with("PENSTOCK_STORE__EMBEDDED__MIN_FREE", min_free)
}

/// Publishes little by little until the daemon ends.
async fn feed_until_it_ends(daemon: &mut Daemon, relay: &RelayServer) {
    let all = async || {
        relay.publish(5);
        false
    };
    let status = daemon
        .ends_or("the end of the disk", all)
        .await
        .expect("its end");
    assert_eq!(status.code(), Some(75), "{}", daemon.words());
}

/// It says in the end what is full, and where. (Lanes that were at work may have a last word of their own.)
fn says_what_is_full(words: &str, data: &std::path::Path) {
    let why = words.lines().find(|line| line.starts_with("penstock: "));
    let folder = data.display().to_string();
    assert!(
        why.is_some_and(|why| why.contains("full") && why.contains(&folder)),
        "{words}"
    );
}

/// Fills the disk, tries in vain, makes room, goes on; then again.
async fn fills_up_and_goes_on(disk: Disk, min_free: &str, seed: u64) {
    let world = world(seed);
    let truth = Truth::of(&world);
    let options = RelayOptions {
        pace: Pace::Manual,
        published: 500,
        ..RelayOptions::default()
    };
    let relay = RelayServer::start(&world, options).expect("a relay");
    let installation = follow(&disk, &relay, min_free);

    let mut daemon = installation.start();
    feed_until_it_ends(&mut daemon, &relay).await;
    says_what_is_full(&daemon.words(), installation.data());
    assert!(
        relay.published() < world.log.len(),
        "the disk is too large for this test: {} bytes are free",
        disk.free()
    );

    // Nothing has changed, so nothing changes: it ends again, and nothing is called corrupt.
    let again = installation.run(&["run"]).await;
    assert_eq!(again.code, Some(75), "{}", again.words);
    says_what_is_full(&again.words, installation.data());

    disk.enlarge(512);
    let watermark = truth.holds_what_it_acknowledged(&installation).await;
    println!(
        "the watermark is {watermark} of {}, {} bytes are free",
        relay.head(),
        disk.free()
    );
    relay.publish_all();
    let mut daemon = installation.start();
    daemon.until_durable(truth.last_seq()).await;
    daemon.stop().await;
    truth.is_held_in_the_end(&installation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_it_and_room_lets_it_go_on() {
    if let Some(disk) = Disk::mount("a_full_disk_stops_it_and_room_lets_it_go_on", 6) {
        fills_up_and_goes_on(disk, "0", 31).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_leaves_the_free_space_that_it_is_told_to() {
    if let Some(disk) = Disk::mount("it_leaves_the_free_space_that_it_is_told_to", 64) {
        fills_up_and_goes_on(disk, "60MiB", 32).await;
    }
}
