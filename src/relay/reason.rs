//! Why there is no connection: one word for the metrics, one sentence for people.

use std::fmt;

/// Why a connection ended or could not be made; the `reason` label of `relay_reconnects_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// The relay sent a close frame.
    Closed,
    /// The connection broke without a close frame.
    Reset,
    /// Nothing arrived for the read timeout, or connecting took longer than the connect timeout.
    Timeout,
    /// A message is larger than the limit.
    TooLarge,
    /// What arrived breaks the WebSocket protocol (RFC 6455), or is no HTTP.
    Protocol,
    /// A text message, where only binary ones are allowed.
    Text,
    /// HTTP refusal before the upgrade: 405, 426 and every status without a word of its own.
    Refused,
    /// HTTP 429.
    RateLimited,
    /// HTTP 5xx but 501.
    ServerError,
    /// HTTP 501: the host does not serve this endpoint.
    NotImplemented,
    /// HTTP 3xx: redirects are not followed.
    Redirect,
    /// The TLS handshake failed, or the TLS stream is broken.
    Tls,
    /// The host name has no address.
    Dns,
    /// No address of the host accepts TCP connections.
    Unreachable,
    /// There is no connection: `connect` was not called, or its loss was reported already.
    NotConnected,
    /// Dropped by the caller: the relay sent an error frame.
    ErrorFrame,
    /// Dropped by the caller: a frame that can't be read is to be passed by.
    Poison,
    /// Dropped by the caller: the cursor is to be another one.
    Resume,
    /// Dropped by the caller: the next relay of the list is to be tried.
    Fallback,
    /// Dropped by the caller: the process stops.
    Shutdown,
}

impl DisconnectReason {
    /// Those that are nobody's wish here: what the metrics count.
    pub const COUNTED: [Self; 15] = [
        Self::Closed,
        Self::Reset,
        Self::Timeout,
        Self::TooLarge,
        Self::Protocol,
        Self::Text,
        Self::Refused,
        Self::RateLimited,
        Self::ServerError,
        Self::NotImplemented,
        Self::Redirect,
        Self::Tls,
        Self::Dns,
        Self::Unreachable,
        Self::ErrorFrame,
    ];

    /// The metric label, in snake case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::TooLarge => "too_large",
            Self::Protocol => "protocol",
            Self::Text => "text",
            Self::Refused => "refused",
            Self::RateLimited => "rate_limited",
            Self::ServerError => "server_error",
            Self::NotImplemented => "not_implemented",
            Self::Redirect => "redirect",
            Self::Tls => "tls",
            Self::Dns => "dns",
            Self::Unreachable => "unreachable",
            Self::NotConnected => "not_connected",
            Self::ErrorFrame => "error_frame",
            Self::Poison => "poison",
            Self::Resume => "resume",
            Self::Fallback => "fallback",
            Self::Shutdown => "shutdown",
        }
    }
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An open connection ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// One word.
    pub reason: DisconnectReason,
    /// One printable sentence, bounded in length.
    pub detail: String,
    /// What the relay sent broke the connection (too large, protocol violation, text message), so
    /// that the same cursor is likely to break it again.
    pub poison: bool,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}
