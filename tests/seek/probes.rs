//! The connections of a seek: how many, how far apart, how they end.

use std::time::{Duration, Instant};

use penstock::backfill::seek::{Found, SeekOptions, seek};
use penstock::relay::{Notice, ProbeLimits};
use penstock_loadtest::{Refusal, RelayServer};

use crate::{assert_good, hours_ago, limits, lively, prober, prober_with, seek_at, three_days};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_is_found_in_a_few_connections() {
    let world = three_days(1);
    let relay = RelayServer::start(&world, lively()).unwrap();
    for hours in [1, 12, 36, 71] {
        let (wanted, before, started) = (hours_ago(hours), relay.connections(), Instant::now());
        let seek = seek_at(&relay, wanted).await;
        assert_good(&relay, &world, wanted, seek);
        assert_eq!(relay.connections() - before, u64::from(seek.probes));
        println!(
            "{hours} h ago: {} probes, {:?}",
            seek.probes,
            started.elapsed()
        );
    }
    assert_eq!(
        relay.closes(),
        relay.connections(),
        "each with a close handshake"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_spaced() {
    let world = three_days(2);
    let relay = RelayServer::start(&world, lively()).unwrap();
    let spacing = Duration::from_millis(150);
    let started = Instant::now();
    let mut prober = prober_with(
        &relay,
        ProbeLimits {
            spacing,
            ..limits()
        },
    );
    let seek = seek(&mut prober, hours_ago(36), &SeekOptions::default()).await;
    let probes = seek.unwrap().probes;
    assert!(probes > 2 && started.elapsed() >= spacing * (probes - 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_waited_out() {
    let world = three_days(3);
    let relay = RelayServer::start(&world, lively()).unwrap();
    relay.change(|options| {
        options.faults.refusals = vec![Refusal::unavailable(), Refusal::too_many_requests(1)];
    });
    let (wanted, started) = (hours_ago(20), Instant::now());
    let seek = seek_at(&relay, wanted).await;
    assert_good(&relay, &world, wanted, seek);
    assert!(
        started.elapsed() >= Duration::from_secs(1),
        "Retry-After is kept"
    );
    assert_eq!(relay.refused(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patience_ends() {
    let world = three_days(4);
    let relay = RelayServer::start(&world, lively()).unwrap();
    relay.change(|options| options.faults.refusals = vec![Refusal::too_many_requests(300)]);
    let patience = Duration::from_secs(5);
    let mut prober = prober_with(
        &relay,
        ProbeLimits {
            patience,
            ..limits()
        },
    );
    let error = prober.probe(Some(0)).await.unwrap_err();
    assert_eq!(error.status, Some(429));
    assert_eq!(error.retry_in, Duration::from_secs(300));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notices_are_read() {
    let world = three_days(5);
    let relay = RelayServer::start(&world, lively()).unwrap();
    relay.retain_from(1_004_000);
    let mut prober = prober(&relay);
    let outdated = prober.probe(Some(1_000_500)).await.unwrap();
    assert_eq!(
        (outdated.notice.as_ref(), outdated.first()),
        (Some(&Notice::OutdatedCursor), Some(1_004_000))
    );
    let future = prober.probe(Some(5_000_000)).await.unwrap();
    assert_eq!(
        (future.notice.as_ref(), future.first()),
        (Some(&Notice::FutureCursor), None)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_longer_there_is_said() {
    let world = three_days(6);
    let relay = RelayServer::start(&world, lively()).unwrap();
    relay.retain_from(1_004_000);
    let seek = seek_at(&relay, hours_ago(71)).await;
    assert!(
        matches!(seek.found, Found::Oldest { seq: 1_004_000, .. }),
        "{seek:?}"
    );
}
