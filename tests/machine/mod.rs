//! A machine that a real systemd boots: a container of systemd-nspawn over the file system of this machine, which it does not write to. It
//! is gone in the end with all that was installed on it. Its network is this machine's.
#![allow(dead_code)]

pub mod listener;
pub mod package;

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tokio::process::Child;
use tokio::time::{Instant, sleep};

use crate::installed::PATIENCE;
use listener::Listener;

/// How long systemd-nspawn takes at most to clear up.
const CLEARING_UP: Duration = Duration::from_secs(5);
/// The files: what is written lies in memory.
const OVERLAY: &str = r#"
    mount -t tmpfs tmpfs "$1" && cd "$1" && mkdir upper work root
    mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
    shift && exec systemd-nspawn --directory=root "$@"
"#;

/// Whether a program is there; if not, the test is skipped.
pub fn has(program: &str, install: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
        || skips(&format!("no {program}: {install}"))
}

/// Says that a test is skipped; in CI it fails.
fn skips(why: &str) -> bool {
    let message = format!("skipped: {why}");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}");
    eprintln!("{message}");
    false
}

/// Whether the package can be made and such a machine booted; if not, the test is skipped.
pub fn can_be_had() -> bool {
    has("systemd-nspawn", "apt-get install systemd-container")
        && package::can_be_made()
        && obstacle().is_none_or(|why| skips(&why))
}

/// Why no machine boots here.
fn obstacle() -> Option<String> {
    let device = |path: &str| std::fs::metadata(path).map(|of| of.dev()).ok();
    let mut needed = ["/etc", "/usr", "/var/lib/dpkg"].into_iter();
    if let Some(apart) = needed.find(|path| device(path) != device("/")) {
        return Some(format!("{apart} is not in the file system of /"));
    }
    let mut mount = as_root("unshare");
    mount.args(["--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]);
    let tried = mount.output().map_err(|error| error.to_string());
    let why = match tried {
        Ok(tried) if tried.status.success() => return None,
        Ok(tried) => String::from_utf8_lossy(&tried.stderr).trim().to_owned(),
        Err(error) => error,
    };
    Some(format!("root's rights are needed, to mount: {why}"))
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
    nspawn: Child,
    _folder: tempfile::TempDir,
}

impl Machine {
    /// Boots it, with nothing enabled that this machine has enabled. It finds `packages` at `/opt/packages`.
    pub async fn boot(packages: &Path) -> Self {
        let (folder, listener) = (tempfile::tempdir().unwrap(), Listener::new());
        // It ends with this process, however that ends.
        let mut command = as_root("setpriv");
        command
            .args(["--pdeathsig", "KILL", "unshare", "--mount"])
            .args(["bash", "-euc", OVERLAY, "bash"])
            .arg(folder.path())
            .args([
                "--boot",
                "--quiet",
                "--notify-ready=yes",
                "--link-journal=no",
            ])
            .arg(format!("--machine=penstock-{}", std::process::id()))
            .arg(format!("--bind-ro={}:/opt/packages", packages.display()))
            .arg("--tmpfs=/etc/systemd/system")
            .args([
                "--bind-ro=/dev/null:/etc/fstab",
                "--bind-ro=/dev/null:/etc/crypttab",
            ]);
        if !Path::new("/run/systemd/system").exists() {
            // There is no systemd outside to tell of it.
            command.args(["--register=no", "--keep-unit"]);
        }
        command
            .args(["--", "--unit=basic.target"])
            .env("NOTIFY_SOCKET", listener.address())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut command = tokio::process::Command::from(command);
        let mut nspawn = command.kill_on_drop(true).spawn().unwrap();
        let heard = tokio::select! {
            heard = listener.hears_until("READY=1") => heard,
            ended = nspawn.wait() => panic!("systemd-nspawn ended: {ended:?}"),
        };
        let leader = heard
            .iter()
            .find_map(|said| said.strip_prefix("X_NSPAWN_LEADER_PID="));
        Self {
            leader: leader.expect("its first process").to_owned(),
            nspawn,
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
        // All others of it end with its first process, and then systemd-nspawn, which clears up.
        let _ = as_root("kill").args(["-9", &self.leader]).status();
        let deadline = Instant::now() + CLEARING_UP;
        while matches!(self.nspawn.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}
