//! One subscription of `com.atproto.sync.subscribeRepos`: WebSocket, reconnects, cursors in the URL.
//!
//! It knows addresses, TLS, HTTP refusals and time; it knows no CBOR (a [`Prober`] peeks, no more), no
//! store and no ledger. The
//! caller connects, pulls [`Signal`]s, looks into the frames, and says where to resume and when
//! real progress was made. Nothing is retried behind the caller's back: a lost connection is
//! reported, and only [`Subscription::connect`] makes the next one.
//!
//! Rules:
//! - Waits between attempts double from `backoff_min` to `backoff_max` with jitter, per relay, and
//!   start over only after [`Subscription::progressed`]. A `Retry-After` is waited out, at most 10
//!   minutes; 501 waits 10 minutes.
//! - After 3 attempts in a row without progress the next address of the list is tried, round and
//!   round; one that asks for a wait longer than `backoff_max` is left at once. While a fallback
//!   works, there is no return to the first. Losses by poison do not count: the caller's rule for
//!   them decides.
//! - A socket from which no byte came for `read_timeout`, in spite of our pings, is dead. Time in
//!   which the caller does not ask for frames (back-pressure) does not count.

mod connection;
mod dial;
mod loss;
mod metered;
pub(crate) mod printable;
mod probe;
mod reason;
mod refusal;
mod rota;
mod subscription;
mod tls;
mod upgrade;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use crate::config::RelayUrl;
pub use probe::{Notice, Probe, ProbeError, ProbeLimits, Prober, Sample};
pub use reason::{DisconnectReason, Lost};
pub use subscription::Subscription;
pub use tls::tls_config;

/// All times are brought into this range, in which timers neither spin nor overflow.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Where and how to connect.
#[derive(Debug, Clone)]
pub struct RelayOptions {
    /// At least one; later ones are fallbacks.
    pub urls: Vec<RelayUrl>,
    /// Limit for DNS, TCP, TLS and the upgrade together.
    pub connect_timeout: Duration,
    /// A socket that is silent for this long, while frames are asked for, is dead; noticed up to a
    /// quarter of it later.
    pub read_timeout: Duration,
    /// A ping is sent this often; below `read_timeout`, or quiet relays are taken for dead ones.
    pub ping_interval: Duration,
    /// Largest message taken, in bytes of payload.
    pub max_frame: usize,
    /// First wait before a reconnect.
    pub backoff_min: Duration,
    /// Longest wait before a reconnect that the relay did not ask for.
    pub backoff_max: Duration,
    /// See [`tls_config`].
    pub tls: Arc<rustls::ClientConfig>,
    /// See [`user_agent`].
    pub user_agent: String,
}

impl RelayOptions {
    /// Limits all times to 1 ms … 24 h.
    fn limit_times(&mut self) {
        for time in [
            &mut self.connect_timeout,
            &mut self.read_timeout,
            &mut self.ping_interval,
            &mut self.backoff_min,
            &mut self.backoff_max,
        ] {
            *time = (*time).clamp(SHORTEST, LONGEST);
        }
    }
}

/// `penstock/VERSION`, with ` (+contact)` if there is a way to reach the operator. What a header
/// can't hold is replaced.
pub fn user_agent(contact: Option<&str>) -> String {
    let name = concat!("penstock/", env!("CARGO_PKG_VERSION"));
    match contact.map(printable::printable) {
        Some(contact) if !contact.is_empty() => {
            let ascii = contact.replace(|c: char| !c.is_ascii(), "?");
            format!("{name} (+{ascii})")
        }
        _ => name.to_owned(),
    }
}

/// What an open connection has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// One binary message, whole, at most `max_frame` bytes. It pins its read buffer: copy what is
    /// kept for long.
    Frame(Bytes),
    /// The connection is gone; the next step is [`Subscription::connect`].
    Lost(Lost),
}

/// A connection was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// The relay that is on the other end.
    pub relay: RelayUrl,
    /// The cursor that was sent; `None` asks for the live head.
    pub cursor: Option<u64>,
}

/// An attempt to connect failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedAttempt {
    /// The relay that was tried.
    pub relay: RelayUrl,
    /// One word.
    pub reason: DisconnectReason,
    /// One printable sentence, bounded in length, naming the way out where there is one.
    pub detail: String,
    /// The HTTP status, if the relay answered with one.
    pub status: Option<u16>,
    /// The relay that is tried next.
    pub next: RelayUrl,
    /// The wait before that.
    pub retry_in: Duration,
}

/// A mistake in what was configured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// There is no address.
    #[error("no relay is given: at least one address is needed")]
    NoUrl,
    /// The file of extra certificate authorities can't be used.
    #[error("net.ca_file {path:?}: {reason}")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS can't be set up.
    #[error("TLS can't be set up: {0}")]
    Tls(#[from] rustls::Error),
}
