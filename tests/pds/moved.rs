//! An account that moves from one real PDS to another one: its last commit is signed by a key that its DID document no longer has,
//! and says an older revision than its new host.

use std::path::Path;

use serde_json::{Value, json};

use super::compare;
use super::daemon::{Daemon, Penstock};
use super::jobs::{job, penstock, start, worlds};
use super::world::{Account, World};

const POST: &str = "app.bsky.feed.post";

fn post(text: &str) -> Value {
    json!({"$type": POST, "text": text, "createdAt": "2026-01-02T03:04:05.678Z"})
}

/// What is held of an account is what it has, and it is active.
async fn lacking(account: &Account, penstock: &Penstock) -> Vec<String> {
    // It may not be held yet.
    let repo = penstock.try_lines(&["repos", "--did", &account.did]).await;
    let repo = repo.unwrap_or_default();
    let records = ["dump", "--no-value", "--did", &account.did];
    let records = penstock.lines(&records).await;
    let is_held = |(nsid, rkey): &(String, String)| {
        let mut held = records.iter();
        held.any(|record| record["collection"] == **nsid && record["rkey"] == **rkey)
    };
    let all = records.len() == account.records.len() && account.records.keys().all(is_held);
    match repo.first() {
        Some(repo) if repo["active"] == true && all => Vec::new(),
        _ => vec![format!("{repo:?}, {} records", records.len())],
    }
}

async fn has_all(world: &World, penstock: &Penstock, daemon: &mut Daemon, what: &str) {
    let olga = world.account("olga");
    daemon
        .until(what, async || lacking(olga, penstock).await)
        .await;
    compare::records_agree([olga], penstock, &["--did", &olga.did]).await;
}

/// A job takes it from the new host, the new host's `#sync` is believed, and the end of the old account is no end of it.
pub async fn an_account_moves_and_stays(installation: &Path) {
    let (mut one, mut two) = worlds(installation).await;
    one.join("olga").await;
    two.join("pete").await;
    for number in 0..30 {
        one.create("olga", POST, post(&number.to_string())).await;
    }
    let oldest = [("PENSTOCK_RELAY__START", "oldest")];
    let of_old = penstock(&one, &two, &oldest);
    let of_new = penstock(&two, &one, &oldest);
    let mut old = start(&of_old).await;
    has_all(&one, &of_old, &mut old, "all before the move").await;
    let did = one.account("olga").did.clone();
    job(&of_old, &["--did", &did]).await;

    one.move_to("olga", &mut two).await;
    compare::pds_agrees(&two).await;
    let mut new = start(&of_new).await;
    has_all(&two, &of_new, &mut new, "all that the new host announces").await;
    new.until("no open question", async || open_questions(&of_new).await)
        .await;
    let repo = of_new.lines(&["repos", "--did", &did]).await;
    let rev = two.account("olga").rev.as_str();
    assert_eq!(repo[0]["complete_rev"], rev, "{}", repo[0]);

    let done = job(&of_old, &["--did", &did]).await;
    assert_eq!(
        (&done["failed_repos"], &done["inactive_repos"]),
        (&json!(0), &json!(0)),
        "{done}"
    );
    has_all(&two, &of_old, &mut old, "all after the move").await;
    let repo = of_old.lines(&["repos", "--did", &did]).await;
    assert_eq!(repo[0]["pds"], two.pds.origin(), "{}", repo[0]);

    one.delete_account("olga").await;
    let asked = async || {
        let standing = of_old.lines(&["backfill", "show", "1"]).await;
        match standing[0]["processed_repos"].as_u64() {
            Some(done) if done > 0 => Vec::new(),
            _ => vec![standing[0].to_string()],
        }
    };
    old.until("the question where olga is", asked).await;
    has_all(&two, &of_old, &mut old, "all after the old account's end").await;

    let gone = two.account("olga").records.keys().next().cloned();
    two.delete("olga", POST, &gone.expect("a post").1).await;
    two.create("olga", POST, post("from the new home")).await;
    let done = job(&of_old, &["--did", &did]).await;
    assert_eq!(done["failed_repos"], 0, "{done}");
    has_all(&two, &of_old, &mut old, "what was done after the move").await;
    has_all(&two, &of_new, &mut new, "the same by the stream").await;
    old.stop().await;
    new.stop().await;
    one.pds.stop().await;
    two.pds.stop().await;
}

/// What waits for the standing job.
async fn open_questions(penstock: &Penstock) -> Vec<String> {
    let standing = penstock.lines(&["backfill", "show", "1"]).await;
    match (
        &standing[0]["waiting_repos"],
        &standing[0]["processed_repos"],
    ) {
        (waiting, done) if *waiting == 0 && *done != 0 => Vec::new(),
        _ => vec![standing[0].to_string()],
    }
}
