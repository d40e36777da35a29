//! A batch of versioned writes: what a lane hands to the store at once.

use std::cmp::Ordering;

use super::{Quarantined, Repair, RepoStatus};
use crate::decode::{Cid, Tid};

/// Bytes that an emptied batch keeps at most.
const KEPT_BYTES: usize = 4 << 20;

/// A range of the batch's arena.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    start: usize,
    end: usize,
}

/// Versioned writes whose texts and bytes live in one reused arena, so that filling it allocates nothing per field.
///
/// Writes commute: the store may apply batches in any order and any number of times.
#[derive(Debug, Default)]
pub struct WriteBatch {
    arena: Vec<u8>,
    records: Vec<RecordSpans>,
    revs: Vec<RevSpans>,
    statuses: Vec<StatusWrite>,
    handles: Vec<HandleWrite>,
    repairs: Vec<Repair>,
    quarantined: Vec<Quarantined>,
}

#[derive(Debug, Clone, Copy)]
struct RecordSpans {
    did: Span,
    collection: Span,
    rkey: Span,
    version: u64,
    rev: Tid,
    body: Option<(Cid, Span, Option<Span>)>,
}

#[derive(Debug, Clone, Copy)]
struct RevSpans {
    did: Span,
    rev: Tid,
    data: Cid,
    commit: Cid,
}

/// An upsert or a delete of one record.
#[derive(Debug, Clone, Copy)]
pub struct RecordWrite<'a> {
    /// DID of the repository.
    pub did: &'a str,
    /// NSID.
    pub collection: &'a str,
    /// Record key.
    pub rkey: &'a str,
    /// Microseconds; for a commit those of `rev`, for a snapshot S'.
    pub version: u64,
    /// The `rev` that the record was seen at.
    pub rev: Tid,
    /// What is written; `None` deletes.
    pub body: Option<RecordBody<'a>>,
}

/// What a record is.
#[derive(Debug, Clone, Copy)]
pub struct RecordBody<'a> {
    /// Its CID.
    pub cid: Cid,
    /// DAG-CBOR, exactly as received.
    pub record: &'a [u8],
    /// AT Protocol JSON, kept only with `store.json`.
    pub json: Option<&'a [u8]>,
}

/// The repository's revision; the greatest `rev` wins.
#[derive(Debug, Clone, Copy)]
pub struct RevWrite<'a> {
    /// DID of the repository.
    pub did: &'a str,
    /// Revision.
    pub rev: Tid,
    /// Root of the tree at that revision.
    pub data: Cid,
    /// CID of the commit.
    pub commit: Cid,
}

/// An account's (active, status); the greatest (version, cell bytes) wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusWrite {
    /// The DID.
    pub did: String,
    /// The event's `time`, in microseconds.
    pub version: u64,
    /// What it says.
    pub status: RepoStatus,
    /// Put as well when the stored status is not older than this one and differs from it.
    pub repair_if_stale: Option<Repair>,
    /// Put as well when the older one of this and the stored status is inactive and the newer one active: a relay drops what an
    /// account writes while it counts as inactive.
    pub repair_if_reactivated: Option<Repair>,
}

impl StatusWrite {
    /// Whether an account came back between the stored status and this one, whichever of them is older.
    pub(crate) fn tells_reactivation(&self, version: u64, active: bool) -> bool {
        let this = (self.version, self.status.active);
        let stored = (version, active);
        match this.0.cmp(&stored.0) {
            Ordering::Greater => !stored.1 && this.1,
            Ordering::Less => !this.1 && stored.1,
            Ordering::Equal => false,
        }
    }
}

/// A handle; the greatest (version, handle) wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandleWrite {
    /// The DID.
    pub did: String,
    /// The event's `time`, in microseconds.
    pub version: u64,
    /// The handle as the event says it, lower case.
    pub handle: String,
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an upsert or a delete of a record.
    pub fn put_record(&mut self, write: RecordWrite<'_>) {
        let did = self.did(write.did);
        let body = write.body.map(|body| {
            let json = body.json.map(|json| self.keep(json));
            (body.cid, self.keep(body.record), json)
        });
        let spans = RecordSpans {
            did,
            collection: self.keep(write.collection.as_bytes()),
            rkey: self.keep(write.rkey.as_bytes()),
            version: write.version,
            rev: write.rev,
            body,
        };
        self.records.push(spans);
    }

    /// Adds a repository's revision.
    pub fn put_rev(&mut self, write: RevWrite<'_>) {
        let did = self.did(write.did);
        self.revs.push(RevSpans {
            did,
            rev: write.rev,
            data: write.data,
            commit: write.commit,
        });
    }

    /// Adds an account's status.
    pub fn put_status(&mut self, write: StatusWrite) {
        self.statuses.push(write);
    }

    /// Adds a handle.
    pub fn put_handle(&mut self, write: HandleWrite) {
        self.handles.push(write);
    }

    /// Adds a repair.
    pub fn put_repair(&mut self, repair: Repair) {
        self.repairs.push(repair);
    }

    /// Adds a quarantined frame.
    pub fn put_quarantined(&mut self, row: Quarantined) {
        self.quarantined.push(row);
    }

    /// The record writes, in the order that they were added.
    pub fn records(&self) -> impl ExactSizeIterator<Item = RecordWrite<'_>> {
        self.records.iter().map(|spans| RecordWrite {
            did: self.text(spans.did),
            collection: self.text(spans.collection),
            rkey: self.text(spans.rkey),
            version: spans.version,
            rev: spans.rev,
            body: spans.body.map(|(cid, record, json)| RecordBody {
                cid,
                record: self.bytes(record),
                json: json.map(|json| self.bytes(json)),
            }),
        })
    }

    /// The revisions.
    pub fn revs(&self) -> impl ExactSizeIterator<Item = RevWrite<'_>> {
        self.revs.iter().map(|spans| RevWrite {
            did: self.text(spans.did),
            rev: spans.rev,
            data: spans.data,
            commit: spans.commit,
        })
    }

    /// The statuses.
    pub fn statuses(&self) -> &[StatusWrite] {
        &self.statuses
    }

    /// The handles.
    pub fn handles(&self) -> &[HandleWrite] {
        &self.handles
    }

    /// The repairs.
    pub fn repairs(&self) -> &[Repair] {
        &self.repairs
    }

    /// The quarantined frames.
    pub fn quarantined(&self) -> &[Quarantined] {
        &self.quarantined
    }

    /// Bytes that the batch holds, near enough for budgets.
    pub fn size(&self) -> usize {
        let raw: usize = self.quarantined.iter().map(|row| row.raw.len() + 256).sum();
        self.arena.len()
            + raw
            + 64 * (self.records.len() + self.revs.len())
            + 256 * self.repairs.len()
    }

    /// How many writes there are.
    pub fn len(&self) -> usize {
        self.records.len()
            + self.revs.len()
            + self.statuses.len()
            + self.handles.len()
            + self.repairs.len()
            + self.quarantined.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Empties the batch; its memory stays for the next use, but for what an unusually large one took.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.arena.shrink_to(KEPT_BYTES);
        self.records.clear();
        self.revs.clear();
        self.statuses.clear();
        self.handles.clear();
        self.repairs.clear();
        self.quarantined.clear();
    }

    fn keep(&mut self, bytes: &[u8]) -> Span {
        let start = self.arena.len();
        self.arena.extend_from_slice(bytes);
        Span {
            start,
            end: self.arena.len(),
        }
    }

    /// The span of a DID; the ops of one commit share it.
    fn did(&mut self, did: &str) -> Span {
        if let Some(last) = self.records.last()
            && self.bytes(last.did) == did.as_bytes()
        {
            return last.did;
        }
        self.keep(did.as_bytes())
    }

    fn bytes(&self, span: Span) -> &[u8] {
        self.arena.get(span.start..span.end).unwrap_or_default()
    }

    fn text(&self, span: Span) -> &str {
        std::str::from_utf8(self.bytes(span)).unwrap_or_default()
    }
}
