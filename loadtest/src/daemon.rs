//! A daemon that is measured: a process of its own, what the system and its metrics say of it, its end.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How often a daemon is looked at.
pub(crate) const STEP: Duration = Duration::from_millis(50);
/// A daemon whose watermark stands still for so long has failed.
pub(crate) const STANDSTILL: Duration = Duration::from_secs(60);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// What a process used so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// Resident memory now, in bytes,
    pub resident: u64,
    /// and the highest.
    pub resident_max: u64,
    /// CPU seconds.
    pub cpu_seconds: f64,
}

/// A running daemon; it is killed when this is dropped.
pub(crate) struct Daemon(Child);

impl Daemon {
    /// Runs it over a stream with its store in `data` and these settings.
    pub fn start(
        penstock: &Path,
        data: &Path,
        url: &str,
        listen: SocketAddr,
        settings: &[(&str, &str)],
        set: &[String],
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(penstock);
        command
            .arg("run")
            .env("RELAY_URL", url)
            .envs(settings.iter().copied())
            .env("DATA_DIR", data)
            .env("HTTP_LISTEN", listen.to_string());
        for setting in set {
            command.args(["--set", setting]);
        }
        Self::spawn(&mut command)
    }

    /// Runs this command as it is.
    pub fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        let child = command.stdin(Stdio::null()).spawn();
        let program = command.get_program().display();
        Ok(Self(child.with_context(|| format!("starting {program}"))?))
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }

    /// Fails if it has ended.
    pub fn runs(&mut self) -> anyhow::Result<()> {
        match self.ended()? {
            Some(status) => bail!("the daemon ended early: {status}"),
            None => Ok(()),
        }
    }

    /// What it used so far.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        let pid = self.0.id().to_string();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let bytes = |name: &str| -> anyhow::Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            Ok(kib.with_context(|| format!("no {name} in /proc"))? * 1024)
        };
        Ok(Usage {
            resident: bytes("VmRSS:")?,
            resident_max: bytes("VmHWM:")?,
            cpu_seconds: cpu_seconds(&pid)?,
        })
    }

    /// `kill -9`, and gone.
    pub fn kill(&mut self) -> io::Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }

    /// SIGTERM; it must end with 0.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no process")?, Signal::TERM)?;
        let status = self.0.wait()?;
        if !status.success() {
            bail!("the daemon did not end well: {status}");
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Only after a failure is it still there.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// CPU seconds of a process, from its user and system time in hundredths of a second.
#[expect(clippy::cast_precision_loss, reason = "seconds for people")]
pub(crate) fn cpu_seconds(pid: &str) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|t| t.parse::<u64>().ok());
    Ok(ticks.sum::<u64>() as f64 / 100.0)
}

pub(crate) fn free_address() -> io::Result<SocketAddr> {
    std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}

/// A number of an exposition.
pub(crate) fn metric(text: &str, name: &str) -> Option<u64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    value.parse::<f64>().ok().map(|number| number as u64)
}

/// The answer to a GET.
pub(crate) fn get(listen: SocketAddr, path: &str) -> io::Result<String> {
    let stream = TcpStream::connect(listen)?;
    stream.set_read_timeout(Some(ANSWER))?;
    ask(stream, path)
}

/// The same on a Unix socket.
pub(crate) fn get_on(socket: &Path, path: &str) -> io::Result<String> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER))?;
    ask(stream, path)
}

fn ask(mut stream: impl Read + Write, path: &str) -> io::Result<String> {
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
