//! The CQL store before a real server: its speed beside a bare loop of the same statements, and a repository that is huge.
//!
//! ```text
//! cargo bench --bench cql -- speed [IN_FLIGHT] [ROUNDS]
//! cargo bench --bench cql -- large [RECORDS]
//! ```
//!
//! The server is a Cassandra of one node on this machine, compiled by Java's second compiler as in production (see
//! tests/cql/cluster), or the cluster of `SCYLLA_NODES` (`SCYLLA_USER`, `SCYLLA_PASSWORD_FILE`), in a keyspace that is dropped
//! at the end. Without Java 17 or Maven it says that it is skipped.

mod bare;
#[path = "../../tests/cql/cluster.rs"]
mod cluster;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../../tests/cql/keyspaces.rs"]
mod keyspaces;
mod large;
mod sizes;
mod spans;
mod speed;
mod writes;

use cluster::Cluster;

fn main() {
    let mut args = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"));
    let what = args.next();
    let mut number = |default: u64| args.next().map_or(default, |text| text.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    match what.as_deref() {
        Some("speed") => {
            let (in_flight, rounds) = (number(256), number(8));
            let in_flight = usize::try_from(in_flight).unwrap();
            with_cluster(&runtime, async |cluster| {
                speed::run(cluster, in_flight, rounds).await;
            });
        }
        Some("large") => {
            let records = number(1_000_000);
            with_cluster(&runtime, async |cluster| large::run(cluster, records).await);
        }
        _ => println!("skipped: say speed or large"),
    }
}

fn with_cluster(runtime: &tokio::runtime::Runtime, run: impl AsyncFnOnce(&'static Cluster)) {
    if let Some(cluster) = Cluster::for_speed("the benchmark cql") {
        // It ends with this process.
        runtime.block_on(run(Box::leak(Box::new(cluster))));
    }
}
