//! The command: prepare, serve, compare, and what it says when it can't.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_penstock-loadtest"))
}

fn run(args: &[&str]) -> Output {
    command().args(args).output().unwrap()
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The records and repositories of an oracle, as `dump` and `repos` print them.
fn split(oracle: &Path) -> (String, String) {
    let lines = std::fs::read_to_string(oracle).unwrap();
    let of = |kind: &str| -> String {
        let mark = format!("{{\"kind\":\"{kind}\",");
        lines
            .lines()
            .filter(|line| line.starts_with(&mark))
            .map(|line| format!("{line}\n"))
            .collect()
    };
    (of("record"), of("repo"))
}

#[test]
fn prepares_serves_and_compares() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let made = run(&[
        "prepare",
        "--dir",
        &path("p"),
        "--events",
        "500",
        "--repos",
        "5",
        "--prefill",
        "20",
        "--corrupt",
        "0.1",
    ]);
    assert!(made.status.success(), "{made:?}");

    let serve = [
        "relay",
        "--dir",
        &path("p"),
        "--oracle",
        &path("oracle"),
        "--refuse",
        "429",
    ];
    let child = command()
        .args(serve)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert!(
        ready["url"]
            .as_str()
            .unwrap()
            .starts_with("ws://127.0.0.1:")
    );
    assert!(ready["summary"]["corrupt_total"].as_u64().unwrap() > 10);

    let (dump, repos) = split(&dir.path().join("oracle"));
    std::fs::write(path("dump"), &dump).unwrap();
    std::fs::write(path("repos"), repos).unwrap();
    let check = |dump: &str| {
        run(&[
            "check",
            "--oracle",
            &path("oracle"),
            "--dump",
            &path(dump),
            "--repos",
            &path("repos"),
        ])
    };
    assert_eq!(check("dump").status.code(), Some(0), "{:?}", check("dump"));
    std::fs::write(path("less"), dump.split_once('\n').unwrap().1).unwrap();
    let less = check("less");
    let said = String::from_utf8(less.stdout).unwrap();
    assert_eq!(less.status.code(), Some(1));
    assert!(
        said.starts_with("missing   at://did:") && said.contains("1 missing, 0 extra, 0 different"),
        "{said}"
    );
}

#[test]
fn says_what_is_wrong() {
    for (args, said) in [
        (
            &["relay", "--dir", "/nowhere"][..],
            "/nowhere is not a prepared folder",
        ),
        (
            &["check", "--oracle", "/nowhere", "--dump", "x"],
            "cannot open /nowhere",
        ),
        (
            &["prepare", "--dir", "/tmp/x", "--corrupt", "2"],
            "--corrupt is a share between 0 and 1, not 2",
        ),
        (&["relay", "--rate", "0"], "--rate is a number above 0"),
        (
            &[
                "relay",
                "--listen",
                "192.0.2.1:1",
                "--events",
                "1",
                "--prefill",
                "1",
            ],
            "cannot listen on 192.0.2.1:1",
        ),
    ] {
        let output = run(args);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && error.contains(said),
            "{args:?}: {error}"
        );
    }
}

#[test]
fn serves_a_network() {
    let dir = tempfile::tempdir().unwrap();
    let oracle = dir.path().join("oracle");
    let oracle_arg = oracle.to_str().unwrap();
    let args = ["network", "--repos", "50", "--hosts", "5", "--fault"];
    let mut server = command()
        .args(args)
        .args(["all=0.01", "--oracle", oracle_arg])
        .stdout(Stdio::piped())
        .spawn()
        .map(Killed)
        .unwrap();
    let mut line = String::new();
    let out = server.0.stdout.take().unwrap();
    BufReader::new(out).read_line(&mut line).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(ready["hosts"].as_array().unwrap().len(), 5);
    assert!(ready["plc_url"].is_string() && ready["relay_url"].is_string());
    let (records, repos) = split(&oracle);
    assert!(records.lines().count() > 100 && repos.lines().count() > 20);

    let wrong = run(&["network", "--fault", "all=0.5"]);
    assert!(!wrong.status.success());
    let text = String::from_utf8(wrong.stderr).unwrap();
    assert!(text.contains("shares of faults add up to"), "{text}");
}

#[test]
fn mistakes_of_a_run_are_told_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = dir.path().join("wrong.toml");
    std::fs::write(&wrong, "about = \"a\"\n[realy]\n").unwrap();
    let wrong = wrong.to_str().unwrap();
    for (args, said) in [
        (&["stedy"][..], "steady, ramp, replay"),
        (&[wrong][..], "realy"),
        (&["steady", "--scale", "0"][..], "--scale"),
        (&["steady", "--penstock", "/nowhere"][..], "--penstock PATH"),
        (&["reshard", "--penstock", "true"][..], "SCYLLA_NODES"),
        (
            &["steady", "--cql", "--penstock", "true"][..],
            "SCYLLA_NODES",
        ),
    ] {
        let output = command()
            .arg("run")
            .args(args)
            .current_dir(dir.path())
            .env_remove("SCYLLA_NODES")
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{args:?}: {error}");
        assert!(error.contains(said), "{args:?}: {error}");
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "{args:?}"
        );
    }
    assert_eq!(run(&["run"]).status.code(), Some(2));
}
