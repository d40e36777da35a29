//! What of a batch belongs together, and what can be written on its own.

use std::collections::HashMap;

use crate::store::{
    HandleWrite, Quarantined, RecordWrite, Repair, RevWrite, StatusWrite, WriteBatch,
};

/// Most bytes of one partition that are written at once: what a server takes without a warning, for one mutation.
const BATCH_BYTES: usize = 64 << 10;
/// What a row has beside its texts and bytes.
const ROW_BYTES: usize = 128;

/// What can be written on its own.
pub(super) enum Job<'a> {
    /// Of one partition.
    Records(Vec<RecordWrite<'a>>),
    Head(RevWrite<'a>),
    Handle(&'a HandleWrite),
    /// Of one DID, in the order of the batch.
    Statuses(Vec<&'a StatusWrite>),
    Repair(&'a Repair),
    Quarantined(&'a Quarantined),
}

/// What a batch asks for.
pub(super) fn jobs(batch: &WriteBatch) -> Vec<Job<'_>> {
    let mut jobs: Vec<Job<'_>> = partitions(batch).into_iter().map(Job::Records).collect();
    let mut heads: HashMap<&str, RevWrite<'_>> = HashMap::new();
    for write in batch.revs() {
        let newest = heads.entry(write.did).or_insert(write);
        if order(&write) > order(newest) {
            *newest = write;
        }
    }
    jobs.extend(heads.into_values().map(Job::Head));
    let mut statuses: HashMap<&str, Vec<&StatusWrite>> = HashMap::new();
    for write in batch.statuses() {
        statuses.entry(&write.did).or_default().push(write);
    }
    jobs.extend(statuses.into_values().map(Job::Statuses));
    jobs.extend(batch.handles().iter().map(Job::Handle));
    jobs.extend(batch.repairs().iter().map(Job::Repair));
    jobs.extend(batch.quarantined().iter().map(Job::Quarantined));
    jobs
}

/// The order in which heads win.
fn order(write: &RevWrite<'_>) -> impl Ord + use<> {
    (write.rev, write.data.to_bytes(), write.commit.to_bytes())
}

/// The records, those of one DID that follow each other together, as far as they fit.
fn partitions(batch: &WriteBatch) -> Vec<Vec<RecordWrite<'_>>> {
    let mut parts: Vec<Vec<RecordWrite<'_>>> = Vec::new();
    let mut bytes = 0;
    for write in batch.records() {
        let size = size(&write);
        match parts.last_mut() {
            Some(part)
                if part.last().is_some_and(|last| last.did == write.did)
                    && bytes + size <= BATCH_BYTES =>
            {
                part.push(write);
                bytes += size;
            }
            _ => {
                parts.push(vec![write]);
                bytes = size;
            }
        }
    }
    parts
}

fn size(write: &RecordWrite<'_>) -> usize {
    let keys = write.did.len() + write.collection.len() + write.rkey.len();
    let body = write.body.map_or(0, |body| {
        body.record.len() + body.json.map_or(0, <[u8]>::len)
    });
    keys + body + ROW_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Cid, Tid};
    use crate::store::{RecordBody, RepoStatus};

    fn record<'a>(did: &'a str, rkey: &'a str, bytes: &'a [u8]) -> RecordWrite<'a> {
        RecordWrite {
            did,
            collection: "a.b.c",
            rkey,
            version: 1,
            rev: Tid::new(1, 0),
            body: Some(RecordBody {
                cid: Cid::of_dag_cbor(bytes),
                record: bytes,
                json: None,
            }),
        }
    }

    #[test]
    fn records_of_one_partition_go_together_as_far_as_they_fit() {
        let mut batch = WriteBatch::new();
        let large = vec![0; 30 << 10];
        let huge = vec![0; 1 << 20];
        for (did, rkey, bytes) in [
            ("did:a", "1", &large),
            ("did:a", "2", &large),
            ("did:a", "3", &large),
            ("did:b", "1", &large),
            ("did:a", "4", &large),
            ("did:a", "5", &huge),
            ("did:a", "6", &large),
        ] {
            batch.put_record(record(did, rkey, bytes));
        }
        let parts = partitions(&batch);
        let keys: Vec<Vec<&str>> = parts
            .iter()
            .map(|part| part.iter().map(|write| write.rkey).collect())
            .collect();
        assert_eq!(
            keys,
            [
                vec!["1", "2"],
                vec!["3"],
                vec!["1"],
                vec!["4"],
                vec!["5"],
                vec!["6"]
            ]
        );
    }

    #[test]
    fn of_a_repositorys_heads_the_newest_is_written() {
        let mut batch = WriteBatch::new();
        let (less, more) = {
            let (a, b) = (Cid::of_dag_cbor(b"a"), Cid::of_dag_cbor(b"b"));
            match a.to_bytes() < b.to_bytes() {
                true => (a, b),
                false => (b, a),
            }
        };
        for (did, rev, data) in [
            ("did:a", 2, more),
            ("did:a", 3, less),
            ("did:a", 1, more),
            ("did:b", 1, more),
            ("did:b", 1, less),
        ] {
            batch.put_rev(RevWrite {
                did,
                rev: Tid::new(rev, 0),
                data,
                commit: less,
            });
        }
        let heads: HashMap<&str, (u64, Cid)> = jobs(&batch)
            .into_iter()
            .map(|job| match job {
                Job::Head(write) => (write.did, (write.rev.micros(), write.data)),
                _ => panic!("no head"),
            })
            .collect();
        assert_eq!(heads.len(), 2);
        assert_eq!(heads["did:a"], (3, less));
        assert_eq!(heads["did:b"], (1, more));
    }

    #[test]
    fn statuses_of_one_account_keep_their_order() {
        let mut batch = WriteBatch::new();
        for (did, version) in [("did:a", 3), ("did:b", 1), ("did:a", 1), ("did:a", 2)] {
            batch.put_status(StatusWrite {
                did: did.to_owned(),
                version,
                status: RepoStatus {
                    active: true,
                    status: None,
                },
                repair_if_stale: None,
                repair_if_reactivated: None,
            });
        }
        let versions: HashMap<&str, Vec<u64>> = jobs(&batch)
            .into_iter()
            .map(|job| match job {
                Job::Statuses(writes) => (
                    writes[0].did.as_str(),
                    writes.iter().map(|write| write.version).collect(),
                ),
                _ => panic!("no status"),
            })
            .collect();
        assert_eq!(versions["did:a"], [3, 1, 2]);
        assert_eq!(versions["did:b"], [1]);
    }
}
