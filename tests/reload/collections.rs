//! Collections that the configuration has more or fewer.

use std::collections::BTreeSet;

use penstock::config::CollectionFilter;
use penstock::store::FactKind;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::installed::get;
use crate::site::{LIKE, POST, Running, Sent, Site, TAKEN_UP};

fn file(collections: &[&str]) -> String {
    let list = serde_json::to_string(collections).unwrap();
    format!("collections = {list}\n[backfill]\nrequests_per_second = 1000\n")
}

/// Whether the newest fact of the live stream is of likes; the daemon must be gone.
async fn follows_likes(site: &Site) -> bool {
    let facts = site.facts().await;
    let live = facts.iter().filter(|fact| fact.kind == FactKind::Live);
    let newest = live.max_by_key(|fact| fact.to_seq).unwrap();
    CollectionFilter::parse(&newest.filter).unwrap().wants(LIKE)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_grows_and_shrinks_while_the_daemon_runs() {
    let site = Site::new(&file(&[POST])).await;
    let mut running = site.start();
    let mut sent = vec![site.send(POST, "one"), site.send(LIKE, "one")];
    running.until_seq(sent[1].seq).await;
    assert_eq!(site.held(LIKE).await, BTreeSet::new());

    // More: what comes is stored, and a job fetches what was there before.
    running.reload(&file(&[LIKE, POST]));
    let line = running.until_key(TAKEN_UP, "collections").await;
    let of = |names: [&str; 2]| format!("[\"{}\", \"{}\"]", names[0], names[1]);
    assert_eq!(line["before"], format!("[\"{POST}\"]"), "{line}");
    assert_eq!(line["now"], of([LIKE, POST]), "{line}");
    let job = running.until_fetched().await;
    assert_eq!(job["collection"], LIKE, "{job}");
    let like = site.send(LIKE, "two");
    running.until_seq(like.seq).await;
    let mut wanted = site.published(LIKE);
    assert!(!wanted.contains(&sent[1].path), "no host has it");
    wanted.insert(like.path.clone());
    assert_eq!(site.held(LIKE).await, wanted);
    sent.push(like);
    let listed = get(&site.installation.socket(), "/admin/collections").await;
    let listed: Value = serde_json::from_str(&listed.unwrap()).unwrap();
    let row = |nsid: &str| json!({"nsid": nsid, "configured": true, "purging": false});
    assert_eq!(listed["collections"], json!([row(LIKE), row(POST)]));

    // Fewer: nothing of it comes any more, what is held stays.
    running.reload(&file(&[LIKE]));
    running
        .daemon
        .until_line(TAKEN_UP, |line| line["now"] == format!("[\"{LIKE}\"]"))
        .await;
    let posts = site.held(POST).await;
    let (post, like) = (site.send(POST, "three"), site.send(LIKE, "three"));
    running.until_seq(like.seq).await;
    assert_eq!(site.held(POST).await, posts);
    assert!(site.held(LIKE).await.contains(&like.path));
    sent.extend([post, like]);
    running.daemon.stop().await;

    site.assert_true(&sent).await;
    let facts = site.facts().await;
    let claims = |collection: &str, seq: u64| {
        facts.iter().any(|fact| {
            let filter = CollectionFilter::parse(&fact.filter).unwrap();
            filter.wants(collection) && fact.from_seq < seq && seq <= fact.to_seq
        })
    };
    let claimed: Vec<bool> = [POST, LIKE, LIKE, POST, LIKE]
        .iter()
        .zip(&sent)
        .map(|(collection, sent)| claims(collection, sent.seq))
        .collect();
    assert_eq!(claimed, [true, false, true, false, true], "{facts:#?}");
}

/// What the list had before is not there at all any more: nothing is complete for it, all the same jobs get on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_replaced_by_another() {
    let site = Site::new(&file(&[POST])).await;
    let mut running = site.start();
    running.until_seq(site.send(POST, "one").seq).await;
    running.reload(&file(&[LIKE]));
    running.until_fetched().await;
    let like = site.send(LIKE, "one");
    running.until_seq(like.seq).await;
    let mut wanted = site.published(LIKE);
    wanted.insert(like.path.clone());
    assert_eq!(site.held(LIKE).await, wanted);
    running.daemon.stop().await;
    site.assert_true(&[like]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_right_after_the_signal_loses_nothing() {
    let site = Site::new(&file(&[POST])).await;
    let mut running = site.start();
    let mut sent = vec![site.send(POST, "one")];
    running.until_seq(sent[0].seq).await;
    for round in 0..4 {
        // Both ways, at once and once it is told.
        let wider = round % 2 == 0;
        running.reload(&match wider {
            true => file(&[POST, LIKE]),
            false => file(&[POST]),
        });
        if round >= 2 {
            running.until_key(TAKEN_UP, "collections").await;
        }
        sent.push(site.send(LIKE, &format!("round{round}")));
        running.daemon.kill().await;
        running = site.start();
        let post = site.send(POST, &format!("round{round}"));
        running.until_seq(post.seq).await;
        assert!(site.held(POST).await.contains(&post.path));
        sent.push(post);
        if wider {
            running.until_fetched().await;
            assert!(site.held(LIKE).await.is_superset(&site.published(LIKE)));
        }
    }
    running.daemon.stop().await;
    site.assert_true(&sent).await;
    assert!(!follows_likes(&site).await);
}

/// Sends likes and posts while the list goes to and fro.
async fn to_and_fro(running: &mut Running<'_>) -> Vec<Sent> {
    let site = running.site;
    let mut sent = Vec::new();
    for turn in 0..30 {
        running.reload(&match turn % 2 {
            0 => file(&[POST, LIKE]),
            _ => file(&[POST]),
        });
        for at in 0..5 {
            let rkey = format!("turn{turn}-{at}");
            sent.extend([site.send(LIKE, &rkey), site.send(POST, &rkey)]);
        }
        let last = sent[sent.len() - 1].seq;
        // Now and then the ledger comes along, else the signals come as they do.
        if turn % 5 == 0 {
            running.until_seq(last).await;
        }
    }
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signal_upon_signal_makes_no_false_claim() {
    let site = Site::new(&file(&[POST])).await;
    let mut running = site.start();
    running.until_seq(site.send(POST, "one").seq).await;
    let sent = to_and_fro(&mut running).await;
    running.reload(&file(&[POST, LIKE]));
    let last = site.send(LIKE, "last");
    running.until_fetched().await;
    running.until_seq(last.seq).await;
    running.daemon.stop().await;
    site.assert_true(&sent).await;
    let held = site.held(POST).await;
    let posts = sent.iter().filter(|sent| sent.path.contains(POST));
    assert!(posts.clone().count() == 150 && posts.clone().all(|sent| held.contains(&sent.path)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_while_it_stops_does_no_harm() {
    let site = Site::new(&file(&[POST])).await;
    let mut running = site.start();
    running.until_seq(site.send(POST, "one").seq).await;
    let sent: Vec<Sent> = (0..500)
        .map(|at| site.send(POST, &format!("r{at}")))
        .collect();
    running.reload(&file(&[POST, LIKE]));
    running.daemon.signal(Signal::TERM);
    running.reload(&file(&[LIKE]));
    running.daemon.signal(Signal::HUP);
    let status = running.daemon.wait().await;
    assert!(status.success(), "{status}: {}", running.daemon.words());
    site.assert_true(&sent).await;
}
