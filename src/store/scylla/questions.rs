//! Repairs and the quarantine: rows that are put once and taken away when they are answered.
//!
//! They have no version, so their timestamp is the time of writing, and they are deleted at that very timestamp: a row
//! that is put again meanwhile survives.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::apply::Writes;
use super::changes::{first, signed};
use crate::decode::time;
use crate::slot::slot_of;
use crate::store::{Quarantined, RecordWrite, Repair, RepairKind, STORE_REFUSED, StoreError};
use crate::telemetry::metrics as names;

/// Bytes of one row of `quarantine_raw`.
const PIECE: usize = 512 << 10;
/// Repairs that are cleared at once.
const AT_ONCE: usize = 64;

/// kind, reason, version, and when it was written.
type RepairRow = (Option<String>, Option<String>, Option<i64>, Option<i64>);

/// The day (YYYYMMDD) and the slot under which a row of the quarantine is held: those of its id, 0 and 0 where it tells none.
pub(super) fn quarantine_partition(id: &str) -> (i32, i32) {
    let mut parts = id.splitn(3, '-');
    let (Some(day), Some(slot), Some(_)) = (parts.next(), parts.next(), parts.next()) else {
        return (0, 0);
    };
    let digits = day.len() == 8 && day.bytes().all(|byte| byte.is_ascii_digit());
    let hex = slot.len() == 2 && slot.bytes().all(|byte| byte.is_ascii_hexdigit());
    match (day.parse(), i32::from_str_radix(slot, 16)) {
        (Ok(day), Ok(slot)) if digits && hex => (day, slot),
        _ => (0, 0),
    }
}

impl Writes {
    /// Puts a repair, unless there is one of its id.
    pub(super) async fn put_repair(&self, repair: &Repair) -> Result<(), StoreError> {
        let _alone = self.questions.lock(&repair.id).await;
        if self.read_repair(repair).await?.is_some() {
            return Ok(());
        }
        let values = (
            i32::from(slot_of(&repair.did)),
            &repair.did,
            &repair.id,
            repair.kind.as_str(),
            &repair.reason,
            signed("version", repair.version)?,
            self.stamps.next(),
        );
        let statement = &self.statements.put_repair;
        self.requests.write("repairs", statement, values).await
    }

    async fn read_repair(&self, repair: &Repair) -> Result<Option<RepairRow>, StoreError> {
        let values = (i32::from(slot_of(&repair.did)), &repair.did, &repair.id);
        let statement = &self.statements.read_repair;
        let answer = self
            .requests
            .read_to_write("repairs", statement, values)
            .await?;
        first(answer)
    }

    /// Deletes exactly these repairs: one that differs by now stays.
    ///
    /// # Errors
    ///
    /// [`StoreError::Closed`], [`StoreError::Refused`].
    pub async fn clear_repairs(&self, repairs: &[Repair]) -> Result<(), StoreError> {
        let mut running = FuturesUnordered::new();
        for repair in repairs {
            running.push(self.clear_repair(repair));
            if running.len() >= AT_ONCE {
                running.next().await.transpose()?;
            }
        }
        while let Some(done) = running.next().await {
            done?;
        }
        Ok(())
    }

    async fn clear_repair(&self, repair: &Repair) -> Result<(), StoreError> {
        let Some((kind, reason, version, Some(written))) = self.read_repair(repair).await? else {
            return Ok(());
        };
        let is_this = kind.as_deref() == Some(repair.kind.as_str())
            && reason.as_deref() == Some(&repair.reason)
            && version == Some(signed("version", repair.version)?);
        if !is_this {
            return Ok(());
        }
        let slot = i32::from(slot_of(&repair.did));
        let values = (written, slot, &repair.did, &repair.id);
        let statement = &self.statements.delete_repair;
        self.requests.write("repairs", statement, values).await
    }

    /// Puts a row, its bytes first, unless there is one of its id.
    pub(super) async fn put_quarantined(&self, row: &Quarantined) -> Result<(), StoreError> {
        let _alone = self.questions.lock(&row.id).await;
        if self.quarantined_times(&row.id).await?.is_some() {
            return Ok(());
        }
        let timestamp = self.stamps.next();
        for (part, bytes) in (0_i32..).zip(row.raw.chunks(PIECE)) {
            let values = (&row.id, part, bytes, timestamp);
            let statement = &self.statements.put_raw;
            self.requests
                .write("quarantine_raw", statement, values)
                .await?;
        }
        let entry = row.entry();
        let (day, slot) = quarantine_partition(&row.id);
        let values = (
            day,
            slot,
            &row.id,
            signed("time", row.received)?,
            &row.reason,
            &row.detail,
            &row.source,
            row.seq.map(|seq| signed("seq", seq)).transpose()?,
            &row.did,
            signed("size", entry.size)?,
            entry.evicted,
            timestamp,
        );
        let statement = &self.statements.put_quarantined;
        self.requests.write("quarantine", statement, values).await
    }

    /// When the last of a row was written, if it is there.
    async fn quarantined_times(&self, id: &str) -> Result<Option<i64>, StoreError> {
        let (day, slot) = quarantine_partition(id);
        let statement = &self.statements.read_quarantined_times;
        let answer = self
            .requests
            .read_to_write("quarantine", statement, (day, slot, id))
            .await?;
        let times: Option<(Option<i64>, Option<i64>)> = first(answer)?;
        Ok(times.and_then(|(row, evicted)| row.max(evicted)))
    }

    /// Removes a row of the quarantine and its bytes.
    ///
    /// # Errors
    ///
    /// As for [`Writes::clear_repairs`].
    pub async fn release_quarantined(&self, id: &str) -> Result<(), StoreError> {
        let _alone = self.questions.lock(id).await;
        let Some(written) = self.quarantined_times(id).await? else {
            return Ok(());
        };
        let (day, slot) = quarantine_partition(id);
        // The bytes first: without the row nobody would find them again.
        let statement = &self.statements.delete_raw;
        self.requests
            .write("quarantine_raw", statement, (written, id))
            .await?;
        let statement = &self.statements.delete_quarantined;
        let values = (written, day, slot, id);
        self.requests.write("quarantine", statement, values).await
    }

    /// Quarantines a record that the servers never take, and asks for its repository.
    pub(super) async fn set_aside(
        &self,
        write: &RecordWrite<'_>,
        words: &str,
    ) -> Result<(), StoreError> {
        names::QUARANTINED.with([STORE_REFUSED]).increment(1);
        let received = crate::clock::Clock::now_micros(&crate::clock::SystemClock);
        let (row, repair) = refused(write, words, received);
        self.put_quarantined(&row).await?;
        self.put_repair(&repair).await
    }
}

/// What is left of a record that the servers never take. The same record gives the same rows on the same day.
fn refused(write: &RecordWrite<'_>, words: &str, received: u64) -> (Quarantined, Repair) {
    let uri = format!("at://{}/{}/{}", write.did, write.collection, write.rkey);
    let raw = write
        .body
        .map_or_else(Vec::new, |body| body.record.to_vec());
    let seed = xxhash_rust::xxh3::xxh3_64_with_seed(uri.as_bytes(), write.version);
    let hash = xxhash_rust::xxh3::xxh3_64_with_seed(&raw, seed);
    let day: String = time::format_datetime(received)
        .chars()
        .take(10)
        .filter(char::is_ascii_digit)
        .collect();
    let what = match write.body {
        Some(_) => "the record",
        None => "the deletion of",
    };
    let row = Quarantined {
        id: format!("{day}-{:02x}-{hash:016x}", slot_of(write.did)),
        received,
        reason: STORE_REFUSED.to_owned(),
        detail: format!("{what} {uri} at {} was refused: {words}", write.rev),
        source: "store".to_owned(),
        seq: None,
        did: Some(write.did.to_owned()),
        raw,
        evicted: None,
    };
    let repair = Repair {
        did: write.did.to_owned(),
        id: format!("store~x{hash:016x}~content"),
        kind: RepairKind::Content,
        reason: STORE_REFUSED.to_owned(),
        version: write.version,
    };
    (row, repair)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Cid, Tid};
    use crate::store::RecordBody;

    #[test]
    fn rows_are_held_by_the_day_and_the_slot_of_their_id() {
        assert_eq!(
            quarantine_partition("20261123-0a-0123456789abcdef"),
            (20_261_123, 10)
        );
        assert_eq!(quarantine_partition("20261123-ff-x-y"), (20_261_123, 255));
        for id in [
            "",
            "x",
            "20261123-0a",
            "20261123-0a0-x",
            "20261123-+a-x",
            "+0261123-0a-x",
            "99999999999-00-x",
            "20261123-zz-x",
        ] {
            assert_eq!(quarantine_partition(id), (0, 0), "{id}");
        }
    }

    #[test]
    fn a_refused_record_is_kept_whole_and_asked_for() {
        let write = |rkey| RecordWrite {
            did: "did:plc:ewvi7nxzyoun6zhxrhs64oiz",
            collection: "a.b.c",
            rkey,
            version: 7,
            rev: Tid::new(7, 0),
            body: Some(RecordBody {
                cid: Cid::of_dag_cbor(b"record"),
                record: b"record",
                json: None,
            }),
        };
        let day = time::parse_datetime("2026-11-23T05:00:00Z").unwrap();
        let (row, repair) = refused(&write("1"), "too large", day);
        assert!(row.id.starts_with("20261123-89-"), "{}", row.id);
        assert_eq!(quarantine_partition(&row.id), (20_261_123, 137));
        assert_eq!(row.raw, b"record");
        assert!(
            row.detail
                .contains("at://did:plc:ewvi7nxzyoun6zhxrhs64oiz/a.b.c/1")
        );
        assert!(row.detail.contains("too large"));
        assert_eq!((repair.kind, repair.version), (RepairKind::Content, 7));
        let again = refused(&write("1"), "too large", day + 1);
        assert_eq!((again.0.id, again.1), (row.id.clone(), repair));
        assert_ne!(refused(&write("2"), "too large", day).0.id, row.id);
    }
}
