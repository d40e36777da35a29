//! The HTTP request that turns a socket into a WebSocket, and the answer to it.
//!
//! tungstenite checks the answer's head; we hand it the head only, so that what follows stays ours:
//! the first frames after a 101, the body after a refusal.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::handshake::client::{Request, Response};
use tokio_tungstenite::tungstenite::http::header;
use tokio_tungstenite::tungstenite::{Error, protocol::WebSocketConfig};

use super::refusal::{Refusal, not_http};

/// Largest head of an answer, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// How much of a refusal's body is read, in bytes.
const MAX_BODY: usize = 4 * 1024;
/// How long a refusal's body is waited for.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// Asks for the upgrade, until `deadline`. Returns the bytes that came after a 101.
pub(super) async fn upgrade<S>(
    socket: &mut S,
    request: Request,
    deadline: Instant,
) -> Result<Vec<u8>, Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut head = Head::new(socket);
    // This WebSocket is dropped after the handshake, so it needs no buffer to speak of.
    let config = WebSocketConfig::default().read_buffer_size(1024);
    let handshake = tokio_tungstenite::client_async_with_config(request, &mut head, Some(config));
    let answer = tokio::time::timeout_at(deadline, handshake)
        .await
        .map_err(|_| super::dial::too_late("the upgrade was not answered"))?
        .map(|_| ());
    let rest = head.into_rest();
    match answer {
        Ok(()) => Ok(rest),
        Err(Error::Http(response)) => Err(refuse(socket, &response, rest).await),
        Err(error) => Err(not_http(&error)),
    }
}

async fn refuse<S>(socket: &mut S, response: &Response, mut body: Vec<u8>) -> Refusal
where
    S: AsyncRead + Unpin,
{
    let length = response
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .unwrap_or(MAX_BODY);
    let wanted = length.min(MAX_BODY).saturating_sub(body.len());
    let mut limited = socket.take(u64::try_from(wanted).unwrap_or_default());
    // The body only serves people; the refusal stands without it.
    let _ = tokio::time::timeout(BODY_TIMEOUT, limited.read_to_end(&mut body)).await;
    body.truncate(MAX_BODY);
    Refusal::from_http(
        response.status(),
        response.headers(),
        &body,
        Timestamp::now(),
    )
}

/// Passes writes through, and lets a reader see the head of the answer and then the end.
struct Head<'a, S> {
    socket: &'a mut S,
    received: Vec<u8>,
    /// Where the head ends in `received`, once that is known.
    end: Option<usize>,
    given: usize,
}

impl<'a, S> Head<'a, S> {
    fn new(socket: &'a mut S) -> Self {
        Self {
            socket,
            received: Vec::new(),
            end: None,
            given: 0,
        }
    }

    /// What was received after the head.
    fn into_rest(mut self) -> Vec<u8> {
        let end = self.end.unwrap_or(self.received.len());
        self.received.split_off(end.min(self.received.len()))
    }
}

/// The length of the head: up to and with the first empty line.
fn head_length(bytes: &[u8]) -> Option<usize> {
    let mut line_is_empty = false;
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' if line_is_empty => return Some(at + 1),
            b'\n' => line_is_empty = true,
            b'\r' => {}
            _ => line_is_empty = false,
        }
    }
    None
}

impl<S: AsyncRead + Unpin> AsyncRead for Head<'_, S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let end = loop {
            if let Some(end) = this.end {
                break end;
            }
            let mut space = [0; 4096];
            let mut chunk = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut *this.socket).poll_read(cx, &mut chunk))?;
            this.received.extend_from_slice(chunk.filled());
            this.end = if chunk.filled().is_empty() {
                Some(this.received.len())
            } else {
                head_length(&this.received)
            };
            if this.end.unwrap_or(this.received.len()) > MAX_HEAD {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "its head is larger than 16 KiB",
                )));
            }
        };
        let left = this.received.get(this.given..end).unwrap_or_default();
        let part = left.get(..left.len().min(out.remaining())).unwrap_or(left);
        out.put_slice(part);
        this.given += part.len();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Head<'_, S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.get_mut().socket).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_ends_with_the_first_empty_line() {
        for (bytes, length) in [
            ("HTTP/1.1 101 x\r\na: b\r\n\r\nrest", Some(24)),
            ("HTTP/1.1 101 x\n\nrest", Some(16)),
            ("HTTP/1.1 101 x\r\na: b\r\n", None),
            ("", None),
        ] {
            assert_eq!(head_length(bytes.as_bytes()), length, "{bytes:?}");
        }
    }
}
