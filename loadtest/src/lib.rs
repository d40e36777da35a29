//! A seeded simulator of AT Protocol relays: real signed repositories, a stream of all their events, what a consumer of it
//! must hold in the end, and a server that serves it, well or badly on purpose.
//!
//! It shares no code with the `penstock` crate, so that it can be its oracle.
//!
//! ```no_run
//! use penstock_loadtest::{RelayOptions, RelayServer, World, WorldSpec};
//!
//! let world = World::generate(&WorldSpec { seed: 7, repos: 20, events: 1_000, ..WorldSpec::default() });
//! let relay = RelayServer::start(&world, RelayOptions::default()).unwrap();
//! println!("follow {}", relay.url());
//! ```

mod actor;
mod check;
mod connection;
pub mod corrupt;
mod cursor;
mod daemon;
pub mod dagcbor;
mod datetime;
mod faults;
mod history;
pub mod lag;
pub mod log;
pub mod message;
pub mod mst;
pub mod network;
mod numbering;
mod oracle;
mod records;
mod relay;
pub mod repo;
pub mod run;
pub mod speed;
mod tid;
mod world;

pub use check::{Diff, Difference, check};
pub use corrupt::Corruption;
pub use cursor::{Cursors, Future, Outdated, Retained};
pub use datetime::now_micros;
pub use faults::{ConnectionFaults, DropKind, Refusal};
pub use log::FrameLog;
pub use oracle::{Oracle, Record, RepoState};
pub use relay::{OracleLines, Pace, RelayOptions, RelayServer, Served};
pub use repo::Signatures;
pub use tid::Tid;
pub use world::{
    Account, Accounts, Manifest, Prepared, Restart, StreamFaults, Summary, World, WorldSpec,
    prepare,
};
