//! Whether all is held in the end: what the store's own commands print, compared with the oracle.

use std::collections::HashSet;
use std::io::{self, BufRead, BufReader, Read};
use std::process::{ChildStdout, Stdio};

use anyhow::{Context, bail};

use super::stop::{Reader, Stop};
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
pub(super) fn look(
    installation: &Installation,
    prepared: &Prepared,
    stop: &Stop,
) -> anyhow::Result<Held> {
    let commands = Commands { installation, stop };
    let repos = commands.printed(&["repos"], |mut out| {
        let mut text = Vec::new();
        out.read_to_end(&mut text)?;
        Ok(text)
    })?;
    let quarantined = commands.printed(&["quarantine", "list"], |out| {
        out.lines().try_fold(0, |rows, line| line.map(|_| rows + 1))
    })?;
    let file = stop.reader(std::fs::File::open(&prepared.oracle)?);
    let oracle = Oracle::read(BufReader::with_capacity(1 << 20, file))?;
    let diff = commands.printed(&["dump"], |out| check(&oracle, out, Some(repos.as_slice())))?;
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

/// The commands that look into the store.
struct Commands<'a> {
    installation: &'a Installation,
    stop: &'a Stop,
}

impl Commands<'_> {
    /// Reads what one prints; it must end well.
    fn printed<T>(
        &self,
        arguments: &[&str],
        read: impl FnOnce(BufReader<Reader<'_, ChildStdout>>) -> io::Result<T>,
    ) -> anyhow::Result<T> {
        let words = format!("penstock {}", arguments.join(" "));
        let mut command = self.installation.command(arguments)?;
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().context("no output")?;
        let out = BufReader::with_capacity(1 << 20, self.stop.reader(out));
        // What is not read to its end ends the command too, by a broken pipe.
        let read = read(out).with_context(|| words.clone());
        let status = child.wait()?;
        if !status.success() {
            bail!("{words} ended with {status}");
        }
        read
    }
}
