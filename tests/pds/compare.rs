//! What Penstock says beside what is true: the world's notes, and the PDS's own API.

use std::collections::BTreeMap;
use std::fmt::Debug;

use serde_json::{Value, json};

use super::daemon::Penstock;
use super::server::Xrpc;
use super::world::{Account, World, text};

/// What is missing, extra or different in `found`, a line each.
pub fn differences<K: Ord + Debug, V: PartialEq + Debug>(
    what: &str,
    expected: &BTreeMap<K, V>,
    found: &BTreeMap<K, V>,
) -> Vec<String> {
    let mut lines = Vec::new();
    for (key, value) in expected {
        match found.get(key) {
            None => lines.push(format!("{what}: missing {key:?}: {value:?}")),
            Some(other) if other != value => {
                lines.push(format!(
                    "{what}: different {key:?}: {other:?}, expected {value:?}"
                ));
            }
            Some(_) => {}
        }
    }
    for (key, value) in found {
        if !expected.contains_key(key) {
            lines.push(format!("{what}: extra {key:?}: {value:?}"));
        }
    }
    lines
}

fn same<K: Ord + Debug, V: PartialEq + Debug>(
    what: &str,
    expected: &BTreeMap<K, V>,
    found: &BTreeMap<K, V>,
) {
    let lines = differences(what, expected, found);
    let shown: Vec<&str> = lines.iter().take(20).map(String::as_str).collect();
    assert!(
        lines.is_empty(),
        "{} differences, the first:\n{}",
        lines.len(),
        shown.join("\n")
    );
}

/// The named fields of an object; absent and null are the same.
fn fields(value: &Value, names: &[&str]) -> Value {
    names
        .iter()
        .map(|name| (*name, value[*name].clone()))
        .collect()
}

type Records = BTreeMap<(String, String, String), Value>;

/// The records of these accounts, as `penstock dump` prints them.
fn records_of<'a>(accounts: impl Iterator<Item = &'a Account>) -> Records {
    let mut records = Records::new();
    for account in accounts {
        for ((collection, rkey), held) in &account.records {
            let key = (account.did.clone(), collection.clone(), rkey.clone());
            records.insert(
                key,
                json!({"cid": held.cid, "rev": held.rev, "value": held.value}),
            );
        }
    }
    records
}

fn dumped(lines: &[Value]) -> Records {
    let mut records = Records::new();
    for line in lines {
        let key = (
            text(line, "did"),
            text(line, "collection"),
            text(line, "rkey"),
        );
        let twice = records.insert(key, fields(line, &["cid", "rev", "value"]));
        assert!(twice.is_none(), "{line} was dumped twice");
    }
    records
}

/// The PDS serves what the world noted: records, CIDs, handles, status, revisions.
pub async fn pds_agrees(world: &World) {
    let xrpc = &world.pds.xrpc;
    for account in world.accounts() {
        let did = account.did.as_str();
        let status = xrpc
            .ask("com.atproto.sync.getRepoStatus", &[("did", did)])
            .await;
        if account.deleted() {
            let refusal = status.expect_err("a deleted account has no status");
            assert_eq!(
                (refusal.status, &refusal.body["error"]),
                (400, &json!("RepoNotFound"))
            );
            continue;
        }
        let status = status.expect("a status");
        assert_eq!(status["active"], json!(account.status.is_none()), "{did}");
        assert_eq!(status["status"].as_str(), account.status, "{did}");
        let described = xrpc
            .ask("com.atproto.repo.describeRepo", &[("repo", did)])
            .await;
        if account.status.is_some() {
            assert_eq!(
                described
                    .expect_err("an inactive account is not described")
                    .status,
                400
            );
            continue;
        }
        let described = described.expect("a description");
        assert_eq!(text(&described, "handle"), account.handle);
        let latest = xrpc
            .get("com.atproto.sync.getLatestCommit", &[("did", did)])
            .await;
        assert_eq!(text(&latest, "rev"), account.rev, "{did}");
        let mut found = BTreeMap::new();
        for collection in described["collections"].as_array().expect("collections") {
            for record in xrpc
                .list_records(did, collection.as_str().expect("an NSID"), false)
                .await
            {
                found.insert(text(&record, "uri"), fields(&record, &["cid", "value"]));
            }
        }
        let uri = |(collection, rkey): &(String, String)| format!("at://{did}/{collection}/{rkey}");
        let expected = account.records.iter();
        let expected =
            expected.map(|(path, held)| (uri(path), json!({"cid": held.cid, "value": held.value})));
        same("the PDS", &expected.collect(), &found);
    }
}

/// What `penstock repos` has yet to learn; empty when it has caught up.
pub async fn not_caught_up(world: &World, penstock: &Penstock) -> Vec<String> {
    let lines = match penstock.try_lines(&["repos"]).await {
        Ok(lines) => lines,
        Err(error) => return vec![error],
    };
    // A deleted account may have nothing left in the stream but its deletion.
    let expected = world.accounts().map(|account| {
        let (handle, rev) = (json!(account.handle), json!(account.rev));
        let known = |value| if account.deleted() { Value::Null } else { value };
        let repo = json!({"active": account.status.is_none(), "status": account.status, "handle": known(handle), "rev": known(rev)});
        (account.did.clone(), repo)
    });
    let found = lines.iter().map(|line| {
        let mut repo = fields(line, &["active", "status", "handle", "rev"]);
        if repo["status"] == "deleted" {
            repo["handle"] = Value::Null;
            repo["rev"] = Value::Null;
        }
        (text(line, "did"), repo)
    });
    differences("penstock repos", &expected.collect(), &found.collect())
}

/// Every record in `penstock dump` is as it was published, with and beside hidden accounts, and none is missing.
pub async fn dump_agrees(world: &World, penstock: &Penstock) {
    let mut all = dumped(&penstock.lines(&["dump"]).await);
    // What was held of a deleted account goes when a repair has confirmed the deletion.
    let deleted: Vec<&str> = world
        .accounts()
        .filter(|account| account.deleted())
        .map(|account| account.did.as_str())
        .collect();
    all.retain(|(did, _, _), _| !deleted.contains(&did.as_str()));
    same(
        "penstock dump",
        &records_of(world.accounts().filter(|account| !account.deleted())),
        &all,
    );

    let active = dumped(&penstock.lines(&["dump", "--active"]).await);
    same(
        "penstock dump --active",
        &records_of(world.accounts().filter(|account| account.status.is_none())),
        &active,
    );

    let alice = world.account("alice");
    let lines = penstock
        .lines(&[
            "dump",
            "--did",
            &alice.did,
            "--collection",
            "app.bsky.feed.post",
            "--no-value",
        ])
        .await;
    assert!(
        lines.iter().all(|line| line["value"].is_null()),
        "{lines:?}"
    );
    let mut expected = records_of(std::iter::once(alice));
    expected.retain(|(_, collection, _), _| collection == "app.bsky.feed.post");
    expected
        .values_mut()
        .for_each(|record| record["value"] = Value::Null);
    same(
        "penstock dump --did --collection",
        &expected,
        &dumped(&lines),
    );
}

/// Exactly the records of these accounts are in what `penstock dump` prints with `more`. Of which commit a record is, a repository
/// that was fetched does not tell.
pub async fn records_agree<'a>(
    accounts: impl IntoIterator<Item = &'a Account>,
    penstock: &Penstock,
    more: &[&str],
) {
    let without_rev = |mut records: Records| {
        records
            .values_mut()
            .for_each(|record| record["rev"] = Value::Null);
        records
    };
    let args = [&["dump"], more].concat();
    let found = dumped(&penstock.lines(&args).await);
    same(
        "the records after a job",
        &without_rev(records_of(accounts.into_iter())),
        &without_rev(found),
    );
}

/// Penstock's XRPC answers are those of the PDS.
pub async fn xrpc_agrees(world: &World, ours: &Xrpc) {
    let pds = &world.pds.xrpc;
    for account in world.accounts() {
        let did = account.did.as_str();
        if account.deleted() {
            let status = ours
                .get("com.atproto.sync.getRepoStatus", &[("did", did)])
                .await;
            assert_eq!(
                fields(&status, &["active", "status"]),
                json!({"active": false, "status": "deleted"})
            );
        } else {
            same_answer(pds, ours, "com.atproto.sync.getRepoStatus", &[("did", did)]).await;
        }
        for (collection, rkey) in account.records.keys() {
            let params = [("repo", did), ("collection", collection), ("rkey", rkey)];
            if account.status.is_none() {
                same_answer(pds, ours, "com.atproto.repo.getRecord", &params).await;
            } else {
                refused(ours, "com.atproto.repo.getRecord", &params).await;
            }
        }
        let mut collections: Vec<&String> = account
            .records
            .keys()
            .map(|(collection, _)| collection)
            .collect();
        collections.dedup();
        for collection in collections {
            if account.status.is_some() {
                refused(
                    ours,
                    "com.atproto.repo.listRecords",
                    &[("repo", did), ("collection", collection)],
                )
                .await;
                continue;
            }
            for reverse in [false, true] {
                let expected = pds.list_records(did, collection, reverse).await;
                let found = ours.list_records(did, collection, reverse).await;
                assert_eq!(found, expected, "{did} {collection}, reverse: {reverse}");
            }
        }
    }
    let missing = [
        ("repo", world.account("alice").did.as_str()),
        ("collection", "com.example.note"),
        ("rkey", "never"),
    ];
    refused(ours, "com.atproto.repo.getRecord", &missing).await;
    same(
        "listRepos",
        &repos(pds, world).await,
        &repos(ours, world).await,
    );
}

async fn same_answer(pds: &Xrpc, ours: &Xrpc, nsid: &str, params: &[(&str, &str)]) {
    let expected = pds.get(nsid, params).await;
    assert_eq!(ours.get(nsid, params).await, expected, "{nsid} {params:?}");
}

async fn refused(ours: &Xrpc, nsid: &str, params: &[(&str, &str)]) {
    let refusal = ours.ask(nsid, params).await.expect_err("a refusal");
    assert!(
        (400..500).contains(&refusal.status),
        "{nsid} {params:?}: {refusal:?}"
    );
    assert!(
        refusal.body["error"].is_string(),
        "{nsid} {params:?}: {refusal:?}"
    );
}

/// What a host lists of the accounts that were not deleted. It may forget those, or say that they are.
async fn repos(host: &Xrpc, world: &World) -> BTreeMap<String, Value> {
    let mut repos = BTreeMap::new();
    let mut cursor = None;
    loop {
        let mut params = vec![("limit", "3")];
        params.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let page = host.get("com.atproto.sync.listRepos", &params).await;
        for repo in page["repos"].as_array().expect("repos") {
            let shown = fields(repo, &["head", "rev", "active", "status"]);
            let twice = repos.insert(text(repo, "did"), shown);
            assert!(twice.is_none(), "{repo} was listed twice");
        }
        match page["cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    for account in world.accounts().filter(|account| account.deleted()) {
        repos.remove(&account.did);
    }
    repos
}
