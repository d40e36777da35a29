//! Penstock as a service: what systemd says of the units, what the daemon says to systemd, and the Debian package.
//!
//! Needs systemd's programs (they need not have started this machine), systemd-nspawn and cargo-deb; without them the tests say that they are
//! skipped (with `CI=true` they fail).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../installed/mod.rs"]
mod installed;
#[path = "../machine/mod.rs"]
mod machine;
mod notify;
mod package;
mod service;
mod units;

use std::path::{Path, PathBuf};

/// A file of this repository.
fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}
