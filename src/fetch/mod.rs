//! Outbound HTTP to hosts that others named: every address checked before it is connected to, every answer bounded in bytes and
//! time, and good manners towards each host.
//!
//! The way of a request: `guard` looks at the URL, `manners` gives a place at the host, `resolve` finds its addresses,
//! the guard looks at these, manners give a place at one of them, and the connection is made to that one. Redirects go the
//! same way again.

mod body;
mod bucket;
mod error;
mod guard;
mod headers;
mod manners;
mod patience;
mod resolve;
mod send;
mod trouble;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::redirect::Policy;

pub use body::Body;
pub use error::{FetchError, SetupError};
pub use patience::{Patience, WaitingPlaces};
pub use resolve::{Resolver, SystemResolver};
pub use trouble::Condition;

use crate::relay::{tls_config, user_agent};
use guard::Guard;
use manners::Manners;

/// How long a connection may wait for its next request: less than the five seconds after which Node's servers close it.
const IDLE: Duration = Duration::from_secs(4);
/// Connections to one host that wait.
const IDLE_PER_HOST: usize = 4;

/// Bounds of one request.
#[derive(Debug, Clone, Copy)]
pub struct FetchLimits {
    /// Most bytes of the answer.
    pub bytes: u64,
    /// From the moment the request is sent to the last byte; waiting for one's turn does not count.
    pub time: Duration,
    /// Longest wait for the answer, and longest pause between two pieces of it.
    pub idle: Duration,
}

/// How to fetch.
#[derive(Debug, Clone)]
pub struct FetchOptions {
    /// Whether private addresses, plain HTTP and any port may be fetched from.
    pub allow_private: bool,
    /// Origins that the operator named: always allowed, be they private or without TLS.
    pub allowed_origins: Vec<String>,
    /// Certificate authorities besides the system's, as PEM.
    pub ca_file: Option<PathBuf>,
    /// Names us to the hosts.
    pub user_agent: String,
    /// Requests in flight per host.
    pub per_host: usize,
    /// Requests in flight per address.
    pub per_address: usize,
    /// Requests a second per host and per address, until the host says otherwise.
    pub rate: f64,
    /// Requests that may be sent at once after a rest.
    pub burst: f64,
    /// Longest time to find an address, and to connect to it.
    pub connect_timeout: Duration,
    /// Pause after a host failed; doubles with each failure in a row.
    pub backoff_min: Duration,
    /// Longest such pause.
    pub backoff_max: Duration,
    /// Pause after a 429 that does not say when to come back; doubles.
    pub bare_pause: Duration,
    /// Longest such pause.
    pub bare_pause_max: Duration,
    /// How long a host may answer nothing but 429 until it is given up.
    pub throttled_for: Duration,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            allow_private: false,
            allowed_origins: Vec::new(),
            ca_file: None,
            user_agent: user_agent(None),
            per_host: 8,
            per_address: 8,
            rate: 10.0,
            burst: 10.0,
            connect_timeout: Duration::from_secs(10),
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(600),
            bare_pause: Duration::from_secs(10),
            bare_pause_max: Duration::from_secs(300),
            throttled_for: Duration::from_secs(3600),
        }
    }
}

/// Fetches, politely. Cheap to clone.
#[derive(Clone)]
pub struct Fetcher(Arc<Inner>);

struct Inner {
    client: reqwest::Client,
    guard: Guard,
    manners: Manners,
    resolver: Arc<dyn Resolver>,
    connect_timeout: Duration,
}

impl Fetcher {
    /// A fetcher that asks the system for addresses.
    ///
    /// # Errors
    /// If the certificate authorities can't be read, or an origin is none.
    pub fn new(options: &FetchOptions) -> Result<Self, SetupError> {
        Self::with_resolver(options, Arc::new(SystemResolver::default()))
    }

    /// A fetcher that asks `resolver` for addresses.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_resolver(
        options: &FetchOptions,
        resolver: Arc<dyn Resolver>,
    ) -> Result<Self, SetupError> {
        let guard = Guard::new(options.allow_private, &options.allowed_origins);
        let tls = tls_config(options.ca_file.as_deref())?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured((*tls).clone())
            .user_agent(&options.user_agent)
            .no_proxy()
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .dns_resolver(resolve::CheckedOnly)
            .connect_timeout(options.connect_timeout)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .build()?;
        Ok(Self(Arc::new(Inner {
            client,
            guard: guard.map_err(SetupError::Origin)?,
            manners: Manners::new(options),
            resolver,
            connect_timeout: options.connect_timeout,
        })))
    }

    /// Whether private addresses, plain HTTP and any port will do.
    pub fn allows_private(&self) -> bool {
        self.0.guard.allows_private()
    }

    /// Keeps to another pace from now on: `per_host`, `per_address`, `rate` and `burst` of these options.
    pub fn change_pace(&self, options: &FetchOptions) {
        self.0.manners.change(options);
    }

    /// How a host (`host[:port]`) does, so that who has other things to do need not wait for it.
    pub fn condition(&self, host: &str) -> Condition {
        self.0.manners.condition(host)
    }

    /// A whole answer of at most `limits.bytes` bytes. 429 and its like are waited out, as far as the patience goes: that of a
    /// `&CancellationToken` ends when it is cancelled.
    pub async fn get(
        &self,
        url: &str,
        limits: FetchLimits,
        patience: impl Into<Patience>,
    ) -> Result<Bytes, FetchError> {
        self.stream(url, limits, patience).await?.whole().await
    }

    /// An answer as it arrives. The place at the host is held until the body is dropped.
    pub async fn stream(
        &self,
        url: &str,
        limits: FetchLimits,
        patience: impl Into<Patience>,
    ) -> Result<Body, FetchError> {
        let patience = patience.into();
        let following = self.follow(url, limits, &patience);
        let following = patience.cancel().run_until_cancelled(following);
        following.await.unwrap_or(Err(FetchError::Cancelled))
    }
}
