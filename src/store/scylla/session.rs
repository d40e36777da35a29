//! Connecting: contact points, authentication, TLS, and whose CQL it is.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use rustls::{CertificateError, Error as TlsError};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{
    ConnectionError, ConnectionPoolError, DbError, ExecutionError, MetadataError, NewSessionError,
    RequestAttemptError,
};
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::statement::{Consistency, SerialConsistency};

use super::ScyllaOptions;
use super::errors::is_denied;
use super::server::Server;
use super::statements::Levels;
use crate::config;
use crate::store::StoreError;

/// How often a connection asks for a sign of life, and for how long it waits for one. A node that hangs is known by nothing
/// else: until its connections are given up every third request or so is sent to it, and its silence looks like overload.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
const SILENCE: Duration = Duration::from_secs(3);

/// Longest text of an error that is passed on.
const LONGEST: usize = 500;

/// The levels of what the configuration asks for.
pub(super) fn levels(consistency: config::Consistency) -> Levels {
    let (write, read) = match consistency {
        config::Consistency::LocalQuorum => (Consistency::LocalQuorum, Consistency::LocalQuorum),
        config::Consistency::Quorum => (Consistency::Quorum, Consistency::Quorum),
        // There is no such read.
        config::Consistency::EachQuorum => (Consistency::EachQuorum, Consistency::LocalQuorum),
        config::Consistency::All => (Consistency::All, Consistency::All),
    };
    Levels { write, read }
}

/// Connects and authenticates.
///
/// # Errors
///
/// [`StoreError::Unavailable`] if no node answers, [`StoreError::Denied`] if they refuse us.
pub(super) async fn connect(options: &ScyllaOptions) -> Result<Session, StoreError> {
    let mut policy = DefaultPolicy::builder().token_aware(true);
    if let Some(datacenter) = &options.datacenter {
        policy = policy.prefer_datacenter(datacenter.clone());
    }
    let profile = ExecutionProfile::builder()
        .consistency(levels(options.consistency).read)
        .serial_consistency(Some(SerialConsistency::LocalSerial))
        .request_timeout(Some(options.request_timeout))
        .load_balancing_policy(policy.build())
        .build();
    let mut builder = SessionBuilder::new()
        .known_nodes(&options.nodes)
        .connection_timeout(options.connect_timeout)
        .keepalive_interval(SIGN_OF_LIFE)
        .keepalive_timeout(SILENCE)
        // Where the copies are and the names of the tables: without them no request goes to a replica.
        .keyspaces_to_fetch([&options.keyspace])
        .fetch_full_schema_metadata(false)
        .default_execution_profile_handle(profile.into_handle());
    if let Some((user, password)) = &options.user {
        builder = builder.user(user, password.expose());
    }
    if let Some(tls) = &options.tls {
        builder = builder.tls_context(Some(Arc::clone(tls)));
    }
    let connected = builder.build().await;
    let session = connected.map_err(|error| refused(options, &error))?;
    datacenter(&session, options)?;
    Ok(session)
}

/// The datacenter must be told where there are several and the level is of one: each request would go to another, which
/// has neither the lease nor what was just written.
fn datacenter(session: &Session, options: &ScyllaOptions) -> Result<(), StoreError> {
    let state = session.get_cluster_state();
    let nodes = state.get_nodes_info().iter();
    let there: BTreeSet<&str> = nodes
        .filter_map(|node| node.datacenter.as_deref())
        .collect();
    let names = || there.iter().copied().collect::<Vec<_>>().join(", ");
    match &options.datacenter {
        Some(name) if !there.contains(name.as_str()) => Err(StoreError::Schema(format!(
            "store.scylla.datacenter is '{name}', but the nodes are in {}",
            names()
        ))),
        None if there.len() > 1 && levels(options.consistency).read == Consistency::LocalQuorum => {
            Err(StoreError::Schema(format!(
                "the nodes are in several datacenters ({}): set store.scylla.datacenter to the one that all workers write to, \
                 or store.scylla.consistency to QUORUM",
                names()
            )))
        }
        _ => Ok(()),
    }
}

/// What a connection that failed means, and what to set.
fn refused(options: &ScyllaOptions, error: &NewSessionError) -> StoreError {
    let nodes = options.nodes.join(",");
    let text = error.to_string();
    let cause = explain(&text);
    if let Some(TlsError::InvalidCertificate(why)) = tls_error(error) {
        let way_out = match why {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "it must hold the names in store.scylla.nodes (SCYLLA_NODES), and the addresses of all nodes"
            }
            _ => "if the authority is your own, name its PEM file in net.ca_file",
        };
        return StoreError::Denied(format!(
            "the certificate of the nodes {nodes} is refused: {cause}; {way_out}"
        ));
    }
    if is_denied(&text) {
        return StoreError::Denied(format!(
            "the nodes {nodes} refuse the user: {cause}; see store.scylla.user (SCYLLA_USER) and \
             store.scylla.password_file (SCYLLA_PASSWORD_FILE)"
        ));
    }
    let doubt = match (&options.tls, is_garbled(error)) {
        (_, false) => "",
        (Some(_), true) => "; does this port speak TLS, as store.scylla.tls says?",
        (None, true) => "; if this port speaks TLS only, set store.scylla.tls",
    };
    StoreError::Unavailable(format!(
        "no node of {nodes} (store.scylla.nodes, SCYLLA_NODES) can be used: {cause}{doubt}"
    ))
}

/// What the last connection failed with.
fn last_connection(error: &NewSessionError) -> Option<&ConnectionError> {
    match error {
        NewSessionError::MetadataError(MetadataError::ConnectionPoolError(
            ConnectionPoolError::Broken {
                last_connection_error,
            },
        )) => Some(last_connection_error),
        _ => None,
    }
}

fn tls_error(error: &NewSessionError) -> Option<&TlsError> {
    match last_connection(error)? {
        ConnectionError::IoError(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}

/// Whether somebody is there who speaks otherwise than we do.
fn is_garbled(error: &NewSessionError) -> bool {
    match last_connection(error) {
        Some(ConnectionError::IoError(error)) => {
            matches!(
                error.kind(),
                ErrorKind::InvalidData | ErrorKind::UnexpectedEof
            )
        }
        Some(
            ConnectionError::BrokenConnection(_) | ConnectionError::ConnectionSetupRequestError(_),
        ) => true,
        _ => false,
    }
}

/// Asks whose CQL it is.
pub(super) async fn server(session: &Session) -> Result<Server, StoreError> {
    if let Some(version) = version(
        session,
        "SELECT version FROM system.versions WHERE key = 'local'",
    )
    .await?
    {
        return Ok(Server::Scylla(version));
    }
    let version = version(session, "SELECT release_version FROM system.local").await?;
    Ok(Server::Cassandra(version.unwrap_or_default()))
}

/// A version; `None` where there is no such table.
async fn version(session: &Session, question: &str) -> Result<Option<String>, StoreError> {
    let answer = match session.query_unpaged(question, ()).await {
        Ok(answer) => answer,
        Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(
            DbError::Invalid,
            _,
        ))) => {
            return Ok(None);
        }
        Err(error) => return Err(StoreError::Unavailable(explain(&error.to_string()))),
    };
    let garbled = |error: String| StoreError::Unavailable(explain(&error));
    let rows = answer
        .into_rows_result()
        .map_err(|error| garbled(error.to_string()))?;
    let row = rows.maybe_first_row::<(String,)>();
    Ok(row
        .map_err(|error| garbled(error.to_string()))?
        .map(|(version,)| version))
}

/// The text of an error of the driver: printable, and no longer than people read.
pub(super) fn explain(text: &str) -> String {
    let printable = text.chars().filter(|c| !c.is_control());
    printable.take(LONGEST).collect()
}
