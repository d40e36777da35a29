//! Keyspaces of the tests' own, and the stores in them.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use penstock::config::{Consistency, Replication, Secret};
use penstock::slot::SlotSet;
use penstock::store::Store;
use penstock::store::scylla::{ScyllaOptions, ScyllaStore};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;

use crate::cluster::Cluster;

/// Claims trail by so much: long enough to be seen, short enough to be waited for.
pub const SYNC_LAG: Duration = Duration::from_millis(300);

/// A keyspace that no other test uses, not made yet. It is dropped with this, also where a test fails.
pub struct Keyspace {
    cluster: Where,
    name: String,
    copies: u16,
}

/// The cluster that has it.
#[derive(Clone)]
enum Where {
    Shared(&'static Cluster),
    Own(Arc<Cluster>),
}

impl Deref for Where {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        match self {
            Self::Shared(cluster) => cluster,
            Self::Own(cluster) => cluster,
        }
    }
}

impl Keyspace {
    /// As [`Keyspace::fresh`], outside of a runtime.
    pub fn fresh_blocking() -> Option<Self> {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("cql");
        Cluster::shared_blocking(test).map(Self::on)
    }

    /// On the shared cluster; `None`, and a word on it, where there is none.
    pub async fn fresh() -> Option<Self> {
        // The harness names a test's thread after it.
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("cql");
        Cluster::shared(test).await.map(Self::on)
    }

    /// On this cluster.
    pub fn on(cluster: &'static Cluster) -> Self {
        Self {
            cluster: Where::Shared(cluster),
            name: cluster.fresh_keyspace_name(),
            copies: 1,
        }
    }

    /// On a cluster of the test's own, with so many copies of each row.
    pub fn on_own(cluster: Arc<Cluster>, copies: u16) -> Self {
        let name = cluster.fresh_keyspace_name();
        Self {
            cluster: Where::Own(cluster),
            name,
            copies,
        }
    }

    /// Where it is.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What sets a penstock process to it.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let lag = format!("{}ms", SYNC_LAG.as_millis());
        let mut variables = self.cluster.environment();
        variables.extend([
            ("SCYLLA_KEYSPACE", self.name.clone()),
            (
                "PENSTOCK_STORE__SCYLLA__REPLICATION",
                self.copies.to_string(),
            ),
            ("PENSTOCK_STORE__SCYLLA__SYNC_LAG", lag),
        ]);
        variables
    }

    /// How the daemon of one worker would open it.
    pub fn options(&self) -> ScyllaOptions {
        let user = self.cluster.user().zip(self.cluster.password());
        ScyllaOptions {
            nodes: self.cluster.nodes.clone(),
            keyspace: self.name.clone(),
            user: user.map(|(user, password)| (user.to_owned(), Secret::new(password))),
            tls: None,
            datacenter: None,
            replication: Replication::Everywhere(self.copies),
            consistency: Consistency::LocalQuorum,
            in_flight: 256,
            request_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            sync_lag: SYNC_LAG,
            cdc: false,
            index: true,
            quarantine_max_bytes: 1 << 30,
            slots: SlotSet::ALL,
            create: true,
            lease: None,
        }
    }

    /// Opens a store in it, and makes what is missing of it.
    pub async fn open(&self) -> Arc<dyn Store> {
        open(self.options()).await
    }

    /// Whether anyone has made it.
    pub async fn is_there(&self) -> bool {
        let session = session(&self.cluster).await;
        let query = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?";
        let found = session.query_unpaged(query, (&self.name,)).await;
        let rows = found.expect("an answer").into_rows_result().expect("rows");
        rows.rows_num() > 0
    }

    /// Runs a statement, in which `KS` stands for its name; again while the servers say that it comes too soon.
    pub async fn run(&self, statement: &str) {
        let statement = statement.replace("KS", &self.name);
        let session = session(&self.cluster).await;
        loop {
            let ran = session.query_unpaged(&*statement, ()).await;
            match ran {
                Ok(_) => return,
                // A password may be changed once in five seconds.
                Err(error) if error.to_string().contains("can only be changed every") => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) => panic!("{statement}: {error}"),
            }
        }
    }

    /// For how many seconds a table of it keeps tombstones.
    pub async fn gc_grace_seconds(&self, table: &str) -> i32 {
        let query = "SELECT gc_grace_seconds FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?";
        let session = session(&self.cluster).await;
        let found = session.query_unpaged(query, (&self.name, table)).await;
        let rows = found.expect("an answer").into_rows_result().expect("rows");
        rows.single_row::<(i32,)>().expect("a table").0
    }

    /// Flushes and compacts all of it, which takes seconds.
    pub async fn merge(&self) {
        self.cluster.flush_and_compact(&self.name).await;
    }
}

impl Drop for Keyspace {
    fn drop(&mut self) {
        // A cluster of the test's own ends with its data.
        let Where::Shared(cluster) = self.cluster else {
            return;
        };
        let statement = format!("DROP KEYSPACE IF EXISTS {}", self.name);
        // A thread of its own, for this may be dropped on one of a runtime's.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let dropped = session(cluster).await.query_unpaged(statement, ()).await;
                dropped.map(drop).expect("the keyspace is dropped");
            });
        });
        let ended = dropping.join();
        // A test that failed has said why.
        assert!(
            ended.is_ok() || std::thread::panicking(),
            "a keyspace is left"
        );
    }
}

/// Opens a store, and makes what is missing of it.
pub async fn open(options: ScyllaOptions) -> Arc<dyn Store> {
    let store = ScyllaStore::open(options).await;
    Arc::new(store.unwrap_or_else(|error| panic!("{error}")))
}

/// A session of the driver's, for what the store does not do.
pub async fn session(cluster: &Cluster) -> Session {
    let mut builder = SessionBuilder::new()
        .known_nodes(&cluster.nodes)
        .fetch_schema_metadata(false);
    if let Some((user, password)) = cluster.user().zip(cluster.password()) {
        builder = builder.user(user, password);
    }
    builder.build().await.expect("a session")
}
