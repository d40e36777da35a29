//! Every statement of the store, prepared once.

use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency};

use super::session::explain;
use crate::store::StoreError;

/// Declares the statements: name, whether it writes, text (`KS` stands for the keyspace).
macro_rules! statements {
    ($(#[doc = $about:literal])+ $set:ident; $($(#[doc = $doc:literal])+ $name:ident: $kind:ident $text:literal;)*) => {
        $(#[doc = $about])+
        pub(super) struct $set {
            $($(#[doc = $doc])+ pub $name: PreparedStatement,)*
        }

        impl $set {
            /// Prepares all of them.
            pub(super) async fn prepare(
                session: &Session,
                keyspace: &str,
                consistency: Levels,
            ) -> Result<Self, StoreError> {
                let preparer = Preparer { session, keyspace, consistency };
                Ok(Self {
                    $($name: preparer.prepare(Kind::$kind, $text).await?,)*
                })
            }
        }
    };
}

pub(super) use statements;

/// What a statement does.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Write,
    Read,
    /// Writes on a condition.
    Transact,
    /// Reads one partition after every transaction on it.
    Serial,
}

/// How many copies must answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Levels {
    pub write: Consistency,
    pub read: Consistency,
}

impl Levels {
    /// How many copies must have what a transaction writes, and over which of them it is decided.
    pub fn transaction(self) -> (Consistency, SerialConsistency) {
        // There is no read of every quorum, and one of a single datacenter does not see what the others agreed on.
        let copies = match self.write {
            Consistency::EachQuorum => Consistency::Quorum,
            _ => self.read,
        };
        // Workers that write no more than their own datacenter's copies are all in that one.
        let serial = match self.write {
            Consistency::LocalQuorum => SerialConsistency::LocalSerial,
            _ => SerialConsistency::Serial,
        };
        (copies, serial)
    }
}

pub(super) struct Preparer<'a> {
    pub session: &'a Session,
    pub keyspace: &'a str,
    pub consistency: Levels,
}

impl Preparer<'_> {
    pub async fn prepare(&self, kind: Kind, text: &str) -> Result<PreparedStatement, StoreError> {
        let text = text.replace("KS.", &format!("{}.", self.keyspace));
        let prepared = self.session.prepare(text).await;
        let mut prepared =
            prepared.map_err(|error| StoreError::Unavailable(explain(&error.to_string())))?;
        let (copies, serial) = self.consistency.transaction();
        prepared.set_serial_consistency(Some(serial));
        prepared.set_consistency(match kind {
            Kind::Write => self.consistency.write,
            Kind::Read => self.consistency.read,
            Kind::Transact => copies,
            Kind::Serial => match serial {
                SerialConsistency::Serial => Consistency::Serial,
                SerialConsistency::LocalSerial => Consistency::LocalSerial,
            },
        });
        // Every other write carries its timestamp, so that it may be sent any number of times; and only the columns of a
        // transaction's answer depend on what it says.
        let plain = !matches!(kind, Kind::Transact);
        prepared.set_is_idempotent(plain);
        prepared.set_use_cached_result_metadata(plain);
        Ok(prepared)
    }
}

statements! {
    /// Every statement that writes, prepared.
    Statements;
    /// did, collection, rkey, value, timestamp.
    put_record: Write "INSERT INTO KS.records (did, collection, rkey, value) VALUES (?, ?, ?, ?) USING TIMESTAMP ?";
    /// timestamp, did, collection, rkey.
    delete_record: Write "DELETE FROM KS.records USING TIMESTAMP ? WHERE did = ? AND collection = ? AND rkey = ?";
    /// timestamp, did.
    delete_repo: Write "DELETE FROM KS.records USING TIMESTAMP ? WHERE did = ?";
    /// timestamp, did, collection.
    delete_collection: Write "DELETE FROM KS.records USING TIMESTAMP ? WHERE did = ? AND collection = ?";
    /// collection, month, slot, rkey, did, rev, cid, timestamp.
    put_hint: Write "INSERT INTO KS.records_by_collection (collection, month, slot, rkey, did, rev, cid) VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?";
    /// timestamp, collection, month, slot, rkey, did.
    delete_hint: Write "DELETE FROM KS.records_by_collection USING TIMESTAMP ? WHERE collection = ? AND month = ? AND slot = ? AND rkey = ? AND did = ?";
    /// collection, month.
    put_month: Write "INSERT INTO KS.collection_months (collection, month) VALUES (?, ?) USING TIMESTAMP 1";
    /// timestamp, head, did.
    put_head: Write "UPDATE KS.repos USING TIMESTAMP ? SET head = ? WHERE did = ?";
    /// timestamp, status, did.
    put_status: Write "UPDATE KS.repos USING TIMESTAMP ? SET status = ? WHERE did = ?";
    /// timestamp, handle, did.
    put_handle: Write "UPDATE KS.repos USING TIMESTAMP ? SET handle = ? WHERE did = ?";
    /// timestamp, complete, did.
    put_complete: Write "UPDATE KS.repos USING TIMESTAMP ? SET complete = ? WHERE did = ?";
    /// timestamp, scope, version, did.
    put_floor: Write "UPDATE KS.repos USING TIMESTAMP ? SET floors[?] = ? WHERE did = ?";
    /// relay, generation, run, from_seq, to_seq, from_time, to_time, slots, filter, kind, timestamp (to_seq).
    put_fact: Write "INSERT INTO KS.ledger (relay, generation, run, from_seq, to_seq, from_time, to_time, slots, filter, kind) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?";
    /// timestamp (to_seq), relay, generation, run, from_seq.
    delete_fact: Write "DELETE FROM KS.ledger USING TIMESTAMP ? WHERE relay = ? AND generation = ? AND run = ? AND from_seq = ?";
    /// keyspace: its tables, and the ids that they were made with.
    table_ids: Read "SELECT table_name, CAST(id AS text) FROM system_schema.tables WHERE keyspace_name = ?";
    /// slot, did, id, kind, reason, version, timestamp.
    put_repair: Write "INSERT INTO KS.repairs (slot, did, id, kind, reason, version) VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ?";
    /// timestamp, slot, did, id.
    delete_repair: Write "DELETE FROM KS.repairs USING TIMESTAMP ? WHERE slot = ? AND did = ? AND id = ?";
    /// day, slot, id, received, reason, detail, source, seq, did, size, evicted, timestamp.
    put_quarantined: Write "INSERT INTO KS.quarantine (day, slot, id, received, reason, detail, source, seq, did, size, evicted) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?";
    /// timestamp, day, slot, id.
    delete_quarantined: Write "DELETE FROM KS.quarantine USING TIMESTAMP ? WHERE day = ? AND slot = ? AND id = ?";
    /// id, part, bytes, timestamp.
    put_raw: Write "INSERT INTO KS.quarantine_raw (id, part, bytes) VALUES (?, ?, ?) USING TIMESTAMP ?";
    /// timestamp, id.
    delete_raw: Write "DELETE FROM KS.quarantine_raw USING TIMESTAMP ? WHERE id = ?";
    /// id, epoch, body.
    insert_job: Transact "INSERT INTO KS.jobs (part, id, epoch, body) VALUES (0, ?, ?, ?) IF NOT EXISTS";
    /// epoch, body, id, the epoch that it replaces.
    update_job: Transact "UPDATE KS.jobs SET epoch = ?, body = ? WHERE part = 0 AND id = ? IF epoch = ?";
    /// id -> epoch, body.
    read_job: Serial "SELECT epoch, body FROM KS.jobs WHERE part = 0 AND id = ?";
    /// id, did, collection, body, timestamp.
    put_failure: Write "INSERT INTO KS.job_failures (id, did, collection, body) VALUES (?, ?, ?, ?) USING TIMESTAMP ?";
    /// timestamp, id, did, collection.
    delete_failure: Write "DELETE FROM KS.job_failures USING TIMESTAMP ? WHERE id = ? AND did = ? AND collection = ?";
    /// kind, name, body, timestamp.
    put_choice: Write "INSERT INTO KS.choices (kind, name, body) VALUES (?, ?, ?) USING TIMESTAMP ?";
    /// timestamp, kind, name.
    delete_choice: Write "DELETE FROM KS.choices USING TIMESTAMP ? WHERE kind = ? AND name = ?";
    /// timestamp, pds, did.
    put_pds: Write "UPDATE KS.repos USING TIMESTAMP ? SET pds = ? WHERE did = ?";
    /// did: status, its version.
    read_status: Read "SELECT status, WRITETIME(status) FROM KS.repos WHERE did = ?";
    /// slot, did, id: kind, reason, version, and when it was written.
    read_repair: Read "SELECT kind, reason, version, WRITETIME(kind) FROM KS.repairs WHERE slot = ? AND did = ? AND id = ?";
    /// day, slot, id: when the row was written, and when its eviction.
    read_quarantined_times: Read "SELECT WRITETIME(received), WRITETIME(evicted) FROM KS.quarantine WHERE day = ? AND slot = ? AND id = ?";
}
