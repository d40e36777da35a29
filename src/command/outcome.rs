//! How a command ends.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::config::Mistakes;
use crate::store::StoreError;

/// The exit codes that scripts and service managers rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: not found, or failed.
    Failed,
    /// 75: try again later: the store is in use or down, the disk is full.
    Later,
    /// 78: a mistake in the configuration; nothing was started.
    Config,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Later => 75,
            Exit::Config => 78,
        })
    }
}

/// Why a command did not do what was asked: a text for people and an exit code.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    /// A failure with its message, without a full stop.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }

    /// The code to exit with.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Tells standard error, unless there is nothing to tell.
    pub(super) fn report(self) -> Exit {
        if !self.message.is_empty() {
            // Nothing is left to do if standard error is gone.
            let _ = writeln!(io::stderr(), "penstock: {}", self.message);
        }
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<Mistakes> for Failure {
    fn from(mistakes: Mistakes) -> Self {
        Self::new(Exit::Config, mistakes.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let exit = match &error {
            StoreError::Locked(_)
            | StoreError::DiskFull { .. }
            | StoreError::Unavailable(_)
            | StoreError::Lease(_) => Exit::Later,
            StoreError::Denied(_) | StoreError::Schema(_) => Exit::Config,
            _ => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

/// A broken pipe means that the reader has seen enough: a quiet end.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::Done, ""),
            _ => Self::new(Exit::Failed, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_end_with_the_code_that_scripts_know() {
        let pipe = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((pipe.exit(), pipe.to_string().as_str()), (Exit::Done, ""));
        let locked = Failure::from(StoreError::Locked("data".into()));
        assert_eq!(locked.exit(), Exit::Later);
        assert_eq!(Failure::from(StoreError::Closed).exit(), Exit::Failed);
    }
}
