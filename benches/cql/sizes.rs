//! What the server's files take, after all of it was flushed and merged.

use std::time::Instant;

use crate::cluster::Cluster;
use crate::keyspaces::Keyspace;

/// Rows of `nodetool tablestats` that tell of size.
const SIZES: [&str; 4] = [
    "Space used (live)",
    "SSTable count",
    "SSTable Compression Ratio",
    "Compacted partition maximum bytes",
];

/// Flushes and compacts, and tells the sizes. A person's cluster can't be told to.
pub async fn merge(cluster: &Cluster, keyspace: &Keyspace, tables: &[&str]) {
    let name = keyspace.options().keyspace;
    if !cluster.is_own() {
        println!("not merged: look at nodetool tablestats {name}");
        return;
    }
    let began = Instant::now();
    keyspace.merge().await;
    println!("flush and major compaction: {:.1?}", began.elapsed());
    for table in tables {
        let of = format!("{name}.{table}");
        let told = cluster.nodetool(1, &["tablestats", &of]).await;
        let lines = told.lines().map(str::trim);
        let sizes = lines.filter(|line| SIZES.iter().any(|name| line.starts_with(name)));
        println!("  {table}: {}", sizes.collect::<Vec<_>>().join(", "));
    }
}
