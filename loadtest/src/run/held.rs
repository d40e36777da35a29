//! Whether all is held in the end: what the store's own commands print, compared with the oracle.

use std::collections::HashSet;
use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, bail};

use super::workers::Installation;
use crate::{Diff, Oracle, Prepared, check};

/// What is held.
pub(super) struct Held {
    /// What is not as it must be.
    pub diff: Diff,
    /// Rows of the quarantine,
    pub quarantined: u64,
    /// and how many it must have.
    pub to_quarantine: u64,
}

/// Looks, while no daemon runs.
pub(super) fn look(installation: &Installation, prepared: &Prepared) -> anyhow::Result<Held> {
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
    let file = std::fs::File::open(&prepared.oracle)?;
    let oracle = Oracle::read(BufReader::with_capacity(1 << 20, file))?;
    let diff = printed(installation.command("dump")?, |out| {
        check(&oracle, out, Some(repos.as_slice()))
    })?;
    Ok(Held {
        diff,
        quarantined,
        to_quarantine: to_quarantine(prepared)?,
    })
}

/// Frames that can't be taken in; equal ones are one row.
fn to_quarantine(prepared: &Prepared) -> io::Result<u64> {
    let (log, summary) = (&prepared.log, &prepared.manifest.summary);
    let seqs = summary.corrupt_seqs.iter().chain(&summary.too_large_seqs);
    let payloads = seqs.map(|seq| log.payloads(log.position(*seq)));
    let payloads: HashSet<_> = payloads.collect::<io::Result<_>>()?;
    Ok(payloads.len() as u64)
}

/// Reads what a command prints; it must end well.
fn printed<T>(
    mut command: Command,
    read: impl FnOnce(BufReader<ChildStdout>) -> io::Result<T>,
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
