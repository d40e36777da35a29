//! The real PDS: its installation, its process, and XRPC as both it and Penstock speak it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin};

/// How long the PDS may take to answer at start, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the PDS is installed; `None`, and a word on how to get it, where it can't be. In CI that is a failure.
pub fn installation(test: &str) -> Option<&'static Path> {
    static INSTALLED: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match INSTALLED.get_or_init(install) {
        Ok(dir) => Some(dir),
        Err(why) => {
            let message = format!(
                "SKIPPED {test}: {why}\n  It needs Node 20 or later, npm, and at first the network. Run it by: \
                 tests/pds/install && cargo test --test pds\n"
            );
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}");
            // Around the harness, which hides what passing tests print.
            let _ = std::io::stderr().write_all(message.as_bytes());
            None
        }
    }
}

fn install() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let dir = root.join(target).join("pds");
    let output = Command::new(root.join("tests/pds/install"))
        .arg(&dir)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("tests/pds/install did not start: {error}"))?;
    if output.status.success() {
        return Ok(dir);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} ({})", words.trim(), output.status))
}

/// An answer that is not 2xx.
#[derive(Debug)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// `{"error","message"}`, or the text where it is no JSON.
    pub body: Value,
}

/// An XRPC client of one host.
#[derive(Clone)]
pub struct Xrpc {
    http: reqwest::Client,
    base: String,
}

impl Xrpc {
    /// Of a host by its URL.
    pub fn tcp(base: &str) -> Self {
        Self::of(client(), base)
    }

    /// Of a host that listens on a Unix socket.
    pub fn unix(socket: &Path) -> Self {
        Self::of(client().unix_socket(socket), "http://penstock")
    }

    fn of(client: reqwest::ClientBuilder, base: &str) -> Self {
        Self {
            http: client.build().expect("an HTTP client"),
            base: base.to_owned(),
        }
    }

    /// A query, or how it was refused.
    pub async fn ask(&self, nsid: &str, params: &[(&str, &str)]) -> Result<Value, Refusal> {
        self.send(
            self.http
                .get(format!("{}/xrpc/{nsid}", self.base))
                .query(params),
        )
        .await
    }

    /// A query that must succeed.
    pub async fn get(&self, nsid: &str, params: &[(&str, &str)]) -> Value {
        self.ask(nsid, params)
            .await
            .unwrap_or_else(|refusal| panic!("{} {nsid} {params:?}: {refusal:?}", self.base))
    }

    /// What another path answers; null where nobody does.
    pub async fn path(&self, path: &str) -> Value {
        let answer = self.http.get(format!("{}{path}", self.base)).send().await;
        match answer {
            Ok(answer) => answer.json().await.unwrap_or_default(),
            Err(_) => Value::Null,
        }
    }

    /// Sends JSON to another path.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Refusal> {
        self.send(self.http.post(format!("{}{path}", self.base)).json(body))
            .await
    }

    /// All records of a collection in the order of the pages.
    pub async fn list_records(&self, repo: &str, collection: &str, reverse: bool) -> Vec<Value> {
        let mut records = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut params = vec![("repo", repo), ("collection", collection), ("limit", "40")];
            if reverse {
                params.push(("reverse", "true"));
            }
            if let Some(cursor) = &cursor {
                params.push(("cursor", cursor));
            }
            let page = self.get("com.atproto.repo.listRecords", &params).await;
            records.extend(page["records"].as_array().expect("records").iter().cloned());
            match page["cursor"].as_str() {
                Some(next) if cursor.as_deref() != Some(next) => cursor = Some(next.to_owned()),
                Some(same) => panic!("the cursor {same} of {repo} {collection} repeats"),
                None => return records,
            }
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Value, Refusal> {
        let response = request.send().await.expect("an answer");
        let status = response.status();
        let text = response.text().await.expect("a body");
        let body = match text.as_str() {
            "" => Value::Null,
            text => serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)),
        };
        if status.is_success() {
            Ok(body)
        } else {
            Err(Refusal {
                status: status.as_u16(),
                body,
            })
        }
    }
}

fn client() -> reqwest::ClientBuilder {
    static TLS: OnceLock<()> = OnceLock::new();
    TLS.get_or_init(|| {
        // reqwest wants a provider even where nothing is encrypted; another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    reqwest::Client::builder().no_proxy().timeout(PATIENCE)
}

/// A running PDS with its PLC directory. It ends when this is dropped.
pub struct Pds {
    /// Its public API.
    pub xrpc: Xrpc,
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    /// URL of the PLC directory.
    pub plc: String,
    admin_password: String,
    child: Child,
    stdin: ChildStdin,
}

impl Pds {
    /// Starts one with empty folders, on ports of its own.
    pub async fn start(installation: &Path) -> Self {
        Self::start_as(installation, 0, Duration::from_secs(86_400)).await
    }

    /// Starts one with empty folders on this port (0: a free one), whose stream goes back by so much.
    pub async fn start_as(installation: &Path, port: u16, serves: Duration) -> Self {
        let args = [port.to_string(), serves.as_millis().to_string()];
        Self::spawn(installation, &args).await
    }

    /// Starts another one with empty folders, whose accounts are in the same PLC directory.
    pub async fn start_beside(&self, installation: &Path) -> Self {
        let args = ["0".to_owned(), "86400000".to_owned(), self.plc.clone()];
        Self::spawn(installation, &args).await
    }

    async fn spawn(installation: &Path, args: &[String]) -> Self {
        let mut child = tokio::process::Command::new("node")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pds/serve.mjs"))
            .arg(installation)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node starts");
        let stdin = child.stdin.take().expect("its standard input");
        let mut lines = BufReader::new(child.stdout.take().expect("its standard output")).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line())
            .await
            .expect("the PDS answers in time")
            .expect("its standard output can be read")
            .expect("the PDS says where it listens before it ends");
        let ready: Value = serde_json::from_str(&line).expect("a line of JSON");
        let text = |key: &str| ready[key].as_str().expect(key).to_owned();
        Self {
            xrpc: Xrpc::tcp(&text("pds")),
            url: text("pds"),
            plc: text("plc"),
            admin_password: text("adminPassword"),
            child,
            stdin,
        }
    }

    /// The port of its URL.
    pub fn port(&self) -> u16 {
        let port = self.url.rsplit(':').next();
        port.and_then(|port| port.parse().ok()).expect("a port")
    }

    /// Where DID documents say that it is.
    pub fn origin(&self) -> String {
        format!("http://localhost:{}", self.port())
    }

    /// A query in the name of an account.
    pub async fn query(&self, nsid: &str, token: &str, params: &[(&str, &str)]) -> Value {
        let request = self.xrpc.http.get(format!("{}/xrpc/{nsid}", self.url));
        self.run(nsid, request.bearer_auth(token).query(params))
            .await
    }

    /// A repository as its CAR.
    pub async fn repository(&self, did: &str) -> Vec<u8> {
        let nsid = "com.atproto.sync.getRepo";
        let request = self.xrpc.http.get(format!("{}/xrpc/{nsid}", self.url));
        let answer = request.query(&[("did", did)]).send().await;
        let answer = answer.expect("an answer").error_for_status();
        answer
            .expect("a CAR")
            .bytes()
            .await
            .expect("a body")
            .to_vec()
    }

    /// Takes a repository in.
    pub async fn import(&self, token: &str, car: Vec<u8>) {
        let nsid = "com.atproto.repo.importRepo";
        let request = self.procedure(nsid).bearer_auth(token);
        let request = request.header("content-type", "application/vnd.ipld.car");
        self.run(nsid, request.body(car)).await;
    }

    /// A procedure in the name of an account.
    pub async fn post(&self, nsid: &str, token: &str, body: &Value) -> Value {
        let request = self.procedure(nsid).json(body);
        self.run(
            nsid,
            if token.is_empty() {
                request
            } else {
                request.bearer_auth(token)
            },
        )
        .await
    }

    /// A procedure without input.
    pub async fn call(&self, nsid: &str, token: &str) {
        self.run(nsid, self.procedure(nsid).bearer_auth(token))
            .await;
    }

    /// A procedure in the name of the PDS's operator.
    pub async fn administer(&self, nsid: &str, body: &Value) -> Value {
        let request = self.procedure(nsid).json(body);
        self.run(
            nsid,
            request.basic_auth("admin", Some(&self.admin_password)),
        )
        .await
    }

    /// Uploads bytes; gives the blob as records refer to it.
    pub async fn upload(&self, token: &str, mime: &str, bytes: &'static [u8]) -> Value {
        let nsid = "com.atproto.repo.uploadBlob";
        let request = self.procedure(nsid).bearer_auth(token);
        let request = request.header("content-type", mime).body(bytes);
        self.run(nsid, request).await["blob"].clone()
    }

    fn procedure(&self, nsid: &str) -> reqwest::RequestBuilder {
        self.xrpc.http.post(format!("{}/xrpc/{nsid}", self.url))
    }

    async fn run(&self, nsid: &str, request: reqwest::RequestBuilder) -> Value {
        let answer = self.xrpc.send(request).await;
        answer.unwrap_or_else(|refusal| panic!("the PDS refused {nsid}: {refusal:?}"))
    }

    /// Ends it. It fails if the PDS had tried to reach beyond loopback.
    pub async fn stop(self) {
        let Self {
            mut child, stdin, ..
        } = self;
        drop(stdin);
        let status = tokio::time::timeout(PATIENCE, child.wait())
            .await
            .expect("the PDS ends when its standard input is closed")
            .expect("its exit status");
        assert!(status.success(), "the PDS ended with {status}");
    }
}
