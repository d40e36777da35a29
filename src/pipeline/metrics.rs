//! Counters of a lane: summed up locally, told to the registry once a batch.

use std::collections::BTreeMap;
use std::time::Duration;

use metrics::{Histogram, counter, histogram};

use super::writes::Counts;

/// What a lane counts between two batches.
pub(crate) struct LaneMetrics {
    decode: Histogram,
    ops: Counts,
    events: BTreeMap<&'static str, u64>,
    quarantined: BTreeMap<&'static str, u64>,
}

impl LaneMetrics {
    pub fn new() -> Self {
        Self {
            decode: histogram!("penstock_decode_seconds"),
            ops: Counts::default(),
            events: BTreeMap::new(),
            quarantined: BTreeMap::new(),
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

    /// Tells the registry what was counted.
    pub fn publish(&mut self) {
        for (kind, count) in &mut self.events {
            counter!("penstock_events_total", "type" => *kind).increment(std::mem::take(count));
        }
        for (reason, count) in &mut self.quarantined {
            counter!("penstock_quarantined_total", "reason" => *reason)
                .increment(std::mem::take(count));
        }
        let ops = std::mem::take(&mut self.ops);
        for (action, count) in [
            ("create", ops.creates),
            ("update", ops.updates),
            ("delete", ops.deletes),
        ] {
            counter!("penstock_ops_total", "action" => action, "source" => "stream")
                .increment(count);
        }
        if ops.unwanted > 0 {
            counter!("penstock_ops_total", "action" => "unwanted", "source" => "stream")
                .increment(ops.unwanted);
        }
        for fault in ops.faults {
            counter!("penstock_record_faults_total", "reason" => fault.as_str()).increment(1);
        }
    }

    /// A batch became durable.
    pub fn stored(took: Duration) {
        histogram!("penstock_store_write_seconds").record(took);
    }
}
