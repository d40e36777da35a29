//! Accounts that go, come back and move.

use penstock::backfill::jobs::{Force, JobRequest};
use penstock::store::{
    Choice, ChoiceKind, Repair, RepairKind, RepoStatus, StatusWrite, Store, WriteBatch,
};
use penstock_loadtest::network::{Fault, Network, Options};

use crate::jobs::{dids, everything};
use crate::sequences::{catch_up, put_gap};
use crate::site::{How, Worker, check, expected, held};
use crate::stores;

fn repair(did: &str, kind: RepairKind, reason: &str) -> Repair {
    Repair {
        did: did.to_owned(),
        id: format!("relay~0~{reason}~{}", kind.as_str()),
        kind,
        reason: reason.to_owned(),
        version: 0,
    }
}

/// An `#account` of now.
fn account(worker: &Worker, did: &str, status: Option<&str>) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put_status(StatusWrite {
        did: did.to_owned(),
        version: worker.tools.clock.now_micros(),
        status: RepoStatus {
            active: status.is_none(),
            status: status.map(str::to_owned),
        },
        repair_if_stale: Some(repair(did, RepairKind::Status, "account_stale")),
        repair_if_reactivated: Some(repair(did, RepairKind::Content, "reactivated")),
    });
    if status == Some("deleted") {
        batch.put_repair(repair(did, RepairKind::Status, "deleted"));
    }
    batch
}

async fn no_repairs(store: &dyn Store) {
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(50));
    loop {
        tick.tick().await;
        if store.repairs(None, 10).await.unwrap().items.is_empty() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_account_wrote_while_it_counted_as_inactive_is_fetched() {
    let network = Network::start(Options::default()).unwrap();
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    worker.run(everything()).await;
    let all = network.dids();
    // One is heard of again from the stream, one was gone and removed, and one is heard of from its host.
    for (did, status) in [
        (&all[0], "deactivated"),
        (&all[1], "deleted"),
        (&all[2], "suspended"),
    ] {
        let fault = match status {
            "deleted" => Fault::Deleted,
            _ => Fault::Deactivated,
        };
        network.set_fault(did, Some(fault));
        store
            .apply(account(&worker, did, Some(status)))
            .await
            .unwrap();
    }
    no_repairs(&*store).await;
    assert!(held(&*store, &all[1]).await.is_empty(), "purged");
    for did in &all[..3] {
        network.set_fault(did, None);
        // Neither is in any stream.
        network.create(did).unwrap();
    }
    for did in &all[..2] {
        store.apply(account(&worker, did, None)).await.unwrap();
    }
    let mut asked = WriteBatch::new();
    asked.put_repair(repair(&all[2], RepairKind::Status, "account_time"));
    store.apply(asked).await.unwrap();
    no_repairs(&*store).await;
    check(&network, &*store).await;
    for did in &all[..3] {
        assert!(store.repo(did).await.unwrap().unwrap().active(), "{did}");
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_moves_and_is_then_deleted_on_the_old_host_stays() {
    let network = Network::start(Options {
        did_web: 0.0,
        ..Options::default()
    })
    .unwrap();
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    worker.run(everything()).await;
    let all = network.dids();
    // Even ones are deactivated where they were, odd ones are not there any more.
    for did in &all[..4] {
        let away = (network.host_of(did).unwrap() + 5) % 10;
        network.move_account(did, away);
        network.create(did).unwrap();
        // What the old host says of it, although the document of before is still cached.
        store
            .apply(account(&worker, did, Some("deleted")))
            .await
            .unwrap();
    }
    no_repairs(&*store).await;
    let forced = JobRequest {
        force: Some(Force::FullSync),
        ..dids(&all[..4])
    };
    let view = worker.run(forced).await;
    assert_eq!((view.failed_repos, view.inactive_repos), (0, 0), "{view:?}");
    check(&network, &*store).await;
    for did in &all[..4] {
        let repo = store.repo(did).await.unwrap().unwrap();
        assert!(repo.active(), "{did}");
        let host = network.host_of(did).unwrap();
        assert_eq!(repo.pds.as_deref(), network.host_urls().nth(host));
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_imported_account_is_had_by_its_earlier_key_and_its_newer_revision() {
    let network = Network::start(Options {
        did_web: 0.0,
        faults: vec![(Fault::Imported, 1.0)],
        repos: 20,
        ..Options::default()
    })
    .unwrap();
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    let view = worker.run(everything()).await;
    assert_eq!((view.failed_repos, view.inactive_repos), (0, 0), "{view:?}");
    check(&network, &*store).await;
    // The revision that was announced counts: the same again has nothing to fetch.
    let again = worker.run(everything()).await;
    assert_eq!(again.skipped_repos, 20, "{again:?}");
    // The next commit is of the new key.
    let did = &network.dids()[3];
    network.edit(did).unwrap();
    worker.run(everything()).await;
    assert_eq!(held(&*store, did).await, expected(&network, did).unwrap());
    worker.stop().await;
}

/// A collection that was read by itself is newer than all that is known of its repository.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_an_account_that_is_gone_nothing_is_left_however_it_was_had() {
    let network = Network::start(Options::default()).unwrap();
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    let did = network.dids()[0].clone();
    let only = JobRequest {
        collections: vec!["app.bsky.feed.post".to_owned()],
        ..dids(std::slice::from_ref(&did))
    };
    worker.run(only).await;
    assert!(!held(&*store, &did).await.is_empty());
    assert_eq!(store.repo(&did).await.unwrap().unwrap().complete, None);
    network.set_fault(&did, Some(Fault::NotThere));
    let view = worker.run(dids(std::slice::from_ref(&did))).await;
    assert_eq!((view.inactive_repos, view.failed_repos), (1, 0), "{view:?}");
    assert!(held(&*store, &did).await.is_empty());
    worker.stop().await;
}

/// What only the status tells, while nobody listened: no revision is newer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_became_of_accounts_in_a_gap_is_asked() {
    let network = Network::start(Options::default()).unwrap();
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    worker.run(everything()).await;
    let all = network.dids();
    let [back, gone, left] = [&all[0], &all[1], &all[2]];
    for did in [back, gone] {
        network.set_fault(did, Some(Fault::Deactivated));
    }
    worker.run(dids(&[back.clone(), gone.clone()])).await;
    let shown = async |did: &str| store.repo(did).await.unwrap().unwrap().active();
    assert!(!shown(back).await && !shown(gone).await && shown(left).await);
    network.set_fault(back, None);
    network.set_fault(gone, Some(Fault::Deleted));
    network.set_fault(left, Some(Fault::Deactivated));
    // The gap is newer than every revision.
    put_gap(&*store, worker.tools.clock.now_micros() + 36_000_000_000).await;
    let view = worker.run(catch_up()).await;
    assert_eq!(view.failed_repos, 0, "{view:?}");
    no_repairs(&*store).await;
    assert!(shown(back).await && !shown(gone).await && !shown(left).await);
    assert_eq!(held(&*store, back).await, expected(&network, back).unwrap());
    assert!(held(&*store, gone).await.is_empty(), "it was deleted");
    assert!(!held(&*store, left).await.is_empty());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_did_that_was_recovered_is_not_taken_for_a_tombstone() {
    let network = Network::start(Options {
        did_web: 0.0,
        ..Options::default()
    })
    .unwrap();
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    let did = network.dids()[0].clone();
    let only = || dids(std::slice::from_ref(&did));
    network.set_fault(&did, Some(Fault::Tombstoned));
    let view = worker.run(only()).await;
    assert_eq!(view.inactive_repos, 1, "{view:?}");
    network.set_fault(&did, None);
    worker.run(only()).await;
    assert_eq!(held(&*store, &did).await, expected(&network, &did).unwrap());
    assert!(store.repo(&did).await.unwrap().unwrap().active());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_gap_changed_of_who_opted_out_is_asked_for_later() {
    let network = Network::start(Options::default()).unwrap();
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    worker.run(everything()).await;
    let did = network.dids()[0].clone();
    let out = Choice {
        kind: ChoiceKind::OptOut,
        name: did.clone(),
        body: Vec::new(),
    };
    store.put_choice(&out).await.unwrap();
    network.delete(&did).unwrap();
    put_gap(&*store, worker.tools.clock.now_micros()).await;
    let view = worker.run(catch_up()).await;
    assert_eq!(view.failed_repos, 0, "{view:?}");
    let asked = store.repairs_of(&did).await.unwrap();
    let asked: Vec<_> = asked.iter().map(|row| (row.kind, &*row.reason)).collect();
    assert_eq!(asked, [(RepairKind::Content, "gap")]);
    worker.stop().await;
}
