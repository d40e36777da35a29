//! File descriptors: a daemon takes as many as the system lets it have, and says where that may be too few.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// Logs, timers, the relay, the folder, threads.
const OWN: u64 = 128;
/// Connections to the HTTP port and to the socket.
const HTTP: u64 = 256 + 64;
/// Files of the embedded store, or connections to a database of some nodes.
const STORE: u64 = 384;
/// Repositories that one job, or the repairs, fetch at once: a connection each, and a temporary file.
const FETCHES: u64 = 2 * 512;

/// Raises the limit of this process to the highest that it may have.
pub(super) fn raise(config: &Config) {
    let limit = getrlimit(Resource::Nofile);
    let highest = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, highest)
    {
        tracing::debug!(%error, "the limit of file descriptors can't be raised");
    }
    let allowed = getrlimit(Resource::Nofile).current;
    tracing::debug!(before = limit.current, allowed, "file descriptors");
    check(config);
}

/// Says it where the configuration may need more than there are.
pub(super) fn check(config: &Config) {
    let needed = needed(config);
    let allowed = getrlimit(Resource::Nofile).current;
    if let Some(allowed) = allowed.filter(|allowed| *allowed < needed) {
        tracing::warn!(
            allowed,
            needed,
            "fewer file descriptors than may be needed: raise the hard limit (LimitNOFILE= of the unit, ulimit -Hn), or lower backfill.max_jobs"
        );
    }
}

/// What may be open at once.
fn needed(config: &Config) -> u64 {
    let jobs = match config.worker.id {
        0 => u64::try_from(config.backfill.max_jobs).map_or(u64::MAX, |jobs| jobs + 1),
        _ => 0,
    };
    FETCHES
        .saturating_mul(jobs)
        .saturating_add(OWN + HTTP + STORE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn only_worker_0_needs_them_for_jobs() {
        let mut config = Config::load(&Sources::default()).unwrap().config;
        assert_eq!(needed(&config), 832 + 3 * 1024);
        config.backfill.max_jobs = 64;
        assert_eq!(needed(&config), 832 + 65 * 1024);
        config.worker.id = 1;
        assert_eq!(needed(&config), 832);
    }
}
