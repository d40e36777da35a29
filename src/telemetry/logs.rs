//! Log lines: text for people or JSON for collectors, on standard error, times in UTC.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use super::bar::AboveBars;
use crate::config::LogFormat;

/// Why logging could not be started, or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error("log.level: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// This process has a subscriber already.
    #[error("logging was started before")]
    Started,
    /// The subscriber is gone.
    #[error("log.level can't be changed: {0}")]
    Gone(#[from] reload::Error),
}

/// The log lines of this process, of which level and format may change.
#[derive(Debug, Clone)]
pub struct Logs {
    filter: reload::Handle<EnvFilter, Registry>,
    json: Arc<AtomicBool>,
}

/// Starts logging for the whole process. `level` has the syntax of `RUST_LOG`.
pub fn start_logs(level: &str, format: LogFormat) -> Result<Logs, LogError> {
    let (filter, handle) = reload::Layer::new(EnvFilter::builder().parse(level)?);
    let json = Arc::new(AtomicBool::new(is_json(format)));
    // A closed standard error must not end the process: the subscriber's own complaint about it would panic.
    let for_people = fmt::layer()
        .with_writer(|| AboveBars)
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal());
    let for_collectors = fmt::layer()
        .with_writer(|| AboveBars)
        .log_internal_errors(false)
        .with_ansi(false)
        .json()
        .flatten_event(true);
    let started = tracing_subscriber::registry()
        .with(filter)
        .with(for_people.with_filter(while_json_is(false, &json)))
        .with(for_collectors.with_filter(while_json_is(true, &json)))
        .try_init();
    started.map_err(|_| LogError::Started)?;
    let filter = handle;
    Ok(Logs { filter, json })
}

impl Logs {
    /// Lines are written of this level and in this format from now on.
    pub fn change(&self, level: &str, format: LogFormat) -> Result<(), LogError> {
        self.filter.reload(EnvFilter::builder().parse(level)?)?;
        self.json.store(is_json(format), Ordering::Relaxed);
        Ok(())
    }
}

/// Every span, so that each layer can name those that were open when the format changed; events only while it is this layer's.
fn while_json_is<S>(wanted: bool, json: &Arc<AtomicBool>) -> impl Filter<S> + use<S> {
    let json = json.clone();
    dynamic_filter_fn(move |metadata, _: &Context<'_, S>| {
        metadata.is_span() || json.load(Ordering::Relaxed) == wanted
    })
}

fn is_json(format: LogFormat) -> bool {
    match format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    }
}
