//! The way of a newcomer, with the binary: start it, see records and metrics, stop it, start it again; and the mistakes that
//! newcomers make.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../installed/mod.rs"]
mod installed;
mod way;

use std::sync::Arc;
use std::time::{Duration, Instant};

use installed::backend::Embedded;
use installed::truth::Truth;
use installed::{Daemon, Installation, PATIENCE};
use way::{relay, world};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_seen_and_a_restart_goes_on() {
    way::records_are_seen_and_a_restart_goes_on(Arc::new(Embedded)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once() {
    way::a_second_signal_ends_it_at_once(Arc::new(Embedded)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_down_is_waited_for_without_noise() {
    way::a_relay_that_is_down_is_waited_for_without_noise(Arc::new(Embedded)).await;
}

/// Whoever comes first wins, also where there is no store yet; the others say why and harm nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_data_belongs_to_one_process() {
    let world = world(500);
    let truth = Truth::of(&world);
    let relay = relay(&world, 500);
    let penstock = Installation::new(&relay);
    for _ in 0..5 {
        let mut rivals: Vec<Daemon> = (0..3).map(|_| penstock.start()).collect();
        let mut losers = Vec::new();
        while rivals.len() > 1 {
            let (mut ended, running) = until_one_ends(rivals).await;
            assert_eq!(ended.wait().await.code(), Some(75), "{}", ended.words());
            losers.push(ended);
            rivals = running;
        }
        let store = penstock.data().display().to_string();
        for loser in &losers {
            let words = loser.words();
            let why = words.lines().last().unwrap_or_default();
            assert!(
                why.contains("in use by another process") && why.contains(&store),
                "{words}"
            );
        }
        let mut winner = rivals.remove(0);
        winner.until_durable(truth.last_seq()).await;
        // What it leaves behind is no hindrance to the next round.
        winner.kill().await;
    }
    let mut daemon = penstock.start();
    daemon.until_durable(truth.last_seq()).await;
    daemon.stop().await;
    truth.is_held_in_the_end(&penstock).await;
}

/// The first of several that ends, and the others.
async fn until_one_ends(mut daemons: Vec<Daemon>) -> (Daemon, Vec<Daemon>) {
    let deadline = Instant::now() + PATIENCE;
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    loop {
        ticks.tick().await;
        if let Some(at) = daemons
            .iter_mut()
            .position(|daemon| daemon.ended().is_some())
        {
            return (daemons.remove(at), daemons);
        }
        assert!(Instant::now() < deadline, "none of the rivals gives way");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_workers_need_another_store() {
    let penstock = Installation::following("ws://127.0.0.1:1").with("WORKER_COUNT", "2");
    let ended = penstock.run(&["run"]).await;
    assert_eq!(ended.code, Some(78), "{}", ended.words);
    assert!(
        ended.words.contains("worker.count") && ended.words.contains("ScyllaDB"),
        "{}",
        ended.words
    );
    assert!(!penstock.data().exists(), "nothing was started");
}
