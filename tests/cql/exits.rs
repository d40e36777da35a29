//! What a daemon over CQL says and exits with where it can't run: another process has its lease, or the servers refuse it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_loadtest::{RelayOptions, RelayServer, World, WorldSpec};
use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::installations::{Cql, empty};
use crate::installed::backend::Backend;
use crate::installed::{Daemon, Ended, Installation};
use crate::keyspaces::Keyspace;

/// How long a lease holds where nobody renews it, unless a test sets it.
const LEASE: Duration = Duration::from_secs(30);

fn relay() -> RelayServer {
    let world = World::generate(&WorldSpec {
        seed: 5,
        repos: 20,
        events: 300,
        prefill: 50,
        ..WorldSpec::default()
    });
    RelayServer::start(&world, RelayOptions::default()).expect("a relay")
}

fn refused(ended: &Ended, code: i32, parts: &[&str]) {
    let words = &ended.words;
    assert_eq!(ended.code, Some(code), "{words}");
    for part in parts {
        assert!(words.contains(part), "{part:?} is not in: {words}");
    }
}

/// Starts, and runs: the lease is taken.
async fn running(installation: &Installation) -> Daemon {
    let mut daemon = installation.start();
    daemon.until_says("serving HTTP").await;
    daemon
}

/// As [`running`], long before a lease that nobody gave back would end.
async fn running_at_once(installation: &Installation) -> Daemon {
    let began = Instant::now();
    let daemon = running(installation).await;
    let took = began.elapsed();
    println!("runs after {took:?}");
    assert!(took < LEASE / 2, "it waited for a lease: {took:?}");
    daemon
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_is_one_daemon_and_its_end_lets_the_next_one_in() {
    let Some(backend) = empty().await else {
        return;
    };
    let relay = relay();
    let new = || Installation::over(&backend, &relay.url());
    let (here, there) = (new(), new());
    let mut daemon = running(&here).await;
    let process = format!("process {} on ", daemon.id());
    let folder = here.data().display().to_string();

    // Elsewhere, as the same worker; as one of another number of workers; in the same folder.
    let ended = there.run(&["run"]).await;
    refused(&ended, 75, &["worker 0 is held by", &process, &folder]);
    let one_of_two = new().with("WORKER_ID", "1").with("WORKER_COUNT", "2");
    let ended = one_of_two.run(&["run"]).await;
    refused(&ended, 75, &["WORKER_COUNT", "worker 0", &process, &folder]);
    let ended = new().in_folder(here.data()).run(&["run"]).await;
    refused(&ended, 75, &["worker 0", "in the same data directory"]);

    // An import writes beside nobody, wherever it is started.
    let dump = here.data().join("empty.jsonl");
    std::fs::write(&dump, "").expect("a file");
    let import = ["import", dump.to_str().expect("UTF-8")];
    let ended = there.run(&import).await;
    refused(&ended, 75, &["beside an import", &process, "stop all"]);
    let ended = here.run(&import).await;
    refused(&ended, 75, &["worker 0", "in the same data directory"]);

    // None of that disturbed the one that runs. Killed, it has its lease again at once; stopped, it leaves it to others.
    assert!(daemon.ended().is_none(), "{}", daemon.words());
    daemon.kill().await;
    let daemon = running_at_once(&here).await;
    daemon.stop().await;
    running_at_once(&there).await.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_whose_lease_is_taken_away_ends_and_names_who_has_it() {
    let Some(keyspace) = Keyspace::fresh().await else {
        return;
    };
    let cql = Arc::new(Cql(keyspace));
    let backend: Arc<dyn Backend> = cql.clone();
    let relay = relay();
    let installation =
        Installation::over(&backend, &relay.url()).with("PENSTOCK_STORE__SCYLLA__LEASE", "2s");
    let mut daemon = running(&installation).await;
    let theft = "UPDATE KS.workers USING TTL 60 SET worker_count = 1, holder = 'm:/other', session = 'x@thief/77', since = 1 \
                 WHERE worker_id = 0 IF EXISTS";
    cql.0.run(theft).await;
    let status = daemon.wait().await;
    let words = daemon.words();
    assert_eq!(status.code(), Some(75), "{words}");
    assert!(words.contains("process 77 on thief (m:/other)"), "{words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_worker_makes_the_tables_and_the_others_wait_for_it() {
    let Some(backend) = empty().await else {
        return;
    };
    let relay = relay();
    let worker = |id: &str| {
        Installation::over(&backend, &relay.url())
            .with("WORKER_ID", id)
            .with("WORKER_COUNT", "2")
    };
    let (first, second) = (worker("0"), worker("1"));
    let mut waiting = second.start();
    let waits = "waiting for worker 0 to make the tables";
    waiting.until_says(waits).await;
    waiting.signal(Signal::TERM);
    let status = waiting.wait().await;
    assert_eq!(status.code(), Some(0), "{}", waiting.words());

    let mut waiting = second.start();
    waiting.until_says(waits).await;
    let making = running(&first).await;
    waiting.until_says("serving HTTP").await;
    waiting.stop().await;
    making.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_the_servers_refuse_says_what_to_do() {
    let test = "a_start_that_the_servers_refuse_says_what_to_do";
    let Some(cluster) = Cluster::shared(test).await else {
        return;
    };
    let backend: Arc<dyn Backend> = Arc::new(Cql(Keyspace::on(cluster)));
    let relay = relay();
    let new = || Installation::over(&backend, &relay.url());

    // Nobody listens there: that may pass.
    let ended = new()
        .with("SCYLLA_NODES", "127.0.0.1:1")
        .run(&["run"])
        .await;
    refused(&ended, 75, &["no node of 127.0.0.1:1", "SCYLLA_NODES"]);

    // More copies than nodes, and no more than there are.
    let copies = cluster.nodes.len() + 2;
    let many = new().with("PENSTOCK_STORE__SCYLLA__REPLICATION", &copies.to_string());
    let ended = many.run(&["run"]).await;
    let asks = format!("asks for {copies} copies");
    refused(&ended, 78, &[&asks, "add nodes, or set it to"]);
    assert!(backend.open(many.data()).await.is_none(), "it was made");

    if cluster.user().is_some() {
        let installation = new();
        let file = installation.data().with_extension("password");
        std::fs::write(&file, "not it\n").expect("a file");
        let file = file.to_str().expect("UTF-8").to_owned();
        let wrong = installation.with("SCYLLA_PASSWORD_FILE", &file);
        let ended = wrong.run(&["run"]).await;
        refused(&ended, 78, &["refuse the user", "SCYLLA_PASSWORD_FILE"]);
    }
}
