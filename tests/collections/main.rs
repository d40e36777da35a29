//! Collections that are added and removed while a daemon runs, through its HTTP surface, over a simulated network.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../frame_builder/mod.rs"]
mod frame_builder;
mod relay;
mod site;
#[path = "../repos/stores.rs"]
mod stores;
mod story;
