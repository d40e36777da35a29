//! Who hosts a repository and which key signs it: did:plc and did:web, cached (protocol.md, section 7).
//!
//! Of all who ask for one DID at a time one asks the directory, or its host; the others get the same answer. An answer
//! that is due is given once more while it is asked anew in the background.

mod cache;
mod document;
mod flights;
mod handle;
mod plc;
mod txt;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::fetch::{FetchError, FetchLimits, Fetcher, Patience, WaitingPlaces};
use crate::telemetry::metrics::{IDENTITY_CACHE_HITS, IDENTITY_FETCHES};
use cache::{Answer, Cache, Entry, Key};
use flights::{Flights, Number};
use plc::Export;

/// Bounds of a document.
const LIMITS: FetchLimits = FetchLimits {
    bytes: 256 << 10,
    time: Duration::from_secs(10),
    idle: Duration::from_secs(10),
};
/// Longest DID.
const DID_MAX: usize = 2048;
/// Answers that are asked anew in the background at once.
const BACKGROUND: usize = 64;

pub use crate::decode::SigningKey;
pub use handle::{HandleError, HostError};
pub use plc::Filled;
pub use txt::{Dns, TxtError};

/// What a DID document says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Origin of the PDS: `https://host[:port]`; none: the document names none.
    pub pds: Option<Arc<str>>,
    /// The key; none: the document has none that we can read.
    pub key: Option<SigningKey>,
}

/// Why a DID could not be resolved.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IdentityError {
    /// Nobody knows it, or it is not of a method that we know.
    #[error("{0} is not known: {1}")]
    NotFound(String, String),
    /// It was tombstoned: counts as a deleted account.
    #[error("{0} is tombstoned")]
    Tombstoned(String),
    /// The document is not one, or of another DID.
    #[error("the DID document of {0} is malformed: {1}")]
    Malformed(String, String),
    /// It could not be fetched now.
    #[error("{0} could not be resolved: {1}")]
    Fetch(String, FetchError),
}

/// How long answers are good.
#[derive(Debug, Clone, Copy)]
pub struct Ages {
    /// An identity, until it is asked anew in the background.
    pub positive: Duration,
    /// How long beyond that it is still given.
    pub stale: Duration,
    /// A DID that nobody knows, a tombstone, a malformed document.
    pub negative: Duration,
    /// A host or a directory that could not be asked.
    pub failing: Duration,
    /// Pause before a page of the directory's export is tried again; grows with each attempt.
    pub retry: Duration,
}

impl Default for Ages {
    fn default() -> Self {
        const HOUR: u64 = 3600;
        Self {
            positive: Duration::from_secs(24 * HOUR),
            stale: Duration::from_secs(7 * 24 * HOUR),
            negative: Duration::from_secs(HOUR),
            failing: Duration::from_secs(60),
            retry: Duration::from_secs(5),
        }
    }
}

/// How to resolve.
#[derive(Debug, Clone)]
pub struct IdentityOptions {
    /// The PLC directory; the fetcher must allow it.
    pub plc_url: String,
    /// Who is asked for the TXT records of handles.
    pub dns: Dns,
    /// How long answers are good.
    pub ages: Ages,
    /// DIDs that are remembered at most; each takes about 100 bytes, at worst twice that.
    pub entries: usize,
}

impl Default for IdentityOptions {
    fn default() -> Self {
        Self {
            plc_url: "https://plc.directory".to_owned(),
            dns: Dns::default(),
            ages: Ages::default(),
            entries: 2_000_000,
        }
    }
}

/// Resolves and caches. Cheap to clone.
#[derive(Clone)]
pub struct Identities(Arc<Inner>);

struct Inner {
    fetcher: Fetcher,
    plc_url: String,
    dns: Dns,
    ages: Ages,
    clock: Arc<dyn Clock>,
    cache: Mutex<Cache>,
    flights: Flights,
    entries: usize,
    export: tokio::sync::Mutex<Export>,
    /// When every did:plc that is cached was known to be as the export has it (seconds since 1970); 0: never.
    filled: AtomicU32,
    background: Arc<Semaphore>,
}

impl Identities {
    /// Knows nothing yet.
    pub fn new(fetcher: Fetcher, options: &IdentityOptions, clock: Arc<dyn Clock>) -> Self {
        let outcomes = ["found", "not_found", "tombstoned", "malformed", "failed"];
        IDENTITY_FETCHES.begin(outcomes.map(|outcome| [outcome]));
        IDENTITY_CACHE_HITS.begin([[]]);
        Self(Arc::new(Inner {
            fetcher,
            plc_url: options.plc_url.trim_end_matches('/').to_owned(),
            dns: options.dns.clone(),
            ages: options.ages,
            clock,
            cache: Mutex::new(Cache::new(options.entries)),
            flights: Flights::default(),
            entries: options.entries,
            export: tokio::sync::Mutex::default(),
            filled: AtomicU32::new(0),
            background: Arc::new(Semaphore::new(BACKGROUND)),
        }))
    }

    /// The identity of a DID; one fetch in flight per DID.
    pub async fn resolve(
        &self,
        did: &str,
        patience: impl Into<Patience>,
    ) -> Result<Identity, IdentityError> {
        if let Some((answer, due)) = self.0.cached(did) {
            IDENTITY_CACHE_HITS.with([]).increment(1);
            if due {
                self.ask_in_background(did);
            }
            return answer.result(did);
        }
        self.refresh(did, patience).await
    }

    /// The host (`host[:port]`) that [`resolve`](Self::resolve) would have to ask; none: the answer is known.
    pub fn has_to_ask(&self, did: &str) -> Option<Arc<str>> {
        if self.0.cached(did).is_some() {
            return None;
        }
        let url = self.0.url(did).ok()?;
        let (_, after) = url.split_once("://")?;
        let host = after.split('/').next()?;
        Some(Arc::from(host.trim_end_matches('.')))
    }

    /// The same, asked anew: what is cached is not believed.
    pub async fn refresh(
        &self,
        did: &str,
        patience: impl Into<Patience>,
    ) -> Result<Identity, IdentityError> {
        let patience = patience.into();
        let asking = async {
            loop {
                match self.ask(did).await {
                    Err(IdentityError::Fetch(_, FetchError::Paused(_, until)))
                        if patience.lasts_until(until) =>
                    {
                        sleep_until(until).await;
                    }
                    answer => return answer,
                }
            }
        };
        let asking = patience.cancel().run_until_cancelled(asking);
        let cancelled = || Err(IdentityError::Fetch(did.to_owned(), FetchError::Cancelled));
        asking.await.unwrap_or_else(cancelled)
    }

    /// Forgets what is cached of a DID: an `#identity` said that it changed.
    pub fn forget(&self, did: &str) {
        let key = Key::of(did);
        // What is on its way may be of before the change.
        self.0.flights.forget(&key);
        self.0.cache().forget(&key);
    }

    /// The answer of now, shared with all who ask at the same time. Goes on while anybody waits for it.
    async fn ask(&self, did: &str) -> Result<Identity, IdentityError> {
        let key = Key::of(did);
        let (inner, owned) = (Arc::clone(&self.0), did.to_owned());
        let shared = self.0.flights.join(&key, |number| async move {
            match inner.fetch(&owned).await {
                // Nothing was answered.
                Err(paused @ IdentityError::Fetch(_, FetchError::Paused(..))) => Err(paused),
                answer => inner.keep(&owned, number, answer),
            }
        });
        shared.await
    }

    fn ask_in_background(&self, did: &str) {
        let permit = Arc::clone(&self.0.background).try_acquire_owned();
        let Ok(permit) = permit else { return };
        let (this, did) = (self.clone(), did.to_owned());
        tokio::spawn(async move {
            let _ = this.ask(&did).await;
            drop(permit);
        });
    }
}

impl Inner {
    fn now(&self) -> u32 {
        u32::try_from(self.clock.now_micros() / 1_000_000).unwrap_or(u32::MAX)
    }

    /// An answer that may be given without asking, and whether it is to be asked anew.
    fn cached(&self, did: &str) -> Option<(Answer, bool)> {
        let key = Key::of(did);
        let entry = self.cache().get(&key)?;
        let (until, now) = (self.good_until(&key, &entry), self.now());
        let due = until <= now;
        let usable = match entry.answer {
            Answer::Known(..) => now < until.saturating_add(seconds(self.ages.stale)),
            _ => !due,
        };
        usable.then_some((entry.answer, due))
    }

    /// When to ask again: whatever changed of a did:plc is in the export.
    fn good_until(&self, key: &Key, entry: &Entry) -> u32 {
        let filled = self.filled.load(Ordering::Relaxed);
        match (key, &entry.answer) {
            (Key::Plc(_), Answer::Known(..)) if filled > 0 => entry
                .due
                .max(filled.saturating_add(seconds(self.ages.positive))),
            _ => entry.due,
        }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the directory, or the DID's own host.
    async fn fetch(&self, did: &str) -> Result<document::Said, IdentityError> {
        // Those who wait are cancelled, and have patience, each for itself; without any of them this future is dropped.
        let (never, nowhere) = (CancellationToken::new(), WaitingPlaces::new(0));
        let hurry = Patience::in_a_hurry(never, nowhere);
        let bytes = self.document(did, hurry).await?;
        document::parse(did, &bytes).map_err(|why| IdentityError::Malformed(did.to_owned(), why))
    }

    /// The document as it is sent.
    async fn document(&self, did: &str, patience: Patience) -> Result<bytes::Bytes, IdentityError> {
        let url = self.url(did)?;
        let fetched = self.fetcher.get(&url, LIMITS, patience).await;
        fetched.map_err(|error| match error {
            FetchError::Status { status: 404, .. } => {
                IdentityError::NotFound(did.to_owned(), "there is no document".to_owned())
            }
            FetchError::Status { status: 410, .. } => IdentityError::Tombstoned(did.to_owned()),
            FetchError::TooLarge { .. } => {
                IdentityError::Malformed(did.to_owned(), error.to_string())
            }
            error => IdentityError::Fetch(did.to_owned(), error),
        })
    }

    fn url(&self, did: &str) -> Result<String, IdentityError> {
        let url = if is_plc(did) {
            Some(format!("{}/{did}", self.plc_url))
        } else {
            web_origin(did, self.fetcher.allows_private())
                .map(|origin| format!("{origin}/.well-known/did.json"))
        };
        url.ok_or_else(|| {
            let why = "it is no valid did:plc or did:web".to_owned();
            IdentityError::NotFound(cut(did), why)
        })
    }

    /// Remembers an answer, unless the DID was forgotten meanwhile.
    fn keep(
        &self,
        did: &str,
        number: Number,
        found: Result<document::Said, IdentityError>,
    ) -> Result<Identity, IdentityError> {
        let outcome = match &found {
            Ok(_) => "found",
            Err(IdentityError::NotFound(..)) => "not_found",
            Err(IdentityError::Tombstoned(_)) => "tombstoned",
            Err(IdentityError::Malformed(..)) => "malformed",
            Err(IdentityError::Fetch(..)) => "failed",
        };
        IDENTITY_FETCHES.with([outcome]).increment(1);
        let (key, now, ages) = (Key::of(did), self.now(), &self.ages);
        let mut cache = self.cache();
        let (answer, good_for) = match found {
            Ok(said) => {
                let pds = said.pds.map(|pds| cache.host(&pds));
                (Answer::Known(pds, said.key), ages.positive)
            }
            Err(IdentityError::Tombstoned(_)) => (Answer::Tombstoned, ages.negative),
            Err(error @ IdentityError::Fetch(..)) => {
                (Answer::Unknown(Arc::new(error)), ages.failing)
            }
            Err(error) => (Answer::Unknown(Arc::new(error)), ages.negative),
        };
        let due = now.saturating_add(seconds(good_for));
        let result = answer.result(did);
        // A DID that can't be longer than a real one is not worth the memory.
        if !self.flights.land(&key, number) || did.len() > DID_MAX {
            return result;
        }
        let failed = matches!(result, Err(IdentityError::Fetch(..)));
        match cache.get(&key) {
            Some(old) if failed && matches!(old.answer, Answer::Known(..)) => {
                cache.put(
                    key,
                    Entry {
                        due: due.max(old.due),
                        ..old
                    },
                );
            }
            _ => cache.put(
                key,
                Entry {
                    answer,
                    at: now,
                    due,
                },
            ),
        }
        result
    }
}

/// Whether it is a did:plc with its 24 characters.
fn is_plc(did: &str) -> bool {
    matches!(Key::of(did), Key::Plc(_))
}

/// The origin of a did:web, which atproto allows no path and no port. With a port, for tests, it is plain HTTP.
fn web_origin(did: &str, private: bool) -> Option<String> {
    let host = did
        .strip_prefix("did:web:")
        .filter(|_| did.len() <= DID_MAX)?;
    let (host, port) = match host.split_once("%3A") {
        Some((host, port)) if private => (host, Some(port.parse::<u16>().ok()?)),
        _ => (host, None),
    };
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    if host.is_empty() || !host.chars().all(valid) {
        return None;
    }
    Some(match port {
        Some(port) => format!("http://{host}:{port}"),
        None => format!("https://{host}"),
    })
}

/// For a message.
fn cut(did: &str) -> String {
    crate::relay::printable::printable(did)
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn did_web_is_a_host_name() {
        for (did, origin) in [
            ("did:web:a.example", Some("https://a.example")),
            ("did:web:a.example:path", None),
            ("did:web:a.example%3A80", None),
            ("did:web:", None),
            ("did:web:a/b", None),
            ("did:web:a@b", None),
            ("did:web:a%2Fb", None),
            ("did:key:zabc", None),
        ] {
            assert_eq!(web_origin(did, false).as_deref(), origin, "{did}");
        }
        let local = web_origin("did:web:localhost%3A2583", true);
        assert_eq!(local.as_deref(), Some("http://localhost:2583"));
    }
}
