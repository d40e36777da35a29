//! The real binary.

use std::fs;
use std::process::{Command, Output};

use penstock::config::keys;

use super::Folder;

fn penstock(folder: &Folder, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_penstock"))
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .current_dir(folder.0.path())
        .output()
        .unwrap()
}

#[test]
fn the_command_shows_what_is_in_effect() {
    let folder = Folder::new();
    folder.write("penstock.toml", "\n[verify]\ncids = \"records\"\n");
    let output = penstock(
        &folder,
        &["config", "--set", "store.json=true"],
        &[("ADMIN_TOKEN", "0123456789")],
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(!shown.contains("0123456789"));
    let line = |key: &str| {
        let start = format!("{key} ");
        let line = shown.lines().find(|line| line.starts_with(&start));
        line.unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        line("verify.cids"),
        "verify.cids = \"records\" # file penstock.toml:3"
    );
    assert_eq!(line("store.json"), "store.json = true # flag --set");
    assert_eq!(
        line("http.admin_token"),
        "http.admin_token = \"[redacted]\" # variable ADMIN_TOKEN"
    );
    assert_eq!(
        line("relay.read_timeout"),
        "relay.read_timeout = \"60s\" # default"
    );
    assert_eq!(shown.lines().count(), keys().count());
}

#[test]
fn every_command_ends_with_78_on_a_mistake_and_starts_nothing() {
    let folder = Folder::new();
    for arguments in [
        &["run"][..],
        &["config"],
        &["get", "at://did:plc:x/a.b.c/d"],
        &["dump"],
        &["repos"],
        &["quarantine", "list"],
    ] {
        let variables = [("RELAY_URL", "ftp://x"), ("WORKER_COUNT", "none")];
        let output = penstock(&folder, arguments, &variables);
        assert_eq!(output.status.code(), Some(78), "{arguments:?}");
        assert_eq!(output.stdout, b"");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains("2 mistakes in the configuration"), "{told}");
        assert!(
            told.contains("relay.urls = \"ftp://x\" (variable RELAY_URL)"),
            "{told}"
        );
        assert!(
            told.contains("worker.count = \"none\" (variable WORKER_COUNT)"),
            "{told}"
        );
    }
    assert_eq!(fs::read_dir(folder.0.path()).unwrap().count(), 0);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let folder = Folder::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_penstock"))
        .arg("config")
        .env_clear()
        .current_dir(folder.0.path())
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(output.stderr, b"");
}

#[test]
fn the_version_names_the_commit() {
    let output = penstock(&Folder::new(), &["--version"], &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        text.trim(),
        format!("penstock {}", penstock::telemetry::VERSION)
    );
    assert!(text.contains(" (") && text.ends_with(")\n"), "{text}");
}
