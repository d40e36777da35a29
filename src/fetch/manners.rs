//! How a guest behaves: few requests at once and not too many a second, for each host and for each address.
//!
//! A request holds a place at its host first and only then one at the address, so that a host that makes its guests wait
//! keeps nobody from its neighbours. Whoever waits holds nothing but its own future.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reqwest::header::HeaderMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::bucket::Bucket;
use super::patience::MOMENT;
use super::resolve::Known;
use super::trouble::{Allowed, Condition, Refused, Times, Trouble};
use super::{FetchError, FetchOptions, Patience, headers};
use crate::telemetry::metrics::PDS_THROTTLED;

/// Hosts, and addresses, that are remembered at most, unless more are in use at this very moment.
const REMEMBERED: usize = 100_000;

/// All hosts and addresses.
pub(super) struct Manners {
    hosts: Remembered<String, Host>,
    addresses: Remembered<IpAddr, Address>,
    pace: Mutex<Pace>,
    times: Times,
}

/// How many requests each host and each address gets.
#[derive(Debug, Clone, Copy)]
struct Pace {
    per_host: usize,
    per_address: usize,
    rate: f64,
    burst: f64,
}

impl Pace {
    fn new(options: &FetchOptions) -> Self {
        Self {
            per_host: options.per_host.max(1),
            per_address: options.per_address.max(1),
            rate: options.rate.max(0.001),
            burst: options.burst,
        }
    }

    fn bucket(&self) -> Bucket {
        Bucket::new(self.rate, self.burst)
    }
}

/// A host as its guest knows it.
pub(super) struct Host {
    pub(super) name: String,
    pub(super) known: Known,
    permits: Arc<Semaphore>,
    state: Mutex<HostState>,
    times: Times,
}

struct HostState {
    bucket: Bucket,
    trouble: Trouble,
    in_flight: u64,
}

struct Address {
    permits: Arc<Semaphore>,
    bucket: Mutex<Bucket>,
}

impl Manners {
    pub(super) fn new(options: &FetchOptions) -> Self {
        PDS_THROTTLED.begin([["budget"], ["retry_after"], ["rate_limit"], ["bare"]]);
        Self {
            hosts: Remembered::new(REMEMBERED),
            addresses: Remembered::new(REMEMBERED),
            pace: Mutex::new(Pace::new(options)),
            times: Times {
                bare_min: options.bare_pause,
                bare_max: options.bare_pause_max,
                throttled_for: options.throttled_for,
                failure_min: options.backoff_min,
                failure_max: options.backoff_max,
            },
        }
    }

    /// Another pace, also for those that are known. Places that are taken beyond it are not given again.
    pub(super) fn change(&self, options: &FetchOptions) {
        // Whoever is made from now on waits for these, and has the new pace.
        let (hosts, addresses) = (lock(&self.hosts.entries), lock(&self.addresses.entries));
        let now = Pace::new(options);
        let before = std::mem::replace(&mut *lock(&self.pace), now);
        for (host, _) in hosts.values() {
            resize(&host.permits, before.per_host, now.per_host);
            lock(&host.state).bucket.change(now.rate, now.burst);
        }
        for (address, _) in addresses.values() {
            resize(&address.permits, before.per_address, now.per_address);
            lock(&address.bucket).change(now.rate, now.burst);
        }
    }

    /// Waits for a place at a host. Who has to wait for longer than a moment holds none meanwhile.
    pub(super) async fn enter_host(
        &self,
        name: &str,
        patience: &Patience,
    ) -> Result<HostPlace, FetchError> {
        let host = self.hosts.get(name.to_owned(), || {
            let pace = *lock(&self.pace);
            Host {
                name: name.to_owned(),
                known: Known::default(),
                permits: Arc::new(Semaphore::new(pace.per_host)),
                state: Mutex::new(HostState {
                    bucket: pace.bucket(),
                    trouble: Trouble::default(),
                    in_flight: 0,
                }),
                times: self.times,
            }
        });
        loop {
            let permit = Arc::clone(&host.permits).acquire_owned().await;
            let mut place = HostPlace {
                host: host.clone(),
                _permit: permit.ok(),
                probe: false,
                entered: Instant::now(),
                sent: None,
                failed: false,
            };
            let Some(until) = place.wait().await? else {
                return Ok(place);
            };
            drop(place);
            if !patience.lasts_until(until) {
                return Err(FetchError::Paused(name.to_owned(), until));
            }
            sleep_until(until).await;
        }
    }

    /// How a host does, as far as is known.
    pub(super) fn condition(&self, name: &str) -> Condition {
        let Some(host) = self.hosts.known(name) else {
            return Condition::Ready;
        };
        let now = Instant::now();
        let mut state = lock(&host.state);
        match (
            state.trouble.condition(now, &host.times),
            state.bucket.empty_until(now),
        ) {
            (Condition::Ready, Some(until)) if until > now + MOMENT => Condition::Paused(until),
            (condition, _) => condition,
        }
    }

    /// Waits for a place at an address.
    pub(super) async fn enter_address(&self, address: IpAddr) -> AddressPlace {
        let address = self.addresses.get(address, || {
            let pace = *lock(&self.pace);
            Address {
                permits: Arc::new(Semaphore::new(pace.per_address)),
                bucket: Mutex::new(pace.bucket()),
            }
        });
        let permit = Arc::clone(&address.permits).acquire_owned().await;
        loop {
            let taken = lock(&address.bucket).take(Instant::now());
            match taken {
                Ok(()) => break,
                Err(when) => sleep_until(when).await,
            }
        }
        AddressPlace {
            address,
            _permit: permit.ok(),
        }
    }
}

/// A place at a host, held until the answer has been read.
pub(super) struct HostPlace {
    pub(super) host: Arc<Host>,
    _permit: Option<OwnedSemaphorePermit>,
    probe: bool,
    /// Got its turn.
    entered: Instant,
    sent: Option<Instant>,
    failed: bool,
}

/// A place at an address.
pub(super) struct AddressPlace {
    address: Arc<Address>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl HostPlace {
    /// Waits until a request may be sent; gives when to come back if that is more than a moment.
    async fn wait(&mut self) -> Result<Option<Instant>, FetchError> {
        let mut counted = false;
        loop {
            let now = Instant::now();
            let Some((when, budget)) = self.turn(now)? else {
                return Ok(None);
            };
            if budget && !std::mem::replace(&mut counted, true) {
                PDS_THROTTLED.with(["budget"]).increment(1);
            }
            if when > now + MOMENT {
                return Ok(Some(when));
            }
            sleep_until(when).await;
        }
    }

    /// Takes one's turn, or tells when to look again, and whether that is for a budget that is used up.
    fn turn(&mut self, now: Instant) -> Result<Option<(Instant, bool)>, FetchError> {
        let mut state = lock(&self.host.state);
        let allowed = state
            .trouble
            .allowed(&self.host.name, now, &self.host.times)?;
        if let Allowed::From(when) = allowed {
            return Ok(Some((when, false)));
        }
        if let Err(when) = state.bucket.take(now) {
            let spent = state.bucket.told().is_some_and(|(pace, _)| pace <= 0.0);
            return Ok(Some((when, spent)));
        }
        self.entered = now;
        if allowed == Allowed::Probe {
            state.trouble.set_probing(true);
            self.probe = true;
        }
        Ok(None)
    }

    /// Whether the host still takes requests, after a wait elsewhere. Then this one counts as sent.
    pub(super) fn may_send(&mut self) -> bool {
        let now = Instant::now();
        let mut state = lock(&self.host.state);
        if !self.probe && state.trouble.closed(now) {
            return false;
        }
        if self.sent.replace(now).is_none() {
            state.in_flight += 1;
        }
        true
    }

    /// The answer's headers are here: the budget that they tell counts at once.
    pub(super) fn told(&self, there: &AddressPlace, headers: &HeaderMap) {
        let Some(budget) = headers::budget(headers) else {
            return;
        };
        let Some(remaining) = budget.remaining else {
            return;
        };
        let now = Instant::now();
        let mut state = lock(&self.host.state);
        // Others of ours are on their way and were not counted yet.
        let others = state.in_flight.saturating_sub(1);
        let remaining = remaining.saturating_sub(others);
        state.bucket.tell(remaining, budget.reset, now);
        if let Some(told) = state.bucket.told() {
            lock(&there.address.bucket).share(told);
        }
    }

    /// The host refused for its limits.
    pub(super) fn refused(&self, headers: &HeaderMap) {
        let budget = headers::budget(headers).map(|budget| Refused::RateLimit(budget.reset));
        let how = headers::retry_after(headers).map(Refused::RetryAfter);
        let how = how.or(budget).unwrap_or(Refused::Bare);
        PDS_THROTTLED.with([how.name()]).increment(1);
        let now = Instant::now();
        let mut state = lock(&self.host.state);
        let sent = self.sent.unwrap_or(self.entered);
        let news = state.trouble.refused(how, sent, now, &self.host.times);
        // It is there, whatever it says.
        state.trouble.succeeded();
        if news && how == Refused::Bare {
            state.bucket.slow_down();
        }
    }

    /// The host answered something that is no refusal.
    pub(super) fn answered(&self) {
        let mut state = lock(&self.host.state);
        state.trouble.not_refused();
        state.bucket.recover();
    }

    /// The answer is complete. An error of the server stays one.
    pub(super) fn succeeded(&self) {
        if self.failed {
            return;
        }
        lock(&self.host.state).trouble.succeeded();
    }

    /// No connection, no answer in time, an error of the server.
    pub(super) fn failed(&mut self) {
        self.failed = true;
        let now = Instant::now();
        let mut state = lock(&self.host.state);
        let sent = self.sent.unwrap_or(self.entered);
        state.trouble.failed(sent, now, &self.host.times);
    }
}

impl Drop for HostPlace {
    fn drop(&mut self) {
        let mut state = lock(&self.host.state);
        if self.probe {
            state.trouble.set_probing(false);
        }
        if self.sent.is_some() {
            state.in_flight = state.in_flight.saturating_sub(1);
        }
    }
}

/// Gives a semaphore more permits or fewer; those that are out are taken back as they come, after those who wait already.
fn resize(permits: &Arc<Semaphore>, before: usize, now: usize) {
    permits.add_permits(now.saturating_sub(before));
    let fewer = before.saturating_sub(now);
    let out = fewer - permits.forget_permits(fewer);
    if let Some(out) = u32::try_from(out).ok().filter(|out| *out > 0) {
        let taking = permits.clone().acquire_many_owned(out);
        tokio::spawn(async move {
            if let Ok(taken) = taking.await {
                taken.forget();
            }
        });
    }
}

/// A map that forgets the older half of what nobody uses when it is full.
struct Remembered<K, V> {
    most: usize,
    entries: Mutex<HashMap<K, (Arc<V>, Instant)>>,
}

impl<K: Hash + Eq + Clone, V> Remembered<K, V> {
    fn new(most: usize) -> Self {
        Self {
            most,
            entries: Mutex::default(),
        }
    }

    fn known<Q>(&self, key: &Q) -> Option<Arc<V>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let entries = lock(&self.entries);
        entries.get(key).map(|(value, _)| Arc::clone(value))
    }

    fn get(&self, key: K, make: impl FnOnce() -> V) -> Arc<V> {
        let now = Instant::now();
        let mut entries = lock(&self.entries);
        if let Some((value, used)) = entries.get_mut(&key) {
            *used = now;
            return Arc::clone(value);
        }
        if entries.len() >= self.most {
            forget_older_half(&mut entries);
        }
        let value = Arc::new(make());
        entries.insert(key, (Arc::clone(&value), now));
        value
    }
}

fn forget_older_half<K: Hash + Eq + Clone, V>(entries: &mut HashMap<K, (Arc<V>, Instant)>) {
    let idle = entries
        .iter()
        .filter(|(_, (value, _))| Arc::strong_count(value) == 1);
    let mut idle: Vec<(Instant, K)> = idle.map(|(key, (_, used))| (*used, key.clone())).collect();
    idle.sort_unstable_by_key(|(used, _)| *used);
    for (_, key) in idle.iter().take(idle.len().div_ceil(2)) {
        entries.remove(key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn a_host_has_as_many_places_as_was_said_last() {
        let options = |per_host| FetchOptions {
            per_host,
            per_address: per_host,
            rate: 1e6,
            burst: 1e6,
            ..FetchOptions::default()
        };
        let manners = Manners::new(&options(2));
        let patience = Patience::from(CancellationToken::new());
        let mut places = Vec::new();
        let free = || {
            manners
                .hosts
                .known("h")
                .unwrap()
                .permits
                .available_permits()
        };
        for _ in 0..2 {
            places.push(manners.enter_host("h", &patience).await.unwrap());
        }
        assert_eq!(free(), 0);
        manners.change(&options(5));
        assert_eq!(free(), 3);
        manners.change(&options(1));
        assert_eq!(free(), 0);
        tokio::task::yield_now().await;
        places.pop();
        tokio::task::yield_now().await;
        assert_eq!(free(), 0, "one is still taken");
        places.pop();
        tokio::task::yield_now().await;
        assert_eq!(free(), 1);
        manners.change(&options(3));
        assert_eq!(free(), 3);
        // One that is not known yet has them too.
        let _place = manners.enter_host("new", &patience).await.unwrap();
        assert_eq!(
            manners
                .hosts
                .known("new")
                .unwrap()
                .permits
                .available_permits(),
            2
        );
    }

    #[test]
    fn forgets_what_nobody_uses() {
        let map = Remembered::new(10);
        let held: Vec<_> = (0..5).map(|key| map.get(key, || key)).collect();
        for key in 5..1000 {
            map.get(key, || key);
        }
        assert!(lock(&map.entries).len() <= 10);
        for (key, value) in held.iter().enumerate() {
            assert!(Arc::ptr_eq(value, &map.get(key, || panic!("forgotten"))));
        }
    }
}
