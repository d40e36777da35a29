//! Jobs over two real PDSes with one PLC directory, both listed by the daemon, which follows only the first one's stream.

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::compare;
use super::daemon::{Daemon, Penstock};
use super::server::Pds;
use super::story;
use super::world::{Account, World, Write};

const POST: &str = "app.bsky.feed.post";
const PROFILE: &str = "app.bsky.actor.profile";
const NOTE: &str = "com.example.note";

/// Two PDSes, on which nothing was done yet.
pub async fn worlds(installation: &Path) -> (World, World) {
    let one = Pds::start(installation).await;
    let two = one.start_beside(installation).await;
    (World::new(one), World::new(two))
}

/// An empty store that follows the first one from now on, and knows of the second one.
pub fn penstock(first: &World, second: &World, more: &[(&'static str, &str)]) -> Penstock {
    let relays = [first, second].map(|world| world.pds.url.replacen("http", "ws", 1));
    let mut variables = vec![
        ("RELAY_URL", relays.join(",")),
        ("PENSTOCK_RELAY__START", "head".to_owned()),
        ("PENSTOCK_STORE__EMBEDDED__MIN_FREE", "16MiB".to_owned()),
        ("PENSTOCK_BACKFILL__REREAD", "200ms".to_owned()),
        ("PENSTOCK_BACKFILL__REQUESTS_PER_SECOND", "1000".to_owned()),
        ("PENSTOCK_BACKFILL__RETRY_WAIT", "100ms".to_owned()),
    ];
    variables.extend(
        more.iter()
            .map(|(name, value)| (*name, (*value).to_owned())),
    );
    Penstock::of(&first.pds, variables)
}

/// Starts the daemon and waits until it answers.
pub async fn start(penstock: &Penstock) -> Daemon {
    let mut daemon = penstock.start();
    let silent = async || match penstock.gaps_now().await {
        Value::Null => vec!["no answer".to_owned()],
        _ => Vec::new(),
    };
    daemon.until("an answer", silent).await;
    daemon
}

/// A job as `penstock backfill start` starts it, once it is over and all went well.
pub async fn job(penstock: &Penstock, scope: &[&str]) -> Value {
    let args = [&["backfill", "start", "--wait"], scope].concat();
    let id = penstock.lines(&args).await[0].to_string();
    shown(penstock, &id).await
}

/// A job as the API starts it, once it is over and all went well.
async fn asked(penstock: &Penstock, body: &Value) -> Value {
    let begun = penstock.xrpc().post("/admin/backfill", body).await;
    let begun = begun.expect("a job");
    shown(penstock, begun["id"].as_str().expect("an id")).await
}

async fn shown(penstock: &Penstock, id: &str) -> Value {
    let job = penstock.lines(&["backfill", "show", id, "--wait"]).await;
    assert_eq!(job[0]["status"], "completed", "{}", job[0]);
    job[0].clone()
}

/// Found, fetched as a whole or not needed, inactive, failed.
fn counts(job: &Value) -> [u64; 4] {
    [
        "total_repos",
        "skipped_repos",
        "inactive_repos",
        "failed_repos",
    ]
    .map(|name| {
        job[name]
            .as_u64()
            .unwrap_or_else(|| panic!("no {name} in {job}"))
    })
}

/// What jobs say of accounts is what their PDS says, and who is active is held up to the newest revision.
pub async fn repos_agree(world: &World, penstock: &Penstock) {
    let repos = penstock.lines(&["repos"]).await;
    for account in world.accounts() {
        let repo = repos
            .iter()
            .find(|repo| repo["did"] == account.did.as_str());
        let repo = repo.unwrap_or_else(|| panic!("no {account:?}"));
        assert_eq!(repo["active"], account.status.is_none(), "{repo}");
        assert_eq!(repo["status"].as_str(), account.status, "{repo}");
        if account.status.is_none() {
            assert_eq!(repo["rev"], account.rev.as_str(), "{repo}");
            assert_eq!(repo["complete_rev"], account.rev.as_str(), "{repo}");
            assert_eq!(repo["pds"], world.pds.origin(), "{repo}");
        }
    }
}

fn active(worlds: [&World; 2]) -> impl Iterator<Item = &Account> {
    let accounts = worlds.into_iter().flat_map(World::accounts);
    accounts.filter(|account| account.status.is_none())
}

fn note(text: &str) -> Value {
    json!({"$type": NOTE, "text": text})
}

fn post(text: &str) -> Value {
    json!({"$type": POST, "text": text, "createdAt": "2026-01-02T03:04:05.678Z"})
}

/// The people of the second PDS. Nina writes nothing.
async fn people(world: &mut World) {
    for name in ["kate", "liam", "mona", "nina"] {
        world.join(name).await;
    }
    let profile = json!({"$type": PROFILE, "displayName": "Kate"});
    world.put("kate", PROFILE, "self", profile).await;
    world.create("kate", POST, post("by kate")).await;
    for name in ["kate", "liam"] {
        // More than a page of listRecords.
        let notes = (0..120).map(|number| Write::Create(NOTE, note(&number.to_string())));
        world.batch(name, notes.collect()).await;
    }
    world.put("kate", NOTE, "edited", note("once")).await;
    world.put("kate", NOTE, "edited", note("twice")).await;
    world.put("kate", NOTE, "gone", note("soon")).await;
    world.delete("kate", NOTE, "gone").await;
    world.create("liam", POST, post("by liam")).await;
    world.create("mona", POST, post("by mona")).await;
}

/// What happens while Penstock is off.
async fn meanwhile(one: &mut World, two: &mut World) {
    one.put("alice", NOTE, "A", note("edited meanwhile")).await;
    one.delete("alice", NOTE, "0").await;
    one.take_down("bob", true).await;
    one.delete_account("gina").await;
    two.delete("kate", PROFILE, "self").await;
    two.put("kate", NOTE, "edited", note("three times")).await;
    let notes = two.account("kate").records.keys().cloned();
    let gone: Vec<(String, String)> = notes.filter(|(nsid, _)| nsid == NOTE).take(70).collect();
    let deletes = gone.iter().map(|(nsid, rkey)| Write::Delete(nsid, rkey));
    two.batch("kate", deletes.collect()).await;
    two.create("kate", NOTE, note("new")).await;
    two.delete_account("liam").await;
    two.deactivate("mona").await;
    two.create("nina", POST, post("at last")).await;
}

/// By DID, by a list, of one collection, of all; then what was written, edited, deleted and hidden while Penstock was off; then all
/// again for a store that was lost.
pub async fn jobs_bring_what_two_pdses_hold(installation: &Path) {
    let (mut one, mut two) = worlds(installation).await;
    story::first(&mut one).await;
    people(&mut two).await;
    let penstock = penstock(&one, &two, &[]);
    let daemon = start(&penstock).await;

    let alice = one.account("alice");
    let done = job(&penstock, &["--did", &alice.did]).await;
    assert_eq!(counts(&done), [1, 0, 0, 0], "{done}");
    assert_eq!(done["total_records"], alice.records.len());
    compare::records_agree([alice], &penstock, &[]).await;
    let again = job(&penstock, &["--did", &alice.did]).await;
    assert_eq!(counts(&again), [1, 1, 0, 0], "complete already: {again}");

    one_collection(&two, &penstock, alice).await;
    profiles(&one, &two, &penstock).await;
    listed(&one, &two, &penstock).await;

    let full = job(&penstock, &["--force", "full_sync"]).await;
    // Frank is deleted: he is in no list, and held as such.
    assert_eq!(counts(&full), [11, 0, 2, 0], "{full}");
    all_agree(&one, &two, &penstock).await;
    let again = job(&penstock, &[]).await;
    assert_eq!(counts(&again), [11, 9, 2, 0], "nothing is newer: {again}");
    daemon.stop().await;

    meanwhile(&mut one, &mut two).await;
    let mut daemon = start(&penstock).await;
    let mended = job(&penstock, &[]).await;
    assert_eq!(mended["failed_repos"], 0, "{mended}");
    all_agree(&one, &two, &penstock).await;
    // Where the stream told of the end first, the standing job asks the host and purges.
    for gone in [one.account("gina"), two.account("liam")] {
        let left = async || {
            let records = ["dump", "--no-value", "--did", gone.did.as_str()];
            let records = penstock.lines(&records).await;
            records.iter().map(ToString::to_string).collect()
        };
        daemon.until("the purge of who is deleted", left).await;
    }
    let hidden = [one.account("bob"), two.account("mona")];
    let all = active([&one, &two]).chain(hidden);
    compare::records_agree(all, &penstock, &[]).await;
    daemon.stop().await;

    std::fs::remove_dir_all(penstock.data()).expect("the store goes");
    let daemon = start(&penstock).await;
    let full = job(&penstock, &["--force", "full_sync"]).await;
    assert_eq!(full["failed_repos"], 0, "{full}");
    compare::records_agree(active([&one, &two]), &penstock, &[]).await;
    daemon.stop().await;
    one.pds.stop().await;
    two.pds.stop().await;
}

async fn all_agree(one: &World, two: &World, penstock: &Penstock) {
    for world in [one, two] {
        compare::pds_agrees(world).await;
        repos_agree(world, penstock).await;
    }
    compare::records_agree(active([one, two]), penstock, &["--active"]).await;
}

/// One collection of one repository, and then nothing else of it is held.
async fn one_collection(two: &World, penstock: &Penstock, held: &Account) {
    let liam = two.account("liam");
    let scope = ["--did", liam.did.as_str(), "--collection", NOTE];
    let done = job(penstock, &scope).await;
    assert_eq!(done["total_records"], 120, "{done}");
    let mut notes = liam.clone();
    notes
        .records
        .retain(|(collection, _), _| collection == NOTE);
    compare::records_agree([&notes, held], penstock, &[]).await;
}

/// One collection of all: a PDS has no list of who has it.
async fn profiles(one: &World, two: &World, penstock: &Penstock) {
    let done = job(penstock, &["--collection", PROFILE]).await;
    assert_eq!(counts(&done)[2..], [2, 0], "{done}");
    let mut people: Vec<Account> = active([one, two]).cloned().collect();
    for account in &mut people {
        account
            .records
            .retain(|(collection, _), _| collection == PROFILE);
    }
    compare::records_agree(&people, penstock, &["--collection", PROFILE]).await;
}

/// A list of DIDs of both PDSes; those who hide or are gone are said to be.
async fn listed(one: &World, two: &World, penstock: &Penstock) {
    let alive = [one.account("bob"), two.account("kate")];
    let hidden = ["carol", "erin", "frank"].map(|name| one.account(name));
    let mut list = "# people\n".to_owned();
    for account in alive.iter().chain(&hidden) {
        list.push_str(&format!("{}\n", account.did));
    }
    let file = penstock.file("people", &list);
    let done = job(penstock, &["--dids", &file]).await;
    assert_eq!(counts(&done), [5, 0, 3, 0], "{done}");
    let repos = penstock.lines(&["repos"]).await;
    for account in hidden {
        let repo = repos
            .iter()
            .find(|repo| repo["did"] == account.did.as_str());
        let repo = repo.unwrap_or_else(|| panic!("no {account:?}"));
        assert_eq!(repo["active"], false, "{repo}");
        assert_eq!(repo["status"].as_str(), account.status, "{repo}");
    }
    for account in alive {
        compare::records_agree([account], penstock, &["--did", &account.did]).await;
    }
}

/// `days` bring exactly what was written since; what a takedown purged comes back once it is lifted.
pub async fn days_bring_what_is_newer_and_a_purge_is_undone(installation: &Path) {
    let (mut one, mut two) = worlds(installation).await;
    people(&mut two).await;
    one.join("zoe").await;
    one.create("zoe", POST, post("by zoe")).await;
    let before: Vec<Account> = two.accounts().cloned().collect();
    let start_of_window = SystemTime::now();
    // The window begins when the daemon gets the request: a little later.
    tokio::time::sleep(Duration::from_secs(1)).await;
    two.put("kate", NOTE, "edited", note("in the window")).await;
    two.create("kate", POST, post("in the window")).await;
    // Its block is as old as the first one.
    two.create("kate", POST, post("by kate")).await;
    two.create("nina", POST, post("in the window")).await;

    let purge = [("PENSTOCK_ACCOUNTS__ON_TAKEDOWN", "purge")];
    let penstock = penstock(&one, &two, &purge);
    let daemon = start(&penstock).await;
    let done = asked(&penstock, &json!({"days": since(start_of_window)})).await;
    assert_eq!(counts(&done), [5, 3, 0, 0], "{done}");
    assert_eq!(done["type"], "window");
    let newer = before.iter().map(|old| newer(two.accounts(), old));
    let newer: Vec<Account> = newer.collect();
    compare::records_agree(&newer, &penstock, &[]).await;
    assert_eq!(newer.iter().map(|new| new.records.len()).sum::<usize>(), 4);

    // Each by name: no list is needed, and where nothing is newer the PDS leaves even the root out.
    let dids: Vec<&str> = two.accounts().map(|account| account.did.as_str()).collect();
    let body = json!({"dids": dids, "days": since(start_of_window)});
    let done = asked(&penstock, &body).await;
    assert_eq!(counts(&done), [4, 2, 0, 0], "{done}");
    compare::records_agree(&newer, &penstock, &[]).await;

    hides_and_returns(&mut two, &penstock).await;
    let kate = two.account("kate").did.clone();
    job(&penstock, &["--did", &kate]).await;
    compare::records_agree([two.account("kate")], &penstock, &["--did", &kate]).await;
    two.take_down("kate", true).await;
    let down = job(&penstock, &["--did", &kate]).await;
    assert_eq!(counts(&down), [1, 0, 1, 0], "{down}");
    compare::records_agree([], &penstock, &["--did", &kate]).await;
    two.take_down("kate", false).await;
    let back = job(&penstock, &["--did", &kate]).await;
    assert_eq!(counts(&back), [1, 0, 0, 0], "{back}");
    compare::records_agree([two.account("kate")], &penstock, &["--did", &kate]).await;
    daemon.stop().await;
    one.pds.stop().await;
    two.pds.stop().await;
}

/// A job of days finds nothing newer, and yet that the account is back.
async fn hides_and_returns(two: &mut World, penstock: &Penstock) {
    let mona = two.account("mona").did.clone();
    two.deactivate("mona").await;
    let hidden = job(penstock, &["--did", &mona]).await;
    assert_eq!(counts(&hidden), [1, 0, 1, 0], "{hidden}");
    let repo = penstock.lines(&["repos", "--did", &mona]).await;
    assert_eq!(repo[0]["status"], "deactivated", "{}", repo[0]);
    two.activate("mona").await;
    let back = job(penstock, &["--did", &mona, "--days", "0.000001"]).await;
    assert_eq!(counts(&back), [1, 1, 0, 0], "{back}");
    let repo = penstock.lines(&["repos", "--did", &mona]).await;
    assert_eq!(repo[0]["active"], true, "{}", repo[0]);
}

fn since(start: SystemTime) -> f64 {
    start.elapsed().expect("a clock").as_secs_f64() / 86_400.0
}

/// What an account has that it did not have before, or not so.
fn newer<'a>(mut now: impl Iterator<Item = &'a Account>, before: &Account) -> Account {
    let now = now.find(|account| account.did == before.did);
    let mut now = now.expect("an account").clone();
    now.records
        .retain(|path, held| before.records.get(path).map(|old| &old.cid) != Some(&held.cid));
    now
}
