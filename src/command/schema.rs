//! `penstock schema`: the CQL of the schema, or its making.

use std::io::Write as _;

use super::source::stdout;
use super::storage::{cql_options, is_cql};
use super::{Exit, Failure, SchemaArgs};
use crate::config::Config;
use crate::store::scylla::{ScyllaStore, Server};

/// Prints the CQL for the server that is configured (ScyllaDB where none is), or makes it there.
pub(super) async fn run(config: Config, args: SchemaArgs) -> Result<Exit, Failure> {
    let options = cql_options(&config)?;
    if !args.apply {
        let server = match is_cql(&config) {
            true => ScyllaStore::server(&options).await?,
            false => Server::Scylla("2025.4".to_owned()),
        };
        let script = options.layout(server.clone()).script();
        write!(stdout(), "-- For {server}\n{script}")?;
        return Ok(Exit::Done);
    }
    if !is_cql(&config) {
        return Err(Failure::new(
            Exit::Config,
            "--apply needs a database: name its nodes by SCYLLA_NODES or store.scylla.nodes",
        ));
    }
    ScyllaStore::create(&options).await?;
    let keyspace = &options.keyspace;
    writeln!(stdout(), "the keyspace {keyspace} has every table")?;
    Ok(Exit::Done)
}
