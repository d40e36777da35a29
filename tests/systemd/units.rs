//! The units: sound and confined, as systemd's own analyzers see them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use penstock::config::{Config, Sources};
use tempfile::TempDir;

use crate::file;
use crate::machine::has;

const INSTALL: &str = "apt-get install systemd";
/// The highest exposure that `systemd-analyze security` may find, out of 10.
const EXPOSED: f64 = 1.5;
/// What the last facts and the store may take after `shutdown.timeout`.
const LAST_WORDS: Duration = Duration::from_secs(15);

/// A file system with what the units name.
fn root() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let units = root.path().join("usr/lib/systemd/system");
    fs::create_dir_all(&units).unwrap();
    for unit in fs::read_dir("/usr/lib/systemd/system").unwrap() {
        let unit = unit.unwrap();
        if unit.file_type().unwrap().is_file() {
            fs::copy(unit.path(), units.join(unit.file_name())).unwrap();
        }
    }
    for unit in ["penstock@.service", "penstock.target"] {
        fs::copy(file("systemd").join(unit), units.join(unit)).unwrap();
    }
    for program in ["usr/bin/penstock", "bin/sh", "bin/kill"] {
        let program = root.path().join(program);
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        fs::write(&program, "").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    root
}

#[test]
fn systemd_finds_no_mistake_in_the_units() {
    if !has("systemd-analyze", INSTALL) {
        return;
    }
    let root = root();
    for unit in ["penstock@7.service", "penstock.target"] {
        let output = Command::new("systemd-analyze")
            // The manual is only there where the package is installed.
            .args(["verify", "--man=no", "--recursive-errors=no", "--root"])
            .args([root.path(), Path::new(unit)])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{unit}: {said}");
        assert_eq!(said, "", "{unit}");
    }
}

#[test]
fn the_service_is_confined() {
    if !has("systemd-analyze", INSTALL) {
        return;
    }
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=yes", "--no-pager"])
        .arg(file("systemd/penstock@.service"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let (_, score) = said.split_once("Overall exposure level for ").unwrap();
    let score = score.split(' ').nth(1).unwrap();
    let score: f64 = score.parse().unwrap();
    println!("systemd-analyze security: {score}");
    assert!(score <= EXPOSED, "{said}");
}

/// The value of a setting of the service that is there once.
fn setting(name: &str) -> String {
    let unit = fs::read_to_string(file("systemd/penstock@.service")).unwrap();
    let line = format!("{name}=");
    let mut values = unit.lines().filter_map(|found| found.strip_prefix(&line));
    let value = values.next().unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(values.next(), None, "{name} twice");
    value.to_owned()
}

fn time(name: &str) -> Duration {
    setting(name)
        .parse::<jiff::SignedDuration>()
        .unwrap()
        .unsigned_abs()
}

fn default_config() -> Config {
    Config::load(&Sources::default()).unwrap().config
}

#[test]
fn systemd_waits_for_the_drain() {
    let drain = default_config().shutdown.timeout + LAST_WORDS;
    assert!(time("TimeoutStopSec") > drain, "{drain:?}");
}

#[test]
fn a_worker_that_waits_is_started_for_ever() {
    // ExecStopPost sleeps for so long after exit code 75.
    let stop = setting("ExecStopPost");
    let (_, seconds) = stop.split_once("sleep ").unwrap();
    let pause: u64 = seconds.trim_end_matches('\'').parse().unwrap();
    let pause = Duration::from_secs(pause);
    assert!(pause < time("TimeoutStopSec"));
    let starts: u32 = setting("StartLimitBurst").parse().unwrap();
    let rest = time("RestartSec");
    let limit = time("StartLimitIntervalSec");
    assert!((pause + rest) * starts > limit, "a waiting worker is left");
    assert!(rest * starts < limit, "a crashing one is not");
    assert_eq!(setting("RestartPreventExitStatus"), "78");
}

#[test]
fn only_exit_code_75_is_waited_after() {
    let stop = setting("ExecStopPost");
    let script = stop.strip_prefix("/bin/sh -c '").unwrap();
    let script = script.strip_suffix('\'').unwrap();
    let folder = tempfile::tempdir().unwrap();
    let sleep = folder.path().join("sleep");
    fs::write(&sleep, "#!/bin/sh\necho slept $1\n").unwrap();
    fs::set_permissions(&sleep, fs::Permissions::from_mode(0o755)).unwrap();
    for (status, said) in [("0", ""), ("1", ""), ("KILL", ""), ("75", "slept 25\n")] {
        let output = Command::new("/bin/sh")
            .args(["-c", script])
            .env("PATH", folder.path())
            .env("EXIT_STATUS", status)
            .output()
            .unwrap();
        assert!(output.status.success(), "{status}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), said, "{status}");
    }
}

#[test]
fn a_slow_batch_is_not_taken_for_a_hanging_pipeline() {
    let config = default_config();
    let longest = [
        config.pipeline.batch_age,
        config.store.scylla.request_timeout,
        config.store.scylla.sync_lag,
    ];
    for time_ in longest {
        assert!(time("WatchdogSec") >= 4 * time_, "{time_:?}");
    }
}

#[test]
fn the_user_and_the_folders_can_be_made() {
    if !has("systemd-sysusers", INSTALL) || !has("systemd-tmpfiles", INSTALL) {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let run = |program: &str, arguments: &[&str], configuration: &str| {
        let output = Command::new(program)
            .arg(format!("--root={}", root.path().display()))
            .args(arguments)
            .arg(file(configuration))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{program}: {said}");
    };
    fs::create_dir_all(root.path().join("etc")).unwrap();
    run("systemd-sysusers", &[], "systemd/sysusers.d/penstock.conf");
    let users = fs::read_to_string(root.path().join("etc/passwd")).unwrap();
    assert!(users.contains("penstock:x:"), "{users}");
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can make folders for others");
        return;
    }
    run(
        "systemd-tmpfiles",
        &["--create"],
        "systemd/tmpfiles.d/penstock.conf",
    );
    for (folder, mode) in [
        ("var/lib/penstock", 0o750),
        ("etc/penstock/credentials", 0o700),
    ] {
        let found = fs::metadata(root.path().join(folder)).unwrap();
        assert_eq!(found.permissions().mode() & 0o777, mode, "{folder}");
    }
}
