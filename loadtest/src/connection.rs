//! One subscription: ranges of the log are written to the socket as they are, pings and closes go through tungstenite.

use std::io;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::cursor::{self, Placement};
use crate::faults::{ConnectionFaults, DropKind, Fault, Plan};
use crate::log;
use crate::message;
use crate::relay::Shared;

/// Bytes written at once.
const BATCH: u64 = 256 * 1024;
/// A relay pings after so long without a write.
const PING: Duration = Duration::from_secs(30);

type Socket = WebSocketStream<TcpStream>;

/// Counts an open connection for as long as it lives.
struct Open<'a>(&'a AtomicU64);

impl<'a> Open<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Upgrades the connection and serves it to its end.
pub(crate) async fn subscribe(stream: TcpStream, cursor: Option<u64>, shared: &Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let mut kick = shared.kick.subscribe();
    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else {
        return;
    };
    let _open = Open::new(&shared.open);
    let number = shared.connections.fetch_add(1, Ordering::SeqCst);
    {
        let mut cursors = shared
            .cursors
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        cursors.push(cursor);
    }
    tokio::select! {
        // However it ends, the client is gone or is to be gone.
        _ = feed(&mut socket, cursor, number, shared) => {}
        _ = kick.changed() => {
            let _ = socket.get_ref().set_zero_linger();
        }
    }
}

async fn feed(
    socket: &mut Socket,
    cursor: Option<u64>,
    number: u64,
    shared: &Shared,
) -> io::Result<()> {
    let log = &shared.served.log;
    let mut heads = shared.head.subscribe();
    let (cursors, oldest, mut plan) = {
        let options = shared.options();
        (
            options.cursors,
            options.oldest_seq,
            Plan::new(&options.faults, number),
        )
    };
    let head = *heads.borrow_and_update();
    let beginning = log.beginning(head);
    let mut at = match cursor::place(log, oldest, head, cursor, cursors) {
        Placement::From(at) => at,
        Placement::Outdated(at) => {
            let info = message::info(
                "OutdatedCursor",
                "Requested cursor exceeded limit. Possibly missing events",
            );
            send(socket, shared, info).await?;
            at
        }
        Placement::Refused => {
            send(
                socket,
                shared,
                message::error("FutureCursor", "Cursor in the future."),
            )
            .await?;
            return close(socket).await;
        }
    };
    let mut sent = 0;
    let mut live = false;
    loop {
        if answer_client(socket, shared).await?.is_break() {
            return Ok(());
        }
        let (too_slow, faults) = {
            let options = shared.options();
            plan.update(&options.faults, sent);
            (options.too_slow, options.faults.clone())
        };
        let head = *heads.borrow_and_update();
        if log.beginning(head) != beginning {
            // A relay that counts anew was started anew.
            return end(socket, shared, at, head, DropKind::Reset).await;
        }
        if live && too_slow.is_some_and(|limit| head - at > limit) {
            send(
                socket,
                shared,
                message::error("ConsumerTooSlow", "Stream consumer too slow"),
            )
            .await?;
            return close(socket).await;
        }
        match plan.take(&faults, sent) {
            Some(Fault::Text) => {
                let mut wire = Vec::new();
                log::frame_with(&mut wire, 0x81, b"this is not a binary message");
                socket.get_mut().write_all(&wire).await?;
            }
            Some(Fault::Stall(time)) => {
                let gone = stall(socket, time).await.is_break();
                if gone {
                    return Ok(());
                }
            }
            Some(Fault::Drop(kind)) => return end(socket, shared, at, head, kind).await,
            None => {}
        }
        if at == head {
            live = true;
            if wait(socket, &mut heads, shared).await?.is_break() {
                return Ok(());
            }
            continue;
        }
        let jump = next_jump(log, at..head, &faults).filter(|_| !live);
        if jump == Some(at) {
            shared.options().faults.jump_to_live = None;
            at = head;
            continue;
        }
        let room = jump.map_or(u64::MAX, |jump| (jump - at) as u64);
        let until = batch_end(log, at, head, plan.room(sent).min(room));
        let bytes = log.read(at..until)?;
        socket.get_mut().write_all(&bytes).await?;
        let messages: u64 = log.entries()[at..until]
            .iter()
            .map(|entry| entry.messages)
            .sum();
        shared.frames_sent.fetch_add(messages, Ordering::SeqCst);
        sent += (until - at) as u64;
        at = until;
        // A write that never has to wait would keep the thread from all other connections.
        tokio::task::yield_now().await;
    }
}

/// The entry of a playback of these entries with which it goes on at the live head, if there is to be one.
fn next_jump(
    log: &log::FrameLog,
    entries: Range<usize>,
    faults: &ConnectionFaults,
) -> Option<usize> {
    let seq = faults.jump_to_live?;
    let jump = log.position_in(entries.clone(), seq);
    let passed = log.entries()[entries.start].seq > seq;
    (jump < entries.end && !passed).then_some(jump)
}

/// How far a batch from `at` on goes: at least one entry, at most [`BATCH`] bytes and `room` entries.
fn batch_end(log: &log::FrameLog, at: usize, head: usize, room: u64) -> usize {
    let limit = log.start(at) + BATCH;
    let room = usize::try_from(room).unwrap_or(usize::MAX).max(1);
    let last = at.saturating_add(room).min(head);
    let fitting = log.entries()[at..last].partition_point(|entry| entry.end <= limit);
    at + fitting.max(1)
}

async fn send(socket: &mut Socket, shared: &Shared, payload: Vec<u8>) -> io::Result<()> {
    let mut wire = Vec::new();
    log::frame(&mut wire, &payload);
    shared.frames_sent.fetch_add(1, Ordering::SeqCst);
    socket.get_mut().write_all(&wire).await
}

/// Reads what the client sent without waiting for it.
async fn answer_client(socket: &mut Socket, shared: &Shared) -> io::Result<ControlFlow<()>> {
    while let Some(message) = socket.next().now_or_never() {
        if answer(socket, message, shared).await?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

async fn answer(
    socket: &mut Socket,
    message: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>,
    shared: &Shared,
) -> io::Result<ControlFlow<()>> {
    if let Some(Ok(Message::Close(_))) = &message {
        shared.closes.fetch_add(1, Ordering::SeqCst);
    }
    match message {
        Some(Ok(Message::Close(_))) | Some(Err(_)) | None => {
            let _ = socket.flush().await;
            Ok(ControlFlow::Break(()))
        }
        Some(Ok(_)) => {
            // A pong must be out before the next range of the log.
            socket.flush().await.map_err(io::Error::other)?;
            Ok(ControlFlow::Continue(()))
        }
    }
}

/// Waits at the head.
async fn wait(
    socket: &mut Socket,
    heads: &mut watch::Receiver<usize>,
    shared: &Shared,
) -> io::Result<ControlFlow<()>> {
    tokio::select! {
        message = socket.next() => answer(socket, message, shared).await,
        changed = heads.changed() => Ok(match changed {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }),
        () = tokio::time::sleep(PING) => {
            socket.send(Message::Ping(Default::default())).await.map_err(io::Error::other)?;
            Ok(ControlFlow::Continue(()))
        }
    }
}

/// Neither reads nor writes, for a time or until the client is gone.
async fn stall(socket: &Socket, time: Option<Duration>) -> ControlFlow<()> {
    let gone = async {
        let mut byte = [0];
        while matches!(socket.get_ref().peek(&mut byte).await, Ok(1)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let time = async {
        match time {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = gone => ControlFlow::Break(()),
        () = time => ControlFlow::Continue(()),
    }
}

async fn close(socket: &mut Socket) -> io::Result<()> {
    let _ = socket.close(None).await;
    // The client's own close, so that what was sent is not lost by a reset.
    let rest = async { while let Some(Ok(_)) = socket.next().await {} };
    let _ = tokio::time::timeout(Duration::from_secs(2), rest).await;
    Ok(())
}

async fn end(
    socket: &mut Socket,
    shared: &Shared,
    at: usize,
    head: usize,
    kind: DropKind,
) -> io::Result<()> {
    match kind {
        DropKind::Clean => return close(socket).await,
        DropKind::MidFrame if at < head => {
            let bytes = shared.served.log.read(at..at + 1)?;
            let tcp = socket.get_mut();
            tcp.write_all(&bytes[..bytes.len() / 2]).await?;
            tcp.shutdown().await?;
        }
        _ => {
            let _ = socket.get_ref().set_zero_linger();
        }
    }
    Ok(())
}
