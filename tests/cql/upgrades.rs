//! Keyspaces as earlier builds made them: the scripts that `tests/upgrade` keeps.

use std::fs;

use penstock::store::scylla::ScyllaStore;

use crate::contract::{self, DID, POST, one};
use crate::keyspaces::Keyspace;

/// The versions that are kept for a server, and their scripts.
fn kept(server: &str) -> Vec<(i32, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/upgrade");
    let files = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let kept: Vec<_> = files
        .filter_map(|file| {
            let name = file.file_name().into_string().unwrap();
            let version = name.strip_prefix("schema-")?;
            let version = version.strip_suffix(&format!(".{server}.cql"))?;
            let script = fs::read_to_string(file.path()).unwrap();
            Some((version.parse().unwrap(), script))
        })
        .collect();
    assert!(!kept.is_empty(), "{folder} has none for {server}");
    kept
}

/// The statements of a script, for a keyspace of the test's own.
fn statements(script: &str) -> Vec<String> {
    let lines = script.lines().filter(|line| !line.starts_with("--"));
    let script: Vec<&str> = lines.collect();
    let script = script.join("\n").replace("penstock.", "KS.");
    let script = script.replace("EXISTS penstock ", "EXISTS KS ");
    let script = script.replace("'replication_factor': 3", "'replication_factor': 1");
    let statements = script.split(";\n").map(str::trim);
    statements
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn a_schema_that_was_kept_is_opened_and_gone_on_with() {
    let Some(keyspace) = Keyspace::fresh().await else {
        return;
    };
    let server = ScyllaStore::server(&keyspace.options()).await.unwrap();
    let server = if server.is_scylla() {
        "scylla"
    } else {
        "cassandra"
    };
    for (version, script) in kept(server) {
        let keyspace = Keyspace::fresh().await.unwrap();
        for statement in statements(&script) {
            keyspace.run(&statement).await;
        }
        let says = format!(
            "INSERT INTO KS.schema_version (name, version) VALUES ('penstock', {version}) USING TIMESTAMP {version}"
        );
        keyspace.run(&says).await;
        let store = keyspace.open().await;
        let rev = penstock::decode::Tid::new(1, 0);
        store
            .apply(one(DID, "3mwgncrrtze22", rev, Some(b"new")))
            .await
            .unwrap();
        let record = store.record(DID, POST, "3mwgncrrtze22").await.unwrap();
        assert_eq!(record.unwrap().record, b"new", "{version}");
        contract::kept::jobs_are_compared_and_set(&*store).await;
        contract::kept::choices_are_kept_by_kind(&*store).await;
    }
}
