//! Penstock as its users run it against a simulated relay: the binary, its data, its signals, its answers.
#![allow(dead_code)]

pub mod backend;
pub mod truth;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use backend::{Backend, Embedded};
use penstock::store::Store;
use penstock_loadtest::RelayServer;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// Longer than anything that ends well takes.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A number from the environment, as tests are scaled and seeded.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Data and settings of one Penstock.
pub struct Installation {
    binary: PathBuf,
    home: TempDir,
    data: PathBuf,
    backend: Arc<dyn Backend>,
    variables: Vec<(String, String)>,
}

/// How a command ended.
pub struct Ended {
    pub code: Option<i32>,
    pub out: Vec<u8>,
    pub words: String,
}

impl Installation {
    /// With an empty store, following all that the relay has; impatient, so that tests are quick.
    pub fn new(relay: &RelayServer) -> Self {
        Self::following(&relay.url())
    }

    /// The same by the relay's address.
    pub fn following(relay: &str) -> Self {
        Self::over(&(Arc::new(Embedded) as Arc<dyn Backend>), relay)
    }

    /// The same over a store of any kind.
    pub fn over(backend: &Arc<dyn Backend>, relay: &str) -> Self {
        let home = TempDir::new().expect("a temporary folder");
        // So that no file of the machine's configures it.
        File::create(home.path().join("penstock.toml")).expect("an empty configuration file");
        let data = home.path().join("data");
        let mut installation = Self {
            binary: env!("CARGO_BIN_EXE_penstock").into(),
            home,
            data,
            backend: backend.clone(),
            variables: Vec::new(),
        };
        for (name, value) in backend.variables() {
            installation.set(name, &value);
        }
        installation
            .with("RELAY_URL", relay)
            // Nobody is asked about the DIDs of a simulation.
            .with("PLC_URL", "http://127.0.0.1:1")
            .with("PENSTOCK_RELAY__START", "oldest")
            .with("HTTP_LISTEN", "127.0.0.1:0")
            .with("RUST_LOG", "info")
            .with("PENSTOCK_RELAY__BACKOFF_MIN", "1ms")
            .with("PENSTOCK_RELAY__BACKOFF_MAX", "50ms")
    }

    /// Of this binary, not of the one that is tested.
    pub fn of(mut self, binary: &Path) -> Self {
        binary.clone_into(&mut self.binary);
        self
    }

    /// With its data elsewhere.
    pub fn in_folder(mut self, data: &Path) -> Self {
        data.clone_into(&mut self.data);
        self
    }

    /// With a variable set.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    /// Sets a variable for what is started from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.retain(|(other, _)| other != name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Sets a variable no more.
    pub fn unset(&mut self, name: &str) {
        self.variables.retain(|(other, _)| other != name);
    }

    /// Puts another configuration file in the place of its own, which nobody sees half written.
    pub fn configure(&self, text: &str) {
        let file = self.home.path().join("penstock.toml");
        let beside = self.home.path().join("penstock.toml.new");
        std::fs::write(&beside, text).expect("a file");
        std::fs::rename(&beside, &file).expect("its place");
    }

    /// The embedded store, and the socket beside it.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Its store, opened from this process while no daemon runs; `None` where none was made yet.
    pub async fn store(&self) -> Option<Arc<dyn Store>> {
        self.backend.open(&self.data).await
    }

    pub fn socket(&self) -> PathBuf {
        let variable = "PENSTOCK_HTTP__SOCKET";
        if let Some(path) = self.variable(variable) {
            return path.into();
        }
        let name = match self.variable("WORKER_ID") {
            None | Some("0") => "penstock.sock".to_owned(),
            Some(id) => format!("penstock-{id}.sock"),
        };
        self.data.join(name)
    }

    fn variable(&self, name: &str) -> Option<&str> {
        let set = self.variables.iter().find(|(other, _)| other == name);
        set.map(|(_, value)| value.as_str())
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        let kept = ["PATH", "HOME", "TMPDIR"];
        command.args(args).current_dir(self.home.path()).env_clear();
        command.envs(
            kept.iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        );
        command
            .env("PENSTOCK_CONFIG", self.home.path().join("penstock.toml"))
            .env("DATA_DIR", &self.data)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs a command to its end.
    pub async fn run(&self, args: &[&str]) -> Ended {
        let running = timeout(PATIENCE, self.command(args).output());
        let output = running.await.expect("it ends").expect("it runs");
        Ended {
            code: output.status.code(),
            out: output.stdout,
            words: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What a command prints; it must end well.
    pub async fn prints(&self, args: &[&str]) -> Vec<u8> {
        let ended = self.run(args).await;
        assert_eq!(ended.code, Some(0), "penstock {args:?}: {}", ended.words);
        ended.out
    }

    /// Starts the daemon.
    pub fn start(&self) -> Daemon {
        self.spawn(&mut self.command(&["run"]))
    }

    /// Starts the daemon by a command.
    pub fn spawn(&self, command: &mut Command) -> Daemon {
        let number = std::fs::read_dir(self.home.path()).map_or(0, Iterator::count);
        let log = self.home.path().join(format!("{number}.log"));
        let file = File::create(&log).expect("a log file");
        let child = command
            .stdout(file.try_clone().expect("the log file twice"))
            .stderr(file)
            .spawn()
            .expect("penstock starts");
        Daemon {
            child,
            log,
            socket: self.socket(),
        }
    }
}

/// A running daemon. It is killed, and the end of its log shown, where a test fails.
pub struct Daemon {
    child: Child,
    log: PathBuf,
    socket: PathBuf,
}

impl Daemon {
    /// All that it said so far.
    pub fn words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Its lines with this message, as JSON.
    pub fn lines(&self, message: &str) -> Vec<Value> {
        lines(&self.log, message)
    }

    /// The file of what it says.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Waits until it says this, and gives the line.
    pub async fn until_says(&mut self, message: &str) -> Value {
        self.until_line(message, |_| true).await
    }

    /// Waits until it has said this in such a line, and gives the first one.
    pub async fn until_line(&mut self, message: &str, is: impl Fn(&Value) -> bool) -> Value {
        let log = self.log.clone();
        let line = || lines(&log, message).into_iter().find(|line| is(line));
        self.until(message, async || line().is_some()).await;
        line().expect("the line")
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("its status")
    }

    /// Waits until something holds while it runs.
    pub async fn until(&mut self, what: &str, condition: impl AsyncFnMut() -> bool) {
        if let Some(status) = self.ends_or(what, condition).await {
            panic!("penstock ended with {status} before: {what}");
        }
    }

    /// Waits until something holds (`None`), or the daemon has ended.
    pub async fn ends_or(
        &mut self,
        what: &str,
        mut condition: impl AsyncFnMut() -> bool,
    ) -> Option<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        let mut ticks = interval(Duration::from_millis(5));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if condition().await {
                return None;
            }
            if let Some(status) = self.ended() {
                return Some(status);
            }
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        }
    }

    /// Waits until all up to this number is durable.
    pub async fn until_durable(&mut self, seq: u64) {
        let socket = self.socket.clone();
        let durable = async || watermark(&socket).await.is_some_and(|at| at >= seq);
        self.until(&format!("a watermark of {seq}"), durable).await;
    }

    /// The number up to which all is durable.
    pub async fn watermark(&self) -> Option<u64> {
        watermark(&self.socket).await
    }

    /// The first sample of its metrics that begins so.
    pub async fn metric(&self, sample: &str) -> Option<f64> {
        metric(&get(&self.socket, "/metrics").await?, sample)
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Waits until it serves HTTP, and gives its address.
    pub async fn address(&mut self) -> String {
        let line = self.until_says("serving HTTP").await;
        format!("http://{}", line["address"].as_str().expect("an address"))
    }

    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.id()).ok();
        let id = id.and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(id.expect("it runs"), signal).expect("a signal");
    }

    /// `kill -9`, and gone.
    pub async fn kill(mut self) {
        // It may have ended by itself.
        let _ = self.child.start_kill();
        self.wait().await;
    }

    /// Waits for its end.
    pub async fn wait(&mut self) -> ExitStatus {
        let ended = timeout(PATIENCE, self.child.wait()).await;
        ended.expect("penstock ends").expect("its exit status")
    }

    /// SIGTERM; it must end with 0.
    pub async fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.wait().await;
        assert!(status.success(), "penstock ended with {status} at SIGTERM");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let words = self.words();
            let lines: Vec<&str> = words.lines().collect();
            let last = &lines[lines.len().saturating_sub(40)..];
            eprintln!("the log of penstock ends with:\n{}", last.join("\n"));
        }
    }
}

fn lines(log: &Path, message: &str) -> Vec<Value> {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let parse = |line: &str| serde_json::from_str::<Value>(line).ok();
    let lines = text.lines().filter_map(parse);
    lines.filter(|line| line["message"] == message).collect()
}

/// The body of a GET on a Unix socket, if it is answered with 200.
pub async fn get(socket: &Path, path: &str) -> Option<String> {
    // The client panics without a provider; a second choice is refused and harmless.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().unix_socket(socket).build();
    let request = client
        .expect("an HTTP client")
        .get(format!("http://penstock{path}"));
    let answer = request.timeout(PATIENCE).send().await.ok()?;
    (answer.status() == 200)
        .then_some(answer)?
        .text()
        .await
        .ok()
}

async fn watermark(socket: &Path) -> Option<u64> {
    let metrics = get(socket, "/metrics").await?;
    metric(&metrics, "penstock_watermark_seq{").map(|seq| seq as u64)
}

/// The value of the first sample that begins so.
pub fn metric(text: &str, sample: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with(sample))?;
    line.rsplit_once(' ')?.1.parse().ok()
}
