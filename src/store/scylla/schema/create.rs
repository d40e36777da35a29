//! Looking at a keyspace, and making what is not there.

use std::collections::HashMap;
use std::time::Duration;

use scylla::client::session::Session;
use scylla::errors::ExecutionError;
use scylla::response::query_result::{QueryResult, QueryRowsResult};
use scylla::serialize::row::SerializeRow;

use super::super::errors::{DENIED, SCHEMA, Verdict, classify};
use super::super::session::explain;
use super::check::{Column, Found};
use super::{Layout, VERSION};
use crate::store::StoreError;

/// How long another worker may take to make the schema.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(500);

/// Makes the keyspace and what it lacks, then checks it.
///
/// # Errors
///
/// [`StoreError::Schema`] if what is there is not what this build needs; it is left as it is.
pub(in super::super) async fn create(session: &Session, layout: &Layout) -> Result<(), StoreError> {
    let before = found(session, layout).await?;
    refuse(layout, &before)?;
    if before.is_whole() {
        return Ok(());
    }
    tracing::info!(keyspace = layout.keyspace, server = %layout.server, "making the tables");
    // A keyspace that is there is as its operator wants it.
    if before.version.is_none() {
        enough_nodes(session, layout)?;
        run(session, &layout.keyspace()).await?;
    }
    for statement in layout.statements() {
        run(session, &statement).await?;
    }
    let version = format!(
        "INSERT INTO {}.schema_version (name, version) VALUES ('penstock', {VERSION}) USING TIMESTAMP {VERSION}",
        layout.keyspace
    );
    run(session, &version).await?;
    check(session, layout).await
}

/// Waits until another worker has made the schema, and checks it.
pub(in super::super) async fn await_made(
    session: &Session,
    layout: &Layout,
) -> Result<(), StoreError> {
    let made = async {
        let mut look = tokio::time::interval(LOOK);
        let mut waits = false;
        loop {
            look.tick().await;
            let found = found(session, layout).await?;
            // The version is written last.
            if found.version.is_some_and(|version| version >= VERSION) {
                return refuse(layout, &found);
            }
            if !waits {
                waits = true;
                tracing::info!(
                    keyspace = layout.keyspace,
                    "waiting for worker 0 to make the tables"
                );
            }
        }
    };
    tokio::time::timeout(PATIENCE, made).await.unwrap_or_else(|_| {
        Err(StoreError::Unavailable(format!(
            "the keyspace {} lacks tables of this build after {} s: start worker 0, which makes them, or run 'penstock schema --apply'",
            layout.keyspace,
            PATIENCE.as_secs()
        )))
    })
}

/// Whether the schema was made; checks it where it was.
///
/// # Errors
///
/// [`StoreError::Schema`] if what is there is not what this build needs.
pub(in super::super) async fn is_made(
    session: &Session,
    layout: &Layout,
) -> Result<bool, StoreError> {
    let found = found(session, layout).await?;
    refuse(layout, &found)?;
    if let Some(version) = found.version.filter(|version| *version < VERSION) {
        return Err(StoreError::Schema(format!(
            "the tables in the keyspace {} are those of version {version}, and this build needs those of {VERSION}: start worker \
             0, which adds what is missing, or run 'penstock schema --apply'",
            layout.keyspace
        )));
    }
    Ok(found.is_whole())
}

/// Checks a schema that must be there.
async fn check(session: &Session, layout: &Layout) -> Result<(), StoreError> {
    let found = found(session, layout).await?;
    refuse(layout, &found)?;
    let missing = found.missing();
    if missing.is_empty() {
        return Ok(());
    }
    Err(StoreError::Schema(format!(
        "the keyspace {} lacks {}",
        layout.keyspace,
        missing.join(", ")
    )))
}

fn refuse(layout: &Layout, found: &Found) -> Result<(), StoreError> {
    let differences = found.differences(layout);
    if differences.is_empty() {
        return Ok(());
    }
    Err(StoreError::Schema(format!(
        "the tables in the keyspace {} are not those of this build, and nothing was changed:\n  {}",
        layout.keyspace,
        differences.join("\n  ")
    )))
}

/// A keyspace with more copies than there are nodes could never be written at a quorum.
fn enough_nodes(session: &Session, layout: &Layout) -> Result<(), StoreError> {
    let state = session.get_cluster_state();
    let wanted: Vec<(Option<&str>, u16)> = match &layout.replication {
        crate::config::Replication::Everywhere(copies) => vec![(None, *copies)],
        crate::config::Replication::Datacenters(each) => {
            let each = each.iter();
            each.map(|(name, copies)| (Some(name.as_str()), *copies))
                .collect()
        }
    };
    for (datacenter, copies) in wanted {
        let nodes = state.get_nodes_info().iter();
        let there =
            nodes.filter(|node| datacenter.is_none() || node.datacenter.as_deref() == datacenter);
        let there = there.count();
        if there < usize::from(copies) {
            let place = datacenter.map_or("the cluster".to_owned(), |name| {
                format!("the datacenter {name}")
            });
            return Err(StoreError::Schema(format!(
                "store.scylla.replication asks for {copies} copies, but {place} has {there} nodes: add nodes, or set it to \
                 {there} before the keyspace is made (with one copy, a lost disk is lost data)"
            )));
        }
    }
    Ok(())
}

async fn run(session: &Session, statement: &str) -> Result<(), StoreError> {
    let done = session.query_unpaged(statement, ()).await;
    done.map(drop).map_err(|error| {
        let failure = classify(&error);
        let words = format!("the servers did not run '{statement}': {}", failure.words);
        match (failure.kind, failure.verdict) {
            (DENIED, _) => StoreError::Denied(words),
            (SCHEMA, _) | (_, Verdict::Never) => StoreError::Schema(words),
            _ => StoreError::Unavailable(words),
        }
    })
}

async fn rows(
    session: &Session,
    question: &str,
    values: impl SerializeRow,
) -> Result<QueryRowsResult, StoreError> {
    rows_of(session.query_unpaged(question, values).await)
}

fn rows_of(answer: Result<QueryResult, ExecutionError>) -> Result<QueryRowsResult, StoreError> {
    let unavailable = |error: String| StoreError::Unavailable(explain(&error));
    let answer = answer.map_err(|error| unavailable(error.to_string()))?;
    answer
        .into_rows_result()
        .map_err(|error| unavailable(error.to_string()))
}

macro_rules! each {
    ($rows:expr, $row:ty) => {{
        let garbled = |error: String| StoreError::Unavailable(explain(&error));
        $rows
            .rows::<$row>()
            .map_err(|error| garbled(error.to_string()))?
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| garbled(error.to_string()))?
    }};
}

/// What the keyspace has.
pub(in super::super) async fn found(
    session: &Session,
    layout: &Layout,
) -> Result<Found, StoreError> {
    let keyspace = (layout.keyspace.to_lowercase(),);
    let mut found = Found::default();
    let question = "SELECT type_name, field_names, field_types FROM system_schema.types WHERE keyspace_name = ?";
    let types = rows(session, question, &keyspace).await?;
    for (name, fields, of) in each!(types, (String, Vec<String>, Vec<String>)) {
        found
            .types
            .insert(name, fields.into_iter().zip(of).collect());
    }
    let question = "SELECT table_name, column_name, type, kind, position, clustering_order FROM system_schema.columns WHERE keyspace_name = ?";
    let columns = rows(session, question, &keyspace).await?;
    for (table, name, of, kind, position, order) in
        each!(columns, (String, String, String, String, i32, String))
    {
        let order = order.to_lowercase();
        found.columns.insert(
            (table, name),
            Column {
                of,
                kind,
                position,
                order,
            },
        );
    }
    let question = "SELECT table_name, gc_grace_seconds, extensions FROM system_schema.tables WHERE keyspace_name = ?";
    let tables = rows(session, question, &keyspace).await?;
    for (table, seconds, extensions) in each!(tables, (String, i32, Option<Extensions>)) {
        let mode = tombstone_gc(extensions.unwrap_or_default());
        found.gc_grace.insert(table.clone(), i64::from(seconds));
        found.tombstone_gc.extend(mode.map(|mode| (table, mode)));
    }
    if found
        .columns
        .keys()
        .any(|(table, _)| table == "schema_version")
    {
        let question = format!(
            "SELECT version FROM {}.schema_version WHERE name = 'penstock'",
            layout.keyspace
        );
        found.version = version(session, &question).await?;
    }
    Ok(found)
}

/// The version that was written; `None` also where servers list the table and do not know it yet: it is being made.
async fn version(session: &Session, question: &str) -> Result<Option<i32>, StoreError> {
    let answer = session.query_unpaged(question, ()).await;
    if let Err(error) = &answer
        && classify(error).kind == SCHEMA
    {
        return Ok(None);
    }
    let version = rows_of(answer)?;
    Ok(each!(version, (i32,)).first().map(|(version,)| *version))
}

/// Settings that only some servers know, as opaque bytes.
type Extensions = HashMap<String, Vec<u8>>;

/// ScyllaDB keeps the mode in a form of its own, in which its word can be found.
fn tombstone_gc(mut extensions: Extensions) -> Option<String> {
    let bytes = extensions.remove("tombstone_gc")?;
    let text = String::from_utf8_lossy(&bytes);
    let modes = ["timeout", "repair", "disabled", "immediate"];
    let mode = modes.into_iter().find(|mode| text.contains(mode));
    mode.map(str::to_owned)
}
