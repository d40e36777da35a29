//! The daemons of a run: how they are started, killed, stopped, and what they say of themselves.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::slow_store::SlowStore;
use crate::daemon::{Daemon, Usage, get_on, metric};

/// The variable that sets a daemon to a cluster.
pub(super) const NODES: &str = "SCYLLA_NODES";
/// What starts every process of a run: the kernel kills it when this one ends, in whatever way.
pub(super) const LEASH: [&str; 3] = ["setpriv", "--pdeathsig", "KILL"];
/// Try again later: what a daemon says that waits for another one's lease.
const TRY_AGAIN: i32 = 75;
/// After so long.
const AGAIN: Duration = Duration::from_secs(1);

/// How penstock is started in a run.
pub(super) struct Installation {
    /// The binary.
    pub penstock: PathBuf,
    /// Its data, and its socket.
    pub data: PathBuf,
    /// Its log.
    pub log: PathBuf,
    /// What configures it.
    pub variables: Vec<(&'static str, OsString)>,
    /// Flags of `run`.
    pub set: Vec<String>,
    /// Over the cluster of `SCYLLA_NODES`, or, whatever that is, over the embedded store.
    pub cql: bool,
    /// What makes its store slow, if anything does.
    pub slow_store: Option<SlowStore>,
}

impl Installation {
    /// A command of worker 0's machine.
    pub fn command(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = on_leash();
        command.arg(&self.penstock).args(arguments);
        self.configure(&mut command)?;
        Ok(command)
    }

    fn start(&self, id: usize, count: u16) -> anyhow::Result<Daemon> {
        let mut command = on_leash();
        if let Some(slow) = &self.slow_store {
            slow.before(&mut command);
        }
        command.arg(&self.penstock).arg("run");
        command.args(self.set.iter().flat_map(|setting| ["--set", setting]));
        self.configure(&mut command)?;
        if let Some(slow) = &self.slow_store {
            slow.lead(&mut command);
        }
        command.env("WORKER_ID", id.to_string());
        command.env("WORKER_COUNT", count.to_string());
        Daemon::spawn(&mut command)
    }

    fn configure(&self, command: &mut Command) -> anyhow::Result<()> {
        let log = File::options().append(true).create(true).open(&self.log);
        let log = log.with_context(|| format!("opening {}", self.log.display()))?;
        command
            .env("DATA_DIR", &self.data)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            // A terminal's Ctrl-C is for the run alone, which then stops its processes in order.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if !self.cql {
            command.env_remove(NODES);
        }
        Ok(())
    }

    fn socket(&self, id: usize) -> PathBuf {
        self.data.join(match id {
            0 => "penstock.sock".to_owned(),
            id => format!("penstock-{id}.sock"),
        })
    }
}

fn on_leash() -> Command {
    let [program, flags @ ..] = LEASH;
    let mut command = Command::new(program);
    command.args(flags);
    command
}

/// What one process said last.
#[derive(Default, Clone, Copy)]
struct Seen {
    connected: bool,
    live: Option<u64>,
    replay: Option<u64>,
    /// Events that it decoded.
    events: u64,
    /// Times that its connection ended.
    reconnects: u64,
    usage: Usage,
}

impl Seen {
    /// Asks for what changes; what is not answered stays.
    fn renew(&mut self, daemon: &Daemon, socket: &Path) {
        if let Ok(usage) = daemon.usage() {
            self.usage = usage;
        }
        let Ok(text) = get_on(socket, "/metrics") else {
            return;
        };
        let watermark = |stream| {
            metric(
                &text,
                &format!("penstock_watermark_seq{{stream={stream:?}}}"),
            )
        };
        self.connected = sum(&text, "penstock_relay_connected") > 0;
        self.live = watermark("live").or(self.live);
        self.replay = watermark("replay").or(self.replay);
        let events = |kind| metric(&text, &format!("penstock_events_total{{type={kind:?}}}"));
        let kinds = ["commit", "sync", "identity", "account"];
        self.events = kinds.into_iter().filter_map(events).sum();
        self.reconnects = sum(&text, "penstock_relay_reconnects_total");
    }
}

/// The sum of a metric over its labels.
fn sum(text: &str, name: &str) -> u64 {
    let values = text.lines().filter_map(|line| {
        let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
        labels.starts_with('{').then(|| value.parse::<f64>().ok())?
    });
    values.sum::<f64>() as u64
}

struct Worker {
    id: usize,
    daemon: Option<Daemon>,
    /// When it is started, if it does not run.
    due: Instant,
    seen: Seen,
}

/// What all processes of a run did.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Totals {
    /// Events that they decoded; what one did between the last look and its death is not in it.
    pub events: u64,
    /// Times that a connection ended.
    pub reconnects: u64,
    /// CPU seconds.
    pub cpu_seconds: f64,
    /// Highest resident memory of one, in bytes.
    pub memory_max: u64,
    /// Processes that were started,
    pub starts: u64,
    /// that were killed by SIGKILL,
    pub kills: u64,
    /// and that ended by themselves because a lease was still held.
    pub waits: u64,
}

impl Totals {
    fn add(&mut self, seen: &Seen) {
        self.events += seen.events;
        self.reconnects += seen.reconnects;
        self.cpu_seconds += seen.usage.cpu_seconds;
        self.memory_max = self.memory_max.max(seen.usage.resident_max);
    }
}

/// Where all workers are.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Look {
    /// Whether each of them is connected.
    pub connected: bool,
    /// Up to which number each of them made the live stream durable,
    pub live: Option<u64>,
    /// and worker 0 the replay.
    pub replay: Option<u64>,
    /// Resident memory of the largest, in bytes.
    pub memory: u64,
}

/// All of them.
pub(super) struct Workers {
    pub installation: Installation,
    workers: Vec<Worker>,
    /// Of the processes that ended.
    ended: Totals,
}

impl Workers {
    /// None runs yet.
    pub fn new(installation: Installation) -> Self {
        Self {
            installation,
            workers: Vec::new(),
            ended: Totals::default(),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.workers.len()
    }

    /// Stops all, and starts so many.
    pub fn become_so_many(&mut self, count: u16) -> anyhow::Result<()> {
        self.stop()?;
        let now = Instant::now();
        let worker = |id| Worker {
            id,
            daemon: None,
            due: now,
            seen: Seen::default(),
        };
        self.workers = (0..usize::from(count)).map(worker).collect();
        self.tend()
    }

    /// Starts who is due. Fails if one has ended that should not have.
    pub fn tend(&mut self) -> anyhow::Result<()> {
        let count = self.workers.len() as u16;
        for worker in &mut self.workers {
            if let Some(daemon) = &mut worker.daemon
                && let Some(status) = daemon.ended()?
            {
                if status.code() != Some(TRY_AGAIN) {
                    bail!(
                        "worker {} ended by itself with {status}; see {}",
                        worker.id,
                        self.installation.log.display()
                    );
                }
                worker.daemon = None;
                worker.due = Instant::now() + AGAIN;
                self.ended.waits += 1;
            }
            if worker.daemon.is_none() && worker.due <= Instant::now() {
                worker.daemon = Some(self.installation.start(worker.id, count)?);
                self.ended.starts += 1;
            }
        }
        Ok(())
    }

    /// Looks at each.
    pub fn look(&mut self) -> Look {
        for worker in &mut self.workers {
            if let Some(daemon) = &worker.daemon {
                let socket = self.installation.socket(worker.id);
                worker.seen.renew(daemon, &socket);
            }
        }
        let seen = || self.workers.iter().map(|worker| &worker.seen);
        Look {
            connected: seen().all(|seen| seen.connected),
            // `None`, where one has none, is the least.
            live: seen().map(|seen| seen.live).min().flatten(),
            replay: self.workers.first().and_then(|first| first.seen.replay),
            memory: seen().map(|seen| seen.usage.resident).max().unwrap_or(0),
        }
    }

    /// `kill -9` to one of them, which is started again at once.
    pub fn kill(&mut self, at: usize) -> anyhow::Result<()> {
        let Some(worker) = self.workers.get_mut(at) else {
            return Ok(());
        };
        if let Some(mut daemon) = worker.daemon.take() {
            let socket = self.installation.socket(worker.id);
            worker.seen.renew(&daemon, &socket);
            daemon.kill()?;
            self.ended.kills += 1;
            self.ended.add(&worker.seen);
            worker.seen = Seen::default();
            worker.due = Instant::now();
        }
        self.tend()
    }

    /// SIGTERM to all; each must end with 0.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        for mut worker in self.workers.drain(..) {
            let Some(mut daemon) = worker.daemon.take() else {
                continue;
            };
            let socket = self.installation.socket(worker.id);
            worker.seen.renew(&daemon, &socket);
            self.ended.add(&worker.seen);
            let stopped = daemon.stop();
            stopped.with_context(|| {
                format!(
                    "worker {}; see {}",
                    worker.id,
                    self.installation.log.display()
                )
            })?;
        }
        Ok(())
    }

    /// What all did, once they have ended.
    pub fn totals(&self) -> Totals {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_over_labels_alone() {
        let text =
            "# HELP a_total x\na_total{t=\"x\"} 2\na_total{t=\"y\"} 3\na_total_more{t=\"y\"} 9\n";
        assert_eq!(sum(text, "a_total"), 5);
        assert_eq!(sum(text, "b"), 0);
    }
}
