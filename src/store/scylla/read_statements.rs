//! Every statement that reads, and those that tidy up after it, prepared once. Pages get their size where they are asked for.

use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;

use super::statements::{Kind, Levels, Preparer, statements};
use crate::store::StoreError;

statements! {
    /// Every statement that reads or tidies up, prepared.
    ReadStatements;
    /// did, collection, rkey -> the parts of a record.
    record: Read "SELECT did, collection, rkey, WRITETIME(value), value.rev, value.cid, value.record, value.json FROM KS.records WHERE did = ? AND collection = ? AND rkey = ?";
    /// did, collection, rkey -> a record without its bytes.
    record_head: Read "SELECT did, collection, rkey, WRITETIME(value), value.rev, value.cid FROM KS.records WHERE did = ? AND collection = ? AND rkey = ?";
    /// did, collection, rkey: a repository's records beyond one.
    records_of: Read "SELECT did, collection, rkey, WRITETIME(value), value.rev, value.cid, value.record, value.json FROM KS.records WHERE did = ? AND (collection, rkey) > (?, ?)";
    /// The same without their bytes.
    record_heads_of: Read "SELECT did, collection, rkey, WRITETIME(value), value.rev, value.cid FROM KS.records WHERE did = ? AND (collection, rkey) > (?, ?)";
    /// did, collection, rkey: a collection's records beyond one.
    records_in: Read "SELECT did, collection, rkey, WRITETIME(value), value.rev, value.cid, value.record, value.json FROM KS.records WHERE did = ? AND collection = ? AND rkey > ?";
    /// The same without their bytes.
    record_heads_in: Read "SELECT did, collection, rkey, WRITETIME(value), value.rev, value.cid FROM KS.records WHERE did = ? AND collection = ? AND rkey > ?";
    /// did, collection, rkey: a collection's records before one, the greatest first.
    records_before: Read "SELECT did, collection, rkey, WRITETIME(value), value.rev, value.cid, value.record, value.json FROM KS.records WHERE did = ? AND collection = ? AND rkey < ? ORDER BY collection DESC, rkey DESC";
    /// The same without their bytes.
    record_heads_before: Read "SELECT did, collection, rkey, WRITETIME(value), value.rev, value.cid FROM KS.records WHERE did = ? AND collection = ? AND rkey < ? ORDER BY collection DESC, rkey DESC";
    /// token: all records beyond a token.
    scan: Read "SELECT did, collection, rkey, WRITETIME(value), value.rev, value.cid, value.record, value.json FROM KS.records WHERE TOKEN(did) > ?";
    /// The same without their bytes.
    scan_heads: Read "SELECT did, collection, rkey, WRITETIME(value), value.rev, value.cid FROM KS.records WHERE TOKEN(did) > ?";
    /// token: the DIDs with records beyond it.
    dids: Read "SELECT DISTINCT did FROM KS.records WHERE TOKEN(did) > ?";
    /// token: the DIDs with records at it.
    dids_at: Read "SELECT DISTINCT did FROM KS.records WHERE TOKEN(did) = ?";
    /// did -> a repository.
    repo: Read "SELECT did, WRITETIME(handle), handle, pds, WRITETIME(status), status, head, complete, floors FROM KS.repos WHERE did = ?";
    /// token: the repositories beyond it.
    repos: Read "SELECT did, WRITETIME(handle), handle, pds, WRITETIME(status), status, head, complete, floors FROM KS.repos WHERE TOKEN(did) > ?";
    /// token: the repositories at it.
    repos_at: Read "SELECT did, WRITETIME(handle), handle, pds, WRITETIME(status), status, head, complete, floors FROM KS.repos WHERE TOKEN(did) = ?";
    /// did -> its status and its version.
    status: Read "SELECT WRITETIME(status), status FROM KS.repos WHERE did = ?";
    /// collection -> its months, the newest first.
    months: Read "SELECT month FROM KS.collection_months WHERE collection = ?";
    /// collection, month, slot: hints, the newest first.
    hints: Read "SELECT rkey, did, rev, WRITETIME(rev) FROM KS.records_by_collection WHERE collection = ? AND month = ? AND slot = ?";
    /// collection, month, slot, rkey: hints of lesser record keys.
    hints_before: Read "SELECT rkey, did, rev, WRITETIME(rev) FROM KS.records_by_collection WHERE collection = ? AND month = ? AND slot = ? AND rkey < ?";
    /// collection, month, slot, rkey, did: hints of the same record key and greater DIDs.
    hints_of: Read "SELECT rkey, did, rev, WRITETIME(rev) FROM KS.records_by_collection WHERE collection = ? AND month = ? AND slot = ? AND rkey = ? AND did > ?";
    /// Every partition of hints.
    hint_partitions: Read "SELECT DISTINCT collection, month, slot FROM KS.records_by_collection";
    /// Every fact.
    facts: Read "SELECT relay, generation, run, from_seq, to_seq, from_time, to_time, slots, filter, kind FROM KS.ledger";
    /// slot, did, id: repairs beyond one.
    repairs: Read "SELECT did, id, kind, reason, version FROM KS.repairs WHERE slot = ? AND (did, id) > (?, ?)";
    /// slot, did: the repairs of a repository.
    repairs_of: Read "SELECT did, id, kind, reason, version FROM KS.repairs WHERE slot = ? AND did = ?";
    /// slot -> the reasons of its repairs.
    repair_reasons: Read "SELECT reason FROM KS.repairs WHERE slot = ?";
    /// Every partition of the quarantine.
    quarantine_partitions: Read "SELECT DISTINCT day, slot FROM KS.quarantine";
    /// day, slot, id: rows beyond one.
    quarantine: Read "SELECT id, received, reason, detail, source, seq, did, size, evicted FROM KS.quarantine WHERE day = ? AND slot = ? AND id > ?";
    /// day, slot, id -> the row.
    quarantined: Read "SELECT id, received, reason, detail, source, seq, did, size, evicted FROM KS.quarantine WHERE day = ? AND slot = ? AND id = ?";
    /// day, slot -> what each row holds, and when it was written.
    quarantine_sizes: Read "SELECT id, size, evicted, WRITETIME(received) FROM KS.quarantine WHERE day = ? AND slot = ?";
    /// id -> the pieces of a frame.
    raw: Read "SELECT bytes FROM KS.quarantine_raw WHERE id = ?";
    /// id -> a job.
    job: Serial "SELECT id, epoch, body FROM KS.jobs WHERE part = 0 AND id = ?";
    /// id: jobs up to it, the newest first.
    jobs: Serial "SELECT id, epoch, body FROM KS.jobs WHERE part = 0 AND id <= ?";
    /// id, did, collection -> a failure.
    failure: Read "SELECT did, collection, body FROM KS.job_failures WHERE id = ? AND did = ? AND collection = ?";
    /// id, did, collection: a job's failures beyond one.
    failures: Read "SELECT did, collection, body FROM KS.job_failures WHERE id = ? AND (did, collection) > (?, ?)";
    /// kind, name: choices from a name on.
    choices_from: Read "SELECT name, body FROM KS.choices WHERE kind = ? AND name >= ?";
    /// kind, name: choices beyond one.
    choices_beyond: Read "SELECT name, body FROM KS.choices WHERE kind = ? AND name > ?";
    /// timestamp, collection, month, slot, rkey, did.
    drop_hint: Write "DELETE FROM KS.records_by_collection USING TIMESTAMP ? WHERE collection = ? AND month = ? AND slot = ? AND rkey = ? AND did = ?";
    /// timestamp, id.
    drop_raw: Write "DELETE FROM KS.quarantine_raw USING TIMESTAMP ? WHERE id = ?";
    /// timestamp, day, slot, id.
    mark_evicted: Write "UPDATE KS.quarantine USING TIMESTAMP ? SET evicted = true WHERE day = ? AND slot = ? AND id = ?";
}
