//! Keys one by one: the log's, the limits, those that need a restart, and mistakes.

use std::collections::BTreeSet;

use crate::site::{LIKE, POST, REFUSED, Site, TAKEN_UP};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_level_and_the_format_of_the_log_change() {
    let site = Site::new("[log]\nlevel = \"info\"\n").await;
    let mut running = site.start();
    running.until_seq(site.relay.tick()).await;
    let has = |words: &str, level: &str| words.contains(&format!("\"level\":\"{level}\""));
    assert!(!has(&running.words(), "DEBUG"));

    running.reload("[log]\nlevel = \"debug\"\n");
    let line = running.until_key(TAKEN_UP, "log.level").await;
    assert_eq!(
        (&line["before"], &line["now"]),
        (&"\"info\"".into(), &"\"debug\"".into())
    );
    assert!(
        line["origin"]
            .as_str()
            .unwrap()
            .ends_with("penstock.toml:2"),
        "{line}"
    );
    running.reload("[log]\nlevel = \"penstock=trace,hyper=debug\"\n");
    running
        .daemon
        .until_line(TAKEN_UP, |line| line["before"] == "\"debug\"")
        .await;

    // The last line that is JSON says that the next ones are not.
    running.reload("[log]\nlevel = \"info\"\nformat = \"text\"\n");
    running.until_key(TAKEN_UP, "log.format").await;
    running.reload("[log]\nlevel = \"warn\"\nformat = \"text\"\n");
    let daemon = &mut running.daemon;
    let log = daemon.log().to_owned();
    let text = || String::from_utf8_lossy(&std::fs::read(&log).unwrap()).into_owned();
    daemon
        .until("a line of text", async || {
            let text = text();
            let mut lines = text.lines();
            lines.any(|line| !line.starts_with('{') && line.contains(TAKEN_UP))
        })
        .await;
    // What is taken up is told also where lines of its level are no longer written, or were not yet.
    running.reload("[log]\nlevel = \"info\"\nformat = \"json\"\n");
    running
        .daemon
        .until_line(TAKEN_UP, |line| line["before"] == "\"warn\"")
        .await;
    running.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_change_and_each_is_named() {
    let site = Site::new("").await;
    let mut running = site.start();
    running.until_seq(site.relay.tick()).await;
    let limits = [
        ("max_events_per_second", "5000"),
        ("max_jobs", "3"),
        ("max_bytes", "\"64MiB\""),
        ("max_repo_bytes", "\"1GiB\""),
        ("repo_timeout", "\"10m\""),
        ("repo_idle", "\"30s\""),
        ("per_host", "4"),
        ("requests_per_second", "1000"),
        ("attempts", "7"),
        ("retry_wait", "\"1s\""),
        ("repair_pause", "\"0ms\""),
        ("export_above", "20000"),
    ];
    let lines = limits.map(|(key, value)| format!("{key} = {value}\n"));
    running.reload(&format!("[backfill]\n{}", lines.concat()));
    for (key, value) in limits {
        let line = running
            .until_key(TAKEN_UP, &format!("backfill.{key}"))
            .await;
        assert_eq!(line["now"], value, "{line}");
    }
    assert_eq!(running.lines(TAKEN_UP).len(), limits.len());
    // They hold: a job gets on with them.
    let args = ["backfill", "start", "--wait"];
    site.installation.prints(&args).await;
    assert_eq!(site.held(LIKE).await, site.published(LIKE));
    // The same again is nothing to take up.
    running.daemon.signal(rustix::process::Signal::HUP);
    running
        .until_says("the configuration was read again: there is nothing to take up")
        .await;
    running.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_a_restart_is_refused_by_name() {
    let mut site = Site::new("[http]\nread_token = \"reader-1\"\n").await;
    site.installation.set("PENSTOCK_BACKFILL__MAX_JOBS", "1");
    let mut running = site.start();
    running.until_seq(site.relay.tick()).await;
    running.reload(
        "[http]\nread_token = \"reader-2\"\n[backfill]\ndays = 2\nmax_jobs = 5\nattempts = 5\n[pipeline]\nlanes = 64\n",
    );
    let line = running.until_key(TAKEN_UP, "backfill.attempts").await;
    assert_eq!(line["now"], "5");
    for (key, before, now) in [
        ("backfill.days", "0", "2"),
        ("http.read_token", "\"[redacted]\"", "\"[redacted]\""),
    ] {
        let line = running.until_key(REFUSED, key).await;
        assert_eq!(line["in_effect"], before, "{line}");
        assert_eq!(line["read"], now, "{line}");
        assert_eq!(line["level"], "WARN", "{line}");
    }
    running.until_key(REFUSED, "pipeline.lanes").await;
    assert_eq!(
        running.lines(REFUSED).len(),
        3,
        "a variable overrules the file"
    );
    assert_eq!(running.lines(TAKEN_UP).len(), 1);
    assert!(!running.words().contains("reader-"), "{}", running.words());
    running.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mistake_changes_nothing_and_is_explained() {
    let good = format!("collections = [\"{POST}\"]\n");
    let site = Site::new(&good).await;
    let mut running = site.start();
    running.until_seq(site.send(POST, "one").seq).await;
    let message = "the configuration was read again and has a mistake: nothing was changed";
    for (at, (file, words)) in [
        (
            format!("collections = [\"{LIKE}\"]\n[backfill]\nmax_jobs = 0\n"),
            vec![
                "backfill.max_jobs",
                "\"0\"",
                "allowed: a whole number from 1 to 64",
            ],
        ),
        (
            format!("collections = [\"{LIKE}\"]\n[log]\nlevle = \"warn\"\n"),
            vec!["log.levle", "the nearest is log.level"],
        ),
        ("collections = [".to_owned(), vec!["is not TOML"]),
    ]
    .into_iter()
    .enumerate()
    {
        running.reload(&file);
        let line = running
            .daemon
            .until_line(message, |line| {
                words
                    .iter()
                    .all(|word| line["mistake"].as_str().unwrap().contains(word))
            })
            .await;
        assert_eq!(line["level"], "ERROR", "{line}");
        let like = site.send(LIKE, &format!("r{at}"));
        running.until_seq(like.seq).await;
    }
    assert_eq!(running.lines(TAKEN_UP).len(), 0);
    // It is there still, and takes up what is right.
    running.reload(&format!("{good}[backfill]\nmax_jobs = 5\n"));
    running.until_key(TAKEN_UP, "backfill.max_jobs").await;
    assert_eq!(site.held(LIKE).await, BTreeSet::new());
    running.daemon.stop().await;
}
