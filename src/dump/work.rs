//! Lines become writes: each value is checked, small writes are gathered to batches.

use data_encoding::BASE64;
use serde::de::IgnoredAny;

use super::CHOICES;
use super::line::{ChoiceLine, FloorCell, Line, QuarantineLine, RecordLine, RepoLine};
use super::read::Taken;
use super::spill::Spill;
use crate::decode::{Cid, syntax};
use crate::store::{
    Choice, Fact, HandleWrite, Quarantined, RecordBody, RecordWrite, Removal, Repair, RevWrite,
    Scope, StatusWrite, WriteBatch,
};

/// Bytes after which a batch goes to the store.
const BATCH_BYTES: usize = 1 << 20;
/// Writes after which a batch goes to the store.
const BATCH_WRITES: usize = 2_000;
/// First version that a TID can't express.
const VERSIONS: u64 = 1 << 53;

/// One call of the store.
#[derive(Debug)]
pub(super) enum Work {
    Batch(WriteBatch),
    Remove(Removal),
    Choice(Choice),
}

/// One call of the store, and the lines that it comes from.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Job {
    /// Bytes, near enough for a budget.
    pub(super) fn size(&self) -> usize {
        match &self.work {
            Work::Batch(batch) => batch.size() + 128 * batch.len(),
            Work::Remove(_) => 1024,
            Work::Choice(choice) => choice.body.len() + 1024,
        }
    }
}

/// Writes that wait until there are enough of them.
#[derive(Debug)]
pub(super) struct Gathering {
    verify_cids: bool,
    batch: WriteBatch,
    first: u64,
    last: u64,
    /// What can't be batched.
    alone: Vec<Job>,
}

impl Gathering {
    pub(super) fn new(verify_cids: bool) -> Self {
        Self {
            verify_cids,
            batch: WriteBatch::new(),
            first: 0,
            last: 0,
            alone: Vec::new(),
        }
    }

    /// Takes what a line says, and counts it; says what is wrong with it.
    pub(super) fn take(
        &mut self,
        row: Line<'_>,
        line: u64,
        taken: &mut Taken,
    ) -> Result<(), String> {
        if self.batch.is_empty() {
            self.first = line;
        }
        self.last = line;
        let counts = &mut taken.counts;
        match row {
            Line::Repair(repair) => {
                counts.repairs += 1;
                self.repair(repair)
            }
            Line::Choice(choice) => {
                counts.choices += 1;
                self.choice(choice)
            }
            Line::Quarantine(row) => {
                counts.quarantine += 1;
                self.quarantined(row)
            }
            Line::Repo(repo) => {
                counts.repos += 1;
                self.repo(repo, &mut taken.completes)
            }
            Line::Record(record) => {
                counts.records += 1;
                let sum = self.record(&record)?;
                taken.sum = taken.sum.wrapping_add(sum);
                Ok(())
            }
            Line::Header(_) | Line::Fact(_) | Line::End(_) => Ok(()),
        }
    }

    /// The jobs that are ready.
    pub(super) fn full(&mut self) -> Vec<Job> {
        let mut jobs = std::mem::take(&mut self.alone);
        if self.batch.size() >= BATCH_BYTES || self.batch.len() >= BATCH_WRITES {
            jobs.push(self.batch());
        }
        jobs
    }

    /// All that is left.
    pub(super) fn rest(mut self) -> Vec<Job> {
        let mut jobs = std::mem::take(&mut self.alone);
        if !self.batch.is_empty() {
            jobs.push(self.batch());
        }
        jobs
    }

    fn batch(&mut self) -> Job {
        Job {
            work: Work::Batch(std::mem::take(&mut self.batch)),
            first: self.first,
            last: self.last,
        }
    }

    fn alone(&mut self, work: Work) {
        let line = self.last;
        self.alone.push(Job {
            work,
            first: line,
            last: line,
        });
    }

    fn repair(&mut self, repair: Repair) -> Result<(), String> {
        if !repair.did.is_empty() {
            check_did(&repair.did)?;
        }
        self.batch.put_repair(repair);
        Ok(())
    }

    fn choice(&mut self, line: ChoiceLine) -> Result<(), String> {
        let ChoiceLine { kind, name, body } = line;
        let known = CHOICES.into_iter().find(|known| known.as_str() == kind);
        let kind = known.ok_or_else(|| format!("{kind:?} is no list of choices"))?;
        let body = bytes("body", &body)?;
        self.alone(Work::Choice(Choice { kind, name, body }));
        Ok(())
    }

    fn quarantined(&mut self, line: QuarantineLine) -> Result<(), String> {
        let QuarantineLine { entry, raw } = line;
        let raw = raw.map(|raw| bytes("raw", &raw)).transpose()?;
        let len = raw.as_ref().map(|raw| raw.len() as u64);
        if len != (!entry.evicted).then_some(entry.size) {
            return Err(format!("the frame {} is not as long as it says", entry.id));
        }
        self.batch.put_quarantined(Quarantined {
            id: entry.id,
            received: entry.received,
            reason: entry.reason,
            detail: entry.detail,
            source: entry.source,
            seq: entry.seq,
            did: entry.did,
            raw: raw.unwrap_or_default(),
            evicted: entry.evicted.then_some(entry.size),
        });
        Ok(())
    }

    fn repo(&mut self, line: RepoLine<'_>, completes: &mut Spill) -> Result<(), String> {
        check_did(&line.did)?;
        let did = line.did.into_owned();
        if let Some(cell) = line.handle {
            if !syntax::is_handle(&cell.handle) {
                return Err(format!("{:?} is no handle", cell.handle));
            }
            self.batch.put_handle(HandleWrite {
                did: did.clone(),
                version: cell.version,
                handle: cell.handle.into_owned(),
            });
        }
        if let Some(cell) = line.status {
            self.batch.put_status(StatusWrite {
                did: did.clone(),
                version: cell.version,
                status: cell.status,
                repair_if_stale: None,
                repair_if_reactivated: None,
            });
        }
        match (line.rev, line.data, line.commit) {
            (Some(rev), Some(data), Some(commit)) => self.batch.put_rev(RevWrite {
                did: &did,
                rev,
                data: data.0,
                commit: commit.0,
            }),
            (None, None, None) => {}
            _ => return Err("rev, data and commit belong together".to_owned()),
        }
        for floor in line.floors {
            self.floor(&did, floor)?;
        }
        if let Some(complete) = line.complete {
            check_version(complete.version)?;
            // Only a snapshot of all collections says what is not in it, whatever was wanted since.
            if complete.filter.is_empty() && complete.version > 0 {
                self.alone(Work::Remove(Removal {
                    did: did.clone(),
                    scope: Scope::Repo,
                    version: complete.version - 1,
                    floor: false,
                }));
            }
            // That it is complete is true once its records are durable, which come later.
            let kept = completes.put(&did, &complete);
            kept.map_err(|error| format!("the temporary folder can't be written to: {error}"))?;
        }
        Ok(())
    }

    fn floor(&mut self, did: &str, floor: FloorCell) -> Result<(), String> {
        check_version(floor.version)?;
        let scope = match floor.collection {
            None => Scope::Repo,
            Some(nsid) => {
                check_collection(&nsid)?;
                Scope::Collection(nsid)
            }
        };
        self.alone(Work::Remove(Removal {
            did: did.to_owned(),
            scope,
            version: floor.version,
            floor: true,
        }));
        Ok(())
    }

    fn record(&mut self, line: &RecordLine<'_>) -> Result<u64, String> {
        check_did(&line.did)?;
        check_collection(&line.collection)?;
        check_version(line.version)?;
        if !syntax::is_rkey(&line.rkey) {
            return Err(format!("{:?} is no record key", line.rkey));
        }
        let (record, cid) = (bytes("record", &line.record)?, line.cid.0);
        if self.verify_cids && Cid::of_dag_cbor(&record).hash() != cid.hash() {
            return Err(format!("the record's bytes are not those of {cid}"));
        }
        let json = line
            .json
            .as_ref()
            .map(|json| bytes("json", json))
            .transpose()?;
        if let Some(json) = &json {
            let text = std::str::from_utf8(json).map_err(|error| format!("json: {error}"))?;
            serde_json::from_str::<IgnoredAny>(text).map_err(|error| format!("json: {error}"))?;
        }
        self.batch.put_record(RecordWrite {
            did: &line.did,
            collection: &line.collection,
            rkey: &line.rkey,
            version: line.version,
            rev: line.rev,
            body: Some(RecordBody {
                cid,
                record: &record,
                json: json.as_deref(),
            }),
        });
        let path = (&*line.did, &*line.collection, &*line.rkey);
        Ok(record_sum(path, line.version, cid))
    }
}

/// A number of a record such that the sums of two sets of records are equal where the sets are.
pub(super) fn record_sum(path: (&str, &str, &str), version: u64, cid: Cid) -> u64 {
    let (did, collection, rkey) = path;
    let mut text = Vec::with_capacity(256);
    for part in [did, collection, rkey] {
        text.extend_from_slice(part.as_bytes());
        text.push(0);
    }
    text.extend_from_slice(&version.to_be_bytes());
    text.extend_from_slice(&cid.to_bytes());
    xxhash_rust::xxh3::xxh3_64(&text)
}

/// Says what is wrong with a fact.
pub(super) fn check_fact(fact: &Fact) -> Result<(), String> {
    let Fact {
        relay,
        from_seq,
        to_seq,
        ..
    } = fact;
    match i64::try_from(*to_seq) {
        Ok(_) if from_seq <= to_seq && !relay.is_empty() => Ok(()),
        _ => Err(format!(
            "{relay:?} from {from_seq} to {to_seq} is no interval of a stream"
        )),
    }
}

fn check_did(text: &str) -> Result<(), String> {
    match syntax::is_did(text) {
        true => Ok(()),
        false => Err(format!("{text:?} is no DID")),
    }
}

fn check_collection(text: &str) -> Result<(), String> {
    match syntax::is_nsid(text) {
        true => Ok(()),
        false => Err(format!("{text:?} is no NSID")),
    }
}

fn check_version(version: u64) -> Result<(), String> {
    match version < VERSIONS {
        true => Ok(()),
        false => Err(format!(
            "the version {version} is beyond 53 bits of microseconds"
        )),
    }
}

fn bytes(what: &str, base64: &str) -> Result<Vec<u8>, String> {
    let decoded = BASE64.decode(base64.as_bytes());
    decoded.map_err(|error| format!("{what} is no base64: {error}"))
}
