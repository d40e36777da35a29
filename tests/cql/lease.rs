//! Leases of workers: exclusive, taken over by a restart, lost to others, found again after an outage.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock::config::Replication;
use penstock::store::StoreError;
use penstock::store::scylla::Server;
use penstock::store::scylla::lease::{Holder, Lease, LeaseOptions};
use penstock::store::scylla::schema::Layout;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::{Consistency, SerialConsistency};
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;

const TTL: Duration = Duration::from_secs(30);
/// Longest that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// A keyspace with the table, dropped at the end of a test that succeeds.
struct Keyspace {
    session: Arc<Session>,
    name: String,
}

impl Keyspace {
    async fn make(cluster: &Cluster) -> Self {
        let mut builder = SessionBuilder::new().known_nodes(&cluster.nodes);
        if let (Some(user), Some(password)) = (cluster.user(), cluster.password()) {
            builder = builder.user(user, password);
        }
        let session = builder.build().await.expect("a session");
        let layout = Layout {
            keyspace: cluster.fresh_keyspace_name(),
            replication: Replication::Everywhere(1),
            cdc: false,
            server: Server::Cassandra("5.0".to_owned()),
        };
        let make = async |text: &str| {
            session.query_unpaged(text, ()).await.expect(text);
        };
        make(&layout.keyspace()).await;
        let table = layout.statements();
        let table = table.iter().find(|text| text.contains(".workers"));
        make(table.expect("a table of workers")).await;
        Self {
            session: Arc::new(session),
            name: layout.keyspace,
        }
    }

    async fn take(
        &self,
        data_dir: &Path,
        worker_id: u32,
        count: u32,
        ttl: Duration,
    ) -> Result<Arc<Lease>, StoreError> {
        let options = LeaseOptions {
            worker_id,
            count,
            ttl,
            holder: Holder::find(data_dir, worker_id)?,
            consistency: Consistency::Quorum,
            serial: SerialConsistency::Serial,
        };
        Lease::take(self.session.clone(), &self.name, options).await
    }

    async fn run(&self, text: &str) {
        let text = text.replace("workers", &format!("{}.workers", self.name));
        self.session.query_unpaged(text, ()).await.expect("a row");
    }

    async fn drop(self) {
        let text = format!("DROP KEYSPACE {}", self.name);
        self.session.query_unpaged(text, ()).await.expect("it goes");
    }
}

fn refused(taken: Result<Arc<Lease>, StoreError>) -> String {
    match taken {
        Err(StoreError::Lease(why)) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was taken"),
    }
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[tokio::test]
async fn a_worker_is_one_process_of_an_agreed_number() {
    let Some(cluster) = Cluster::shared("a_worker_is_one_process_of_an_agreed_number").await else {
        return;
    };
    let keyspace = Keyspace::make(cluster).await;
    let (here, there) = (dir(), dir());
    let first = keyspace
        .take(here.path(), 0, 2, TTL)
        .await
        .expect("a lease");
    assert!(first.valid());
    first.gate().await.expect("an open gate");

    let why = refused(keyspace.take(there.path(), 0, 2, TTL).await);
    let process = format!("process {} on ", std::process::id());
    let place = here.path().canonicalize().expect("a path");
    for part in [
        "worker 0",
        &process,
        &place.display().to_string(),
        "WORKER_ID",
    ] {
        assert!(why.contains(part), "{part} in {why}");
    }
    let why = refused(keyspace.take(there.path(), 1, 3, TTL).await);
    for part in ["is 3 here", "worker 0", "one of 2", "WORKER_COUNT"] {
        assert!(why.contains(part), "{part} in {why}");
    }
    // The refused one left nothing behind.
    let second = keyspace
        .take(there.path(), 1, 2, TTL)
        .await
        .expect("a lease");
    second.release().await;

    first.release().await;
    assert!(!first.valid());
    assert_eq!(first.gate().await, Err(StoreError::Closed));
    // The other place has it at once; its count may be another one now.
    let taken = keyspace
        .take(there.path(), 0, 5, TTL)
        .await
        .expect("a lease");
    taken.release().await;
    keyspace.drop().await;
}

#[tokio::test]
async fn a_restart_takes_its_lease_over_and_a_thief_ends_the_worker() {
    let name = "a_restart_takes_its_lease_over_and_a_thief_ends_the_worker";
    let Some(cluster) = Cluster::shared(name).await else {
        return;
    };
    let keyspace = Keyspace::make(cluster).await;
    let here = dir();
    drop(
        keyspace
            .take(here.path(), 0, 2, TTL)
            .await
            .expect("a lease"),
    );
    // Killed: its row is there still.
    let lease = keyspace
        .take(here.path(), 0, 2, Duration::from_secs(2))
        .await;
    let lease = lease.expect("its lease");
    let running = tokio::spawn(lease.clone().run(CancellationToken::new()));
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        assert!(lease.valid(), "it is renewed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    keyspace
        .run("UPDATE workers USING TTL 60 SET worker_count = 2, holder = 'm:/other', session = 'x@thief/1', since = 1 \
              WHERE worker_id = 0 IF EXISTS")
        .await;
    let ended = tokio::time::timeout(PATIENCE, running).await;
    let error = ended.expect("it ends").expect("no panic");
    let Err(StoreError::Lease(why)) = error else {
        panic!("{error:?}");
    };
    assert!(why.contains("process 1 on thief (m:/other)"), "{why}");
    assert_eq!(lease.gate().await, Err(StoreError::Lease(why)));
    // What is not ours stays.
    lease.release().await;
    drop(lease);
    let why = refused(keyspace.take(here.path(), 0, 2, TTL).await);
    assert!(why.contains("thief"), "{why}");
    keyspace.drop().await;
}

#[tokio::test]
async fn after_an_outage_the_lease_is_taken_again() {
    let Some(cluster) = Cluster::start("after_an_outage_the_lease_is_taken_again", 1).await else {
        return;
    };
    let keyspace = Keyspace::make(&cluster).await;
    let here = dir();
    let ttl = Duration::from_secs(2);
    let lease = keyspace
        .take(here.path(), 0, 1, ttl)
        .await
        .expect("a lease");
    let stop = CancellationToken::new();
    let running = tokio::spawn(lease.clone().run(stop.clone()));

    cluster.pause(1).await;
    let until = Instant::now() + PATIENCE;
    while lease.valid() {
        assert!(Instant::now() < until, "it stops in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Nothing passes, and nothing ends, while the row runs out.
    let gate = tokio::time::timeout(ttl + Duration::from_secs(4), lease.gate()).await;
    gate.expect_err("a closed gate");
    cluster.resume(1).await;
    let gate = tokio::time::timeout(PATIENCE, lease.gate()).await;
    gate.expect("an open gate").expect("a lease");

    stop.cancel();
    running.await.expect("no panic").expect("a quiet end");
    lease.release().await;
    keyspace.drop().await;
}

#[tokio::test]
async fn of_two_that_count_differently_at_the_same_time_at_most_one_runs() {
    let name = "of_two_that_count_differently_at_the_same_time_at_most_one_runs";
    let Some(cluster) = Cluster::shared(name).await else {
        return;
    };
    let keyspace = Keyspace::make(cluster).await;
    let (here, there) = (dir(), dir());
    let mut alone = 0;
    for _ in 0..20 {
        let two = keyspace.take(here.path(), 0, 2, TTL);
        let three = keyspace.take(there.path(), 1, 3, TTL);
        match tokio::join!(two, three) {
            (Ok(_), Ok(_)) => panic!("both run"),
            (Ok(lease), other) | (other, Ok(lease)) => {
                assert!(refused(other).contains("WORKER_COUNT"));
                lease.release().await;
                alone += 1;
            }
            (one, other) => {
                for why in [refused(one), refused(other)] {
                    assert!(why.contains("WORKER_COUNT"), "{why}");
                }
            }
        }
        // Whatever came of it, nothing is left.
        let next = keyspace.take(here.path(), 2, 9, TTL).await;
        next.expect("an empty table").release().await;
    }
    println!("one of them ran in {alone} of 20 rounds");
    keyspace.drop().await;
}
