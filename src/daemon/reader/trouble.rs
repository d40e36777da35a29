//! What goes wrong with a connection: errors that the relay sends, losses, and frames that break it.

use super::{Reader, Stop};
use crate::decode::Event;
use crate::pipeline::Point;
use crate::relay::{DisconnectReason, Lost};
use crate::telemetry::repeated;

/// Breaks at one cursor after which the frame behind it is passed.
const STRIKES: u32 = 3;

impl Reader {
    /// Reads a message that is for the reader; `false`: it is none, and goes the way of every frame that can't be read.
    pub(super) fn message(&mut self, frame: &[u8]) -> Result<bool, Stop> {
        match self.decoder.decode(frame, self.parts.clock.now_micros()) {
            Ok(Event::Error { error, message }) => {
                tracing::warn!(error, message, "the relay sent an error");
                self.metrics.event("error");
                let future = error == "FutureCursor";
                let (reason, detail) =
                    (DisconnectReason::ErrorFrame, format!("{error}: {message}"));
                if future {
                    self.cursor_refused();
                }
                self.parts.subscription.disconnect(reason);
                Err(Stop::Lost(Lost {
                    reason,
                    detail,
                    poison: false,
                }))
            }
            Ok(Event::Info(info)) => {
                if let Some(held_back) = repeated("relay_info", info.name) {
                    let (name, message) = (info.name, info.message);
                    tracing::warn!(name, message, held_back, "the relay says");
                }
                self.metrics.event("info");
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// The connection is gone. A frame that breaks it again and again is passed.
    pub(super) async fn lost(&mut self, lost: Lost) {
        self.flush().await;
        let Some(current) = self.current.as_mut() else {
            return;
        };
        if let Some(passing) = &mut self.passing {
            passing.lost(&lost);
        }
        self.metrics.connected(&current.relay, false);
        self.metrics.reconnect(&current.relay, lost.reason.as_str());
        self.parts
            .status
            .disconnected(format!("{}: {}", lost.reason, lost.detail));
        if let Some(held_back) = repeated("connection", lost.reason.as_str()) {
            tracing::warn!(relay = current.relay, reason = %lost.reason, detail = lost.detail, held_back, "connection lost");
        }
        // What breaks a connection before the last frame came again is not the frame behind it, which may well be good.
        if !lost.poison || !current.continuity.at_tail() {
            return;
        }
        let at = current.continuity.routed();
        let strikes = if self.strikes.0 == at {
            self.strikes.1 + 1
        } else {
            1
        };
        self.strikes = (at, strikes);
        if strikes < STRIKES && lost.reason != DisconnectReason::TooLarge {
            return;
        }
        self.strikes = (at + 1, 0);
        current.continuity.pass(at + 1);
        let passed = Point {
            seq: at + 1,
            time: self.times.reached(),
        };
        self.progress.pass(passed);
        self.parts.router.advance(passed);
        self.metrics.skipped("poison");
        tracing::error!(
            relay = current.relay,
            seq = at + 1,
            detail = lost.detail,
            "passed a frame that can't be read: the ledger shows it"
        );
    }
}
