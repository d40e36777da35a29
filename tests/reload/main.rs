//! SIGHUP to the real binary: what is taken up, what is refused, what a mistake does, and that nothing is lost or claimed falsely.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod collections;
mod descriptors;
#[path = "../frame_builder/mod.rs"]
mod frame_builder;
#[path = "../installed/mod.rs"]
mod installed;
mod keys;
#[path = "../collections/relay.rs"]
mod relay;
mod site;
