//! Who is asked next: for the identity of a repository, and then for itself.
//!
//! A host that wants no requests for a while rests. Who was sent to it before that was known comes back, and waits for it again when
//! its pause is over; who would lose an answer may wait where it is, but only so many, so that the other places are for the other
//! hosts. One that does nothing but fail is left alone too; what may be wrong is only the
//! accounts that were asked for, so it is asked how it is before another account is.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::failure::Failure;
use super::super::unit::{self, Target};
use super::{Run, Step, Unit};
use crate::fetch::{Condition, FetchError, FetchLimits, Patience};

/// Identities that are resolved at once,
pub(super) const MAX_RESOLVING: usize = 96;
/// and of those, by one host: the PLC directory, as a rule.
pub(super) const RESOLVING_PER_HOST: usize = 32;
/// How long everything waits for the directory's export,
const FILL_PATIENCE: Duration = Duration::from_secs(600);
/// and how many identities are resolved at once beside it from then on.
const RESOLVING_BESIDE: usize = 4;
/// Repositories that are fetched at once. The connection of each may hold 400 KiB that came and were not taken in yet.
pub(super) const MAX_FETCHING: usize = 512;
/// Of them, those that wait for a host that wants no requests, for it gave them a part already.
pub(super) const MAX_PATIENT: usize = MAX_FETCHING / 2;
/// When to look again while a host is asked how it is.
const PROBE: Duration = Duration::from_millis(200);
/// Bounds of what a host says of itself.
const DESCRIPTION: FetchLimits = FetchLimits {
    bytes: 64 << 10,
    time: Duration::from_secs(10),
    idle: Duration::from_secs(10),
};

/// What a host is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asking {
    Identity,
    Repository,
}

/// What is to be done about a host.
enum Turn {
    Ask,
    /// It failed; it may be back.
    Probe,
    /// Nothing before this time.
    Rest(Instant),
    /// Who waits for it fails with it.
    GiveUp(Failure),
}

impl Run {
    pub(super) fn ask_for_identities(&mut self) {
        while let Some((host, unit)) = self.identities.next(self.may_resolve()) {
            match self.turn(&host) {
                Turn::Rest(until) => {
                    self.identities.rest(&host, unit);
                    self.wake_at(until, Asking::Identity, host);
                }
                // Of some nothing has to be known but what is held.
                Turn::Ask | Turn::Probe | Turn::GiveUp(_) => {
                    let (tools, plan, hurry) =
                        (self.tools.clone(), self.plan.clone(), self.hurry());
                    self.steps.spawn(async move {
                        let target = unit::resolve(&tools, &plan, &unit.found, &hurry).await;
                        Step::Resolved(unit, host, target)
                    });
                }
            }
        }
    }

    pub(super) fn ask_for_repositories(&mut self) {
        while let Some((host, (unit, target))) = self.repositories.next(MAX_FETCHING) {
            match self.turn(&host) {
                Turn::Rest(until) => {
                    self.repositories.rest(&host, (unit, target));
                    self.wake_at(until, Asking::Repository, host);
                }
                Turn::Probe => {
                    let origin = target.origin().to_owned();
                    self.repositories.rest(&host, (unit, target));
                    self.probe(&origin, host);
                }
                Turn::GiveUp(failure) => {
                    self.repositories.leave(&host);
                    self.failed(unit, Some(target), failure);
                }
                Turn::Ask => {
                    let (tools, plan, hurry) =
                        (self.tools.clone(), self.plan.clone(), self.hurry());
                    self.steps.spawn(async move {
                        let fetched =
                            unit::fetch(&tools, &plan, &unit.found, &target, &hurry).await;
                        Step::Fetched(unit, target, fetched)
                    });
                }
            }
        }
    }

    /// Of one unit: there are others.
    fn hurry(&self) -> Patience {
        Patience::in_a_hurry(self.cancel.clone(), self.patient.clone())
    }

    /// What is to be done about a host whose turn it is.
    fn turn(&mut self, host: &Arc<str>) -> Turn {
        let now = Instant::now();
        match self.tools.fetcher.condition(host) {
            Condition::Ready => Turn::Ask,
            Condition::Paused(until) => Turn::Rest(until),
            Condition::Throttled => Turn::GiveUp(FetchError::Throttled(host.to_string()).into()),
            Condition::Probed => Turn::Rest(now + PROBE),
            Condition::Due if self.left_alone.is_to_be_probed(host, now) => Turn::Probe,
            Condition::Due => Turn::Ask,
            Condition::LeftAlone(until) => {
                let end = self.left_alone.end(host, now);
                match end <= now {
                    true => Turn::GiveUp(Failure::left_alone(host)),
                    false => Turn::Rest(until.min(end)),
                }
            }
        }
    }

    fn wake_at(&mut self, when: Instant, asking: Asking, host: Arc<str>) {
        self.steps.spawn(async move {
            tokio::time::sleep_until(when).await;
            Step::Rested(asking, host)
        });
    }

    /// Asks a host how it is: any answer shows that it is there, and is noted by the fetcher.
    fn probe(&mut self, origin: &str, host: Arc<str>) {
        let url = format!("{origin}/xrpc/com.atproto.server.describeServer");
        let (tools, cancel) = (self.tools.clone(), self.cancel.clone());
        self.steps.spawn(async move {
            let answer = tools.fetcher.get(&url, DESCRIPTION, &cancel).await;
            tracing::debug!(host = &*host, error = ?answer.err(), "a host that failed was asked how it is");
            Step::Rested(Asking::Repository, host)
        });
    }

    /// Lets a repository wait for who knows its host.
    pub(super) fn find_host(&mut self, unit: Unit) {
        let host = self.tools.identities.has_to_ask(&unit.found.did);
        self.identities.wait(&host.unwrap_or_default(), unit);
    }

    /// Lets it wait for its host.
    pub(super) fn wait_for_host(&mut self, unit: Unit, target: Target) {
        let host = target.host.clone();
        self.repositories.wait(&host, (unit, target));
    }

    /// Identities that may be resolved at once: none while they may soon be known all together, but not for ever.
    fn may_resolve(&self) -> usize {
        match self.filling {
            None => MAX_RESOLVING,
            Some(since) if since.elapsed() < FILL_PATIENCE => 0,
            Some(_) => RESOLVING_BESIDE,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::backfill::jobs::discover::Found;
    use crate::backfill::jobs::live::Live;
    use crate::backfill::jobs::model::{JobRequest, JobType};
    use crate::backfill::jobs::record::{Job, JobBody};
    use crate::backfill::jobs::roster::tests::tools;
    use crate::store::Store;
    use crate::store::memory::MemoryStore;

    fn run() -> Run {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let request = JobRequest::default();
        let job = Job {
            id: 1,
            epoch: 0,
            body: JobBody::new(request, JobType::FullSync, String::new(), 0),
        };
        let live = Arc::new(Live::new(job.clone()));
        Run::new(
            tools(&store, ""),
            live,
            job,
            false,
            CancellationToken::new(),
        )
    }

    /// Its name; it answers one request.
    async fn a_host_that_wants_none_for_an_hour() -> Arc<str> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // The client would not know an answer to what it has not sent.
            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
            let answer =
                "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
            // Until the client is gone.
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        });
        name.into()
    }

    fn unit(did: &str) -> Unit {
        let found = Found {
            did: did.to_owned(),
            ..Found::default()
        };
        Unit::new(found, 0)
    }

    #[tokio::test]
    async fn nobody_is_sent_to_a_host_that_wants_no_requests() {
        let (mut run, host) = (run(), a_host_that_wants_none_for_an_hour().await);
        let url = format!("http://{host}");
        let asked = run.tools.fetcher.get(&url, DESCRIPTION, &run.hurry()).await;
        assert!(
            matches!(&asked, Err(FetchError::Paused(name, _)) if **name == *host),
            "{asked:?}"
        );
        let did = format!("did:web:{}", host.replace(':', "%3A"));
        let target = Target {
            pds: url.into(),
            relay: None,
            host,
            key: None,
            held: None,
        };
        for _ in 0..3 {
            run.wait_for_host(unit(&did), target.clone());
            run.find_host(unit(&did));
        }
        run.ask_for_repositories();
        assert_eq!(run.steps.len(), 1, "it is looked at once more in an hour");
        run.ask_for_identities();
        assert_eq!(run.steps.len(), 2, "the same for identities");
        assert!(run.repositories.next(MAX_FETCHING).is_none());
        assert!(run.identities.next(MAX_RESOLVING).is_none());
    }
}
