//! Jobs, what failed of them, choices, and where repositories live.

use penstock::decode::{Cid, Tid};
use penstock::store::{
    Choice, ChoiceKind, HandleWrite, JobFailure, JobRow, RepoStatus, RevWrite, StatusWrite, Store,
    StoreError, WriteBatch,
};

use super::{DID, repair};
use crate::subject::Subject;

/// DIDs whose order is that of their bytes, whatever is in them; greater ones are not longer.
const ODD: [&str; 9] = [
    "a",
    "a!b",
    "a/b/c",
    "ab",
    "did:plc:ewvi7nxzyoun6zhxrhs64oiz",
    "did:web:localhost%3A8080",
    "did:web:x y",
    "~",
    "ü",
];

fn job(id: u64, epoch: u64, body: &str) -> JobRow {
    JobRow {
        id,
        epoch,
        body: body.into(),
    }
}

/// A job is changed by who read it last, and by one only.
pub async fn jobs_are_compared_and_set(store: &dyn Store) {
    assert_eq!(store.job(7).await.unwrap(), None);
    let change = store.put_job(&job(7, 2, "no"), Some(1)).await;
    assert!(!change.unwrap(), "there is none");
    assert!(store.put_job(&job(7, 1, "made"), None).await.unwrap());
    for (epoch, replaces) in [(1, None), (2, None), (9, Some(0)), (9, Some(8))] {
        let written = store.put_job(&job(7, epoch, "no"), replaces).await;
        assert!(!written.unwrap(), "{epoch} over {replaces:?}");
    }
    assert_eq!(store.job(7).await.unwrap(), Some(job(7, 1, "made")));
    let (one, other) = (job(7, 2, "one"), job(7, 2, "other"));
    let (first, second) =
        tokio::join!(store.put_job(&one, Some(1)), store.put_job(&other, Some(1)));
    let first = first.unwrap();
    assert_ne!(first, second.unwrap(), "exactly one");
    let held = if first { one } else { other };
    assert_eq!(store.job(7).await.unwrap(), Some(held));
    // An epoch may jump, never stay or fall.
    assert!(store.put_job(&job(7, 9, ""), Some(2)).await.unwrap());
    for epoch in [9, 8] {
        is_refused(store.put_job(&job(7, epoch, "no"), Some(9)).await);
    }
    assert_eq!(store.job(7).await.unwrap(), Some(job(7, 9, "")));
}

async fn all_jobs(store: &dyn Store, limit: usize) -> Vec<u64> {
    let (mut ids, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.jobs(cursor.as_deref(), limit).await.unwrap();
        assert!(page.items.len() <= limit);
        ids.extend(page.items.iter().map(|job| job.id));
        cursor = page.cursor;
        if cursor.is_none() {
            return ids;
        }
    }
}

/// The newest jobs come first, whatever was changed last.
pub async fn jobs_are_listed(store: &dyn Store) {
    assert!(all_jobs(store, 10).await.is_empty());
    let greatest = u64::try_from(i64::MAX).unwrap();
    for id in [3, 300, 1, greatest, 2, 0] {
        assert!(store.put_job(&job(id, 0, "x"), None).await.unwrap());
    }
    assert!(store.put_job(&job(1, 1, "y"), Some(0)).await.unwrap());
    let wanted = [greatest, 300, 3, 2, 1, 0];
    for limit in [1, 2, 3, 6, 100] {
        assert_eq!(all_jobs(store, limit).await, wanted, "pages of {limit}");
    }
    // A job that comes meanwhile moves none of the others.
    let page = store.jobs(None, 2).await.unwrap();
    assert!(store.put_job(&job(400, 0, "x"), None).await.unwrap());
    let page = store.jobs(page.cursor.as_deref(), 1).await.unwrap();
    assert_eq!(page.items, [job(3, 0, "x")]);
    let error = store.jobs(Some("x"), 1).await.unwrap_err();
    assert_eq!(error.kind(), "query");
}

fn failure(job: u64, did: &str, collection: &str, body: &str) -> JobFailure {
    JobFailure {
        job,
        did: did.to_owned(),
        collection: collection.to_owned(),
        body: body.into(),
    }
}

async fn all_failures(store: &dyn Store, job: u64, limit: usize) -> Vec<JobFailure> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.failures(job, cursor.as_deref(), limit).await.unwrap();
        assert!(page.items.len() <= limit);
        all.extend(page.items);
        cursor = page.cursor;
        if cursor.is_none() {
            return all;
        }
    }
}

/// The failures of one job, in their order, replaced and cleared, are not those of another.
pub async fn failures_are_kept_by_job(store: &dyn Store) {
    let of = |job: u64, body: &str| {
        let each = ODD.iter().flat_map(|did| {
            let of = ["", "app.bsky.feed.like", "app.bsky.feed.post"];
            of.map(|collection| failure(job, did, collection, body))
        });
        each.collect::<Vec<_>>()
    };
    let mut mixed = [of(2, "b"), of(1, "a"), of(258, "c")].concat();
    mixed.rotate_left(31);
    mixed.reverse();
    store.put_failures(&mixed).await.unwrap();
    store.put_failures(&[]).await.unwrap();
    for (job, body) in [(1, "a"), (2, "b"), (258, "c")] {
        for limit in [1, 4, 1000] {
            assert_eq!(all_failures(store, job, limit).await, of(job, body));
        }
    }
    assert_eq!(all_failures(store, 3, 10).await, []);

    let again = failure(2, ODD[2], "", "once more");
    store
        .put_failures(std::slice::from_ref(&again))
        .await
        .unwrap();
    let held = store.failure(2, ODD[2], "").await.unwrap();
    assert_eq!(held, Some(again.clone()));
    let other = store.failure(1, ODD[2], "").await.unwrap();
    assert_eq!(other, Some(failure(1, ODD[2], "", "a")));
    // What is cleared is named by its key.
    let gone = failure(2, ODD[2], "", "");
    store
        .clear_failures(&[gone, failure(2, "never there", "", "")])
        .await
        .unwrap();
    assert_eq!(store.failure(2, ODD[2], "").await.unwrap(), None);
    assert_eq!(all_failures(store, 2, 5).await.len(), 3 * ODD.len() - 1);
    assert_eq!(all_failures(store, 1, 5).await, of(1, "a"));
    store
        .put_failures(std::slice::from_ref(&again))
        .await
        .unwrap();
    let held = store.failure(2, ODD[2], "").await.unwrap();
    assert_eq!(held, Some(again));
    store.clear_failures(&of(258, "")).await.unwrap();
    assert_eq!(all_failures(store, 258, 5).await, []);
    assert_eq!(
        store.failures(1, Some("x"), 1).await.unwrap_err().kind(),
        "query"
    );
}

fn choice(kind: ChoiceKind, name: &str, body: &str) -> Choice {
    Choice {
        kind,
        name: name.to_owned(),
        body: body.into(),
    }
}

async fn names(store: &dyn Store, kind: ChoiceKind, prefix: &str, limit: usize) -> Vec<String> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.choices(kind, prefix, cursor.as_deref(), limit).await;
        let page = page.unwrap();
        assert!(page.items.len() <= limit);
        assert!(page.items.iter().all(|choice| choice.kind == kind));
        all.extend(page.items.into_iter().map(|choice| choice.name));
        cursor = page.cursor;
        if cursor.is_none() {
            return all;
        }
    }
}

/// Lists are apart from each other, and what is put after it was removed is there.
pub async fn choices_are_kept_by_kind(store: &dyn Store) {
    use ChoiceKind::{Collection, JobDids, Mark, OptOut};
    for name in ["12~2", "1~10", "1~2", "1~", "1", "2~1", "é", "1~\u{10ffff}"] {
        store
            .put_choice(&choice(JobDids, name, name))
            .await
            .unwrap();
    }
    store.put_choice(&choice(OptOut, "1~3", "o")).await.unwrap();
    store.put_choice(&choice(Mark, "1~4", "m")).await.unwrap();
    for limit in [1, 2, 3, 100] {
        let all = names(store, JobDids, "", limit).await;
        assert_eq!(
            all,
            ["1", "12~2", "1~", "1~10", "1~2", "1~\u{10ffff}", "2~1", "é"]
        );
        let some = names(store, JobDids, "1~", limit).await;
        assert_eq!(some, ["1~", "1~10", "1~2", "1~\u{10ffff}"]);
        assert_eq!(names(store, JobDids, "3", limit).await, [""; 0]);
        assert_eq!(names(store, OptOut, "", limit).await, ["1~3"]);
        assert_eq!(names(store, Collection, "", limit).await, [""; 0]);
    }
    // A cursor before the prefix hides nothing.
    let page = store.choices(JobDids, "2", Some("1"), 5).await.unwrap();
    assert_eq!(page.items, [choice(JobDids, "2~1", "2~1")]);

    for body in ["first", "second"] {
        let put = choice(OptOut, "1~3", body);
        store.put_choice(&put).await.unwrap();
        let page = store.choices(OptOut, "1~3", None, 5).await.unwrap();
        assert_eq!((page.items, page.cursor), (vec![put], None));
        store.remove_choice(OptOut, "1~3").await.unwrap();
        assert_eq!(names(store, OptOut, "", 5).await, [""; 0]);
    }
    store.remove_choice(OptOut, "never there").await.unwrap();
    store.put_choice(&choice(OptOut, "1~3", "")).await.unwrap();
    let page = store.choices(OptOut, "", None, 5).await.unwrap();
    assert_eq!(page.items, [choice(OptOut, "1~3", "")]);
    assert_eq!(names(store, Mark, "", 5).await, ["1~4"]);
}

/// The repairs of a repository are not those of one whose DID begins alike.
pub async fn repairs_are_found_by_repository(store: &dyn Store) {
    let longer = format!("{DID}a");
    let rows = [
        repair(DID, "b/1", "cbor"),
        repair(DID, "a/2", "stale"),
        repair(&longer, "a", "cbor"),
        repair("", "a", "cbor"),
    ];
    let mut batch = WriteBatch::new();
    for row in &rows {
        batch.put_repair(row.clone());
    }
    store.apply(batch).await.unwrap();
    let of = async |did: &str| store.repairs_of(did).await.unwrap();
    assert_eq!(of(DID).await, [rows[1].clone(), rows[0].clone()]);
    assert_eq!(of(&longer).await, [rows[2].clone()]);
    assert_eq!(of("").await, [rows[3].clone()]);
    assert_eq!(of("did:web:nobody").await, []);
    store.clear_repairs(&rows[..1]).await.unwrap();
    assert_eq!(of(DID).await, [rows[1].clone()]);
}

/// The host of a repository is what was said of it last, and stands beside all else that is known of it.
pub async fn hosts_are_noted<S: Subject>(mut subject: S) {
    let store = subject.store();
    let pds = async |store: &dyn Store, did: &str| {
        let repo = store.repo(did).await.unwrap();
        repo.and_then(|repo| repo.pds)
    };
    let only = "did:web:only";
    let hosts = [
        "https://a.example",
        "https://b.example",
        "https://a.example",
    ];
    for host in hosts {
        for did in [DID, only] {
            store.put_pds(did, host).await.unwrap();
            assert_eq!(pds(&*store, did).await.as_deref(), Some(host));
        }
    }
    let rev = Tid::new(5, 0);
    let cid = Cid::of_dag_cbor(b"x");
    let mut batch = WriteBatch::new();
    batch.put_rev(RevWrite {
        did: DID,
        rev,
        data: cid,
        commit: cid,
    });
    batch.put_handle(HandleWrite {
        did: DID.to_owned(),
        version: 5,
        handle: "a.example".to_owned(),
    });
    batch.put_status(StatusWrite {
        did: DID.to_owned(),
        version: 5,
        status: RepoStatus {
            active: false,
            status: None,
        },
        repair_if_stale: None,
        repair_if_reactivated: None,
    });
    store.apply(batch).await.unwrap();
    drop(store);
    for _ in 0..2 {
        subject.compact().await;
        let store = subject.store();
        let repo = store.repo(DID).await.unwrap().unwrap();
        assert_eq!(repo.pds.as_deref(), Some(hosts[2]), "{}", S::NAME);
        assert_eq!(repo.rev, Some(rev));
        assert_eq!(repo.handle_text(), Some("a.example"));
        assert!(!repo.active());
        let page = store.repos(None, 10).await.unwrap();
        let found = page.items.iter().filter(|repo| repo.pds.is_some());
        assert_eq!(found.count(), 2, "{}", S::NAME);
        drop(store);
        subject.reopen().await;
    }
}

/// All of it is there when the store is opened again.
pub async fn jobs_and_choices_are_kept<S: Subject>(mut subject: S) {
    let store = subject.store();
    assert!(store.put_job(&job(1, 0, "a"), None).await.unwrap());
    assert!(store.put_job(&job(1, 3, "b"), Some(0)).await.unwrap());
    let failures = [failure(1, DID, "", "why"), failure(1, "x", "a.b.c", "y")];
    store.put_failures(&failures).await.unwrap();
    store.clear_failures(&failures[1..]).await.unwrap();
    let (kept, gone) = (
        choice(ChoiceKind::OptOut, "kept", "{}"),
        choice(ChoiceKind::OptOut, "gone", "{}"),
    );
    store.put_choice(&kept).await.unwrap();
    store.put_choice(&gone).await.unwrap();
    store.remove_choice(gone.kind, &gone.name).await.unwrap();
    drop(store);
    subject.reopen().await;
    let store = subject.store();
    assert_eq!(store.job(1).await.unwrap(), Some(job(1, 3, "b")));
    assert!(!store.put_job(&job(1, 4, "c"), Some(0)).await.unwrap());
    assert_eq!(all_failures(&*store, 1, 9).await, failures[..1]);
    let page = store.choices(ChoiceKind::OptOut, "", None, 9).await;
    assert_eq!(page.unwrap().items, [kept]);
    assert!(store.put_job(&job(1, 4, "c"), Some(3)).await.unwrap());
}

fn is_refused<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Refused(_))), "{result:?}");
}

/// What is too large for any store is refused, what is just not is kept whole.
pub async fn large_rows_are_refused(store: &dyn Store) {
    let long = |kib: usize, more: usize| "x".repeat((kib << 10) + more);
    is_refused(store.put_job(&job(1, 0, &long(512, 1)), None).await);
    is_refused(store.put_job(&job(u64::MAX, 0, ""), None).await);
    is_refused(store.put_job(&job(1, u64::MAX, ""), None).await);
    let whole = job(1, 0, &long(512, 0));
    assert!(store.put_job(&whole, None).await.unwrap());
    assert_eq!(store.job(1).await.unwrap(), Some(whole));

    let good = failure(1, DID, "", &long(16, 0));
    for bad in [
        failure(1, DID, "", &long(16, 1)),
        failure(1, "", "", ""),
        failure(1, "a\0b", "", ""),
        failure(1, DID, "a/b", ""),
        failure(u64::MAX, DID, "", ""),
    ] {
        is_refused(store.put_failures(&[good.clone(), bad]).await);
    }
    assert_eq!(all_failures(store, 1, 9).await, [], "none of them");
    store
        .put_failures(std::slice::from_ref(&good))
        .await
        .unwrap();
    assert_eq!(all_failures(store, 1, 9).await, [good]);

    let kind = ChoiceKind::JobDids;
    for bad in [
        choice(kind, "a", &long(256, 1)),
        choice(kind, "", ""),
        choice(kind, &long(1, 1), ""),
    ] {
        is_refused(store.put_choice(&bad).await);
    }
    is_refused(store.put_pds("", "https://a.example").await);
    is_refused(store.put_pds(DID, "").await);
    is_refused(store.put_pds(DID, &long(1, 1)).await);
    // More than a page can hold.
    let names: Vec<String> = (0..50)
        .map(|n| format!("{n:02}{}", long(0, 1022)))
        .collect();
    for name in &names {
        let large = choice(kind, name, &long(256, 0));
        store.put_choice(&large).await.unwrap();
    }
    assert_eq!(self::names(store, kind, "", 100).await, names);
}
