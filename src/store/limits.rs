//! What a store accepts: the lengths and characters that its keys can hold, checked once for every implementation.
//!
//! `decode` lets nothing through that is refused here (its limits are those of the protocol, which are narrower), so a
//! refusal means a fault of ours, never of the network.

use super::{
    Choice, Fact, JobFailure, JobRow, Removal, Scope, SnapshotDone, StoreError, WriteBatch,
};

/// Longest DID in bytes (the DID specification's limit in AT Protocol).
const DID: usize = 2048;
/// Longest NSID in bytes.
const COLLECTION: usize = 317;
/// Longest record key in bytes.
const RKEY: usize = 512;
/// Longest id of a repair or a quarantined frame.
const ID: usize = 1024;
/// Longest `status` of an account, or filter of a fact or snapshot.
const TEXT: usize = 16 << 10;
/// Longest handle in bytes; names of the DNS have at most 253.
const HANDLE: usize = 1024;
/// Longest host of a relay.
const RELAY: usize = 1024;
/// Longest name of a choice, and longest address of a host.
const NAME: usize = 1024;
/// Longest body of a job: a CQL mutation may have megabytes.
pub(super) const JOB_BODY: usize = 512 << 10;
/// Longest body of a failure.
pub(super) const FAILURE_BODY: usize = 16 << 10;
/// Longest body of a choice.
pub(super) const CHOICE_BODY: usize = 256 << 10;
/// First version that a TID can't express.
const VERSION: u64 = 1 << 53;
/// Most items of a page.
const PAGE: usize = 10_000;

/// The number of items of a page that was asked for.
pub(super) fn page_limit(limit: usize) -> usize {
    limit.clamp(1, PAGE)
}

/// Refuses a batch that no store can hold.
pub(super) fn check_batch(batch: &WriteBatch) -> Result<(), StoreError> {
    for write in batch.records() {
        text("DID", write.did, DID)?;
        collection(write.collection)?;
        text("record key", write.rkey, RKEY)?;
        version(write.version)?;
    }
    for write in batch.revs() {
        text("DID", write.did, DID)?;
    }
    for write in batch.statuses() {
        text("DID", &write.did, DID)?;
        time(write.version)?;
        length(
            "status",
            write.status.status.as_deref().unwrap_or_default(),
            TEXT,
        )?;
        let asked = [&write.repair_if_stale, &write.repair_if_reactivated];
        asked.into_iter().flatten().try_for_each(repair)?;
    }
    for write in batch.handles() {
        text("DID", &write.did, DID)?;
        time(write.version)?;
        length("handle", &write.handle, HANDLE)?;
    }
    batch.repairs().iter().try_for_each(repair)?;
    batch
        .quarantined()
        .iter()
        .try_for_each(|row| id("quarantine id", &row.id))
}

/// Refuses a removal that no store can hold.
pub(super) fn check_removal(removal: &Removal) -> Result<(), StoreError> {
    text("DID", &removal.did, DID)?;
    scope(&removal.scope)?;
    version(removal.version)
}

/// Refuses the end of a snapshot that no store can hold.
pub(super) fn check_snapshot(done: &SnapshotDone) -> Result<(), StoreError> {
    text("DID", &done.did, DID)?;
    done.scopes.iter().try_for_each(scope)?;
    length("filter", &done.complete.filter, TEXT)?;
    version(done.complete.version)
}

/// Refuses facts that no store can hold.
pub(super) fn check_facts(facts: &[Fact]) -> Result<(), StoreError> {
    for fact in facts {
        text("relay", &fact.relay, RELAY)?;
        seq(fact.to_seq)?;
        length("filter", &fact.filter, TEXT)?;
    }
    Ok(())
}

/// Refuses a job that no store can hold, and one that is not newer than the one that it replaces.
pub(super) fn check_job(job: &JobRow, replaces: Option<u64>) -> Result<(), StoreError> {
    signed("job id", job.id)?;
    signed("epoch", job.epoch)?;
    size("job", job.body.len(), JOB_BODY)?;
    if replaces.is_some_and(|replaced| replaced >= job.epoch) {
        let epoch = job.epoch;
        return Err(StoreError::Refused(format!(
            "the epoch {epoch} of job {} is not above the one that it replaces",
            job.id
        )));
    }
    Ok(())
}

/// Refuses failures that no store can hold. A DID is taken as it was listed or given: what is wrong with it may be why it
/// failed.
pub(super) fn check_failures(failures: &[JobFailure]) -> Result<(), StoreError> {
    for failure in failures {
        signed("job id", failure.job)?;
        name("DID", &failure.did, DID)?;
        if failure.did.contains('\0') {
            return Err(StoreError::Refused("a DID with a zero byte".to_owned()));
        }
        if !failure.collection.is_empty() {
            collection(&failure.collection)?;
        }
        size("failure", failure.body.len(), FAILURE_BODY)?;
    }
    Ok(())
}

/// Refuses a choice that no store can hold.
pub(super) fn check_choice(choice: &Choice) -> Result<(), StoreError> {
    name("name", &choice.name, NAME)?;
    size("choice", choice.body.len(), CHOICE_BODY)
}

/// Refuses a host of a repository that no store can hold.
pub(super) fn check_pds(did: &str, pds: &str) -> Result<(), StoreError> {
    text("DID", did, DID)?;
    name("host", pds, NAME)
}

fn length(what: &str, text: &str, longest: usize) -> Result<(), StoreError> {
    size(what, text.len(), longest)
}

fn size(what: &str, len: usize, longest: usize) -> Result<(), StoreError> {
    if len <= longest {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "{what} of {len} bytes (at most {longest})"
    )))
}

fn repair(repair: &super::Repair) -> Result<(), StoreError> {
    if !repair.did.is_empty() {
        text("DID", &repair.did, DID)?;
    }
    id("repair id", &repair.id)
}

fn id(what: &str, id: &str) -> Result<(), StoreError> {
    name(what, id, ID)
}

/// Of what comes last in keys and cursors nothing but the length matters.
fn name(what: &str, name: &str, longest: usize) -> Result<(), StoreError> {
    if name.is_empty() {
        return Err(StoreError::Refused(format!("an empty {what}")));
    }
    length(what, name, longest)
}

fn scope(scope: &Scope) -> Result<(), StoreError> {
    match scope {
        Scope::Repo => Ok(()),
        Scope::Collection(nsid) => collection(nsid),
    }
}

fn collection(nsid: &str) -> Result<(), StoreError> {
    text("collection", nsid, COLLECTION)
}

/// Keys end their texts with a zero byte, and cursors join them with slashes, which only the last part may have.
fn text(what: &str, text: &str, longest: usize) -> Result<(), StoreError> {
    let plain = text
        .bytes()
        .all(|byte| byte > b' ' && byte != 0x7f && byte != b'/');
    if plain && !text.is_empty() && text.len() <= longest {
        return Ok(());
    }
    let start: String = text.chars().take(80).collect();
    Err(StoreError::Refused(format!(
        "{what} {start:?} of {} bytes (1 to {longest}, no spaces, slashes or control characters)",
        text.len()
    )))
}

/// The protocol's `seq` is a signed integer of 64 bits.
fn seq(seq: u64) -> Result<(), StoreError> {
    signed("seq", seq)
}

/// Numbers of CQL are signed.
fn signed(what: &str, number: u64) -> Result<(), StoreError> {
    if i64::try_from(number).is_ok() {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "the {what} {number} is beyond 63 bits"
    )))
}

/// Times of events are timestamps of CQL, which are signed.
fn time(micros: u64) -> Result<(), StoreError> {
    if i64::try_from(micros).is_ok() {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "the time {micros} is beyond 63 bits of microseconds"
    )))
}

fn version(version: u64) -> Result<(), StoreError> {
    if version < VERSION {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "version {version} is beyond 53 bits of microseconds"
    )))
}
