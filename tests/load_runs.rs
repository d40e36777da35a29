//! `penstock-loadtest run` over the daemon: what it injects, what it reports, and that it tells when something is lost.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::env;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use penstock_loadtest::run::{Args, SCENARIOS, Stop, command};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tempfile::TempDir;

/// A few seconds of a small stream.
const STREAM: &str = "about = \"a test\"
[[phase]]
name = \"all\"
seconds = 3
rate = 500
[stream]
repos = 50
prefill = 50
";

/// An impatient daemon, so that tests are quick.
const SET: [&str; 3] = [
    "store.embedded.min_free=16MiB",
    "relay.backoff_min=1ms",
    "relay.backoff_max=50ms",
];

/// Of a run that works in this folder.
fn args(scenario: &Path, home: &Path, set: &[&str]) -> Args {
    Args {
        scenario: scenario.to_str().unwrap().to_owned(),
        penstock: Some(env!("CARGO_BIN_EXE_penstock").into()),
        out: Some(home.join("out")),
        scale: 1.0,
        seconds: None,
        seed: 7,
        cql: false,
        set: SET.iter().chain(set).map(ToString::to_string).collect(),
    }
}

/// A scenario that ran.
struct Ran {
    code: u8,
    out: PathBuf,
    _home: TempDir,
}

impl Ran {
    /// Runs the text of a scenario, with these settings.
    fn of(text: &str, set: &[&str]) -> Self {
        let home = TempDir::new().unwrap();
        let scenario = home.path().join("scenario.toml");
        fs::write(&scenario, text).unwrap();
        Self::args(args(&scenario, home.path(), set), home)
    }

    /// A scenario of the program's own, a few seconds long.
    fn named(name: &str, scale: f64, seconds: f64) -> Self {
        let home = TempDir::new().unwrap();
        let args = Args {
            scale,
            seconds: Some(seconds),
            ..args(Path::new(name), home.path(), &[])
        };
        Self::args(args, home)
    }

    fn args(args: Args, home: TempDir) -> Self {
        Self {
            code: command(&args, &Stop::default()),
            out: home.path().join("out"),
            _home: home,
        }
    }

    fn report(&self) -> Value {
        let words = self.file("penstock.log");
        let text = fs::read(self.out.join("report.json"));
        let text = text.unwrap_or_else(|error| panic!("{error}; exit code {}\n{words}", self.code));
        serde_json::from_slice(&text).unwrap()
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.out.join(name)).unwrap_or_default()
    }
}

#[test]
fn nothing_is_lost_by_kills_and_corrupt_frames() {
    let ran = Ran::of(
        &format!(
            "{STREAM}[stream.faults]
corrupt = 0.01
duplicates = 0.02
reordered = 0.02
[relay]
drop_every = 500
down_every_seconds = 1
refuse = [503]
[daemon]
kill_every_seconds = 1
"
        ),
        &[],
    );
    let report = ran.report();
    let (injected, outcome) = (&report["injected"], &report["outcome"]);
    assert_eq!(ran.code, 0, "{report:#}");
    assert!(injected["corrupt"].as_u64() > Some(0), "{injected}");
    assert!(injected["kills"].as_u64() > Some(0), "{injected}");
    assert!(injected["downs"].as_u64() > Some(0), "{injected}");
    assert!(injected["reconnects"].as_u64() > Some(0), "{injected}");
    assert!(outcome["records"].as_u64() > Some(500), "{outcome}");
    assert_eq!(outcome["lost"], 0, "{outcome}");
    assert_eq!(
        outcome["quarantined"], outcome["to_quarantine"],
        "{outcome}"
    );

    let samples = report["samples"].as_array().unwrap();
    let last = samples.last().unwrap();
    assert!(samples.len() >= 3, "{samples:?}");
    assert_eq!(last["published"], injected["frames"], "{last}");
    assert!(report["memory_max"].as_u64() > Some(1 << 20), "{report:#}");

    let table = ran.file("report.md");
    assert!(table.contains("Nothing is lost."), "{table}");
    let picture = ran.file("report.svg");
    assert!(
        picture.starts_with("<svg") && picture.contains("<polyline"),
        "{picture}"
    );
    assert!(Path::new(&ran.out.join("penstock.log")).is_file());
    assert!(
        !ran.out.join("work").exists(),
        "the stream and the store are removed"
    );
}

#[test]
fn a_past_is_replayed_beside_the_live_stream() {
    let past = STREAM.replace("prefill", "past = 2000\nprefill");
    let ran = Ran::of(&format!("{past}[limits]\nmemory_mib = 1\n"), &[]);
    let report = ran.report();
    // All is held, but no daemon is as small as that.
    assert_eq!(ran.code, 3, "{report:#}");
    assert_eq!(report["outcome"]["lost"], 0, "{report:#}");
    assert_eq!(report["limits"][0]["kept"], false, "{report:#}");
    assert_eq!(report["injected"]["frames"], 3_500, "{report:#}");
    let last = report["samples"].as_array().unwrap().last().unwrap();
    assert_eq!(last["durable"], 3_500, "{last}");
}

#[test]
fn what_is_lost_is_told() {
    let ran = Ran::of(STREAM, &["collections=app.bsky.feed.like"]);
    let report = ran.report();
    assert_eq!(ran.code, 1, "{report:#}");
    let outcome = &report["outcome"];
    assert!(outcome["lost"].as_u64() > Some(100), "{outcome}");
    let first = outcome["first"][0].as_str().unwrap();
    assert!(
        first.starts_with("missing") && first.contains("at://did:"),
        "{outcome}"
    );
    let table = ran.file("report.md");
    assert!(
        table.contains("NOT as it must be.") && table.contains(first),
        "{table}"
    );
}

#[test]
fn a_daemon_that_ends_by_itself_is_a_failure() {
    let ran = Ran::of(STREAM, &["relay.max_frame=0"]);
    assert_eq!(ran.code, 1);
    assert!(ran.file("penstock.log").contains("relay.max_frame"));
    assert!(!ran.out.join("report.json").exists());
}

#[test]
fn a_slow_store_takes_all_in_late() {
    let tried = Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "true"])
        .output();
    if !tried.is_ok_and(|tried| tried.status.success()) {
        let message = "skipped: slow-store needs strace (apt-get install strace), and to be allowed to use it";
        assert!(env::var("CI").as_deref() != Ok("true"), "{message}");
        println!("{message}");
        return;
    }
    let ran = Ran::named("slow-store", 0.2, 6.0);
    let report = ran.report();
    assert_eq!(ran.code, 0, "{report:#}");
    assert_eq!(report["outcome"]["lost"], 0, "{report:#}");
    // Nothing is durable before its sync, which takes half a second.
    assert!(
        report["lag"]["median"].as_f64() > Some(0.5),
        "{}",
        report["lag"]
    );
}

/// A run in a process of its own, for signals.
struct Process {
    child: Child,
    home: TempDir,
}

/// Runs the scenario of this folder in a process of its own, with the daemon of this folder if it has one.
fn process(home: &Path) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "runs_in_a_process", "--ignored", "--nocapture"])
        .env("LOAD_RUNS_HOME", home)
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[test]
#[ignore = "a part of other tests"]
fn runs_in_a_process() {
    let Ok(home) = env::var("LOAD_RUNS_HOME") else {
        return;
    };
    let home = Path::new(&home);
    let mut args = args(&home.join("scenario.toml"), home, &[]);
    let script = home.join("penstock");
    if script.exists() {
        args.penstock = Some(script);
    }
    let stop = Stop::at_signals().unwrap();
    std::process::exit(command(&args, &stop).into());
}

impl Process {
    fn start(scenario: &str) -> Self {
        Self::with_daemon(scenario, None)
    }

    /// With a script for a daemon, in which `PENSTOCK` is the real one.
    fn with_daemon(scenario: &str, script: Option<&str>) -> Self {
        let home = TempDir::new().unwrap();
        fs::write(home.path().join("scenario.toml"), scenario).unwrap();
        if let Some(script) = script {
            let daemon = home.path().join("penstock");
            let script = script.replace("PENSTOCK", env!("CARGO_BIN_EXE_penstock"));
            fs::write(&daemon, script).unwrap();
            fs::set_permissions(&daemon, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let child = process(home.path()).spawn().unwrap();
        Self { child, home }
    }

    fn has(&self, name: &str) -> bool {
        self.home.path().join(name).exists()
    }

    /// Waits until this holds, while it runs.
    fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?} before {what}");
            let waited = began.elapsed();
            assert!(waited < Duration::from_secs(60), "{what}: after {waited:?}");
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// Whether some of what was published is durable.
    fn has_durable_events(&self) -> bool {
        let socket = self.home.path().join("out/work/data/penstock.sock");
        let Ok(metrics) = get(&socket, "/metrics") else {
            return false;
        };
        let name = "penstock_watermark_seq{stream=\"live\"} ";
        let mut lines = metrics.lines();
        lines.any(|line| line.starts_with(name) && !line.ends_with(" 0"))
    }

    /// As a terminal does: to all of its process group.
    fn signal(&self, signal: Signal) {
        let group = i32::try_from(self.child.id()).unwrap();
        kill_process_group(Pid::from_raw(group).unwrap(), signal).unwrap();
    }

    /// Its end, and its folder.
    fn end(self) -> (Output, TempDir) {
        (self.child.wait_with_output().unwrap(), self.home)
    }

    /// It ends as one that was stopped, and leaves nothing but its daemon's log, which this gives.
    fn was_stopped(self, code: i32, word: &str) -> String {
        let (output, home) = self.end();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(&format!("stopped by {word}")), "{said}");
        assert_eq!(daemons(home.path()), [] as [PathBuf; 0]);
        let out = home.path().join("out");
        let left = fs::read_dir(&out).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name == "penstock.log"), "{left:?}");
        fs::read_to_string(out.join("penstock.log")).unwrap_or_default()
    }
}

fn get(socket: &Path, path: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The daemons of a run in this folder, known by what they are told of where their data is.
fn daemons(home: &Path) -> Vec<PathBuf> {
    let data = format!("DATA_DIR={}", home.join("out/work/data").display());
    let is_one = |process: &PathBuf| {
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        variables.any(|variable| variable == data.as_bytes())
    };
    let processes = fs::read_dir("/proc").unwrap();
    let processes = processes.map(|entry| entry.unwrap().path());
    processes.filter(is_one).collect()
}

/// Waits for the end of all daemons of a run in this folder.
fn until_no_daemon_runs(home: &Path) {
    let began = Instant::now();
    while !daemons(home).is_empty() {
        let waited = began.elapsed();
        assert!(waited < Duration::from_secs(60), "{:?}", daemons(home));
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// So long that it must be stopped.
fn endless(rate: u64) -> String {
    STREAM
        .replace("seconds = 3", "seconds = 100")
        .replace("rate = 500", &format!("rate = {rate}"))
}

#[test]
fn a_signal_stops_a_run_and_its_daemon() {
    for (signal, code, word) in [(Signal::INT, 130, "SIGINT"), (Signal::TERM, 143, "SIGTERM")] {
        let mut run = Process::start(&endless(100));
        run.until("something is durable", Process::has_durable_events);
        assert_eq!(daemons(run.home.path()).len(), 1);
        // As `timeout` does it.
        run.signal(signal);
        run.signal(signal);
        let log = run.was_stopped(code, word);
        // The daemon was not killed, and was not told by anybody else.
        assert_eq!(log.matches("stopping; a second signal").count(), 1, "{log}");
        assert!(log.contains("SIGTERM") && !log.contains("SIGINT"), "{log}");
    }
}

#[test]
fn a_signal_stops_the_making_of_a_stream() {
    let mut run = Process::start(&endless(1_000_000));
    run.until("a stream is made", |run| {
        run.has("out/work/stream/frames.bin")
    });
    run.signal(Signal::TERM);
    run.was_stopped(143, "SIGTERM");
}

#[test]
fn a_signal_stops_the_comparison() {
    let endless_dump = "#!/bin/sh
[ \"$1\" = dump ] || exec PENSTOCK \"$@\"
touch \"$LOAD_RUNS_HOME/dumps\"
while :; do echo '{\"did\":\"did:plc:x\",\"collection\":\"x.y.z\",\"rkey\":\"x\"}'; done
";
    let mut run = Process::with_daemon(STREAM, Some(endless_dump));
    run.until("it compares", |run| run.has("dumps"));
    run.signal(Signal::INT);
    run.was_stopped(130, "SIGINT");
}

#[test]
fn a_second_signal_does_not_wait_for_the_daemon() {
    let never_ends = "#!/bin/sh
[ \"$1\" = run ] || exec PENSTOCK \"$@\"
trap 'touch \"$LOAD_RUNS_HOME/told\"' TERM
touch \"$LOAD_RUNS_HOME/runs\"
tail --pid=$$ -f /dev/null &
while :; do wait; done
";
    let mut run = Process::with_daemon(&endless(100), Some(never_ends));
    run.until("a daemon runs", |run| run.has("runs"));
    run.signal(Signal::INT);
    run.until("the daemon is told to end", |run| run.has("told"));
    let began = Instant::now();
    while run.child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(60), "it goes on");
        run.signal(Signal::INT);
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let (output, home) = run.end();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    until_no_daemon_runs(home.path());
}

#[test]
fn no_daemon_outlives_a_run_that_is_killed() {
    let mut run = Process::start(&endless(100));
    run.until("something is durable", Process::has_durable_events);
    assert_eq!(daemons(run.home.path()).len(), 1);
    run.signal(Signal::KILL);
    let (output, home) = run.end();
    assert_eq!(output.status.signal(), Some(9));
    until_no_daemon_runs(home.path());
    // The next one names what is left.
    let next = process(home.path()).output().unwrap();
    let said = String::from_utf8_lossy(&next.stderr);
    let work = home.path().join("out/work");
    assert_eq!(next.status.code(), Some(78), "{said}");
    assert!(
        said.contains(&format!("{} is there", work.display())),
        "{said}"
    );
}

#[test]
fn the_documentation_tells_of_every_scenario() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/loadtest.md");
    let page = fs::read_to_string(page).unwrap();
    for (name, _) in SCENARIOS {
        assert!(page.contains(&format!("| `{name}` |")), "{name}");
    }
}
