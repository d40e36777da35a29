//! Limits are told as they are to be told, kept, and what hosts see is counted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use penstock_loadtest::network::{Announce, Fault, Limit, Network, Options};

use super::{Client, options};

fn limited(announce: Announce) -> (Network, Client, String) {
    let limit = Limit {
        requests: 5,
        window: Duration::from_secs(2),
        announce,
    };
    let options = Options {
        hosts: 1,
        limits: vec![(limit, 1.0)],
        ..options()
    };
    let network = Network::start(options).unwrap();
    let url = network.host_urls().next().unwrap();
    let url = format!("{url}/xrpc/com.atproto.sync.listRepos?limit=1");
    (network, Client::new(), url)
}

#[tokio::test]
async fn headers_tell_the_limit() {
    let (network, client, url) = limited(Announce::All);
    for remaining in (0..5).rev() {
        let response = client.get(&url).await.unwrap();
        assert_eq!(response.status(), 200);
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("ratelimit-limit"), "5");
        assert_eq!(header("ratelimit-policy"), "5;w=2");
        assert_eq!(header("ratelimit-remaining"), remaining.to_string());
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let reset: u64 = header("ratelimit-reset").parse().unwrap();
        assert!((now..=now + 3).contains(&reset));
        assert!(!response.headers().contains_key("retry-after"));
    }
    let response = client.get(&url).await.unwrap();
    assert_eq!(response.status(), 429);
    let wait: u64 = response.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    tokio::time::sleep(Duration::from_secs(wait)).await;
    assert_eq!(client.get(&url).await.unwrap().status(), 200);
    let stats = &network.host_stats()[0];
    assert_eq!((stats.requests, stats.refused, stats.unheeded), (7, 1, 0));
    assert_eq!((stats.most_in_a_window, stats.most_at_once), (6, 1));
    assert!((3..=6).contains(&stats.most_in_a_second), "{stats:?}");
}

#[tokio::test]
async fn a_bare_429_and_what_is_not_heeded() {
    for (announce, named) in [(Announce::Nothing, false), (Announce::RetryAfter, true)] {
        let (network, client, url) = limited(announce);
        for at in 0..7 {
            let response = client.get(&url).await.unwrap();
            assert_eq!(response.status(), if at < 5 { 200 } else { 429 });
            assert!(!response.headers().contains_key("ratelimit-limit"));
            assert_eq!(
                response.headers().contains_key("retry-after"),
                named && at >= 5
            );
        }
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(client.get(&url).await.unwrap().status(), 429);
        let stats = &network.host_stats()[0];
        assert_eq!((stats.refused, stats.unheeded), (3, u64::from(named)));
    }
}

#[tokio::test]
async fn the_most_at_once_is_counted() {
    let network = Network::start(Options {
        hosts: 2,
        ..options()
    })
    .unwrap();
    let client = Client::new();
    let dids = network.dids();
    let fetches = dids
        .iter()
        .filter(|did| network.host_of(did) == Some(0))
        .take(6);
    let fetches: Vec<_> = fetches
        .map(|did| {
            network.set_fault(did, Some(Fault::Slow));
            let url = network.host_urls().next().unwrap();
            let url = format!("{url}/xrpc/com.atproto.sync.getRepo?did={did}");
            let client = client.0.clone();
            tokio::spawn(async move { client.get(url).send().await.unwrap().bytes().await })
        })
        .collect();
    for fetch in fetches {
        fetch.await.unwrap().unwrap();
    }
    let stats = network.host_stats();
    assert_eq!((stats[0].most_at_once, stats[0].repos), (6, 6));
    assert_eq!(stats[1].requests, 0);
}
