//! `penstock backfill` as users run it: beside a daemon with jobs in memory, by its socket and by TCP, and without one.

mod http;

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use http::jobs::FakeJobs;
use http::{ALICE, BOB, Site};
use penstock::api::{Tokens, UnixSocket, serve_tcp};
use penstock::backfill::jobs::{Force, JobStatus, JobView, Stage};
use penstock::config::Worker;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

const POST: &str = "app.bsky.feed.post";

struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ended {
    #[track_caller]
    fn ended(&self, code: i32, says: &str) -> &Self {
        assert_eq!(self.code, Some(code), "{} {}", self.out, self.err);
        assert!(self.err.contains(says), "{says:?} in {:?}", self.err);
        self
    }

    fn lines(&self) -> Vec<Value> {
        let lines = self.out.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

async fn run(dir: &Path, args: &[&str], variables: &[(&str, &str)], input: &str) -> Ended {
    let mut child = Command::new(env!("CARGO_BIN_EXE_penstock"))
        .arg("backfill")
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("DATA_DIR", dir.join("data"))
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that reads no input may be gone already.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    Ended {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

struct Daemon {
    dir: tempfile::TempDir,
    jobs: Arc<FakeJobs>,
    stop: CancellationToken,
}

impl Daemon {
    async fn start() -> Self {
        let jobs = Arc::new(FakeJobs::default());
        let site = Site::working(jobs.clone(), None).await;
        Self::serve(jobs, &site).await
    }

    async fn serve(jobs: Arc<FakeJobs>, site: &Site) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        let path = dir.path().join("data/penstock.sock");
        let socket = UnixSocket::bind(&path).await.unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(socket.serve(site.router.clone(), stop.clone()));
        Self { dir, jobs, stop }
    }

    async fn run(&self, args: &[&str]) -> Ended {
        run(self.dir.path(), args, &[], "").await
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn completed(job: &JobView) -> JobView {
    JobView {
        status: JobStatus::Completed,
        stage: None,
        processed_repos: 10,
        total_records: 1234,
        ..job.clone()
    }
}

#[tokio::test]
async fn jobs_are_started_listed_shown_and_cancelled() {
    let daemon = Daemon::start().await;
    let started = daemon
        .run(&[
            "start",
            "--collection",
            POST,
            "--days",
            "1.5",
            "--force",
            "full_sync",
        ])
        .await;
    started.ended(0, "Job 1 has begun");
    assert_eq!(started.out, "1\n", "nothing but the id");
    let (request, by_ledger) = daemon.jobs.asked();
    assert_eq!(
        (request.collections, request.days, by_ledger),
        (vec![POST.to_owned()], Some(1.5), false)
    );
    assert_eq!(request.force, Some(Force::FullSync));
    daemon
        .run(&["start", "--collection", POST])
        .await
        .ended(1, "job 1 is at work on the same scope");
    daemon
        .run(&["start", "--did", ALICE, "--did", BOB])
        .await
        .ended(0, "");
    assert_eq!(daemon.jobs.asked().0.dids, [ALICE, BOB]);

    let list = daemon.run(&["list"]).await;
    let ids: Vec<Value> = list
        .ended(0, "")
        .lines()
        .iter()
        .map(|job| job["id"].clone())
        .collect();
    assert_eq!(ids, ["2", "1"]);
    let shown = daemon.run(&["show", "1"]).await;
    assert_eq!(shown.ended(0, "").lines()[0]["collection"], POST);
    for _ in 0..2 {
        let cancelled = daemon.run(&["cancel", "1"]).await;
        assert_eq!(cancelled.ended(0, "job 1 is cancelled").out, "1\n");
    }
    let estimate = daemon.run(&["estimate", "--did", ALICE]).await;
    assert_eq!(estimate.ended(0, "").lines()[0]["repos"], 1);
    for (args, says) in [
        (&["show", "7"][..], "there is no job 7"),
        (&["show", "x"], "invalid digit"),
        (&["start", "--force", "now"], "catch_up, full_sync"),
        (
            &["start", "--collection", "posts", "--days", "-1"],
            "unexpected argument",
        ),
        (
            &["start", "--collection", "posts", "--days=-1"],
            "days: -1.0 is not a number",
        ),
        (
            &["start", "--collection", "posts", "--did", "alice"],
            "collections[0]: \"posts\"",
        ),
    ] {
        daemon.run(args).await.ended(1, says);
    }
}

#[tokio::test]
async fn who_waits_learns_how_it_ended() {
    let daemon = Daemon::start().await;
    daemon.run(&["start"]).await.ended(0, "");
    let pending = daemon.jobs.view(1);
    let fetching = JobView {
        status: JobStatus::Running,
        stage: Some(Stage::Fetching),
        total_repos: Some(10),
        processed_repos: 4,
        eta_seconds: Some(90.0),
        ..pending.clone()
    };
    daemon
        .jobs
        .will_be(1, [fetching.clone(), fetching, completed(&pending)]);
    let shown = daemon.run(&["show", "1", "--wait"]).await;
    shown.ended(0, "job 1 is completed: 10 repositories, 1234 records");
    assert!(
        shown.err.contains("fetching, 4 of 10 repositories"),
        "{}",
        shown.err
    );
    assert!(shown.err.contains("1m 30s left"), "{}", shown.err);
    assert_eq!(shown.lines()[0]["status"], "completed");

    daemon.jobs.fail(1, &[ALICE, BOB]);
    let failed = daemon.run(&["show", "1", "--wait", "--errors"]).await;
    failed.ended(1, "2 of 10 repositories failed");
    let lines = failed.lines();
    assert_eq!((lines.len(), &lines[2]["did"]), (3, &json!(BOB)));
    daemon.run(&["show", "1"]).await.ended(0, "");

    // What failed is taken again, and this time it is there.
    let retried = async {
        let end = daemon.run(&["retry", "1", "--wait"]).await;
        assert_eq!(end.ended(0, "job 1 is completed").out, "1\n");
    };
    let ends = async {
        while daemon.jobs.view(1).status != JobStatus::Pending {
            tokio::task::yield_now().await;
        }
        daemon.jobs.will_be(1, [completed(&pending)]);
    };
    tokio::join!(retried, ends);

    let broken = JobView {
        status: JobStatus::Failed,
        error: Some("no relay answers".to_owned()),
        ..completed(&pending)
    };
    daemon.jobs.will_be(1, [broken]);
    daemon
        .run(&["show", "1", "--wait"])
        .await
        .ended(1, "job 1 is failed: no relay answers");
}

#[tokio::test]
async fn lists_of_dids_are_read_from_files_and_standard_input() {
    let daemon = Daemon::start().await;
    let dir = daemon.dir.path();
    let list = format!("# ours\n\n{BOB}\n{ALICE}\n");
    let args = ["start", "--dids", "-", "--did", "did:web:a.test"];
    run(dir, &args, &[], &list).await.ended(0, "");
    assert_eq!(daemon.jobs.asked().0.dids, [ALICE, BOB, "did:web:a.test"]);
    std::fs::write(dir.join("dids"), &list).unwrap();
    daemon
        .run(&["estimate", "--dids", "dids"])
        .await
        .ended(0, "");
    assert_eq!(daemon.jobs.asked().0.dids, [ALICE, BOB]);

    let bad = run(
        dir,
        &["start", "--dids", "-"],
        &[],
        &format!("{list}alice.test\n"),
    )
    .await;
    bad.ended(1, "line 5 is not a DID: \"alice.test\"");
    run(dir, &["start", "--dids", "-"], &[], "# nobody\n")
        .await
        .ended(1, "names no DID");
    daemon
        .run(&["start", "--dids", "none"])
        .await
        .ended(1, "none: No such file");
}

#[tokio::test]
async fn without_a_daemon_there_are_no_jobs() {
    let dir = tempfile::tempdir().unwrap();
    let ended = run(dir.path(), &["list"], &[], "").await;
    ended.ended(75, "start one with 'penstock run'");
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let ended = run(
        dir.path(),
        &["list", "--url", &format!("http://{closed}")],
        &[],
        "",
    )
    .await;
    ended.ended(75, &format!("no daemon answers at http://{closed}"));
    run(dir.path(), &["list", "--url", "ftp://x.test"], &[], "")
        .await
        .ended(1, "http and https");

    let site = Site::elsewhere(Worker { id: 1, count: 2 }).await;
    let other = Daemon::serve(Arc::default(), &site).await;
    other.run(&["list"]).await.ended(75, "ask worker 0");
}

#[tokio::test]
async fn a_daemon_elsewhere_asks_for_the_token() {
    let jobs = Arc::new(FakeJobs::default());
    let site = Site::working(jobs, Some(Tokens::new(Some("secret"), Some("look")))).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let _ends = stop.clone().drop_guard();
    tokio::spawn(serve_tcp(listener, site.router.clone(), stop));
    let dir = tempfile::tempdir().unwrap();
    let ask = async |args: &[&str], variables: &[(&str, &str)]| {
        let args = [args, &["--url", &url]].concat();
        run(dir.path(), &args, variables, "").await
    };
    ask(&["start"], &[]).await.ended(1, "Unauthorized");
    ask(&["start"], &[("READ_TOKEN", "look")])
        .await
        .ended(1, "Forbidden");
    let started = ask(&["start"], &[("ADMIN_TOKEN", "secret")]).await;
    assert_eq!(started.ended(0, "").out, "1\n");
    ask(&["list"], &[("READ_TOKEN", "look")]).await.ended(0, "");
}
