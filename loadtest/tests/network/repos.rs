//! Repositories without faults: what is in them, `since`, single records, changes.

use std::collections::{BTreeMap, BTreeSet};

use penstock_loadtest::network::{Expected, ExpectedRecord, Fault, Network, Options};
use penstock_loadtest::{Tid, network::Change};

use super::{Client, NOW, compare, options, quoted, reader};

fn records(network: &Network, did: &str) -> (String, Vec<ExpectedRecord>) {
    match network.expected(did) {
        Some(Expected::Records { rev, records }) => (rev, records),
        other => panic!("{did}: {other:?}"),
    }
}

fn pds(network: &Network, did: &str) -> String {
    let host = network.host_of(did).unwrap();
    let url = network.host_urls().nth(host).unwrap();
    format!("{url}/xrpc/com.atproto")
}

#[tokio::test]
async fn cars_give_exactly_the_records() {
    let network = Network::start(Options {
        repos: 60,
        p256: 0.5,
        did_web: 0.5,
        large: 1,
        large_records: 5_000,
        ..options()
    });
    let (network, client) = (network.unwrap(), Client::new());
    let dids = network.dids();
    assert!(dids.iter().any(|did| did.starts_with("did:web:127.20.0.")));
    for did in &dids {
        compare(&client, &network, did).await;
        let (rev, _) = records(&network, did);
        let param = quoted(did);
        let url = format!("{}.sync.getLatestCommit?did={param}", pds(&network, did));
        assert_eq!(client.json(&url).await.1["rev"], rev);
    }
    let (_, large) = records(&network, &dids[0]);
    assert!(large.len() > 4_900);
}

#[test]
fn a_seed_makes_the_same_network() {
    let made = |seed| {
        let options = Options {
            seed,
            did_web: 0.0,
            ..options()
        };
        let network = Network::start(options).unwrap();
        let dids = network.dids();
        let expected = dids
            .iter()
            .map(|did| network.expected(did))
            .collect::<Vec<_>>();
        (dids, expected)
    };
    assert_eq!(made(1), made(1));
    assert_ne!(made(1).0, made(2).0);
}

/// `since` gives the blocks of newer commits only, and in the order of a PDS.
#[tokio::test]
async fn since_gives_what_is_newer() {
    let network = Network::start(options()).unwrap();
    let client = Client::new();
    let since = Tid::new(NOW - 20 * 86_400_000_000, 0).to_string();
    let (mut none, mut some) = (0, 0);
    for did in network.dids() {
        let (rev, all) = records(&network, &did);
        let param = quoted(&did);
        let url = format!(
            "{}.sync.getRepo?did={param}&since={since}",
            pds(&network, &did)
        );
        let bytes = client.get(&url).await.unwrap().bytes().await.unwrap();
        let car = reader::car(&bytes).unwrap();
        let cids: Vec<String> = car
            .blocks
            .iter()
            .map(|(cid, _)| reader::text(cid))
            .collect();
        let held: BTreeSet<&String> = cids.iter().collect();
        for record in &all {
            assert_eq!(
                held.contains(&record.cid),
                record.rev > since,
                "{did} {}",
                record.path
            );
        }
        let root = reader::text(&car.root);
        assert_eq!(held.contains(&root), rev > since, "{did}");
        match cids.is_empty() {
            true => none += 1,
            false => some += 1,
        }
    }
    assert!(none > 20 && some > 20, "{none} {some}");
}

#[tokio::test]
async fn blocks_come_in_the_order_of_a_pds() {
    let network = Network::start(options()).unwrap();
    let client = Client::new();
    for did in network.dids().iter().take(20) {
        let (newest, all) = records(&network, did);
        let param = quoted(did);
        let revs: BTreeMap<&str, &str> = all.iter().map(|r| (&*r.cid, &*r.rev)).collect();
        let url = format!("{}.sync.getRepo?did={param}", pds(&network, did));
        let bytes = client.get(&url).await.unwrap().bytes().await.unwrap();
        let car = reader::car(&bytes).unwrap();
        assert_eq!(newest, revs.values().max().copied().unwrap_or(&newest));
        let sent = car.blocks.iter().map(|(cid, _)| reader::text(cid));
        let sent: Vec<_> = sent
            .filter_map(|cid| Some((*revs.get(cid.as_str())?, cid)))
            .collect();
        assert!(sent.is_sorted_by(|before, after| before > after), "{did}");
    }
}

#[tokio::test]
async fn records_one_by_one_and_in_pages() {
    let network = Network::start(Options {
        records: 150,
        ..options()
    })
    .unwrap();
    let client = Client::new();
    let did = &network.dids()[1];
    let (_, all) = records(&network, did);
    let param = quoted(did);
    let base = pds(&network, did);
    let (_, about) = client
        .json(&format!("{base}.repo.describeRepo?repo={param}"))
        .await;
    assert_eq!(about["didDoc"]["id"], **did);
    let mut listed = BTreeMap::new();
    for collection in about["collections"].as_array().unwrap() {
        let collection = collection.as_str().unwrap();
        for reverse in [false, true] {
            let url = format!(
                "{base}.repo.listRecords?repo={param}&collection={collection}&limit=7&reverse={reverse}"
            );
            let rows = client.pages(&url, "records").await;
            let uris: Vec<_> = rows
                .iter()
                .map(|row| row["uri"].as_str().unwrap())
                .collect();
            assert!(uris.is_sorted_by(|a, b| (a < b) == reverse && a != b));
            for row in rows {
                let uri = row["uri"].as_str().unwrap();
                let path = uri.strip_prefix(&format!("at://{did}/")).unwrap();
                assert_eq!(row["value"]["$type"], collection);
                listed.insert(path.to_owned(), row["cid"].as_str().unwrap().to_owned());
            }
        }
    }
    let expected: BTreeMap<_, _> = all
        .iter()
        .map(|r| (r.path.clone(), r.cid.clone()))
        .collect();
    assert_eq!(listed, expected);
    for record in all.iter().take(10) {
        let (collection, rkey) = record.path.split_once('/').unwrap();
        let url = format!("{base}.sync.getRecord?did={param}&collection={collection}&rkey={rkey}");
        let bytes = client.get(&url).await.unwrap().bytes().await.unwrap();
        let car = reader::car(&bytes).unwrap();
        assert!(
            car.blocks
                .iter()
                .any(|(cid, _)| reader::text(cid) == record.cid)
        );
        assert!(car.blocks.iter().any(|(cid, _)| *cid == car.root));
    }
}

#[tokio::test]
async fn changes_are_new_commits() {
    let network = Network::start(options()).unwrap();
    let client = Client::new();
    let has = |change: &Change, did: &str| {
        let (rev, records) = records(&network, did);
        assert_eq!(rev, change.rev);
        let found = records
            .into_iter()
            .find(|record| record.path == change.path);
        assert_eq!(found.map(|record| record.cid), change.cid);
    };
    for did in network.dids().iter().take(10) {
        let before = records(&network, did);
        let param = quoted(did);
        let edit = network.edit(did).unwrap();
        has(&edit, did);
        assert!(edit.rev > before.0);
        compare(&client, &network, did).await;
        let create = network.create(did).unwrap();
        has(&create, did);
        assert!(create.rev > edit.rev);
        compare(&client, &network, did).await;
        let delete = network.delete(did).unwrap();
        assert_eq!(delete.cid, None);
        has(&delete, did);
        compare(&client, &network, did).await;
        let url = format!(
            "{}.sync.getRepo?did={param}&since={}",
            pds(&network, did),
            edit.rev
        );
        let bytes = client.get(&url).await.unwrap().bytes().await.unwrap();
        assert!(reader::car(&bytes).unwrap().blocks.len() < 20);
    }
}

/// The oracle has what a reader gets by `listRecords`, values too.
#[tokio::test]
async fn the_oracle_has_all_records() {
    let network = Network::start(Options {
        repos: 30,
        faults: vec![(Fault::Truncated, 0.2), (Fault::TakenDown, 0.2)],
        ..options()
    });
    let (network, client) = (network.unwrap(), Client::new());
    let oracle = network.oracle();
    let mut held = 0;
    for did in network.dids() {
        let state = oracle.repos.get(&did);
        match network.expected(&did).unwrap() {
            Expected::Records { rev, records } => {
                assert_eq!(state.unwrap().rev.as_ref(), Some(&rev));
                held += records.len();
            }
            Expected::Inactive(status) => {
                assert_eq!(state.unwrap().status.as_deref(), Some(status));
            }
            Expected::Fails(_) => assert_eq!(state, None),
        }
    }
    assert_eq!(oracle.records.len(), held);
    let records = oracle.records.values();
    let (did, collection) = records
        .map(|record| (&record.did, &record.collection))
        .next()
        .unwrap();
    let param = quoted(did);
    let url = format!(
        "{}.repo.listRecords?repo={param}&collection={collection}",
        pds(&network, did)
    );
    for row in client.pages(&url, "records").await {
        let rkey = row["uri"].as_str().unwrap().rsplit('/').next().unwrap();
        let key = (did.clone(), collection.clone(), rkey.to_owned());
        assert_eq!(oracle.records[&key].value, row["value"]);
    }
}
