//! Log lines: text for people or JSON for collectors, on standard error, times in UTC.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use super::bar::AboveBars;
use crate::config::LogFormat;

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error("log.level: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// This process has a subscriber already.
    #[error("logging was started before")]
    Started,
}

/// Starts logging for the whole process. `level` has the syntax of `RUST_LOG`.
pub fn start_logs(level: &str, format: LogFormat) -> Result<(), LogError> {
    let filter = EnvFilter::builder().parse(level)?;
    let terminal = io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    // A closed standard error must not end the process: the subscriber's own complaint about it would panic.
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| AboveBars)
        .log_internal_errors(false)
        .with_ansi(terminal);
    let started = match json {
        true => subscriber.json().flatten_event(true).try_init(),
        false => subscriber.try_init(),
    };
    started.map_err(|_| LogError::Started)
}
