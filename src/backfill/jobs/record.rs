//! A job as it is stored: what was asked for, how far it is, what was counted.

use std::collections::BTreeMap;
use std::time::Duration;

use data_encoding::BASE64_NOPAD;
use serde::{Deserialize, Serialize};

use super::discover::Source;
use super::failure::cut;
use super::model::{CollectionCounts, JobRequest, JobStatus, JobType, JobView, Stage};
use crate::decode::time::format_datetime;
use crate::slot::SlotSet;
use crate::store::{Fact, JobRow, StoreError};

/// Hosts that are named with why they were left out; more are only counted.
const MAX_HOSTS: usize = 100;
/// Bytes of them and of why,
const HOST_BYTES: usize = 16 << 10;
/// and of one reason.
const MAX_REASON: usize = 200;
/// Collections that are counted each; the counts of all others are summed up as `*`.
const MAX_COLLECTIONS: usize = 200;
/// Bytes of their names.
const COLLECTION_BYTES: usize = 16 << 10;

/// How far a job's discovery is: everything before it is done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Index into the job's sources.
    pub source: usize,
    /// The cursor of that source's next page; none: its first.
    pub cursor: Option<String>,
}

/// What was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Repositories found.
    pub found: u64,
    /// Done, well or not.
    pub processed: u64,
    /// Of them, failed.
    pub failed: u64,
    /// Of them, complete before.
    pub skipped: u64,
    /// Of them, of accounts that are gone or hidden.
    pub inactive: u64,
    /// Records written.
    pub records: u64,
    /// By collection.
    pub collections: BTreeMap<String, CollectionCounts>,
}

impl Counts {
    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.found += other.found;
        self.processed += other.processed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.inactive += other.inactive;
        self.records += other.records;
        for (collection, counts) in &other.collections {
            self.count(collection, *counts);
        }
    }

    /// Counts records of a collection.
    pub fn count(&mut self, collection: &str, counts: CollectionCounts) {
        let has_room = || {
            let bytes: usize = self.collections.keys().map(String::len).sum();
            self.collections.len() < MAX_COLLECTIONS && bytes + collection.len() <= COLLECTION_BYTES
        };
        let name = match self.collections.contains_key(collection) || has_room() {
            true => collection,
            false => "*",
        };
        let of = self.collections.entry(name.to_owned()).or_default();
        of.repos += counts.repos;
        of.records += counts.records;
    }
}

/// Hosts whose lists could not be had: what is there and was not held is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostHosts {
    /// Why, by host: the first of them.
    pub reasons: BTreeMap<String, String>,
    /// Those that are not named.
    pub others: u64,
}

impl LostHosts {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.reasons.len() as u64 + self.others
    }

    fn add(&mut self, host: &str, reason: String) {
        let has_room = || {
            let named = self.reasons.iter();
            let bytes: usize = named.map(|(host, reason)| host.len() + reason.len()).sum();
            self.reasons.len() < MAX_HOSTS && bytes + host.len() + reason.len() <= HOST_BYTES
        };
        match self.reasons.contains_key(host) || has_room() {
            true => _ = self.reasons.insert(host.to_owned(), reason),
            false => self.others += 1,
        }
    }
}

/// Hashes of the DIDs of repositories that are settled behind the checkpoint; stored as base64 of 8 bytes each, little-endian.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Settled(pub Vec<u64>);

impl From<Settled> for String {
    fn from(settled: Settled) -> Self {
        let bytes: Vec<u8> = settled
            .0
            .iter()
            .flat_map(|hash| hash.to_le_bytes())
            .collect();
        BASE64_NOPAD.encode(&bytes)
    }
}

impl TryFrom<String> for Settled {
    type Error = data_encoding::DecodeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = BASE64_NOPAD.decode(text.as_bytes())?;
        let hashes = bytes.as_chunks().0.iter().copied();
        Ok(Self(hashes.map(u64::from_le_bytes).collect()))
    }
}

/// All that a job is, beside its id and epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobBody {
    /// What was asked for, without the DIDs, which are rows of their own.
    pub request: JobRequest,
    /// How many DIDs were given.
    pub dids: u64,
    /// The DID, if there is exactly one.
    pub did: Option<String>,
    /// What kind of work.
    pub kind: JobType,
    /// One job of a scope at a time.
    pub scope: String,
    /// Where it is.
    pub status: JobStatus,
    /// Where its repositories come from.
    pub sources: Vec<Source>,
    /// How far that is.
    pub checkpoint: Checkpoint,
    /// Whether all are listed.
    pub listed: bool,
    /// What it does, where that is not told by `listed`.
    pub stage: Option<Stage>,
    /// Whether it begins only once all workers take its collections in.
    #[serde(default)]
    pub awaits_workers: bool,
    /// Whether it takes only what failed.
    pub retrying: bool,
    /// What is settled behind the checkpoint.
    #[serde(default)]
    pub settled: Settled,
    /// What was counted of all that is settled.
    pub counts: Counts,
    /// The start of what is wanted (microseconds), for windows and gaps.
    pub from: Option<u64>,
    /// What it closes of the ledger: written once every repository is repaired or has a repair of its own.
    pub gaps: Vec<Fact>,
    /// Whether time that was held before is repaired, so that deletes count: full snapshots, whatever `from` is.
    pub between: bool,
    /// Only repositories of these slots; `None`: all.
    pub slots: Option<SlotSet>,
    /// Hosts that were left out of the discovery.
    #[serde(default)]
    pub lost_hosts: LostHosts,
    /// Why it failed.
    pub error: Option<String>,
    /// Microseconds, all of them.
    pub created: u64,
    /// When it began.
    pub started: Option<u64>,
    /// When it was over.
    pub completed: Option<u64>,
    /// When it last changed.
    pub updated: u64,
}

impl JobBody {
    /// A job that waits.
    pub fn new(mut request: JobRequest, kind: JobType, scope: String, now: u64) -> Self {
        let dids = std::mem::take(&mut request.dids);
        let days = request.days.filter(|days| *days > 0.0);
        let micros =
            |days: f64| u64::try_from(Duration::from_secs_f64(days * 86_400.0).as_micros());
        Self {
            from: days.map(|days| now.saturating_sub(micros(days).unwrap_or(u64::MAX))),
            dids: dids.len() as u64,
            did: match dids.as_slice() {
                [did] => Some(did.clone()),
                _ => None,
            },
            request,
            kind,
            scope,
            status: JobStatus::Pending,
            sources: Vec::new(),
            checkpoint: Checkpoint::default(),
            listed: false,
            stage: None,
            awaits_workers: false,
            retrying: false,
            settled: Settled::default(),
            counts: Counts::default(),
            gaps: Vec::new(),
            between: false,
            slots: None,
            lost_hosts: LostHosts::default(),
            error: None,
            created: now,
            started: None,
            completed: None,
            updated: now,
        }
    }

    /// Puts what tells the same behind a source whose server does not know the method; gives where to go on, if anything does.
    ///
    /// The source itself stays where it is, so that what was noted of it before stays true. What would be asked of the same
    /// server in the same way goes.
    pub fn fall_back(&mut self, source: usize) -> Option<Checkpoint> {
        let fallback = self.sources.get(source)?.fallback()?;
        let alike = |other: &Source| other.fallback().as_ref() == Some(&fallback);
        let mut place = 0;
        self.sources.retain(|other| {
            place += 1;
            place <= source + 1 || !alike(other)
        });
        let next = source + 1;
        if self.sources.get(next) != Some(&fallback) {
            self.sources.insert(next, fallback);
        }
        Some(Checkpoint {
            source: next,
            cursor: None,
        })
    }

    /// Lets a host wait until the others of a source were asked: it becomes a source of its own, behind that one and before those that
    /// are held. `false`: it was asked so already, or too many wait.
    pub fn put_off(&mut self, source: usize, host: &str) -> bool {
        let alone = self.sources.iter().enumerate();
        let alone = alone.filter_map(|(place, source)| match source {
            Source::Host { host } => Some((place, host)),
            _ => None,
        });
        let last = alone.clone().rfind(|(_, other)| *other == host);
        if let Some((place, _)) = last {
            return place > source;
        }
        let bytes: usize = alone.map(|(_, other)| other.len()).sum();
        if bytes + host.len() > HOST_BYTES {
            return false;
        }
        let mut behind = (source + 1)..self.sources.len();
        let is_held = |place: &usize| matches!(self.sources.get(*place), Some(Source::Held { .. }));
        let place = behind.find(is_held).unwrap_or(self.sources.len());
        let host = host.to_owned();
        self.sources.insert(place, Source::Host { host });
        true
    }

    /// The host of a source's relay, if other relays list as well and are not all left out, or did so before a retry.
    pub fn relay_beside_others(&self, source: usize) -> Option<String> {
        let host = self.sources.get(source)?.relay_host()?;
        let mut hosts = self.sources.iter().filter_map(Source::relay_host);
        let lists = |other: &str| other != host && !self.lost_hosts.reasons.contains_key(other);
        (self.retrying || hosts.any(lists)).then(|| host.to_owned())
    }

    /// Notes a host that does not list its repositories.
    pub fn lose_host(&mut self, host: &str, error: &impl ToString) {
        // Escapes would make it longer where it is stored.
        let reason = error.to_string().replace(char::is_control, " ");
        self.lost_hosts
            .add(host, cut(&reason, MAX_REASON).to_owned());
    }

    /// Where the hosts that were left out are asked again: all that a relay lists, whichever of its lists failed.
    pub fn take_lost_hosts(&mut self) -> Vec<Source> {
        let LostHosts { reasons, others } = std::mem::take(&mut self.lost_hosts);
        let is_lost = |relay: &str| reasons.contains_key(relay);
        let mut again: Vec<Source> = Vec::new();
        for source in &self.sources {
            // Who is not named is of such a list.
            let lists_hosts = matches!(source, Source::Hosts { .. });
            let wanted = source.relay_host().is_some_and(is_lost) || lists_hosts && others > 0;
            if wanted && !again.contains(source) {
                again.push(source.clone());
            }
        }
        if others == 0 {
            let relays: Vec<_> = self.sources.iter().filter_map(Source::relay_host).collect();
            let hosts = reasons.into_keys();
            let hosts = hosts.filter(|host| !relays.contains(&host.as_str()));
            again.extend(hosts.map(|host| Source::Host { host }));
        }
        again
    }
}

/// A job and the epoch at which it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// As in [`JobRow`].
    pub id: u64,
    /// As in [`JobRow`].
    pub epoch: u64,
    /// The rest.
    pub body: JobBody,
}

impl Job {
    /// Reads a row.
    pub fn read(row: &JobRow) -> Result<Self, StoreError> {
        let body = serde_json::from_slice(&row.body).map_err(|error| {
            StoreError::Failed(format!("the job {} is garbled: {error}", row.id))
        })?;
        Ok(Self {
            id: row.id,
            epoch: row.epoch,
            body,
        })
    }

    /// The row.
    pub fn row(&self) -> Result<JobRow, StoreError> {
        let body = serde_json::to_vec(&self.body)
            .map_err(|error| StoreError::Failed(format!("the job {}: {error}", self.id)))?;
        Ok(JobRow {
            id: self.id,
            epoch: self.epoch,
            body,
        })
    }

    /// What people see of it, with counts that may be ahead of the checkpoint's.
    pub fn view(&self, counts: &Counts, now: u64) -> JobView {
        let body = &self.body;
        let running = body.status == JobStatus::Running;
        let stage = body.stage.unwrap_or(match body.listed {
            true => Stage::Fetching,
            false => Stage::Discovering,
        });
        let covered = body.status == JobStatus::Completed
            && counts.failed == 0
            && body.lost_hosts.count() == 0;
        let at = |micros: u64| format_datetime(micros);
        JobView {
            id: self.id.to_string(),
            r#type: body.kind,
            status: body.status,
            stage: running.then_some(stage),
            collection: Some(body.request.collections.join(",")).filter(|names| !names.is_empty()),
            did: body.did.clone(),
            dids: Some(body.dids).filter(|dids| *dids > 0),
            days: body.request.days,
            force: body.request.force,
            origin: body.request.origin.clone(),
            total_repos: body.listed.then_some(counts.found),
            processed_repos: counts.processed,
            failed_repos: counts.failed,
            skipped_repos: counts.skipped,
            inactive_repos: counts.inactive,
            failed_hosts: body.lost_hosts.count(),
            host_failures: body.lost_hosts.reasons.clone(),
            waiting_repos: counts.found.saturating_sub(counts.processed),
            total_records: counts.records,
            wanted_from: body.from.map(at),
            covered_from: body.from.filter(|_| covered).map(at),
            error: body.error.clone(),
            created_at: at(body.created),
            started_at: body.started.map(at),
            completed_at: body.completed.map(at),
            updated_at: at(body.updated),
            eta_seconds: self.eta(counts, now).filter(|_| running),
            collections: counts.collections.clone(),
        }
    }

    /// Seconds at the rate so far, once all are listed.
    fn eta(&self, counts: &Counts, now: u64) -> Option<f64> {
        let began = self.body.started.filter(|_| self.body.listed)?;
        let left = counts.found.saturating_sub(counts.processed);
        if counts.processed == 0 {
            return None;
        }
        let seconds = now.saturating_sub(began) as f64 / 1e6;
        Some(seconds * left as f64 / counts.processed as f64)
    }
}

impl Job {
    /// Back to work: on what failed, and where it was cancelled or failed as a whole also on what was not reached.
    pub(super) fn again(&mut self, unlisted: bool) {
        let body = &mut self.body;
        body.status = JobStatus::Pending;
        (body.completed, body.error) = (None, None);
        let lost = body.take_lost_hosts();
        if unlisted {
            body.listed &= lost.is_empty();
            body.sources.extend(lost);
        } else {
            body.sources = vec![Source::Failures];
            body.sources.extend(lost);
            body.checkpoint = Checkpoint::default();
            body.settled = Settled::default();
            body.listed = false;
            body.retrying = true;
        }
        // What failed is counted anew.
        let failed = if unlisted { 0 } else { body.counts.failed };
        let counts = &mut body.counts;
        counts.found = counts.found.saturating_sub(failed);
        counts.processed = counts.processed.saturating_sub(failed);
        counts.failed -= failed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::store::memory::MemoryStore;

    #[test]
    fn a_host_is_put_off_once_and_before_what_is_held() {
        let mut body = JobBody::new(JobRequest::default(), JobType::FullSync, String::new(), 0);
        let relay = || Source::Hosts {
            relay: "https://r".to_owned(),
        };
        let host = |name: &str| Source::Host {
            host: name.to_owned(),
        };
        let held = || Source::Held { hidden: true };
        body.sources = vec![relay(), held()];
        assert!(body.put_off(0, "a") && body.put_off(0, "b"));
        let put_off = [relay(), host("a"), host("b"), held()];
        assert_eq!(body.sources, put_off);
        // It waits already, as after a kill; then it was asked.
        assert!(body.put_off(0, "b") && !body.put_off(2, "b"));
        assert_eq!(body.sources, put_off);
        // The list of hosts is asked for once more, after those that are held.
        body.sources = vec![relay(), held(), relay()];
        assert!(body.put_off(2, "a"));
        assert_eq!(body.sources, [relay(), held(), relay(), host("a")]);
        let mut many = 0;
        while body.put_off(2, &format!("{many:0>253}")) {
            many += 1;
        }
        assert_eq!(many, HOST_BYTES / 253);
    }

    #[test]
    fn all_lists_of_a_relay_that_was_left_out_are_asked_for_again() {
        let mut body = JobBody::new(JobRequest::default(), JobType::FullSync, String::new(), 0);
        let list = |relay: &str, collection: &str| Source::ByCollection {
            relay: format!("https://{relay}"),
            collection: collection.to_owned(),
        };
        let hosts = Source::Hosts {
            relay: "https://r1".to_owned(),
        };
        let host = Source::Host {
            host: "h".to_owned(),
        };
        let lists = [
            list("r1", "a"),
            list("r1", "b"),
            list("r2", "a"),
            list("r2", "b"),
        ];
        body.sources = lists.to_vec();
        body.sources.push(hosts.clone());
        body.lose_host("r2", &"");
        body.lose_host("h", &"");
        let again = [lists[2].clone(), lists[3].clone(), host];
        assert_eq!(body.take_lost_hosts(), again);
        // Those that have no name any more are of the list of hosts.
        body.lose_host("r2", &"");
        body.lost_hosts.others = 1;
        let again = [lists[2].clone(), lists[3].clone(), hosts];
        assert_eq!(body.take_lost_hosts(), again);
        assert_eq!(body.take_lost_hosts(), []);
    }

    #[tokio::test]
    async fn whatever_hosts_say_the_job_can_be_stored() {
        let request = JobRequest::default();
        let mut body = JobBody::new(request, JobType::FullSync, String::new(), 0);
        for number in 0..1000 {
            let long = "c".repeat(300);
            let counts = CollectionCounts {
                repos: u64::MAX / 1000,
                records: u64::MAX / 1000,
            };
            body.counts.count(&format!("{long}.{number}"), counts);
            let host = format!("{number}.{}", "h".repeat(240));
            body.lose_host(&host, &"\u{1}\"🦋".repeat(10_000));
        }
        assert_eq!(body.lost_hosts.count(), 1000);
        assert_eq!(body.counts.collections.len(), 54 + 1);
        assert!(body.counts.collections.contains_key("*"));
        let job = Job {
            id: 1,
            epoch: 0,
            body,
        };
        let row = job.row().unwrap();
        assert!(row.body.len() < 64 << 10, "{}", row.body.len());
        assert!(MemoryStore::default().put_job(&row, None).await.unwrap());
    }
}
