//! A network of PDSes, a PLC directory and a relay's lists, with what goes wrong with them, and what a reader of it must
//! hold in the end.
//!
//! Each host listens on a loopback address of its own, from 127.20.0.1 on. A repository is made from its seed whenever it
//! is asked for, so that 100,000 of them take no more than their names. Nothing depends on the order of requests but what
//! a [`Fault`] or a method of [`Network`] says.
//!
//! ```no_run
//! use penstock_loadtest::network::{Expected, Fault, Network, Options};
//!
//! let network = Network::start(Options {
//!     faults: vec![(Fault::Truncated, 0.01)],
//!     ..Options::default()
//! }).unwrap();
//! println!("{} {}", network.plc_url(), network.relay_url());
//! for did in network.dids() {
//!     if let Some(Expected::Records { rev, records }) = network.expected(&did) {
//!         println!("{did} {rev}: {} records", records.len());
//!     }
//! }
//! ```

mod answer;
mod car;
mod content;
mod door;
mod expect;
mod fault;
mod gate;
mod listing;
mod pds;
mod plc;
mod state;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Runtime;

pub use expect::{Change, Expected, ExpectedRecord};
pub use fault::{Failure, Fault};
pub use gate::{Announce, HostStats, Limit};

use gate::Gate;
use state::{Host, Shared, locked};

/// What the relay does with `getRepo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RelayRepos {
    /// Sends to the PDS, with a 302.
    #[default]
    Redirect,
    /// Has a good copy of every repository, so that a reader that turns to it after its PDS fails gets all that is active.
    Serve,
    /// Knows no such method.
    None,
}

/// What the relay lists. Hosts it lists always but for [`Nothing`](Self::Nothing).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RelayLists {
    /// All there is.
    #[default]
    All,
    /// Knows no `listReposByCollection`.
    Repos,
    /// Knows no list of repositories.
    Hosts,
    /// Knows no list at all.
    Nothing,
}

/// What to make. Shares of one list add up to at most 1.
#[derive(Debug, Clone)]
pub struct Options {
    /// Seed of all randomness.
    pub seed: u64,
    /// Number of PDSes; up to 60,000.
    pub hosts: usize,
    /// Number of accounts, which are dealt out to the hosts in turn.
    pub repos: usize,
    /// Mean number of records that were created in a repository.
    pub records: usize,
    /// So many of the repositories, the first ones, are larger:
    pub large: usize,
    /// with so many records.
    pub large_records: usize,
    /// Share of accounts with each fault.
    pub faults: Vec<(Fault, f64)>,
    /// Share of hosts with each fault, which all of their accounts have then.
    pub host_faults: Vec<(Fault, f64)>,
    /// Share of hosts with each limit.
    pub limits: Vec<(Limit, f64)>,
    /// Share of hosts whose first account is a did:web; its DID names the host's port.
    pub did_web: f64,
    /// Share of P-256 keys.
    pub p256: f64,
    /// What the relay does with `getRepo`.
    pub relay_repos: RelayRepos,
    /// What the relay lists.
    pub relay_lists: RelayLists,
    /// When the histories end, in microseconds since the epoch; `None`: now.
    pub now: Option<u64>,
    /// How long a [`Fault::Slow`] takes.
    pub slow: Duration,
    /// Which port all hosts listen on; 0: free ones.
    pub port: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            hosts: 10,
            repos: 100,
            records: 20,
            large: 0,
            large_records: 20_000,
            faults: Vec::new(),
            host_faults: Vec::new(),
            limits: Vec::new(),
            did_web: 0.1,
            p256: 0.1,
            relay_repos: RelayRepos::default(),
            relay_lists: RelayLists::default(),
            now: None,
            slow: Duration::from_secs(3),
            port: 0,
        }
    }
}

/// A running network, on threads of its own; it stops when it is dropped.
pub struct Network {
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

impl Network {
    /// Starts all servers; they accept connections when this returns.
    pub fn start(options: Options) -> io::Result<Self> {
        let mut port = options.port;
        let mut listeners = Vec::with_capacity(options.hosts.max(1));
        let mut hosts = Vec::with_capacity(options.hosts.max(1));
        for at in 0..options.hosts.max(1) {
            let listener = listen(address(at), port)?;
            if port == 0 {
                // All on one port, if it is free there.
                port = listener.local_addr()?.port();
            }
            let limit = share(&options.limits, options.seed, at);
            let fault = fault::draw(&options.host_faults, options.seed ^ 0x0068_6f73_7473, at);
            hosts.push(Host::new(&listener, limit, fault)?);
            listeners.push(listener);
        }
        let plc = listen(Ipv4Addr::LOCALHOST, 0)?;
        let relay = listen(Ipv4Addr::LOCALHOST, 0)?;
        let plc_host = Host::new(&plc, None, None)?;
        let relay_host = Host::new(&relay, None, None)?;
        let shared = Arc::new(Shared::new(options, hosts, plc_host, relay_host));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("network")
            .enable_all()
            .build()?;
        let entered = runtime.enter();
        for (at, listener) in listeners.into_iter().enumerate() {
            let state = shared.clone();
            door::open(listener, shared.hosts[at].clone(), move |uri| {
                pds::respond(state.clone(), at, uri)
            })?;
        }
        let state = shared.clone();
        door::open(plc, shared.plc.clone(), move |uri| {
            plc::respond(state.clone(), uri)
        })?;
        let state = shared.clone();
        door::open(relay, shared.relay.clone(), move |uri| {
            listing::respond(state.clone(), uri)
        })?;
        drop(entered);
        Ok(Self {
            shared,
            runtime: Some(runtime),
        })
    }

    /// `http://ADDRESS:PORT` of the PLC directory.
    pub fn plc_url(&self) -> &str {
        &self.shared.plc.url
    }

    /// `http://ADDRESS:PORT` of the relay, which has no stream: see [`relay_routes`](Self::relay_routes).
    pub fn relay_url(&self) -> &str {
        &self.shared.relay.url
    }

    /// The relay's lists, to be served beside a stream by [`RelayOptions::lists`](crate::RelayOptions::lists).
    pub fn relay_routes(&self) -> axum::Router {
        let state = self.shared.clone();
        door::router(self.shared.relay.clone(), move |uri| {
            listing::respond(state.clone(), uri)
        })
    }

    /// `http://ADDRESS:PORT` of the PDSes.
    pub fn host_urls(&self) -> impl ExactSizeIterator<Item = &str> {
        self.shared.hosts.iter().map(|host| host.url.as_str())
    }

    /// All DIDs, those too whose account is gone.
    pub fn dids(&self) -> Vec<String> {
        let accounts = 0..self.shared.accounts.len();
        accounts
            .map(|at| self.shared.account(at).did.clone())
            .collect()
    }

    /// The number of the host where an account is now.
    pub fn host_of(&self, did: &str) -> Option<usize> {
        let at = self.shared.find(did)?;
        Some(self.shared.account(at).host)
    }

    /// What the PDSes saw so far, by number.
    pub fn host_stats(&self) -> Vec<HostStats> {
        self.shared
            .hosts
            .iter()
            .map(|host| host.gate.stats())
            .collect()
    }

    /// What the PLC directory saw.
    pub fn plc_stats(&self) -> HostStats {
        self.shared.plc.gate.stats()
    }

    /// What the relay saw.
    pub fn relay_stats(&self) -> HostStats {
        self.shared.relay.gate.stats()
    }

    /// What is wrong with an account now, be it for its host.
    pub fn fault(&self, did: &str) -> Option<Fault> {
        self.shared.fault(self.shared.find(did)?)
    }

    /// Changes what is wrong with an account; that of its host stays.
    pub fn set_fault(&self, did: &str, fault: Option<Fault>) {
        if let Some(at) = self.shared.find(did) {
            let mut account = self.shared.account(at);
            (account.fault, account.refused) = (fault, 0);
        }
    }

    /// Changes what is wrong with a host from the next connection or request on.
    pub fn set_host_fault(&self, host: usize, fault: Option<Fault>) {
        *locked(&self.shared.hosts[host].fault) = fault;
    }

    /// Changes what a host allows from the next request on.
    pub fn set_limit(&self, host: usize, limit: Option<Limit>) {
        self.shared.hosts[host].gate.set_limit(limit);
    }

    /// Moves an account: its DID document changes, and the old host says that it is deactivated or not there.
    pub fn move_account(&self, did: &str, host: usize) {
        if let Some(at) = self.shared.find(did) {
            self.shared.move_to(at, host);
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Also where waiting is not allowed.
            runtime.shutdown_background();
        }
    }
}

impl Host {
    fn new(
        listener: &TcpListener,
        limit: Option<Limit>,
        fault: Option<Fault>,
    ) -> io::Result<Arc<Self>> {
        let name = listener.local_addr()?.to_string();
        Ok(Arc::new(Self {
            url: format!("http://{name}"),
            gate: Gate::new(name.clone(), limit),
            name,
            fault: Mutex::new(fault),
            refused: AtomicU32::new(0),
            residents: Mutex::default(),
        }))
    }
}

/// The address of a host.
fn address(at: usize) -> Ipv4Addr {
    let [_, _, high, low] = (at as u32 + 1).to_be_bytes();
    Ipv4Addr::new(127, 20, high, low)
}

fn listen(address: Ipv4Addr, port: u16) -> io::Result<TcpListener> {
    let bind = |port| TcpListener::bind(SocketAddr::from((address, port)));
    let listener = bind(port).or_else(|_| bind(0))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Draws a limit by the shares.
fn share(limits: &[(Limit, f64)], seed: u64, at: usize) -> Option<Limit> {
    let mut roll = content::mix(seed ^ 0x6c69_6d69_7473, at) as f64 / u64::MAX as f64;
    for (limit, share) in limits {
        if roll < *share {
            return Some(*limit);
        }
        roll -= share;
    }
    None
}
