//! The daemon crawls a whole network in which everything goes wrong, is killed three times, told to stop and to go on: in the end it
//! holds what the network has, and says of all else why it has not got it.
//!
//! `PENSTOCK_TEST_REPOS` says how many repositories there are, `PENSTOCK_TEST_SEED` chooses them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_loadtest::network::{Announce, Fault, HostStats, Limit, Network, Options, RelayRepos};
use penstock_loadtest::{Pace, RelayOptions, RelayServer, World, WorldSpec};
use serde_json::Value;

use crate::installed::backend::Backend;
use crate::installed::{Daemon, Installation, get, number};
use crate::jobs::check_failures;
use crate::site::check;

/// Fetches at once that the daemon allows itself, by host.
const PER_HOST: u32 = 8;
/// Memory of all fetches together,
const MEMORY: u64 = 64 << 20;
/// and what the daemon takes besides: the store, the queues of the stream, names and answers,
const BESIDES: u64 = 320 << 20;
/// and what came over its connections, of 512 at most, and was not taken in yet.
const CONNECTIONS: u64 = 512 * (400 << 10);
/// A job that does nothing for so long hangs.
const STANDSTILL: Duration = Duration::from_secs(120);
/// Times that the daemon is killed.
const KILLS: u64 = 3;

/// Every fault of an account in one of a hundred; a third of the hosts have a limit.
fn network(repos: usize, seed: u64) -> Network {
    let limit = |announce| Limit {
        requests: 200,
        window: Duration::from_secs(2),
        announce,
    };
    let limits = [
        (Announce::All, 0.15),
        (Announce::RateLimit, 0.1),
        (Announce::RetryAfter, 0.1),
    ];
    Network::start(Options {
        seed,
        // With fewer accounts each, those that fail keep whole hosts from all others for long.
        hosts: (repos / 40).clamp(1, 500),
        repos,
        records: 8,
        faults: Fault::ALL.iter().map(|fault| (*fault, 0.01)).collect(),
        limits: limits.map(|(how, share)| (limit(how), share)).into(),
        relay_repos: RelayRepos::None,
        slow: Duration::from_secs(1),
        ..Options::default()
    })
    .unwrap()
}

/// A relay that lists the network, and has nothing to stream.
fn relay(network: &Network) -> RelayServer {
    let world = World::generate(&WorldSpec {
        repos: 1,
        events: 1,
        prefill: 0,
        ..WorldSpec::default()
    });
    let options = RelayOptions {
        pace: Pace::Manual,
        lists: Some(network.relay_routes()),
        ..RelayOptions::default()
    };
    RelayServer::start(&world, options).unwrap()
}

fn installation(
    backend: &Arc<dyn Backend>,
    network: &Network,
    relay: &RelayServer,
) -> Installation {
    Installation::over(backend, &relay.url())
        .with("PLC_URL", network.plc_url())
        .with("RUST_LOG", "warn")
        .with("PENSTOCK_NET__ALLOW_PRIVATE", "true")
        .with("PENSTOCK_BACKFILL__REQUESTS_PER_SECOND", "1000")
        .with("PENSTOCK_BACKFILL__PER_HOST", &PER_HOST.to_string())
        .with("PENSTOCK_BACKFILL__MAX_BYTES", "64MiB")
        .with("PENSTOCK_BACKFILL__MAX_REPO_BYTES", "16MiB")
        .with("PENSTOCK_BACKFILL__REPO_IDLE", "2s")
        .with("PENSTOCK_BACKFILL__REPO_TIMEOUT", "20s")
        .with("PENSTOCK_BACKFILL__RETRY_WAIT", "250ms")
}

/// One job of one installation, and what its daemons took.
struct Crawl {
    installation: Installation,
    id: String,
    peak: u64,
}

impl Crawl {
    async fn view(&self) -> Option<Value> {
        let path = format!("/admin/backfill/{}", self.id);
        let answer = get(&self.installation.socket(), &path).await?;
        serde_json::from_str(&answer).ok()
    }

    /// Waits until the job is as it is wanted; a standstill is a failure.
    async fn until(&mut self, daemon: &mut Daemon, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut moved = (Instant::now(), Value::Null);
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        loop {
            ticks.tick().await;
            assert_eq!(daemon.ended(), None);
            self.peak = self.peak.max(peak(daemon.id()));
            let Some(view) = self.view().await else {
                assert!(moved.0.elapsed() < STANDSTILL, "no answer");
                continue;
            };
            if wanted(&view) {
                return view;
            }
            let done = [&view["processed_repos"], &view["status"]].map(Value::clone);
            let done = Value::from_iter(done);
            if done != moved.1 {
                moved = (Instant::now(), done);
            }
            assert!(moved.0.elapsed() < STANDSTILL, "it stands still: {view:#}");
        }
    }

    /// Reasons of the failures, by DID.
    async fn failures(&self) -> BTreeMap<String, String> {
        let mut failures = BTreeMap::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/admin/backfill/{}/errors?limit=1000{cursor}", self.id);
            let answer = get(&self.installation.socket(), &path).await.unwrap();
            let page: Value = serde_json::from_str(&answer).unwrap();
            for row in page["errors"].as_array().unwrap() {
                let text = |name: &str| row[name].as_str().unwrap().to_owned();
                failures.insert(text("did"), text("reason"));
            }
            let Some(next) = page["cursor"].as_str() else {
                return failures;
            };
            let next = next.replace('%', "%25").replace('/', "%2F");
            cursor = format!("&cursor={}", next.replace(':', "%3A"));
        }
    }

    async fn asked(&self, verb: &str) {
        self.installation
            .prints(&["backfill", verb, &self.id])
            .await;
    }
}

/// The highest resident memory of a process.
fn peak(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

fn processed(view: &Value) -> u64 {
    view["processed_repos"].as_u64().unwrap_or_default()
}

fn is_over(view: &Value) -> bool {
    ["completed", "failed", "cancelled"].contains(&view["status"].as_str().unwrap_or_default())
}

/// Over a store of any kind.
pub async fn a_crawl_of_a_network_holds_all_of_it_whatever_happens(
    backend: Arc<dyn Backend>,
    repos: usize,
) {
    let repos = number("PENSTOCK_TEST_REPOS", repos as u64);
    let seed = number("PENSTOCK_TEST_SEED", 1);
    println!("PENSTOCK_TEST_SEED={seed} PENSTOCK_TEST_REPOS={repos}");
    let network = network(repos as usize, seed);
    let relay = relay(&network);
    let installation = installation(&backend, &network, &relay);
    let mut daemon = installation.start();
    let socket = installation.socket();
    let answers = async || get(&socket, "/healthz").await.is_some();
    daemon.until("it answers", answers).await;
    let began = Instant::now();
    let id = installation.prints(&["backfill", "start"]).await;
    let mut crawl = Crawl {
        installation,
        id: String::from_utf8(id).unwrap().trim().to_owned(),
        peak: 0,
    };
    for kill in 1..=KILLS {
        let some = kill * repos / 5;
        crawl
            .until(&mut daemon, |view| processed(view) >= some || is_over(view))
            .await;
        daemon.kill().await;
        println!("{:.1?}: killed at {some}", began.elapsed());
        daemon = crawl.installation.start();
    }
    let some = 4 * repos / 5;
    crawl
        .until(&mut daemon, |view| processed(view) >= some || is_over(view))
        .await;
    let asked = Instant::now();
    crawl.asked("cancel").await;
    let view = crawl.view().await.unwrap();
    assert_eq!(view["status"], "cancelled", "{view:#}");
    let within = asked.elapsed();
    println!("{:.1?}: cancelled within {within:.1?}", began.elapsed());
    crawl.asked("retry").await;
    let view = crawl.until(&mut daemon, is_over).await;
    println!(
        "{:.0?}, {} repos/s, {} MiB at most: {view:#}",
        began.elapsed(),
        repos / began.elapsed().as_secs().max(1),
        crawl.peak >> 20
    );
    assert_eq!(view["status"], "completed", "{view:#}");
    assert_eq!(view["total_repos"], repos, "{view:#}");
    assert_eq!(view["processed_repos"], repos, "{view:#}");
    let failures = crawl.failures().await;
    assert_eq!(view["failed_repos"], failures.len(), "{view:#}");
    check_failures(&network, &failures);
    // What failed is asked for once more, and fails again.
    crawl.asked("retry").await;
    let again = crawl.until(&mut daemon, is_over).await;
    println!("{:.1?}: retried", began.elapsed());
    assert_eq!(again["status"], "completed", "{again:#}");
    assert_eq!(again["processed_repos"], repos, "{again:#}");
    check_failures(&network, &crawl.failures().await);
    daemon.stop().await;
    network.host_stats().iter().for_each(keeps_to_limits);
    let bound = MEMORY + BESIDES + CONNECTIONS;
    assert!(crawl.peak < bound, "{} MiB", crawl.peak >> 20);
    let store = crawl.installation.store().await.unwrap();
    check(&network, &*store).await;
}

/// A request that was given up is at its host for a moment longer. Who was killed has forgotten what a host said, and asks once from
/// each place before it hears it again.
fn keeps_to_limits(host: &HostStats) {
    assert!(host.most_at_once <= PER_HOST + 1, "{host:?}");
    let forgotten = (KILLS + 1) * u64::from(PER_HOST);
    assert!(host.unheeded <= forgotten, "{host:?}");
}
