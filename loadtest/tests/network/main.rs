//! The simulated network as a reader sees it that shares no code with it.

mod faults;
mod limits;
mod lists;
mod reader;
mod repos;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use penstock_loadtest::network::{Expected, Failure, Network, Options};
use serde_json::Value as Json;

use reader::Repository;

/// When all histories end.
const NOW: u64 = 1_790_000_000_000_000;

fn options() -> Options {
    Options {
        now: Some(NOW),
        slow: Duration::from_millis(200),
        ..Options::default()
    }
}

/// A DID as a parameter of a URL: those of did:web have a `%` of their own.
fn quoted(did: &str) -> String {
    did.replace('%', "%25")
}

/// Asks as a polite reader would, and follows redirects by itself.
struct Client(reqwest::Client);

impl Client {
    fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .read_timeout(Duration::from_secs(1))
            .build();
        Self(client.unwrap())
    }

    async fn get(&self, url: &str) -> reqwest::Result<reqwest::Response> {
        self.0.get(url).send().await
    }

    async fn json(&self, url: &str) -> (u16, Json) {
        let response = self.get(url).await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// All rows of a list.
    async fn pages(&self, url: &str, name: &str) -> Vec<Json> {
        let mut rows = Vec::new();
        let mut cursor = String::new();
        loop {
            let (status, page) = self.json(&format!("{url}{cursor}")).await;
            assert_eq!(status, 200, "{page}");
            rows.extend(page[name].as_array().unwrap().iter().cloned());
            match page["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return rows,
            }
        }
    }

    /// The DID document.
    async fn document(&self, network: &Network, did: &str) -> Result<Json, Outcome> {
        let url = match did.strip_prefix("did:web:") {
            Some(host) => format!("http://{}/.well-known/did.json", host.replace("%3A", ":")),
            None => format!("{}/{did}", network.plc_url()),
        };
        let response = self.get(&url).await.map_err(failure)?;
        match response.status().as_u16() {
            200 => Ok(response.json().await.unwrap()),
            410 => Err(Outcome::Inactive("deleted")),
            status => Err(refusal(status)),
        }
    }

    /// A repository, read as often as it takes.
    async fn read(&self, network: &Network, did: &str) -> Outcome {
        let mut tries = 0..15;
        loop {
            match self.read_once(network, did).await {
                Ok(repository) => return Outcome::Read(repository),
                Err(Outcome::Again) if tries.next().is_some() => {}
                Err(Outcome::Again) => return Outcome::Fails(Failure::Server),
                Err(other) => return other,
            }
        }
    }

    async fn read_once(&self, network: &Network, did: &str) -> Result<Repository, Outcome> {
        let document = self.document(network, did).await?;
        let pds = document["service"][0]["serviceEndpoint"].as_str().unwrap();
        let url = format!("{pds}/xrpc/com.atproto.sync.getRepo?did={}", quoted(did));
        let mut response = self.get(&url).await.map_err(failure)?;
        let status = response.status().as_u16();
        if status == 400 {
            let body: Json = response.json().await.unwrap();
            let after = self.document(network, did).await?;
            return Err(match body["error"].as_str().unwrap() {
                _ if after["service"] != document["service"] => Outcome::Again,
                "RepoNotFound" => Outcome::Inactive("deleted"),
                "RepoTakendown" => Outcome::Inactive("takendown"),
                "RepoSuspended" => Outcome::Inactive("suspended"),
                "RepoDeactivated" => Outcome::Inactive("deactivated"),
                other => panic!("{other}"),
            });
        }
        if status != 200 {
            return Err(refusal(status));
        }
        let mut bytes = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(failure)? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > 20_000_000 {
                return Err(Outcome::Fails(Failure::Hostile));
            }
        }
        let keys = self.keys(network, did, &document).await;
        reader::repository(&bytes, did, &keys).map_err(Outcome::Fails)
    }

    /// The keys that an account has and had.
    async fn keys(&self, network: &Network, did: &str, document: &Json) -> Vec<String> {
        let key = &document["verificationMethod"][0]["publicKeyMultibase"];
        let mut keys = vec![key.as_str().unwrap().to_owned()];
        if did.starts_with("did:plc:") {
            let (_, log) = self
                .json(&format!("{}/{did}/log/audit", network.plc_url()))
                .await;
            let log = log.as_array().unwrap().iter();
            let logged = log.map(|entry| &entry["operation"]["verificationMethods"]["atproto"]);
            let logged = logged.filter_map(|key| key.as_str()?.strip_prefix("did:key:"));
            keys.extend(logged.map(str::to_owned));
        }
        keys
    }
}

/// What became of a repository.
#[derive(Debug)]
enum Outcome {
    Read(Repository),
    Fails(Failure),
    Inactive(&'static str),
    Again,
}

fn refusal(status: u16) -> Outcome {
    match status {
        301..=308 => Outcome::Fails(Failure::Redirected),
        503 => Outcome::Again,
        500 | 502 => Outcome::Fails(Failure::Server),
        other => panic!("HTTP {other}"),
    }
}

fn failure(error: reqwest::Error) -> Outcome {
    Outcome::Fails(match () {
        () if error.is_timeout() => Failure::TimedOut,
        () if error.is_body() || error.is_decode() => Failure::Truncated,
        () => Failure::Unreachable,
    })
}

/// Reads a repository and compares it with what is expected.
async fn compare(client: &Client, network: &Network, did: &str) {
    let read = client.read(network, did).await;
    let expected = network.expected(did).unwrap();
    let fault = network.fault(did);
    match (&read, &expected) {
        (Outcome::Read(repository), Expected::Records { rev, records }) => {
            assert_eq!(repository.rev, *rev, "{did} {fault:?}");
            let records = records.iter().map(|r| (r.path.clone(), r.cid.clone()));
            assert_eq!(
                repository.records,
                records.collect::<BTreeMap<_, _>>(),
                "{did}"
            );
        }
        (Outcome::Fails(read), Expected::Fails(expected)) => {
            assert_eq!(read, expected, "{did} {fault:?}");
        }
        (Outcome::Inactive(read), Expected::Inactive(expected)) => {
            assert_eq!(read, expected, "{did} {fault:?}");
        }
        _ => panic!("{did} {fault:?}: {read:?}, expected {expected:?}"),
    }
}

#[tokio::test]
async fn five_hundred_hosts_start_and_stop() {
    let start = Instant::now();
    let network = Network::start(Options {
        hosts: 500,
        repos: 5_000,
        ..options()
    });
    let network = network.unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    let client = Client::new();
    let urls: std::collections::HashSet<_> = network.host_urls().collect();
    assert_eq!(urls.len(), 500);
    for url in urls {
        let url = format!("{url}/xrpc/com.atproto.sync.listRepos?limit=1");
        let (status, page) = client.json(&url).await;
        assert_eq!((status, page["repos"].as_array().unwrap().len()), (200, 1));
    }
    let url = network.plc_url().to_owned();
    let start = Instant::now();
    drop(network);
    while client.get(&url).await.is_ok() {
        assert!(start.elapsed() < Duration::from_secs(5), "still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
