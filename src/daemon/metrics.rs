//! Counters of a stream's reader.

use metrics::{Counter, Gauge, counter, gauge};

/// What the reader of one stream counts.
pub(crate) struct StreamMetrics {
    frames: Counter,
    bytes: Counter,
    other_slots: Counter,
    seq: Gauge,
}

impl StreamMetrics {
    pub fn new(stream: &'static str) -> Self {
        Self {
            frames: counter!("penstock_relay_frames_total", "stream" => stream),
            bytes: counter!("penstock_relay_bytes_total", "stream" => stream),
            other_slots: counter!("penstock_frames_skipped_total", "reason" => "slot"),
            seq: gauge!("penstock_relay_seq", "stream" => stream),
        }
    }

    /// A frame of so many bytes came.
    pub fn frame(&self, bytes: usize) {
        self.frames.increment(1);
        self.bytes.increment(bytes as u64);
    }

    /// A frame belongs to another worker.
    pub fn other_slot(&self) {
        self.other_slots.increment(1);
    }

    /// A frame was not taken in.
    pub fn skipped(&self, reason: &'static str) {
        counter!("penstock_frames_skipped_total", "reason" => reason).increment(1);
    }

    /// A message that the reader itself takes.
    pub fn event(&self, kind: &'static str) {
        counter!("penstock_events_total", "type" => kind).increment(1);
    }

    /// The stream was routed up to here.
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    pub fn routed(&self, seq: u64) {
        self.seq.set(seq as f64);
    }

    /// A connection was made or lost.
    pub fn connected(&self, relay: &str, connected: bool) {
        gauge!("penstock_relay_connected", "relay" => relay.to_owned()).set(if connected {
            1.0
        } else {
            0.0
        });
    }

    /// A connection ended, or could not be made.
    pub fn reconnect(&self, relay: &str, reason: &'static str) {
        counter!("penstock_relay_reconnects_total", "relay" => relay.to_owned(), "reason" => reason)
            .increment(1);
    }

    /// The relay skipped numbers.
    pub fn jump(&self, relay: &str) {
        counter!("penstock_relay_seq_jumps_total", "relay" => relay.to_owned()).increment(1);
    }

    /// Ingestion pauses, or goes on.
    pub fn paused(&self, reason: &'static str, paused: bool) {
        gauge!("penstock_ingest_paused", "reason" => reason).set(if paused { 1.0 } else { 0.0 });
    }
}
