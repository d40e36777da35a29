//! What a job says of itself, however often it is stopped.

use penstock::backfill::jobs::{JobRequest, JobStatus, Jobs};
use penstock_loadtest::network::{Fault, Network, Options};

use crate::jobs::{dids, everything};
use crate::site::{How, Worker, check};
use crate::stores;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_repository_is_counted_once_however_often_a_job_is_stopped() {
    const ALL: u64 = 2_500;
    let network = Network::start(Options {
        hosts: 40,
        repos: 2_500,
        records: 2,
        ..Options::default()
    })
    .unwrap();
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    // Where what is done is claimed only a while later, a stop may come before anything is.
    let claimed = match store.sync_lag().is_zero() {
        true => 1_000,
        false => 0,
    };
    // A window leaves nothing by which a repository could be skipped when the job goes on.
    let windowed = JobRequest {
        days: Some(36_500.0),
        ..everything()
    };
    for request in [windowed, everything()] {
        let mut worker = Worker::start(&network, &store, &How::default()).await;
        let id = worker.begin(request).await;
        let some = |some: u64| {
            move |view: &penstock::backfill::jobs::JobView| {
                view.processed_repos >= some || view.status.is_over()
            }
        };
        worker.until(id, some(300)).await;
        worker.kill().await;
        worker = Worker::start(&network, &store, &How::default()).await;
        worker.until(id, some(1_200)).await;
        let view = worker.roster.cancel(id).await.unwrap();
        assert!(view.processed_repos >= claimed, "{view:?}");
        assert!(
            view.total_repos.is_none_or(|total| total == ALL),
            "{view:?}"
        );
        let view = worker.roster.retry(id).await.unwrap();
        assert!(view.processed_repos >= claimed, "{view:?}");
        worker.until(id, some(1_800)).await;
        worker.kill().await;
        worker = Worker::start(&network, &store, &How::default()).await;
        let view = worker.over(id).await;
        assert_eq!(view.status, JobStatus::Completed, "{view:?}");
        assert_eq!(
            (view.total_repos, view.processed_repos, view.failed_repos),
            (Some(ALL), ALL, 0),
            "{view:?}"
        );
        worker.stop().await;
    }
    check(&network, &*store).await;
}

/// Also where it waits for a place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_waits_is_cancelled_for_good() {
    let network = Network::start(Options {
        repos: 40,
        host_faults: vec![(Fault::Slow, 1.0)],
        ..Options::default()
    })
    .unwrap();
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    let all = network.dids();
    let mut begun = Vec::new();
    for did in &all[..3] {
        begun.push(worker.begin(dids(std::slice::from_ref(did))).await);
    }
    let last = begun[2];
    let view = worker.roster.get(last).await.unwrap();
    assert_eq!(view.status, JobStatus::Pending, "{view:?}");
    let view = worker.roster.cancel(last).await.unwrap();
    assert_eq!(view.status, JobStatus::Cancelled, "{view:?}");
    worker.kill().await;
    let worker = Worker::start(&network, &store, &How::default()).await;
    let view = worker.roster.get(last).await.unwrap();
    assert_eq!(view.status, JobStatus::Cancelled, "{view:?}");
    worker.stop().await;
}

/// Of repositories that are held, only those that have the collection may have lost some of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_over_a_collection_leaves_those_without_it_alone() {
    let network = Network::start(Options {
        repos: 60,
        records: 2,
        ..Options::default()
    })
    .unwrap();
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    worker.run(everything()).await;
    let collection = "app.bsky.feed.like";
    let mut with = 0;
    for did in network.dids() {
        let held = crate::site::held(&*store, &did).await;
        with += u64::from(held.keys().any(|path| path.starts_with(collection)));
    }
    assert!(with > 0 && with < 60, "{with}");
    let view = worker
        .run(JobRequest {
            collections: vec![collection.to_owned()],
            ..everything()
        })
        .await;
    assert_eq!(view.processed_repos, with, "{view:?}");
    worker.stop().await;
}
