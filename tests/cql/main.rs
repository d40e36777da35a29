//! Tests against a real Cassandra, which `tests/cql/install` fetches at the first run; that needs Java 17, Maven and the network.
//! Without them the tests say that they are skipped (with `CI=true` they fail). With `SCYLLA_NODES` they use that cluster, in
//! keyspaces that they make and drop.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod cluster;
mod lease;
mod servers;
