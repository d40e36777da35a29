//! Several relays: when one dies, the next one is followed, in numbers of its own.

use penstock_loadtest::{Pace, RelayOptions, RelayServer, World, WorldSpec, now_micros};

use crate::worker::Stopped;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_relay_takes_over() {
    let end = now_micros() - 10_000_000;
    let spec = WorldSpec {
        seed: 50,
        repos: 60,
        events: 3_000,
        prefill: 50,
        start: Some(end - 600_000_000),
        end: Some(end),
        ..WorldSpec::default()
    };
    let world = World::generate(&spec);
    let same = World::generate(&WorldSpec {
        first_seq: 500_000,
        ..spec
    });
    let first = RelayServer::start(
        &world,
        RelayOptions {
            pace: Pace::Manual,
            published: 1_500,
            ..RelayOptions::default()
        },
    )
    .unwrap();
    let second = RelayServer::start(&same, RelayOptions::default()).unwrap();
    let urls = format!("{},{}", first.url(), second.url());
    let Some(stopped) = Stopped::empty().await else {
        return;
    };
    let mut worker = stopped.start_at(&urls, &[], 0, 1).await;
    worker.until_seq(1_500).await;
    assert_eq!(second.connections(), 0);
    let dead = first.addr.to_string();
    drop(first);
    worker.until_seq(second.head()).await;
    let stopped = worker.stop().await;
    stopped.holds(&world.oracle).await;
    for fact in stopped.facts().await {
        let own = match fact.relay == dead {
            true => 0..=1_500,
            false => 499_999..=second.head(),
        };
        assert!(
            own.contains(&fact.from_seq) && own.contains(&fact.to_seq),
            "{fact:?}"
        );
    }
}
