//! How often somebody tried a token that is not known.
//!
//! Only bad tokens are counted, after the comparison: whoever has a good one is never slowed or locked out, whoever else
//! shares his address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So many bad tokens in a row are answered as such.
const BURST: u32 = 10;
/// Then one in this time.
const INTERVAL: Duration = Duration::from_secs(6);
/// So many addresses are remembered; of more, those that were bad longest ago are forgotten.
const ADDRESSES: usize = 4096;

/// The bad tokens of each address: the time until which those that were seen are worth one in each interval.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Mutex<HashMap<IpAddr, Instant>>);

impl Attempts {
    /// Notes a bad token. If that was one too many: how long to wait for the next one.
    pub(crate) fn note(&self, peer: Option<IpAddr>) -> Option<Duration> {
        let peer = network(peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
        let now = Instant::now();
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.contains_key(&peer) && seen.len() >= ADDRESSES {
            make_room(&mut seen, now);
        }
        let until = seen.entry(peer).or_insert(now);
        let next = (*until).max(now) + INTERVAL;
        let excess = next.duration_since(now).saturating_sub(INTERVAL * BURST);
        if excess.is_zero() {
            *until = next;
            return None;
        }
        Some(excess)
    }
}

fn make_room(seen: &mut HashMap<IpAddr, Instant>, now: Instant) {
    seen.retain(|_, until| *until > now);
    if seen.len() >= ADDRESSES {
        let oldest = seen.iter().min_by_key(|(_, until)| **until);
        if let Some(peer) = oldest.map(|(peer, _)| *peer) {
            seen.remove(&peer);
        }
    }
}

/// What one party has: an address of IPv4, 64 bits of IPv6.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn who_tries_too_often_waits_alone() {
        let attempts = Attempts::default();
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        for _ in 0..BURST {
            assert_eq!(attempts.note(one), None);
        }
        assert_eq!(attempts.note(one), Some(INTERVAL));
        assert_eq!(attempts.note(address("::ffff:192.0.2.1")), Some(INTERVAL));
        assert_eq!(attempts.note(other), None);
        tokio::time::advance(INTERVAL).await;
        assert_eq!(attempts.note(one), None);
        assert_eq!(attempts.note(one), Some(INTERVAL));
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_of_ipv6_is_one_party() {
        let attempts = Attempts::default();
        for n in 0..BURST {
            assert_eq!(attempts.note(address(&format!("2001:db8::{n}"))), None);
        }
        assert!(attempts.note(address("2001:db8::ffff:1")).is_some());
        assert_eq!(attempts.note(address("2001:db8:0:1::1")), None);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let attempts = Attempts::default();
        let worst = address("203.0.113.1");
        for _ in 0..BURST {
            attempts.note(worst);
        }
        for n in 0..2 * u32::try_from(ADDRESSES).unwrap() {
            attempts.note(Some(IpAddr::V4(Ipv4Addr::from(n + 1))));
        }
        assert_eq!(attempts.0.lock().unwrap().len(), ADDRESSES);
        assert!(
            attempts.note(worst).is_some(),
            "the worst is remembered longest"
        );
    }
}
