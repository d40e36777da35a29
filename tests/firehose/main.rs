//! The daemon in this process against the simulated relay: what it holds in the end equals the oracle.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod bad_input;
mod choices;
mod clock;
mod fallback;
mod numbers;
mod pressure;
mod service;
mod stores;
mod stream;
mod worker;
