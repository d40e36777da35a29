//! Orders of events that would leave something out, or in, if anything but versions decided.

use penstock::backfill::jobs::{Force, JobRequest, JobStatus, JobType};
use penstock::decode::{self, Cid, Tid};
use penstock::fetch::FetchLimits;
use penstock::ledger;
use penstock::slot::SlotSet;
use penstock::store::{Fact, FactKind, RecordBody, RecordWrite, RevWrite, Store, WriteBatch};
use penstock_loadtest::network::{Change, Network, Options};
use tokio_util::sync::CancellationToken;

use crate::jobs::everything;
use crate::site::{How, Worker, check, expected, held};
use crate::stores;

/// What a live commit of this change writes.
async fn live(network: &Network, worker: &Worker, did: &str, change: &Change) -> WriteBatch {
    let rev = Tid::parse(change.rev.as_bytes()).unwrap();
    let (collection, rkey) = change.path.split_once('/').unwrap();
    let host = network
        .host_urls()
        .nth(network.host_of(did).unwrap())
        .unwrap();
    let url = format!(
        "{host}/xrpc/com.atproto.repo.listRecords?repo={did}&collection={collection}&limit=100"
    );
    let limits = FetchLimits {
        bytes: 1 << 20,
        time: std::time::Duration::from_secs(10),
        idle: std::time::Duration::from_secs(10),
    };
    let never = CancellationToken::new();
    let page = worker
        .tools
        .fetcher
        .get(&url, limits, &never)
        .await
        .unwrap();
    let page: serde_json::Value = serde_json::from_slice(&page).unwrap();
    let mut rows = page["records"].as_array().unwrap().iter();
    let row = rows.find(|row| row["uri"].as_str().unwrap().ends_with(&change.path));
    let record = decode::record_from_json(row.unwrap()["value"].clone()).unwrap();
    let cid = Cid::of_dag_cbor(&record);
    let mut batch = WriteBatch::new();
    batch.put_record(RecordWrite {
        did,
        collection,
        rkey,
        version: rev.micros(),
        rev,
        body: Some(RecordBody {
            cid,
            record: &record,
            json: None,
        }),
    });
    batch.put_rev(RevWrite {
        did,
        rev,
        data: cid,
        commit: cid,
    });
    batch
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_record_before_any_snapshot_does_not_hide_the_history() {
    let network = Network::start(Options {
        repos: 10,
        did_web: 0.0,
        ..Options::default()
    })
    .unwrap();
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    for did in &network.dids() {
        let change = network.create(did).unwrap();
        store
            .apply(live(&network, &worker, did, &change).await)
            .await
            .unwrap();
        assert_eq!(held(&*store, did).await.len(), 1);
    }
    let view = worker.run(everything()).await;
    assert_eq!((view.skipped_repos, view.failed_repos), (0, 0), "{view:?}");
    check(&network, &*store).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_old_create_of_a_collection_never_seen_stays_out_after_a_snapshot() {
    let network = Network::start(Options {
        repos: 3,
        ..Options::default()
    })
    .unwrap();
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let how = How {
        collections: "app.bsky.*",
        ..How::default()
    };
    let worker = Worker::start(&network, &store, &how).await;
    let view = worker.run(everything()).await;
    assert_eq!(view.failed_repos, 0, "{view:?}");
    let did = &network.dids()[0];
    let before = held(&*store, did).await;
    assert!(!before.is_empty());
    let complete = store.repo(did).await.unwrap().unwrap().complete.unwrap();
    let late = |collection: &'static str, version: u64| {
        let mut batch = WriteBatch::new();
        batch.put_record(RecordWrite {
            did,
            collection,
            rkey: "late",
            version,
            rev: Tid::new(version, 0),
            body: Some(RecordBody {
                cid: Cid::of_dag_cbor(b"\xa0"),
                record: b"\xa0",
                json: None,
            }),
        });
        batch
    };
    let old = late("app.bsky.never.seen", complete.version - 1);
    store.apply(old).await.unwrap();
    assert_eq!(held(&*store, did).await, before);
    let new = late("app.bsky.never.seen", complete.version + 1);
    store.apply(new).await.unwrap();
    assert_eq!(held(&*store, did).await.len(), before.len() + 1);
    worker.stop().await;
}

fn fact(run: u64, from_seq: u64, to_seq: u64, kind: FactKind, now: u64) -> Fact {
    // A number each second, the last one now.
    let at = |seq: u64| now - (1_000_000 - seq) * 1_000_000;
    Fact {
        relay: "relay.example".to_owned(),
        generation: 0,
        run,
        from_seq,
        to_seq,
        from_time: at(from_seq),
        to_time: at(to_seq),
        slots: SlotSet::ALL,
        filter: String::new(),
        kind,
    }
}

/// Held up to this time (microseconds), but for a gap that the relay has no more.
pub async fn put_gap(store: &dyn Store, now: u64) {
    let facts = [
        fact(256, 0, 700_000, FactKind::Live, now),
        fact(512, 700_000, 999_000, FactKind::Expired, now),
        fact(768, 999_000, 1_000_000, FactKind::Live, now),
    ];
    store.put_facts(&facts).await.unwrap();
}

/// The job for it.
pub fn catch_up() -> JobRequest {
    JobRequest {
        force: Some(Force::CatchUp),
        origin: "ledger".to_owned(),
        ..JobRequest::default()
    }
}

async fn gaps(store: &dyn Store) -> usize {
    let wanted = ledger::Wanted::between(SlotSet::ALL);
    ledger::gaps(&store.facts().await.unwrap(), &wanted).len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_in_a_gap_that_no_relay_has_any_more_is_applied() {
    let network = Network::start(Options {
        repos: 20,
        ..Options::default()
    })
    .unwrap();
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    worker.run(everything()).await;
    // While nobody listened: a delete, an edit, a new record; then the relay has only what is newer.
    let all = network.dids();
    let gone = network.delete(&all[1]).unwrap();
    network.edit(&all[2]).unwrap();
    network.create(&all[3]).unwrap();
    put_gap(&*store, worker.tools.clock.now_micros()).await;
    assert_eq!(gaps(&*store).await, 1);
    assert!(held(&*store, &all[1]).await.contains_key(&gone.path));
    let view = worker.run(catch_up()).await;
    assert_eq!(
        (view.r#type, view.failed_repos),
        (JobType::CatchUp, 0),
        "{view:?}"
    );
    assert!(view.wanted_from.is_some() && view.wanted_from == view.covered_from);
    check(&network, &*store).await;
    assert_eq!(
        held(&*store, &all[1]).await,
        expected(&network, &all[1]).unwrap()
    );
    assert_eq!(
        gaps(&*store).await,
        0,
        "the ledger says that it is repaired"
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_stays_open_while_a_host_does_not_list_what_it_has() {
    let network = Network::start(Options {
        hosts: 3,
        repos: 12,
        relay_lists: penstock_loadtest::network::RelayLists::Hosts,
        ..Options::default()
    })
    .unwrap();
    let Some((store, _home)) = stores::empty().await else {
        return;
    };
    let worker = Worker::start(&network, &store, &How::default()).await;
    worker.run(everything()).await;
    for did in &network.dids() {
        network.delete(did);
    }
    network.set_host_fault(1, Some(penstock_loadtest::network::Fault::Dead));
    put_gap(&*store, worker.tools.clock.now_micros()).await;
    let id = worker.begin(catch_up()).await;
    let view = worker.over(id).await;
    assert_eq!(
        (view.status, view.failed_hosts),
        (JobStatus::Failed, 1),
        "{view:?}"
    );
    assert_eq!(gaps(&*store).await, 1);
    network.set_host_fault(1, None);
    penstock::backfill::jobs::Jobs::retry(&*worker.roster, id)
        .await
        .unwrap();
    let view = worker.over(id).await;
    assert_eq!(
        (view.status, view.failed_hosts),
        (JobStatus::Completed, 0),
        "{view:?}"
    );
    assert_eq!(gaps(&*store).await, 0);
    check(&network, &*store).await;
    worker.stop().await;
}
