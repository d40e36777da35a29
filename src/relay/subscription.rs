//! The subscription: connects, hands out what arrives, and connects again.

use super::{
    Connected, DisconnectReason, FailedAttempt, RelayError, RelayOptions, RelayUrl, Signal,
};

/// One subscription of one relay at a time.
#[derive(Debug)]
pub struct Subscription {
    options: RelayOptions,
}

impl Subscription {
    /// A subscription that is not connected yet.
    ///
    /// # Errors
    /// [`RelayError::NoUrl`] if there is no address.
    pub fn new(options: RelayOptions) -> Result<Self, RelayError> {
        if options.urls.is_empty() {
            return Err(RelayError::NoUrl);
        }
        Ok(Self { options })
    }

    /// Connects, however long it takes: waits out back-off and `Retry-After`, moves to fallbacks.
    ///
    /// `resume` is asked before each attempt for the cursor to send to that relay (`None`: the live
    /// head); `failed` hears of each attempt that failed. Cancel safe: waits and counts carry over
    /// to the next call. An open connection is dropped first.
    pub async fn connect(
        &mut self,
        resume: impl FnMut(&RelayUrl) -> Option<u64>,
        failed: impl FnMut(&FailedAttempt),
    ) -> Connected {
        let _ = (resume, failed);
        std::future::pending().await
    }

    /// The next thing from the open connection. Cancel safe. Pings, pongs and the read deadline are
    /// its work, so it is to be awaited whenever frames are wanted. Without a connection:
    /// `Lost` with [`DisconnectReason::NotConnected`], at once.
    pub async fn next(&mut self) -> Signal {
        std::future::pending().await
    }

    /// What can be had without waiting; `None` when the socket is dry for now. The caller then does
    /// what it put off, and awaits [`Self::next`].
    pub fn next_ready(&mut self) -> Option<Signal> {
        None
    }

    /// Real progress was made (a frame advanced `seq`): the next loss is the first in a row.
    /// Cheap enough for every frame.
    pub fn progressed(&mut self) {}

    /// Drops the connection on purpose, without a close handshake; the next connect backs off as
    /// after a loss. [`DisconnectReason::Fallback`] moves to the next address.
    pub fn disconnect(&mut self, reason: DisconnectReason) {
        let _ = reason;
    }

    /// Ends the connection with a close handshake, for at most 2 seconds. Frames that are still on
    /// their way are dropped: the cursor asks for them again.
    pub async fn close(&mut self) {}
}

impl Subscription {
    /// The relay that is connected, or is tried next.
    pub fn relay(&self) -> &RelayUrl {
        &self.options.urls[0]
    }

    /// Whether a connection is open, as far as is known.
    pub fn is_connected(&self) -> bool {
        false
    }
}
