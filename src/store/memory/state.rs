//! All that a store in memory was given, and what it means.

use std::collections::{BTreeMap, BTreeSet};

use crate::decode::{Cid, Tid};
use crate::slot::slot_of;
use crate::store::{
    Choice, ChoiceKind, Complete, Fact, Floor, JobRow, QuarantineEntry, Quarantined, Record,
    Repair, Repo, RepoStatus, Scope, WriteBatch,
};

/// One write to a record; the order of the fields is the order in which writes win.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Write {
    pub(super) version: u64,
    pub(super) delete: bool,
    pub(super) rev: Tid,
    pub(super) body: Option<Body>,
}

/// What a write carries; of two with one `rev` the greater CID wins, then the one that has JSON.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Body {
    pub(super) cid: Cid,
    pub(super) json: Option<Vec<u8>>,
    pub(super) record: Vec<u8>,
}

/// (did, collection, rkey).
pub(super) type Path = (String, String, String);

/// (job, did, collection).
pub(super) type FailureKey = (u64, String, String);

/// All that was ever written.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) closed: bool,
    pub(super) writes: BTreeMap<Path, BTreeSet<Write>>,
    pub(super) ranges: BTreeSet<(String, Scope, u64)>,
    pub(super) floors: BTreeSet<(String, Scope, u64)>,
    pub(super) revs: BTreeSet<(String, Tid, Cid, Cid)>,
    pub(super) statuses: BTreeSet<(String, u64, Vec<u8>)>,
    pub(super) handles: BTreeSet<(String, u64, String)>,
    pub(super) completes: BTreeSet<(String, u64, Tid, String)>,
    pub(super) facts: BTreeMap<(String, u32, u64, u64), Fact>,
    pub(super) repairs: BTreeMap<(u8, String, String), Repair>,
    pub(super) quarantine: BTreeMap<(u64, String), (QuarantineEntry, Vec<u8>)>,
    pub(super) jobs: BTreeMap<u64, JobRow>,
    pub(super) failures: BTreeMap<FailureKey, Vec<u8>>,
    pub(super) choices: BTreeMap<(ChoiceKind, String), Choice>,
    /// By DID, where it lives: has no version, the last one counts.
    pub(super) hosts: BTreeMap<String, String>,
}

impl State {
    pub(super) fn apply(&mut self, batch: &WriteBatch, quarantine_max_bytes: u64) {
        for write in batch.records() {
            let path = (
                write.did.to_owned(),
                write.collection.to_owned(),
                write.rkey.to_owned(),
            );
            self.writes.entry(path).or_default().insert(Write {
                version: write.version,
                delete: write.body.is_none(),
                rev: write.rev,
                body: write.body.map(|body| Body {
                    cid: body.cid,
                    json: body.json.map(<[u8]>::to_vec),
                    record: body.record.to_vec(),
                }),
            });
        }
        for write in batch.revs() {
            self.revs
                .insert((write.did.to_owned(), write.rev, write.data, write.commit));
        }
        for write in batch.handles() {
            self.handles
                .insert((write.did.clone(), write.version, write.handle.clone()));
        }
        for write in batch.statuses() {
            if let Some(repair) = &write.repair_if_stale
                && let Some((version, status)) = self.status(&write.did)
                && version >= write.version
                && (version, &status) != (write.version, &write.status)
            {
                self.put_repair(repair);
            }
            if let Some(repair) = &write.repair_if_reactivated
                && let Some((version, status)) = self.status(&write.did)
                && write.tells_reactivation(version, status.active)
            {
                self.put_repair(repair);
            }
            self.statuses
                .insert((write.did.clone(), write.version, write.status.cell()));
        }
        for repair in batch.repairs() {
            self.put_repair(repair);
        }
        for row in batch.quarantined() {
            self.put_quarantined(row, quarantine_max_bytes);
        }
    }

    /// A repair is never overwritten.
    fn put_repair(&mut self, repair: &Repair) {
        self.repairs
            .entry(repair_key(repair))
            .or_insert_with(|| repair.clone());
    }

    /// The first row of an id stays; then the oldest bytes go until the bound holds.
    fn put_quarantined(&mut self, row: &Quarantined, max_bytes: u64) {
        if self.quarantine.keys().any(|(_, id)| *id == row.id) {
            return;
        }
        let entry = row.entry();
        self.quarantine
            .insert((row.received, row.id.clone()), (entry, row.raw.clone()));
        while self.quarantine_bytes() > max_bytes {
            let oldest = self
                .quarantine
                .values_mut()
                .find(|(entry, _)| !entry.evicted);
            let Some((entry, raw)) = oldest else { break };
            entry.evicted = true;
            raw.clear();
        }
    }

    pub(super) fn quarantine_bytes(&self) -> u64 {
        self.quarantine
            .values()
            .map(|(_, raw)| raw.len() as u64)
            .sum()
    }

    /// The winning write, unless it deletes or a range delete covers it.
    pub(super) fn record(&self, path: &Path) -> Option<Record> {
        let (did, collection, rkey) = path;
        let newest = self.writes.get(path)?.last()?;
        let body = newest.body.as_ref()?;
        let covered = self.ranges.iter().any(|(of, scope, version)| {
            let inside = match scope {
                Scope::Repo => true,
                Scope::Collection(nsid) => nsid == collection,
            };
            of == did && inside && newest.version <= *version
        });
        if covered {
            return None;
        }
        Some(Record {
            did: did.clone(),
            collection: collection.clone(),
            rkey: rkey.clone(),
            cid: body.cid,
            rev: newest.rev,
            version: newest.version,
            record: body.record.clone(),
            json: body.json.clone(),
        })
    }

    fn status(&self, did: &str) -> Option<(u64, RepoStatus)> {
        let (_, version, cell) = self.statuses.iter().rfind(|(of, ..)| of == did)?;
        Some((*version, RepoStatus::from_cell(cell)?))
    }

    /// A repository is known once something was said of it beside its records.
    pub(super) fn dids(&self) -> BTreeSet<String> {
        let mut dids = BTreeSet::new();
        dids.extend(self.revs.iter().map(|(did, ..)| did.clone()));
        dids.extend(self.statuses.iter().map(|(did, ..)| did.clone()));
        dids.extend(self.handles.iter().map(|(did, ..)| did.clone()));
        dids.extend(self.completes.iter().map(|(did, ..)| did.clone()));
        dids.extend(self.floors.iter().map(|(did, ..)| did.clone()));
        dids.extend(self.hosts.keys().cloned());
        dids
    }

    pub(super) fn repo(&self, did: &str) -> Option<Repo> {
        if !self.dids().contains(did) {
            return None;
        }
        let mut repo = Repo {
            did: did.to_owned(),
            pds: self.hosts.get(did).cloned(),
            status: self.status(did),
            ..Repo::default()
        };
        if let Some((_, rev, data, commit)) = self.revs.iter().rfind(|(of, ..)| of == did) {
            repo.rev = Some(*rev);
            repo.data = Some(*data);
            repo.commit = Some(*commit);
        }
        let handle = self.handles.iter().rfind(|(of, ..)| of == did);
        repo.handle = handle.map(|(_, version, handle)| (*version, handle.clone()));
        let complete = self.completes.iter().rfind(|(of, ..)| of == did);
        repo.complete = complete.map(|(_, version, rev, filter)| Complete {
            rev: *rev,
            version: *version,
            filter: filter.clone(),
        });
        let mut floors = BTreeMap::new();
        for (_, scope, version) in self.floors.iter().filter(|(of, ..)| of == did) {
            floors.insert(scope.clone(), *version);
        }
        let floors = floors.into_iter();
        repo.floors = floors
            .map(|(scope, version)| Floor { scope, version })
            .collect();
        Some(repo)
    }
}

/// The order of repairs.
pub(super) fn repair_key(repair: &Repair) -> (u8, String, String) {
    (slot_of(&repair.did), repair.did.clone(), repair.id.clone())
}
