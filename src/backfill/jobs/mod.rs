//! Jobs: a backfill asked for by configuration or by an operator, that can be watched, stopped, resumed and believed.
//!
//! The [`Roster`] keeps them; a run ([`run`]) takes pages of repositories from a discovery ([`discover`]), each repository goes
//! through [`unit`], and what is done moves the checkpoint ([`pages`]). The standing job ([`repairs`]) works off what the streams
//! could not decide.

mod account;
mod discover;
mod estimate;
mod failure;
mod followed;
mod gaps;
mod hosts;
mod known;
mod left_alone;
mod listed;
mod live;
mod locked;
mod model;
mod pages;
mod purge;
mod record;
mod repairs;
mod repository;
mod roster;
mod run;
mod scope;
mod single;
mod tools;
mod triggers;
mod turns;
mod unit;
mod workers;

pub use followed::Followed;
pub use gaps::LedgerNow;
pub use model::{
    CollectionCounts, Estimate, FailureView, Force, JobRequest, JobStatus, JobType, JobView, Jobs,
    JobsError, Stage, Started,
};
pub use purge::purge;
pub use roster::Roster;
pub use tools::{DidLocks, JobOptions, Tools};
