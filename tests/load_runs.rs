//! `penstock-loadtest run` over the daemon: what it injects, what it reports, and that it tells when something is lost.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;
use std::path::{Path, PathBuf};

use penstock_loadtest::run::{Args, SCENARIOS, command};
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
        let out = home.path().join("out");
        let code = command(&Args {
            scenario: scenario.to_str().unwrap().to_owned(),
            penstock: Some(env!("CARGO_BIN_EXE_penstock").into()),
            out: Some(out.clone()),
            scale: 1.0,
            seconds: None,
            seed: 7,
            cql: false,
            set: SET.iter().chain(set).map(ToString::to_string).collect(),
        });
        Self {
            code,
            out,
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
fn the_documentation_tells_of_every_scenario() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/loadtest.md");
    let page = fs::read_to_string(page).unwrap();
    for (name, _) in SCENARIOS {
        assert!(page.contains(&format!("| `{name}` |")), "{name}");
    }
}
