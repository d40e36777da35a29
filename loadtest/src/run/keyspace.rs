//! The keyspace that a run makes on a cluster, and drops in the end.

use std::time::Duration;

use anyhow::Context;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;

use super::workers::NODES;

/// Dropping waits for every node, and for a snapshot on each.
const PATIENCE: Duration = Duration::from_secs(60);

/// A keyspace that nobody else has. A daemon makes it; it is dropped with this.
pub(super) struct Keyspace(String);

impl Keyspace {
    /// One of this run's own, unless somebody chose one by `SCYLLA_KEYSPACE`.
    pub fn of_this_run() -> Option<Self> {
        if std::env::var_os("SCYLLA_KEYSPACE").is_some() {
            return None;
        }
        let (now, process) = (jiff::Timestamp::now().as_second(), std::process::id());
        Some(Self(format!("penstock_load_{now}_{process}")))
    }

    pub fn name(&self) -> &str {
        &self.0
    }

    fn remove(&self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let statement = format!("DROP KEYSPACE IF EXISTS {}", self.0);
        runtime.block_on(async {
            let dropping = session().await?.query_unpaged(statement, ()).await;
            dropping.map(drop).context("dropping it")
        })
    }
}

impl Drop for Keyspace {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            let name = self.name();
            eprintln!(
                "penstock-loadtest: the keyspace {name} is left ({error:#}); `DROP KEYSPACE {name}` in cqlsh removes it"
            );
        }
    }
}

/// As the daemons log in: by `SCYLLA_NODES`, `SCYLLA_USER` and `SCYLLA_PASSWORD_FILE`.
async fn session() -> anyhow::Result<Session> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let nodes = variable(NODES).context(NODES)?;
    let nodes: Vec<&str> = nodes.split(',').map(str::trim).collect();
    let profile = scylla::client::execution_profile::ExecutionProfile::builder()
        .request_timeout(Some(PATIENCE))
        .build();
    let mut builder = SessionBuilder::new()
        .known_nodes(nodes)
        .fetch_schema_metadata(false)
        .default_execution_profile_handle(profile.into_handle());
    if let Some(user) = variable("SCYLLA_USER") {
        let password = match variable("SCYLLA_PASSWORD_FILE") {
            Some(file) => std::fs::read_to_string(&file).context(file)?,
            None => String::new(),
        };
        builder = builder.user(user, password.trim_end_matches('\n'));
    }
    Ok(builder.build().await?)
}
