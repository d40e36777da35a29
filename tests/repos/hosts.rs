//! Hosts that want no requests for long, or are dead, keep nobody from the others.

use std::collections::BTreeSet;
use std::time::Duration;

use penstock::backfill::jobs::{JobRequest, JobStatus, Jobs};
use penstock::store::{Repair, RepairKind, Store, WriteBatch};
use penstock_loadtest::network::{Announce, Fault, Limit, Network, Options, RelayRepos};

use crate::jobs::{dids, everything};
use crate::site::{How, Worker, check};
use crate::stores;

/// One request, and no second one.
const ONE_AN_HOUR: Limit = Limit {
    requests: 1,
    window: Duration::from_secs(3600),
    announce: Announce::RetryAfter,
};
/// Many times as long as it takes.
const SOON: Duration = Duration::from_secs(60);

/// None, until that is changed: a pause is over soon, and then there is another one.
const NONE_YET: Limit = Limit {
    requests: 0,
    window: Duration::from_secs(1),
    announce: Announce::RetryAfter,
};
/// Four of five of them, and so of their accounts, are more than the places of a job.
const MANY: usize = 800;

/// So many hosts, four of five of which want no requests.
fn network(hosts: usize, repos: usize) -> Network {
    limited(ONE_AN_HOUR, hosts, repos, Options::default().did_web)
}

/// The same, of another limit, with a share of hosts that know the identity of their first account.
fn limited(limit: Limit, hosts: usize, repos: usize, did_web: f64) -> Network {
    Network::start(Options {
        hosts,
        repos,
        records: 2,
        limits: vec![(limit, 0.8)],
        did_web,
        ..Options::default()
    })
    .unwrap()
}

/// Those whose hosts give them.
fn at_willing_hosts(network: &Network) -> Vec<String> {
    let hosts = network.host_stats();
    let dids = network.dids().into_iter().filter(|did| {
        let host = network.host_of(did).and_then(|at| hosts.get(at));
        host.is_some_and(|host| host.limit.is_none())
    });
    dids.collect()
}

async fn until_all(dids: &[String], mut done: impl AsyncFnMut(&str) -> bool) {
    let waiting = async {
        for did in dids {
            while !done(did).await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    tokio::time::timeout(SOON, waiting).await.unwrap();
}

async fn is_complete(store: &dyn Store, did: &str) -> bool {
    let repo = store.repo(did).await.unwrap();
    repo.is_some_and(|repo| repo.complete.is_some())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_goes_on_with_all_other_hosts() {
    // Those that wait would take all places of a job.
    let network = network(100, 1_600);
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    let job = worker.begin(everything()).await;
    let willing = at_willing_hosts(&network);
    assert!((160..640).contains(&willing.len()));
    until_all(&willing, async |did| is_complete(&*store, did).await).await;
    worker.roster.cancel(job).await.unwrap();
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_that_want_no_requests_for_a_while_take_no_places_of_a_job() {
    goes_on_and_comes_back(&limited(NONE_YET, MANY, MANY, 0.0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_do_those_that_are_asked_for_identities() {
    goes_on_and_comes_back(&limited(NONE_YET, 200, 200, 1.0)).await;
}

/// Each host has one account: those of all others are had while many want no requests, and theirs once they do.
async fn goes_on_and_comes_back(network: &Network) {
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(network, &store, &How::default()).await;
    let job = worker.begin(everything()).await;
    let willing = at_willing_hosts(network);
    let all = network.dids();
    until_all(&willing, async |did| is_complete(&*store, did).await).await;
    for (host, stats) in network.host_stats().into_iter().enumerate() {
        if stats.limit.is_some() {
            // Once, and once more when its pause was over.
            assert!(stats.most_in_a_window <= 1, "{stats:?}");
            assert_eq!(stats.requests, stats.refused, "{stats:?}");
            network.set_limit(host, None);
        }
    }
    let view = worker.over(job).await;
    assert_eq!(view.status, JobStatus::Completed, "{view:?}");
    let counts = (view.total_repos, view.processed_repos, view.failed_repos);
    let count = all.len() as u64;
    assert_eq!(counts, (Some(count), count, 0), "{view:?}");
    check(network, &*store).await;
    worker.stop().await;
}

/// One collection of each repository: that takes several requests.
fn one_collection(network: &Network) -> JobRequest {
    JobRequest {
        collections: vec!["app.bsky.feed.post".to_owned()],
        ..dids(&network.dids())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_the_rest_leaves_places_to_others() {
    let network = network(MANY, MANY);
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    let job = worker.begin(one_collection(&network)).await;
    let is_read = async |did: &str| store.repo(did).await.unwrap().is_some();
    until_all(&at_willing_hosts(&network), is_read).await;
    let view = worker.roster.cancel(job).await.unwrap();
    assert_eq!(view.failed_repos, 0, "{view:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_several_requests_comes_to_its_end_with_one_every_other_second() {
    let one = Limit {
        requests: 1,
        window: Duration::from_secs(2),
        announce: Announce::RetryAfter,
    };
    let network = Network::start(Options {
        hosts: 10,
        repos: 10,
        limits: vec![(one, 1.0)],
        did_web: 0.0,
        ..Options::default()
    })
    .unwrap();
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    let view = worker.run(one_collection(&network)).await;
    let counts = (view.processed_repos, view.failed_repos);
    assert_eq!(counts, (10, 0), "{view:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repairs_go_on_at_all_other_hosts() {
    let network = network(40, 600);
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    ask_for_repairs(&network, &*store).await;
    let worker = Worker::start(&network, &store, &How::default()).await;
    let willing = at_willing_hosts(&network);
    let is_repaired = async |did: &str| store.repairs_of(did).await.unwrap().is_empty();
    until_all(&willing, is_repaired).await;
    worker.stop().await;
}

/// Of each repository.
async fn ask_for_repairs(network: &Network, store: &dyn Store) {
    let mut batch = WriteBatch::new();
    for did in network.dids() {
        batch.put_repair(Repair {
            did,
            id: "1".to_owned(),
            kind: RepairKind::Content,
            reason: "sync".to_owned(),
            version: 1,
        });
    }
    store.apply(batch).await.unwrap();
}

/// Two hosts, of which the second one is dead.
fn half_dead(repos: usize, relay_repos: RelayRepos) -> Network {
    let network = Network::start(Options {
        hosts: 2,
        repos,
        records: 2,
        did_web: 0.0,
        relay_repos,
        ..Options::default()
    })
    .unwrap();
    network.set_host_fault(1, Some(Fault::Dead));
    network
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repositories_of_a_dead_host_fail_and_no_others() {
    let network = half_dead(300, RelayRepos::None);
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    let view = worker.run(everything()).await;
    assert_eq!(view.processed_repos, 300, "{view:?}");
    let failures = worker.failures(view.id.parse().unwrap()).await;
    let dids = network.dids().into_iter();
    let dead: Vec<String> = dids.filter(|did| network.host_of(did) == Some(1)).collect();
    assert!(failures.keys().eq(dead.iter().collect::<BTreeSet<_>>()));
    // Few were asked for; the others only waited for it.
    let waited = failures.values().filter(|reason| *reason == "backed_off");
    assert!(waited.count() > 100);
    let told = |reason: &String| matches!(reason.as_str(), "backed_off" | "unreachable");
    assert!(failures.values().all(told), "{failures:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_host_has_to_repair_comes_from_a_relay() {
    let network = half_dead(60, RelayRepos::Serve);
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    ask_for_repairs(&network, &*store).await;
    let worker = Worker::start(&network, &store, &How::default()).await;
    let is_repaired = async |did: &str| store.repairs_of(did).await.unwrap().is_empty();
    until_all(&network.dids(), is_repaired).await;
    worker.stop().await;
}
