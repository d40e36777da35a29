//! The folder that a run works in.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::Mistake;

/// Where a run keeps what it needs; removed in the end, but for the log.
pub(super) struct Work(PathBuf);

impl Work {
    /// Makes it in the folder of the report.
    pub fn new(out: &Path) -> anyhow::Result<Self> {
        let work = out.join("work");
        if work.exists() {
            let shown = work.display();
            bail!(Mistake(format!(
                "{shown} is there: another run works in it, or one that was killed left it; remove it, or choose another --out"
            )));
        }
        fs::create_dir_all(&work).with_context(|| format!("making {}", work.display()))?;
        let work = Self(work.canonicalize()?);
        // What is there in the end is of this run.
        for name in ["penstock.log", "report.json", "report.md", "report.svg"] {
            match fs::remove_file(work.0.with_file_name(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("removing an older {name}"));
                }
                _ => {}
            }
        }
        Ok(work)
    }

    /// The stream and the oracle.
    pub fn stream(&self) -> PathBuf {
        self.0.join("stream")
    }

    /// The daemon's store.
    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// A file that configures nothing.
    pub fn configuration(&self) -> PathBuf {
        self.0.join("penstock.toml")
    }

    /// The daemon's log, beside the report.
    pub fn log(&self) -> PathBuf {
        self.0.with_file_name("penstock.log")
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("penstock-loadtest: {} is left: {error}", self.0.display());
        }
    }
}
