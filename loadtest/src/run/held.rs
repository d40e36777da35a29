//! Whether all is held in the end: what the store's own commands print, compared with the oracle.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, bail};

use super::workers::Installation;
use crate::{Diff, Oracle, check};

/// What is held.
pub(super) struct Held {
    /// What is not as it must be.
    pub diff: Diff,
    /// Rows of the quarantine.
    pub quarantined: u64,
}

/// Looks, while no daemon runs.
pub(super) fn look(installation: &Installation, oracle: &Path) -> anyhow::Result<Held> {
    let repos = printed(installation.command("repos")?, |mut out| {
        let mut text = Vec::new();
        out.read_to_end(&mut text)?;
        Ok(text)
    })?;
    let mut list = installation.command("quarantine")?;
    list.arg("list");
    let quarantined = printed(list, |out| {
        out.lines().try_fold(0, |rows, line| line.map(|_| rows + 1))
    })?;
    let file = std::fs::File::open(oracle)?;
    let oracle = Oracle::read(BufReader::with_capacity(1 << 20, file))?;
    let diff = printed(installation.command("dump")?, |out| {
        check(&oracle, out, Some(repos.as_slice()))
    })?;
    Ok(Held { diff, quarantined })
}

/// Reads what a command prints; it must end well.
fn printed<T>(
    mut command: Command,
    read: impl FnOnce(BufReader<ChildStdout>) -> std::io::Result<T>,
) -> anyhow::Result<T> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let arguments: Vec<_> = command
        .get_args()
        .map(|part| part.to_string_lossy())
        .collect();
    let words = format!("penstock {}", arguments.join(" "));
    let mut child: Child = command.spawn().with_context(|| words.clone())?;
    let out = child.stdout.take().context("no output")?;
    let read = read(BufReader::with_capacity(1 << 20, out)).with_context(|| words.clone());
    let status = child.wait()?;
    if !status.success() {
        bail!("{words} ended with {status}");
    }
    read
}
