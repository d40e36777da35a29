//! Each fault, of a DID and of a host, leads to what is expected of it.

use penstock_loadtest::RelayOptions;
use penstock_loadtest::network::{Expected, Failure, Fault, Network, Options, RelayRepos};

use super::{Client, compare, options};

#[tokio::test]
async fn every_fault_of_a_did() {
    let network = Network::start(Options {
        hosts: 4,
        repos: 200,
        ..options()
    })
    .unwrap();
    let client = Client::new();
    let dids = network.dids();
    let filled = dids.iter().filter(|did| match network.expected(did) {
        Some(Expected::Records { records, .. }) => {
            !records.is_empty() && did.starts_with("did:plc")
        }
        _ => false,
    });
    for (did, fault) in filled.zip(Fault::ALL) {
        network.set_fault(did, Some(*fault));
        compare(&client, &network, did).await;
    }
}

#[tokio::test]
async fn every_fault_of_a_host() {
    let hosts = Fault::ALL.len();
    let network = Network::start(Options {
        hosts,
        repos: hosts * 2,
        ..options()
    })
    .unwrap();
    let client = Client::new();
    for (host, fault) in Fault::ALL.iter().enumerate() {
        network.set_host_fault(host, Some(*fault));
    }
    for did in network.dids() {
        compare(&client, &network, &did).await;
    }
}

#[tokio::test]
async fn shares_of_faults_come_from_the_seed() {
    let faults: Vec<_> = Fault::ALL.iter().map(|fault| (*fault, 0.01)).collect();
    let network = Network::start(Options {
        repos: 5_000,
        faults,
        ..options()
    })
    .unwrap();
    let dids = network.dids();
    for fault in Fault::ALL {
        let found = dids
            .iter()
            .filter(|did| network.fault(did) == Some(*fault))
            .count();
        assert!((20..100).contains(&found), "{}: {found}", fault.name());
    }
}

#[tokio::test]
async fn an_account_moves_when_it_is_asked_for() {
    let network = Network::start(options()).unwrap();
    let client = Client::new();
    for did in network.dids().iter().skip(20).take(4) {
        let old = network.host_of(did).unwrap();
        network.set_fault(did, Some(Fault::Moves));
        let before = client.document(&network, did).await.unwrap();
        compare(&client, &network, did).await;
        assert_ne!(network.host_of(did).unwrap(), old);
        let after = client.document(&network, did).await.unwrap();
        assert_ne!(before["service"], after["service"]);
        let url = network.host_urls().nth(old).unwrap();
        let url = format!("{url}/xrpc/com.atproto.sync.getRepo?did={did}");
        let (status, body) = client.json(&url).await;
        assert_eq!(status, 400);
        let error = body["error"].as_str().unwrap();
        assert!(
            ["RepoNotFound", "RepoDeactivated"].contains(&error),
            "{error}"
        );
        let log = format!("{}/{did}/log/audit", network.plc_url());
        let (_, log) = client.json(&log).await;
        let endpoint = |at: usize| &log[at]["operation"]["services"]["atproto_pds"]["endpoint"];
        assert_eq!(*endpoint(0), before["service"][0]["serviceEndpoint"]);
        assert_eq!(*endpoint(1), after["service"][0]["serviceEndpoint"]);
    }
}

/// `getLatestCommit` tells another `rev` than the commit that it names.
#[tokio::test]
async fn an_imported_account_has_an_old_commit() {
    let network = Network::start(options()).unwrap();
    let client = Client::new();
    let did = &network.dids()[30];
    network.set_fault(did, Some(Fault::Imported));
    let Some(Expected::Records { rev, .. }) = network.expected(did) else {
        panic!("it is had");
    };
    let url = network
        .host_urls()
        .nth(network.host_of(did).unwrap())
        .unwrap();
    let url = format!("{url}/xrpc/com.atproto.sync.getLatestCommit?did={did}");
    let (_, latest) = client.json(&url).await;
    assert!(*latest["rev"].as_str().unwrap() > *rev);
    let (_, log) = client
        .json(&format!("{}/{did}/log/audit", network.plc_url()))
        .await;
    assert_eq!(log.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn the_relay_redirects_serves_or_knows_no_repositories() {
    let client = Client::new();
    for (relay_repos, expected) in [
        (RelayRepos::Redirect, 302),
        (RelayRepos::Serve, 200),
        (RelayRepos::None, 404),
    ] {
        let network = Network::start(Options {
            relay_repos,
            ..options()
        })
        .unwrap();
        let did = &network.dids()[20];
        network.set_fault(did, Some(Fault::Truncated));
        let url = format!(
            "{}/xrpc/com.atproto.sync.getRepo?did={did}",
            network.relay_url()
        );
        let status = client.get(&url).await.unwrap().status().as_u16();
        assert_eq!(status, expected);
        let expected = network.expected(did).unwrap();
        match relay_repos {
            RelayRepos::Serve => assert!(matches!(expected, Expected::Records { .. })),
            _ => assert_eq!(expected, Expected::Fails(Failure::Truncated)),
        }
    }
}

#[tokio::test]
async fn a_relay_with_a_stream_has_the_lists_too() {
    let world = penstock_loadtest::World::of(1, 2, 10);
    let network = Network::start(options()).unwrap();
    let relay = penstock_loadtest::RelayServer::start(
        &world,
        RelayOptions {
            lists: Some(network.relay_routes()),
            ..RelayOptions::default()
        },
    );
    let relay = relay.unwrap();
    let url = format!(
        "{}/xrpc/com.atproto.sync.listRepos?limit=10",
        relay.http_url()
    );
    let rows = Client::new().pages(&url, "repos").await;
    assert_eq!(rows.len(), network.dids().len());
}
