//! What is listed where a relay does not list everything, and who is asked where a host does not answer.

use penstock::backfill::jobs::{Force, JobRequest, JobStatus, JobView, Jobs};
use penstock_loadtest::network::{Fault, Network, Options, RelayLists, RelayRepos};

use crate::jobs::{dids, everything};
use crate::site::{How, Worker, check, expected, held};
use crate::stores;

const POST: &str = "app.bsky.feed.post";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_list_by_collection_all_repositories_are_looked_at() {
    let network = Network::start(Options {
        repos: 30,
        relay_lists: RelayLists::Repos,
        ..Options::default()
    })
    .unwrap();
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    let request = JobRequest {
        collections: vec!["app.bsky.feed.like".to_owned(), POST.to_owned()],
        ..everything()
    };
    let view = worker.run(request).await;
    assert_eq!(
        (view.processed_repos, view.failed_repos),
        (30, 0),
        "{view:?}"
    );
    for did in &network.dids() {
        let named = |mut records: std::collections::BTreeMap<String, String>| {
            records.retain(|path, _| {
                path.starts_with("app.bsky.feed.like/") || path.starts_with(&format!("{POST}/"))
            });
            records
        };
        let wanted = named(expected(&network, did).unwrap());
        assert_eq!(named(held(&*store, did).await), wanted, "{did}");
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_list_of_repositories_each_host_is_asked() {
    let network = Network::start(Options {
        hosts: 3,
        repos: 3_300,
        records: 2,
        relay_lists: RelayLists::Hosts,
        ..Options::default()
    })
    .unwrap();
    network.set_host_fault(1, Some(Fault::Dead));
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let mut worker = Worker::start(&network, &store, &How::default()).await;
    let id = worker.begin(everything()).await;
    // Killed in the middle of the first host's list, and in that of the last one.
    for some in [300, 1_700] {
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
    assert_eq!((view.failed_hosts, view.failed_repos), (1, 0), "{view:?}");
    // Those of before the kills are held, and looked at once more.
    assert!(view.processed_repos >= 2_200, "{view:?}");
    let (dead, why) = view.host_failures.first_key_value().unwrap();
    assert!(network.host_urls().nth(1).unwrap().ends_with(dead), "{why}");
    // A retry asks only the host that was left out.
    network.set_host_fault(1, None);
    let before = view.processed_repos;
    worker.roster.retry(id).await.unwrap();
    let view = worker.over(id).await;
    assert_eq!((view.failed_hosts, view.failed_repos), (0, 0), "{view:?}");
    assert_eq!(view.processed_repos, before + 1_100, "{view:?}");
    check(&network, &*store).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_estimate_counts_each_repository_once_or_says_that_it_did_not() {
    let network = |repos: usize, relay_lists: RelayLists| {
        Network::start(Options {
            hosts: 3,
            repos,
            records: 2,
            relay_lists,
            ..Options::default()
        })
        .unwrap()
    };
    let estimate = async |network: &Network, request: JobRequest| {
        let (store, _home) = stores::empty().await?;
        let worker = Worker::start(network, &store, &How::default()).await;
        let estimate = worker.roster.estimate(request).await.unwrap();
        worker.stop().await;
        Some(estimate)
    };
    let both = JobRequest {
        collections: vec!["app.bsky.feed.like".to_owned(), POST.to_owned()],
        ..everything()
    };
    for lists in [RelayLists::default(), RelayLists::Repos] {
        let few = network(30, lists);
        let having = |names: &[&str]| {
            let holds = |did: &String| {
                let records = expected(&few, did).unwrap_or_default();
                let of = |name: &&str| {
                    records
                        .keys()
                        .any(|path| path.starts_with(&format!("{name}/")))
                };
                names.iter().any(of)
            };
            few.dids().iter().filter(|did| holds(did)).count() as u64
        };
        let Some(found) = estimate(&few, both.clone()).await else {
            return;
        };
        let wanted = match lists {
            RelayLists::Repos => 30,
            _ => having(&["app.bsky.feed.like", POST]),
        };
        assert_eq!(
            (found.repos, found.exact),
            (Some(wanted), true),
            "{found:?}"
        );
        assert!(found.basis.contains("not subtracted"), "{found:?}");
    }
    let many = network(3_300, RelayLists::default());
    let found = estimate(&many, everything()).await.unwrap();
    assert!(!found.exact, "{found:?}");
    let forced = JobRequest {
        force: Some(Force::FullSync),
        ..dids(&many.dids()[..2])
    };
    let found = estimate(&many, forced).await.unwrap();
    assert_eq!((found.repos, found.exact), (Some(2), true));
    assert!(!found.basis.contains("not subtracted"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_lists_nothing_fails_the_job_and_says_so() {
    let network = Network::start(Options {
        relay_lists: RelayLists::Nothing,
        ..Options::default()
    })
    .unwrap();
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    let id = worker.begin(everything()).await;
    let view = worker.over(id).await;
    assert_eq!(view.status, JobStatus::Failed, "{view:?}");
    assert!(
        view.error
            .unwrap()
            .contains("neither repositories nor hosts")
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_lists_nothing_is_left_out_while_another_one_lists() {
    let start = |repos: usize, relay_lists: RelayLists| {
        Network::start(Options {
            repos,
            relay_lists,
            ..Options::default()
        })
        .unwrap()
    };
    let (silent, network) = (
        start(1, RelayLists::Nothing),
        start(30, RelayLists::default()),
    );
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let how = How {
        relays: vec![silent.relay_url().to_owned()],
        ..How::default()
    };
    let worker = Worker::start(&network, &store, &how).await;
    let view = worker.run(everything()).await;
    let is_told = |view: &JobView| {
        let counts = (view.processed_repos, view.failed_repos, view.failed_hosts);
        assert_eq!(counts, (30, 0, 1), "{view:?}");
        let (left_out, why) = view.host_failures.first_key_value().unwrap();
        assert!(silent.relay_url().ends_with(left_out));
        assert!(why.contains("neither repositories nor hosts"), "{why}");
    };
    is_told(&view);
    check(&network, &*store).await;
    // A retry asks that relay again.
    let id = view.id.parse().unwrap();
    worker.roster.retry(id).await.unwrap();
    let view = worker.over(id).await;
    assert_eq!(view.status, JobStatus::Completed, "{view:?}");
    is_told(&view);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_gives_what_a_host_does_not() {
    let network = Network::start(Options {
        repos: 60,
        relay_repos: RelayRepos::Serve,
        ..Options::default()
    })
    .unwrap();
    let all = network.dids();
    network.set_host_fault(2, Some(Fault::Dead));
    for (at, fault) in [
        (0, Fault::Broken),
        (1, Fault::Truncated),
        (3, Fault::Cut),
        (4, Fault::BadSignature),
        (5, Fault::Deactivated),
    ] {
        network.set_fault(&all[at], Some(fault));
    }
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    let id = worker.begin(everything()).await;
    let view = worker.over(id).await;
    let mut failures = worker.failures(id).await;
    // What is wrong in itself is no better elsewhere.
    assert_eq!(failures.remove(&all[4]).as_deref(), Some("bad_signature"));
    // Who it is can't be told while its own host is dead.
    failures.retain(|did, _| !did.starts_with("did:web:"));
    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!(view.inactive_repos, 1, "{view:?}");
    for (at, did) in all.iter().enumerate() {
        let dead = did.starts_with("did:web:") && network.host_of(did) == Some(2);
        let wanted = match at == 4 || dead {
            true => None,
            false => expected(&network, did),
        };
        assert_eq!(
            held(&*store, did).await,
            wanted.unwrap_or_default(),
            "{did}"
        );
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_older_than_what_is_held_is_refused() {
    let network = Network::start(Options {
        hosts: 2,
        repos: 4,
        did_web: 0.0,
        relay_repos: RelayRepos::Serve,
        ..Options::default()
    })
    .unwrap();
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    let did = network.dids()[0].clone();
    worker.run(dids(std::slice::from_ref(&did))).await;
    // A commit that was heard of, but that the relay's copy does not have.
    let repo = store.repo(&did).await.unwrap().unwrap();
    let mut batch = penstock::store::WriteBatch::new();
    batch.put_rev(penstock::store::RevWrite {
        did: &did,
        rev: penstock::decode::Tid::new(repo.rev.unwrap().micros() + 1, 0),
        data: repo.data.unwrap(),
        commit: repo.data.unwrap(),
    });
    store.apply(batch).await.unwrap();
    let before = held(&*store, &did).await;
    network.set_fault(&did, Some(Fault::Broken));
    let forced = JobRequest {
        force: Some(Force::FullSync),
        ..dids(std::slice::from_ref(&did))
    };
    let id = worker.begin(forced).await;
    let view = worker.over(id).await;
    assert_eq!(view.failed_repos, 1, "{view:?}");
    let failures = worker.roster.failures(id, None, 10).await.unwrap().items;
    assert_eq!(failures[0].reason, "server_error");
    assert!(
        failures[0].message.contains("older than what is known"),
        "{failures:?}"
    );
    assert_eq!(held(&*store, &did).await, before);
    // The newer one does.
    network.create(&did).unwrap();
    worker.roster.retry(id).await.unwrap();
    let view = worker.over(id).await;
    assert_eq!(view.failed_repos, 0, "{view:?}");
    assert_eq!(held(&*store, &did).await, expected(&network, &did).unwrap());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_job_has_its_identities_from_the_export() {
    let network = Network::start(Options {
        repos: 400,
        records: 2,
        ..Options::default()
    })
    .unwrap();
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let how = How {
        export_above: Some(100),
        ..How::default()
    };
    let worker = Worker::start(&network, &store, &how).await;
    let few = network.dids()[..50].to_vec();
    worker.run(dids(&few)).await;
    let asked = network.plc_stats().requests;
    assert!(asked >= 40, "{asked}: each by itself");
    // It moves between the export and the moment when its repository is asked for.
    network.set_fault(&network.dids()[99], Some(Fault::Moves));
    worker.run(everything()).await;
    check(&network, &*store).await;
    // Once a day is enough.
    let forced = JobRequest {
        force: Some(Force::FullSync),
        ..everything()
    };
    worker.run(forced).await;
    let asked = network.plc_stats().requests - asked;
    assert!(asked <= 4, "{asked}: pages of the export, and who moved");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_that_fails_alone_is_told_and_taken_again_alone() {
    const LIKE: &str = "app.bsky.feed.like";
    let network = Network::start(Options {
        hosts: 2,
        repos: 2,
        large: 1,
        large_records: 4_000,
        did_web: 0.0,
        ..Options::default()
    })
    .unwrap();
    let all = network.dids();
    // Its likes are too many for a list, and its CAR is bad.
    network.set_fault(&all[0], Some(Fault::BadSignature));
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    let request = JobRequest {
        collections: vec![LIKE.to_owned(), POST.to_owned()],
        ..dids(&all)
    };
    let id = worker.begin(request).await;
    let view = worker.over(id).await;
    assert_eq!(
        (view.processed_repos, view.failed_repos),
        (2, 1),
        "{view:?}"
    );
    let rows = worker.roster.failures(id, None, 10).await.unwrap().items;
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(
        (rows[0].collection.as_deref(), rows[0].reason.as_str()),
        (Some(LIKE), "bad_signature")
    );
    let of = |records: std::collections::BTreeMap<String, String>, collection: &str| {
        let inside = |path: &String| path.starts_with(&format!("{collection}/"));
        records.into_keys().filter(inside).collect::<Vec<_>>()
    };
    let now = held(&*store, &all[0]).await;
    assert!(!of(now.clone(), POST).is_empty());
    assert_eq!(of(now.clone(), LIKE), Vec::<String>::new());
    network.set_fault(&all[0], None);
    let wanted = expected(&network, &all[0]).unwrap();
    assert_eq!(of(now, POST), of(wanted.clone(), POST));
    worker.roster.retry(id).await.unwrap();
    let view = worker.over(id).await;
    assert_eq!(
        (view.processed_repos, view.failed_repos),
        (2, 0),
        "{view:?}"
    );
    assert!(worker.failures(id).await.is_empty());
    assert_eq!(of(held(&*store, &all[0]).await, LIKE), of(wanted, LIKE));
    worker.stop().await;
}
