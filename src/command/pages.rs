//! `penstock pages`: the manual and the completions of shells, as packages install them.

use std::fs;
use std::path::Path;

use clap_complete::Shell;

use super::{Exit, Failure};

/// Writes `man/penstock*.1` and `completions/*` into a folder.
pub(super) fn run(line: clap::Command, folder: &Path) -> Result<Exit, Failure> {
    // The same for every commit of a version.
    let mut line = line.version(env!("CARGO_PKG_VERSION"));
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    clap_mangen::generate_to(line.clone(), &man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut line, "penstock", &completions)?;
    }
    Ok(Exit::Done)
}
