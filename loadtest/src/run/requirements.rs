//! What a run needs on the machine; all of it is looked for before anything starts.

use std::path::PathBuf;
use std::process::Command;

use super::workers::{LEASH, NODES};
use super::{Args, Mistake, Scenario};

/// The daemon, and what it says it is.
pub(super) fn daemon(args: &Args) -> anyhow::Result<(PathBuf, String)> {
    let beside = || Some(std::env::current_exe().ok()?.with_file_name("penstock"));
    let path = args.penstock.clone().or_else(beside);
    let path = path.unwrap_or_else(|| "penstock".into());
    let path = path.canonicalize().unwrap_or(path);
    let answer = Command::new(&path).arg("--version").output();
    let answer = answer.map_err(|error| {
        let shown = path.display();
        Mistake(format!(
            "{shown} can't be started ({error}): --penstock PATH names the daemon"
        ))
    })?;
    let version = String::from_utf8_lossy(&answer.stdout);
    Ok((path, version.trim().to_owned()))
}

/// Fails if something is not there.
pub(super) fn look(scenario: &Scenario, cql: bool) -> Result<(), Mistake> {
    let name = &scenario.name;
    let [program, flags @ ..] = LEASH;
    let leash = Command::new(program).args(flags).arg("true").output();
    if !leash.is_ok_and(|ran| ran.status.success()) {
        return Err(Mistake(format!(
            "a run needs {program} of util-linux, by which no daemon outlives it: apt-get install util-linux"
        )));
    }
    if cql && std::env::var_os(NODES).is_none() {
        return Err(Mistake(format!(
            "{name} is to use the CQL store: set {NODES} to host:port of a cluster on which it may make a keyspace of its own"
        )));
    }
    if cql || scenario.store.sync_delay_ms.is_none() {
        return Ok(());
    }
    let strace = Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "true"])
        .output();
    let why = match strace {
        Ok(tried) if tried.status.success() => return Ok(()),
        Ok(tried) => String::from_utf8_lossy(&tried.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Mistake(format!(
        "{name} needs strace, which slows the syncs of the store ({why}): apt-get install strace"
    )))
}
