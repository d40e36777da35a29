//! Penstock as its users run it: the daemon, and the commands beside it or without it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use super::server::{Pds, Xrpc};

/// How long the daemon may take to catch up, and to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// An installation of Penstock: its data and its settings.
pub struct Penstock {
    home: TempDir,
    relay: String,
    plc: String,
    variables: Vec<(&'static str, String)>,
}

impl Penstock {
    /// With an empty store, which these variables choose, following all that the PDS has.
    pub fn of(pds: &Pds, variables: Vec<(&'static str, String)>) -> Self {
        let home = TempDir::new().expect("a temporary folder");
        // So that no file of the machine's configures it.
        File::create(home.path().join("penstock.toml")).expect("an empty configuration file");
        Self {
            home,
            relay: pds.url.replacen("http", "ws", 1),
            plc: pds.plc.clone(),
            variables,
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
        command.args(args).current_dir(self.home.path());
        command.env_clear().envs(
            ["PATH", "HOME", "TMPDIR"]
                .iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        );
        command
            .env("PENSTOCK_CONFIG", self.home.path().join("penstock.toml"))
            .env("RELAY_URL", &self.relay)
            .env("PLC_URL", "http://127.0.0.1:1")
            .env("PENSTOCK_RELAY__START", "oldest")
            .env("DATA_DIR", self.data())
            .env("HTTP_LISTEN", "127.0.0.1:0")
            .env("PLC_URL", &self.plc)
            .env("PENSTOCK_NET__ALLOW_PRIVATE", "true")
            .env("RUST_LOG", "info")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Where its store is.
    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// Starts the daemon.
    pub fn start(&self) -> Daemon {
        let log = self.home.path().join("penstock.log");
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log file");
        let child = self
            .command(&["run"])
            .stdout(file.try_clone().expect("the log file twice"))
            .stderr(file)
            .spawn()
            .expect("penstock starts");
        Daemon { child, log }
    }

    /// Writes a file beside its settings; gives its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    }

    /// The HTTP API on the daemon's socket.
    pub fn xrpc(&self) -> Xrpc {
        Xrpc::unix(&self.data().join("penstock.sock"))
    }

    /// The lines of JSON that a command prints, or why there are none.
    pub async fn try_lines(&self, args: &[&str]) -> Result<Vec<Value>, String> {
        let output = self
            .command(args)
            .output()
            .await
            .map_err(|error| error.to_string())?;
        let words = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(format!(
                "penstock {args:?} ended with {}: {words}",
                output.status
            ));
        }
        let text = String::from_utf8(output.stdout).map_err(|error| error.to_string())?;
        let parse =
            |line: &str| serde_json::from_str(line).map_err(|error| format!("{error}: {line}"));
        text.lines().map(parse).collect()
    }

    /// What the running daemon says of its ledger; null while it does not answer.
    pub async fn gaps_now(&self) -> Value {
        self.xrpc().path("/admin/gaps").await
    }

    /// What `penstock gaps` says, whether something is missing or not; null where it can't be asked.
    pub async fn gaps(&self) -> Value {
        let output = self.command(&["gaps", "--json"]).output().await;
        let output = output.expect("penstock starts");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// The lines of JSON that a command must print.
    pub async fn lines(&self, args: &[&str]) -> Vec<Value> {
        self.try_lines(args)
            .await
            .unwrap_or_else(|error| panic!("{error}"))
    }
}

/// A running daemon. It is killed, and its log shown, where a test fails.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Asks again and again until the answer is empty. What it says last is the failure, should the daemon end or time run out.
    pub async fn until<F>(&mut self, what: &str, mut open: F)
    where
        F: AsyncFnMut() -> Vec<String>,
    {
        let deadline = Instant::now() + PATIENCE;
        let mut ticks = interval(Duration::from_millis(100));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = vec!["nothing was asked yet".to_owned()];
        loop {
            ticks.tick().await;
            match timeout_at(deadline, open()).await {
                Ok(answer) if answer.is_empty() => return,
                Ok(answer) => last = answer,
                Err(_) => panic!("not within {PATIENCE:?}: {what}\n{}", last.join("\n")),
            }
            if let Some(status) = self.child.try_wait().expect("its status") {
                panic!(
                    "penstock ended with {status} before: {what}\n{}",
                    last.join("\n")
                );
            }
        }
    }

    /// SIGTERM; it must end with 0.
    pub async fn stop(mut self) {
        let id = self
            .child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .expect("it runs");
        let process = rustix::process::Pid::from_raw(id).expect("a process id");
        rustix::process::kill_process(process, rustix::process::Signal::TERM).expect("a signal");
        let status = timeout_at(Instant::now() + PATIENCE, self.child.wait())
            .await
            .expect("penstock ends at SIGTERM")
            .expect("its exit status");
        assert!(status.success(), "penstock ended with {status} at SIGTERM");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of penstock ends with:\n{}", tail(&self.log));
        }
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
