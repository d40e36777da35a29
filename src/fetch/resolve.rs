//! Names to addresses: asked once a minute per host, checked, and then connected to, with no second look in between.

use std::io;
use std::iter;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

/// How long addresses are believed.
const TRUST: Duration = Duration::from_secs(60);
/// How long a failure is: those who waited for the same look-up do not repeat it one after the other.
const TRUST_FAILURE: Duration = Duration::from_secs(5);
/// Look-ups at once: each holds a thread.
const LOOKUPS: usize = 128;

/// Finds the addresses of a host.
#[async_trait]
pub trait Resolver: Send + Sync + 'static {
    /// All its addresses, best first.
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's resolver: `/etc/hosts`, DNS and what else it knows.
#[derive(Debug)]
pub struct SystemResolver(Arc<Semaphore>);

impl Default for SystemResolver {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LOOKUPS)))
    }
}

#[async_trait]
impl Resolver for SystemResolver {
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let permit = Arc::clone(&self.0).acquire_owned().await;
        let host = host.to_owned();
        // Who gives up waiting leaves the thread behind, and its permit with it.
        let asking = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let found = (host.as_str(), 0).to_socket_addrs()?;
            let mut addresses: Vec<IpAddr> = Vec::new();
            for address in found.map(|found| found.ip()) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            Ok(addresses)
        });
        asking.await.map_err(io::Error::other)?
    }
}

/// What a look-up gave: addresses, or why there are none.
type Found = Result<Vec<IpAddr>, String>;

/// The addresses of one host, as they were found last.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<Option<(Instant, Found)>>);

impl Known {
    /// The addresses; of several who ask at once one looks them up.
    pub(super) async fn addresses(
        &self,
        host: &str,
        resolver: &dyn Resolver,
        limit: Duration,
    ) -> Found {
        let mut known = self.0.lock().await;
        if let Some((at, found)) = &*known {
            let trust = found.as_ref().map_or(TRUST_FAILURE, |_| TRUST);
            if at.elapsed() < trust {
                return found.clone();
            }
        }
        let found = match tokio::time::timeout(limit, resolver.lookup(host)).await {
            Ok(Ok(addresses)) if addresses.is_empty() => Err("it has none".to_owned()),
            Ok(found) => found.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {limit:?}")),
        };
        *known = Some((Instant::now(), found.clone()));
        found
    }

    /// Puts an address last that could not be connected to.
    pub(super) async fn demote(&self, address: IpAddr) {
        if let Some((_, Ok(addresses))) = &mut *self.0.lock().await
            && addresses.first() == Some(&address)
        {
            addresses.rotate_left(1);
        }
    }
}

tokio::task_local! {
    /// The address that the request of this task was checked for.
    static CHECKED: IpAddr;
}

/// Runs a request whose connection, if it needs a new one, goes to this address.
pub(super) async fn connecting_to<F: Future>(address: IpAddr, request: F) -> F::Output {
    CHECKED.scope(address, request).await
}

/// The HTTP client's resolver: knows nothing but the address that was checked.
pub(super) struct CheckedOnly;

impl reqwest::dns::Resolve for CheckedOnly {
    fn resolve(&self, _name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let checked = CHECKED.try_with(|address| SocketAddr::new(*address, 0));
        let addresses = checked
            .map(|address| Box::new(iter::once(address)) as reqwest::dns::Addrs)
            .map_err(Into::into);
        Box::pin(std::future::ready(addresses))
    }
}
