//! Stores and schemas as earlier builds made them, kept in this folder: the current code reads all of them, and goes on.
//!
//! A new format or version is kept by `PENSTOCK_BLESS=1 cargo test --test upgrade today`. What is kept is never made anew: it is what is
//! out there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[allow(dead_code)]
#[path = "../moves/content.rs"]
mod content;
#[path = "../installed/mod.rs"]
mod installed;
mod keeping;
mod layout;
mod schema;
mod store;

use std::path::PathBuf;

/// Where all is kept.
fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/upgrade"))
}

/// Whether what is not kept yet is to be.
fn blesses() -> bool {
    std::env::var_os("PENSTOCK_BLESS").is_some()
}
