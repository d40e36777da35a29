//! Why a fetch gave nothing.

use std::error::Error;
use std::time::Duration;

use tokio::time::Instant;

use crate::relay::RelayError;
use crate::relay::printable::printable;

/// Why nothing useful came.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    /// Not a URL that may be fetched: the scheme, the port, or an address that is not public.
    #[error("{0} may not be fetched: {1}")]
    Forbidden(String, String),
    /// No connection, a broken one, no TLS: the host may be back later.
    #[error("{host}: {message}")]
    Unreachable {
        /// The host.
        host: String,
        /// What exactly.
        message: String,
    },
    /// The host failed so often in a row that it is left alone for a while.
    #[error("{0} is left alone for a while, for it failed again and again")]
    BackedOff(String),
    /// The host is not asked before this time, for it wants no requests or has just failed, and who asked did not want to wait.
    #[error("{0} is not asked for a while: it wants no requests, or has just failed")]
    Paused(String, Instant),
    /// The host did nothing but refuse for its rate limits, for too long.
    #[error("{0} answered nothing but 429 for too long")]
    Throttled(String),
    /// Took longer than the limit.
    #[error("{host} took longer than {limit:?}")]
    TooSlow {
        /// The host.
        host: String,
        /// What was allowed.
        limit: Duration,
    },
    /// More bytes than the limit.
    #[error("{host} sent more than {limit} bytes")]
    TooLarge {
        /// The host.
        host: String,
        /// What was allowed.
        limit: u64,
    },
    /// The body ended before its end.
    #[error("{0} ended in the middle")]
    Truncated(String),
    /// An HTTP status that is no success; XRPC's error name where the body has one.
    #[error("{host} answered {status} {name}: {message}")]
    Status {
        /// The host.
        host: String,
        /// HTTP.
        status: u16,
        /// `error` of the body, else empty.
        name: String,
        /// `message` of the body, cut to 200 printable characters.
        message: String,
    },
    /// Was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl FetchError {
    pub(super) fn forbidden(what: &str, why: impl Into<String>) -> Self {
        Self::Forbidden(printable(what), why.into())
    }

    pub(super) fn unreachable(host: &str, error: &dyn Error) -> Self {
        // The first only says that sending failed, and repeats the URL.
        let mut message = String::new();
        let mut source = error.source();
        while let Some(cause) = source {
            if !message.is_empty() {
                message.push_str(": ");
            }
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        if message.is_empty() {
            message = error.to_string();
        }
        Self::Unreachable {
            host: host.to_owned(),
            message: printable(&message),
        }
    }
}

/// Why no [`Fetcher`](super::Fetcher) could be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The authorities that TLS trusts could not be read.
    #[error(transparent)]
    Tls(#[from] RelayError),
    /// The HTTP client refused its settings.
    #[error("the HTTP client can't be set up: {0}")]
    Client(#[from] reqwest::Error),
    /// A configured origin is none.
    #[error("'{0}' is not an origin like https://host")]
    Origin(String),
}
