//! What watches a daemon: the dashboards, the alerts, and what starts them. Beside what can be read off the files, a real Prometheus
//! scrapes a real daemon that works, and answers every query.
//!
//! It needs Debian's package `prometheus` (its service need not run); without it these tests say that they are skipped (with
//! `CI=true` they fail).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod boards;
mod compose;
mod expression;
#[path = "../installed/mod.rs"]
mod installed;
mod prometheus;
mod rules;
mod scrape;

use std::fs;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

const RUNBOOK: &str = "docs/runbook.md";

/// Whether a link leads to a heading of the runbook, which is at `place`.
fn is_in_the_runbook(link: &str, place: &str) -> bool {
    let anchor = link.strip_prefix(place);
    let Some(anchor) = anchor.and_then(|rest| rest.strip_prefix('#')) else {
        return false;
    };
    let runbook = read(RUNBOOK);
    let headings = runbook.lines().filter(|line| line.starts_with('#'));
    let mut anchors = headings.map(|line| line.trim_start_matches(['#', ' ']).to_lowercase());
    anchors.any(|heading| heading.replace(' ', "-") == anchor)
}
