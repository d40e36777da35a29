//! The rows of a store, as every implementation means them.

use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::decode::{Cid, Tid};
use crate::slot::SlotSet;

/// One page of a listing, and where the next one starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Give it back for the next page; `None` at the end.
    pub cursor: Option<String>,
}

/// A record as it is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// DID of the repository.
    pub did: String,
    /// NSID.
    pub collection: String,
    /// Record key.
    pub rkey: String,
    /// CID as the commit said it.
    pub cid: Cid,
    /// The `rev` that it was seen at.
    pub rev: Tid,
    /// Microseconds; differs from those of `rev` only for records of snapshots.
    pub version: u64,
    /// DAG-CBOR, exactly as received; empty where the query asked for no values.
    pub record: Vec<u8>,
    /// AT Protocol JSON, if it is kept beside the record.
    pub json: Option<Vec<u8>>,
}

/// Which records to list.
#[derive(Debug, Clone, Default)]
pub struct RecordsQuery {
    /// Only of this repository.
    pub did: Option<String>,
    /// Only of this collection.
    pub collection: Option<String>,
    /// Where the last page ended: a [`Page::cursor`], or for one (did, collection) also [`RecordsQuery::after_rkey`].
    pub cursor: Option<String>,
    /// Only record keys beyond this one, in the direction of the listing; needs `did` and `collection`.
    pub after_rkey: Option<String>,
    /// Greatest record key first; needs `did` and `collection`.
    pub descending: bool,
    /// At most so many (1 to 10,000; what is outside is moved to the nearer end). A page may be shorter where its values
    /// are large; only its cursor says whether there are more.
    pub limit: usize,
    /// Whether the records' bytes are wanted.
    pub values: bool,
}

impl RecordsQuery {
    /// Refuses what can't be answered in the order that was asked for.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if self.did.is_some() && self.collection.is_some() {
            return Ok(());
        }
        if self.descending || self.after_rkey.is_some() {
            return Err(StoreError::Query(
                "descending and after_rkey need a did and a collection".to_owned(),
            ));
        }
        Ok(())
    }

    /// The (did, collection, rkey) beyond which the page starts.
    pub(crate) fn position(&self) -> Result<Option<(&str, &str, &str)>, StoreError> {
        if let Some(cursor) = &self.cursor {
            let mut parts = cursor.splitn(3, '/');
            return match (parts.next(), parts.next(), parts.next()) {
                (Some(did), Some(collection), Some(rkey)) => Ok(Some((did, collection, rkey))),
                _ => Err(StoreError::Query(format!(
                    "{cursor:?} is no cursor of records"
                ))),
            };
        }
        match (&self.did, &self.collection, &self.after_rkey) {
            (Some(did), Some(collection), Some(rkey)) => Ok(Some((did, collection, rkey))),
            _ => Ok(None),
        }
    }
}

/// A row of `records_by_collection`, confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// DID of the repository.
    pub did: String,
    /// Record key.
    pub rkey: String,
    /// CID as the commit said it.
    pub cid: Cid,
    /// The `rev` that it was seen at.
    pub rev: Tid,
}

/// What an account's host said of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RepoStatus {
    /// Whether it is to be shown.
    pub active: bool,
    /// Why not, mostly. Unknown values are kept as they are.
    pub status: Option<String>,
}

impl RepoStatus {
    /// The bytes of the frozen CQL cell `(active, status)`: each part with its length, -1 for null. Of two cells of the
    /// same version the greater bytes win, in every store.
    pub fn cell(&self) -> Vec<u8> {
        let mut cell = vec![0, 0, 0, 1, u8::from(self.active)];
        match &self.status {
            Some(status) => {
                let len = u32::try_from(status.len()).unwrap_or(u32::MAX);
                cell.extend_from_slice(&len.to_be_bytes());
                cell.extend_from_slice(status.as_bytes());
            }
            None => cell.extend_from_slice(&u32::MAX.to_be_bytes()),
        }
        cell
    }

    /// The inverse of [`RepoStatus::cell`].
    pub fn from_cell(cell: &[u8]) -> Option<Self> {
        let (active, status) = match cell {
            [0, 0, 0, 1, active, len @ ..] => (*active == 1, len),
            _ => return None,
        };
        let status = match status {
            [0xff, 0xff, 0xff, 0xff] => None,
            [_, _, _, _, text @ ..] => Some(String::from_utf8(text.to_vec()).ok()?),
            _ => return None,
        };
        Some(Self { active, status })
    }
}

/// A repository as it is held.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Repo {
    /// The DID.
    pub did: String,
    /// The newest handle that an `#identity` said, and its version (microseconds).
    pub handle: Option<(u64, String)>,
    /// Its host, once it was asked for.
    pub pds: Option<String>,
    /// The newest status and its version (microseconds); none was seen: active.
    pub status: Option<(u64, RepoStatus)>,
    /// The greatest revision seen.
    pub rev: Option<Tid>,
    /// Root of the tree at `rev`.
    pub data: Option<Cid>,
    /// CID of the commit at `rev`.
    pub commit: Option<Cid>,
    /// The last full snapshot.
    pub complete: Option<Complete>,
    /// What was removed locally, by scope.
    pub floors: Vec<Floor>,
}

impl Repo {
    /// Whether readers see its records.
    pub fn active(&self) -> bool {
        self.status.as_ref().is_none_or(|(_, status)| status.active)
    }

    /// The newest handle.
    pub fn handle_text(&self) -> Option<&str> {
        self.handle.as_ref().map(|(_, handle)| handle.as_str())
    }

    /// Why not, if they don't.
    pub fn status_text(&self) -> Option<&str> {
        self.status
            .as_ref()
            .and_then(|(_, status)| status.status.as_deref())
    }
}

/// The last full snapshot of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complete {
    /// Its `rev`.
    pub rev: Tid,
    /// S': the version that its records were written at.
    pub version: u64,
    /// The collections that were wanted then, as the configuration spells them; empty: all.
    pub filter: String,
}

/// What a removal or a snapshot's range delete covers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// The whole repository.
    Repo,
    /// One collection of it.
    Collection(String),
}

/// The version at or below which nothing of a scope comes back except by a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Floor {
    /// What it covers.
    pub scope: Scope,
    /// Microseconds.
    pub version: u64,
}

/// A range delete: local removal, or the tail of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// DID of the repository.
    pub did: String,
    /// What goes.
    pub scope: Scope,
    /// All at or below it goes (microseconds).
    pub version: u64,
    /// Whether a floor stays, as for local removals.
    pub floor: bool,
}

/// The end of a full snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotDone {
    /// DID of the repository.
    pub did: String,
    /// What was complete in it: all older than `complete.version` goes there.
    pub scopes: Vec<Scope>,
    /// The snapshot.
    pub complete: Complete,
    /// Whether its records were acknowledged at least the store's `sync_lag` ago; else that is waited for.
    pub settled: bool,
}

/// S': the version that a full snapshot at `rev` is written at: not before its `rev`, above every floor, and above the
/// last snapshot unless it is the same one again.
pub fn snapshot_version(repo: &Repo, rev: Tid) -> u64 {
    let floor = repo
        .floors
        .iter()
        .map(|floor| floor.version + 1)
        .max()
        .unwrap_or(0);
    let last = match &repo.complete {
        Some(complete) if complete.rev == rev => complete.version,
        Some(complete) => complete.version + 1,
        None => 0,
    };
    rev.micros().max(floor).max(last)
}

/// What kind of a question a repair answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RepairKind {
    /// The records can't be trusted: a full snapshot.
    Content,
    /// The account's status can't be decided here: ask the host.
    Status,
    /// The repository was removed here but is active: a full snapshot.
    Floor,
}

impl RepairKind {
    /// Why repairs are written, as labels in metrics.
    pub const REASONS: [&'static str; 9] = [
        "quarantined",
        "sync",
        "too_big",
        "deleted",
        "account_time",
        "account_stale",
        "reactivated",
        "removed",
        "gap",
    ];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Status => "status",
            Self::Floor => "floor",
        }
    }
}

/// A row of `repairs`: a question about one repository, never overwritten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// The DID; empty where the frame has no readable one.
    pub did: String,
    /// Of (relay, generation, seq, kind): the same cause gives the same row.
    pub id: String,
    /// What is asked.
    pub kind: RepairKind,
    /// Why, as a label of few values.
    pub reason: String,
    /// The version (microseconds) that an answer must reach; 0 where it can't be read.
    pub version: u64,
}

/// A frame that could not be taken in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Quarantined {
    /// `DAY-SLOT-HASH`: the UTC day of receipt (`20261123`), the slot in hex, and a hash of source and bytes, so that the
    /// same frame gives the same row.
    pub id: String,
    /// When it came, microseconds.
    pub received: u64,
    /// A label of few values.
    pub reason: String,
    /// What exactly was wrong.
    pub detail: String,
    /// The relay or host that sent it.
    pub source: String,
    /// Its `seq`, where it can be read.
    pub seq: Option<u64>,
    /// Its DID, where it can be read.
    pub did: Option<String>,
    /// The frame as received.
    pub raw: Vec<u8>,
    /// Its length, where its bytes were dropped already: a row that is moved from another store. `raw` is empty then.
    pub evicted: Option<u64>,
}

impl Quarantined {
    /// The row without its bytes.
    pub(crate) fn entry(&self) -> QuarantineEntry {
        QuarantineEntry {
            id: self.id.clone(),
            received: self.received,
            reason: self.reason.clone(),
            detail: self.detail.clone(),
            source: self.source.clone(),
            seq: self.seq,
            did: self.did.clone(),
            size: self.evicted.unwrap_or(self.raw.len() as u64),
            evicted: self.evicted.is_some(),
        }
    }
}

/// A row of the quarantine, without the raw bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineEntry {
    /// As in [`Quarantined::id`].
    pub id: String,
    /// When it came, microseconds.
    pub received: u64,
    /// A label of few values.
    pub reason: String,
    /// What exactly was wrong.
    pub detail: String,
    /// The relay or host that sent it.
    pub source: String,
    /// Its `seq`.
    pub seq: Option<u64>,
    /// Its DID.
    pub did: Option<String>,
    /// Length of the frame.
    pub size: u64,
    /// Whether its bytes were dropped to keep the quarantine within its bound.
    pub evicted: bool,
}

/// How an interval came to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FactKind {
    /// By the live subscription.
    Live,
    /// By a replay.
    Replay,
    /// By repairing repositories.
    Repos,
    /// Not held: a poison frame was passed. Shown, never repaired by itself.
    Passed,
    /// Not held: the relay no longer has it.
    Expired,
    /// Not held: the relay has what is before and what is behind it, and skips it.
    Skipped,
}

impl FactKind {
    /// As it is stored, shown and logged.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Replay => "replay",
            Self::Repos => "repos",
            Self::Passed => "passed",
            Self::Expired => "expired",
            Self::Skipped => "skipped",
        }
    }

    /// Whether it says that the interval is held.
    pub fn is_held(self) -> bool {
        matches!(self, Self::Live | Self::Replay | Self::Repos)
    }

    /// Whether it says that a relay can't serve the interval, so that it has to be had elsewhere.
    pub fn is_lost(self) -> bool {
        matches!(self, Self::Expired | Self::Skipped)
    }
}

/// A row of the ledger: `run` held (from_seq, to_seq] of a relay's stream for these slots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Host of the relay.
    pub relay: String,
    /// The relay's `seq` space, from 0.
    pub generation: u32,
    /// The run: the microsecond at which it began, to 256 of them; no two workers' are equal.
    pub run: u64,
    /// Exclusive.
    pub from_seq: u64,
    /// Inclusive.
    pub to_seq: u64,
    /// Running median of the frames' `time` at `from_seq`, microseconds.
    pub from_time: u64,
    /// The same at `to_seq`.
    pub to_time: u64,
    /// The slots that it covers.
    pub slots: SlotSet,
    /// The collections that were stored, as the configuration spells them; empty: all.
    pub filter: String,
    /// How.
    pub kind: FactKind,
}

/// A job as it is stored. Rows of `jobs` are changed by compare-and-set alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRow {
    /// Grows with time: microseconds at which it was made, moved so that no two are equal.
    pub id: u64,
    /// How often it was changed; a change names the epoch that it read.
    pub epoch: u64,
    /// All else, in JSON; at most a few kilobytes.
    pub body: Vec<u8>,
}

/// What could not be done of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFailure {
    /// The job.
    pub job: u64,
    /// The repository.
    pub did: String,
    /// The collection, where units are of one; else empty.
    pub collection: String,
    /// Reason, host, attempts, times, in JSON.
    pub body: Vec<u8>,
}

/// What operators chose while the daemon ran: small lists, read as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChoiceKind {
    /// Collections that are indexed beside those of the configuration.
    Collection,
    /// DIDs that jobs skip.
    OptOut,
    /// DIDs that a job was given, in chunks: names are `JOB~CHUNK`.
    JobDids,
    /// What was last seen of the configuration, and other marks of worker 0.
    Mark,
}

impl ChoiceKind {
    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Collection => "collection",
            Self::OptOut => "optout",
            Self::JobDids => "job_dids",
            Self::Mark => "mark",
        }
    }
}

/// A row of such a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Which list.
    pub kind: ChoiceKind,
    /// The key in it.
    pub name: String,
    /// The value, in JSON; at most 256 KiB.
    pub body: Vec<u8>,
}
