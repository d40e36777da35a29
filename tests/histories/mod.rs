//! Histories of a few repositories that are in each other's way, and what must come of them: the same writes in any order, any
//! number of times, from several workers, give the store that the oracle in memory gives.
//!
//! `PENSTOCK_TEST_SCALE` multiplies the number of histories (default 1); `PENSTOCK_TEST_SEED` chooses them.

mod said;

use std::sync::Arc;

use penstock::decode::{Cid, Tid};
use penstock::store::memory::MemoryStore;
use penstock::store::{
    Complete, HandleWrite, RecordBody, RecordWrite, Removal, RepoStatus, RevWrite, Scope,
    SnapshotDone, StatusWrite, Store, WriteBatch,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use said::{Said, ask};

use crate::subject::{Kind, Subject};

/// Packed, odd, and in each other's way: the texts of both forms interleave.
const DIDS: [&str; 5] = [
    "did:plc:ewvi7nxzyoun6zhxrhs64oiz",
    "did:plc:ewvi7nxzyoun6zhxrhs64oiy",
    "did:plc:ewvi7nxzyoun6zhxrhs64oiyx",
    "did:web:example.com",
    "did:key:zQ3sh",
];
const COLLECTIONS: [&str; 3] = [
    "app.bsky.feed.post",
    "app.bsky.feed.like",
    "zz.example.thing",
];
const RKEYS: [&str; 5] = [
    "3mwgncrrtze23",
    "3mwgncrrtze22",
    "3mwgncrrtze23x",
    "self",
    "zzzzzzzzzzzzz",
];

#[derive(Debug, Clone)]
pub enum Event {
    Record {
        path: (usize, usize, usize),
        version: u64,
        rev: Tid,
        body: Option<(u8, bool)>,
    },
    Rev {
        did: usize,
        rev: Tid,
        root: u8,
    },
    Status {
        did: usize,
        version: u64,
        status: RepoStatus,
    },
    Handle {
        did: usize,
        version: u64,
        handle: String,
    },
    Remove(Removal),
    Snapshot(SnapshotDone),
}

fn revs() -> impl Strategy<Value = Tid> {
    (0u64..6, prop_oneof![Just(0u16), Just(1), Just(1023)])
        .prop_map(|(micros, clock)| Tid::new(micros, clock))
}

fn scopes() -> impl Strategy<Value = Scope> {
    prop_oneof![
        Just(Scope::Repo),
        (0..COLLECTIONS.len()).prop_map(|at| Scope::Collection(COLLECTIONS[at].to_owned())),
    ]
}

fn events() -> impl Strategy<Value = Event> {
    let path = (0..DIDS.len(), 0..COLLECTIONS.len(), 0..RKEYS.len());
    let body = proptest::option::weighted(0.7, (0u8..3, any::<bool>()));
    let commit = (path.clone(), revs(), body.clone()).prop_map(|(path, rev, body)| {
        let version = rev.micros();
        Event::Record {
            path,
            version,
            rev,
            body,
        }
    });
    let snapshot_row =
        (path, 0u64..6, revs(), body).prop_map(|(path, version, rev, body)| Event::Record {
            path,
            version,
            rev,
            body,
        });
    let rev =
        (0..DIDS.len(), revs(), 0u8..3).prop_map(|(did, rev, root)| Event::Rev { did, rev, root });
    let said = prop_oneof![
        Just(None),
        Just(Some(String::new())),
        Just(Some("deleted".to_owned())),
        Just(Some("deactivated".to_owned())),
        Just(Some("takendown".to_owned())),
    ];
    let times = prop_oneof![0u64..4, Just(u64::MAX >> 1), Just(1_790_437_941_307_370)];
    let status = (0..DIDS.len(), times.clone(), any::<bool>(), said).prop_map(
        |(did, version, active, status)| Event::Status {
            did,
            version,
            status: RepoStatus { active, status },
        },
    );
    let handle =
        (0..DIDS.len(), times, "[a-b\0]{0,3}").prop_map(|(did, version, handle)| Event::Handle {
            did,
            version,
            handle,
        });
    let remove = (0..DIDS.len(), scopes(), 0u64..5, any::<bool>()).prop_map(
        |(did, scope, version, floor)| {
            Event::Remove(Removal {
                did: DIDS[did].to_owned(),
                scope,
                version,
                floor,
            })
        },
    );
    let snapshot = (
        0..DIDS.len(),
        proptest::collection::vec(scopes(), 0..3),
        0u64..5,
        revs(),
        "[ab]?",
    )
        .prop_map(|(did, scopes, version, rev, filter)| {
            let complete = Complete {
                rev,
                version,
                filter,
            };
            Event::Snapshot(SnapshotDone {
                did: DIDS[did].to_owned(),
                scopes,
                complete,
                settled: false,
            })
        });
    prop_oneof![
        10 => commit,
        3 => snapshot_row,
        2 => rev,
        2 => status,
        1 => handle,
        1 => remove,
        1 => snapshot,
    ]
}

fn block(body: u8) -> Vec<u8> {
    vec![body; 1 + usize::from(body)]
}

fn add(batch: &mut WriteBatch, event: &Event) {
    match event {
        Event::Record {
            path,
            version,
            rev,
            body,
        } => {
            let block = body.map(|(body, _)| block(body));
            let body = body
                .zip(block.as_ref())
                .map(|((_, json), block)| RecordBody {
                    cid: Cid::of_dag_cbor(block),
                    record: block,
                    json: json.then_some(&b"{}"[..]),
                });
            batch.put_record(RecordWrite {
                did: DIDS[path.0],
                collection: COLLECTIONS[path.1],
                rkey: RKEYS[path.2],
                version: *version,
                rev: *rev,
                body,
            });
        }
        Event::Rev { did, rev, root } => batch.put_rev(RevWrite {
            did: DIDS[*did],
            rev: *rev,
            data: Cid::of_dag_cbor(&block(*root)),
            commit: Cid::of_dag_cbor(&block(root / 2)),
        }),
        Event::Status {
            did,
            version,
            status,
        } => batch.put_status(StatusWrite {
            did: DIDS[*did].to_owned(),
            version: *version,
            status: status.clone(),
            repair_if_stale: None,
            repair_if_reactivated: None,
        }),
        Event::Handle {
            did,
            version,
            handle,
        } => batch.put_handle(HandleWrite {
            did: DIDS[*did].to_owned(),
            version: *version,
            handle: handle.clone(),
        }),
        Event::Remove(_) | Event::Snapshot(_) => unreachable!("not part of a batch"),
    }
}

/// One worker: its events in its order, in batches of random sizes.
async fn work(store: Arc<dyn Store>, events: Vec<Event>, mut random: fastrand::Rng) {
    let mut batch = WriteBatch::new();
    for event in events {
        match event {
            Event::Remove(removal) => store.remove(removal).await.unwrap(),
            Event::Snapshot(done) => store.complete_snapshot(done).await.unwrap(),
            event => add(&mut batch, &event),
        }
        if random.u8(..4) == 0 {
            batch = store.apply(batch).await.unwrap();
            assert!(batch.is_empty());
        }
    }
    store.apply(batch).await.unwrap();
}

/// All events in random order, some twice, split over several workers at once.
async fn apply_shuffled(store: &Arc<dyn Store>, events: &[Event], seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut all = events.to_vec();
    all.extend(events.iter().filter(|_| random.u8(..3) == 0).cloned());
    random.shuffle(&mut all);
    let workers = random.usize(1..4);
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..workers {
        let share = all.iter().skip(worker).step_by(workers).cloned().collect();
        tasks.spawn(work(store.clone(), share, random.fork()));
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

async fn says<S: Subject>(subject: &S, truth: &Said, when: &str) {
    let said = ask(&*subject.reader(), S::KIND).await;
    assert_eq!(said, *truth, "{}{when}", S::NAME);
}

async fn converges<S: Subject>(events: Vec<Event>, seed: u64, mut subject: S) {
    let oracle: Arc<dyn Store> = Arc::new(MemoryStore::new());
    work(
        oracle.clone(),
        events.clone(),
        fastrand::Rng::with_seed(seed),
    )
    .await;
    let truth = ask(&*oracle, Kind::Local).await;

    let shuffled: Arc<dyn Store> = Arc::new(MemoryStore::new());
    apply_shuffled(&shuffled, &events, seed).await;
    let said = ask(&*shuffled, Kind::Local).await;
    assert_eq!(said, truth, "the oracle, other order");

    apply_shuffled(&subject.store(), &events, seed ^ 1).await;
    says(&subject, &truth, "").await;
    if seed & 1 == 0 {
        subject.compact().await;
        says(&subject, &truth, ", compacted").await;
    }
    subject.reopen().await;
    says(&subject, &truth, ", opened again").await;
    // What comes late, also after what hides it was merged, changes nothing.
    apply_shuffled(&subject.store(), &events, seed ^ 2).await;
    says(&subject, &truth, ", all of it again").await;
    subject.compact().await;
    says(&subject, &truth, ", compacted at last").await;
    if let Some(hints) = subject.sweep().await {
        says(&subject, &truth, ", swept").await;
        assert_eq!(
            hints,
            truth.records.len(),
            "the sweep leaves one hint for each record"
        );
    }
    subject.store().close().await.unwrap();
}

/// Tries so many histories at a scale of 1, each on a store that `empty` gives.
pub fn any_order_of_any_history_gives_the_same_store<S: Subject>(
    histories: u32,
    empty: impl AsyncFn() -> S,
) {
    let number = |name: &str, default: u32| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let seed = u64::from(number("PENSTOCK_TEST_SEED", 20_261_123));
    println!("PENSTOCK_TEST_SEED={seed}");
    let config = Config {
        cases: histories * number("PENSTOCK_TEST_SCALE", 1),
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 60,
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let histories = (proptest::collection::vec(events(), 1..150), any::<u64>());
    TestRunner::new(config)
        .run(&histories, |(events, seed)| {
            runtime.block_on(async { converges(events, seed, empty().await).await });
            Ok(())
        })
        .unwrap();
}
