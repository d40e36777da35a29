//! The listeners: who may open the Unix socket, what is replaced and what not, how connections end.

mod http;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{ALICE, Site, put};
use penstock::api::client::{Client, ClientError};
use penstock::api::server::{SOCKET_PATH_MAX, SocketError, is_live};
use penstock::api::{Tokens, UnixSocket, serve_tcp, serve_unix};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const POST: &str = "app.bsky.feed.post";
/// Far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

struct Served {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Served {
    async fn unix(site: &Site, path: &Path) -> Self {
        let socket = UnixSocket::bind(path).await.unwrap();
        let (router, stop) = (site.router.clone(), CancellationToken::new());
        let task = tokio::spawn(socket.serve(router, stop.clone()));
        Self { stop, task }
    }

    async fn tcp(site: &Site) -> (Self, std::net::SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (router, stop) = (site.router.clone(), CancellationToken::new());
        let task = tokio::spawn(serve_tcp(listener, router, stop.clone()));
        (Self { stop, task }, address)
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .unwrap()
            .unwrap();
    }
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("penstock.sock");
    (dir, path)
}

#[tokio::test]
async fn the_unix_socket_is_the_owners_and_needs_no_token() {
    let (_dir, path) = place();
    let site = Site::new().await;
    put(&*site.store, ALICE, POST, "a", 1, &json!({"n": 1})).await;
    let served = Served::unix(&site, &path).await;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let client = Client::socket(&path).unwrap();
    let local = Client::local(site.router.clone());
    for client in [&client, &local] {
        let answer = client
            .get("/admin/records", &[("did", ALICE)])
            .await
            .unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["records"][0]["value"], json!({"n": 1}));
        let refused = client
            .get("/admin/repos", &[("limit", "0")])
            .await
            .unwrap_err();
        assert!(
            matches!(refused, ClientError::Refused { status: 400, .. }),
            "{refused}"
        );
        for item in ["..", "", "a/b?c", "%2f"] {
            let missing = client
                .get_item("/admin/quarantine", item)
                .await
                .unwrap_err();
            assert!(
                matches!(missing, ClientError::Refused { status: 404, .. }),
                "{missing}"
            );
        }
    }
    served.end().await;
    assert!(!path.exists(), "removed at shutdown");
    let gone = client.get("/healthz", &[]).await.unwrap_err();
    assert!(matches!(gone, ClientError::Unreachable(_)), "{gone}");
}

#[tokio::test]
async fn a_dead_daemons_socket_is_replaced_and_a_living_ones_is_not() {
    let (_dir, path) = place();
    assert!(!is_live(&path).await.unwrap());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists() && !is_live(&path).await.unwrap());

    let site = Site::new().await;
    let served = Served::unix(&site, &path).await;
    assert!(is_live(&path).await.unwrap());
    let second = UnixSocket::bind(&path).await.unwrap_err();
    assert!(matches!(second, SocketError::InUse(_)), "{second}");
    let stop = CancellationToken::new();
    assert!(serve_unix(&path, site.router.clone(), stop).await.is_err());
    let client = Client::socket(&path).unwrap();
    client.get("/healthz", &[]).await.unwrap();
    served.end().await;
}

#[tokio::test]
async fn what_is_not_ours_stays() {
    let (dir, path) = place();
    std::fs::write(&path, "precious").unwrap();
    let error = UnixSocket::bind(&path).await.unwrap_err();
    assert!(matches!(error, SocketError::NotASocket(_)), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    std::fs::remove_file(&path).unwrap();

    // The file of a successor at the same path outlives its predecessor.
    let first = UnixSocket::bind(&path).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let second = UnixSocket::bind(&path).await.unwrap();
    drop(first);
    assert!(path.exists());
    drop(second);
    assert!(!path.exists());

    let missing = dir.path().join("no/such/folder.sock");
    let error = UnixSocket::bind(&missing).await.unwrap_err();
    assert!(error.to_string().contains("no/such"), "{error}");
}

#[tokio::test]
async fn the_length_of_the_path_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let room = SOCKET_PATH_MAX - dir.path().as_os_str().len() - 1;
    let longest = dir.path().join("s".repeat(room));
    UnixSocket::bind(&longest).await.unwrap();
    let error = UnixSocket::bind(&dir.path().join("s".repeat(room + 1)))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("http.socket"), "{error}");
    assert!(matches!(error, SocketError::TooLong { len, max, .. } if len == max + 1));
}

#[tokio::test]
async fn tcp_asks_for_tokens_and_ends_with_the_daemon() {
    let site = Site::strangers(Tokens::new(Some("secret"), None)).await;
    let (served, address) = Served::tcp(&site).await;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::new();
    let url = format!("http://{address}/admin/repos");
    assert_eq!(client.get(&url).send().await.unwrap().status(), 401);
    let answer = client.get(&url).bearer_auth("secret").send().await.unwrap();
    assert_eq!(answer.status(), 200);

    // A request whose body never comes, and one that never asks: neither holds the shutdown up.
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(b"POST /admin/quarantine/retry HTTP/1.1\r\nhost: x\r\nx-api-key: secret\r\ncontent-length: 10\r\n\r\n{")
        .await
        .unwrap();
    let mut silent = TcpStream::connect(address).await.unwrap();
    served.end().await;
    let mut rest = Vec::new();
    let read = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut rest)).await;
    assert!(read.is_ok(), "the connection is closed");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_before_it_is_read() {
    let site = Site::strangers(Tokens::new(Some("secret"), None)).await;
    let (served, address) = Served::tcp(&site).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"POST /admin/quarantine/retry HTTP/1.1\r\nhost: x\r\nx-api-key: secret\r\ncontent-length: 1000000000\r\n\r\n")
        .await
        .unwrap();
    let mut head = [0; 12];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut head))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&head, b"HTTP/1.1 413");
    served.end().await;
}

#[tokio::test]
async fn slow_heads_are_dropped_and_make_room() {
    let site = Site::new().await;
    let (served, address) = Served::tcp(&site).await;
    let mut slow = Vec::new();
    for _ in 0..256 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /healthz HT").await.unwrap();
        slow.push(stream);
    }
    // All places are taken: this one is answered once the slow ones have been dropped.
    let mut waiting = TcpStream::connect(address).await.unwrap();
    waiting
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut head = [0; 12];
    tokio::time::timeout(PATIENCE, waiting.read_exact(&mut head))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    let mut rest = Vec::new();
    let dropped = slow.pop().unwrap().read_to_end(&mut rest).await;
    assert!(dropped.is_err() || !rest.starts_with(b"HTTP/1.1 200"));
    served.end().await;
}
