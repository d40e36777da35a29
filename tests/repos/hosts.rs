//! Hosts that want no requests for long keep nobody from the others.

use std::time::Duration;

use penstock::backfill::jobs::Jobs;
use penstock::store::{Repair, RepairKind, Store, WriteBatch};
use penstock_loadtest::network::{Announce, Limit, Network, Options};

use crate::jobs::everything;
use crate::site::{How, Worker};
use crate::stores;

/// One request, and no second one.
const ONE_AN_HOUR: Limit = Limit {
    requests: 1,
    window: Duration::from_secs(3600),
    announce: Announce::RetryAfter,
};
/// Many times as long as it takes.
const SOON: Duration = Duration::from_secs(60);

/// So many hosts, four of five of which want no requests.
fn network(hosts: usize, repos: usize) -> Network {
    Network::start(Options {
        hosts,
        repos,
        records: 2,
        limits: vec![(ONE_AN_HOUR, 0.8)],
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
    let network = network(250, 4_000);
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    let job = worker.begin(everything()).await;
    let willing = at_willing_hosts(&network);
    assert!((400..1_600).contains(&willing.len()));
    until_all(&willing, async |did| is_complete(&*store, did).await).await;
    worker.roster.cancel(job).await.unwrap();
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repairs_go_on_at_all_other_hosts() {
    let network = network(50, 1_500);
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
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
    let worker = Worker::start(&network, &store, &How::default()).await;
    let willing = at_willing_hosts(&network);
    let is_repaired = async |did: &str| store.repairs_of(did).await.unwrap().is_empty();
    until_all(&willing, is_repaired).await;
    worker.stop().await;
}
