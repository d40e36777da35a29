//! A machine that a real systemd boots: a container of systemd-nspawn over the files of this machine, which sees all of them, writes to
//! none, and is gone in the end with all that was installed on it. Its network is this machine's.
#![allow(dead_code)]

pub mod listener;
pub mod package;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tokio::process::Child;
use tokio::time::{Instant, sleep};

use crate::installed::PATIENCE;
use listener::Listener;

/// The files: what is written lies in memory.
const OVERLAY: &str = r#"
    mount -t tmpfs tmpfs "$1" && cd "$1" && mkdir upper work root
    mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
    shift && exec systemd-nspawn --directory=root "$@"
"#;

/// Whether a program is there; if not, the test is skipped.
pub fn has(program: &str, install: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        let message = format!("skipped: no {program}: {install}");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}");
        eprintln!("{message}");
    }
    found
}

/// Whether the package can be made and such a machine booted; if not, the test is skipped.
pub fn can_be_had() -> bool {
    has("systemd-nspawn", "apt-get install systemd-container") && package::can_be_made()
}

/// As root, whoever runs the tests.
fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["--non-interactive", "--preserve-env=NOTIFY_SOCKET", program]);
    command
}

/// It is powered off without further ado when this is dropped.
pub struct Machine {
    /// What its first process is outside of it.
    leader: String,
    _nspawn: Child,
    _folder: tempfile::TempDir,
}

impl Machine {
    /// Boots it, with nothing enabled that this machine has enabled. It finds `packages` at `/opt/packages`.
    pub async fn boot(packages: &Path) -> Self {
        let (folder, listener) = (tempfile::tempdir().unwrap(), Listener::new());
        let mut command = as_root("unshare");
        command
            .args(["--mount", "bash", "-euc", OVERLAY, "bash"])
            .arg(folder.path())
            .args([
                "--boot",
                "--quiet",
                "--notify-ready=yes",
                "--link-journal=no",
            ])
            .arg(format!("--machine=penstock-{}", std::process::id()))
            .arg(format!("--bind-ro={}:/opt/packages", packages.display()))
            .arg("--tmpfs=/etc/systemd/system");
        if !Path::new("/run/systemd/system").exists() {
            // There is no systemd outside to tell of it.
            command.args(["--register=no", "--keep-unit"]);
        }
        command
            .args(["--", "--unit=basic.target"])
            .env("NOTIFY_SOCKET", listener.address())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let nspawn = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn();
        let heard = listener.hears_until("READY=1").await;
        let leader = heard
            .iter()
            .find_map(|said| said.strip_prefix("X_NSPAWN_LEADER_PID="));
        Self {
            leader: leader.expect("its first process").to_owned(),
            _nspawn: nspawn.unwrap(),
            _folder: folder,
        }
    }

    fn output(&self, script: &str) -> Output {
        let mut command = as_root("nsenter");
        command
            .args([
                "--target",
                &self.leader,
                "--all",
                "env",
                "--ignore-environment",
            ])
            .arg("PATH=/usr/sbin:/usr/bin:/sbin:/bin")
            .args(["bash", "-euc", script])
            .stdin(Stdio::null());
        command.output().unwrap()
    }

    /// What a script of root's prints there; it must end well.
    pub fn prints(&self, script: &str) -> String {
        let output = self.output(script);
        let said = String::from_utf8_lossy(&output.stderr);
        let journal = || self.output("journalctl --no-pager --lines=40").stdout;
        assert!(
            output.status.success(),
            "{script}: {said}\n{}",
            String::from_utf8_lossy(&journal())
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Installs the package.
    pub fn installs(&self) {
        self.prints("apt-get install --yes --quiet /opt/packages/penstock_*.deb");
    }

    /// What a command of penstock's prints, run as docs/systemd.md tells.
    pub fn penstock(&self, command: &str) -> String {
        self.prints(&format!(
            "cd / && runuser --user penstock -- penstock {command}"
        ))
    }

    /// Writes a file of root's there.
    pub fn writes(&self, path: &str, text: &str) {
        self.prints(&format!(
            "mkdir -p $(dirname {path})\ncat > {path} <<'END'\n{text}\nEND"
        ));
    }

    /// A property of one of its units.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.prints(&format!("systemctl show --property {name} --value {unit}"))
    }

    /// Waits until one is up again after so many restarts.
    pub async fn until_back(&self, unit: &str, restarts: u32) {
        let script =
            format!("systemctl show --property NRestarts --property ActiveState --value {unit}");
        let restarts = restarts.to_string();
        let back = |said: &str| {
            let words: Vec<&str> = said.split_whitespace().collect();
            words.contains(&"active") && words.contains(&restarts.as_str())
        };
        self.until(&script, back).await;
    }

    /// Waits until the worker has made all up to this number durable.
    pub async fn until_durable(&self, worker: u16, seq: u64) {
        let socket = match worker {
            0 => "penstock.sock".to_owned(),
            worker => format!("penstock-{worker}.sock"),
        };
        let script = format!(
            "curl --silent --unix-socket /var/lib/penstock/{socket} http://penstock/metrics | grep '^penstock_watermark_seq{{' || true"
        );
        let reached = |said: &str| {
            let at = said
                .rsplit_once(' ')
                .and_then(|(_, at)| at.parse::<f64>().ok());
            at.is_some_and(|at| at as u64 >= seq)
        };
        self.until(&script, reached).await;
    }

    /// Waits until such a script prints what it should.
    pub async fn until(&self, script: &str, is: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let printed = self.prints(script);
            if is(&printed) {
                return printed;
            }
            assert!(Instant::now() < deadline, "{script} prints: {printed}");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // All others of it end with its first process.
        let _ = as_root("kill").args(["-9", &self.leader]).status();
    }
}
