//! What is held after a job is what the network has.

use std::collections::BTreeMap;

use penstock::backfill::jobs::{Force, JobRequest, JobStatus, JobType, Jobs};
use penstock::store::JobRow;
use penstock_loadtest::network::{Expected, Failure, Fault, Network, Options};

use crate::site::{How, MEMORY, Worker, check, expected, held};
use crate::stores;

pub fn everything() -> JobRequest {
    JobRequest {
        origin: "api".to_owned(),
        ..JobRequest::default()
    }
}

pub fn dids(dids: &[String]) -> JobRequest {
    JobRequest {
        dids: dids.to_vec(),
        ..everything()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_sync_holds_all_and_a_second_one_skips_all() {
    let network = Network::start(Options::default()).unwrap();
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    let first = worker.run(everything()).await;
    check(&network, &*store).await;
    let all = network.dids().len() as u64;
    assert_eq!(first.r#type, JobType::FullSync);
    assert_eq!((first.processed_repos, first.total_repos), (all, Some(all)));
    assert_eq!((first.failed_repos, first.skipped_repos), (0, 0));
    assert!(first.total_records > all);
    let second = worker.run(everything()).await;
    assert_eq!((second.skipped_repos, second.total_records), (all, 0));
    // Edits, deletes and new records while nobody listened, and one that was lost here.
    let some = network.dids();
    network.edit(&some[3]).unwrap();
    network.delete(&some[4]).unwrap();
    network.create(&some[5]).unwrap();
    let third = worker.run(everything()).await;
    assert_eq!((third.skipped_repos, third.failed_repos), (all - 3, 0));
    check(&network, &*store).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_fails_its_repository_with_its_reason_and_no_other() {
    let Some((store, _home)) = stores::lasting().await else {
        return;
    };
    let faults = Fault::ALL.iter().filter(|fault| !is_long(**fault));
    let network = Network::start(Options {
        hosts: 500,
        repos: stores::MANY,
        records: 8,
        faults: faults.map(|fault| (*fault, 0.01)).collect(),
        slow: std::time::Duration::from_secs(1),
        ..Options::default()
    })
    .unwrap();
    let mut worker = Worker::start(&network, &store, &How::default()).await;
    let id = worker.begin(everything()).await;
    // Killed three times, at a third of what is left each time.
    for kill in 1..=3 {
        let some = kill * stores::MANY as u64 / 5;
        worker
            .until(id, |view| {
                view.processed_repos >= some || view.status.is_over()
            })
            .await;
        worker.kill().await;
        worker = Worker::start(&network, &store, &How::default()).await;
    }
    let view = worker.over(id).await;
    assert_eq!(view.status, JobStatus::Completed, "{view:?}");
    check(&network, &*store).await;
    let failures = worker.failures(id).await;
    check_failures(&network, &failures);
    assert_eq!(view.failed_repos, failures.len() as u64, "{view:?}");
    assert!(worker.tools.budget.used() <= MEMORY);
    for host in network.host_stats() {
        assert!(host.most_at_once <= 9, "{host:?}");
    }
    // A retry takes only what failed.
    let before = worker.tools.clock.now_micros();
    worker.roster.retry(id).await.unwrap();
    let again = worker
        .until(id, |view| view.status == JobStatus::Completed)
        .await;
    assert!(
        before > 0 && again.processed_repos == view.processed_repos,
        "{again:?}"
    );
    assert_eq!(worker.failures(id).await.len(), failures.len());
    worker.stop().await;
}

/// Faults that take until a timeout: each has a test of its own.
fn is_long(fault: Fault) -> bool {
    matches!(fault, Fault::Endless)
}

/// Compares the reasons of failures, by DID, with what is wrong in the network.
pub fn check_failures(network: &Network, failures: &BTreeMap<String, String>) {
    let mut wrong = BTreeMap::new();
    for did in network.dids() {
        let wanted = match network.expected(&did) {
            Some(Expected::Fails(failure)) => reasons(failure),
            _ => &[],
        };
        let found = failures.get(&did).map(String::as_str);
        let is_right = match found {
            Some(found) => wanted.contains(&found),
            None => wanted.is_empty(),
        };
        if !is_right {
            wrong.insert(did.clone(), (network.fault(&did), found, wanted));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}: {wrong:#?}",
        wrong.len(),
        failures.len()
    );
}

/// The labels under which we may tell a failure.
fn reasons(failure: Failure) -> &'static [&'static str] {
    match failure {
        Failure::Unreachable => &["unreachable"],
        Failure::TimedOut => &["too_slow"],
        Failure::Truncated => &["truncated"],
        Failure::Corrupt => &["bad_cid"],
        Failure::WrongDid => &["wrong_did"],
        Failure::BadSignature => &["bad_signature"],
        Failure::MissingBlock => &["missing_block"],
        Failure::Hostile => &["bad_car", "too_large", "bad_tree", "too_many_blocks"],
        Failure::Redirected => &["forbidden_address", "unreachable"],
        Failure::Server => &["server_error"],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_job_stops_within_a_second_and_goes_on_by_retry() {
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
    let id = worker.begin(everything()).await;
    worker.until(id, |view| view.waiting_repos > 0).await;
    let asked = tokio::time::Instant::now();
    let view = worker.roster.cancel(id).await.unwrap();
    assert_eq!(view.status, JobStatus::Cancelled, "{view:?}");
    assert!(asked.elapsed() < std::time::Duration::from_secs(1));
    worker.roster.retry(id).await.unwrap();
    let view = worker.over(id).await;
    assert_eq!(
        (view.status, view.failed_repos),
        (JobStatus::Completed, 0),
        "{view:?}"
    );
    check(&network, &*store).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn named_repositories_are_fetched_although_they_opted_out() {
    let network = Network::start(Options::default()).unwrap();
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let all = network.dids();
    let how = How {
        skip_dids: [all[7].clone()].into(),
        ..How::default()
    };
    let worker = Worker::start(&network, &store, &how).await;
    worker.run(everything()).await;
    assert!(held(&*store, &all[7]).await.is_empty());
    let job = worker.run(dids(&all[6..8])).await;
    assert_eq!(
        (job.r#type, job.processed_repos, job.skipped_repos),
        (JobType::Repos, 2, 1)
    );
    // What it was given is not kept for ever, and is not known of a job over all.
    let given = store
        .choices(penstock::store::ChoiceKind::JobDids, "", None, 10)
        .await;
    assert_eq!(given.unwrap().items, []);
    assert_eq!((job.wanted_from, job.covered_from), (None, None));
    check(&network, &*store).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forced_full_sync_brings_back_what_was_lost_here() {
    let network = Network::start(Options::default()).unwrap();
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    worker.run(everything()).await;
    let did = &network.dids()[0];
    let repo = store.repo(did).await.unwrap().unwrap();
    store
        .remove(penstock::store::Removal {
            did: did.clone(),
            scope: penstock::store::Scope::Repo,
            version: repo.complete.unwrap().version,
            floor: true,
        })
        .await
        .unwrap();
    assert!(held(&*store, did).await.is_empty());
    let forced = JobRequest {
        force: Some(Force::FullSync),
        ..everything()
    };
    let view = worker.run(forced).await;
    assert_eq!((view.skipped_repos, view.failed_repos), (0, 0));
    check(&network, &*store).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_that_are_gone_when_a_job_looks_for_them_are_said_and_purged() {
    let network = Network::start(Options::default()).unwrap();
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    worker.run(everything()).await;
    let all = network.dids();
    network.set_fault(&all[1], Some(Fault::Deactivated));
    network.set_fault(&all[2], Some(Fault::NotThere));
    network.set_fault(&all[3], Some(Fault::TakenDown));
    let forced = JobRequest {
        force: Some(Force::FullSync),
        ..everything()
    };
    let view = worker.run(forced).await;
    assert_eq!((view.inactive_repos, view.failed_repos), (3, 0), "{view:?}");
    for (at, status, kept) in [
        (1, "deactivated", true),
        (2, "deleted", false),
        (3, "takendown", true),
    ] {
        let repo = store.repo(&all[at]).await.unwrap().unwrap();
        assert_eq!((repo.active(), repo.status_text()), (false, Some(status)));
        assert_eq!(!held(&*store, &all[at]).await.is_empty(), kept, "{status}");
    }
    // They come back: so does what they hold.
    all[1..4]
        .iter()
        .for_each(|did| network.set_fault(did, None));
    worker.run(dids(&all[1..4])).await;
    check(&network, &*store).await;
    for did in &all[1..4] {
        assert!(store.repo(did).await.unwrap().unwrap().active(), "{did}");
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_collection_of_all_repositories_is_had_and_kept_current() {
    let network = Network::start(Options {
        repos: 30,
        ..Options::default()
    })
    .unwrap();
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    let collection = "app.bsky.feed.post";
    let request = JobRequest {
        collections: vec![collection.to_owned()],
        ..everything()
    };
    let of_collection = |records: BTreeMap<String, String>| -> BTreeMap<String, String> {
        let prefix = format!("{collection}/");
        records
            .into_iter()
            .filter(|(path, _)| path.starts_with(&prefix))
            .collect()
    };
    for _ in 0..2 {
        let view = worker.run(request.clone()).await;
        assert_eq!(
            (view.r#type, view.failed_repos),
            (JobType::Collection, 0),
            "{view:?}"
        );
        for did in network.dids() {
            let wanted = of_collection(expected(&network, &did).unwrap());
            assert_eq!(of_collection(held(&*store, &did).await), wanted, "{did}");
        }
        network.dids().iter().for_each(|did| {
            network.edit(did);
            network.delete(did);
        });
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_of_days_brings_what_is_newer_and_removes_nothing() {
    let network = Network::start(Options {
        repos: 30,
        ..Options::default()
    })
    .unwrap();
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    let all = network.dids();
    let changed = network.create(&all[2]).unwrap();
    let windowed = JobRequest {
        days: Some(0.01),
        ..dids(&all)
    };
    let before = worker.tools.clock.now_micros();
    let id = worker.begin(windowed).await;
    let view = worker.over(id).await;
    assert_eq!(view.failed_repos, 0, "{view:?}");
    let from = view
        .wanted_from
        .unwrap()
        .parse::<jiff::Timestamp>()
        .unwrap();
    let wanted = before - 864_000_000;
    assert!(
        (from.as_microsecond() as u64).abs_diff(wanted) < 60_000_000,
        "{from}"
    );
    let covered = view.covered_from.map(|text| text.parse().unwrap());
    assert_eq!(covered, Some(from));
    let now = held(&*store, &all[2]).await;
    assert_eq!(
        now.get(&changed.path).map(String::as_str),
        changed.cid.as_deref()
    );
    let whole = expected(&network, &all[2]).unwrap();
    assert!(
        now.len() < whole.len(),
        "only what is newer: {} of {}",
        now.len(),
        whole.len()
    );
    assert!(
        store
            .repo(&all[2])
            .await
            .unwrap()
            .unwrap()
            .complete
            .is_none()
    );
    worker.run(everything()).await;
    check(&network, &*store).await;
    worker.stop().await;
}

/// What a process had sent when it was killed may arrive when the next one is at work already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_change_of_the_process_before_ends_no_job() {
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
    let id = worker.begin(everything()).await;
    worker.until(id, |view| view.waiting_repos > 0).await;
    loop {
        let before = store.job(id).await.unwrap().unwrap();
        let late = JobRow {
            epoch: before.epoch + 1,
            ..before.clone()
        };
        if store.put_job(&late, Some(before.epoch)).await.unwrap() {
            break;
        }
    }
    let view = worker.over(id).await;
    assert_eq!(
        (view.status, view.processed_repos, view.failed_repos),
        (JobStatus::Completed, 40, 0),
        "{view:?}"
    );
    check(&network, &*store).await;
    worker.stop().await;
}
