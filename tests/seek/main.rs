//! Seek by time over real connections to the simulated relay.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod misbehaving;
mod probes;

use std::time::Duration;

use penstock::backfill::seek::{Found, Seek, SeekOptions, seek};
use penstock::relay::{ProbeLimits, Prober, RelayOptions, tls_config, user_agent};
use penstock_loadtest::{
    Pace, RelayOptions as Simulated, RelayServer, World, WorldSpec, now_micros,
};

const HOUR: u64 = 3_600_000_000;
/// Events of the three days before the last seconds.
const PAST: u64 = 9_000;

/// Three days in 9,000 events, one in 29 seconds, and 1,000 of the last seconds.
fn three_days(seed: u64) -> World {
    World::generate(&WorldSpec {
        seed,
        repos: 40,
        events: PAST + 1_000,
        past_events: PAST,
        past: 72 * HOUR,
        prefill: 20,
        first_seq: 1_000_000,
        signatures: penstock_loadtest::Signatures::Random,
        ..WorldSpec::default()
    })
}

/// All of the past is there, and something is new now and then.
fn lively() -> Simulated {
    Simulated {
        pace: Pace::Rate(100.0),
        published: PAST as usize,
        ..Simulated::default()
    }
}

fn limits() -> ProbeLimits {
    ProbeLimits {
        first_frame: Duration::from_secs(2),
        other_frames: Duration::from_millis(200),
        spacing: Duration::from_millis(20),
        ..ProbeLimits::default()
    }
}

fn prober_with(relay: &RelayServer, limits: ProbeLimits) -> Prober {
    let url = relay.url();
    let options = RelayOptions {
        urls: Vec::new(),
        connect_timeout: Duration::from_secs(20),
        read_timeout: Duration::from_secs(60),
        ping_interval: Duration::from_secs(30),
        max_frame: 16 << 20,
        backoff_min: Duration::from_millis(2),
        backoff_max: Duration::from_secs(30),
        tls: tls_config(None).unwrap(),
        user_agent: user_agent(None),
    };
    Prober::new(options, url.parse().unwrap(), limits)
}

fn prober(relay: &RelayServer) -> Prober {
    prober_with(relay, limits())
}

async fn seek_at(relay: &RelayServer, wanted: u64) -> Seek {
    let mut prober = prober(relay);
    let seek = seek(&mut prober, wanted, &SeekOptions::default()).await;
    let seek = seek.unwrap();
    assert!(seek.probes <= 12, "{seek:?} {:?}", relay.cursors());
    seek
}

/// The number of about this time; the first one is of 72 hours before the last seconds.
fn number_at(world: &World, time: u64) -> u64 {
    let start = world.spec.start.unwrap() - 72 * HOUR;
    1_000_000 + (time.saturating_sub(start) * PAST / (72 * HOUR)).min(PAST)
}

/// The place is before the wanted time, by little.
fn assert_good(relay: &RelayServer, world: &World, wanted: u64, seek: Seek) {
    let Found::At { cursor, .. } = seek.found else {
        panic!("{seek:?} {:?}", relay.cursors());
    };
    let truth = number_at(world, wanted);
    assert!(
        cursor < truth && cursor + 200 > truth,
        "{seek:?} for {truth}, asked {:?}",
        relay.cursors()
    );
}

fn hours_ago(hours: u64) -> u64 {
    now_micros() - hours * HOUR
}
