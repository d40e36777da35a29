//! What is asked of the jobs, without a network.

use super::*;
use crate::backfill::jobs::discover::{Lister, Source};
use crate::backfill::jobs::{DidLocks, Followed, Force, JobOptions, JobView, Jobs};
use crate::backfill::limits::Limits;
use crate::backfill::snapshot::Budget;
use crate::clock::{Clock, ManualClock};
use crate::config::{AccountAction, Backfill, CollectionFilter, Config, Sources};
use crate::fetch::{FetchOptions, Fetcher};
use crate::identity::{Identities, IdentityOptions};
use crate::ledger::Wanted;
use crate::slot::SlotSet;
use crate::store::indexed::Indexed;
use crate::store::memory::MemoryStore;
use crate::store::{Fact, FactKind, Store};

const NOW: u64 = 1_800_000_000_000_000;

pub(in crate::backfill::jobs) fn tools(store: &Arc<dyn Store>, collections: &str) -> Arc<Tools> {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW));
    let fetcher = Fetcher::new(&FetchOptions {
        allow_private: true,
        ..FetchOptions::default()
    })
    .unwrap();
    Arc::new(Tools {
        identities: Identities::new(fetcher.clone(), &IdentityOptions::default(), clock.clone()),
        fetcher,
        store: store.clone(),
        clock,
        budget: Budget::new(1 << 20),
        locks: DidLocks::default(),
        indexed: Indexed::fixed(CollectionFilter::parse(collections).unwrap()),
        followed: Followed::default(),
        options: JobOptions {
            json: false,
            signatures: true,
            on_deleted: AccountAction::Purge,
            on_takedown: AccountAction::Hide,
            relays: vec!["https://relay.invalid".to_owned()],
            skip_dids: HashSet::new(),
            temp_dir: std::env::temp_dir(),
        },
        limits: Limits::fixed(Backfill {
            max_jobs: 1,
            attempts: 1,
            ..Config::load(&Sources::default()).unwrap().config.backfill
        }),
    })
}

fn ledger() -> LedgerNow {
    Arc::new(|| Wanted::between(SlotSet::ALL))
}

async fn roster(store: &Arc<dyn Store>) -> Arc<Roster> {
    Roster::open(tools(store, ""), ledger()).await.unwrap()
}

fn store() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new())
}

fn of_dids(dids: &[&str]) -> JobRequest {
    JobRequest {
        dids: dids.iter().map(|did| (*did).to_owned()).collect(),
        origin: "api".to_owned(),
        ..JobRequest::default()
    }
}

async fn started(roster: &Roster, request: JobRequest) -> JobView {
    match roster.start(request, false).await.unwrap() {
        Started::Job(view) => *view,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn of_one_scope_there_is_one_job_also_after_a_restart() {
    let store = store();
    let first = roster(&store).await;
    let one = started(&first, of_dids(&["did:web:a.example"])).await;
    let two = started(&first, of_dids(&["did:web:b.example"])).await;
    assert_eq!(
        (one.status, one.r#type),
        (JobStatus::Pending, JobType::Repos)
    );
    let id = |view: &JobView| view.id.parse::<u64>().unwrap();
    assert!(id(&one) < id(&two), "{one:?} {two:?}");
    for roster in [first, roster(&store).await] {
        let again = roster
            .start(of_dids(&["did:web:a.example"]), false)
            .await
            .unwrap();
        assert_eq!(again, Started::Running(id(&one)));
        let page = roster.list(None, 10).await.unwrap();
        let ids: Vec<&str> = page.items.iter().map(|job| job.id.as_str()).collect();
        assert_eq!(ids, [two.id.as_str(), one.id.as_str(), "1"]);
    }
}

#[tokio::test]
async fn jobs_that_repair_the_ledger_are_counted_apart() {
    let store = store();
    let roster = roster(&store).await;
    let catch_up = JobRequest {
        force: Some(Force::CatchUp),
        ..JobRequest::default()
    };
    for request in [of_dids(&["did:web:a.example"]), catch_up] {
        started(&roster, request).await;
    }
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    ::metrics::with_local_recorder(&recorder, || roster.count());
    let rendered = recorder.handle().render();
    for (name, pending, running) in [
        ("penstock_backfill_jobs", 2, 1),
        ("penstock_backfill_catch_up_jobs", 1, 0),
    ] {
        for (status, jobs) in [("pending", pending), ("running", running)] {
            let sample = format!("{name}{{status=\"{status}\"}} {jobs}\n");
            assert!(rendered.contains(&sample), "no {sample} in {rendered}");
        }
    }
}

#[tokio::test]
async fn a_job_that_waits_is_cancelled_once() {
    let store = store();
    let roster = roster(&store).await;
    let job = started(&roster, of_dids(&["did:web:a.example"])).await;
    let id = job.id.parse().unwrap();
    // The place is taken: nothing is fetched.
    let shutdown = CancellationToken::new();
    roster.find(id).unwrap().cancel.cancel();
    let working = tokio::spawn(roster.clone().run(shutdown.clone()));
    for _ in 0..2 {
        let view = roster.cancel(id).await.unwrap();
        assert_eq!(view.status, JobStatus::Cancelled);
    }
    assert!(matches!(
        roster.cancel(REPAIRS).await,
        Err(JobsError::Conflict(_))
    ));
    assert!(matches!(
        roster.cancel(77).await,
        Err(JobsError::NotFound(77))
    ));
    // Its scope is free again.
    started(&roster, of_dids(&["did:web:a.example"])).await;
    shutdown.cancel();
    working.await.unwrap().unwrap();
}

#[tokio::test]
async fn given_dids_are_kept_in_chunks_and_found_again() {
    let store = store();
    let tools = tools(&store, "");
    let roster = Roster::open(tools.clone(), ledger()).await.unwrap();
    let dids: Vec<String> = (0..2_500)
        .map(|n| format!("did:web:n{n}.example"))
        .collect();
    let names: Vec<&str> = dids.iter().map(String::as_str).collect();
    let job = started(&roster, of_dids(&names)).await;
    assert_eq!((job.dids, job.did.as_deref()), (Some(2_500), None));
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let id = job.id.parse().unwrap();
        let cancel = CancellationToken::new();
        let page = Lister::new(id)
            .page(&tools, &Source::Dids, cursor.as_deref(), &cancel)
            .await;
        let page = page.unwrap();
        found.extend(page.repos.into_iter().map(|found| found.did));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(found, dids);
}

#[tokio::test]
async fn what_is_not_indexed_is_refused_by_name() {
    let store = store();
    let roster = Roster::open(tools(&store, "a.b.c"), ledger())
        .await
        .unwrap();
    let request = JobRequest {
        collections: ["a.b.c", "a.b.d", "a.b.e"].map(str::to_owned).to_vec(),
        ..JobRequest::default()
    };
    match roster.start(request, false).await {
        Err(JobsError::Invalid { field, message }) => {
            assert_eq!(field, "collection");
            assert!(
                message.starts_with("a.b.d, a.b.e are not indexed"),
                "{message}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_ledger_decides_where_nobody_says_what() {
    let store = store();
    let roster = roster(&store).await;
    let empty = JobRequest::default();
    let Started::Job(view) = roster.start(empty.clone(), true).await.unwrap() else {
        panic!("an empty store needs everything");
    };
    assert_eq!(view.force, Some(crate::backfill::jobs::Force::FullSync));
    assert_eq!(view.r#type, JobType::FullSync);
    let fact = |run, from_seq, to_seq| Fact {
        relay: "r".to_owned(),
        generation: 0,
        run,
        from_seq,
        to_seq,
        from_time: NOW - 1_000_000 + from_seq,
        to_time: NOW - 1_000_000 + to_seq,
        slots: SlotSet::ALL,
        filter: String::new(),
        kind: FactKind::Live,
    };
    let mut batch = crate::store::WriteBatch::new();
    batch.put_handle(crate::store::HandleWrite {
        did: "did:web:a.example".to_owned(),
        version: 1,
        handle: "a.example".to_owned(),
    });
    store.apply(batch).await.unwrap();
    store.put_facts(&[fact(256, 0, 100)]).await.unwrap();
    let not_needed = roster.start(empty.clone(), true).await.unwrap();
    assert!(matches!(not_needed, Started::NotNeeded(_)));
    store.put_facts(&[fact(512, 200, 300)]).await.unwrap();
    let Started::Job(gap) = roster.start(empty, true).await.unwrap() else {
        panic!("a gap needs what changed in it");
    };
    assert_eq!(
        (gap.r#type, gap.force),
        (
            JobType::CatchUp,
            Some(crate::backfill::jobs::Force::CatchUp)
        )
    );
}

#[tokio::test]
async fn the_standing_job_outlives_every_stop() {
    let store = store();
    for _ in 0..50 {
        let stop = CancellationToken::new();
        let running = tokio::spawn(roster(&store).await.run(stop.clone()));
        tokio::task::yield_now().await;
        stop.cancel();
        running.await.unwrap().unwrap();
        let row = store.job(REPAIRS).await.unwrap().unwrap();
        assert_eq!(Job::read(&row).unwrap().body.status, JobStatus::Running);
    }
}

#[tokio::test]
async fn a_standing_job_that_was_said_to_be_over_is_taken_up_again() {
    let store = store();
    drop(roster(&store).await);
    let row = store.job(REPAIRS).await.unwrap().unwrap();
    let mut job = Job::read(&row).unwrap();
    job.body.status = JobStatus::Completed;
    job.save(&*store).await.unwrap();
    let roster = roster(&store).await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(roster.clone().run(stop.clone()));
    tokio::task::yield_now().await;
    assert_eq!(
        roster.get(REPAIRS).await.unwrap().status,
        JobStatus::Running
    );
    stop.cancel();
    running.await.unwrap().unwrap();
}
