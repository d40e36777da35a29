//! What ends an open connection, put into words.

use std::io;
use std::time::Duration;

use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::printable::printable;
use super::{DisconnectReason, Lost};

fn lost(reason: DisconnectReason, poison: bool, detail: &str) -> Lost {
    Lost {
        reason,
        detail: printable(detail),
        poison,
    }
}

pub(super) fn not_connected() -> Lost {
    lost(
        DisconnectReason::NotConnected,
        false,
        "there is no connection",
    )
}

pub(super) fn from_text(text: &str) -> Lost {
    let detail = format!("a text message of {} bytes: {text}", text.len());
    lost(DisconnectReason::Text, true, &detail)
}

pub(super) fn from_silence(silence: Duration) -> Lost {
    let detail = format!("nothing arrived for {:.1} s", silence.as_secs_f64());
    lost(DisconnectReason::Timeout, false, &detail)
}

pub(super) fn from_close(frame: Option<&CloseFrame>) -> Lost {
    let detail = match frame {
        Some(frame) if frame.reason.is_empty() => format!("close frame {}", frame.code),
        Some(frame) => format!("close frame {}: {}", frame.code, frame.reason),
        None => "close frame without a code".to_owned(),
    };
    lost(DisconnectReason::Closed, false, &detail)
}

pub(super) fn from_error(error: &Error) -> Lost {
    let (reason, poison) = match error {
        Error::ConnectionClosed | Error::AlreadyClosed => (DisconnectReason::Closed, false),
        Error::Io(error) => (from_io(error), false),
        Error::Tls(_) => (DisconnectReason::Tls, false),
        Error::Capacity(_) => (DisconnectReason::TooLarge, true),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            (DisconnectReason::Reset, false)
        }
        Error::Protocol(_) | Error::Utf8(_) | Error::AttackAttempt => {
            (DisconnectReason::Protocol, true)
        }
        Error::WriteBufferFull(_) | Error::Url(_) | Error::Http(_) | Error::HttpFormat(_) => {
            (DisconnectReason::Protocol, false)
        }
    };
    lost(reason, poison, &error.to_string())
}

fn from_io(error: &io::Error) -> DisconnectReason {
    let inner = error.get_ref();
    if inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
        DisconnectReason::Tls
    } else if error.kind() == io::ErrorKind::TimedOut {
        DisconnectReason::Timeout
    } else {
        DisconnectReason::Reset
    }
}
