//! Counters of a stream's reader.

use metrics::{Counter, Gauge};

use super::status::Pause;
use crate::pipeline::Stream;
use crate::relay::{DisconnectReason, RelayUrl};
use crate::telemetry::metrics as names;

/// What the reader of one stream counts.
pub(crate) struct StreamMetrics {
    stream: Stream,
    frames: Counter,
    bytes: Counter,
    other_slots: Counter,
    seq: Gauge,
}

impl StreamMetrics {
    pub fn new<'a>(stream: Stream, relays: impl Iterator<Item = &'a RelayUrl>) -> Self {
        let name = stream.as_str();
        if stream == Stream::Live {
            begin(relays);
        }
        Self {
            stream,
            frames: names::RELAY_FRAMES.with([name]),
            bytes: names::RELAY_BYTES.with([name]),
            other_slots: names::FRAMES_SKIPPED.with(["slot"]),
            seq: names::RELAY_SEQ.with([name]),
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
        names::FRAMES_SKIPPED.with([reason]).increment(1);
    }

    /// A message that the reader itself takes.
    pub fn event(&self, kind: &'static str) {
        names::EVENTS.with([kind]).increment(1);
    }

    /// The stream was routed up to here.
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    pub fn routed(&self, seq: u64) {
        self.seq.set(seq as f64);
    }

    /// The connection of the live stream was made or lost.
    pub fn connected(&self, relay: &str, connected: bool) {
        if self.stream == Stream::Replay {
            return;
        }
        names::RELAY_CONNECTED
            .with([relay])
            .set(if connected { 1.0 } else { 0.0 });
    }

    /// A connection ended, or could not be made.
    pub fn reconnect(&self, relay: &str, reason: &'static str) {
        names::RELAY_RECONNECTS.with([relay, reason]).increment(1);
    }

    /// The relay skipped numbers.
    pub fn jump(&self, relay: &str) {
        names::RELAY_SEQ_JUMPS.with([relay]).increment(1);
    }

    /// Ingestion pauses, or goes on.
    pub fn paused(&self, reason: &'static str, paused: bool) {
        names::INGEST_PAUSED
            .with([reason])
            .set(if paused { 1.0 } else { 0.0 });
    }
}

/// Shows all that a reader may ever count.
fn begin<'a>(relays: impl Iterator<Item = &'a RelayUrl>) {
    for relay in relays.map(RelayUrl::host) {
        names::RELAY_CONNECTED.begin([[relay.as_str()]]);
        names::RELAY_SEQ_JUMPS.begin([[relay.as_str()]]);
        let reasons = DisconnectReason::COUNTED;
        names::RELAY_RECONNECTS.begin(reasons.map(|reason| [relay.as_str(), reason.as_str()]));
    }
    names::EVENTS.begin([["info"], ["error"]]);
    names::FRAMES_SKIPPED.begin([["poison"]]);
    names::INGEST_PAUSED.begin(Pause::REASONS.map(|reason| [reason]));
}
