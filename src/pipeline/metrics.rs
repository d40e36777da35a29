//! Counters of a lane: summed up locally, told to the registry once a batch.

use std::collections::BTreeMap;
use std::time::Duration;

use metrics::{Counter, Histogram};

use super::writes::Counts;
use crate::decode::{Reason, RecordFault};
use crate::store::{STORE_REFUSED, StoreError, WriteBatch};
use crate::telemetry::metrics as names;

/// What a lane counts between two batches.
pub(crate) struct LaneMetrics {
    decode: Histogram,
    ops: Counts,
    events: BTreeMap<&'static str, u64>,
    quarantined: BTreeMap<&'static str, u64>,
    skipped: BTreeMap<&'static str, u64>,
}

impl LaneMetrics {
    pub fn new() -> Self {
        begin();
        Self {
            decode: names::DECODE.with([]),
            ops: Counts::default(),
            events: BTreeMap::new(),
            quarantined: BTreeMap::new(),
            skipped: BTreeMap::new(),
        }
    }

    /// A chunk of so many frames was decoded; the histogram gets the mean of them.
    pub fn decoded(&self, frames: usize, took: Duration) {
        if let Ok(frames) = u32::try_from(frames)
            && frames > 0
        {
            self.decode.record(took / frames);
        }
    }

    /// An event was turned into writes.
    pub fn event(&mut self, kind: &'static str, counts: &Counts) {
        *self.events.entry(kind).or_default() += 1;
        self.ops.add_all(counts);
    }

    /// A frame was quarantined.
    pub fn quarantined(&mut self, reason: &'static str) {
        *self.quarantined.entry(reason).or_default() += 1;
    }

    /// Frames were not taken in, for a reason that is not their own fault.
    pub fn skipped(&mut self, reason: &'static str, frames: usize) {
        *self.skipped.entry(reason).or_default() += frames as u64;
    }

    /// Tells the registry what was counted.
    pub fn publish(&mut self) {
        for (kind, count) in &mut self.events {
            names::EVENTS.with([kind]).increment(std::mem::take(count));
        }
        for (reason, count) in &mut self.quarantined {
            names::QUARANTINED
                .with([reason])
                .increment(std::mem::take(count));
        }
        for (reason, count) in &mut self.skipped {
            names::FRAMES_SKIPPED
                .with([reason])
                .increment(std::mem::take(count));
        }
        let ops = std::mem::take(&mut self.ops);
        for (action, count) in [
            ("create", ops.creates),
            ("update", ops.updates),
            ("delete", ops.deletes),
        ] {
            names::OPS.with([action, "stream"]).increment(count);
        }
        if ops.unwanted > 0 {
            names::OPS
                .with(["unwanted", "stream"])
                .increment(ops.unwanted);
        }
        for fault in ops.faults {
            names::RECORD_FAULTS.with([fault.as_str()]).increment(1);
        }
    }
}

/// Shows all that a lane may ever count.
fn begin() {
    let types = ["commit", "sync", "identity", "account", "unknown"];
    names::EVENTS.begin(types.map(|kind| [kind]));
    let actions = ["create", "update", "delete", "unwanted"];
    names::OPS.begin(actions.map(|action| [action, "stream"]));
    names::FRAMES_SKIPPED.begin([["unknown_type"], ["reread"]]);
    names::QUARANTINED.begin(Reason::ALL.map(|reason| [reason.as_str()]));
    names::QUARANTINED.begin([[STORE_REFUSED]]);
    names::RECORD_FAULTS.begin(RecordFault::ALL.map(|fault| [fault.as_str()]));
}

/// What is counted of batches, once each.
pub(crate) struct StoreMetrics {
    write: Histogram,
    records: Counter,
    repos: Counter,
    repairs: Counter,
    quarantine: Counter,
}

/// The rows of a batch, by table.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    records: u64,
    repos: u64,
    repairs: u64,
    quarantine: u64,
}

impl Rows {
    pub fn of(batch: &WriteBatch) -> Self {
        Self {
            records: batch.records().len() as u64,
            repos: (batch.revs().len() + batch.statuses().len() + batch.handles().len()) as u64,
            repairs: batch.repairs().len() as u64,
            quarantine: batch.quarantined().len() as u64,
        }
    }
}

impl StoreMetrics {
    pub fn new() -> Self {
        names::STORE_ERRORS.begin(StoreError::KINDS.map(|kind| [kind]));
        names::STORE_RETRIES.begin([[]]);
        names::STORE_IN_FLIGHT.begin([[]]);
        names::STORE_IN_FLIGHT_LIMIT.begin([[]]);
        let table = |name| names::STORE_WRITES.with([name]);
        Self {
            write: names::STORE_WRITE.with([]),
            records: table("records"),
            repos: table("repos"),
            repairs: table("repairs"),
            quarantine: table("quarantine"),
        }
    }

    /// These rows became durable.
    pub fn stored(&self, rows: Rows, took: Duration) {
        self.write.record(took);
        self.records.increment(rows.records);
        self.repos.increment(rows.repos);
        self.repairs.increment(rows.repairs);
        self.quarantine.increment(rows.quarantine);
    }

    /// The store failed.
    pub fn failed(error: &StoreError) {
        names::STORE_ERRORS.with([error.kind()]).increment(1);
    }
}
