//! Lists are complete, page by page: of PDSes, of the relay, of the PLC directory.

use std::collections::{BTreeMap, BTreeSet};

use penstock_loadtest::network::{Expected, Fault, Network, Options};

use super::{Client, options};

fn network() -> Network {
    let faults = [
        Fault::Deactivated,
        Fault::TakenDown,
        Fault::Suspended,
        Fault::Deleted,
        Fault::Tombstoned,
        Fault::NotThere,
        Fault::Imported,
    ];
    let options = Options {
        repos: 300,
        faults: faults.map(|fault| (fault, 0.05)).to_vec(),
        ..options()
    };
    Network::start(options).unwrap()
}

#[tokio::test]
async fn repos_of_the_relay_and_of_all_hosts() {
    let (network, client) = (network(), Client::new());
    let url = format!(
        "{}/xrpc/com.atproto.sync.listRepos?limit=7",
        network.relay_url()
    );
    let rows = client.pages(&url, "repos").await;
    let listed: Vec<_> = rows
        .iter()
        .map(|row| row["did"].as_str().unwrap())
        .collect();
    assert_eq!(listed, network.dids());
    for row in &rows {
        let did = row["did"].as_str().unwrap();
        match (network.fault(did), network.expected(did).unwrap()) {
            (Some(Fault::NotThere), _) => assert_eq!(row["active"], true),
            (_, Expected::Inactive(status)) => {
                assert_eq!(
                    (&row["active"], &row["status"]),
                    (&false.into(), &status.into())
                );
            }
            (Some(Fault::Imported), _) => assert_eq!(row["active"], true),
            (_, Expected::Records { rev, .. }) => {
                assert_eq!((&row["active"], &row["rev"]), (&true.into(), &rev.into()));
            }
            other => panic!("{other:?}"),
        }
    }
    let url = format!(
        "{}/xrpc/com.atproto.sync.listHosts?limit=3",
        network.relay_url()
    );
    let hosts = client.pages(&url, "hosts").await;
    let mut found = BTreeSet::new();
    for host in &hosts {
        let host = host["hostname"].as_str().unwrap();
        let url = format!("http://{host}/xrpc/com.atproto.sync.listRepos?limit=4");
        for row in client.pages(&url, "repos").await {
            assert!(found.insert(row["did"].as_str().unwrap().to_owned()));
        }
    }
    let gone =
        |did: &String| matches!(network.fault(did), Some(Fault::Deleted | Fault::Tombstoned));
    let expected: BTreeSet<_> = network
        .dids()
        .into_iter()
        .filter(|did| !gone(did))
        .collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn repos_by_collection() {
    let (network, client) = (network(), Client::new());
    for collection in [
        "app.bsky.feed.post",
        "com.example.notes.entry",
        "com.example.none",
    ] {
        let url = format!(
            "{}/xrpc/com.atproto.sync.listReposByCollection?limit=9&collection={collection}",
            network.relay_url()
        );
        let rows = client.pages(&url, "repos").await;
        let found: Vec<_> = rows
            .iter()
            .map(|row| row["did"].as_str().unwrap())
            .collect();
        let prefix = format!("{collection}/");
        let has = |did: &&String| match network.expected(did) {
            Some(Expected::Records { records, .. }) => records
                .iter()
                .any(|record| record.path.starts_with(&prefix)),
            _ => false,
        };
        let dids = network.dids();
        let expected: BTreeSet<_> = dids.iter().filter(has).map(String::as_str).collect();
        let found: BTreeSet<_> = found
            .into_iter()
            .filter(|did| network.fault(did) != Some(Fault::NotThere))
            .collect();
        assert_eq!(found, expected, "{collection}");
    }
}

#[tokio::test]
async fn a_lying_list_names_nobody_and_old_revs() {
    let network = Network::start(options()).unwrap();
    let client = Client::new();
    network.set_host_fault(3, Some(Fault::LyingList));
    let url = network.host_urls().nth(3).unwrap();
    let url = format!("{url}/xrpc/com.atproto.sync.listRepos?limit=4");
    let rows = client.pages(&url, "repos").await;
    let (mut unknown, mut old) = (0, 0);
    for row in rows {
        let did = row["did"].as_str().unwrap();
        match network.expected(did) {
            Some(Expected::Records { rev, .. }) => {
                assert!(*row["rev"].as_str().unwrap() < *rev);
                old += 1;
            }
            _ => unknown += 1,
        }
    }
    assert_eq!((unknown, old), (3, 10));
}

#[tokio::test]
async fn export_gives_every_operation_once() {
    let (network, client) = (network(), Client::new());
    let dids = network.dids();
    network.move_account(&dids[200], 3);
    network.move_account(&dids[201], 4);
    network.move_account(&dids[200], 5);
    let mut after = "2000-01-01T00:00:00.000Z".to_owned();
    let mut newest = BTreeMap::new();
    let mut seen = BTreeSet::new();
    loop {
        let url = format!("{}/export?count=50&after={after}", network.plc_url());
        let lines = client.get(&url).await.unwrap().text().await.unwrap();
        for line in lines.lines() {
            let entry: serde_json::Value = serde_json::from_str(line).unwrap();
            let time = entry["createdAt"].as_str().unwrap().to_owned();
            assert!(time > after, "{time} {after}");
            after = time;
            let did = entry["did"].as_str().unwrap().to_owned();
            assert!(seen.insert((did.clone(), entry["cid"].as_str().unwrap().to_owned())));
            newest.insert(did, entry);
        }
        if lines.lines().count() < 50 {
            break;
        }
    }
    let plc: Vec<_> = dids
        .iter()
        .filter(|did| did.starts_with("did:plc:"))
        .collect();
    assert_eq!(
        newest.keys().collect::<BTreeSet<_>>(),
        plc.iter().copied().collect()
    );
    for did in plc {
        let operation = &newest[did]["operation"];
        if network.fault(did) == Some(Fault::Tombstoned) {
            assert_eq!(operation["type"], "plc_tombstone");
            let url = format!("{}/{did}", network.plc_url());
            assert_eq!(client.get(&url).await.unwrap().status(), 410);
            continue;
        }
        let document = client.document(&network, did).await.unwrap();
        assert_eq!(
            operation["services"]["atproto_pds"]["endpoint"],
            document["service"][0]["serviceEndpoint"]
        );
        let key = document["verificationMethod"][0]["publicKeyMultibase"].as_str();
        let key = format!("did:key:{}", key.unwrap());
        assert_eq!(operation["verificationMethods"]["atproto"], key);
    }
    let url = format!("{}/did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", network.plc_url());
    assert_eq!(client.get(&url).await.unwrap().status(), 404);
}
