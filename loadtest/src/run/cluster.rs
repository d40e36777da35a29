//! The cluster that a run uses: how it logs in, and the keyspace that it makes there and drops in the end.

use std::time::Duration;

use anyhow::Context;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;

use super::workers::NODES;

/// Dropping a keyspace waits for every node, and for a snapshot on each.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks the cluster; a session ends with its question.
pub(super) fn ask<T>(
    question: impl AsyncFnOnce(&Session) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async { question(&session().await?).await })
}

/// As the daemons log in: by `SCYLLA_NODES`, `SCYLLA_USER` and `SCYLLA_PASSWORD_FILE`.
async fn session() -> anyhow::Result<Session> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let nodes = variable(NODES).context(NODES)?;
    let profile = ExecutionProfile::builder()
        .request_timeout(Some(PATIENCE))
        .build();
    let mut builder = SessionBuilder::new()
        .known_nodes(nodes.split(',').map(str::trim))
        .fetch_schema_metadata(false)
        .fetch_full_schema_metadata(false)
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
}

impl Drop for Keyspace {
    fn drop(&mut self) {
        let name = self.name();
        let statement = format!("DROP KEYSPACE IF EXISTS {name}");
        let dropped = ask(async |session| Ok(session.query_unpaged(&*statement, ()).await?));
        if let Err(error) = dropped {
            eprintln!(
                "penstock-loadtest: the keyspace {name} is left, drop it in cqlsh: {error:#}"
            );
        }
    }
}
