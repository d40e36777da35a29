//! Backfill: what of the past is wanted and not held.
//!
//! [`plan`] says which gaps of the ledger are worth one reading of a relay's stream, and for which slots; [`look`] asks the relay
//! what it has of a gap, and what has to be done about it; [`seek`] finds the place in a relay's stream from which a wall-clock
//! time is served. All of that is decided here and done by the daemon.

pub mod jobs;
pub mod limits;
pub mod look;
pub mod plan;
pub mod seek;
pub mod snapshot;
