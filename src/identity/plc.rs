//! The PLC directory beyond single documents: a DID's log, and the export of all.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::cache::{Answer, Entry, Key};
use super::document::{Said, is_tombstone, operation};
use super::{Identities, IdentityError, SigningKey, is_plc, seconds};
use crate::fetch::{FetchError, FetchLimits, Patience};

/// Operations of a page of the export, as the directory allows.
const PAGE: usize = 1000;
/// Bounds of a page and of a log: an operation has at most 7.5 kB, most have one.
const LIMITS: FetchLimits = FetchLimits {
    bytes: 16 << 20,
    time: Duration::from_secs(60),
    idle: Duration::from_secs(20),
};
/// Failures of one page until the fill fails.
const ATTEMPTS: u32 = 6;

#[derive(Deserialize)]
struct Logged {
    did: String,
    operation: Value,
    #[serde(default)]
    nullified: bool,
    #[serde(rename = "createdAt")]
    created_at: String,
}

/// How far the export was read.
#[derive(Debug, Default)]
pub(super) struct Export {
    /// `createdAt` of the last operation; empty: none yet.
    after: String,
    /// When a fill ended last, well or not (seconds since 1970).
    ended: Option<u32>,
}

/// What became of a fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// So many DIDs are known; of did:plc all that there are.
    All(u64),
    /// The directory has more DIDs than are remembered: of the others each has to be asked for by itself.
    Full(u64),
    /// One ended less than a day ago.
    NotDue,
}

impl Identities {
    /// Keys that the PLC directory's log shows for a DID, newest first; empty for did:web.
    pub async fn earlier_keys(
        &self,
        did: &str,
        patience: impl Into<Patience>,
    ) -> Result<Vec<SigningKey>, IdentityError> {
        if !is_plc(did) {
            return Ok(Vec::new());
        }
        let url = format!("{}/{did}/log/audit", self.0.plc_url);
        let log = match self.0.fetcher.get(&url, LIMITS, patience).await {
            Ok(log) => log,
            Err(FetchError::Status { status: 404, .. }) => {
                let why = "it has no log".to_owned();
                return Err(IdentityError::NotFound(did.to_owned(), why));
            }
            Err(error) => return Err(IdentityError::Fetch(did.to_owned(), error)),
        };
        let log: Vec<Logged> = serde_json::from_slice(&log)
            .map_err(|error| IdentityError::Malformed(did.to_owned(), error.to_string()))?;
        let valid = log
            .iter()
            .rev()
            .filter(|entry| !entry.nullified && entry.did == did);
        let mut keys = Vec::new();
        for key in valid.filter_map(|entry| operation(&entry.operation).key) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        Ok(keys)
    }

    /// Whether the last fill ended a day ago, or there was none.
    pub fn is_fill_due(&self) -> bool {
        // One that is at work holds the lock.
        let export = self.0.export.try_lock();
        export.is_ok_and(|export| self.is_due(&export))
    }

    fn is_due(&self, export: &Export) -> bool {
        let next = |ended: u32| ended.saturating_add(seconds(self.0.ages.positive));
        export.ended.is_none_or(|ended| next(ended) <= self.0.now())
    }

    /// Fills the cache from the PLC directory's `/export`, from where the last fill ended, at most once a day. One that is
    /// cancelled goes on where it was with the next.
    pub async fn fill(&self, cancel: &CancellationToken) -> Result<Filled, FetchError> {
        let mut export = self.0.export.lock().await;
        if !self.is_due(&export) {
            return Ok(Filled::NotDue);
        }
        let filled = self.read_export(&mut export.after, cancel).await;
        if !matches!(filled, Err(FetchError::Cancelled)) {
            export.ended = Some(self.0.now());
        }
        filled
    }

    async fn read_export(
        &self,
        after: &mut String,
        cancel: &CancellationToken,
    ) -> Result<Filled, FetchError> {
        loop {
            let known = self.0.cache().len();
            let count = |known: usize| u64::try_from(known).unwrap_or(u64::MAX);
            if known + PAGE > self.0.entries {
                return Ok(Filled::Full(count(known)));
            }
            let asked = self.0.now();
            let page = self.page(after, cancel).await?;
            let (last, whole) = self.learn_all(&page);
            match last {
                Some(last) if whole && last != *after => *after = last,
                last => {
                    *after = last.unwrap_or_default().max(std::mem::take(after));
                    self.0.filled.store(asked, Ordering::Relaxed);
                    return Ok(Filled::All(count(self.0.cache().len())));
                }
            }
        }
    }

    /// Takes a page in; gives its last `createdAt`, and whether it is as long as pages are.
    fn learn_all(&self, page: &[u8]) -> (Option<String>, bool) {
        let lines = page.split(|byte| *byte == b'\n');
        let (mut last, mut count) = (None, 0);
        for line in lines.filter(|line| !line.is_empty()) {
            count += 1;
            let Ok(logged) = serde_json::from_slice::<Logged>(line) else {
                continue;
            };
            self.learn(&logged);
            last = Some(logged.created_at);
        }
        (last, count >= PAGE)
    }

    async fn page(
        &self,
        after: &str,
        cancel: &CancellationToken,
    ) -> Result<bytes::Bytes, FetchError> {
        let mut url = format!("{}/export?count={PAGE}", self.0.plc_url);
        if !after.is_empty() {
            let after: String = reqwest::Url::parse_with_params("http://x", [("after", after)])
                .ok()
                .and_then(|url| url.query().map(str::to_owned))
                .unwrap_or_default();
            url = format!("{url}&{after}");
        }
        let mut attempt = 0;
        loop {
            let error = match self.0.fetcher.get(&url, LIMITS, cancel).await {
                Ok(page) => return Ok(page),
                Err(error) => error,
            };
            attempt += 1;
            let final_one = matches!(error, FetchError::Cancelled | FetchError::Forbidden(..));
            if final_one || attempt == ATTEMPTS {
                return Err(error);
            }
            let pause = tokio::time::sleep(self.0.ages.retry * attempt);
            if cancel.run_until_cancelled(pause).await.is_none() {
                return Err(FetchError::Cancelled);
            }
        }
    }

    /// Takes an operation in, unless something newer is known.
    fn learn(&self, logged: &Logged) {
        if logged.nullified || !is_plc(&logged.did) {
            return;
        }
        let Ok(created) = logged.created_at.parse::<jiff::Timestamp>() else {
            return;
        };
        let created = u32::try_from(created.as_second()).unwrap_or(0);
        let key = Key::of(&logged.did);
        let now = self.0.now();
        let mut cache = self.0.cache();
        if cache.get(&key).is_some_and(|known| known.at > created) {
            return;
        }
        let Said { pds, key: signing } = operation(&logged.operation);
        let answer = match is_tombstone(&logged.operation) {
            true => Answer::Tombstoned,
            false => Answer::Known(pds.map(|pds| cache.host(&pds)), signing),
        };
        let entry = Entry {
            answer,
            at: created,
            due: now.saturating_add(seconds(self.0.ages.positive)),
        };
        cache.put(key, entry);
    }
}
