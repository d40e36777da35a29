//! A real Cassandra of one or three nodes (see tests/cql/cluster), or the cluster that a person names in `SCYLLA_NODES`.
#![allow(dead_code, reason = "each test binary that includes this uses a part")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use serde_json::Value;

/// A running cluster. One of our own ends, and its data with it, when this is dropped or this process ends in any way.
#[derive(Debug)]
pub struct Cluster {
    /// `host:port` of each node; where a method takes a node's number, 1 is the first.
    pub nodes: Vec<String>,
    /// The authority (PEM) of the encrypted port.
    pub ca: Option<PathBuf>,
    /// Where each of the nodes speaks CQL over TLS.
    pub ssl_port: Option<u16>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    /// Where it lives; none for a person's.
    home: Option<tempfile::TempDir>,
}

impl Cluster {
    /// An own cluster of one or three nodes; `None`, and a word on how to get it, where it can't be. In CI that is a failure.
    pub async fn start(test: &str, nodes: usize) -> Option<Self> {
        let name = test.to_owned();
        blocking(move || installation(&name).map(|jars| Self::start_own(jars, nodes, "quick")))
            .await
    }

    /// A cluster to measure on: that of `SCYLLA_NODES`, else an own node that compiles as in production. `None` as for
    /// [`Cluster::start`].
    pub fn for_speed(benchmark: &str) -> Option<Self> {
        if let Ok(nodes) = std::env::var("SCYLLA_NODES") {
            return Some(Self::of_a_person(&nodes));
        }
        installation(benchmark).map(|jars| Self::start_own(jars, 1, "full"))
    }

    /// The cluster of this test process: one node, started at the first call, or that of `SCYLLA_NODES` (host or host:port,
    /// comma separated; with `SCYLLA_USER` and `SCYLLA_PASSWORD_FILE`). `None` as for [`Cluster::start`].
    pub async fn shared(test: &str) -> Option<&'static Self> {
        let name = test.to_owned();
        blocking(move || Self::shared_blocking(&name)).await
    }

    /// As [`Cluster::shared`], outside of a runtime.
    pub fn shared_blocking(test: &str) -> Option<&'static Self> {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        if let Ok(nodes) = std::env::var("SCYLLA_NODES") {
            return Some(SHARED.get_or_init(|| Self::of_a_person(&nodes)));
        }
        let jars = installation(test)?;
        Some(SHARED.get_or_init(|| Self::start_own(jars, 1, "quick")))
    }

    fn of_a_person(nodes: &str) -> Self {
        let with_port = |node: &str| match node.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => node.to_owned(),
            _ => format!("{node}:9042"),
        };
        Self {
            nodes: nodes.split(',').map(str::trim).map(with_port).collect(),
            ca: None,
            ssl_port: None,
            user: std::env::var("SCYLLA_USER").ok(),
            password_file: std::env::var_os("SCYLLA_PASSWORD_FILE").map(PathBuf::from),
            home: None,
        }
    }

    fn start_own(jars: &Path, nodes: usize, jit: &str) -> Self {
        let home = tempfile::Builder::new()
            .prefix("penstock-cql-")
            .tempdir()
            .expect("a temporary folder");
        let (nodes, parent) = (nodes.to_string(), std::process::id().to_string());
        let mut command = script("start", home.path());
        command.args(["--nodes", &nodes, "--parent", &parent, "--jit", jit]);
        let line = output(command.arg("--jars").arg(jars));
        let ready: Value = serde_json::from_str(&line).expect("a line of JSON");
        let nodes = ready["nodes"].as_array().expect("nodes").iter();
        Self {
            nodes: nodes.map(|node| text(node).to_owned()).collect(),
            ca: Some(text(&ready["ca"]).into()),
            ssl_port: ready["ssl_port"].as_u64().and_then(|p| p.try_into().ok()),
            user: Some(text(&ready["user"]).to_owned()),
            password_file: Some(text(&ready["password_file"]).into()),
            home: Some(home),
        }
    }

    /// Whether this is a cluster of the tests' own, whose nodes may be killed.
    pub fn is_own(&self) -> bool {
        self.home.is_some()
    }

    /// The user to log in as, if the cluster asks for one.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The file that holds the user's password.
    pub fn password_file(&self) -> Option<&Path> {
        self.password_file.as_deref()
    }

    /// The user's password.
    pub fn password(&self) -> Option<String> {
        let file = self.password_file()?;
        let password = std::fs::read_to_string(file).expect("the password file");
        Some(password.trim_end().to_owned())
    }

    /// What sets a penstock process to this cluster.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![("SCYLLA_NODES", self.nodes.join(","))];
        variables.extend(self.user().map(|user| ("SCYLLA_USER", user.to_owned())));
        let file = self.password_file().and_then(Path::to_str);
        variables.extend(file.map(|file| ("SCYLLA_PASSWORD_FILE", file.to_owned())));
        variables
    }

    /// A keyspace's name that no other test, process or run has. The test makes and drops the keyspace.
    pub fn fresh_keyspace_name(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let now = SystemTime::UNIX_EPOCH
            .elapsed()
            .expect("a clock after 1970");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (seconds, process) = (now.as_secs(), std::process::id());
        format!("penstock_t{seconds}_{process}_{number}")
    }

    /// SIGKILL.
    pub async fn kill(&self, node: usize) {
        self.act("kill", &[node]).await;
    }

    /// Starts a node again, which is killed if it runs; returns when it answers.
    pub async fn restart(&self, node: usize) {
        self.act("restart", &[node]).await;
    }

    /// Starts several nodes again at once; returns when they answer. If all run then, each sees all others.
    pub async fn restart_all(&self, nodes: &[usize]) {
        self.act("restart", nodes).await;
    }

    /// SIGSTOP.
    pub async fn pause(&self, node: usize) {
        self.act("pause", &[node]).await;
    }

    /// SIGCONT.
    pub async fn resume(&self, node: usize) {
        self.act("resume", &[node]).await;
    }

    /// What nodetool prints about a node.
    pub async fn nodetool(&self, node: usize, arguments: &[&str]) -> String {
        let mut command = script("nodetool", self.home());
        command.arg(node.to_string()).args(arguments);
        blocking(move || output(&mut command)).await
    }

    /// What a node has written to its log; of a person's cluster nothing is known.
    pub fn log(&self, node: usize) -> String {
        let Some(home) = &self.home else {
            return String::new();
        };
        let log = home.path().join(format!("node{node}/log"));
        let bytes = std::fs::read(log).expect("the log of the node");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Flushes and then compacts all tables of a keyspace on all nodes. A person's cluster can't be told to.
    pub async fn flush_and_compact(&self, keyspace: &str) {
        if !self.is_own() {
            return;
        }
        for node in 1..=self.nodes.len() {
            self.nodetool(node, &["flush", keyspace]).await;
            self.nodetool(node, &["compact", keyspace]).await;
        }
    }

    async fn act(&self, verb: &str, nodes: &[usize]) {
        let mut command = script(verb, self.home());
        command.args(nodes.iter().map(usize::to_string));
        blocking(move || output(&mut command)).await;
    }

    fn home(&self) -> &Path {
        self.home
            .as_ref()
            .expect("a cluster of the tests' own, not that of SCYLLA_NODES")
            .path()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            let _ = script("stop", home.path()).stderr(Stdio::null()).status();
        }
    }
}

/// Where the server is installed; `None`, and a word on how to get it, where it can't be. In CI that is a failure.
fn installation(test: &str) -> Option<&'static Path> {
    static INSTALLED: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match INSTALLED.get_or_init(install) {
        Ok(dir) => Some(dir),
        Err(why) => {
            let message = format!(
                "SKIPPED {test}: {why}\n  It needs Java 17, Maven, Python 3, and at first the network. Run it by: \
                 tests/cql/install && cargo test {test}\n  or, on a cluster of yours: SCYLLA_NODES=host:port cargo test \
                 --test cql\n"
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
    let dir = root.join(target).join("cassandra");
    let output = Command::new(root.join("tests/cql/install"))
        .arg(&dir)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("tests/cql/install did not start: {error}"))?;
    if output.status.success() {
        return Ok(dir);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} ({})", words.trim(), output.status))
}

fn script(verb: &str, home: &Path) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cql/cluster"));
    command.arg(verb).arg(home).stdin(Stdio::null());
    command
}

/// What a command prints that must succeed.
fn output(command: &mut Command) -> String {
    let output = command.output().expect("tests/cql/cluster starts");
    let words = String::from_utf8_lossy(&output.stderr);
    let status = output.status;
    assert!(status.success(), "{command:?} ended with {status}\n{words}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

/// Off the runtime's threads, for a test's own tasks go on meanwhile.
async fn blocking<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(run).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
