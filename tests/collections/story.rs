//! What happens to likes, which the configuration does not name.

use std::collections::BTreeSet;

use penstock::config::CollectionFilter;
use penstock::store::indexed::Chosen;
use serde_json::{Value, json};

use super::relay::{FIRST, now};
use super::site::{LIKE, POST, Site};

const DAY: u64 = 86_400_000_000;

fn path(did: &str, rkey: &str) -> (String, String) {
    let path = format!("{LIKE}/{rkey}");
    let whole = format!("{did}/{path}");
    (path, whole)
}

/// From its first event to its return, with a kill wherever one may hurt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_added_purged_and_added_again() {
    let Some(mut site) = Site::lasting(POST).await else {
        return;
    };
    let dids = site.network.dids();
    let (before, lost) = path(&dids[0], "before");
    site.create(&dids[0], &before).await;
    site.create(&dids[0], &format!("{POST}/before")).await;
    assert_eq!(site.held(LIKE).await, BTreeSet::new());

    // The job waits until the stream is known to follow; nothing comes, so that is not known.
    let job = site.add(true).await.unwrap();
    site.until("the job waits", async |site| {
        site.job(&job).await["stage"] == "waiting"
    })
    .await;
    assert_eq!(site.job(&job).await["origin"], "collections");
    let listed = [(LIKE, (false, false)), (POST, (true, false))];
    let listed = listed.map(|(nsid, said)| (nsid.to_owned(), said)).into();
    assert_eq!(site.listed().await, listed);
    site.kill().await;
    site.start().await;
    assert_eq!(site.listed().await, listed, "a choice outlives a kill");
    let (after, kept) = path(&dids[0], "after");
    site.until_likes_are(true).await;
    site.create(&dids[0], &after).await;
    site.completed(&job).await;
    let mut wanted = site.published(LIKE);
    wanted.insert(kept.clone());
    assert_eq!(site.held(LIKE).await, wanted);
    assert!(!wanted.contains(&lost));
    for fact in site.store.facts().await.unwrap() {
        let of_likes = CollectionFilter::parse(&fact.filter).unwrap().wants(LIKE);
        assert!(!of_likes || fact.from_seq >= FIRST, "{fact:?}");
    }

    // An old create that comes late does not come between the snapshot and now.
    let (late, _) = path(&dids[1], "late");
    site.create_at(&dids[1], &late, now() - 500 * DAY).await;
    assert_eq!(site.held(LIKE).await, wanted);

    // Purged: nothing comes back, neither while it is not indexed nor later.
    let posts = site.held(POST).await;
    site.remove(true).await;
    assert_eq!(site.listed().await[LIKE], (false, true));
    site.kill().await;
    site.start().await;
    site.purged().await;
    assert_eq!(site.held(LIKE).await, BTreeSet::new());
    assert_eq!(site.held(POST).await, posts);
    site.create(&dids[0], &before).await;
    assert_eq!(site.held(LIKE).await, BTreeSet::new());
    assert_eq!(site.add(false).await, None);
    site.until_likes_are(true).await;
    site.create_at(&dids[0], &late, now() - 500 * DAY).await;
    assert_eq!(site.held(LIKE).await, BTreeSet::new(), "below the floor");
    let (again, back) = path(&dids[0], "again");
    site.create(&dids[0], &again).await;
    assert_eq!(site.held(LIKE).await, BTreeSet::from([back.clone()]));

    // A job brings the rest back.
    let job = site.add(true).await.unwrap();
    site.completed(&job).await;
    let mut wanted = site.published(LIKE);
    wanted.insert(back);
    assert_eq!(site.held(LIKE).await, wanted);

    // Removed without a purge: all stays, nothing comes.
    site.remove(false).await;
    assert!(!site.listed().await.contains_key(LIKE));
    site.until_likes_are(false).await;
    let (ignored, _) = path(&dids[2], "ignored");
    site.create(&dids[2], &ignored).await;
    assert_eq!(site.held(LIKE).await, wanted);
    site.stop().await;
}

/// A kill between the choice and what follows from it leaves the row as it is here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_chosen_before_a_kill_is_done_after_it() {
    let Some(mut site) = Site::new(POST).await else {
        return;
    };
    site.relay.tick();
    site.kill().await;
    let due = Some("lexicons".to_owned());
    Chosen::Indexed { due }
        .put(&*site.store, LIKE)
        .await
        .unwrap();
    site.start().await;
    site.until_with_ticks("the job is done", async |site| {
        let jobs = site.get("/admin/backfill/status").await;
        let mut jobs = jobs.as_array().unwrap().iter();
        jobs.any(|job| job["origin"] == "lexicons" && job["status"] == "completed")
    })
    .await;
    assert_eq!(site.held(LIKE).await, site.published(LIKE));
    let made = Chosen::of(&*site.store, LIKE).await.unwrap();
    assert_eq!(made, Some(Chosen::Indexed { due: None }));
    site.kill().await;
    let purging = Chosen::Purging { cursor: None };
    purging.put(&*site.store, LIKE).await.unwrap();
    site.start().await;
    site.purged().await;
    assert_eq!(site.held(LIKE).await, BTreeSet::new());
    site.stop().await;
}

/// A purge begins only once the stream is known not to store the collection any more; until then nothing is lost by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_is_called_off_by_adding_again() {
    let Some(site) = Site::new(POST).await else {
        return;
    };
    let job = site.add(true).await.unwrap();
    site.completed(&job).await;
    let all = site.published(LIKE);
    site.remove(true).await;
    assert_eq!(site.listed().await[LIKE], (false, true));
    let job = site.add(true).await.unwrap();
    assert_eq!(site.listed().await[LIKE], (false, false));
    assert_eq!(site.held(LIKE).await, all);
    site.completed(&job).await;
    assert_eq!(site.held(LIKE).await, all);
    // Whatever part of it was done.
    for _ in 0..3 {
        site.remove(true).await;
        site.until_with_ticks("something is gone", async |site| {
            site.held(LIKE).await.len() < all.len()
        })
        .await;
        let job = site.add(true).await.unwrap();
        site.completed(&job).await;
        assert_eq!(site.held(LIKE).await, all);
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_ends_when_its_collection_is_removed() {
    let Some(site) = Site::new(POST).await else {
        return;
    };
    let job = site.add(true).await.unwrap();
    site.until("the job waits", async |site| {
        site.job(&job).await["stage"] == "waiting"
    })
    .await;
    assert_eq!(
        site.add(true).await.as_ref(),
        Some(&job),
        "one job of a scope"
    );
    site.remove(false).await;
    assert_eq!(site.job(&job).await["status"], "cancelled");
    let again = site.add(true).await.unwrap();
    assert_ne!(again, job);
    site.completed(&again).await;
    assert_eq!(site.held(LIKE).await, site.published(LIKE));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_configured_is_neither_added_nor_removed() {
    let Some(site) = Site::new("").await else {
        return;
    };
    assert_eq!(
        site.listed().await,
        [("*".to_owned(), (true, false))].into()
    );
    site.relay.tick();
    let job = site.add(true).await.unwrap();
    site.completed(&job).await;
    assert!(site.held(LIKE).await.is_superset(&site.published(LIKE)));
    assert_eq!(
        site.listed().await,
        [("*".to_owned(), (true, false))].into()
    );
    let path = format!("/admin/collections/{LIKE}?purge=true");
    let (status, _) = site.call("DELETE", &path, Value::Null).await;
    assert_eq!(status, 409);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_opts_out_is_fetched_only_by_name() {
    let Some(site) = Site::new(POST).await else {
        return;
    };
    let did = site.network.dids()[3].clone();
    let of = |held: BTreeSet<String>| {
        held.into_iter()
            .filter(|path| path.starts_with(&did))
            .count()
    };
    let (status, _) = site
        .call("POST", "/admin/optout", json!({"did": did}))
        .await;
    assert_eq!(status, 200);
    let run = async |body: Value| {
        let (status, answer) = site.call("POST", "/admin/backfill", body).await;
        assert_eq!(status, 202, "{answer}");
        site.completed(answer["id"].as_str().unwrap()).await
    };
    let job = run(json!({"collection": POST})).await;
    assert_eq!(job["skipped_repos"], 1, "{job}");
    assert_eq!(of(site.held(POST).await), 0);
    run(json!({"did": did})).await;
    assert!(of(site.held(POST).await) > 0);
    let (status, _) = site
        .call("DELETE", "/admin/optout", json!({"did": did}))
        .await;
    assert_eq!(status, 200);
    let job = run(json!({"collection": POST, "force": "full_sync"})).await;
    assert_eq!(job["skipped_repos"], 0, "{job}");
    site.stop().await;
}
