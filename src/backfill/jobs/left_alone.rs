//! Hosts that do nothing but fail: since when they are waited for, so that nobody waits for ever.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// How long repositories wait for a host that is left alone and gives nobody what is asked for, before they fail with it: so many
/// times the wait after a first failure.
const MAX_FAILING: u32 = 256;
/// Hosts that are known at most.
const MAX_HOSTS: usize = 100_000;

/// Hosts that are left alone, until they give somebody what was asked for.
#[derive(Debug)]
pub(super) struct LeftAlone {
    patience: Duration,
    hosts: HashMap<Arc<str>, Wait>,
}

/// The wait for one host.
#[derive(Debug, Clone, Copy)]
struct Wait {
    since: Instant,
    /// When anything of it had its turn last.
    turn: Instant,
    /// Whether it was asked how it is since then, and said nothing of use.
    probed: bool,
}

impl LeftAlone {
    /// None yet; `retry_wait` is the wait after a first failure.
    pub fn new(retry_wait: Duration) -> Self {
        let mut hosts = Self {
            patience: Duration::ZERO,
            hosts: HashMap::new(),
        };
        hosts.keep_to(retry_wait);
        hosts
    }

    /// Another wait after a first failure: also those that are waited for are waited for as long as that says.
    pub fn keep_to(&mut self, retry_wait: Duration) {
        self.patience = retry_wait * MAX_FAILING;
    }

    /// When it was waited for long enough.
    pub fn end(&mut self, host: &Arc<str>, now: Instant) -> Instant {
        let patience = self.patience;
        let wait = self.wait(host, now);
        wait.probed = false;
        wait.since + patience
    }

    /// Whether it is to be asked how it is, before another of its repositories is asked for: every second time. What it said to the
    /// first question told nothing then, and the next repository tells more.
    pub fn is_to_be_probed(&mut self, host: &Arc<str>, now: Instant) -> bool {
        let wait = self.wait(host, now);
        wait.probed = !wait.probed;
        wait.probed
    }

    /// It gave what was asked for.
    pub fn forget(&mut self, host: &str) {
        self.hosts.remove(host);
    }

    fn wait(&mut self, host: &Arc<str>, now: Instant) -> &mut Wait {
        if self.hosts.len() >= MAX_HOSTS {
            self.hosts.clear();
        }
        let anew = Wait {
            since: now,
            turn: now,
            probed: false,
        };
        let wait = self.hosts.entry(host.clone()).or_insert(anew);
        if now > wait.turn + self.patience {
            // Nobody waited for it meanwhile.
            *wait = anew;
        }
        wait.turn = now;
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_waited_for_since_the_first_who_waits() {
        let (host, start) = (Arc::from("h"), Instant::now());
        let mut hosts = LeftAlone::new(Duration::from_secs(1));
        let patience = Duration::from_secs(256);
        let end = hosts.end(&host, start);
        assert_eq!(end, start + patience);
        assert_eq!(hosts.end(&host, end), end);
        // Nobody waited for it for long.
        let later = end + patience + Duration::from_secs(1);
        assert_eq!(hosts.end(&host, later), later + patience);
        hosts.forget(&host);
        let now = later + Duration::from_secs(1);
        assert_eq!(hosts.end(&host, now), now + patience);
        let probes = [0; 4].map(|_| hosts.is_to_be_probed(&host, now));
        assert_eq!(probes, [true, false, true, false]);
        hosts.keep_to(Duration::from_secs(2));
        assert_eq!(hosts.end(&host, now), now + 2 * patience);
    }
}
