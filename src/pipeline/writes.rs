//! Events to versioned writes (design.md, 'Commutative writes').

use crate::decode::{self, Account, Commit, Event, Identity, Peek, Sync};
use crate::slot;
use crate::store::{
    HandleWrite, Quarantined, RecordBody, RecordWrite, Repair, RepairKind, RepoStatus, RevWrite,
    StatusWrite, WriteBatch,
};

use super::Source;

/// How far a time may be ahead of our clock before it is not believed, in microseconds.
pub(crate) const MAX_AHEAD: u64 = 5 * 60 * 1_000_000;

/// Characters of a status that are kept; the known ones are shorter.
const MAX_STATUS: usize = 128;

/// What one frame is turned into writes with.
pub(crate) struct Writer<'a> {
    pub source: &'a Source,
    pub json: bool,
    /// Microseconds since the epoch.
    pub now: u64,
}

/// Counts of one frame's operations.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub creates: u64,
    pub updates: u64,
    pub deletes: u64,
    /// Operations on collections that are not stored.
    pub unwanted: u64,
    /// How records break the data model: mostly none.
    pub faults: Vec<decode::RecordFault>,
}

impl Writer<'_> {
    /// Adds what an event causes to the batch.
    pub fn event(
        &self,
        event: &Event<'_>,
        json: &mut Vec<u8>,
        batch: &mut WriteBatch,
        counts: &mut Counts,
    ) {
        match event {
            Event::Commit(commit) => self.commit(commit, json, batch, counts),
            Event::Sync(sync) => self.sync(sync, batch),
            Event::Identity(identity) => self.identity(identity, batch),
            Event::Account(account) => self.account(account, batch),
            Event::Info(_) | Event::Unknown { .. } | Event::Error { .. } => {}
        }
    }

    fn commit(
        &self,
        commit: &Commit<'_>,
        json: &mut Vec<u8>,
        batch: &mut WriteBatch,
        counts: &mut Counts,
    ) {
        for op in commit.ops.iter() {
            if !self.source.collections.wants(op.collection) {
                counts.unwanted += 1;
                continue;
            }
            let mut fault = op.fault;
            let body = op.record.map(|(cid, record)| {
                json.clear();
                if self.json {
                    // Says the same of the record as the check that was left out for it.
                    fault = decode::record_to_json(record, json);
                }
                let json = Some(json.as_slice()).filter(|json| !json.is_empty());
                RecordBody { cid, record, json }
            });
            counts.add(op.action, fault);
            batch.put_record(RecordWrite {
                did: commit.repo,
                collection: op.collection,
                rkey: op.rkey,
                version: commit.rev.micros(),
                rev: commit.rev,
                body,
            });
        }
        // Only a `tooBig` commit may leave its own block out; its repair brings the revision as well.
        if let Some(data) = commit.data {
            let (rev, commit_cid) = (commit.rev, commit.commit);
            batch.put_rev(RevWrite {
                did: commit.repo,
                rev,
                data,
                commit: commit_cid,
            });
        }
        if commit.too_big {
            let version = commit.rev.micros();
            batch.put_repair(self.repair(
                commit.repo,
                Some(commit.seq),
                RepairKind::Content,
                "too_big",
                version,
            ));
        }
    }

    fn sync(&self, sync: &Sync<'_>, batch: &mut WriteBatch) {
        batch.put_rev(RevWrite {
            did: sync.did,
            rev: sync.rev,
            data: sync.data,
            commit: sync.commit,
        });
        let version = sync.rev.micros();
        batch.put_repair(self.repair(
            sync.did,
            Some(sync.seq),
            RepairKind::Content,
            "sync",
            version,
        ));
    }

    fn identity(&self, identity: &Identity<'_>, batch: &mut WriteBatch) {
        let handle = identity
            .handle
            .filter(|handle| decode::syntax::is_handle(handle));
        let Some(handle) = handle else { return };
        // A time that can't be believed loses to any other, but an only handle is better than none.
        let version = self.believable(identity.time).unwrap_or(0);
        let handle = handle.to_ascii_lowercase();
        batch.put_handle(HandleWrite {
            did: identity.did.to_owned(),
            version,
            handle,
        });
    }

    fn account(&self, account: &Account<'_>, batch: &mut WriteBatch) {
        let ask = |reason: &str, version: u64| {
            self.repair(
                account.did,
                Some(account.seq),
                RepairKind::Status,
                reason,
                version,
            )
        };
        let Some(version) = self.believable(account.time) else {
            batch.put_repair(ask("account_time", 0));
            return;
        };
        if account.status == Some("deleted") {
            batch.put_repair(ask("deleted", version));
        }
        batch.put_status(StatusWrite {
            did: account.did.to_owned(),
            version,
            status: RepoStatus {
                active: account.active,
                status: account
                    .status
                    .map(|status| status.chars().take(MAX_STATUS).collect()),
            },
            repair_if_stale: Some(ask("account_stale", version)),
            repair_if_reactivated: Some(self.repair(
                account.did,
                Some(account.seq),
                RepairKind::Content,
                "reactivated",
                0,
            )),
        });
    }

    /// Adds a frame that could not be taken in, and a repair for its repository.
    pub fn quarantine(
        &self,
        frame: &[u8],
        peek: &Peek<'_>,
        reason: &str,
        detail: String,
        batch: &mut WriteBatch,
    ) {
        let did = peek.did.unwrap_or_default();
        batch.put_quarantined(Quarantined {
            id: self.quarantine_id(frame, did),
            received: self.now,
            reason: reason.to_owned(),
            detail,
            source: self.source.relay.clone(),
            seq: peek.seq,
            did: peek.did.map(str::to_owned),
            raw: frame.to_vec(),
            evicted: None,
        });
        let mut repair = self.repair(did, peek.seq, RepairKind::Content, "quarantined", 0);
        if peek.seq.is_none() {
            // Without a number, the bytes name the cause.
            let hash = xxhash_rust::xxh3::xxh3_64(frame);
            repair.id = format!(
                "{}~{}~x{hash:016x}~content",
                self.source.relay, self.source.generation
            );
        }
        batch.put_repair(repair);
    }

    fn quarantine_id(&self, frame: &[u8], did: &str) -> String {
        let day: String = decode::time::format_datetime(self.now)
            .chars()
            .take(10)
            .filter(char::is_ascii_digit)
            .collect();
        let source = xxhash_rust::xxh3::xxh3_64(self.source.relay.as_bytes());
        let hash = xxhash_rust::xxh3::xxh3_64_with_seed(frame, source);
        let slot = if did.is_empty() {
            0
        } else {
            slot::slot_of(did)
        };
        format!("{day}-{slot:02x}-{hash:016x}")
    }

    fn repair(
        &self,
        did: &str,
        seq: Option<u64>,
        kind: RepairKind,
        reason: &str,
        version: u64,
    ) -> Repair {
        let Source {
            relay, generation, ..
        } = self.source;
        let id = match seq {
            Some(seq) => format!("{relay}~{generation}~{seq}~{}", kind.as_str()),
            None => format!("{relay}~{generation}~-~{}", kind.as_str()),
        };
        Repair {
            did: did.to_owned(),
            id,
            kind,
            reason: reason.to_owned(),
            version,
        }
    }

    /// A message's time in microseconds, unless it is unreadable or ahead of our clock.
    fn believable(&self, time: &str) -> Option<u64> {
        decode::time::parse_datetime(time).filter(|time| *time <= self.now + MAX_AHEAD)
    }
}

impl Counts {
    /// Adds another frame's.
    pub fn add_all(&mut self, other: &Self) {
        self.creates += other.creates;
        self.updates += other.updates;
        self.deletes += other.deletes;
        self.unwanted += other.unwanted;
        self.faults.extend_from_slice(&other.faults);
    }

    fn add(&mut self, action: decode::Action, fault: Option<decode::RecordFault>) {
        match action {
            decode::Action::Create => self.creates += 1,
            decode::Action::Update => self.updates += 1,
            decode::Action::Delete => self.deletes += 1,
        }
        self.faults.extend(fault);
    }
}
