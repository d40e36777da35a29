//! Rows of `records_by_collection`: where a record is hinted at.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use scylla::errors::SerializationError;
use scylla::serialize::row::{RowSerializationContext, SerializeRow};
use scylla::serialize::writers::RowWriter;

use crate::decode::{Cid, Tid, time};
use crate::slot::slot_of;
use crate::store::{RecordWrite, StoreError};

use super::changes::signed;

/// Months that a process remembers to have written.
const REMEMBERED: usize = 64 << 10;

/// The month of a record key: YYYYMM (UTC) of its TID, 0 where it is none.
pub(super) fn month_of(rkey: &str) -> i32 {
    let Some(tid) = Tid::parse(rkey.as_bytes()) else {
        return 0;
    };
    let text = time::format_datetime(tid.micros());
    let digits: String = text.chars().filter(char::is_ascii_digit).take(6).collect();
    digits.parse().unwrap_or(0)
}

/// A hint that is written or deleted, with the values of its statement.
#[derive(Debug)]
pub(super) struct Hint<'a> {
    pub collection: &'a str,
    pub month: i32,
    slot: i32,
    rkey: &'a str,
    did: &'a str,
    rev: String,
    /// `None` deletes.
    pub cid: Option<Cid>,
    timestamp: i64,
}

impl<'a> Hint<'a> {
    /// The hint that a write of a record leaves, or takes away.
    pub fn of(write: &RecordWrite<'a>) -> Result<Self, StoreError> {
        Ok(Self {
            collection: write.collection,
            month: month_of(write.rkey),
            slot: i32::from(slot_of(write.did)),
            rkey: write.rkey,
            did: write.did,
            rev: write.rev.to_string(),
            cid: write.body.map(|body| body.cid),
            timestamp: signed("version", write.version)?,
        })
    }
}

impl SerializeRow for Hint<'_> {
    fn serialize(
        &self,
        ctx: &RowSerializationContext<'_>,
        writer: &mut RowWriter<'_>,
    ) -> Result<(), SerializationError> {
        let Self {
            collection,
            month,
            slot,
            rkey,
            did,
            rev,
            cid,
            timestamp,
        } = self;
        match cid {
            Some(cid) => {
                let cid = cid.to_bytes();
                let cid = cid.as_slice();
                (collection, month, slot, rkey, did, rev, cid, timestamp).serialize(ctx, writer)
            }
            None => (timestamp, collection, month, slot, rkey, did).serialize(ctx, writer),
        }
    }

    fn is_empty(&self) -> bool {
        false
    }
}

/// The months that this process wrote already, by collection. Bounded: forgetting one costs a write.
#[derive(Debug, Default)]
pub(super) struct Months(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    count: usize,
    months: HashMap<String, HashSet<i32>>,
    /// How often the tables had been missing when these were written.
    losses: usize,
}

impl Months {
    /// Whether it was written, into tables that were missing so often before: where they are new, nothing was.
    pub fn has(&self, collection: &str, month: i32, losses: usize) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.losses != losses {
            *known = Known {
                losses,
                ..Known::default()
            };
        }
        let months = known.months.get(collection);
        months.is_some_and(|months| months.contains(&month))
    }

    /// It was written.
    pub fn add(&self, collection: &str, month: i32) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.count >= REMEMBERED {
            known.count = 0;
            known.months.clear();
        }
        let months = known.months.entry(collection.to_owned()).or_default();
        let is_new = months.insert(month);
        known.count += usize::from(is_new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_those_of_the_tid() {
        let tid = |text: &str| {
            let micros = time::parse_datetime(text).unwrap();
            Tid::new(micros, 1023).to_string()
        };
        assert_eq!(month_of(&tid("2026-11-30T23:59:59.999Z")), 202_611);
        assert_eq!(month_of(&tid("2026-12-01T00:00:00Z")), 202_612);
        assert_eq!(month_of("self"), 0);
        assert_eq!(month_of(""), 0);
        // A TID by its syntax, of another millennium.
        assert_eq!(month_of("2222222222222"), 197_001);
        assert!(month_of("bzzzzzzzzzzzz") > 202_612);
    }

    #[test]
    fn months_are_remembered_within_a_bound() {
        let months = Months::default();
        let has = |collection, month| months.has(collection, month, 0);
        assert!(!has("a.b.c", 1));
        months.add("a.b.c", 1);
        months.add("a.b.c", 1);
        assert!(has("a.b.c", 1) && !has("a.b.c", 2) && !has("a.b.d", 1));
        for month in 0..REMEMBERED {
            months.add("a.b.d", i32::try_from(month).unwrap());
        }
        assert!(!has("a.b.c", 1), "what no longer fits is written again");
    }

    #[test]
    fn months_of_tables_that_were_lost_are_written_again() {
        let months = Months::default();
        months.add("a.b.c", 1);
        assert!(months.has("a.b.c", 1, 0));
        assert!(!months.has("a.b.c", 1, 2));
        months.add("a.b.c", 1);
        assert!(months.has("a.b.c", 1, 2));
    }
}
