//! An open connection: messages in, pings out, and the watch over silence.
//!
//! The clock is looked at only when the socket is dry, or every 256 frames, so that a frame costs no
//! timer. Silence is summed up over ticks of that clock in which no byte came; a tick that comes late
//! means that nobody asked for frames, and counts nothing.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::dial::Socket;
use super::{Lost, RelayOptions, Signal, loss};

/// Ticks of the clock in a ping interval or read timeout, whichever is shorter.
const TICKS: u32 = 4;
/// Frames after which the clock is looked at although the socket is not dry.
const FRAMES_PER_LOOK: u32 = 256;
/// How long a close handshake may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Connection {
    socket: Socket,
    clock: Interval,
    ping_interval: Duration,
    read_timeout: Duration,
    last_ping: Instant,
    last_tick: Instant,
    /// Bytes received at the last tick.
    seen: u64,
    silence: Duration,
    frames_to_look: u32,
    /// Something was written that the socket did not take yet.
    unflushed: bool,
}

impl Connection {
    pub(super) fn new(socket: Socket, options: &RelayOptions) -> Self {
        let now = Instant::now();
        let tick = options.ping_interval.min(options.read_timeout) / TICKS;
        let mut clock = tokio::time::interval_at(now + tick, tick);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            socket,
            clock,
            ping_interval: options.ping_interval,
            read_timeout: options.read_timeout,
            last_ping: now,
            last_tick: now,
            seen: 0,
            silence: Duration::ZERO,
            frames_to_look: FRAMES_PER_LOOK,
            unflushed: false,
        }
    }

    /// The next frame or the end. After the end the connection is to be dropped.
    pub(super) fn poll_signal(&mut self, cx: &mut Context<'_>) -> Poll<Signal> {
        match self.poll_message(cx) {
            Poll::Ready(Ok(frame)) => {
                self.look_at_clock_now_and_then(cx);
                Poll::Ready(Signal::Frame(frame))
            }
            Poll::Ready(Err(lost)) => Poll::Ready(Signal::Lost(lost)),
            Poll::Pending => self.poll_clock(cx).map(Signal::Lost),
        }
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Lost>> {
        loop {
            let message = match Pin::new(&mut self.socket).poll_next(cx) {
                Poll::Ready(Some(message)) => message,
                Poll::Ready(None) => Err(Error::ConnectionClosed),
                Poll::Pending => return Poll::Pending,
            };
            return Poll::Ready(match message {
                Ok(Message::Binary(frame)) => Ok(frame),
                // tungstenite has queued the pong.
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => continue,
                Ok(Message::Text(text)) => Err(loss::from_text(&text)),
                Ok(Message::Close(frame)) => Err(self.answer_close(cx, frame.as_ref())),
                Err(error) => Err(loss::from_error(&error)),
            });
        }
    }

    /// Sends the close frame that tungstenite has queued as an answer, if the socket takes it.
    fn answer_close(&mut self, cx: &mut Context<'_>, frame: Option<&CloseFrame>) -> Lost {
        let _ = Pin::new(&mut self.socket).poll_flush(cx);
        loss::from_close(frame)
    }

    /// On a socket that is never dry: pings go out, and frames are no silence, though all of them
    /// may come out of what was received long ago.
    fn look_at_clock_now_and_then(&mut self, cx: &mut Context<'_>) {
        self.frames_to_look -= 1;
        if self.frames_to_look == 0 {
            self.frames_to_look = FRAMES_PER_LOOK;
            self.seen = 0;
            self.silence = Duration::ZERO;
            let _ = self.poll_clock(cx);
        }
    }

    fn poll_clock(&mut self, cx: &mut Context<'_>) -> Poll<Lost> {
        self.flush(cx);
        while let Poll::Ready(due) = self.clock.poll_tick(cx) {
            let now = Instant::now();
            self.add_up_silence(due, now);
            if self.silence >= self.read_timeout {
                return Poll::Ready(loss::from_silence(self.silence));
            }
            if now.saturating_duration_since(self.last_ping) >= self.ping_interval {
                self.ping(cx, now);
            }
        }
        Poll::Pending
    }

    fn add_up_silence(&mut self, due: Instant, now: Instant) {
        let received = self.socket.get_ref().received();
        let tick = self.clock.period();
        if received != self.seen {
            self.seen = received;
            self.silence = Duration::ZERO;
        } else if now.saturating_duration_since(due) <= tick {
            let passed = now.saturating_duration_since(self.last_tick);
            self.silence += passed.min(tick * 2);
        }
        self.last_tick = now;
    }

    /// Sends a ping, unless earlier writes still wait. A failed write is not reported: what was
    /// received before is worth reading, and reading ends with the reason.
    fn ping(&mut self, cx: &mut Context<'_>, now: Instant) {
        if let Poll::Ready(Ok(())) = Pin::new(&mut self.socket).poll_ready(cx) {
            let ping = Message::Ping(Bytes::new());
            if Pin::new(&mut self.socket).start_send(ping).is_ok() {
                self.last_ping = now;
                self.unflushed = true;
            }
        }
        self.flush(cx);
    }

    fn flush(&mut self, cx: &mut Context<'_>) {
        if self.unflushed {
            self.unflushed = Pin::new(&mut self.socket).poll_flush(cx).is_pending();
        }
    }

    /// The close handshake, started by us. What still arrives is dropped.
    pub(super) async fn close(mut self) {
        let handshake = async {
            if self.socket.send(Message::Close(None)).await.is_ok() {
                while let Some(Ok(_)) = self.socket.next().await {}
            }
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, handshake).await;
    }
}
