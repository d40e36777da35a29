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
#[path = "../contract/mod.rs"]
mod contract;
mod documented;
mod every_store;
mod exits;
mod faults;
#[path = "../histories/mod.rs"]
mod histories;
mod installations;
#[path = "../installed/mod.rs"]
mod installed;
mod keyspaces;
#[path = "../crash/kills.rs"]
mod kills;
mod lease;
mod logins;
mod lost_answers;
#[path = "../machine/mod.rs"]
mod machine;
mod moves;
mod nodes;
#[path = "../pds/mod.rs"]
mod pds;
mod proxy;
mod schemas;
mod servers;
mod service;
mod stores;
#[path = "../subject/mod.rs"]
mod subject;
mod upgrades;
#[path = "../newcomer/way.rs"]
mod way;
#[path = "../window/history.rs"]
mod window;
mod workers;

// Workers in this process, over a store of this binary's.
#[path = "../firehose/bad_input.rs"]
mod bad_input;
#[path = "../firehose/choices.rs"]
mod choices;
#[path = "../firehose/clock.rs"]
mod clock;
#[path = "../firehose/fallback.rs"]
mod fallback;
#[path = "../firehose/numbers.rs"]
mod numbers;
#[path = "../firehose/stream.rs"]
mod stream;
#[path = "../firehose/worker.rs"]
mod worker;

// Jobs that fetch repositories, over a store of this binary's.
#[path = "../repos/accounts.rs"]
mod accounts;
#[path = "../repos/counts.rs"]
mod counts;
#[path = "../repos/crawl.rs"]
mod crawl;
#[path = "../repos/discovery.rs"]
mod discovery;
#[path = "../repos/hosts.rs"]
mod hosts;
#[path = "../repos/jobs.rs"]
mod jobs;
#[path = "../repos/sequences.rs"]
mod sequences;
#[path = "../repos/site.rs"]
mod site;

// Collections that are added and removed, over a store of this binary's.
mod collections;
#[path = "../frame_builder/mod.rs"]
mod frame_builder;
