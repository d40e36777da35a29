//! The subscription: connects, hands out what arrives, and connects again.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use super::connection::Connection;
use super::dial::dial;
use super::refusal::Refusal;
use super::rota::{Failure, Rota};
use super::{
    Connected, DisconnectReason, FailedAttempt, Lost, RelayError, RelayOptions, RelayUrl, Signal,
    loss,
};

/// One subscription, of one relay at a time.
#[derive(Debug)]
pub struct Subscription {
    options: RelayOptions,
    rota: Rota,
    connection: Option<Connection>,
    /// The caller made progress on this connection.
    progress: bool,
}

impl Subscription {
    /// A subscription that is not connected yet. Times are limited to 1 ms … 24 h.
    ///
    /// # Errors
    /// [`RelayError::NoUrl`] if there is no address.
    pub fn new(mut options: RelayOptions) -> Result<Self, RelayError> {
        options.limit_times();
        let rota = Rota::new(
            options.urls.clone(),
            options.backoff_min,
            options.backoff_max,
            fastrand::Rng::new(),
        )?;
        Ok(Self {
            options,
            rota,
            connection: None,
            progress: false,
        })
    }

    /// The relay that is connected, or that is tried next.
    pub fn relay(&self) -> &RelayUrl {
        self.rota.current()
    }

    /// All relays that there are.
    pub fn relays(&self) -> impl Iterator<Item = &RelayUrl> {
        self.options.urls.iter()
    }

    /// Whether a connection is open, as far as is known.
    pub fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Connects, however long it takes: waits out back-off and `Retry-After`, moves to fallbacks.
    ///
    /// `resume` is asked before each attempt, after the wait, for the cursor to send to that relay
    /// (`None`: the live head); `failed` hears of each attempt that failed. Cancel safe: waits and
    /// counts carry over to the next call. A connection that is still open is dropped first, as by
    /// [`Self::disconnect`] with [`DisconnectReason::Resume`].
    pub async fn connect(
        &mut self,
        mut resume: impl FnMut(&RelayUrl) -> Option<u64>,
        mut failed: impl FnMut(&FailedAttempt),
    ) -> Connected {
        self.disconnect(DisconnectReason::Resume);
        loop {
            tokio::time::sleep(self.rota.wait(Instant::now())).await;
            let relay = self.rota.current().clone();
            let cursor = resume(&relay);
            match dial(&self.options, &relay, cursor).await {
                Ok(socket) => {
                    self.connection = Some(Connection::new(socket, &self.options));
                    self.progress = false;
                    return Connected { relay, cursor };
                }
                Err(refusal) => failed(&self.note_refusal(relay, refusal)),
            }
        }
    }

    fn note_refusal(&mut self, relay: RelayUrl, refusal: Refusal) -> FailedAttempt {
        let now = Instant::now();
        self.rota.failed(
            now,
            Failure {
                asked: refusal.asked,
                after_progress: false,
                strike: true,
            },
        );
        FailedAttempt {
            relay,
            reason: refusal.reason,
            detail: refusal.detail,
            status: refusal.status,
            next: self.rota.current().clone(),
            retry_in: self.rota.wait(now),
        }
    }

    /// The next thing from the open connection. Cancel safe.
    ///
    /// Pings, pongs and the read deadline are its work: await it whenever frames are wanted. Without
    /// a connection it is `Lost` with [`DisconnectReason::NotConnected`], at once.
    pub async fn next(&mut self) -> Signal {
        poll_fn(|cx| self.poll_signal(cx)).await
    }

    /// What can be had without waiting; `None` when the socket is dry for now. The caller then does
    /// what it put off, and awaits [`Self::next`], which alone wakes the task.
    pub fn next_ready(&mut self) -> Option<Signal> {
        match self.poll_signal(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(signal) => Some(signal),
            Poll::Pending => None,
        }
    }

    fn poll_signal(&mut self, cx: &mut Context<'_>) -> Poll<Signal> {
        let Some(connection) = &mut self.connection else {
            return Poll::Ready(Signal::Lost(loss::not_connected()));
        };
        let signal = connection.poll_signal(cx);
        if let Poll::Ready(Signal::Lost(lost)) = &signal {
            self.note_loss(lost);
        }
        signal
    }

    fn note_loss(&mut self, lost: &Lost) {
        self.end(!lost.poison);
    }

    /// Forgets the connection and backs off.
    fn end(&mut self, strike: bool) {
        self.connection = None;
        self.rota.failed(
            Instant::now(),
            Failure {
                asked: None,
                after_progress: std::mem::take(&mut self.progress),
                strike,
            },
        );
    }

    /// Real progress was made (a frame advanced `seq`): back-off starts over with the next loss.
    /// Cheap enough for every frame.
    pub fn progressed(&mut self) {
        self.progress = true;
    }

    /// Drops the connection on purpose, without a close handshake; the next connect backs off as
    /// after a loss. [`DisconnectReason::Fallback`] moves to the next address, whether there is a
    /// connection or not; an error frame without progress before it counts as a failed attempt.
    pub fn disconnect(&mut self, reason: DisconnectReason) {
        if self.is_connected() {
            self.end(reason == DisconnectReason::ErrorFrame);
        }
        if reason == DisconnectReason::Fallback {
            self.rota.move_on(Instant::now());
        }
    }

    /// Ends the connection with a close handshake, for at most 2 seconds. Frames that are still on
    /// their way are dropped: the cursor asks for them again.
    pub async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close().await;
        }
    }
}
