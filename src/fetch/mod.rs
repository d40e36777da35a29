//! Outbound HTTP to hosts that others named: every address checked before it is connected to, every answer bounded in bytes and
//! time, and good manners towards each host.

use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

/// Bounds of one request.
#[derive(Debug, Clone, Copy)]
pub struct FetchLimits {
    /// Most bytes of the answer.
    pub bytes: u64,
    /// From the moment the request is sent to the last byte; waiting for one's turn does not count.
    pub time: Duration,
    /// Longest pause between two pieces of the answer.
    pub idle: Duration,
}

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

/// An answer whose body arrives piece by piece.
pub struct Body {
    _private: (),
}

impl Body {
    /// The next piece; `None` at the proper end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        Ok(None)
    }
}

/// Fetches, politely. Cheap to clone.
#[derive(Clone)]
pub struct Fetcher {
    _private: (),
}

impl Fetcher {
    /// A whole answer of at most `limits.bytes` bytes. 429 and its like are waited out.
    pub async fn get(
        &self,
        _url: &str,
        _limits: FetchLimits,
        _cancel: &CancellationToken,
    ) -> Result<Bytes, FetchError> {
        Err(FetchError::Cancelled)
    }

    /// An answer as it arrives. The place at the host is held until the body is dropped.
    pub async fn stream(
        &self,
        _url: &str,
        _limits: FetchLimits,
        _cancel: &CancellationToken,
    ) -> Result<Body, FetchError> {
        Err(FetchError::Cancelled)
    }
}
